"""A small process that outlives us by a moment: if we are killed outright, it ends what we have started.

A fork of ourselves in a session of its own, blocked on a pipe that only we hold: the kernel tells it of our end,
however that comes, on Linux and on macOS alike. Not `PR_SET_PDEATHSIG`: that would reach the npm package's `opencode`,
a script, and leave the real one below it. Nothing is imported before it is needed.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, Self

PATIENCE = 2.0
"""Seconds after SIGHUP, which ends the TUI of 1.0 - 1.18 with its terminal put back, until SIGKILL."""
NAME = "ocwatch-guard"
_DONE = b"done\n"


class Guardian:
    """Ends the watched processes, and what they started, if this process dies. A context; made before any thread is."""

    def __init__(self) -> None:
        """Fork it. Without the means to, we go on without one."""
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
        """It watches already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """All has ended in good order, and so does it."""
        if self.pid:
            self._tell(_DONE)
            os.close(self._writer)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid, self._writer = 0, -1

    def watch(self, pid: int) -> None:
        """A process has been started. Thread-safe."""
        self._tell(b"+%d\n" % pid)

    def forget(self, pid: int) -> None:
        """It has ended; its number may be another's soon."""
        self._tell(b"-%d\n" % pid)

    def _tell(self, line: bytes) -> None:
        with suppress(OSError):
            os.write(self._writer, line)


def _guard(reader: int) -> NoReturn:
    try:
        told = _listen(reader)
        if not told.endswith(_DONE):
            _end(told)
    finally:
        os._exit(0)


def _listen(reader: int) -> bytes:
    """All that was written until the other end was closed."""
    os.setsid()  # Ctrl-C and the terminal's end are not for us
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(reader, 3)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # whoever reads our output waits for its last holder
        os.dup2(null, fd)
    os.closerange(4, 1024)
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(NAME)
    told = b""
    while part := os.read(3, 4096):
        told += part
    return told


def _end(told: bytes) -> None:
    from ocwatchd.opencode.family import descendants, end_all  # late: hardly ever needed

    watched: list[int] = []
    for line in told.split():
        pid = int(line[1:])
        watched = [other for other in watched if other != pid] + ([pid] if line[:1] == b"+" else [])
    end_all([each for pid in watched for each in (*descendants(pid), pid)], signal.SIGHUP, PATIENCE)
