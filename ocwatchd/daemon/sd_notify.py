"""Notify the service manager of the daemon's state with systemd's notification protocol.

Each message is one datagram of `NAME=value` lines: ready, alive, status or stopping. Nothing is sent unless the
environment names a socket, and sending never blocks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

MESSAGES_PER_PERIOD = 3
"""Number of messages per watchdog period. systemd advises at least two, so that a healthy daemon survives one lost
message.
"""


class ServiceNotifier:
    """Sends messages to the service manager named in this process's environment."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Read the manager's variables and remove them from `environ`, so that no child process sends messages in our
        name.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        patience, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        # A leading @ stands for the initial null byte of a name in Linux's abstract socket namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = _datagrams() if address[:1] in ("/", "@") else None
        ours = whose in ("", str(os.getpid()))
        self.interval = int(patience) / 1e6 / MESSAGES_PER_PERIOD if patience.isdecimal() and ours else 0.0
        """Interval, in seconds, between watchdog messages, or 0 if there is no watchdog."""
        self._fed_at: float | None = None
        self._ready, self._status = False, ""

    def feed_watchdog(self, now: float) -> None:
        """Send a watchdog message if one is due. Call this only from the main loop, so that the messages stop if the
        loop hangs.
        """
        # a message is also due if the clock has been set back
        due = self._fed_at is None or not 0 <= now - self._fed_at < self.interval
        if self.interval and due and self._send("WATCHDOG=1"):
            self._fed_at = now

    def report_status(self, status: str) -> None:
        """Send the daemon's status line if it has changed. The first call also reports that the daemon is ready."""
        line = " ".join(status.split())  # a line break would begin another message
        if line != self._status or not self._ready:
            self._ready = self._send(f"READY=1\nSTATUS={line}") or self._ready
            self._status = line

    def stopping(self) -> None:
        """Report that the daemon is stopping, and close the socket."""
        self._send("STOPPING=1\nSTATUS=ending")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        if self._socket is None:
            return False
        with suppress(OSError):  # the queue may be full, or the manager may have ended; the daemon works without it
            self._socket.sendto(message.encode(errors="replace"), self._address)
            return True
        return False


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
