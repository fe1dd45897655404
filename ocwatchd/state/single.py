"""One daemon per state directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ocwatchd.errors import OcwatchError
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat


class AlreadyRunning(OcwatchError):
    """Another daemon serves this state directory."""


@contextlib.contextmanager
def only_one(paths: Paths) -> Iterator[None]:
    """Hold the daemon's lock; the kernel frees it whatever way we end.

    Raises:
        AlreadyRunning: somebody holds it.
    """
    fd = os.open(paths.daemon_lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        pid = heartbeat.read(paths.heartbeat).pid
        who = f"pid {pid}" if pid else "another process"
        raise AlreadyRunning(f"ocwatchd is already running ({who}); see: ocwatch status") from None
    try:
        yield
    finally:
        os.close(fd)
