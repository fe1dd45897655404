"""Decide whether a turn is limited and what to do about it. The evidence comes from the log and from an endpoint's
snapshot of the session.

A retry status alone proves nothing, because OpenCode 1.18.14 and later retry a 400 that merely quotes a limit. A
Retry-After that OpenCode honors does prove a limit: the time of the next attempt then does not fit OpenCode's own
backoff.
"""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.classify.reset_times import find_hint, from_headers
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.backoff import NATIVE_FIRST, NATIVE_JITTER, is_native_delay
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.types import (
    WEB_PAGE,
    Certainty,
    ErrorDetails,
    Hint,
    LimitEvent,
    LimitKind,
    ModelRef,
    ResetSource,
    Scope,
    Verdict,
)
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.cooldown_changes import CooldownChanges
from ocwatchd.core.engine.decide import ENDING, RECHECK, Decider, unanswered_since_its_process_ended
from ocwatchd.core.engine.guards import EMPTY_STEPS, rejected, silent
from ocwatchd.core.engine.messages import Effect, Failure, Shown, TroubleReported
from ocwatchd.core.engine.rescue import FailureJudge, StallJudge
from ocwatchd.core.engine.session import Doing, EngineContext, TrackedSession
from ocwatchd.core.policy import Mode
from ocwatchd.core.text.amounts import span
from ocwatchd.core.text.redact import reason_of

EXACT_SLACK = 0.25
"""Maximum time, in seconds, between a failure's log line (with a timestamp in milliseconds) and the status that follows
it. Measured: less than 0.05.
"""
SEEN_SLACK = 0.5
"""Tolerance, in seconds, for the length of a wait that is counted from the probe because the time of the failure is
unknown.
"""
FACT_AGE = 1.9
"""Maximum age, in seconds, at which a report about a refused attempt is used. An older report may be about the previous
attempt: OpenCode's own retries are 2 s apart, and the log is up to 1 s late.
"""
FIRST_AGE = 10.0
"""Maximum age, in seconds, at which a report about a turn's first refused attempt is used. Such a report cannot be
about a previous attempt. Reports were up to 2 s late on a loaded machine.
"""
ANSWERED = 200
"""HTTP status of a response that OpenCode treats as an answer."""
ANSWER_AGE = 30.0
"""Time, in seconds, for which the plugin's report about a response that is not an answer is used. Each request causes a
new report.
"""
LONGEST = 31 * 86400.0
"""Maximum plausible cooldown, in seconds. A longer cooldown is shortened to this value."""


def honoured_until(snapshot: SessionSnapshot, failed_at: float | None) -> Hint | None:
    """Return the reset time implied by OpenCode's next attempt, or None if the time of that attempt fits OpenCode's own
    backoff.

    `failed_at` is the time of the failure, if a log contains it to the millisecond; otherwise, it is None.
    """
    if snapshot.state is not SessionState.RETRY or snapshot.next_at is None or snapshot.next_at <= snapshot.seen:
        return None
    attempt = snapshot.attempt or 1
    if snapshot.honoured is not None:
        own = not snapshot.honoured
    elif failed_at is not None:
        own = is_native_delay(attempt, snapshot.next_at - failed_at, EXACT_SLACK)
    else:
        # The time between the failure and the probe is unknown, so only a wait longer than any backoff is conclusive.
        longest = NATIVE_FIRST * 2.0 ** min(attempt - 1, 64) * (1 + NATIVE_JITTER)
        own = snapshot.next_at - snapshot.seen <= longest + SEEN_SLACK
    if own:
        return None
    until = min(snapshot.next_at, snapshot.seen + LONGEST)
    tamed = None if until == snapshot.next_at else "more than 31 days"
    return Hint(until, until - snapshot.seen, ResetSource.STATUS, "OpenCode's next attempt", tamed=tamed)


def moment_of(snapshot: SessionSnapshot, *reported: float | None) -> float | None:
    """Return when the refused attempt in the snapshot happened: the first of the `reported` times that cannot belong to
    the previous attempt. Return None if there is no such time. Times are epoch seconds.
    """
    age = FIRST_AGE if snapshot.attempt == 1 else FACT_AGE
    return next((time for time in reported if time is not None and snapshot.seen - time < age), None)


def fact_about(snapshot: SessionSnapshot, fact: TroubleReported | None) -> TroubleReported | None:
    """Return the plugin's report if it is recent enough to be about the refused attempt in the snapshot; otherwise,
    None.

    An older report may be about the previous attempt, because OpenCode's own retries are 2 s apart.
    """
    if fact is None or snapshot.seen - fact.time >= FACT_AGE or snapshot.state is not SessionState.RETRY:
        return None
    return fact if fact.model in (None, str(snapshot.model)) else None


def header_hint(fact: TroubleReported | None) -> Hint | None:
    """Return the reset time from the Retry-After header that the plugin reported, or None."""
    return from_headers(fact.facts.headers, fact.time) if fact is not None and fact.facts is not None else None


def judge(
    snapshot: SessionSnapshot,
    rules: RuleSet,
    reported: Hint | None,
    fact: TroubleReported | None = None,
    *,
    looping: bool = False,
) -> LimitEvent | None:
    """Return the refused attempt that the endpoint shows, as an event, or None if there is no such attempt.

    The verdict is SURE if the message, or the status that the plugin reported, proves a limit. The verdict is also SURE
    if the message names no other cause and OpenCode honors a Retry-After: either a time in the future (`reported`), or
    a time in the past, which makes OpenCode retry without a pause (`looping`).
    """
    if snapshot.state is SessionState.ERROR and snapshot.last_error is not None:
        facts = snapshot.last_error
    elif snapshot.state is SessionState.RETRY:
        facts = snapshot.refusal or details_from_text(
            snapshot.message, fact.facts.status if fact and fact.facts else None
        )
    elif looping:
        facts = ErrorDetails("refused again and again without a pause")
    else:
        return None
    verdict = _honoured(verdict_of(facts, rules), reported, looping)
    failed_at = snapshot.answer_ended if snapshot.state is SessionState.ERROR else None
    hint = reported or find_hint(facts, failed_at or snapshot.seen, verdict.kind)
    return event_of(snapshot, facts, verdict, hint)


def refusal_of(failure: Failure, rules: RuleSet) -> LimitEvent:
    """Return the classified event of a failure that OpenCode's own events reported."""
    verdict = _honoured(verdict_of(failure.facts, rules), failure.hint)
    model = failure.model
    return LimitEvent(
        time=failure.time,
        provider=model.provider if model else None,
        model=model.model if model else None,
        session=failure.session,
        agent=failure.agent,
        small=False,
        status=failure.facts.status,
        verdict=verdict,
        hint=failure.hint or find_hint(failure.facts, failure.time, verdict.kind),
        reason=reason_of(failure.facts.message),
        file=f"events of {failure.session}",
        offset=failure.number,
    )


def verdict_of(facts: ErrorDetails, rules: RuleSet) -> Verdict:
    """Return the verdict of the rules. If no rule matches, use the kind that OpenCode itself assigned to the error,
    unless the status contradicts it.
    """
    verdict = rules.classify(facts)
    if verdict.certainty is Certainty.UNKNOWN and facts.typed is not None and facts.status in (None, 200, 429):
        return Verdict(
            Certainty.SURE, facts.typed, Scope.MODEL, "opencode-type", "according to OpenCode's own error type"
        )
    return verdict


def _honoured(verdict: Verdict, reported: Hint | None, looping: bool = False) -> Verdict:
    """Turn an inconclusive verdict into a proven limit if OpenCode is waiting for a time that the provider reported
    (`reported`); otherwise, return the verdict unchanged.

    Retries without a pause (`looping`) also prove a limit, because OpenCode retries in this way if the reported time
    has passed.
    """
    if verdict.certainty not in (Certainty.DOUBTFUL, Certainty.UNKNOWN) or not (reported or looping):
        return verdict
    rule, why = (
        ("retry-after-honoured", "OpenCode waits longer than its own backoff would: the provider reported a time")
        if reported is not None
        else ("retry-after-past", "OpenCode retries without a pause: the provider reported a time that has passed")
    )
    kind, scope = verdict.kind or LimitKind.RATE_LIMIT, verdict.scope or Scope.MODEL
    return Verdict(Certainty.SURE, kind, scope, rule, why)


def instead_of_answer(snapshot: SessionSnapshot, fact: TroubleReported | None) -> ErrorDetails | None:
    """Return the response that, according to the plugin, arrived in place of an answer. Return None if the report is
    not recent or is about another model.
    """
    if fact is None or fact.facts is None or fact.facts.status != ANSWERED:
        return None
    recent = snapshot.seen - fact.time < ANSWER_AGE and fact.model in (None, str(snapshot.model))
    # A status of 200 neither proves nor excludes a limit, so it is replaced by the status that the body contains.
    return replace(fact.facts, status=details_from_text(fact.facts.body).status) if recent else None


def event_of(snapshot: SessionSnapshot, facts: ErrorDetails, verdict: Verdict, hint: Hint | None) -> LimitEvent:
    """Return the refused attempt of the snapshot's turn as an event."""
    model = snapshot.model
    return LimitEvent(
        time=(snapshot.answer_ended or snapshot.seen) if snapshot.state is SessionState.ERROR else snapshot.seen,
        provider=model.provider if model else None,
        model=model.model if model else None,
        session=snapshot.session,
        agent=snapshot.agent,
        small=False,
        status=facts.status,
        verdict=verdict,
        hint=hint,
        reason=reason_of(facts.message),
    )


JUST_AFTER = 0.001
"""Minimum time, in seconds, between a refused attempt and OpenCode's next attempt."""
FRESH = 60.0
"""Maximum age, in seconds, at which a failed turn is still moved."""
MAX_DOUBTFUL = 500
"""Maximum number of different inconclusive retry messages that one run of the daemon writes to the journal."""


FROZEN_WAIT, FROZEN_ATTEMPTS = 600.0, 8
"""The user is notified if OpenCode's own retry waits longer than the first value, in seconds, or if the number of
consecutive attempts reaches the second. Versions up to 1.3 retry a refused connection indefinitely, and all versions
obey a Retry-After of weeks.
"""


def frozen(snapshot: SessionSnapshot, now: float) -> str | None:
    """Return why a session that is waiting in OpenCode's own retry will not continue soon, or None if it may continue
    soon.
    """
    attempts, wait = snapshot.attempt or 1, (snapshot.next_at or now) - now
    words = reason_of(snapshot.message, 200) or "no reason is known"
    if wait > FROZEN_WAIT:
        return (
            f"OpenCode waits {span(wait)} before it tries {snapshot.model} again, although no limit is known: {words}"
        )
    if attempts >= FROZEN_ATTEMPTS:
        return f"{snapshot.model} has failed {attempts} times in a row, although no limit is known: {words}"
    return None


class Assessor:
    """Decides what to do about a session, given its state. It handles one session at a time."""

    def __init__(
        self,
        context: EngineContext,
        registrar: CooldownChanges,
        decider: Decider,
        stalls: StallJudge,
        failures: FailureJudge,
    ) -> None:
        """Store the parts of the engine that this object uses. `registrar` records the limits that are found, and
        `decider` decides what to do about limited turns. `stalls` handles silent answers, and `failures` handles
        failures that are not limits.
        """
        self._context, self._registrar, self._decider = context, registrar, decider
        self._stalls, self._failures = stalls, failures
        self._unknown_words: set[str] = set()

    def assess(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect]:
        """Return the effects that result from a snapshot of this session."""
        pending = tracked.take_limit()
        tracked.begin_message(snapshot.user_message)
        closed = [*self._decider.found_after(tracked, snapshot), *self._decider.after_switch(tracked, snapshot)]
        return [*closed, *self._assess(tracked, snapshot, pending, now)]

    def _assess(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, pending: LimitEvent | None, now: float
    ) -> list[Effect]:
        if tracked.stranded and _stopped_unanswered(snapshot) and not _stopped_since(tracked, snapshot):
            return self._decider.move(tracked, snapshot, "an earlier move stopped the turn", now)
        if snapshot.aborted:
            tracked.note_limit(pending)
            return self._decider.stopped(tracked)
        gone = tracked.turn is not None and not tracked.turn.waits_in(snapshot)
        dropped = self._decider.unpark(tracked, snapshot) if gone else []
        return dropped + self._assess_trouble(tracked, snapshot, pending, now)

    def _assess_trouble(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, pending: LimitEvent | None, now: float
    ) -> list[Effect]:
        if snapshot.empty_steps and snapshot.state is SessionState.BUSY and silent(snapshot):
            return self._assess_empty(tracked, snapshot, now)
        stalled = self._stalls.assess_cut(tracked, snapshot, now)
        if stalled is None:
            stalled = self._stalls.assess(tracked, snapshot, now)
        if stalled is not None:
            tracked.note_limit(pending)
            return stalled
        tracked.note_attempts(snapshot)
        waits = snapshot.state is SessionState.RETRY
        looping = tracked.looping(now) and (waits or (snapshot.state is SessionState.BUSY and silent(snapshot)))
        if tracked.parked and unanswered_since_its_process_ended(tracked, snapshot):
            return self._decider.cut_off(tracked, snapshot, now)
        if not (snapshot.stuck or looping) or snapshot.model is None:
            return self._assess_progress(tracked, snapshot, pending, now)
        failed_at = moment_of(snapshot, _exact_time(pending, snapshot.model), tracked.take_reported_at())
        fact = fact_about(snapshot, tracked.fact)
        reported = header_hint(fact) or honoured_until(snapshot, failed_at)
        unknown = self._context.cooldowns.cooling(snapshot.model, now) is None
        shown = judge(snapshot, self._context.rules, reported, fact, looping=looping and unknown)
        effects, limited = self._assess_evidence(tracked, snapshot, pending, shown, reported, now)
        # The cause may have changed during the retries, so use the error that ended them.
        other = shown is not None and not waits and shown.verdict.certainty is Certainty.NO
        limited = limited or (tracked.turn is not None and not other)
        entry = self._context.cooldowns.cooling(snapshot.model, now)
        # a pause keeps new prompts away from the model, but proves nothing about this turn
        if entry is not None and entry.paused:
            entry = None
        if limited and entry is None:
            cleared = shown is not None and self._context.cooldowns.lifted_since(shown)
            further = self._decider.free_again(tracked, snapshot, cleared, now)
            if further is not None:
                return effects + further
        # A turn is stuck if it waits for a retry on a model that is cooling down, regardless of the message. A failed
        # turn must itself show a limit.
        if entry is None or not (limited or looping or waits):
            words = None if limited else rejected(snapshot, now, FRESH)
            onwards: list[Effect] = []
            if shown is not None and not limited and tracked.origin in (None, snapshot.model):
                onwards = self._failures.assess(tracked, snapshot, shown, now)
            if words and not onwards:
                onwards = self._decider.rejected(tracked, snapshot, words, now)
            return effects + (onwards or self._wait_for_evidence(tracked, snapshot, now))
        return effects + self._decider.decide(tracked, snapshot, entry, now)

    def _assess_evidence(
        self,
        tracked: TrackedSession,
        snapshot: SessionSnapshot,
        pending: LimitEvent | None,
        shown: LimitEvent | None,
        reported: Hint | None,
        now: float,
    ) -> tuple[list[Effect], bool]:
        """Record a limit that the endpoint shows and the log does not contain. Return the effects, and whether this
        turn is limited.
        """
        model = snapshot.model
        if model is None:
            return [], False
        this = (model, snapshot.user_message, snapshot.attempt or 0)
        tracked.counted_as(this)
        if pending is not None and pending.ref == model and pending.verdict.certainty is Certainty.SURE:
            tracked.enter(this)
            return self._registrar.refine(tracked.session, model, reported, now, pending.verdict.kind), True
        if shown is None or shown.verdict.certainty is not Certainty.SURE or now - shown.time > FRESH:
            return [], False
        # The turn was parked because of this error, possibly by an earlier run, so the limit is not recorded again.
        parked = tracked.parked and (snapshot.answer_ended or now) <= tracked.parked_at
        if parked or tracked.entered == this or self._context.cooldowns.lifted_since(shown):
            tracked.enter(this)
            return [], True
        tracked.enter(this, snapshot.seen)
        return [Shown(tracked.session, *this, snapshot.seen), *self._registrar.enter(shown, True, now)], True

    def _assess_empty(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect]:
        """Handle a turn in which OpenCode repeats a request without receiving an answer. The plugin may have reported
        the responses.

        A limit in one of these responses is handled like a limit in any other error. Any other error, or a series of
        empty answers, counts as a failure of the model. A web page does not, because it would replace the answers of
        every provider.
        """
        model, facts = snapshot.model, instead_of_answer(snapshot, tracked.fact)
        if model is None:
            return []
        if facts is not None:
            verdict = self._context.rules.classify(facts)
            if verdict.certainty is Certainty.SURE:
                return self._assess_limit_as_answer(tracked, snapshot, facts, verdict, now)
        if snapshot.empty_steps < EMPTY_STEPS:
            tracked.wake_at(now + ENDING)
            return []
        tracked.note_loop(snapshot.seen)
        words = f"the model has sent {snapshot.empty_steps} empty answers in a row"
        if facts is not None and facts.name == WEB_PAGE:
            return self._decider.answered_by_page(tracked, snapshot, words, now)
        if facts is not None:
            words = f"the model has sent this instead of an answer: {reason_of(facts.message or facts.body, 200)}"
        return self._decider.unanswered(tracked, snapshot, words, now)

    def _assess_limit_as_answer(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, facts: ErrorDetails, verdict: Verdict, now: float
    ) -> list[Effect]:
        """Handle a limit in the body of a response with status 200."""
        model, effects = snapshot.model, list[Effect]()
        assert model is not None
        event = event_of(snapshot, facts, verdict, find_hint(facts, snapshot.seen, verdict.kind))
        this = (model, snapshot.user_message, 0)
        if tracked.entered != this and not self._context.cooldowns.lifted_since(event):
            effects = self._registrar.enter(event, True, now)
        tracked.enter(this)
        tracked.note_loop(snapshot.seen)
        entry = self._context.cooldowns.cooling(model, now)
        if entry is None:
            tracked.wake_at(now + RECHECK)
            return effects
        return effects + self._decider.decide(tracked, snapshot, entry, now)

    def _wait_for_evidence(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect]:
        """Schedule a check after the next attempt, because the message proves nothing. Journal the message so that a
        rule can be written for it.
        """
        tracked.finish("")
        if snapshot.state is not SessionState.RETRY:
            return []
        tracked.wake_at(max(now, snapshot.next_at or now) + RECHECK)
        if self._context.policy.mode is not Mode.OFF and (why := frozen(snapshot, now)):
            tracked.explain(f"frozen, although no limit is known: ocwatch redirect {quote(snapshot.session)}")
            if not tracked.note_frozen(snapshot.answer):
                return []
            return notes.frozen(snapshot, why)
        tracked.explain("retrying, although no limit is known")
        words = reason_of(snapshot.message, 200)
        if words in self._unknown_words or len(self._unknown_words) >= MAX_DOUBTFUL:
            return []
        self._unknown_words.add(words)
        return [notes.doubtful(snapshot, words)]

    def _assess_progress(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, pending: LimitEvent | None, now: float
    ) -> list[Effect]:
        """Handle a turn that is running or has ended successfully. An answer proves that its model is
        available again.
        """
        if pending is not None and pending.ref == snapshot.model:
            # OpenCode retried before the probe, and the result is not known yet.
            tracked.asked_again(pending.time + JUST_AFTER)
        if snapshot.state is SessionState.BUSY:
            if tracked.doing is Doing.WAITING or tracked.parked or tracked.stranded:
                tracked.probe_later(now)
            if snapshot.model != tracked.landed:
                tracked.explain("working")
            if snapshot.last_error is not None and now - (snapshot.answer_ended or 0.0) < FRESH:
                tracked.wake_at(now + ENDING)
            return []
        if _is_answered(snapshot):
            tracked.answered_after_all()
        # The recorded start of an answer is the start of its first attempt, which may have been refused. The time of
        # the retry is more exact.
        began = max(snapshot.answer_started or 0.0, tracked.retried_at)
        # The session may be using another model because another program moved it: `oc-smart` moves its own runs.
        same = tracked.entered is None or tracked.entered[0] == snapshot.model
        waited = tracked.doing is not Doing.NOTHING and snapshot.answer_completed and same
        # Keep the status phrase about the move while the session uses the target.
        tracked.finish(
            tracked.phrase if snapshot.model == tracked.landed and tracked.phrase.startswith("moved") else ""
        )
        return self._registrar.answered(snapshot, began) or ([notes.went_on(snapshot, began)] if waited else [])


def _is_answered(snapshot: SessionSnapshot) -> bool:
    return snapshot.state is SessionState.IDLE and snapshot.answer_completed and not snapshot.queued


def _stopped_unanswered(snapshot: SessionSnapshot) -> bool:
    """Return whether nothing is running and the last prompt has no answer."""
    answered = _is_answered(snapshot)
    return not answered and (snapshot.aborted or snapshot.state is SessionState.IDLE)


def _stopped_since(tracked: TrackedSession, snapshot: SessionSnapshot) -> bool:
    """Return whether the user has stopped an answer that is later than the one stopped by a move."""
    return snapshot.aborted and tracked.stopped_answer is not None and snapshot.answer != tracked.stopped_answer


def _exact_time(event: LimitEvent | None, model: ModelRef) -> float | None:
    """Return the failure's timestamp if it is exact to the millisecond, or None. A time in whole seconds comes from the
    log format before 1.17 and is not exact.
    """
    if event is None or event.ref != model or event.time == int(event.time):
        return None
    return event.time
