"""Follow all log files in several directories, including files that are created or replaced later.

A directory may be missing at first, or be removed and re-created. Old files need neither open descriptors nor reads,
even if there are thousands of them. With one stat call per file, each poll checks the newest closed files and, in turn,
a few of the other files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ocwatchd.core.classify.rules import LiveRules, RuleSet
from ocwatchd.core.parsing.cursor import Cursor, digest
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.logs.log_file import HEAD, Identity, NewReading, head_of
from ocwatchd.logs.tail import LogTail, Sighting, Window

SUFFIX = ".log"
"""Suffix of OpenCode's logs (older versions: `2026-11-22T103026.log`; newer versions: `opencode.log`). Other files are
ignored.
"""

RESCAN = 30.0
"""Time, in seconds, after which a directory is listed again even if its modification time is unchanged."""

IDLE = 90.0
"""Time, in seconds, after a file's last write until its descriptor is closed."""

MAX_OPEN = 128
"""Maximum number of descriptors that are kept open."""

MAX_GONE = 512
"""Maximum number of cursors that are kept for logs that no longer exist."""

NEWEST, ROTATION = 48, 32
"""Numbers of closed files that each poll checks with stat: the NEWEST most recent files, and ROTATION of the other
files in turn.
"""


_STAT = struct.Struct("=qqQQ")
"""Packs size, modification time (ns), device and inode. As separate integers, these values would take four times as
much memory.
"""


class _IdleFile:
    """A closed file, which is checked only with stat. There may be thousands of such files."""

    __slots__ = ("_seen", "cursor", "path", "tail")

    def __init__(self, path: str, seen: os.stat_result, tail: LogTail | None, cursor: Cursor | None) -> None:
        self.path, self.tail, self.cursor = path, tail, cursor
        self._seen = _STAT.pack(seen.st_size, seen.st_mtime_ns, seen.st_dev, seen.st_ino)

    @property
    def size(self) -> int:
        return int(_STAT.unpack(self._seen)[0])

    @property
    def mtime(self) -> float:
        return float(_STAT.unpack(self._seen)[1]) / 1e9

    @property
    def identity(self) -> Identity:
        return _STAT.unpack(self._seen)[2:]

    def changed(self) -> bool:
        """Return whether the size or the modification time has changed since the file was closed or found."""
        try:
            seen = os.stat(self.path)  # creating a Path would take longer than the stat call itself
        except OSError:
            return False
        return _STAT.unpack(self._seen)[:2] != (seen.st_size, seen.st_mtime_ns)


class _Listing:
    """A directory and its state at the last listing."""

    __slots__ = ("listed", "path", "state")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: tuple[int, int, int] | None = None
        self.listed = float("-inf")

    def due(self, now: float) -> bool:
        """Return whether the directory must be listed now. If so, record the listing, which the caller must then
        perform.
        """
        try:
            seen = self.path.stat()
        # ValueError: the configured path is invalid, for example because it contains a lone surrogate
        except (OSError, ValueError):
            self.state = None
            return False
        state = (seen.st_dev, seen.st_ino, seen.st_mtime_ns)
        # A change directly after the last listing, within the clock's resolution, does not alter the modification time.
        settled = state == self.state and self.listed - seen.st_mtime > 1.0
        if settled and 0 <= now - self.listed < RESCAN:
            return False
        self.state, self.listed = state, now
        return True


class LogDirectories:
    """Follows the logs in several directories. `poll` returns their events."""

    def __init__(
        self,
        directories: Sequence[Path],
        rules: RuleSet,
        *,
        cursors: Mapping[str, Cursor] | None = None,
        window: Window | None = None,
        on_fault: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """Store the arguments. Reading begins with the first poll. Of the files that exist at that time, only the part
        that `window` allows is read.

        After an unexpected fault, `on_fault` is called with a description of the failed step and the exception. From
        then on, a file that could not be read is followed from its end.
        """
        self._on_fault = on_fault
        self._listings = [_Listing(path) for path in directories]
        self._rules = LiveRules(rules)
        self._window = window or Window()
        self._cursors = dict(cursors or {})
        self._heads = {cursor.head for cursor in self._cursors.values() if cursor.head_size == HEAD}
        """Digests of the first bytes of logs that an earlier run of the daemon has read."""
        # The keys are strings and not Paths: hashing and parsing a thousand Paths in every poll would take longer than
        # all stat calls.
        self._tails: dict[str, LogTail] = {}
        self._sleepers: dict[str, _IdleFile] = {}
        self._sleeping_cursors: dict[str, Cursor] = {}
        """The cursors of closed files."""
        self._followed: list[str] = []
        self._counted = False
        self._turn = 0
        self._started = False
        self._problems: dict[Path, str] = {}

    # ---- polling

    def poll(self, now: float, hints: Iterable[str | Path] = ()) -> list[Sighting]:
        """Return the events since the last poll. `hints` contains changed files. A change to a closed file without a
        hint may not be found until a later poll.
        """
        for listing in self._listings:
            try:
                if listing.due(now):
                    self._list(listing.path, now)
            except Exception as fault:
                self._survive(f"listing {listing.path}", fault)
        self._started = True
        try:
            self._wake_sleepers(hints)
        except Exception as fault:
            self._survive("waking logs", fault)
        sightings: list[Sighting] = []
        for path, tail in list(self._tails.items()):
            try:
                sightings.extend(tail.poll(now))
            except Exception as fault:
                self._survive(f"reading {path}", fault)
                self._skip(path, tail)
        try:
            self._set_idle(now)
        except Exception as fault:
            self._survive("closing idle logs", fault)
        return sightings

    def _survive(self, where: str, fault: Exception) -> None:
        """Report a fault and continue. If `on_fault` is None, raise the fault."""
        if self._on_fault is None:
            raise fault
        self._on_fault(where, fault)

    def _skip(self, path: str, tail: LogTail) -> None:
        """Skip to the end of a file that could not be read. Otherwise, the same fault would recur in every poll."""
        tail.close()
        self._tails[path] = self._tail(path, None, past=False)
        try:
            seen = os.stat(path)
        except OSError:
            return
        self._tails[path].begin_at((seen.st_dev, seen.st_ino), seen.st_size, seen.st_mtime)

    @property
    def behind(self) -> bool:
        """Whether unread data is left, in which case `poll` should be called again without waiting."""
        return any(tail.behind for tail in self._tails.values())

    def following(self) -> list[str]:
        """Return a line of text for each directory, with the number of files that are followed in it."""
        if not self._counted:
            counts = {str(listing.path): 0 for listing in self._listings}
            for path in (*self._tails, *self._sleepers):
                directory = os.path.dirname(path)
                counts[directory] = counts.get(directory, 0) + 1
            self._followed = [f"{path} ({number} files)" for path, number in counts.items()]
            self._counted = True
        return self._followed

    def problems(self) -> list[str]:
        """Return a message for each directory or file that currently cannot be read."""
        return [*self._problems.values(), *(tail.problem for tail in self._tails.values() if tail.problem)]

    def cursors(self) -> dict[str, Cursor]:
        """Return the position at which to resume each log after a restart, by path."""
        awake = {path: tail.cursor() for path, tail in self._tails.items()}
        return self._sleeping_cursors | {path: cursor for path, cursor in awake.items() if cursor is not None}

    def exchange_rules(self, rules: RuleSet) -> None:
        """Use these rules for all data read from now on."""
        self._rules.rules = rules

    def prepare(self) -> None:
        """Preload what the first limit needs (40 ms of CPU time, 1 MiB of memory)."""
        self._rules.rules.prepare()

    def close(self) -> None:
        """Close all descriptors."""
        for tail in self._tails.values():
            tail.close()

    # ---- discovery of files

    def _list(self, directory: Path, now: float) -> None:
        present: set[str] = set()
        names = self._names()
        self._counted = False
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX):
                        present.add(entry.path)
                        if entry.path not in self._tails and entry.path not in self._sleepers:
                            self._found(entry.path, entry, names, now)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._problems[directory] = f"cannot list {directory}: {why}"
            return
        self._problems.pop(directory, None)
        self._forget_gone(directory, present)

    def _found(self, path: str, entry: os.DirEntry[str], names: dict[Identity, str], now: float) -> None:
        try:
            if not entry.is_file():
                return
            seen = entry.stat()
        except OSError:
            return
        which = (seen.st_dev, seen.st_ino)
        if which in names:
            self._renamed(names[which], path)
            return
        names[which] = path
        cursor = self._cursors.pop(path, None)
        old = not self._started
        untouched = cursor is None or cursor.offset == seen.st_size
        if old and untouched and now - seen.st_mtime > self._window.seconds:
            self._sleep(_IdleFile(path, seen, None, cursor), cursor)
        elif cursor is None and self._is_copy(path):
            self._sleep(_IdleFile(path, seen, None, None), None)
        else:
            self._tails[path] = self._tail(path, cursor, past=old)
            self._tails[path].found = which

    def _is_copy(self, path: str) -> bool:
        """Return whether a file is a copy of a log that this run or the last run has followed.

        The events in a copy were already reported. A copy may be a user's backup, or the result of logrotate's
        copytruncate with `extension .log`. If the log was truncated before all of it was read, the log's own tail reads
        the unread part from the copy.
        """
        head = head_of(path)
        if len(head) < HEAD:
            return False
        tails = (*self._tails.values(), *(sleeper.tail for sleeper in self._sleepers.values() if sleeper.tail))
        return digest(head) in self._heads or any(tail.begins_like(head) for tail in tails)

    def _tail(self, path: str, cursor: Cursor | None, *, past: bool) -> LogTail:
        return LogTail(Path(path), self._new_reading, cursor=cursor, window=self._window if past else None)

    def _new_reading(self, path: Path) -> NewReading:
        return lambda offset, whole: Reading(self._rules, file=str(path), offset=offset, whole=whole, turns=True)

    def _names(self) -> dict[Identity, str]:
        """Return the paths of all followed files, by device and inode."""
        names = {sleeper.identity: path for path, sleeper in self._sleepers.items()}
        names.update((which, path) for path, tail in self._tails.items() for which in tail.identities())
        return names

    def _renamed(self, old: str, path: str) -> None:
        """Follow a file under its new name if the old name no longer exists."""
        if os.path.exists(old):
            return
        if old in self._tails:
            self._tails[path] = self._tails.pop(old)
            self._tails[path].path = Path(path)
        elif old in self._sleepers:
            cursor, sleeper = self._sleeping_cursors.get(old), self._wake(old)
            sleeper.path = path
            if sleeper.tail is not None:
                sleeper.tail.path = Path(path)
            self._sleep(sleeper, cursor)

    def _forget_gone(self, directory: Path, present: set[str]) -> None:
        here = str(directory)
        gone = [path for path in (*self._sleepers, *self._tails) if path not in present]
        for path in gone:
            if os.path.dirname(path) != here:
                continue
            if path in self._sleepers:
                self._remember(path, self._sleeping_cursors.get(path))
                self._wake(path)
            elif not self._tails[path].is_open:
                self._remember(path, self._tails[path].cursor())
                del self._tails[path]

    # ---- descriptors

    def _wake_sleepers(self, hints: Iterable[str | Path]) -> None:
        due = {path for path in map(str, hints) if path in self._sleepers}
        names = list(self._sleepers)
        newest = names[-NEWEST:]  # the most recently closed files are at the end
        others = names[: len(names) - len(newest)]
        if others:
            self._turn = (self._turn + ROTATION) % len(others)
            newest += (others + others)[self._turn : self._turn + min(ROTATION, len(others))]
        due.update(path for path in newest if self._sleepers[path].changed())
        for path in due:
            sleeper = self._wake(path)
            self._tails[path] = sleeper.tail or self._reopened(sleeper)

    def _sleep(self, sleeper: _IdleFile, cursor: Cursor | None) -> None:
        self._sleepers[sleeper.path] = sleeper
        if cursor is not None:
            self._sleeping_cursors[sleeper.path] = cursor

    def _wake(self, path: str) -> _IdleFile:
        self._sleeping_cursors.pop(path, None)
        return self._sleepers.pop(path)

    def _reopened(self, sleeper: _IdleFile) -> LogTail:
        """Return the tail of a file that was old when the daemon started and that is now being written to again.
        Reading begins at the saved cursor or, if there is no cursor, at the file's previous end.
        """
        tail = self._tail(sleeper.path, sleeper.cursor, past=False)
        if sleeper.cursor is None:
            tail.begin_at(sleeper.identity, sleeper.size, sleeper.mtime)
        return tail

    def _set_idle(self, now: float) -> None:
        awake = sorted(self._tails.items(), key=lambda item: item[1].mtime)
        surplus = len(awake) - MAX_OPEN
        for number, (path, tail) in enumerate(awake):
            if tail.behind or not (number < surplus or now - tail.mtime > IDLE):
                continue
            if tail.unlinked or not tail.is_open:
                self._drop_if_gone(path, tail, now)
                continue
            try:
                seen = os.stat(path)
            except OSError:
                continue  # keep the file open, because it was renamed or currently cannot be read
            if tail.park():
                del self._tails[path]
                self._sleep(_IdleFile(path, seen, tail, None), tail.cursor())

    def _drop_if_gone(self, path: str, tail: LogTail, now: float) -> None:
        if not os.path.lexists(path) and now - tail.mtime > IDLE:
            self._remember(path, tail.cursor())
            tail.close()
            del self._tails[path]
            self._counted = False

    def _remember(self, path: str, cursor: Cursor | None) -> None:
        """Store the cursor of a missing log, so that the log's events are not reported again if the log reappears."""
        if cursor is not None:
            self._cursors[path] = cursor
            while len(self._cursors) > MAX_GONE:
                del self._cursors[next(iter(self._cursors))]
