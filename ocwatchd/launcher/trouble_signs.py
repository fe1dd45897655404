"""Detect signs of a limit in a child with little more than `stat`. The engine then decides what they mean."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ocwatchd.ownership import open_followed

CHUNK = 1 << 18
LONG_RUN = 30.0
"""Age, in seconds, of a child from which on the engine watches it. A stalled answer leaves no other sign, and is
detected after a minute at the earliest, unless its time is configured.
"""
SIGN = b"ERROR"
"""Bytes that every log record of a failure contains, in all log formats."""

TYPE_CHECKING = False  # defined here because importing `typing` is costly
if TYPE_CHECKING:
    from ocwatchd.launcher.attached_server import AttachedServer

_RECENT = "SELECT id FROM session WHERE time_updated >= ? ORDER BY time_updated DESC LIMIT 20"
_LAST = "SELECT data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT 1"


class TroubleSigns:
    """Detects failures that are newer than this object, in OpenCode's logs and in the companion plugin's reports.

    Failures of other processes are ignored if the kernel shows which process has a log open. Otherwise, ten
    simultaneous runs would start ten engines at the first refused attempt, which would slow down the affected run.
    """

    def __init__(self, logs: str, facts: str) -> None:
        """`logs` and `facts` are directories, which may not exist yet."""
        self._logs, self._facts = logs, facts
        self._child = 0
        """The child's pid, or 0 before the child is started."""
        self._started = time.monotonic()
        self.began = time.time()
        self._began = self.began - 1.0  # one second is subtracted, because some file systems have coarse timestamps
        self.server: AttachedServer | None = None
        """None, because the child has its own server."""
        self.service = None
        self._offsets = {name: size for name, size, _ in _files(logs, ".log")}
        self._known = {name: size for name, size, _ in _files(facts, ".jsonl")}

    def started(self, child: int) -> None:
        """Record the pid of the child to watch."""
        self._child, self._started = child, time.monotonic()

    def troubled(self) -> bool:
        """Return whether there is a new failure that may belong to the child, or the child has been running for so long
        that its answer may have stalled.
        """
        if time.monotonic() - self._started >= LONG_RUN:
            return True
        if any(below(name.partition(".")[0], self._child) for name in self.new_facts()):
            return True
        changed = [
            (name, size)
            for name, size, changed in _files(self._logs, ".log")
            if changed >= self._began and size != self._offsets.get(name, 0)
        ]
        own = self._held() if changed else frozenset()
        return any(self._reads(name, size) for name, size in changed if not own or name in own)

    def new_facts(self) -> dict[str, int]:
        """Return the plugin report files, of any process, that have grown, each with the offset at which its new
        content begins.
        """
        grown = _files(self._facts, ".jsonl")
        return {name: self._known.get(name, 0) for name, size, _ in grown if size > self._known.get(name, 0)}

    def _held(self) -> frozenset[str]:
        """Return the names of the logs that the child has open. Return an empty set if they are unknown, as on macOS or
        if the child is a wrapper.
        """
        place, found = f"/proc/{self._child}/fd", set()
        with suppress(OSError):
            for fd in os.listdir(place):
                with suppress(OSError):
                    directory, _, name = os.readlink(f"{place}/{fd}").rpartition("/")
                    if name.endswith(".log") and directory.endswith("/log"):
                        found.add(name)
        return frozenset(found)

    def moved(self) -> float | None:
        """Return None, because the daemon leaves sessions of this child to the launcher."""
        return None

    def failed(self) -> bool:
        """Return whether the message store contains a turn that has failed since the child was started.

        Call this after the child has ended. From 1.2 on, the last error is often missing from the log, and 1.3 even
        exits with code 0. Older versions have no database, but their logs are complete.
        """
        from ocwatchd.opencode.sessions.database import rows  # lazy import: needed only at the end of a run

        path = f"{os.path.dirname(self._logs)}/opencode.db"
        recent = [row["id"] for row in rows(path, _RECENT, int(self.began * 1000))]
        return any('"error":{' in row["data"] for session in recent for row in rows(path, _LAST, session))

    def _reads(self, name: str, size: int) -> bool:
        start = self._offsets.get(name, 0)
        try:
            with open(open_followed(f"{self._logs}/{name}"), "rb") as handle:
                handle.seek(start if start <= size else 0)
                while chunk := handle.read(CHUNK):
                    if SIGN in chunk:
                        return True
                self._offsets[name] = max(handle.tell() - len(SIGN) + 1, 0)
        except OSError:
            return False
        return False


def _files(directory: str, ending: str) -> list[tuple[str, int, float]]:
    try:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(ending)]
    except OSError:
        return []
    return [(name, info.st_size, info.st_mtime) for name, info in found]


def below(pid: str, ancestor: int, most: int = 3) -> bool:
    """Return whether a process is `ancestor` or a descendant that is at most `most` generations below it. Return True
    if this is unknown.
    """
    for _ in range(most):
        if pid in (str(ancestor), ""):
            return True
        try:
            with open(f"/proc/{pid}/stat") as handle:
                pid = handle.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            return not os.path.isdir("/proc/self")
    return pid == str(ancestor)
