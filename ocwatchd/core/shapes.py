"""What the shape of failures tells where their words do not: that nobody answered, or that a retry loop is a limit."""

from __future__ import annotations

from ocwatchd.core.attempts import Attempt
from ocwatchd.core.backoff import NATIVE_FIRST, NATIVE_JITTER
from ocwatchd.core.limits import Certainty, ErrorFacts, LimitKind, Scope, Verdict
from ocwatchd.core.record import Dialect, Kind, LogRecord

_WAIT_SLACK = 4.0
"""Seconds beyond OpenCode's own backoff before a wait counts as an honoured Retry-After. A loaded machine was seen to
add 2; a Retry-After under that is over before anything could be done about it."""


def speechless(record: LogRecord, facts: ErrorFacts) -> bool:
    """Whether no provider has said anything: the connection broke, or something else than an answer was thrown.

    The old dialects log the status wherever there was an answer. The new one never does, so there an empty error may be
    a status without a reason phrase.
    """
    if record.dialect is Dialect.LOGFMT or record.kind is not Kind.FAILED or facts.status is not None:
        return False
    return record.url is not None or not (facts.message or facts.codes)


def shape_of(attempt: Attempt) -> Verdict | None:
    """What the shape of a retry loop in unknown words tells: from its second failure on, if anything.

    An error without any text comes from a status that has no standard reason phrase: 529 and its like. A wait beyond
    OpenCode's own backoff is a Retry-After, and only limits have one.
    """
    if attempt.number < 2:
        return None
    facts = attempt.facts
    if facts.name == "AI_APICallError" and not facts.message and not facts.codes and facts.status is None:
        why = "retried without any text: no standard status"
        return Verdict(Certainty.SURE, LimitKind.OVERLOADED, Scope.MODEL, "shape-empty", why)
    backoff = NATIVE_FIRST * 2.0 ** min(attempt.number - 2, 20) * (1 + NATIVE_JITTER)
    if attempt.waited is not None and attempt.waited > backoff + _WAIT_SLACK:
        why = f"OpenCode waited {attempt.waited:.0f} s, not its own {backoff:.0f}: the provider named a time"
        return Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "shape-retry-after", why)
    return None
