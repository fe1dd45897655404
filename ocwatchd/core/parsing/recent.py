"""Store the events of a log's last seconds, so that they are recognized in a file that was shortened or copied. Pure
classes.
"""

from __future__ import annotations

from collections import deque

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.cursor import digest
from ocwatchd.core.parsing.detect import Cancelled, Seen
from ocwatchd.core.parsing.record import first_time

DISORDER = 1.5
"""Maximum time, in seconds, by which a record may be older than the previous record. Processes that share a log write
at most a second late.
"""

MAX_EVENTS = 256
"""Maximum number of events to keep. The oldest are dropped first."""

MAX_SAVED = 64
"""Maximum number of events saved in a cursor, where each takes 19 bytes."""

NEVER = float("-inf")


class _Reported:
    """The latest events reported from any file of the log. `since` is the time up to which events may have been
    discarded.
    """

    def __init__(self, since: float) -> None:
        self.events: deque[tuple[float, tuple[object, ...]]] = deque()
        self.since = since


class Recent:
    """The time of the newest record read from one file of a log, and the log's last events. Memory use is bounded."""

    def __init__(self, until: float | None = None, since: float | None = None, told: tuple[str, ...] = ()) -> None:
        """Initialize the object without events, or with the values returned by `as_values` (`until`,
        `since`, `told`).
        """
        self.until = NEVER if until is None else until
        self._reported = _Reported(NEVER if since is None else since)
        self._told, self._told_until = frozenset(told), self.until

    @property
    def known(self) -> bool:
        """Whether any record with a known time was read."""
        return self.until != NEVER

    def fork(self) -> Recent:
        """Return a copy for a file that replaces the current file.

        Both objects share the reported events, because both files may contain the same lines and are read alternately.
        """
        other = Recent(self.until, told=tuple(self._told))
        other._told_until = self._told_until
        other._reported = self._reported
        return other

    def note(self, seen: Seen) -> None:
        """Store an event that was reported."""
        if not isinstance(seen, (LimitEvent, Cancelled)):
            return
        self.reached(seen.time)
        reported = self._reported
        reported.events.append((seen.time, _key(seen)))
        if len(reported.events) > MAX_EVENTS:
            reported.since = max(reported.since, reported.events.popleft()[0])

    def reached(self, time: float) -> None:
        """Record that a log record with this time was read."""
        self.until = max(self.until, time)

    def barrier(self, now: float) -> Barrier:
        """Return a filter for all reported events. A recorded time later than `now` (epoch seconds) results from a
        wrong clock and is reduced to `now`.
        """
        until = min(self.until, now)
        late = [(time, key) for time, key in self._reported.events if time > until - DISORDER]
        newest = min(max([until, *(time for time, _ in late)]), now)
        told = self._told | {_digest(key) for _, key in late}
        return Barrier(until, max(until - DISORDER, min(self._reported.since, until)), told, newest)

    def as_values(self) -> tuple[float | None, float | None, tuple[str, ...]]:
        """Return `(until, since, told)` for a cursor: two times in epoch seconds or None, and the digests of the
        reported events.
        """
        late = [(time, key) for time, key in self._reported.events if time > self.until - DISORDER]
        since = max([self._reported.since, *(time for time, _ in late[:-MAX_SAVED])])
        told = {_digest(key) for _, key in late[-MAX_SAVED:]}
        if self._told_until > self.until - DISORDER:  # an earlier run's events are still recent
            if len(told | self._told) <= MAX_SAVED:
                told |= self._told
            else:
                since = max(since, self._told_until)
        return _known(self.until), _known(since), tuple(sorted(told))


class Barrier:
    """Filters out events that a file repeats after they were reported.

    An event is a repetition if it is not later than `floor`, or if its digest is in `told`. A file that begins after
    all records read so far repeats nothing. After an event that is newer than all reported events, the filter is no
    longer needed.
    """

    def __init__(self, until: float, floor: float, told: frozenset[str], newest: float) -> None:
        """Store the bounds of the filter. `until` is the time of the newest record read. `told` contains the digests of
        the reported events later than `floor`, and `newest` is the time of the newest of these events.
        """
        self._until, self._floor, self._told, self._newest = until, floor, told, newest
        self._begun = False

    def begin(self, data: bytes) -> None:
        """Examine the file's next bytes until one of its records shows how old the file is.

        A log that begins later than every record read so far is new, so it repeats no event.
        """
        if not self._begun and (time := first_time(data)) is not None:
            self._begun = True
            if time > self._until - DISORDER:
                self._floor = NEVER

    def passes(self, seen: Seen) -> bool:
        """Return whether the event is new."""
        if seen.time <= self._floor:
            return False
        return not isinstance(seen, (LimitEvent, Cancelled)) or _digest(_key(seen)) not in self._told

    def lifts(self, seen: Seen) -> bool:
        """Return whether all events after this event must be new, so that the filter can be removed."""
        return isinstance(seen, (LimitEvent, Cancelled)) and seen.time > self._newest


def _key(seen: LimitEvent | Cancelled) -> tuple[object, ...]:
    if isinstance(seen, Cancelled):
        return (seen.time, seen.session)
    verdict = seen.verdict
    return (seen.time, seen.session, seen.provider, seen.model, seen.status, seen.reason, verdict.certainty.value)


def _digest(key: tuple[object, ...]) -> str:
    return digest(repr(key).encode(errors="backslashreplace"), 8)


def _known(time: float) -> float | None:
    return None if time == NEVER else time
