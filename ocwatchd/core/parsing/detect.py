"""Records of one log in, limits and the comings and goings of sessions out. Pure.

Sure limits, doubtful ones and errors that no rule knows are all yielded as LimitEvents: what is not SURE is for another
eye, and blocks or moves nothing alone. The records are made of a file's bytes by `reading`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from ocwatchd.core.attempts import Attempt, Attempts
from ocwatchd.core.limits import Certainty, LimitEvent, Verdict
from ocwatchd.core.liverules import Classifier
from ocwatchd.core.past import Past
from ocwatchd.core.reason import reason_of
from ocwatchd.core.record import Dialect, Kind, LogRecord
from ocwatchd.core.shapes import shape_of, speechless
from ocwatchd.core.turns import Turn

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_RUNS_KEPT = 256
"""Processes that may write one log at a time, generously."""

_LOOPS_KEPT = 256
_END_SLACK = 2.5
"""Seconds between a failure that ends a turn and the `cancel` that older versions write at every end (clock of 1 s)."""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A session asks a model. The tags of this record are right in every version."""

    session: str | None
    provider: str | None
    model: str | None
    agent: str | None
    small: bool | None
    time: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A session's turn is over, by itself."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A session's turn was stopped from outside: by its user, or by us."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A session exists; with a parent it is a subagent's."""

    session: str
    parent: str | None
    time: float


Seen = LimitEvent | StreamStarted | TurnEnded | Cancelled | SessionCreated


class Detector:
    """Feed it the records of one file in order; what they mean comes out. Bounded memory.

    `whole`: read from its beginning. `file` is entered into the events. `turns`: all starts of streams are
    fed, not only the failures of the new format.
    """

    def __init__(self, rules: Classifier, *, file: str | None = None, whole: bool = True, turns: bool = True) -> None:
        """Nothing was read yet."""
        self._rules = rules
        self._turns = turns
        self._file = file
        self.whole = whole
        self._runs: OrderedDict[str, Attempts] = OrderedDict()
        self._loops: OrderedDict[tuple[object, ...], list[LimitEvent]] = OrderedDict()
        self._puzzling: tuple[bytes, ...] | None = None
        self._last: OrderedDict[str | None, tuple[float, bool | None]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    @property
    def puzzled(self) -> bool:
        """Whether some session fails in words no rule knows."""
        return bool(self._loops)

    @property
    def puzzling(self) -> tuple[bytes, ...]:
        """The sessions that fail in words no rule knows, so that the shape of their retries has to tell."""
        if self._puzzling is None:
            self._puzzling = tuple({str(key[1]).encode() for key in self._loops})
        return self._puzzling

    def follow(self, *, turns: bool) -> None:
        """From here on the starts of streams are fed, or only failures."""
        self._turns = turns
        for attempts in self._runs.values():
            attempts.starts = turns

    def give_up(self) -> None:
        """Their retries were not seen for so long that there will be none."""
        self._loops.clear()
        self._puzzling = None

    def feed(self, record: LogRecord) -> list[Seen]:
        """What the record adds to what is known."""
        attempt = self._of_run(record.run).feed(record)
        if attempt is not None:
            return list(self._refused(attempt))
        return self._turned(record) if self._turns else []

    @property
    def tells_starts(self) -> bool:
        """Whether this log, of an old dialect, tells where streams begin, as far as it was read."""
        return self._of_run("").tells_starts

    def feed_past(self, past: Past) -> None:
        """What lies between two failures of such a log."""
        self._of_run("").feed_past(past)

    def feed_turns(self, turns: Iterable[Turn]) -> None:
        """What lies between two failures of one that does not."""
        self._of_run("").feed_turns(turns)

    def _of_run(self, run: str) -> Attempts:
        attempts = self._runs.get(run)
        if attempts is None:
            attempts = self._runs[run] = Attempts(whole=self.whole, starts=self._turns)
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(run)
        return attempts

    # ---- refusals

    def _refused(self, attempt: Attempt) -> list[LimitEvent]:
        who, record = attempt.who, attempt.record
        self._puzzling = None
        _put(self._last, who.session, (record.time, attempt.facts.retryable), _LOOPS_KEPT)
        if speechless(record, attempt.facts):
            return []
        verdict = self._rules.classify(attempt.facts)
        key = (record.run, who.session, who.provider, who.model, who.small)
        if verdict.certainty is not Certainty.UNKNOWN:
            self._loops.pop(key, None)
            return [] if verdict.certainty is Certainty.NO else [self._event(attempt, verdict)]
        shape = shape_of(attempt)
        before = self._loops.pop(key, []) if attempt.number > 1 else []
        if shape is None:
            event = self._event(attempt, verdict)
            if who.session is not None:
                _put(self._loops, key, [*before[-7:], event], _LOOPS_KEPT)
            return [event]
        # What its retry explains was a limit all along: those before are told once more, now surely.
        later = attempt.record.offset
        return [*(replace(event, verdict=shape, known_at=later) for event in before), self._event(attempt, shape)]

    def _event(self, attempt: Attempt, verdict: Verdict) -> LimitEvent:
        from ocwatchd.core.hints import find_hint  # with the first refusal: its expressions take 50 CPU ms to compile

        record, who, facts = attempt.record, attempt.who, attempt.facts
        hinted = verdict.certainty in (Certainty.SURE, Certainty.DOUBTFUL)
        return LimitEvent(
            time=record.time,
            provider=who.provider,
            model=who.model,
            session=who.session,
            agent=who.agent,
            small=who.small,
            status=facts.status,
            verdict=verdict,
            hint=find_hint(facts, record.time, verdict.kind) if hinted else None,
            reason=reason_of(facts.message or facts.body or facts.name or ""),
            file=self._file,
            offset=record.offset,
        )

    # ---- comings and goings

    def _turned(self, record: LogRecord) -> list[Seen]:
        kind, session, time = record.kind, record.session, record.time
        if kind is Kind.STREAM:
            self._ended.pop(session or "", None)
            return [StreamStarted(session, record.provider, record.model, record.agent, record.small, time)]
        if session is None:
            return []
        if kind is Kind.CREATED:
            return [SessionCreated(session, record.parent, time)]
        if kind is Kind.BUSY:
            self._ended.pop(session, None)
        if kind is Kind.ENDED:
            _put(self._ended, session, None, _LOOPS_KEPT)
            return [TurnEnded(session, time)]
        if kind is Kind.CANCEL:
            return self._stopped(record, session)
        return []

    def _stopped(self, record: LogRecord, session: str) -> list[Seen]:
        """From 1.0.98 to 1.3 `cancel` also stands at the end of every turn, and that is nobody's will."""
        if session in self._ended:
            return []
        if record.dialect is not Dialect.LOGFMT:
            for key in (session, None):
                when, retryable = self._last.get(key, (float("-inf"), None))
                if record.time - when <= _END_SLACK and retryable is not True:
                    return [TurnEnded(session, record.time)]
        return [Cancelled(session, record.time)]


def _put(table: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
