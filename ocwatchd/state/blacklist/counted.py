"""Record in the blacklist which refused attempts were counted, so that no attempt is counted as two strikes.

After the daemon is killed, its next run reads some log lines again, because cursors are saved only every two seconds.
Endpoints also show the same attempts again. Counted attempts are therefore marked in the file that contains the
cooldowns, and both are written together. An attempt that is read again is recognized by its mark. If the daemon was
killed before the mark was written, the attempt is counted when it is read again. The mark is a position in the log or,
if the attempt was read from an endpoint, the attempt itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.domain.types import LimitEvent, ModelRef
from ocwatchd.core.engine.messages import Shown

KEPT = 60.0
"""Time, in seconds, for which a mark is kept. Cursors are saved every 2 s, and log lines are read at most 1 s late."""
MOST = 64
"""Maximum number of marks of each kind. Many marks are needed because each process has its own log in OpenCode before
1.17.
"""
GRAIN = 0.001
"""Precision, in seconds, of times in the file."""

Identity = tuple[int, int]
"""Device and inode, which identify a log."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A position in a log. Attempts up to `offset` with timestamps up to `time` were counted. `made` is when the mark
    was made, in epoch seconds.
    """

    offset: int
    time: float
    made: float


class Counted:
    """The marks of counted attempts. `again` must be called for each attempt, in the order in which the attempts are
    read. The result of `as_json` is stored.
    """

    def __init__(self, value: object = None, now: float = 0.0) -> None:
        """Read the marks from the blacklist's field `counted`, which may contain any value. `now` is in
        epoch seconds.
        """
        self._logs = {name: _Mark(offset, time, now) for name, offset, time in _logs(value)}
        self._endpoints = {shown.session: (shown, now) for shown in _endpoints(value)}
        self._before = dict(self._logs)
        """Marks of earlier runs. A log's mark is removed as soon as a newer attempt is read from that log."""

    def again(self, log: Identity | str | None, event: LimitEvent, now: float) -> bool:
        """Return whether an earlier run has counted this attempt. If not, mark it as counted.

        `log` is a log file, or the session whose durable log (OpenCode 2) contains the attempt. If a file was truncated
        or its inode was reused, its attempts have later timestamps than the mark, so they are counted.
        """
        known_at = event.offset if event.known_at is None else event.known_at
        if log is None or known_at is None:
            return False
        name = log if isinstance(log, str) else f"{log[0]}:{log[1]}"
        before = self._before.get(name)
        if before is not None and known_at <= before.offset and event.time <= before.time + GRAIN:
            return True
        self._before.pop(name, None)
        last = self._logs.pop(name, None)
        self._logs[name] = _Mark(known_at, max(event.time, last.time) if last else event.time, now)
        _bound(self._logs, [key for key, mark in self._logs.items() if now - mark.made > KEPT])
        return False

    def show(self, shown: Shown, now: float) -> None:
        """Mark as counted an attempt that was read from an endpoint."""
        self._endpoints.pop(shown.session, None)
        self._endpoints[shown.session] = shown, now
        _bound(self._endpoints, [session for session, (_, made) in self._endpoints.items() if now - made > KEPT])

    def shown(self) -> list[Shown]:
        """Return the counted attempts that were read from endpoints in the previous run and in this run."""
        return [shown for shown, _ in self._endpoints.values()]

    def as_json(self) -> dict[str, object]:
        """Return the value for the field `counted` of the blacklist."""
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


def _endpoints(value: object) -> Iterator[Shown]:
    for session, mark in _part(value, "doors"):
        message, attempt = mark.get("message"), mark.get("attempt")
        with suppress(ValueError):
            if type(attempt) is int and isinstance(message, str | None):
                model, time = ModelRef.parse(str(mark.get("model"))), from_rfc3339(str(mark.get("time")))
                yield Shown(session, model, message, attempt, time)
