"""The only reader of live logs: follows one path through renames, truncation, replacement and absence.

Wake-ups are hints: `poll` looks at the file itself. At the end of the file it asks whether the path still leads there;
if not, the old file is drained before the new one is opened, and watched on, because OpenCode goes on writing a file
that was renamed under it. Never blocks, never opens anything but regular files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.core.cursor import Cursor
from ocwatchd.core.detect import Seen
from ocwatchd.logs.openlog import Identity, NewReading, OpenLog, files_of_inode, identity

LOOK_BACK = 1 << 20
"""Bytes before the end that are read at the first start, so that cooldowns still running are known."""

LOOK_BACK_SECONDS = 6 * 3600.0
FRESH = 10.0
"""Seconds: what is older when it is read is old news. The new format reaches the disk up to a second late."""

RESUME_CAP = 256 << 20
"""Bytes behind the end from which a saved cursor is still honoured in full."""

POLL_CAP = 16 << 20
"""Bytes read per poll: the loop's heartbeat must not wait for a gigabyte."""

REPLACED_KEPT = 8
"""Replaced files watched on for late writes."""

REPLACED_IDLE = 6 * 3600.0
"""Seconds without a write after which a replaced file that still has a name is let go."""

UNLINKED_IDLE = 120.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a log told. `live` is False for old news: read while catching up, or older than a few seconds when read."""

    seen: Seen
    live: bool
    log: Identity | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """How far to look back at a file that is there when following starts, and that has no cursor."""

    size: int = LOOK_BACK
    seconds: float = LOOK_BACK_SECONDS


class LogTail:
    """Follows one path. `poll` returns what was appended since, every byte once."""

    def __init__(
        self,
        path: Path,
        new_reading: Callable[[Path], NewReading],
        *,
        cursor: Cursor | None = None,
        window: Window | None = None,
    ) -> None:
        """Nothing is opened yet. With a `window` the file's past is old news; without one, all of it is new."""
        self.path = path
        self.found: Identity | None = None
        """The file that the path led to when it was found, until it is opened."""
        self.problem: str | None = None
        self._more = self._more_replaced = False
        self._new_reading = new_reading
        self._cursor = cursor
        self._window = window
        self._current: OpenLog | None = None
        # After a restart with a cursor, what came within the last seconds is still news.
        self._catching_up = window is not None and cursor is None
        self._replaced: list[OpenLog] = []
        self._begin_at: tuple[Identity, int] | None = None
        self._parked: Cursor | None = None
        self._parked_log: OpenLog | None = None

    def begin_at(self, which: Identity, size: int) -> None:
        """Once opened, begin where this file ended when it had this size; another file at the path is new."""
        self._begin_at = (which, size)

    # ---- reading

    def poll(self, now: float) -> list[Sighting]:
        """What was written since the last poll, in the order of the file; of a replaced file first. Never raises."""
        sightings: list[Sighting] = []
        self.problem = None
        log = self._current or self._opened(now)
        self._drain_replaced(now, sightings)
        if log is not None:
            self._read(log, now, sightings)
            if self._current is log and not self._more:
                self._check_path(log, now, sightings)
        return sightings

    def _opened(self, now: float) -> OpenLog | None:
        """What the path leads to, opened; None if nothing can be."""
        try:
            here = identity(self.path)
            if here is None:
                self._window, self._catching_up = None, False  # what appears later is new
                return None
            log = self._current = self._taken_back(here) or self._begun(now)
        except OSError as error:
            self._trouble(error)
            return None
        self.found = None
        return log

    def _taken_back(self, here: Identity) -> OpenLog | None:
        """A replaced file that has its name back, where it stands: begun anew, it would be told twice."""
        for log in self._replaced:
            if log.identity == here:
                self._replaced.remove(log)
                return log
        return None

    def _begun(self, now: float) -> OpenLog:
        log = OpenLog(self.path, self._new_reading(self.path))
        if self._parked_log is not None:
            self._unpark(log)
        else:
            self._choose_beginning(log, now)
        return log

    def _choose_beginning(self, log: OpenLog, now: float) -> None:
        cursor, self._cursor = self._cursor, None
        if self._begin_at is not None:
            (which, size), self._begin_at = self._begin_at, None
            if which == log.identity:
                log.skip_to(size)
            return
        if cursor is not None and log.resume(cursor, RESUME_CAP):
            return
        if cursor is not None:
            self._follow_renamed(cursor)
        if self._window is None:
            return
        recent = now - log.mtime <= self._window.seconds
        log.skip_to_end(self._window.size if recent else 0)

    def _follow_renamed(self, place: Cursor, before: OpenLog | None = None) -> None:
        """The file of this cursor was renamed while nobody held it open: its last lines are still to be told."""
        for name in files_of_inode(self.path.parent, place.inode):
            try:
                log = OpenLog(name, self._new_reading(self.path))
            except OSError:
                continue
            if log.resume(place, RESUME_CAP):
                if before is not None:
                    log.adopt(before)
                self._replaced.append(log)
                return
            log.close()

    def _read(self, log: OpenLog, now: float, sightings: list[Sighting]) -> None:
        try:
            found, at_end = log.read(POLL_CAP)
        except OSError as error:  # a dead descriptor (ESTALE, EIO): opened again, it goes on where it stood
            self._trouble(error)
            self._begin_at = (log.identity, log.reading.position)
            self._current, self._more = None, False
            log.close()
            return
        self._more = not at_end
        oldest = now - self._window.seconds if self._window and self._catching_up else float("-inf")
        for seen in found:
            if seen.time >= oldest:
                live = not self._catching_up and abs(now - seen.time) <= FRESH
                sightings.append(Sighting(seen, live, log.identity))
        if at_end:
            self._catching_up = False

    def _check_path(self, log: OpenLog, now: float, sightings: list[Sighting]) -> None:
        """At the end of the file: does the path still lead to it?"""
        try:
            here = identity(self.path)
        except OSError as error:  # forbidden, or a link in a circle: the open file is as good as before
            self._trouble(error)
            return
        if here is None or here == log.identity:
            return
        # Written between our last read and the rename: drained before the new file is opened.
        self._read(log, now, sightings)
        if self._more:
            return  # the next poll goes on with it
        if self._current is log:
            self._replaced.append(log)
            self._current = None
        replacement = self._opened(now)
        while len(self._replaced) > REPLACED_KEPT:
            self._replaced.pop(0).close()
        if replacement is not None:
            self._read(replacement, now, sightings)

    def _drain_replaced(self, now: float, sightings: list[Sighting]) -> None:
        self._more_replaced = False
        for log in list(self._replaced):
            try:
                found, at_end = log.read(POLL_CAP)
            except OSError:
                found, at_end = log.reading.rest(), True
                log.mtime = float("-inf")
            self._more_replaced |= not at_end
            sightings += [Sighting(seen, abs(now - seen.time) <= FRESH, log.identity) for seen in found]
            idle = now - log.mtime
            if not found and idle > (REPLACED_IDLE if log.links else UNLINKED_IDLE):
                self._replaced.remove(log)
                sightings += [Sighting(seen, False, log.identity) for seen in log.reading.rest()]
                log.close()

    def _trouble(self, error: OSError) -> None:
        self.problem = f"cannot read {self.path}: {error.strerror or error}"

    # ---- what it holds

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._more or self._more_replaced

    @property
    def is_open(self) -> bool:
        """Whether it holds a descriptor."""
        return self._current is not None or bool(self._replaced)

    @property
    def mtime(self) -> float:
        """When the file was last seen to be written; epoch seconds."""
        return self._current.mtime if self._current is not None else 0.0

    @property
    def unlinked(self) -> bool:
        """Whether the file has no name left, and nothing took its place."""
        return self._current is not None and self._current.links == 0

    def identities(self) -> set[Identity]:
        """The files that are followed here, under whatever name."""
        logs = {log.identity for log in self._replaced}
        here = self._current.identity if self._current is not None else self.found
        return logs | {here} if here else logs

    def cursor(self) -> Cursor | None:
        """Where to go on after a restart; None if nothing is open."""
        if self._current is None:
            return self._parked or self._cursor
        try:
            return self._current.cursor()
        except OSError:
            return None

    # ---- giving descriptors back

    def park(self) -> bool:
        """Close a file that nobody writes, and remember where to go on; what it told so far is kept. Whether it did."""
        if self._current is None or self._replaced or self.behind:
            return False
        self._parked = self.cursor()
        if self._parked is None:
            return False
        self._parked_log, self._current = self._current, None
        self._parked_log.close()
        return True

    def _unpark(self, log: OpenLog) -> None:
        """The same file goes on with what was known of it; another one begins anew."""
        before, place = self._parked_log, self._parked
        self._parked_log = self._parked = None
        if before is None or place is None:
            return
        if log.resume(place, RESUME_CAP):
            log.adopt(before)
        else:
            self._follow_renamed(place, before)

    def close(self) -> None:
        """Give all descriptors back."""
        for log in (*self._replaced, *([self._current] if self._current else [])):
            log.close()
        self._replaced, self._current = [], None
