"""Ensure that at most one daemon runs for each state directory. The daemon holds a kernel lock on daemon.lock, which
contains the daemon's pid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.ownership import open_plain, try_lock
from ocwatchd.state.heartbeat import read

PROBE = 0.02
"""Time, in seconds, between attempts to take the lock. One attempt is not enough, because `holder` takes the lock for a
few microseconds to check whether it is free.
"""
TRIES = 5


class AlreadyRunning(OcwatchError):
    """Raised if another daemon is already running for this state directory."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock during the block, so that this process is the only daemon. The kernel releases the lock if the
    process dies.

    Raises:
        AlreadyRunning: Another process holds the lock.
        NotAFile: The lock file is not a plain file of this user.
        OSError: The lock cannot be created.
    """
    fd = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _take(fd):
            who = _pid_in(fd)
            named = f"pid {who}" if who else "another process"
            raise AlreadyRunning(f"ocwatchd is already running ({named}); see: ocwatch status")
        with suppress(OSError):  # if the disk is full, the lock still works, but the file does not contain the pid
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def holder(path: Path, heartbeat: Path) -> int | None:
    """Return the pid of the running daemon, 0 if a daemon is running but its pid is uncertain, or None if no daemon is
    running.

    Raises:
        NotAFile: The lock file is not a plain file of this user.
        OSError: The lock file exists but cannot be opened.
    """
    try:
        fd = open_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if try_lock(fd, shared=True):
            return None
        pid = _pid_in(fd)
        return pid if pid and _has_open(pid, fd, read(heartbeat).pid) else 0
    finally:
        os.close(fd)


def _has_open(pid: int, fd: int, beating: int) -> bool:
    """Return whether the process has the lock file open. The pid in the file may be that of a killed daemon, and
    another process may now have this pid.
    """
    lock, own = os.fstat(fd), Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():  # macOS has no /proc, so compare with the pid in the heartbeat
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
        if try_lock(fd):
            return True
    return False


def _pid_in(fd: int) -> int:
    written = os.pread(fd, 16, 0).strip()
    return int(written) if written.isdigit() else 0
