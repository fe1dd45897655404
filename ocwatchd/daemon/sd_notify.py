"""What the service manager that started the daemon is told of it: it serves, it still pumps, how it is, that it ends.

systemd's notification protocol: one datagram of `NAME=value` lines each. Without a manager that asks, all of it is
nothing; a manager that does not take a message is never waited for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

FEEDS_PER_PATIENCE = 3
"""systemd advises two at least: one that is lost must not end a daemon that is well."""


class Supervisor:
    """The manager of this process, as its environment names it."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the manager's variables out of `environ`: no child shall speak for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        patience, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        # A leading @ stands for the null byte of Linux' abstract names.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = _datagrams() if address[:1] in ("/", "@") else None
        ours = whose in ("", str(os.getpid()))
        self.interval = int(patience) / 1e6 / FEEDS_PER_PATIENCE if patience.isdecimal() and ours else 0.0
        """Seconds between two feeds of the watchdog; 0: there is none."""
        self._fed_at: float | None = None
        self._ready, self._status = False, ""

    def feed(self, now: float) -> None:
        """The loop has come round. To be called from nowhere else: a hung loop has to starve the watchdog."""
        due = self._fed_at is None or not 0 <= now - self._fed_at < self.interval  # a clock set back: at once
        if self.interval and due and self._send("WATCHDOG=1"):
            self._fed_at = now

    def tell(self, status: str) -> None:
        """How the daemon is, in a line; what is new is sent. The first one says that it serves."""
        line = " ".join(status.split())  # a line break would begin another message
        if line != self._status or not self._ready:
            self._ready = self._send(f"READY=1\nSTATUS={line}") or self._ready
            self._status = line

    def stopping(self) -> None:
        """The daemon ends of its own will; the last word."""
        self._send("STOPPING=1\nSTATUS=ending")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        if self._socket is None:
            return False
        with suppress(OSError):  # a full queue, or the manager is gone: neither keeps us from watching logs
            self._socket.sendto(message.encode(errors="replace"), self._address)
            return True
        return False


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
