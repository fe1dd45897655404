"""Decide what to do with refused attempts in OpenCode 2, whose `retry` hook queries ocwatchd before OpenCode continues.
The module is pure.

After a move, the same step continues on the fallback. Nothing is stopped, so a session can be moved regardless of its
other activity. The hook can also hold the attempt, that is, keep OpenCode waiting until a model is available. Only this
module ends a hold, because OpenCode offers no other way to shorten the wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, UnixAddress
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import Certainty, ModelRef, ResetSource
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.assess import refusal_of
from ocwatchd.core.engine.cooldown_changes import CooldownChanges
from ocwatchd.core.engine.decide import ENDING, RECHECK, Decider, worth_waiting
from ocwatchd.core.engine.messages import (
    Acted,
    Answer,
    Asked,
    Effect,
    Failure,
    Move,
    MoveEnded,
    Note,
    Verified,
    WhatNext,
)
from ocwatchd.core.engine.session import Doing, EngineContext, TrackedSession, TrackedSessions
from ocwatchd.core.policy import Mode, WhenExhausted

SAME = 1.5
"""Maximum time, in seconds, between a query from the hook and OpenCode's own event about the same refused attempt.
OpenCode publishes the event when the hook has returned, and does not retry until at least 2 s later.
"""
AFTER_RETURN = 0.05
"""Time, in seconds, between the end of a model's cooldown and the continuation of a held attempt."""
MAX_MADE = 500
"""Maximum number of stored moves for which the plugin has not yet reported a result."""
MAX_HELD = 200
"""Maximum number of attempts that are held simultaneously. Further attempts are left to OpenCode."""


@dataclass(slots=True)
class _OpenQuestion:
    """A query whose outcome has not been reported yet. `until` is when the hold of the attempt ends (epoch seconds;
    None: it is not held).
    """

    asked: Asked
    model: ModelRef
    until: float | None = None
    move: tuple[str, Order] | None = None


class Questions:
    """Responds to queries from the `retry` hook about refused attempts."""

    def __init__(
        self, context: EngineContext, registrar: CooldownChanges, decider: Decider, sessions: TrackedSessions
    ) -> None:
        """Initialize the object; no query has arrived yet."""
        self._context, self._registrar, self._decider, self._sessions = context, registrar, decider, sessions
        self._open: dict[int, _OpenQuestion] = {}
        self._decided: dict[tuple[str, ModelRef], float] = {}
        self._made: dict[int, MoveEnded] = {}
        """Moves that the plugin has made. They are stored until it reports whether the fallback answers."""

    def asked(self, question: Asked, now: float) -> list[Effect]:
        """Return the response to a query, preceded by the notes that must be written before it is sent."""
        event = refusal_of(question.failure, self._context.rules)
        model, untouched = event.ref, [Answer(question.number, WhatNext.UNTOUCHED)]
        if model is None or event.verdict.certainty is not Certainty.SURE:
            return list(untouched)
        tracked = self._sessions.of(question.failure.session, now)
        tracked.note_refusal(event.time)
        # OpenCode will also report this attempt in a separate event, which must not count as a second strike
        tracked.expect_line(model, max(now, event.time) + SAME)
        effects = [] if self._context.cooldowns.lifted_since(event) else self._registrar.enter(event, True, now)
        entry = self._context.cooldowns.cooling(model, now)
        busy = tracked.moving or tracked.moves_within_hour(now) >= self._context.policy.moves_per_hour
        if entry is None or busy or self._context.policy.mode is not Mode.AUTO:
            _probe_soon(tracked, model, now)
            return [*effects, *untouched]
        decided = self._decide(_OpenQuestion(question, model), tracked, entry, now)
        answered = any(isinstance(effect, Answer) for effect in decided)
        if not answered and tracked.doing is not Doing.STUCK:
            _probe_soon(tracked, model, now)
        return [*effects, *decided, *([] if answered else untouched)]

    def _decide(self, opened: _OpenQuestion, tracked: TrackedSession, entry: Cooldown, now: float) -> list[Effect]:
        """Return the effects of holding the attempt or moving the session, or an empty list if the attempt is left to
        OpenCode.
        """
        snapshot = _snapshot(opened, now)
        wait, why = worth_waiting(self._context.policy, snapshot, entry, now, tracked.waiting_since)
        reported = entry.reset_source is not ResetSource.ESTIMATE
        if wait and reported and entry.until is not None:
            return self._hold(opened, tracked, entry.until, now, notes=[notes.wait(snapshot, why)])
        if wait and opened.asked.delay is not None:
            tracked.wait_since(now)
            return []
        return self._move(opened, tracked, snapshot, why, now)

    def _move(
        self, opened: _OpenQuestion, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float
    ) -> list[Effect]:
        """Respond with the fallback. If no model is available, hold the attempt until the first one is available
        again.
        """
        effects: list[Effect] = []
        for effect in self._decider.move(tracked, snapshot, why, now):
            if isinstance(effect, Move):
                opened.move, opened.until = (effect.claim, effect.order), None
                self._open[opened.asked.number] = opened
                self._decided[opened.asked.failure.session, opened.model] = now
                effects.append(Answer(opened.asked.number, WhatNext.MOVE, effect.order.target))
            elif isinstance(effect, Note):
                # the turn is still running, so a crash now needs no recovery from the journal
                effects.append(replace(effect, durable=False))
            else:
                effects.append(effect)
        if opened.move is not None or self._context.policy.when_exhausted is WhenExhausted.NOTIFY:
            return effects
        ends = [
            end
            for known in self._context.cooldowns.entries()
            if (end := known.until) is not None
            and end > now
            and known.model in (opened.model, opened.model.whole_provider)
        ]
        until = tracked.wake or (max(ends) if ends else None)
        return [*effects, *(self._hold(opened, tracked, until, now, notes=[]) if until is not None else [])]

    def _hold(
        self, opened: _OpenQuestion, tracked: TrackedSession, until: float, now: float, *, notes: Iterable[Effect]
    ) -> list[Effect]:
        if opened.until is None and len(self._open) >= MAX_HELD:
            return []
        first, opened.until = opened.asked.number not in self._open, until + AFTER_RETURN
        self._open[opened.asked.number] = opened
        tracked.hold(opened.until)
        self._decided[opened.asked.failure.session, opened.model] = now
        return [*notes, Answer(opened.asked.number, WhatNext.HOLD, until=opened.until)] if first else []

    def due(self, now: float) -> list[Effect]:
        """Return the responses for held attempts that can continue because their model or a fallback is available."""
        effects: list[Effect] = []
        self._decided = {key: at for key, at in self._decided.items() if now - at < SAME or self._holds(*key)}
        for number, opened in list(self._open.items()):
            if opened.until is None:
                continue
            tracked = self._sessions.of(opened.asked.failure.session, now)
            entry = self._context.cooldowns.cooling(opened.model, now)
            if entry is None or now >= opened.until:
                opened.until = None
                self._decided[opened.asked.failure.session, opened.model] = now
                effects.append(Answer(number, WhatNext.RETRY))
                continue
            snapshot = _snapshot(opened, now)
            wait, why = worth_waiting(self._context.policy, snapshot, entry, now, tracked.waiting_since)
            if not wait and self._context.policy.mode is Mode.AUTO and not tracked.moving:
                effects += self._move(opened, tracked, snapshot, why, now)
        return effects

    def _holds(self, session: str, model: ModelRef) -> bool:
        return any(opened.asked.failure.session == session and opened.model == model for opened in self._open.values())

    def next_due(self) -> float | None:
        """Return when the next held attempt continues, in epoch seconds, or None if no attempt is held."""
        return min((opened.until for opened in self._open.values() if opened.until is not None), default=None)

    def decided(self, failure: Failure, now: float) -> bool:
        """Return whether this failure, which OpenCode's events report, was already handled in response to the hook's
        query.
        """
        if failure.model is None or failure.final:
            return False
        at = self._decided.get((failure.session, failure.model))
        return at is not None and (now - at < SAME or self._holds(failure.session, failure.model))

    def acted(self, news: Acted, now: float) -> MoveEnded | None:
        """Handle the plugin's report that it has carried out the decision or has failed to do so, or the loss of the
        connection. Return the result of the move, or None if no move was decided.
        """
        opened = self._open.pop(news.number, None)
        if opened is None:
            return None
        session = opened.asked.failure.session
        if all(other.asked.failure.session != session for other in self._open.values()):
            self._sessions.of(session, now).release(now)
        if news.done:
            # OpenCode's own event about this attempt arrives later and must be recognized
            self._decided[opened.asked.failure.session, opened.model] = now
        else:
            self._decided.pop((opened.asked.failure.session, opened.model), None)
        if opened.move is None:
            self._sessions.of(opened.asked.failure.session, now).wake_at(now + RECHECK)
            return None
        claim, order = opened.move
        if not news.done:
            return MoveEnded(claim, order, MoveOutcome(MoveResult.REFUSED, news.why, order.snapshot))
        why = f"{order.target.model} takes over in the same step"
        end = MoveEnded(claim, order, MoveOutcome(MoveResult.SWITCHED, why, order.snapshot))
        self._made[news.number] = end
        while len(self._made) > MAX_MADE:
            del self._made[next(iter(self._made))]
        return end

    def verified(self, news: Verified, now: float) -> MoveEnded | None:
        """Return the plugin's result for a move that it made, or None if the result is already known.

        If no endpoint shows the session, for example because the server's password is unknown, there is no other report
        of the result.
        """
        end = self._made.pop(news.number, None)
        tracked = self._sessions.of(end.order.session, now) if end is not None else None
        if end is None or tracked is None or tracked.switched is None or tracked.switched.claim != end.claim:
            return None
        if tracked.moving:  # a later move is in progress, and its result will follow
            return None
        target = end.order.target.model
        if news.answers:
            return replace(end, outcome=replace(end.outcome, result=MoveResult.MOVED, why=f"{target} answers"))
        return replace(
            end, outcome=MoveOutcome(MoveResult.FAILED, news.why or "the fallback did not start to answer", None)
        )

    def not_made(self, end: MoveEnded, now: float) -> None:
        """Probe the session after a move that the plugin did not make, for example because ocwatchd's response arrived
        too late.
        """
        tracked, model = self._sessions.of(end.order.session, now), end.order.origin
        if end.outcome.result is MoveResult.REFUSED and model is not None:
            _probe_soon(tracked, model, now)

    def clock_set(self, step: Step) -> None:
        """Adjust times that were recorded before the clock was set."""
        for opened in self._open.values():
            opened.until = None if opened.until is None else step.due(opened.until)
        self._decided = {key: step.remembered(at) for key, at in self._decided.items()}


def _probe_soon(tracked: TrackedSession, model: ModelRef, now: float) -> None:
    """Schedule a probe for the time when OpenCode has begun to wait or has ended the turn. Record that the refused
    attempt is already counted.
    """
    tracked.count(model)
    tracked.wake_at(now + ENDING)


def _snapshot(opened: _OpenQuestion, now: float) -> SessionSnapshot:
    """Return a snapshot of the session that is built from the hook's query."""
    failure, delay = opened.asked.failure, opened.asked.delay
    return SessionSnapshot(
        session=failure.session,
        directory=opened.asked.directory or "",
        endpoint=Endpoint(
            UnixAddress("retry hook"), pid=opened.asked.pid, directory=opened.asked.directory, generation=2
        ),
        state=SessionState.RETRY,
        seen=now,
        attempt=opened.asked.attempt,
        next_at=now + (delay or 0.0),
        message=failure.facts.message,
        model=opened.model,
        agent=failure.agent,
        prompt_model=opened.model,
        refusal=replace(failure.facts),
        switchable=True,
        needs=opened.asked.needs,
    )
