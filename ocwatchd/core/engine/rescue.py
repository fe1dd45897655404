"""Decide what to do with a turn whose model has stopped sending or fails for a reason other than a limit. The turn is
run again on its own model first, and then moved to a fallback.

The only sign that a stream has stalled is silence, because OpenCode waits for the next byte, for minutes or hours on
1.0 to 1.18. Silence is treated as a stall only if nothing but the model can end it, and only if two probes show it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.streams import MIN_CALL_PATIENCE
from ocwatchd.core.domain.types import Cause, Certainty, LimitEvent, LimitKind, ModelRef
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.cooldown_changes import CooldownChanges
from ocwatchd.core.engine.decide import ENDING, Decider
from ocwatchd.core.engine.guards import CUT_STEPS, may_have_stalled
from ocwatchd.core.engine.messages import Effect, Note
from ocwatchd.core.engine.session import EngineContext, TrackedSession
from ocwatchd.core.policy import SAME_FIRST, Mode
from ocwatchd.core.text.amounts import span

MAX_SAME = 3
"""Maximum number of times that a stalled prompt is run again on its own model because no fallback is available."""

MAX_PROMPTS = 1000
"""Maximum number of prompts for which the stalls of their subagents are counted."""


class StallJudge:
    """Decides what to do with a session whose model sends nothing."""

    def __init__(self, context: EngineContext, registrar: CooldownChanges, decider: Decider) -> None:
        """Store the parts of the engine that this object uses. `registrar` records the cooldown of a stalled model, and
        `decider` makes the moves.
        """
        self._context, self._registrar, self._decider = context, registrar, decider
        self._subagents: OrderedDict[tuple[str, str | None], tuple[Mapping[ModelRef, int], frozenset[ModelRef]]] = (
            OrderedDict()
        )
        """The stalls of a prompt's subagents: the number of stalls per model, and the models not to be used again. The
        key is the parent's session and user message.
        """

    def assess(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect] | None:
        """Return the effects for a running answer that has stalled, or None if the session is not known to be
        stalled.
        """
        usual = self._context.stall_after(str(snapshot.model), snapshot.endpoint.generation)
        model, silence = snapshot.model, tracked.silence_of(snapshot, now)
        if silence is None or usual is None or model is None or silence < usual or not may_have_stalled(snapshot):
            return None
        if snapshot.user_message is None:  # OpenCode 2 has not added the first prompt yet, so it has sent no request
            return None
        if silence < (patience := self._patience(snapshot, usual)):
            tracked.wake_at(now + patience - silence)
            return None
        if not tracked.fell_silent(snapshot.answer, silence):
            tracked.wake_at(now + ENDING)
            return []
        return self._stalled(tracked, replace(snapshot, silence=silence), model, now)

    def assess_cut(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect] | None:
        """Return the effects for a session whose latest answers were cut off (at least `CUT_STEPS` in a row), or None
        for any other session.

        In this case, OpenCode itself has already repeated the request to the session's own model several times.
        """
        model, policy = snapshot.model, self._context.policy
        if snapshot.cut_steps < CUT_STEPS or model is None or not may_have_stalled(snapshot):
            return None
        words = f"{model} has cut off its answer {snapshot.cut_steps} times in a row"
        always = f"{model} cuts off one answer after another"
        if policy.mode is not Mode.AUTO or Cause.STALL not in policy.move_on:
            return [] if policy.mode is Mode.OFF else self._decider.leave_stalled(tracked, snapshot, always, now)
        held = self._decider.held(tracked, snapshot, now, cause=Cause.STALL)
        if held is not None:
            return held
        if snapshot.parent is not None or not self._decider.has_fallback(tracked, snapshot, now):
            return self._decider.leave_stalled(tracked, snapshot, f"{always}, and no fallback is available", now)
        tracked.fail(model)
        effects = [notes.stalled(snapshot, words), *self._registrar.pause(snapshot, Cause.STALL, words, now)]
        return effects + self._decider.move(tracked, snapshot, words, now, cause=Cause.STALL)

    def _patience(self, snapshot: SessionSnapshot, usual: float) -> float:
        """Return how long, in seconds, this answer may stay silent. For a tool call, the time is extended unless the
        user configured it.
        """
        extended = self._context.policy.stall.after is None and snapshot.tool_running
        # OpenCode 2 reports a call while it is being written (`session.tool.input.delta`).
        return max(usual, MIN_CALL_PATIENCE) if extended and snapshot.endpoint.generation == 1 else usual

    def _stalled(self, tracked: TrackedSession, snapshot: SessionSnapshot, model: ModelRef, now: float) -> list[Effect]:
        words = f"{model} has sent nothing for {span(snapshot.silence or 0.0)}"
        if self._context.policy.mode is not Mode.AUTO:
            new = tracked.offer(f"stalled: {words}. Stop the turn and send the prompt again")
            return notes.stalled_offer(snapshot, words, self._context.policy.mode) if new else []
        held = self._decider.held(tracked, snapshot, now, cause=Cause.STALL)
        if held is not None:
            return held
        note, parent = notes.stalled(snapshot, words), self._decider.parent_of(snapshot)
        waits = self._decider.held_by_background(tracked, snapshot, now)
        if waits is not None:
            return [note, *waits] if waits else []
        if parent is None:
            return self._rescue(tracked, snapshot, model, note, words, now)
        # Each run of the parent's prompt starts a new subagent, so its failures are counted for the parent.
        prompt = parent.session, parent.user_message
        tracked.inherit_failures(*self._subagents.pop(prompt, ({}, frozenset())))
        effects = self._rescue(tracked, snapshot, model, note, words, now)
        self._subagents[prompt] = tracked.failures, tracked.failed_targets
        if len(self._subagents) > MAX_PROMPTS:
            self._subagents.popitem(last=False)
        return effects

    def _rescue(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, model: ModelRef, note: Note, words: str, now: float
    ) -> list[Effect]:
        before = tracked.failures_on(model)
        limited = self._context.cooldowns.cooling(model, now) is not None
        elsewhere = self._decider.has_fallback(tracked, snapshot, now)
        same = before < (self._context.policy.stall.retry_same if elsewhere else MAX_SAME)
        if same and not (limited and elsewhere):
            tracked.count_failure(model)
            if snapshot.parent is not None:
                return [note, *self._decider.move_stalled_parent(tracked, snapshot, words, now)]
            return [note, *self._decider.run_again(tracked, snapshot, words, now, Cause.STALL)]
        if not elsewhere:
            return self._decider.leave_stalled(tracked, snapshot, f"{words}, and no fallback is available", now)
        tracked.count_failure(model)
        tracked.fail(model)
        effects = [note, *self._registrar.pause(snapshot, Cause.STALL, words, now)]
        if snapshot.parent is not None:
            return effects + self._decider.move_stalled_parent(tracked, snapshot, words, now)
        return effects + self._decider.move(tracked, snapshot, words, now, cause=Cause.STALL)


RECENT_FAILURE = 60.0
"""Maximum age, in seconds, of a failed turn that is run again."""
_BY_RULE = {
    "server-trouble": Cause.SERVER_ERROR,
    "network": Cause.SERVER_ERROR,
    "authentication": Cause.AUTH,
    "model-missing": Cause.NOT_FOUND,
}
_BY_STATUS = {401: Cause.AUTH, 403: Cause.AUTH, 404: Cause.NOT_FOUND}


def cause_of(event: LimitEvent) -> Cause | None:
    """Return the cause for which the turn of a failed attempt may be moved, or None if other models would return the
    same error.
    """
    verdict, status = event.verdict, event.status
    if verdict.certainty is Certainty.SURE:
        return Cause.OVERLOAD if verdict.kind is LimitKind.OVERLOADED else Cause.LIMIT
    if verdict.certainty is not Certainty.NO:
        return None
    if status is not None and 500 <= status < 600:
        return Cause.SERVER_ERROR
    return _BY_RULE.get(verdict.rule or "") or _BY_STATUS.get(status or 0)


class FailureJudge:
    """Decides what to do with a turn that failed for a reason other than a limit, provided that `moveOn` names the
    cause.
    """

    def __init__(self, context: EngineContext, registrar: CooldownChanges, decider: Decider) -> None:
        """Store the parts of the engine that this object uses. `registrar` records the cooldown of a failing model, and
        `decider` makes the moves.
        """
        self._context, self._registrar, self._decider = context, registrar, decider

    def assess(self, tracked: TrackedSession, snapshot: SessionSnapshot, shown: LimitEvent, now: float) -> list[Effect]:
        """Return the effects for a failure that is not a limit. The list is empty if the turn is left to OpenCode.

        A single failure does not move a turn. The second attempt is either OpenCode's own retry or another run that
        ocwatchd starts.
        """
        cause, model, policy = cause_of(shown), snapshot.model, self._context.policy
        waits = snapshot.state is SessionState.RETRY
        cut = waits and snapshot.answer_spoke and (snapshot.attempt or 1) >= CUT_STEPS
        if cause is Cause.SERVER_ERROR and cut:  # the connection was reset in the middle of each answer
            cause = Cause.STALL
        if cause is None or cause not in policy.move_on or model is None or policy.mode is not Mode.AUTO:
            return []
        if now - shown.time > RECENT_FAILURE or snapshot.parent is not None:
            return []
        words, same = f"{model} fails: {shown.reason or cause.value}", policy.same_first.get(cause, SAME_FIRST)
        failures = (snapshot.attempt or 1) - 1 if waits else tracked.failures_on(model)
        if waits and failures < same and not self.too_long(snapshot, now):
            return []
        held = self._decider.held(tracked, snapshot, now, cause=cause)
        if held is not None:
            return held
        if not waits and failures < same:
            tracked.count_failure(model)
            return self._decider.run_again(tracked, snapshot, words, now, cause)
        if not self._decider.has_fallback(tracked, snapshot, now):
            return []
        tracked.fail(model)
        effects = self._registrar.pause(snapshot, cause, words, now)
        return effects + self._decider.move(tracked, snapshot, words, now, cause=cause)

    def too_long(self, snapshot: SessionSnapshot, now: float) -> bool:
        """Return whether OpenCode's wait for its next attempt is longer than `maxDelay`."""
        if snapshot.model is None or snapshot.next_at is None:
            return False
        return snapshot.next_at - now > self._context.policy.retry_for(snapshot.model).max_delay
