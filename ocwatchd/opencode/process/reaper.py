"""Prevent orphans: if this process is killed, a small guardian process ends the processes that this process has
started.

The guardian is a fork in its own session. It reads from a pipe, and only this process has the write end open. When this
process terminates for any reason, the kernel closes that end, which the guardian detects (Linux and macOS).
`PR_SET_PDEATHSIG` would not be enough: it would end the npm package's `opencode`, which is only a script, but not the
real program that the script has started. Modules are imported only when needed.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, Self

PATIENCE = 2.0
"""Time, in seconds, between SIGHUP and SIGKILL. On SIGHUP, the TUI of 1.0 to 1.18 restores its terminal and exits."""
NAME = "ocwatch-guard"
"""Name of the guardian in the process table."""
_DONE = b"done\n"


class Guardian:
    """A context manager that ends the watched processes and their descendants if this process dies during the block.

    It forks, so it must be created before any thread is started.
    """

    def __init__(self) -> None:
        """Fork the guardian. If that fails, continue without it."""
        self.pid, self._writer = 0, -1
        try:
            reader, self._writer = os.pipe()
            self.pid = os.fork()
        except OSError:
            return
        if not self.pid:
            _guard(reader)
        os.close(reader)

    def __enter__(self) -> Self:
        """Return self; the guardian is already running."""
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """End the guardian, but not the watched processes."""
        if self.pid:
            self._send(_DONE)
            os.close(self._writer)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid, self._writer = 0, -1

    def watch(self, pid: int, alone: bool = False) -> None:
        """Watch a process that this process has started. If `alone` is set, its descendants are not ended.
        Thread-safe.
        """
        self._send((b"=%d\n" if alone else b"+%d\n") % pid)

    def forget(self, pid: int) -> None:
        """Stop watching a process that has ended, because its pid may be reused."""
        self._send(b"-%d\n" % pid)

    def _send(self, line: bytes) -> None:
        with suppress(OSError):
            os.write(self._writer, line)


def _guard(reader: int) -> NoReturn:
    try:
        received = _listen(reader)
        if not received.endswith(_DONE):
            _end(received)
    finally:
        os._exit(0)


def _listen(reader: int) -> bytes:
    """Return all data that was written to the pipe until its other end was closed."""
    os.setsid()  # Ctrl-C and a hang-up of the terminal must not end the guardian
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(reader, 3)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # otherwise, a reader of our output would have to wait until the guardian exits
        os.dup2(null, fd)
    os.closerange(4, 1024)
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(NAME)
    received = b""
    while part := os.read(3, 4096):
        received += part
    return received


def _end(received: bytes) -> None:
    """End every process that, according to these messages, is still being watched."""
    from ocwatchd.opencode.process.process_tree import descendants, end_all  # lazy import: rarely needed

    watched: dict[int, bytes] = {}
    for line in received.split():
        watched[int(line[1:])] = line[:1]
    found = [(pid, () if how == b"=" else descendants(pid)) for pid, how in watched.items() if how != b"-"]
    end_all([each for pid, below in found for each in (*below, pid)], signal.SIGHUP, PATIENCE)
