"""Follow one log even if it is renamed, truncated, replaced or missing. No other module follows live logs.

A wake-up only triggers a poll; `poll` itself determines what has changed. At the end of the file, `poll` checks whether
the path still leads to this file. If not, `poll` reads the old file to its end before it opens the new one. From then
on, it reads both, because OpenCode continues to write to a renamed file. If a shortened, copied or rewritten file
contains lines that were read before, their events are not reported again. The tail never blocks, and opens only regular
files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.core.parsing.detect import Seen
from ocwatchd.core.parsing.recent import NEVER, Recent
from ocwatchd.core.parsing.record import first_time
from ocwatchd.logs.log_file import Identity, NewReading, OpenLog, copies_of, files_of_inode, head_of, identity

LOOK_BACK = 1 << 20
"""Number of bytes at the end of a log that are read at the first start, to find the cooldowns that have not
ended yet.
"""

LOOK_BACK_SECONDS = 6 * 3600.0
"""Maximum age, in seconds, of an event that is reported at the first start."""

FRESH = 10.0
"""Age, in seconds, above which an event is treated as old at the time it is read. OpenCode writes records of the new
format up to a second late.
"""

RESUME_CAP = 256 << 20
"""Maximum number of bytes read after a saved cursor. If more bytes follow the cursor, reading begins this many bytes
before the end.
"""

POLL_CAP = 16 << 20
"""Maximum number of bytes read per poll, so that a large log does not delay the heartbeat of the daemon's loop."""

REPLACED_KEPT = 8
"""Maximum number of replaced files that are watched for late writes."""

REPLACED_IDLE = 6 * 3600.0
"""A replaced file that still has a name is closed after this many seconds without a write."""

UNLINKED_IDLE = 120.0
"""A replaced file that was deleted is closed after this many seconds without a write."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event read from a log, and the file from which it was read (`log`).

    `live` is False if the event was read while catching up, or more than `FRESH` seconds after it occurred.
    """

    seen: Seen
    live: bool
    log: Identity | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """How far back a file is read if it exists at the first start and has no cursor. At most the last `size` bytes are
    read, and only events of the last `seconds` seconds are reported.
    """

    size: int = LOOK_BACK
    seconds: float = LOOK_BACK_SECONDS


class LogTail:
    """Follows one path. Each `poll` returns the events appended since the previous poll. Every byte is read exactly
    once.
    """

    def __init__(
        self,
        path: Path,
        new_reading: Callable[[Path], NewReading],
        *,
        cursor: Cursor | None = None,
        window: Window | None = None,
    ) -> None:
        """Prepare to follow `path` from a saved `cursor` or, without a cursor, from its beginning. No file is opened
        yet.

        `window` limits how much of a file without a cursor is read. The events read there are treated as old.
        """
        self.path = path
        self.found: Identity | None = None
        """The file that was found at the path but has not been opened yet."""
        self.problem: str | None = None
        """The reason why the last poll could not read the file; None if it could."""
        # whether the last poll left unread data in the current file, or in a replaced one
        self._more = self._more_replaced = False
        self._new_reading = new_reading
        self._cursor = cursor
        self._window = window
        self._current: OpenLog | None = None
        # After a restart with a cursor, events from the last few seconds are still treated as new.
        self._catching_up = window is not None and cursor is None
        self._replaced: list[OpenLog] = []
        self._begin_at: tuple[Identity, int] | None = None
        self._parked: Cursor | None = None
        self._parked_log: OpenLog | None = None
        self._recent = Recent(cursor.until, cursor.since, cursor.told) if cursor else Recent()

    def begin_at(self, file: Identity, size: int, mtime: float) -> None:
        """Begin reading at the offset `size` when the log is opened. If the log is then shorter, or is a file other
        than `file`, begin at the beginning.

        `mtime` is the modification time that the file had at that size, in epoch seconds. If lines before the offset
        are read, only events after that time are reported.
        """
        self._begin_at = (file, size)
        self._recent.reached(mtime)

    # ---- reading

    def poll(self, now: float) -> list[Sighting]:
        """Return the events written since the last poll, in the order of the lines. Events of replaced files precede
        those of the current file. Never raises.
        """
        sightings: list[Sighting] = []
        self.problem = None
        log = self._current or self._opened(now)
        self._more_replaced = False
        self._drain([log for log in self._replaced if not log.later], now, sightings)
        if log is not None and not self._more_replaced:
            self._read(log, now, sightings)
            if self._current is log and not self._more:
                self._check_path(log, now, sightings)
        return sightings

    def _opened(self, now: float) -> OpenLog | None:
        """Open and return the file that the path leads to, or return None if there is no file or it cannot
        be opened.
        """
        try:
            here = identity(self.path)
            if here is None:
                # a file that appears after this call is new and is therefore read from its beginning
                self._window, self._catching_up = None, False
                return None
            log = self._current = self._taken_back(here) or self._begun(now)
        except OSError as error:
            self._trouble(error)
            return None
        self.found = None
        return log

    def _taken_back(self, here: Identity) -> OpenLog | None:
        """If the path leads to one of the replaced files again, return that file, so that it is not read twice.
        Otherwise, return None.
        """
        for log in self._replaced:
            if log.identity == here:
                self._replaced.remove(log)
                return log
        return None

    def _begun(self, now: float) -> OpenLog:
        log = self._open(self.path)
        if self._parked_log is not None:
            self._unpark(log, self._parked_log)
        else:
            self._choose_beginning(log, now)
        return log

    def _open(self, path: Path) -> OpenLog:
        return OpenLog(path, self._new_reading(self.path), self._recent)

    def _choose_beginning(self, log: OpenLog, now: float) -> None:
        cursor, self._cursor = self._cursor, None
        if self._begin_at is not None:
            (file, size), self._begin_at = self._begin_at, None
            if file == log.identity and size <= log.size:
                log.skip_to(size)
                log.only_news()
            else:
                log.begin_anew(RESUME_CAP)
        elif cursor is not None:
            self._resume(log, cursor, now)
        elif self._replaced:
            log.begin_behind(self._replaced[-1], RESUME_CAP)
        elif self._window is not None:
            recent = now - log.mtime <= self._window.seconds
            log.skip_to_end(self._window.size if recent else 0)

    def _resume(self, log: OpenLog, cursor: Cursor, now: float) -> None:
        """Resume at the cursor if `log` is the cursor's file or a copy of it. Otherwise, look for the cursor's file,
        and follow it first.
        """
        if log.resume(cursor, RESUME_CAP, moved=True):
            return
        same = (cursor.device, cursor.inode) == log.identity
        # If the cursor's file was deleted, the new file may have the same inode. Copies are therefore checked in either
        # case.
        names = [] if same else files_of_inode(self.path.parent, cursor.inode)
        rotated = self._follow_other(cursor, [*names, *copies_of(self.path)])
        if self._recent.known:
            if rotated is not None:
                self._follow_missed(rotated, rotated.identity, log.identity)
            log.begin_anew(RESUME_CAP)
        # the cursor of an earlier release has no times, so all events are treated as old
        elif self._window is not None:
            self._catching_up = True
            log.skip_to_end(self._window.size if now - log.mtime <= self._window.seconds else 0)

    def _follow_other(self, place: Cursor, names: list[Path]) -> OpenLog | None:
        """Follow the first of these files that contains the bytes before the cursor, and return it, or None if there is
        no such file.

        The cursor's file may have been renamed, or copied and then truncated, while no daemon was running.
        """
        for name in names:
            try:
                log = self._open(name)
            except OSError:
                continue
            if log.resume(place, RESUME_CAP, moved=True):
                log.finished = log.identity != (place.device, place.inode)
                self._replaced.append(log)
                return log
            log.close()
        return None

    def _follow_parked(self, before: OpenLog, names: list[Path]) -> OpenLog | None:
        """Follow the first of these files that is the file of `before` or a copy of it, and return it. Return None if
        there is no such file. `before` was read by this run of the daemon.
        """
        for name in names:
            try:
                log = self._open(name)
            except OSError:
                continue
            if log.knows(before):
                log.adopt(before)  # OpenLog.read corrects the position if the bytes were moved
                log.finished = log.identity != before.identity
                self._replaced.append(log)
                return log
            log.close()
        return None

    def _follow_missed(self, before: OpenLog, rotated: Identity, *known: Identity) -> list[OpenLog]:
        """Follow the files that were the log for a while but were never read, and return them, oldest first.

        Such files exist if the log was rotated twice between two polls. A rotated file was missed if its first record
        is later than all records read from `before`, unless the file is one of the `known` files. Missed files are
        returned only if `rotated`, the file that `before` has become, is among the rotated files. Otherwise, there is
        no proof that they were this log.
        """
        since = before.read_until
        if since == NEVER:
            return []
        held, missed, rotated_found = {*known, *self.identities()}, list[OpenLog](), False
        for name in reversed(copies_of(self.path)):
            if not name.name.startswith((f"{self.path.name}.", f"{self.path.name}-")):
                continue  # the file may belong to another log, which has its own tail
            begins = first_time(head_of(str(name)))
            try:
                log = self._open(name)
            except OSError:
                continue
            rotated_found |= log.identity == rotated
            if begins is None or begins <= since or log.identity in (rotated, *held):
                log.close()
                continue
            log.begin_behind(before, RESUME_CAP)
            log.finished = True
            missed.append(log)
        if not rotated_found:
            for log in missed:
                log.close()
            return []
        self._replaced += missed
        return missed

    def _lost(self, log: OpenLog, now: float, sightings: list[Sighting]) -> bool:
        """From the copies of a truncated file, read the part that the file has lost. Return whether all copies were
        read completely.
        """
        copy = self._follow_parked(log, copies_of(self.path))
        if copy is not None:
            first = log.begins()
            missed = self._follow_missed(log, copy.identity, log.identity)
            for other in missed:
                begins = other.begins()
                # If `other` begins later than the truncated file, that file was renamed, and `other` is a copy of its
                # replacement.
                other.later = first is not None and begins is not None and begins > first
            self._drain([copy, *(other for other in missed if not other.later)], now, sightings)
        return not self._more_replaced

    def _read(self, log: OpenLog, now: float, sightings: list[Sighting]) -> None:
        try:
            found, at_end = log.read(POLL_CAP, now, lambda: self._lost(log, now, sightings))
        except OSError as error:  # the descriptor is no longer usable (ESTALE, EIO); the next poll reopens the file
            self._trouble(error)
            self._parked_log = log
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
            later = [copy for copy in self._replaced if copy.later]
            for copy in later:
                copy.later = False
            self._drain(later, now, sightings)

    def _check_path(self, log: OpenLog, now: float, sightings: list[Sighting]) -> None:
        """Check, at the end of the file, whether the path still leads to this file."""
        try:
            here = identity(self.path)
        except OSError as error:  # no permission, or a circular symlink: keep reading the open file
            self._trouble(error)
            return
        if here is None or here == log.identity:
            return
        # The file is read once more, because lines may have been written between the last read and the rename.
        self._read(log, now, sightings)
        if self._more:
            return  # the next poll continues with this file
        if self._current is log:
            self._replaced.append(log)
            self._current = None
            self._drain(self._follow_missed(log, log.identity, here), now, sightings)
        replacement = self._opened(now)
        while len(self._replaced) > REPLACED_KEPT:
            self._replaced.pop(0).close()
        if replacement is not None and not self._more_replaced:
            self._read(replacement, now, sightings)

    def _drain(self, logs: list[OpenLog], now: float, sightings: list[Sighting]) -> None:
        """Read replaced files one after another, so that a line that several of them contain is reported only once."""
        for log in logs:
            if not self._more_replaced:
                self._drain_one(log, now, sightings)

    def _drain_one(self, log: OpenLog, now: float, sightings: list[Sighting]) -> None:
        try:
            found, at_end = log.read(POLL_CAP, now)
        except OSError:
            found, at_end = log.reading.finish(), True
            log.mtime = float("-inf")
        self._more_replaced = not at_end
        sightings += [Sighting(seen, abs(now - seen.time) <= FRESH, log.identity) for seen in found]
        idle = now - log.mtime
        if not found and idle > (REPLACED_IDLE if log.links else UNLINKED_IDLE):
            self._replaced.remove(log)
            sightings += [Sighting(seen, False, log.identity) for seen in log.reading.finish()]
            log.close()
        elif log.finished and at_end:
            self._replaced.remove(log)
            log.close()

    def _trouble(self, error: OSError) -> None:
        self.problem = f"cannot read {self.path}: {error.strerror or error}"

    # ---- state

    @property
    def behind(self) -> bool:
        """Whether the last poll left unread data."""
        return self._more or self._more_replaced

    @property
    def is_open(self) -> bool:
        """Whether any file is open."""
        return self._current is not None or bool(self._replaced)

    @property
    def mtime(self) -> float:
        """The time of the file's last write, in epoch seconds; 0 if no file is open."""
        return self._current.mtime if self._current is not None else 0.0

    @property
    def unlinked(self) -> bool:
        """Whether the file was deleted and not yet replaced."""
        return self._current is not None and self._current.links == 0

    def begins_like(self, head: bytes) -> bool:
        """Return whether a file that begins with these bytes is a copy of one of the followed files."""
        logs = (self._current, self._parked_log, *self._replaced)
        return any(log is not None and log.begins_like(head) for log in logs)

    def identities(self) -> set[Identity]:
        """Return the identities of the followed files, regardless of their current names."""
        logs = {log.identity for log in self._replaced}
        here = self._current.identity if self._current is not None else self.found
        return logs | {here} if here else logs

    def cursor(self) -> Cursor | None:
        """Return the cursor at which to resume after a restart, or None if the position is unknown."""
        if self._current is None:
            return self._parked or self._cursor
        try:
            return self._current.cursor()
        except OSError:
            return None

    # ---- closing descriptors

    def park(self) -> bool:
        """Close the current file but keep its state, so that a later poll resumes at the same position. Return whether
        the file was closed. The file stays open if it has unread data, or while a replaced file is still being
        followed.
        """
        if self._current is None or self._replaced or self.behind:
            return False
        self._parked = self.cursor()
        if self._parked is None:
            return False
        self._parked_log, self._current = self._current, None
        self._parked_log.close()
        return True

    def _unpark(self, log: OpenLog, before: OpenLog) -> None:
        """Resume reading the closed file `before`. If `log` is another file, follow `before` to its end first."""
        self._parked_log = self._parked = None
        if log.identity == before.identity:
            log.adopt(before)  # OpenLog.read detects whether the file was changed in the meantime
            return
        names = files_of_inode(self.path.parent, before.identity[1])
        found = self._follow_parked(before, [*names, *copies_of(self.path)])
        self._follow_missed(before, found.identity if found else before.identity, log.identity)
        log.begin_behind(before, RESUME_CAP)

    def close(self) -> None:
        """Close all files."""
        for log in (*self._replaced, *([self._current] if self._current else [])):
            log.close()
        self._replaced, self._current = [], None
