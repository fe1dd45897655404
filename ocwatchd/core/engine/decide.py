"""Decide what to do with a limited turn: wait, leave it, move it, or give up until a model is available.

The module is long because the decisions about a limited turn are mutually exclusive, and keeping them side by side
makes that visible. A move is claimed before it is made.

The decisions about whether to wait and where to move are pure functions of the known state. If a probe does not show
the session, a line is written to the journal, because a daemon that reports nothing would appear to be inactive. The
probe is repeated, at short intervals at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from shlex import quote

from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.pools import pool_of
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState, UnixAddress
from ocwatchd.core.domain.types import Cause, Certainty, LimitEvent, LimitKind, ModelRef, ResetSource, Target
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.guards import (
    in_background,
    loses_background,
    replaced_model,
    waiting_for,
    work_in_progress,
)
from ocwatchd.core.engine.messages import Effect, Free, Move, MoveEnded, Note, Notify, Probed, Remember
from ocwatchd.core.engine.parking import HELD_RECHECK, FirstRuns, run_at
from ocwatchd.core.engine.session import HOUR, Doing, EngineContext, LimitedTurn, ParkedTurn, TrackedSession
from ocwatchd.core.fallback.choice import Choice, Chosen, Exhausted, agent_for, fallback, has_own_chain, onwards
from ocwatchd.core.fallback.considered import considered
from ocwatchd.core.policy import Mode, Policy, WhenExhausted
from ocwatchd.core.text.amounts import span


def worth_waiting(
    policy: Policy, snapshot: SessionSnapshot, entry: Cooldown, now: float, waiting_since: float | None = None
) -> tuple[bool, str]:
    """Return whether to leave the turn to OpenCode's own retry, with the reason.

    OpenCode's own retry handles a known wait up to `maxDelay`. While no reset time is known, the turn is left to
    OpenCode's own retries for `maxWait` in total, counted from `waiting_since` (epoch seconds; None: this is its first
    wait), but for at most `maxRetries` attempts. ocwatchd does not wait for a quota without a reset time, because the
    next attempt would also be refused.
    """
    if snapshot.state is SessionState.BUSY:
        return False, "OpenCode retries without a pause"
    if snapshot.state is not SessionState.RETRY or snapshot.model is None:
        return False, "OpenCode has given up"
    if not policy.wait:
        return False, "the configuration says never to wait"
    if entry.until is None:
        return False, "no reset time is known"
    retry = policy.retry_for(snapshot.model)
    if (snapshot.attempt or 0) > retry.max_retries:
        return False, f"refused {snapshot.attempt} times; maxRetries is {retry.max_retries}"
    reported = entry.reset_source is not ResetSource.ESTIMATE
    if not reported and entry.kind is LimitKind.QUOTA:
        return False, "the quota has no known reset time"
    remaining = max((entry.until if reported else (snapshot.next_at or now)) - now, 0.0)
    if remaining > retry.max_delay:
        return False, f"{span(remaining)} to wait; maxDelay is {span(retry.max_delay)}"
    in_all = remaining + (now - waiting_since if waiting_since is not None else 0.0)
    if not reported and in_all > retry.max_wait:
        return False, f"{span(in_all)} of retries without a known reset time; maxWait is {span(retry.max_wait)}"
    return True, f"{span(remaining)} to wait"


RECHECK = 3.0
"""Time, in seconds, from OpenCode's own next attempt to the check of its result. It doubles after each check while the
turn is still running.
"""
ENDING = 0.3
"""Time, in seconds, that OpenCode needs to end a turn after its answer has failed. Measured on 1.18.33 with twelve
simultaneous sessions: up to 0.1 s.
"""
BACKGROUND_RECHECK = 2.0
"""Interval, in seconds, between probes of a limited session with subagents that are working in the background. No event
reports that they have ended.
"""

RUN_RECHECK = 30.0
"""Interval, in seconds, between probes of a limited `opencode run`. No event reports that it has ended or that
`oc-smart` has moved it.
"""

MAX_RUN_AGAIN = 1000
"""Maximum number of stored ids of prompts that were run again because of a limited subagent."""

RIVAL_PATIENCE = 10.0
"""Time, in seconds, that is allowed for another fallback plugin to handle a turn. Five published plugins took 0.4 to
0.9 s to move a session whose limit they recognized. If ocwatchd moved a session at the same time, the two moves would
stop each other's runs. If the other plugin has not moved a session within this time, it does not recognize the limit.
"""


def _cause_of(entry: Cooldown) -> Cause:
    return Cause.OVERLOAD if entry.kind is LimitKind.OVERLOADED else Cause.LIMIT


class Decider:
    """Decides what to do with limited turns."""

    def __init__(self, context: EngineContext, claim_id: Callable[[], str], firsts: FirstRuns) -> None:
        """Store the parts of the engine that this object uses. `claim_id` returns a new name for each move, and
        `firsts` decides which parked session of a model runs first.
        """
        self._context, self._claim_id, self._firsts = context, claim_id, firsts
        self._exhausted: dict[frozenset[ModelRef], float] = {}
        self._run_again: set[tuple[str, str | None]] = set()
        """Prompts (session, user message) that were run again because of a limited subagent."""
        self._parents: dict[str, SessionSnapshot] = {}
        """The latest snapshot of each session that is waiting for a subagent."""

    def see_parents(self, snapshots: Iterable[SessionSnapshot]) -> None:
        """Record the current snapshots of the sessions that are waiting for a subagent."""
        self._parents = {snapshot.session: snapshot for snapshot in snapshots}

    def parent_of(self, snapshot: SessionSnapshot) -> SessionSnapshot | None:
        """Return the latest snapshot of the session that is waiting for this subagent, or None if it is unknown."""
        parent = self._parents.get(snapshot.parent or "")
        return waiting_for(snapshot.session, parent) if parent is not None else None

    def forget_exhausted(self, now: float | None = None) -> None:
        """Allow another notice about every chain in which a model is available at `now` (epoch seconds; None: about
        every chain).
        """
        self._exhausted = {key: end for key, end in self._exhausted.items() if now is not None and end > now}

    def decide(self, tracked: TrackedSession, snapshot: SessionSnapshot, entry: Cooldown, now: float) -> list[Effect]:
        """Return the effects for a turn whose model is cooling down. `entry` is the cooldown."""
        if self._context.policy.mode is Mode.OFF:
            return []
        tracked.limited(LimitedTurn.of(snapshot))
        wait, why = worth_waiting(self._context.policy, snapshot, entry, now, tracked.waiting_since)
        if wait:
            return self.let_wait(tracked, snapshot, why, now)
        if self._context.policy.mode is not Mode.AUTO:
            new = tracked.offer(f"limited on {snapshot.model}: ocwatch redirect {quote(snapshot.session)}")
            return notes.offer(snapshot, entry, self._context.policy.mode) if new else []
        if (named := _cause_of(entry)) not in self._context.policy.move_on:
            return self._leave(tracked, snapshot, f"limited, and `moveOn` does not name {named.value!r}")
        if (target := self._already_switched(tracked, snapshot, now)) is not None:
            return self.let_wait(tracked, snapshot, f"{target} takes over then", now)
        held = self.held(tracked, snapshot, now)
        if held is not None:
            return held
        if snapshot.parent is not None and not snapshot.switchable:
            return self._move_parent(tracked, snapshot, why, now)
        if snapshot.parent is not None and snapshot.state is SessionState.ERROR:
            return self._leave(
                tracked, snapshot, "the subagent has failed; the session that was waiting for it continues"
            )
        return self.move(tracked, snapshot, why, now)

    def free_again(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, since_cleared: bool, now: float
    ) -> list[Effect] | None:
        """Handle a limited turn whose model is no longer cooling down. If OpenCode will not retry soon, the turn is run
        again on that model.

        OpenCode versions since 1.18.17 give up after 73 s, and they wait for a Retry-After of hours even after the user
        has cleared the cooldown. Return None if the failed turn is not known to be limited, or if the user decides
        about moves.
        """
        waits, auto = snapshot.state is SessionState.RETRY, self._context.policy.mode is Mode.AUTO
        soon = snapshot.next_at is not None and snapshot.next_at - now <= self._patience(snapshot)
        child = snapshot.parent is not None and not snapshot.switchable
        parent = self.parent_of(snapshot) if child else None
        served = parent is not None and parent.state is SessionState.BUSY and parent.model == snapshot.model
        if waits and (soon or not auto or (child and not served)):
            return self.let_wait(tracked, snapshot, "the limit has just ended", now)
        if snapshot.model is not None and snapshot.seen < self._context.cooldowns.cleared_at(snapshot.model):
            effects = self.let_wait(tracked, snapshot, "the limit has just ended", now)
            # the snapshot was taken before the user cleared the cooldown of the session's model
            tracked.wake_at(now + ENDING)
            return effects
        failed = (snapshot.state is SessionState.ERROR and (snapshot.parent is None or child)) or (
            tracked.parked and unanswered_since_its_process_ended(tracked, snapshot)
        )
        known = waits or (failed and (tracked.turn is not None or since_cleared))
        if not known or not auto or (child and not served):
            return None
        held = self.held(tracked, snapshot, now)
        if held is None and parent is not None and parent.background:
            held = self._wait_for_background(tracked, snapshot, parent, now)
        if held is not None:
            return held
        if self._origin_is_available(tracked, snapshot, now):
            return self.move(tracked, snapshot, "the model from which it was moved is available again", now, parent)
        unready = self._waits_on(tracked, snapshot, snapshot.model, now) if snapshot.model is not None else None
        if unready is not None:
            return unready
        return self._resume(tracked, snapshot, parent or snapshot, now)

    def cut_off(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect]:
        """Handle a parked turn whose OpenCode process was stopped and started again while the turn was waiting."""
        if snapshot.model is None or self._context.policy.mode is not Mode.AUTO:
            return []
        if self._context.cooldowns.cooling(snapshot.model, now) is None:
            return self.free_again(tracked, snapshot, False, now) or []
        held = self.held(tracked, snapshot, now)
        return self.move(tracked, snapshot, "its OpenCode process was stopped", now) if held is None else held

    def _origin_is_available(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> bool:
        origin = tracked.origin if tracked.landed == snapshot.model else None
        if origin is None or origin == snapshot.model or origin in tracked.failed_targets:
            return False
        outlook = self._context.outlook(snapshot, now)
        return self._context.cooldowns.avoided(origin, now) is None and outlook.unfit(origin) is None

    def _patience(self, snapshot: SessionSnapshot) -> float:
        if snapshot.model is None or not self._context.policy.wait:
            return RECHECK
        return max(self._context.policy.retry_for(snapshot.model).max_delay, RECHECK)

    def _waits_on(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, model: ModelRef, now: float
    ) -> list[Effect] | None:
        """Return the effects for a parked turn that must not run yet although `model` is available, or None if it may
        run. It may have to wait for its user, or until another session has tried the model.
        """
        if self._context.policy.when_exhausted is WhenExhausted.NOTIFY and tracked.doing in (
            Doing.STUCK,
            Doing.OFFERED,
        ):
            command = "" if model == snapshot.model else f": ocwatch redirect {quote(snapshot.session)}"
            new = tracked.offer(f"{model} is available again, and the turn is waiting for you{command}")
            unparked = self._unparked(tracked, snapshot, f"{model} is available again, and you were notified")
            return [*unparked, *notes.free_again(snapshot, model)] if new else unparked
        if tracked.parked and now < tracked.not_before:
            tracked.exhaust(tracked.resumes_at, f"waits for {tracked.waits_for or model}")
            return []
        if self._firsts.holds(tracked, model, now):
            tracked.exhaust(
                now + HELD_RECHECK, f"waits until {model} has answered another session that was waiting for it"
            )
            return []
        return None

    def _resume(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, moved: SessionSnapshot, now: float
    ) -> list[Effect]:
        """Run the turn of `moved` (the session itself or its parent) again on its current model. The run is claimed
        like a move.
        """
        model = snapshot.model
        if model is None:
            return []
        tracked.begins_on(model, moved.agent)
        target, claim = Target(model, moved.agent), self._claim_id()
        resumes = tracked.run_parked(moved.user_message) if tracked.parked else None
        tracked.claim(f"running again on {model}", now)
        self._firsts.begins(tracked, model, now)
        child = snapshot.session if moved.session != snapshot.session else None
        own_abort = tracked.stranded or unanswered_since_its_process_ended(tracked, moved)
        order = Order(moved, target, child, own_abort, limited=model)
        tried: list[dict[str, object]] = [{"model": str(model), "why": "available again", "chosen": True}]
        origin = Target(tracked.origin or model, tracked.origin_agent)
        why = "its model is available again"
        return [notes.claim(claim, order, snapshot, why, None, tried, origin, resumes), Move(claim, order)]

    def rejected(self, tracked: TrackedSession, snapshot: SessionSnapshot, words: str, now: float) -> list[Effect]:
        """Handle a fallback that failed after the session was moved to it: use the next fallback, or return to the
        model from which the session was moved.

        The list of effects is empty if the session does not use this model as a fallback.
        """
        model, origin = snapshot.model, self._model_replaced_here(tracked, snapshot, now)
        if model is None or origin is None or self._context.policy.mode is not Mode.AUTO:
            return []
        tracked.fail(model)
        tracked.came_from(origin, model)
        note = notes.rejected(snapshot, words)
        held = self.held(tracked, snapshot, now)
        if held is not None:
            return [note, *held]
        return [note, *self.move(tracked, snapshot, f"the model failed in this session: {words}", now)]

    def unanswered(self, tracked: TrackedSession, snapshot: SessionSnapshot, words: str, now: float) -> list[Effect]:
        """Move the session from a model that sends no answer to the next fallback. This model is not known to be
        limited.
        """
        model = snapshot.model
        if model is None or self._context.policy.mode is not Mode.AUTO:
            return self._report_unanswered(tracked, snapshot, words, now)
        noted = [] if model in tracked.failed_targets else [notes.rejected(snapshot, words)]
        tracked.fail(model)
        held = self.held(tracked, snapshot, now)
        if held is None and snapshot.parent is not None:
            held = self._move_parent(tracked, snapshot, words, now)
        return [*noted, *(self.move(tracked, snapshot, words, now) if held is None else held)]

    def answered_by_page(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, words: str, now: float
    ) -> list[Effect]:
        """Leave the session on its model, because a web page was returned instead of the provider's response. The page
        would also replace the responses of every other model.
        """
        return self._report_unanswered(
            tracked, snapshot, f"{words}, because a web page was returned instead of the provider's response", now
        )

    def _report_unanswered(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, words: str, now: float
    ) -> list[Effect]:
        if self._context.policy.mode is Mode.OFF:
            return []
        why = f"OpenCode keeps sending requests to {snapshot.model}: {words}"
        left = self._leave(tracked, snapshot, why)
        tracked.wake_at(now + RUN_RECHECK)
        return left + (notes.answers_nothing(snapshot, why) if left else [])

    def _model_replaced_here(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> ModelRef | None:
        """Return the model that the session's current model replaces, or None if there is none. A recorded move is used
        only if it was made for this prompt or if the replaced model is still cooling down.
        """
        moved = tracked.origin if tracked.landed == snapshot.model else None
        if moved and (
            tracked.landed_for == snapshot.user_message or self._context.cooldowns.cooling(moved, now) is not None
        ):
            return moved
        return replaced_model(snapshot, self._context.policy, self._context.cooldowns, now)

    def held(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float, *, cause: Cause | None = None
    ) -> list[Effect] | None:
        """Return the effects for a turn that must not be moved now, or None if the turn may be moved.

        `cause` is the reason for the move if that reason is not a limit. A stalled turn is not checked for running
        tools and open questions, because `may_have_stalled` has already excluded them.
        """
        stalled = cause is Cause.STALL
        trouble = "limited" if cause is None else "stalled" if stalled else "failing"
        if snapshot.belongs_to_run and snapshot.state is SessionState.ERROR:
            return self._leave(tracked, snapshot, "its `opencode run` has ended, so no answer is needed")
        if snapshot.belongs_to_run and stalled:
            why = f"{snapshot.model} has stalled, and its `opencode run` would end without an answer if it were stopped"
            return self.leave_stalled(tracked, snapshot, why, now)
        if snapshot.endpoint.run:
            why = f"{trouble}; a plain `opencode run` cannot be moved. Use: oc-smart run"
            if snapshot.endpoint.launched:
                why = "oc-smart has started it, and handles its limits"
            effects = self._leave(tracked, snapshot, why)
            tracked.wake_at(now + RUN_RECHECK)
            return effects
        if snapshot.endpoint.rival and now < (
            until := tracked.rival_until(snapshot.user_message, snapshot.model, now, RIVAL_PATIENCE)
        ):
            effects = self._leave(
                tracked, snapshot, f"{trouble}; another plugin may move it first: {snapshot.endpoint.rival}"
            )
            tracked.wake_at(until)
            return effects
        if work_in_progress(snapshot) and not stalled:
            return self._leave(
                tracked, snapshot, "limited, but a tool is running or a question has not been answered", now
            )
        if loses_background(snapshot) and not snapshot.switchable:
            return self._wait_for_background(tracked, snapshot, snapshot, now)
        if tracked.moves_within_hour(now) >= self._context.policy.moves_per_hour:
            cap, known = "moved too often within an hour, so it is not moved now", tracked.doing is Doing.LEFT
            self._leave(tracked, snapshot, cap)
            return [] if known else notes.too_many_moves(snapshot, cap)
        return None

    def let_wait(self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float) -> list[Effect]:
        """Leave the turn to OpenCode's own retry, and schedule a check of the result."""
        tracked.wait(max(now, snapshot.next_at or now), RECHECK, now, f"waits for OpenCode's own retry: {why}")
        return [notes.wait(snapshot, why)]

    def _leave(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float | None = None
    ) -> list[Effect]:
        """Leave the turn unchanged, because something prevents the move. If `now` is given, probe the session
        repeatedly until the move is possible, because no event reports that.
        """
        return [notes.left(snapshot, why)] if tracked.leave(why, now) else []

    def _wait_for_background(
        self,
        tracked: TrackedSession,
        snapshot: SessionSnapshot,
        moved: SessionSnapshot,
        now: float,
        trouble: str = "limited",
    ) -> list[Effect]:
        """Postpone the move of `moved` until its subagents in the background have ended, because a move would stop
        them.
        """
        said = "has stalled" if trouble == "stalled" else f"is {trouble}"
        effects = self._leave(
            tracked,
            snapshot,
            f"{trouble}, but {in_background(moved.background)}; the session will be moved afterwards",
        )
        tracked.wake_at(now + BACKGROUND_RECHECK)
        return effects + (notes.held_by_background(moved, tracked.phrase, said) if effects else [])

    def stopped(self, tracked: TrackedSession) -> list[Effect]:
        """Take no further action for a turn that its user has stopped."""
        return [notes.stopped(tracked.session)] if tracked.stop() else []

    def _move_parent(self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float) -> list[Effect]:
        """Handle a limited subagent by moving the session that is waiting for it, if both use the same model.

        The subagent itself is not moved, because it could then no longer deliver its answer to the parent (measured on
        1.0 to 1.18). If the parent uses another model and the companion plugin prevents limits, the parent's message is
        run again on the parent's model, and the prompt of the next subagent goes to the fallback. This is done only
        once for each message. Otherwise, the next subagent would hit the limit again, so the subagent is stopped and
        its parent continues.
        """
        parent = self.parent_of(snapshot)
        if parent is None or parent.state is not SessionState.BUSY:
            return self._leave(tracked, snapshot, "a limited subagent whose parent is not waiting for it")
        if parent.model == snapshot.model:
            if parent.background:
                return self._wait_for_background(tracked, snapshot, parent, now)
            return self.move(tracked, snapshot, why, now, parent)
        if self._sends_another(snapshot, parent, now):
            return self._run_parent_again(tracked, snapshot, parent, why, now)
        tracked.finish("stopped so that the session waiting for it can continue")
        return [*notes.freed(snapshot), Free(snapshot)]

    def _sends_another(self, snapshot: SessionSnapshot, parent: SessionSnapshot, now: float) -> bool:
        """Return whether the plugin will send the parent's next subagent to another model. The result is False if the
        parent's prompt was already run again for this reason.
        """
        asked, model = (parent.session, parent.user_message), snapshot.model
        entry = self._context.cooldowns.cooling(model, now) if model else None
        prevents = isinstance(parent.endpoint.address, UnixAddress) and parent.endpoint.rival is None
        if model is None or entry is None or not prevents or parent.background or asked in self._run_again:
            return False
        target = entry.target.model if entry.target else None
        if has_own_chain(snapshot.agent, model, self._context.policy):
            outlook = self._context.outlook(None, now)
            choice = fallback(
                self._context.policy, self._context.cooldowns, model, snapshot.agent, (model,), now, outlook
            )
            target = choice.target.model if isinstance(choice, Chosen) else None
        free = parent.model is not None and self._context.cooldowns.cooling(parent.model, now) is None
        return free and target is not None and self._context.cooldowns.cooling(target, now) is None

    def _run_parent_again(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, parent: SessionSnapshot, why: str, now: float
    ) -> list[Effect]:
        assert parent.model is not None
        assert snapshot.model is not None
        if len(self._run_again) >= MAX_RUN_AGAIN:
            self._run_again.clear()
        self._run_again.add((parent.session, parent.user_message))
        claim, own = self._claim_id(), Target(parent.model, parent.agent)
        order = Order(parent, own, snapshot.session, limited=snapshot.model)
        tracked.claim(f"run again, so that a subagent uses a model other than {snapshot.model}", now)
        cooldown = self._context.cooldowns.cooling(snapshot.model, now)
        tried: list[dict[str, object]] = [{"model": str(own.model), "why": tracked.phrase, "chosen": True}]
        return [notes.claim(claim, order, snapshot, why, cooldown, tried, own), Move(claim, order)]

    def move(
        self,
        tracked: TrackedSession,
        snapshot: SessionSnapshot,
        why: str,
        now: float,
        parent: SessionSnapshot | None = None,
        *,
        cause: Cause | None = None,
    ) -> list[Effect]:
        """Claim and make a move. The snapshot shows the limited session. If it is a subagent, `parent` may be given and
        is moved in its place. `cause` is the reason for the move if that reason is not a limit.
        """
        model = snapshot.model or snapshot.prompt_model
        if model is None:
            return []
        moved = parent or snapshot
        tracked.begins_on(model, moved.agent)
        primary = tracked.origin or model
        choice = self._choice(tracked, moved, model, now)
        failing = model in tracked.failed_targets
        back = Target(primary, tracked.origin_agent or moved.agent) if failing else Target(model, moved.agent)
        stopped = tracked.stranded and not snapshot.stuck
        if isinstance(choice, Exhausted) and not stopped and back.model == model:
            return self._stuck(tracked, snapshot, choice, now)
        # If ocwatchd stopped the turn or moved it to a failing model, the turn must not stay in that state. If no model
        # is available, it goes back to OpenCode's own retry.
        target = choice.target if isinstance(choice, Chosen) else back
        theirs = moved.switchable and target.model == moved.prompt_model not in (model, tracked.landed)
        if isinstance(choice, Chosen) and not theirs:
            waits = self._waits_on(tracked, snapshot, target.model, now)
            if waits is not None:
                return waits
        claim = self._claim_id()
        resumes = tracked.run_parked(moved.user_message) if tracked.parked else None
        tracked.claim(f"moving to {target.model}", now)
        self._firsts.begins(tracked, target.model, now)
        if pool_of(str(target.model), self._context.policy.pools):
            self._context.fill.give(str(target.model), now)
        child = snapshot.session if parent else None
        cooldown = self._context.cooldowns.cooling(model, now)
        until = cooldown.until if cooldown else None
        own_abort = tracked.stranded or unanswered_since_its_process_ended(tracked, moved)
        looping, silence = tracked.looping(now), snapshot.silence
        order = Order(moved, target, child, own_abort, looping, model, failing, theirs, until, cause, silence)
        outlook = self._context.outlook(moved, now)
        tried = considered(choice, self._context.cooldowns, model, tracked.failed_targets, now, outlook)
        if isinstance(choice, Exhausted):
            why_back = "no other model is available, so OpenCode's own retry continues on this model"
            tried.append({"model": str(target.model), "why": why_back, "chosen": True})
        origin = Target(primary, tracked.origin_agent)
        return [notes.claim(claim, order, snapshot, why, cooldown, tried, origin, resumes), Move(claim, order)]

    def has_fallback(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> bool:
        """Return whether another model is available for this session at `now`."""
        model = snapshot.model or snapshot.prompt_model
        if model is not None:
            tracked.begins_on(model, snapshot.agent)
        return model is not None and isinstance(self._choice(tracked, snapshot, model, now), Chosen)

    def run_again(
        self,
        tracked: TrackedSession,
        snapshot: SessionSnapshot,
        why: str,
        now: float,
        cause: Cause,
        parent: SessionSnapshot | None = None,
    ) -> list[Effect]:
        """Run a turn again on its own model, which has failed. The run is claimed like a move. If `parent` is given,
        its turn is run again in place of its subagent's turn.
        """
        model, moved = snapshot.model, parent or snapshot
        if model is None:
            return []
        tracked.begins_on(model, moved.agent)
        target, claim = Target(moved.model or model, moved.agent), self._claim_id()
        tracked.claim(f"running again on {target.model}", now)
        child = snapshot.session if parent else None
        order = Order(
            moved, target, child, tracked.stranded, limited=target.model, cause=cause, silence=snapshot.silence
        )
        tried: list[dict[str, object]] = [{"model": str(target.model), "why": "tried once more", "chosen": True}]
        origin = Target(tracked.origin or model, tracked.origin_agent)
        return [notes.claim(claim, order, snapshot, why, None, tried, origin), Move(claim, order)]

    def held_by_background(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> list[Effect] | None:
        """Return the effects for a stalled subagent whose parent has other subagents in the background, or None if it
        has none.
        """
        parent = self.parent_of(snapshot)
        if parent is None or not loses_background(parent):
            return None
        return self._wait_for_background(tracked, snapshot, parent, now, "stalled")

    def move_stalled_parent(
        self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float
    ) -> list[Effect]:
        """Handle a subagent's stalled answer by running the parent's turn again.

        If the subagent's model has already failed for this prompt, the parent is moved instead, provided that it uses
        the same model. If it uses another model, the subagent is stopped, and the parent continues.
        """
        parent = self.parent_of(snapshot)
        if parent is None or parent.state is not SessionState.BUSY:
            return self._leave(tracked, snapshot, "a stalled subagent whose parent is not waiting for it")
        if snapshot.model not in tracked.failed_targets:
            return self.run_again(tracked, snapshot, why, now, Cause.STALL, parent)
        if parent.model == snapshot.model:
            return self.move(tracked, snapshot, why, now, parent, cause=Cause.STALL)
        tracked.finish("stopped so that the session waiting for it can continue")
        return [*notes.freed(snapshot), Free(snapshot)]

    def leave_stalled(self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str, now: float) -> list[Effect]:
        """Leave a stalled turn unchanged and notify its user of the reason (`why`)."""
        left = self._leave(tracked, snapshot, why, now)
        return left + (notes.answers_nothing(snapshot, why) if left else [])

    def _choice(self, tracked: TrackedSession, moved: SessionSnapshot, model: ModelRef, now: float) -> Choice:
        """Return a target from the chain of the model from which ocwatchd or prevention moved the session, or of
        `model` if it was not moved.

        If a different model was selected for the session while it was waiting, that model comes first, regardless of
        whether the user or a program selected it.
        """
        chosen = moved.prompt_model if moved.switchable else None
        if chosen not in (None, model) and chosen not in tracked.failed_targets and moved.state is SessionState.RETRY:
            assert chosen is not None
            if self._context.cooldowns.cooling(chosen, now) is None:
                return Chosen(Target(chosen, moved.agent))
        return onwards(
            self._context.policy, self._context.cooldowns, moved.model, moved.agent, tracked.origin or model,
            tracked.failed_targets, now, self._context.outlook(moved, now), asker=self._asker(tracked, moved),
        )  # fmt: skip

    def _asker(self, tracked: TrackedSession, moved: SessionSnapshot) -> str | None:
        """Return the agent whose chain applies. This is the session's own agent, even while the session uses a
        fallback's agent.
        """
        carried = moved.model is not None and moved.agent == agent_for(moved.model, self._context.policy)
        return tracked.origin_agent if carried and tracked.origin_agent else moved.agent

    def _stuck(self, tracked: TrackedSession, snapshot: SessionSnapshot, choice: Exhausted, now: float) -> list[Effect]:
        """Handle a chain without an available model: send one notice, let OpenCode's own retry continue, and schedule a
        probe for the time at which the first model is available again.
        """
        soonest, own = choice.soonest, self._own_return(tracked, snapshot, now)
        # The session's own model (`own`) is considered as well, because OpenCode may stop its own retries before that
        # model is available again.
        returns = [soonest] if soonest and soonest[0] != snapshot.model else []
        returns += [(snapshot.model, own)] if snapshot.model and own is not None else []
        first, until = min(returns, key=lambda each: each[1], default=(None, None))
        if self._resumed_too_often(tracked, snapshot):
            return self._give_up(tracked, snapshot)
        if not choice.chained:
            why = f"limited, and no fallback is configured for {snapshot.model}"
        elif snapshot.model in tracked.failed_targets:
            why = f"{snapshot.model} has failed in this session, and no other model is available"
        elif failing := [ref for ref in choice.models if self._fails(ref, tracked, now)]:
            why = f"limited, and every available fallback has failed in this session: {', '.join(map(str, failing))}"
        elif choice.unfit:
            fits_not = "; ".join(f"{unfit}: {why}" for unfit, why in choice.unfit[:2])
            why = f"limited, and the available models cannot run the session: {fits_not}"
        elif soonest is None:
            why = "every model is cooling down, and no reset time is known"
        else:
            why = f"every model is cooling down; next available: {soonest[0]}"
        at = None if until is None else run_at(snapshot.session, until, now)
        parked = self._park(tracked, snapshot, first, until, now)
        tracked.exhaust(tracked.resumes_at if tracked.parked else at, why)
        chain = frozenset(choice.models)
        if now < self._exhausted.get(chain, 0.0):
            return parked
        self._exhausted[chain] = soonest[1] if soonest else float("inf")
        outlook = self._context.outlook(snapshot, now)
        tried = considered(choice, self._context.cooldowns, snapshot.model, tracked.failed_targets, now, outlook)
        why = f"{why}, which is cooling down" if soonest and why.endswith(str(soonest[0])) else why
        # `why` contains no time, because the renderer adds it
        return parked + notes.exhausted(snapshot, choice, why, now, tried)

    def _own_return(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> float | None:
        """Return when the session's own model may be used again, in epoch seconds. Return None if that time is unknown
        or the model has failed in this session.
        """
        if snapshot.model is None or snapshot.model in tracked.failed_targets or not self._context.resumes:
            return None
        entry = self._context.cooldowns.cooling(snapshot.model, now)
        return entry.until if entry is not None else None

    def _resumed_too_often(self, tracked: TrackedSession, snapshot: SessionSnapshot) -> bool:
        """Return whether the prompt has been parked and run again the maximum number of times (`maxResumes`)."""
        policy = self._context.policy
        waits = self._context.resumes and policy.when_exhausted is WhenExhausted.WAIT and snapshot.parent is None
        return waits and tracked.resumed(snapshot.user_message) >= policy.max_resumes

    def _give_up(self, tracked: TrackedSession, snapshot: SessionSnapshot) -> list[Effect]:
        """Give up on a turn that is limited again after the maximum number of runs, and leave it to the user."""
        times = tracked.resumed(snapshot.user_message)
        why = f"limited again after {times} runs in a row; ocwatchd will not run it again (maxResumes)"
        unparked = self._unparked(tracked, snapshot, "it was run again too often (maxResumes)")
        left = self._leave(tracked, snapshot, why)
        return unparked + (left + notes.resumed_too_often(snapshot, times) if left else [])

    def _park(
        self,
        tracked: TrackedSession,
        snapshot: SessionSnapshot,
        first: ModelRef | None,
        until: float | None,
        now: float,
    ) -> list[Effect]:
        """Record that the session is waiting for the model `first`, so that a later run of the daemon can continue the
        turn.
        """
        if tracked.turn is None or snapshot.parent is not None or not self._context.resumes:
            return []
        origin = Target(tracked.origin, tracked.origin_agent) if tracked.origin is not None else None
        at = None if until is None else run_at(snapshot.session, until, now)
        parked = ParkedTurn(replace(tracked.turn, origin=origin), until, now, at, first)
        if not tracked.park(parked):
            return []
        resumes, then = tracked.resumed(snapshot.user_message), self._context.policy.when_exhausted
        return [notes.parked(snapshot, parked, resumes, then)]

    def unpark(self, tracked: TrackedSession, snapshot: SessionSnapshot) -> list[Effect]:
        """Discard the stored limited turn, because the session is no longer waiting in that turn."""
        return [notes.unparked(snapshot)] if tracked.drop_turn() else []

    def _unparked(self, tracked: TrackedSession, snapshot: SessionSnapshot, why: str) -> list[Effect]:
        """Record that the turn will not be run again automatically. The turn remains stored in case a user clears the
        cooldown of its model.
        """
        return [notes.unparked(snapshot, why)] if tracked.unpark() else []

    def _fails(self, model: ModelRef, tracked: TrackedSession, now: float) -> bool:
        """Return whether this model is available but has failed for this prompt."""
        return model in tracked.failed_targets and self._context.cooldowns.cooling(model, now) is None

    def switched(self, tracked: TrackedSession, end: MoveEnded, now: float) -> list[Effect]:
        """Schedule a probe for the time after OpenCode's next attempt. The session's model was switched, and OpenCode
        has not yet sent a request to the new model.
        """
        snapshot = end.outcome.snapshot
        tracked.wait_for_switched(end, max(now, (snapshot.next_at if snapshot else None) or now), RECHECK)
        return [] if end.order.chosen else self._remember(tracked, tracked.session, end.order.target)

    def _already_switched(self, tracked: TrackedSession, snapshot: SessionSnapshot, now: float) -> ModelRef | None:
        """Return the available model that OpenCode's next attempt will use anyway, because ocwatchd has switched the
        session to it. Return None if there is no such model.
        """
        target = tracked.switched.order.target.model if tracked.switched else None
        waits = snapshot.state is SessionState.RETRY and (snapshot.next_at or now) > now
        if target is None or not waits or snapshot.prompt_model != target != snapshot.model:
            return None
        return target if self._context.cooldowns.cooling(target, now) is None else None

    def after_switch(self, tracked: TrackedSession, snapshot: SessionSnapshot) -> list[Effect]:
        """Report a move if OpenCode is now sending a request to the model that the session was switched to during a
        wait.
        """
        end = tracked.switched
        if end is None or snapshot.model != end.order.target.model:
            return []
        tracked.take_switched()
        if snapshot.state is SessionState.RETRY or snapshot.aborted or snapshot.last_error is not None:
            return []
        outcome = replace(end.outcome, result=MoveResult.MOVED, why=f"{snapshot.model} answers", snapshot=snapshot)
        return self.landed(tracked, MoveEnded(end.claim, end.order, outcome))

    def after_failure(self, tracked: TrackedSession, end: MoveEnded, now: float) -> list[Effect]:
        """Handle a move that could not be made: try the next target, or schedule another probe."""
        target, outcome = end.order.target.model, end.outcome
        tracked.explain(f"could not be moved to {target}: {outcome.why}")
        if tracked.moves_within_hour(now) >= self._context.policy.moves_per_hour:
            tracked.wake_at(tracked.moves[0] + HOUR)
            return []
        snapshot = outcome.snapshot
        if snapshot is not None:
            tracked.fail(target)
            if snapshot.model == target:
                tracked.put_on(target)
            if snapshot.stuck and not outcome.stranded:
                why, held = tracked.phrase, self.held(tracked, snapshot, now)
                return self.move(tracked, snapshot, why, now) if held is None else held
        if snapshot is not None and snapshot.state is SessionState.BUSY:
            tracked.wake_at(now + ENDING)  # wait, because OpenCode stores the error before the turn is over
        else:
            tracked.probe_later(now)  # the endpoint of this session failed during the move
        return []

    def landed(self, tracked: TrackedSession, end: MoveEnded) -> list[Effect]:
        """Report a move whose target has started to answer, and record that the session must later be returned."""
        order, snapshot = end.order, end.outcome.snapshot
        tracked.lands(order)
        moved = snapshot.session if snapshot else order.session
        # The origin is stored before the claim is closed. If this run of the daemon is killed in between, the next run
        # can continue.
        kept = [Remember(moved)] if order.chosen else self._remember(tracked, moved, order.target)
        return [*kept, notes.ended(end), notes.moved(end)]

    def found_after(self, tracked: TrackedSession, snapshot: SessionSnapshot) -> list[Effect]:
        """Finish the moves that an earlier run began and did not finish. Their results are derived from the current
        snapshot of the session.
        """
        effects: list[Effect] = []
        for claim in tracked.take_claims():
            note = notes.found_after(snapshot, claim)
            if snapshot.model == claim.target.model and claim.origin is not None:
                tracked.was_moved(claim, snapshot.user_message)
                if note.what == MoveResult.MOVED:
                    effects += self._remember(tracked, snapshot.session, claim.target)
            effects.append(note)
        return effects

    def _remember(self, tracked: TrackedSession, session: str, target: Target) -> list[Effect]:
        """Return the effect that records whether the session must return to its primary later or already has."""
        if not self._context.policy.return_to_primary or tracked.origin is None:
            return []
        if target.model == tracked.origin:
            return [Remember(session)]
        return [Remember(session, Target(tracked.origin, tracked.origin_agent), target)]


def unanswered_since_its_process_ended(tracked: TrackedSession, snapshot: SessionSnapshot) -> bool:
    """Return whether OpenCode was stopped while the turn was waiting for a retry. In that case, nothing is running, and
    there is no answer.
    """
    turn = tracked.turn
    if turn is None or not turn.elsewhere(snapshot) or snapshot.state is not SessionState.IDLE:
        return False
    return not (snapshot.answer_completed or snapshot.aborted)


GONE_TIMEOUT = 600.0
"""Time, in seconds, after which a parked session is dropped if no OpenCode process shows it. It is long enough to
restart OpenCode.
"""
MISSES = 3
"""A session is considered unreachable after this number of consecutive probes that do not show it."""


def _gone(tracked: TrackedSession) -> list[Effect]:
    """Return the effects for a parked session whose OpenCode process has ended and that no other process shows."""
    why = "the OpenCode process in which it was waiting has ended"
    return [Note("unparked", {"session": tracked.session, "why": why})] if tracked.drop_turn() else []


def not_shown(tracked: TrackedSession, answer: Probed, now: float) -> list[Effect]:
    """Schedule another probe, or report the session as unreachable, because no endpoint showed it."""
    if tracked.miss() < MISSES and tracked.in_trouble:
        # The machine may be slow, or OpenCode may be starting, so one missed response does not prove that the endpoint
        # no longer exists.
        tracked.wake_at(now + RECHECK)
        model = tracked.pending.ref if tracked.pending else None
        again = _unanswered(tracked.session, model, f"{_why(answer)}; ocwatchd tries again")
        return [again] if tracked.misses == 1 else []
    pending, patience = tracked.drop_limit(), tracked.patience
    effects = _give_up(tracked, pending, answer)
    if answer.failing:  # one of these endpoints may have the session, and may recover
        tracked.probe_later(now, patience)
    elif tracked.parked and (now < (tracked.resumes_at or 0.0) or tracked.gone_for(now) < GONE_TIMEOUT):
        tracked.probe_later(now, patience)  # keep the session, because OpenCode may be started again
        tracked.wake_at(max(tracked.wake or 0.0, tracked.resumes_at or 0.0))
    else:
        effects += _gone(tracked)
    return effects


def may_run_elsewhere(tracked: TrackedSession, snapshot: SessionSnapshot) -> bool:
    """Return whether the turn may be running behind an endpoint that is not open yet. An attempt of the turn was
    refused, but this endpoint shows the session as idle and without an answer.

    OpenCode 1.14 and 1.15 keep two sets of sessions in one process, and each endpoint shows the turns of only one set.
    """
    resting = snapshot.state is SessionState.IDLE and not (snapshot.answer_completed and not snapshot.queued)
    return resting and tracked.in_trouble and tracked.misses < MISSES - 1


def _give_up(tracked: TrackedSession, pending: LimitEvent | None, answer: Probed) -> list[Effect]:
    if pending is None or pending.ref is None or pending.verdict.certainty is not Certainty.SURE:
        if tracked.doing is Doing.LEFT and not answer.failing:
            tracked.finish("")  # the session's process has ended, so the status phrase is obsolete
        return []
    why = _why(answer)
    tracked.lose(f"limited on {pending.ref}, and {why}: ocwatch restart {quote(tracked.session)}")
    return _unreachable(tracked.session, pending.ref, why)


def _why(answer: Probed) -> str:
    if answer.endpoints == 0:
        return "OpenCode does not respond" if answer.failing else "no OpenCode process responds"
    why = (
        "no OpenCode process that responds is working on this session"
        if answer.snapshots
        else "no OpenCode process that responds has this session"
    )
    if answer.failing:
        why += f", and {answer.failing} {'does' if answer.failing == 1 else 'do'} not respond properly"
    return why


def _unanswered(session: str, model: ModelRef | None, why: str) -> Note:
    """Return a note saying that no endpoint showed a session with a problem, and that the probe is repeated."""
    return Note("unanswered", {"session": session, "model": str(model) if model else None, "why": why})


def _unreachable(session: str, model: ModelRef | None, why: str) -> list[Effect]:
    """Return the effects for a limited session that no endpoint shows."""
    text = f"{why}. To reopen the session on another model: ocwatch restart {quote(session)}"
    return [
        Note("unreachable", {"session": session, "model": str(model), "why": why}),
        Notify(f"unreachable:{session}", f"{model} is limited", text, session),
    ]
