"""How `ocwatch restart` asks the launcher above a terminal to start OpenCode again: a request file, and its lock.

`relaunch-PID` in our state directory, PID the launcher's. Whoever asks writes it, locks it, and ends OpenCode; the
launcher finds it then, waits for the lock, and does what stands there. Nothing listens meanwhile, and a request whose
author dies cannot hold a terminal for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Mapping

from ocwatchd.errors import OcwatchError

POLL = 0.05
_CAP = 1 << 20
_HOLD, _GO = "hold", "go"


def path_for(state_dir: str, launcher: int) -> str:
    """Where requests to this launcher lie."""
    return f"{state_dir}/relaunch-{launcher}"


class Asking:
    """A request as its author holds it. Until `go` the launcher waits; closed without it, it goes on all the same."""

    def __init__(self, path: str, request: Mapping[str, object]) -> None:
        """Place it. The directory is there, and ours alone.

        Raises:
            OcwatchError: another one is asking.
            OSError: it cannot be written.
        """
        self._path, self._request = path, request
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(_HOLD)
        except BlockingIOError:
            os.close(self._fd)
            raise OcwatchError(f"another restart of that terminal is under way ({path})") from None

    def _write(self, state: str) -> None:
        data = json.dumps({**self._request, "state": state}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def go(self, limit: float) -> bool:
        """Have it started now; whether the launcher took the request within `limit` seconds. Ends the request."""
        self._write(_GO)
        self.close()
        deadline = time.monotonic() + limit
        while os.path.exists(self._path):
            if time.monotonic() > deadline:
                self._unlink()
                return False
            time.sleep(POLL)
        return True

    def withdraw(self) -> None:
        """Nothing was ended, so nothing is to be started."""
        self._unlink()
        self.close()

    def close(self) -> None:
        """Let go of it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unlink(self) -> None:
        if os.path.exists(self._path):
            os.unlink(self._path)


def awaited(path: str, waiting: Callable[[], None], give_up: Callable[[], bool]) -> Mapping[str, object] | None:
    """For the launcher, when OpenCode has ended: what is to be started in its place, None for nothing.

    Blocks while the request's author is at work; `waiting` is called once, then. A request that nobody holds and that
    never came to `go` is of somebody who died before anything was ended: it is removed.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        known = os.fstat(fd)
        if not stat.S_ISREG(known.st_mode) or known.st_uid != os.geteuid():
            return None
        held = _wait(fd, waiting, give_up)
        if held is None or not os.fstat(fd).st_nlink:  # we were told to leave, or it was withdrawn
            return None
        os.unlink(path)
        request = json.loads(os.pread(fd, _CAP, 0))
        return request if isinstance(request, dict) and (held or request.get("state") == _GO) else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _wait(fd: int, waiting: Callable[[], None], give_up: Callable[[], bool]) -> bool | None:
    """Whether its author held it; None if we were told to give up."""
    held = False
    while not give_up():
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not held:
                held = True
                waiting()
            time.sleep(POLL)
        else:
            return held
    return None
