"""Let `ocwatch restart` ask a terminal's launcher to start OpenCode again, by means of a locked request file.

The file is `relaunch-PID` in the state directory, where PID is the launcher's pid. The process that makes the request
creates and locks the file, and then stops OpenCode. When OpenCode has ended, the launcher finds the file, waits for the
lock, and carries out the request. Therefore, the launcher need not listen for requests, and a process that dies cannot
block a terminal forever.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping

from ocwatchd.errors import NotAFile, OcwatchError
from ocwatchd.ownership import open_plain, try_lock

POLL = 0.05
_CAP = 1 << 20
_HOLD, _GO = "hold", "go"


def path_for(state_dir: str, launcher: int) -> str:
    """Return the path of the request file of the launcher with this pid."""
    return f"{state_dir}/relaunch-{launcher}"


class Asking:
    """A request made by this process. Its file is locked until `go` or `close` is called.

    The launcher waits until the lock is released.
    """

    def __init__(self, path: str, request: Mapping[str, object]) -> None:
        """Create and lock the request file. Its directory must exist and be private.

        Raises:
            OcwatchError: Another request is under way, or the path is not a plain file of this user.
            OSError: The file cannot be written.
        """
        self._path, self._request = path, request
        self._fd = open_plain(path, os.O_RDWR | os.O_CREAT)
        if not try_lock(self._fd):
            os.close(self._fd)
            raise OcwatchError(f"another restart of that terminal is under way ({path})")
        self._write(_HOLD)

    def _write(self, state: str) -> None:
        data = json.dumps({**self._request, "state": state}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def go(self, limit: float) -> bool:
        """Release the request, so that the launcher starts OpenCode. Return whether the launcher accepted the request
        within `limit` seconds.
        """
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
        """Withdraw the request, because OpenCode was not stopped."""
        self._unlink()
        self.close()

    def close(self) -> None:
        """Release the lock. Further calls have no effect."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unlink(self) -> None:
        if os.path.exists(self._path):
            os.unlink(self._path)


def awaited(path: str, waiting: Callable[[], None], give_up: Callable[[], bool]) -> Mapping[str, object] | None:
    """Return the request to start OpenCode again, or None if there is none. The launcher calls this function after
    OpenCode has ended.

    If another process still holds the lock, `waiting` is called once, and this function waits until the lock is
    released or `give_up` returns True. If no process holds the lock at first, and `go` was never called, the request is
    removed and ignored, because the process that made it died before it stopped OpenCode.
    """
    try:
        fd = open_plain(path, os.O_RDWR)
    except (OSError, NotAFile):
        return None
    try:
        held = _wait(fd, waiting, give_up)
        if held is None or not os.fstat(fd).st_nlink:  # the launcher gave up, or the request was withdrawn
            return None
        os.unlink(path)
        request = json.loads(os.pread(fd, _CAP, 0))
        return request if isinstance(request, dict) and (held or request.get("state") == _GO) else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _wait(fd: int, waiting: Callable[[], None], give_up: Callable[[], bool]) -> bool | None:
    """Wait until the lock of the request is free, and take it. Return whether another process held the lock at first,
    or None if `give_up` returned True.
    """
    held = False
    while not give_up():
        if try_lock(fd):
            return held
        if not held:
            held = True
            waiting()
        time.sleep(POLL)
    return None
