"""daemon.lock: one daemon per state directory. The kernel keeps it while its owner lives; the pid in it says whose."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.state.heartbeat import read

PROBE = 0.02
"""Seconds between tries; `holder` takes the lock for microseconds to see whether it is free."""
TRIES = 5


class AlreadyRunning(OcwatchError):
    """Another daemon serves this state directory."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Be the one daemon during the block, whatever way it ends.

    Raises:
        AlreadyRunning: another one is.
        OSError: the lock cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not _take(fd):
            who = _pid_in(fd)
            named = f"pid {who}" if who else "another process"
            raise AlreadyRunning(f"ocwatchd is already running ({named}); see: ocwatch status")
        with suppress(OSError):  # a full disk: the lock itself needs no room
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def holder(path: Path, heartbeat: Path) -> int | None:
    """The pid of the daemon that runs now; 0 if one runs and it cannot be told for sure which; None if none does.

    Raises:
        OSError: the lock is there and we are not let in.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _pid_in(fd)
        return pid if pid and _has_open(pid, fd, read(heartbeat).pid) else 0
    else:
        return None
    finally:
        os.close(fd)


def _has_open(pid: int, fd: int, beating: int) -> bool:
    """Whether the process has the lock open: what the file says may be a killed daemon's, and its pid another's now."""
    lock, own = os.fstat(fd), Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():  # macOS: two files that agree have to do
        return pid == beating
    with suppress(OSError):
        for entry in own.iterdir():
            with suppress(OSError):
                if os.path.samestat(entry.stat(), lock):
                    return True
    return False


def _take(fd: int) -> bool:
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PROBE)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _pid_in(fd: int) -> int:
    written = os.pread(fd, 16, 0).strip()
    return int(written) if written.isdigit() else 0
