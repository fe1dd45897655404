"""Which refusals the register has counted, kept in the register itself: of each log up to where, of doors which.

Lines are read again after a kill, because cursors are saved every other second, and doors show again what they showed.
Register and marks are one file: what comes again is no second strike, and what was not written yet is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.limits import LimitEvent, ModelRef
from ocwatchd.core.messages import Shown

KEPT = 60.0
"""Seconds for which a mark is kept: cursors are saved every 2 s, and a log is at most 1 s late."""
MOST = 64
"""Marks of either sort: before 1.17 each OpenCode process has a log of its own."""
GRAIN = 0.001
"""Seconds by which a time may differ from itself, once it was written down."""

Identity = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """All refusals that were known at `offset`, with times up to `time`, are counted; `made` is when this one was."""

    offset: int
    time: float
    made: float


class Counted:
    """`again` is asked of each refusal, in the order in which they are read; `as_json` stands in the register."""

    def __init__(self, value: object = None, now: float = 0.0) -> None:
        """Begin with what the register says, of whatever shape that is. `now` is epoch seconds, as everywhere here."""
        self._logs = {name: _Mark(offset, time, now) for name, offset, time in _logs(value)}
        self._doors = {shown.session: (shown, now) for shown in _doors(value)}
        self._before = dict(self._logs)
        """What lives before this one have counted; of a file until it has told more than that."""

    def again(self, log: Identity | None, event: LimitEvent, now: float) -> bool:
        """Whether a life before this one has counted this refusal; what it has not is counted from now on.

        A file that was truncated, or that has the inode of a deleted one, begins anew: its refusals come later.
        """
        known_at = event.offset if event.known_at is None else event.known_at
        if log is None or known_at is None:
            return False
        name = f"{log[0]}:{log[1]}"
        before = self._before.get(name)
        if before is not None and known_at <= before.offset and event.time <= before.time + GRAIN:
            return True
        self._before.pop(name, None)
        last = self._logs.pop(name, None)
        self._logs[name] = _Mark(known_at, max(event.time, last.time) if last else event.time, now)
        _bound(self._logs, [key for key, mark in self._logs.items() if now - mark.made > KEPT])
        return False

    def show(self, shown: Shown, now: float) -> None:
        """A door has shown this one."""
        self._doors.pop(shown.session, None)
        self._doors[shown.session] = shown, now
        _bound(self._doors, [session for session, (_, made) in self._doors.items() if now - made > KEPT])

    def shown(self) -> list[Shown]:
        """What doors have shown, in the last life and in this one."""
        return [shown for shown, _ in self._doors.values()]

    def as_json(self) -> dict[str, object]:
        """The field `counted` of the register."""
        return {
            "logs": {name: {"offset": mark.offset, "time": rfc3339(mark.time)} for name, mark in self._logs.items()},
            "doors": {
                shown.session: {
                    "model": str(shown.model),
                    "message": shown.message,
                    "attempt": shown.attempt,
                    "time": rfc3339(shown.time),
                }
                for shown in self.shown()
            },
        }


def _bound(marks: dict[str, _Mark] | dict[str, tuple[Shown, float]], old: list[str]) -> None:
    for name in old or list(marks)[:-MOST]:
        del marks[name]


def _part(value: object, name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    part = value.get(name) if isinstance(value, Mapping) else None
    for key, mark in part.items() if isinstance(part, Mapping) else ():
        if isinstance(mark, Mapping):
            yield str(key), mark


def _logs(value: object) -> Iterator[tuple[str, int, float]]:
    for name, mark in _part(value, "logs"):
        offset, time = mark.get("offset"), mark.get("time")
        with suppress(ValueError):
            if type(offset) is int:
                yield name, offset, from_rfc3339(str(time))


def _doors(value: object) -> Iterator[Shown]:
    for session, mark in _part(value, "doors"):
        message, attempt = mark.get("message"), mark.get("attempt")
        with suppress(ValueError):
            if type(attempt) is int and isinstance(message, str | None):
                model, time = ModelRef.parse(str(mark.get("model"))), from_rfc3339(str(mark.get("time")))
                yield Shown(session, model, message, attempt, time)
