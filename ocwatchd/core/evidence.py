"""Is this turn limited, and until when? What a door shows is weighed together with what the log said.

A retry status alone proves nothing: OpenCode 1.18.14 and later retry a 400 that merely quotes a limit. A Retry-After
that OpenCode honours does: its next attempt then lies outside its own backoff.
"""

from __future__ import annotations

from dataclasses import replace

from ocwatchd.core.backoff import NATIVE_FIRST, NATIVE_JITTER, is_native_delay
from ocwatchd.core.facts import facts_from_text
from ocwatchd.core.hints import find_hint, from_headers
from ocwatchd.core.limits import (
    Certainty,
    ErrorFacts,
    Hint,
    LimitEvent,
    LimitKind,
    Scope,
    ToldBy,
    Verdict,
)
from ocwatchd.core.messages import Heard
from ocwatchd.core.reason import reason_of
from ocwatchd.core.rules import RuleSet
from ocwatchd.core.views import SessionState, SessionView

EXACT_SLACK = 0.25
"""Seconds between a failure's log line (millisecond clock) and the status that follows it; measured: under 0.05."""
SEEN_SLACK = 0.5
"""Seconds that may have passed between a failure and the moment a door was asked about it, beyond what is known."""
FACT_AGE = 1.9
"""Seconds after which what was told of a refusal may be about the one before: OpenCode's own retries lie 2 s apart. The
log is up to 1 s late."""
FIRST_AGE = 10.0
"""Seconds likewise for a turn's first refusal, which has none before it: a loaded machine was seen to look 2 s late."""
LONGEST = 31 * 86400.0
"""Seconds: no cooldown is believed to last longer."""


def honoured_until(view: SessionView, failed_at: float | None) -> Hint | None:
    """The end that OpenCode's next attempt tells, if it is not OpenCode's own backoff.

    `failed_at` is the failure's own time if a log with a millisecond clock told it, else None.
    """
    if view.state is not SessionState.RETRY or view.next_at is None or view.next_at <= view.seen:
        return None
    attempt = view.attempt or 1
    if failed_at is not None:
        own = is_native_delay(attempt, view.next_at - failed_at, EXACT_SLACK)
    else:
        # The failure lies an unknown while before the look, so only a wait longer than any backoff tells.
        longest = NATIVE_FIRST * 2.0 ** min(attempt - 1, 64) * (1 + NATIVE_JITTER)
        own = view.next_at - view.seen <= longest + SEEN_SLACK
    if own:
        return None
    until = min(view.next_at, view.seen + LONGEST)
    tamed = None if until == view.next_at else "more than 31 days"
    return Hint(until, until - view.seen, ToldBy.STATUS, "OpenCode's next attempt", tamed=tamed)


def moment_of(view: SessionView, *told: float | None) -> float | None:
    """When the refusal that the view shows happened, by the first witness who cannot mean the one before it."""
    age = FIRST_AGE if view.attempt == 1 else FACT_AGE
    return next((time for time in told if time is not None and view.seen - time < age), None)


def fact_about(view: SessionView, fact: Heard | None) -> Heard | None:
    """The plugin's fact, if it is about the refusal that the view shows: OpenCode's own retries lie 2 s apart."""
    if fact is None or view.seen - fact.time >= FACT_AGE or view.state is not SessionState.RETRY:
        return None
    return fact if fact.model in (None, str(view.model)) else None


def header_hint(fact: Heard | None) -> Hint | None:
    """The end that the Retry-After header told."""
    return from_headers(fact.facts.headers, fact.time) if fact is not None and fact.facts is not None else None


def judge(view: SessionView, rules: RuleSet, told: Hint | None, fact: Heard | None = None) -> LimitEvent | None:
    """The refusal that the door shows, as an event; None where the view shows none.

    The verdict is SURE if the words are, or the status that the plugin saw, or if words that name no other trouble come
    with a Retry-After that OpenCode honours (`told`).
    """
    if view.state is SessionState.ERROR and view.last_error is not None:
        facts = view.last_error
    elif view.state is SessionState.RETRY:
        facts = facts_from_text(view.message, fact.facts.status if fact and fact.facts else None)
    else:
        return None
    verdict = rules.classify(facts)
    if verdict.certainty in (Certainty.DOUBTFUL, Certainty.UNKNOWN) and told is not None:
        verdict = Verdict(
            Certainty.SURE,
            verdict.kind or LimitKind.RATE_LIMIT,
            verdict.scope or Scope.MODEL,
            "retry-after-honoured",
            "OpenCode waits longer than its own backoff: the provider named a time",
        )
    hint = told or find_hint(facts, view.seen, verdict.kind)
    return _event(view, facts, verdict, hint)


def better(event: LimitEvent, told: Hint | None) -> LimitEvent:
    """The event with the exact end, if the door knows one and the event has none from a header."""
    if told is None or (event.hint is not None and event.hint.told_by is ToldBy.RETRY_AFTER):
        return event
    return replace(event, hint=told)


def _event(view: SessionView, facts: ErrorFacts, verdict: Verdict, hint: Hint | None) -> LimitEvent:
    model = view.model
    return LimitEvent(
        time=(view.answer_ended or view.seen) if view.state is SessionState.ERROR else view.seen,
        provider=model.provider if model else None,
        model=model.model if model else None,
        session=view.session,
        agent=view.agent,
        small=False,
        status=facts.status,
        verdict=verdict,
        hint=hint,
        reason=reason_of(facts.message),
    )
