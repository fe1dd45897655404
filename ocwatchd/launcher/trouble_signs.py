"""Signs of trouble in a child, found with little more than `stat`; what they mean is the brain's to say."""

from __future__ import annotations

import os
import time
from contextlib import suppress

CHUNK = 1 << 18
SIGN = b"ERROR"
"""Stands in every failure's log record, in all dialects."""

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from ocwatchd.launcher.elsewhere import Elsewhere

_RECENT = "SELECT id FROM session WHERE time_updated >= ? ORDER BY time_updated DESC LIMIT 20"
_LAST = "SELECT data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT 1"


class Sentinel:
    """Looks for signs of trouble since it was made: a failure in a log, or a fact that the plugin has written.

    Others' troubles are passed over where the kernel tells whose file it is: ten runs at once would else wake ten
    brains at the first refusal, and the first to know would be the slowest to say so.
    """

    def __init__(self, logs: str, facts: str) -> None:
        """`logs` and `facts` are directories that may not exist yet."""
        self._logs, self._facts = logs, facts
        self.child = 0
        """The child's pid, once it is known."""
        self.began = time.time()
        self._began = self.began - 1.0  # file systems with a coarse clock
        self.server: Elsewhere | None = None
        """None: the child serves itself."""
        self._offsets = {name: size for name, size, _ in _files(logs, ".log")}
        self._known = {name: size for name, size, _ in _files(facts, ".jsonl")}

    def troubled(self) -> bool:
        """Whether anything looks like a failure; of whose process is not known yet."""
        if any(below(name.partition(".")[0], self.child) for name in self.new_facts()):
            return True
        changed = [
            (name, size)
            for name, size, changed in _files(self._logs, ".log")
            if changed >= self._began and size != self._offsets.get(name, 0)
        ]
        own = self._held() if changed else frozenset()
        return any(self._reads(name, size) for name, size in changed if not own or name in own)

    def new_facts(self) -> dict[str, int]:
        """Files of facts that have grown, anybody's, and where what is new begins."""
        grown = _files(self._facts, ".jsonl")
        return {name: self._known.get(name, 0) for name, size, _ in grown if size > self._known.get(name, 0)}

    def _held(self) -> frozenset[str]:
        """The logs that the child has open; empty where nobody can say: on macOS, or below a wrapper."""
        place, found = f"/proc/{self.child}/fd", set()
        with suppress(OSError):
            for fd in os.listdir(place):
                with suppress(OSError):
                    directory, _, name = os.readlink(f"{place}/{fd}").rpartition("/")
                    if name.endswith(".log") and directory.endswith("/log"):
                        found.add(name)
        return frozenset(found)

    def moved(self) -> float | None:
        """When somebody else claimed a move, epoch seconds: never, for the daemon knows its launcher."""
        return None

    def failed(self) -> bool:
        """Whether a turn that was worked on since then has failed, by the message store.

        For the child's end: from 1.2 on, a last error often never reaches the log, and 1.3 ends with code 0 all the
        same. The store of older versions is not asked: their logs are complete.
        """
        import sqlite3  # late: 4 CPU ms, at the end of a run

        path = f"{os.path.dirname(self._logs)}/opencode.db"
        if not os.path.exists(path):
            return False
        try:
            connection = sqlite3.connect(f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True)
            try:
                recent = connection.execute(_RECENT, (int(self.began * 1000),)).fetchall()
                last = [connection.execute(_LAST, session).fetchone() for session in recent]
            finally:
                connection.close()
        except sqlite3.Error:
            return False
        return any(row is not None and '"error":{' in row[0] for row in last)

    def _reads(self, name: str, size: int) -> bool:
        start = self._offsets.get(name, 0)
        try:
            with open(f"{self._logs}/{name}", "rb") as handle:
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
    """Whether a process is another or some generations below it; True if nobody can say."""
    for _ in range(most):
        if pid in (str(ancestor), ""):
            return True
        try:
            with open(f"/proc/{pid}/stat") as handle:
                pid = handle.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            return not os.path.isdir("/proc/self")
    return pid == str(ancestor)
