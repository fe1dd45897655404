"""Find limits, and the starts and ends of sessions' turns, in the records of one log. Pure functions and classes.

Definite limits, doubtful limits and errors that no rule matches all become LimitEvents. An event that is not SURE needs
a second source, and never causes a cooldown or a move alone. If no rule matches a failure, its form can still be
evidence: an error without text can show that no provider answered, and a long wait can show that a retry loop is a
limit.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

from ocwatchd.core.classify.rules import Classifier
from ocwatchd.core.domain.backoff import NATIVE_FIRST, NATIVE_JITTER
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitEvent, LimitKind, Scope, Verdict
from ocwatchd.core.parsing.attempts import Attempt, Attempts, Who
from ocwatchd.core.parsing.record import Dialect, Kind, LogRecord
from ocwatchd.core.text.amounts import span
from ocwatchd.core.text.redact import reason_of

_WAIT_SLACK = 4.0
"""Minimum time, in seconds, by which a wait must exceed OpenCode's own backoff to count as a Retry-After. On a loaded
machine, waits were up to 2 s longer. A Retry-After shorter than this time would end before ocwatchd could act.
"""


def no_provider_answered(record: LogRecord, facts: ErrorDetails) -> bool:
    """Return whether no provider answered because the connection broke or an exception other than an API error was
    thrown.

    The old dialects log the status of every answer. The new dialect never logs it, so an empty error in the new dialect
    may come from a status without a reason phrase.
    """
    if record.dialect is Dialect.LOGFMT or record.kind is not Kind.FAILED or facts.status is not None:
        return False
    return record.url is not None or not (facts.message or facts.codes)


def shape_of(attempt: Attempt) -> Verdict | None:
    """Return the verdict on a retry loop whose text no rule matches, from the second failure of the loop onward. Return
    None if the failure proves nothing.

    An error without any text comes from a status that has no standard reason phrase, such as 529. A wait longer than
    OpenCode's own backoff results from a Retry-After header, and only limits come with that header.
    """
    if attempt.number < 2:
        return None
    facts = attempt.facts
    if facts.name == "AI_APICallError" and not facts.message and not facts.codes and facts.status is None:
        why = "the error has no text, which means that its status code has no standard reason phrase"
        return Verdict(Certainty.SURE, LimitKind.OVERLOADED, Scope.MODEL, "shape-empty", why)
    backoff = NATIVE_FIRST * 2.0 ** min(attempt.number - 2, 20) * (1 + NATIVE_JITTER)
    if attempt.waited is not None and attempt.waited > backoff + _WAIT_SLACK:
        why = (
            f"OpenCode waited {span(attempt.waited)} instead of its own backoff of {span(backoff)}: "
            "the provider reported a time"
        )
        return Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "shape-retry-after", why)
    return None


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_RUNS_KEPT = 256
"""Maximum number of processes whose state is kept for one log. Far fewer processes write to a log simultaneously."""

_LOOPS_KEPT = 256
_END_SLACK = 2.5
"""Maximum time, in seconds, between a failure that ends a turn and the `cancel` that older versions write at the end of
every turn (their timestamps are in whole seconds).
"""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The start of a request that a session sends to a model. The tags of this record are correct in every version."""

    session: str | None
    provider: str | None
    model: str | None
    agent: str | None
    small: bool | None
    time: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A session's turn that ended normally."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A session's turn that was stopped from outside, by the user or by ocwatchd."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A session that was created. If it has a parent, it is a subagent's session."""

    session: str
    parent: str | None
    time: float


Seen = LimitEvent | StreamStarted | TurnEnded | Cancelled | SessionCreated


class Detector:
    """Converts the records of one file, fed in order, to events. Memory use is bounded.

    `whole`: whether the file is read from its beginning. `file` is the file name that the events contain. `turns`:
    whether the caller feeds the records of all stream starts, rather than only failures.
    """

    def __init__(self, rules: Classifier, *, file: str | None = None, whole: bool = True, turns: bool = True) -> None:
        """Initialize the state; no record has been read yet."""
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
    def has_unmatched(self) -> bool:
        """Whether any session is failing with a text that no rule matches."""
        return bool(self._loops)

    @property
    def unmatched(self) -> tuple[bytes, ...]:
        """The sessions that are failing with a text that no rule matches. Whether they are limited is inferred from the
        pattern of their retries.
        """
        if self._puzzling is None:
            self._puzzling = tuple({str(key[1]).encode() for key in self._loops})
        return self._puzzling

    def follow(self, *, turns: bool) -> None:
        """Set whether the following records include stream starts (`turns`) or only failures."""
        self._turns = turns
        for attempts in self._runs.values():
            attempts.starts = turns

    def give_up(self) -> None:
        """Discard unclassified failures, because so much time has passed that no retry will follow."""
        self._loops.clear()
        self._puzzling = None

    def feed(self, record: LogRecord) -> list[Seen]:
        """Return the events that result from this record."""
        if record.kind is Kind.DRAINED:
            return self._drained(record)
        attempt = self._of_run(record.run).feed(record)
        if attempt is not None:
            return list(self._refused(attempt))
        return self._turned(record) if self._turns else []

    def _drained(self, record: LogRecord) -> list[Seen]:
        """Return the event for an OpenCode 2 turn that ended because of a limit. The log does not name the model, but a
        probe of the session does.
        """
        facts = record.facts or ErrorDetails()
        verdict = self._rules.classify(facts)
        if verdict.certainty is Certainty.NO:
            return []
        return [self._event(Attempt(record, Who(session=record.session), facts), verdict)]

    def _of_run(self, run: str) -> Attempts:
        attempts = self._runs.get(run)
        if attempts is None:
            attempts = self._runs[run] = Attempts(whole=self.whole, starts=self._turns)
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(run)
        return attempts

    # ---- limits

    def _refused(self, attempt: Attempt) -> list[LimitEvent]:
        who, record = attempt.who, attempt.record
        self._puzzling = None
        _put(self._last, who.session, (record.time, attempt.facts.retryable), _LOOPS_KEPT)
        if no_provider_answered(record, attempt.facts):
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
        # The retry shows that the earlier failures were also limits. They are reported again as SURE.
        later = attempt.record.offset
        return [*(replace(event, verdict=shape, known_at=later) for event in before), self._event(attempt, shape)]

    def _event(self, attempt: Attempt, verdict: Verdict) -> LimitEvent:
        from ocwatchd.core.classify.reset_times import (
            find_hint,  # imported at the first limit, because compiling the expressions takes 50 ms of CPU time
        )

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

    # ---- starts and ends of turns

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
        """Return the events for a `cancel`. From 1.0.98 to 1.3, OpenCode also logs a `cancel` at the end of
        every turn.
        """
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
