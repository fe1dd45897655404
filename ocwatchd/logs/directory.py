"""Follows every log file of some directories: those there at the start, those that appear, those that are replaced.

A directory that does not exist yet is waited for; one that was removed and made again is followed anew. Thousands of
old files cost neither descriptors nor reads: they are stat'ed, the newest every time, the others in rotation.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ocwatchd.core.cursor import Cursor
from ocwatchd.core.liverules import LiveRules
from ocwatchd.core.reading import Reading
from ocwatchd.core.rules import RuleSet
from ocwatchd.logs.openlog import Identity, NewReading
from ocwatchd.logs.tail import LogTail, Sighting, Window

SUFFIX = ".log"
"""Old `2026-11-22T103026.log`, new `opencode.log`; whatever else is in the directory is no log of OpenCode's."""

RESCAN = 30.0
"""Seconds after which a directory is listed again although its own time did not change."""

IDLE = 90.0
"""Seconds without a write after which a file's descriptor is given back."""

OPEN_MOST = 128
"""Descriptors held at most."""

NEWEST, ROTATION = 48, 32
"""Files without descriptor that are looked at in each poll: the last written ones, and some of the rest in turn."""


_LOOK = struct.Struct("=qqQQ")
"""Size, time, device and inode: as numbers of their own they take four times as much."""


class _Sleeper:
    """A file that is only stat'ed: its size and time when it was last looked at. There may be thousands."""

    __slots__ = ("_seen", "cursor", "path", "tail")

    def __init__(self, path: str, seen: os.stat_result, tail: LogTail | None, cursor: Cursor | None) -> None:
        self.path, self.tail, self.cursor = path, tail, cursor
        self._seen = _LOOK.pack(seen.st_size, seen.st_mtime_ns, seen.st_dev, seen.st_ino)

    @property
    def size(self) -> int:
        return int(_LOOK.unpack(self._seen)[0])

    @property
    def identity(self) -> Identity:
        return _LOOK.unpack(self._seen)[2:]

    def stirred(self) -> bool:
        try:
            seen = os.stat(self.path)  # a Path would cost more than the look
        except OSError:
            return False
        return _LOOK.unpack(self._seen)[:2] != (seen.st_size, seen.st_mtime_ns)


class _Listing:
    """What a directory held when it was last listed."""

    __slots__ = ("listed", "looks", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looks: tuple[int, int, int] | None = None
        self.listed = float("-inf")

    def due(self, now: float) -> bool:
        try:
            seen = self.path.stat()
        except OSError:
            self.looks = None
            return False
        looks = (seen.st_dev, seen.st_ino, seen.st_mtime_ns)
        # A change within the clock's grain of the last listing would not show in the time.
        settled = looks == self.looks and self.listed - seen.st_mtime > 1.0
        if settled and 0 <= now - self.listed < RESCAN:
            return False
        self.looks, self.listed = looks, now
        return True


class LogDirectories:
    """Follows the logs of several directories. `poll` returns what they tell."""

    def __init__(
        self,
        directories: Sequence[Path],
        rules: RuleSet,
        *,
        cursors: Mapping[str, Cursor] | None = None,
        window: Window | None = None,
    ) -> None:
        """Nothing is touched before the first poll. What is there then is the past, and read within `window`."""
        self._listings = [_Listing(path) for path in directories]
        self._rules = LiveRules(rules)
        self._window = window or Window()
        self._cursors = dict(cursors or {})
        # By path as text: a thousand Paths, hashed and taken apart at every look, cost more than all looks together.
        self._tails: dict[str, LogTail] = {}
        self._sleepers: dict[str, _Sleeper] = {}
        self._resting: dict[str, Cursor] = {}
        """The cursors of the sleepers that have one."""
        self._followed: list[str] = []
        self._counted = False
        self._turn = 0
        self._started = False
        self._problems: dict[Path, str] = {}

    # ---- polling

    def poll(self, now: float, hints: Iterable[str | Path] = ()) -> list[Sighting]:
        """What was written since. `hints` are files that changed; files are found without them too, only later."""
        for listing in self._listings:
            if listing.due(now):
                self._list(listing.path, now)
        self._started = True
        self._wake_sleepers(hints)
        sightings: list[Sighting] = []
        for tail in list(self._tails.values()):
            sightings.extend(tail.poll(now))
        self._put_to_sleep(now)
        return sightings

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once: poll again without waiting."""
        return any(tail.behind for tail in self._tails.values())

    def following(self) -> list[str]:
        """The directories and how many files are followed in each."""
        if not self._counted:
            counts = {str(listing.path): 0 for listing in self._listings}
            for path in (*self._tails, *self._sleepers):
                directory = os.path.dirname(path)
                counts[directory] = counts.get(directory, 0) + 1
            self._followed = [f"{path} ({number} files)" for path, number in counts.items()]
            self._counted = True
        return self._followed

    def problems(self) -> list[str]:
        """What cannot be read at present, and why; empty if all is well."""
        return [*self._problems.values(), *(tail.problem for tail in self._tails.values() if tail.problem)]

    def cursors(self) -> dict[str, Cursor]:
        """Where to go on after a restart, by path."""
        awake = {path: tail.cursor() for path, tail in self._tails.items()}
        return self._resting | {path: cursor for path, cursor in awake.items() if cursor is not None}

    def exchange_rules(self, rules: RuleSet) -> None:
        """Judge by these from now on; what was read stays read."""
        self._rules.rules = rules

    def prepare(self) -> None:
        """Make now what the first refusal would wait for, once: 40 CPU ms and a MiB."""
        self._rules.rules.prepare()

    def close(self) -> None:
        """Give all descriptors back."""
        for tail in self._tails.values():
            tail.close()

    # ---- finding files

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
        except OSError as error:
            self._problems[directory] = f"cannot list {directory}: {error.strerror}"
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
            self._rest(_Sleeper(path, seen, None, cursor), cursor)
        else:
            self._tails[path] = self._tail(path, cursor, past=old)
            self._tails[path].found = which

    def _tail(self, path: str, cursor: Cursor | None, *, past: bool) -> LogTail:
        return LogTail(Path(path), self._new_reading, cursor=cursor, window=self._window if past else None)

    def _new_reading(self, path: Path) -> NewReading:
        return lambda offset, whole: Reading(self._rules, file=str(path), offset=offset, whole=whole, turns=True)

    def _names(self) -> dict[Identity, str]:
        """The files that are followed, and the name under which each is."""
        names = {sleeper.identity: path for path, sleeper in self._sleepers.items()}
        names.update((which, path) for path, tail in self._tails.items() for which in tail.identities())
        return names

    def _renamed(self, old: str, path: str) -> None:
        """A file that is followed has a second name. If the first is gone, it is followed under this one."""
        if os.path.exists(old):
            return
        if old in self._tails:
            self._tails[path] = self._tails.pop(old)
            self._tails[path].path = Path(path)
        elif old in self._sleepers:
            cursor, sleeper = self._resting.get(old), self._stir(old)
            sleeper.path = path
            if sleeper.tail is not None:
                sleeper.tail.path = Path(path)
            self._rest(sleeper, cursor)

    def _forget_gone(self, directory: Path, present: set[str]) -> None:
        here = str(directory)
        gone = [path for path in (*self._sleepers, *self._tails) if path not in present]
        for path in gone:
            if os.path.dirname(path) != here:
                continue
            if path in self._sleepers:
                self._stir(path)
            elif not self._tails[path].is_open:
                del self._tails[path]

    # ---- descriptors

    def _wake_sleepers(self, hints: Iterable[str | Path]) -> None:
        due = {path for path in map(str, hints) if path in self._sleepers}
        names = list(self._sleepers)
        newest = names[-NEWEST:]  # put to sleep last
        rest = names[: len(names) - len(newest)]
        if rest:
            self._turn = (self._turn + ROTATION) % len(rest)
            newest += (rest + rest)[self._turn : self._turn + min(ROTATION, len(rest))]
        due.update(path for path in newest if self._sleepers[path].stirred())
        for path in due:
            sleeper = self._stir(path)
            self._tails[path] = sleeper.tail or self._woken(sleeper)

    def _rest(self, sleeper: _Sleeper, cursor: Cursor | None) -> None:
        self._sleepers[sleeper.path] = sleeper
        if cursor is not None:
            self._resting[sleeper.path] = cursor

    def _stir(self, path: str) -> _Sleeper:
        self._resting.pop(path, None)
        return self._sleepers.pop(path)

    def _woken(self, sleeper: _Sleeper) -> LogTail:
        """A file that was old when following started, and is written again: from where it then ended."""
        tail = self._tail(sleeper.path, sleeper.cursor, past=False)
        if sleeper.cursor is None:
            tail.begin_at(sleeper.identity, sleeper.size)
        return tail

    def _put_to_sleep(self, now: float) -> None:
        awake = sorted(self._tails.items(), key=lambda item: item[1].mtime)
        surplus = len(awake) - OPEN_MOST
        for number, (path, tail) in enumerate(awake):
            if tail.behind or not (number < surplus or now - tail.mtime > IDLE):
                continue
            if tail.unlinked or not tail.is_open:
                self._drop_if_gone(path, tail, now)
                continue
            try:
                seen = os.stat(path)
            except OSError:
                continue  # renamed or forbidden just now: kept open until that is clear
            if tail.park():
                del self._tails[path]
                self._rest(_Sleeper(path, seen, tail, None), tail.cursor())

    def _drop_if_gone(self, path: str, tail: LogTail, now: float) -> None:
        if not os.path.lexists(path) and now - tail.mtime > IDLE:
            tail.close()
            del self._tails[path]
            self._counted = False
