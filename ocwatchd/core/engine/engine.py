"""The engine: `Engine.handle(message, now)` returns what to do. It uses no I/O, so every policy can be tested with
plain values.

The module is long because one class handles every message and owns the state for clock corrections and returns.

When a limit is found, it is first recorded, and the blacklist is saved. Then an endpoint is queried, because the log
alone shows neither OpenCode's next attempt nor whether the turn is still stuck. A session is moved only if an endpoint
shows that it is waiting for its model or has failed.

`Timestamps` corrects the timestamps of messages if they were recorded while the clock was wrong, before any decision
depends on them.

`Returns` tracks moved sessions and returns them when the model from which they were moved is available again. In
OpenCode 1, the companion plugin returns prompts that do not name a model. In OpenCode 2, each session has its own
model, which does not change until the user chooses another. The session is therefore switched back between two turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.moves import Claim, MoveResult, ReturnResult
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.timeline import SKEW, ClockSteadiness, Step
from ocwatchd.core.domain.types import Certainty, LimitEvent, ModelRef, ResetSource, Target
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.assess import ANSWERED, FRESH, Assessor
from ocwatchd.core.engine.cooldown_changes import CooldownChanges
from ocwatchd.core.engine.decide import ENDING, RECHECK, Decider, may_run_elsewhere, not_shown
from ocwatchd.core.engine.messages import (
    Aborted,
    Acted,
    AnsweredNothing,
    Asked,
    BlacklistChanged,
    ClockSet,
    Configured,
    Effect,
    ExperienceLearned,
    FellSilent,
    Foreseen,
    GapsLearned,
    Message,
    MoveEnded,
    Note,
    Prevented,
    Probe,
    Probed,
    Refused,
    Remember,
    ReturnSession,
    SaveBlacklist,
    SessionReturned,
    Shown,
    Spent,
    TakenOver,
    Tick,
    TroubleReported,
    Used,
    Verified,
)
from ocwatchd.core.engine.parking import FirstRuns, after_return, run_at
from ocwatchd.core.engine.questions import Questions
from ocwatchd.core.engine.rescue import FailureJudge, StallJudge
from ocwatchd.core.engine.session import (
    LONGEST_RECHECK,
    Doing,
    EngineContext,
    LimitedTurn,
    ParkedTurn,
    TrackedSession,
    TrackedSessions,
    UnexpectedEvent,
)
from ocwatchd.core.policy import Mode, Policy

REPEATED = 1.0
"""Maximum time, in seconds, between an event of OpenCode 2 and the log line about the same refused attempt. Measured:
0.0 to 0.5.
"""
PATIENCE, LONGEST = 2.0, 60.0
"""First and longest wait, in seconds, before another attempt to return a busy session. The wait doubles each time."""
MAX_SESSIONS = 500
"""Maximum number of moved sessions that are tracked. The oldest sessions are dropped first."""


@dataclass(slots=True)
class _Away:
    origin: Target
    target: Target
    due: float = 0.0
    patience: float = PATIENCE
    asked: bool = False


class Returns:
    """Tracks sessions that were moved from the model chosen for them, until they are returned."""

    def __init__(self) -> None:
        """Initialize the object; no session has been moved yet."""
        self._away: dict[str, _Away] = {}

    def note(self, effects: Iterable[Effect]) -> None:
        """Record the moves and returns that these effects contain."""
        for effect in effects:
            if isinstance(effect, Remember):
                self._away.pop(effect.session, None)
                if effect.origin is not None and effect.target is not None:
                    self._away[effect.session] = _Away(effect.origin, effect.target)
        while len(self._away) > MAX_SESSIONS:
            del self._away[next(iter(self._away))]

    def due(self, cooldowns: Cooldowns, now: float) -> list[Effect]:
        """Return the effects for sessions that must now be returned."""
        found: list[Effect] = []
        for session, away in self._away.items():
            if away.asked or now < away.due or cooldowns.limited(away.origin.model, now) is not None:
                continue
            away.asked = True
            found.append(ReturnSession(session, away.origin, away.target))
        return found

    def ended(self, news: SessionReturned, now: float) -> list[Effect]:
        """Return the effects that follow an attempt to return a session."""
        away = self._away.get(news.session)
        if away is None or away.target != news.target:
            return []
        away.asked = False
        match news.result:
            case ReturnResult.LATER:
                away.due, away.patience = now + away.patience, min(away.patience * 2, LONGEST)
                return []
            case ReturnResult.UNKNOWN:
                del self._away[news.session]
                return []
            case ReturnResult.CHOSEN:
                del self._away[news.session]
                return [Remember(news.session)]
        del self._away[news.session]
        fields: dict[str, object] = {
            "session": news.session,
            "model": str(away.origin.model),
            "agent": away.origin.agent,
            "from": str(away.target.model),
        }
        return [Remember(news.session), Note("returned", fields)]


class Timestamps:
    """Stores the periods in which the clock was wrong, until messages from those periods can no longer arrive."""

    def __init__(self) -> None:
        """Initialize the object; the clock has not been corrected yet."""
        self._steps: list[Step] = []

    def add(self, step: Step, now: float) -> None:
        """Store this step, and discard steps that no longer apply at `now`."""
        self._steps = [one for one in (*self._steps, step) if one.holds(now)]

    def corrected(self, message: Message, now: float) -> Message:
        """Return the message with corrected timestamps.

        If the clock was set back after a limit was logged, the timestamp of the limit is in the future. It is then
        replaced by the current time.
        """
        match message:
            case Refused(event):
                return message if self._right(event.time, now) else replace(message, event=self._event(event, now))
            case TroubleReported() | Aborted() if self._steps or message.time > now + SKEW:
                return replace(message, time=min(self._noted(message.time), now))
            case Probed() if self._steps:
                snapshots, parents = (
                    tuple(map(self._snapshot, snapshots)) for snapshots in (message.snapshots, message.parents)
                )
                return replace(message, snapshots=snapshots, parents=parents)
            case MoveEnded() if self._steps and message.outcome.snapshot is not None:
                return replace(
                    message, outcome=replace(message.outcome, snapshot=self._snapshot(message.outcome.snapshot))
                )
            case _:
                return message

    def _right(self, moment: float, now: float) -> bool:
        return moment <= now + SKEW and self._noted(moment) == moment

    def _event(self, event: LimitEvent, now: float) -> LimitEvent:
        noted = self._noted(event.time)
        time = noted if noted <= now + SKEW else now
        hint = event.hint and replace(event.hint, until=time + event.hint.after)
        return replace(event, time=time, hint=hint)

    def _snapshot(self, snapshot: SessionSnapshot) -> SessionSnapshot:
        started, ended, next_at = snapshot.answer_started, snapshot.answer_ended, snapshot.next_at
        return replace(
            snapshot,
            answer_started=None if started is None else self._noted(started),
            answer_ended=None if ended is None else self._noted(ended),
            next_at=None if next_at is None else self._due(next_at),
        )

    def _noted(self, moment: float) -> float:
        for step in self._steps:
            moment = step.noted(moment)
        return moment

    def _due(self, deadline: float) -> float:
        for step in self._steps:
            deadline = step.due(deadline)
        return deadline


class Engine:
    """Owns the cooldowns and the tracked sessions, and makes all decisions."""

    def __init__(
        self,
        policy: Policy,
        rules: RuleSet,
        cooldowns: Cooldowns,
        claim_id: Callable[[], str],
        *,
        resumes: bool = True,
        strict: bool = True,
    ) -> None:
        """Initialize the engine. `claim_id` returns a new name for each move. `resumes`: whether the engine runs a turn
        again when its model is available again (False in `oc-smart`, which runs its own turns again). `strict`: whether
        an event that the table of transitions does not contain raises an exception.
        """
        self._strict = strict
        self.context = EngineContext(policy, rules, cooldowns, resumes=resumes)
        self.cooldowns = cooldowns
        self.tracked_sessions = TrackedSessions()
        self._registrar = CooldownChanges(self.context)
        self._firsts = FirstRuns(self.tracked_sessions)
        self._decider = Decider(self.context, claim_id, self._firsts)
        stalls = StallJudge(self.context, self._registrar, self._decider)
        failures = FailureJudge(self.context, self._registrar, self._decider)
        self._assessor = Assessor(self.context, self._registrar, self._decider, stalls, failures)
        self._asked_for: set[ModelRef] = set()
        self._cleared: tuple[set[ModelRef], float] = set(), 0.0
        """The models that other programs most recently removed from the blacklist, and when the engine noticed the
        removal.
        """
        self._timestamps = Timestamps()
        self._evenness = ClockSteadiness()
        self._unseen: dict[ModelRef, tuple[float, float]] = {}
        """Models with a limited session that no endpoint showed while an endpoint was failing. Each is stored with the
        time of the next probe and the pause after that probe.
        """
        self.returns = Returns()
        self.questions = Questions(self.context, self._registrar, self._decider, self.tracked_sessions)

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Return the effects of this message, in the order of execution.

        Raises:
            UnexpectedEvent: The state of a session does not allow this message, and the engine is `strict`.
        """
        try:
            effects = self._handle(self._timestamps.corrected(message, now), now)
        except UnexpectedEvent as fault:
            if self._strict:
                raise
            # The message is not processed further. All cooldowns are saved, because the effects so far are lost.
            effects = [SaveBlacklist(changed=self.cooldowns.entries()), notes.unexpected(fault)]
        effects += self._registrar.keep_targets(now)
        self._firsts.settle(self.cooldowns, now)
        self.returns.note(effects)
        return effects

    def _handle(self, message: Message, now: float) -> list[Effect]:
        match message:
            case Tick():  # tested first, because nearly every message of an idle daemon is of this type
                return self._tick(now)
            case Refused():
                return self._refused(message, now)
            case Asked():
                return self.questions.asked(message, now)
            case Acted():
                end = self.questions.acted(message, now)
                effects = [] if end is None else self._move_ended(end, now)
                if end is not None:
                    self.questions.not_made(end, now)
                return effects
            case Verified():
                end = self.questions.verified(message, now)
                return [] if end is None else self._switch_ended(end, now)
            case Probed():
                return self._probed(message, now)
            case MoveEnded():
                return self._move_ended(message, now)
            case SessionReturned():
                return self.returns.ended(message, now)
            case TroubleReported():
                return self._trouble_reported(message, now)
            case AnsweredNothing(session) | FellSilent(session):
                return self._probe(self.tracked_sessions.of(session, now))
            case GapsLearned(longest):
                self.context.learn_gaps(longest)
                return []
            case Prevented():
                return [notes.prevented(message)]
            case Aborted():
                return self._aborted(message)
            case TakenOver(session):
                return self._taken_over(session)
            case BlacklistChanged(entries, at):
                return self._blacklist_changed(entries, at, now)
            case Configured(policy, rules):
                self.context.configure(policy, rules)
                return self._configured(now)
            case Used(loads, models, at):
                self.context.fill.measure(loads, models, at)
                return []
            case ExperienceLearned(known):
                self.context.learn(known)
                return []
            case Foreseen():
                return self._registrar.foresee(message.threats, now) + self._registrar.ease(message.calm, now)
            case Spent():
                effects = self._registrar.spend(message, now)
                return effects + (self._wake_stuck() if effects else [])
            case ClockSet(step):
                self._timestamps.add(step, now)
                self.tracked_sessions.clock_set(step)
                self.questions.clock_set(step)
                self._firsts.clock_set(step)
                return self._registrar.clock_set(step)

    def next_wake(self) -> float | None:
        """Return when the next `Tick` is needed, in epoch seconds, or None if no deadline is set."""
        wakes = [
            self.tracked_sessions.next_wake(),
            self.questions.next_due(),
            *(at for model, (at, _) in self._unseen.items() if model not in self._asked_for),
        ]
        return min((at for at in wakes if at is not None), default=None)

    # ---- reports from the log

    def _refused(self, news: Refused, now: float) -> list[Effect]:
        event, live = news.event, news.live
        certainty = event.verdict.certainty
        if certainty is Certainty.NO or self._is_repeated(event):
            return []
        sure = certainty is Certainty.SURE and event.ref is not None
        # An endpoint may already have reported the refused attempt in this line, or may report it later. The log line
        # and that report count as one limit.
        recent = live or now - event.time < FRESH
        tracked = self.tracked_sessions.of(event.session, now) if event.session and recent and not event.small else None
        if tracked is not None and live:
            tracked.note_refusal(event.time)
        if tracked is not None and sure and self._already_shown(tracked, event):
            return self._reported_again(tracked, event, live)
        known = news.counted or self.cooldowns.lifted_since(event)
        effects = self._registrar.enter(event, live, now) if sure and not known else []
        # Neither a request for a title or summary nor an old refused attempt ever causes a move.
        if not live or event.small:
            if tracked is not None and sure:
                tracked.count(event.ref)
            return effects + (self._probe_late(event, now) if news.late and sure and not event.small else [])
        if tracked is None:
            return effects + (self._ask_for_model(event.ref) if sure and event.ref else [])
        tracked.note_limit(event)
        return effects + self._probe(tracked)

    def _is_repeated(self, event: LimitEvent) -> bool:
        """Return whether this log line names no model and reports a refused attempt that is already known.

        OpenCode 2 logs a failed turn up to half a second after its events have reported the failure.
        """
        known = self.tracked_sessions.known(event.session) if event.session and event.ref is None else None
        return known is not None and any(abs(event.time - time) < REPEATED for time in known.refusals)

    def _probe_late(self, event: LimitEvent, now: float) -> list[Effect]:
        """Probe a session whose limit was read late but still applies. The session may wait for hours without another
        event.
        """
        if event.ref is None or self.cooldowns.cooling(event.ref, now) is None:
            return []
        if not event.session:
            return self._ask_for_model(event.ref)
        tracked = self.tracked_sessions.of(event.session, now)
        tracked.count(event.ref)
        return self._probe(tracked)

    def _trouble_reported(self, news: TroubleReported, now: float) -> list[Effect]:
        tracked = self.tracked_sessions.of(news.session, now)
        tracked.note_report(news, ANSWERED)
        return self._probe(tracked)

    def _already_shown(self, tracked: TrackedSession, event: LimitEvent) -> bool:
        """Return whether this late log line is about a refused attempt that an endpoint has already reported. Such a
        line does not count as a second strike.
        """
        if event.ref is None or event.time > tracked.shown_at.get(event.ref, 0.0):
            return False
        tracked.line_has_come(event.ref)
        return True

    def _reported_again(self, tracked: TrackedSession, event: LimitEvent, live: bool) -> list[Effect]:
        """Return the effects of another report of a refused attempt that is already known.

        The log may contain the reset time, or the failure's exact time, which distinguishes a Retry-After from a
        backoff.
        """
        if event.ref is None:
            return []
        if event.hint is not None:
            return self._registrar.refine(tracked.session, event.ref, event.hint, event.time, event.verdict.kind)
        known = self.cooldowns.cooling(event.ref, event.time)
        if not live or known is None or known.reset_source is not ResetSource.ESTIMATE or tracked.moving:
            return []
        tracked.note_limit(event)
        return self._probe(tracked)

    def _aborted(self, news: Aborted) -> list[Effect]:
        tracked = self.tracked_sessions.known(news.session)
        # OpenCode logs an abort by ocwatchd in the same way as one by the user, and up to a second late. By then, the
        # move may already have ended.
        if tracked is None or tracked.moving:
            return []
        if not tracked.is_our_abort(news):
            return self._decider.stopped(tracked)
        return self._probe(tracked) if tracked.stop_arrived(news.time) else []

    def _taken_over(self, session: str) -> list[Effect]:
        tracked = self.tracked_sessions.known(session)
        if tracked is not None and not tracked.moving:
            tracked.moved_by_hand()
        return []

    # ---- probes of the endpoints

    def _probe(self, tracked: TrackedSession) -> list[Effect]:
        if not tracked.probe():
            return []
        return [Probe(tracked.session, tracked.pending.ref if tracked.pending else None)]

    def _ask_for_model(self, model: ModelRef) -> list[Effect]:
        if model in self._asked_for:
            return []
        self._asked_for.add(model)
        return [Probe(None, model)]

    def _ask_again_later(self, model: ModelRef, failing: int, now: float) -> None:
        """Schedule another probe if an endpoint failed, because the endpoint may have the session, and a limit that
        lasts for hours is logged only once.
        """
        _, pause = self._unseen.pop(model, (0.0, RECHECK))
        if failing and self.cooldowns.cooling(model, now) is not None:
            self._unseen[model] = now + pause, min(pause * 2, LONGEST_RECHECK)

    def _probed(self, answer: Probed, now: float) -> list[Effect]:
        if answer.offers is not None:
            self.context.offer(answer.offers)
        self._decider.see_parents(answer.parents)
        if answer.session is None:
            if answer.model is not None and not answer.more:
                self._asked_for.discard(answer.model)
                self._ask_again_later(answer.model, answer.failing, now)
            return [effect for snapshot in answer.snapshots for effect in self._found(snapshot, answer.model, now)]
        tracked = self.tracked_sessions.of(answer.session, now)
        again = tracked.probed()
        if tracked.moving:
            return []
        (snapshot, *_) = answer.snapshots or (None,)
        if snapshot is None or may_run_elsewhere(tracked, snapshot):
            effects = not_shown(tracked, answer, now)
        else:
            effects = self._assessor.assess(tracked, snapshot, now)
        return effects + (self._probe(tracked) if again else [])

    def _found(self, snapshot: SessionSnapshot, model: ModelRef | None, now: float) -> list[Effect]:
        """Handle a session that, according to an endpoint, is waiting or has failed, but that no log line has named."""
        if model is not None and snapshot.model != model:
            return []
        tracked = self.tracked_sessions.of(snapshot.session, now)
        if tracked.being_probed or tracked.moving:
            return []
        if tracked.turn is None and tracked.pending is None and self._waited_for_cleared(snapshot, now):
            tracked.limited(LimitedTurn.of(snapshot))
            # Do not record the refused attempt again: it is older than the user's `ocwatch clear`.
            tracked.count(snapshot.model)
        return self._assessor.assess(tracked, snapshot, now)

    # ---- the end of a move

    def _move_ended(self, end: MoveEnded, now: float) -> list[Effect]:
        tracked = self.tracked_sessions.of(end.order.session, now)
        again = tracked.move_ended(end.outcome, end.order.snapshot.answer, now)
        return self._after_move(tracked, end, again, now)

    def _switch_ended(self, end: MoveEnded, now: float) -> list[Effect]:
        tracked = self.tracked_sessions.of(end.order.session, now)
        return self._after_move(tracked, end, tracked.switch_ended(end, now), now)

    def _after_move(self, tracked: TrackedSession, end: MoveEnded, again: bool, now: float) -> list[Effect]:
        order, outcome = end.order, end.outcome
        effects: list[Effect] = [notes.ended(end)]
        if outcome.stranded and order.child is not None:
            tracked.hand_to(parent := self.tracked_sessions.of(order.snapshot.session, now))
            tracked = parent
        match outcome.result:
            case MoveResult.ALREADY:
                tracked.runs_elsewhere(outcome.why, now + RECHECK)
                return effects
            case MoveResult.MOVED:
                return self._decider.landed(tracked, end) + (self._probe(tracked) if again else [])
            case MoveResult.TARGET_LIMITED:
                return effects + self._target_limited(tracked, end, outcome.snapshot, now)
            case MoveResult.SWITCHED:
                return effects + self._decider.switched(tracked, end, now)
            case MoveResult.FAILED:
                if order.cause is not None and order.target.model == order.origin and outcome.snapshot is not None:
                    effects += self._registrar.pause(outcome.snapshot, order.cause, outcome.why, now)
                if not outcome.stranded and outcome.snapshot is not None and self._limited(outcome.snapshot):
                    return effects + self._target_limited(tracked, end, outcome.snapshot, now)
                return effects + self._decider.after_failure(tracked, end, now)
            case MoveResult.REFUSED | MoveResult.USER_TOOK_OVER:
                tracked.explain(outcome.why)
                # the reason for not moving the session may disappear at any time, and no event reports that
                if outcome.result is MoveResult.REFUSED:
                    tracked.probe_later(now)
                    if order.snapshot.switchable and order.until is not None:
                        tracked.wake_at(max(tracked.wake or now, after_return(order.until)))
                else:
                    tracked.drop_turn()
                return effects + (self._probe(tracked) if again else [])

    def _target_limited(
        self, tracked: TrackedSession, end: MoveEnded, snapshot: SessionSnapshot | None, now: float
    ) -> list[Effect]:
        """Handle a target that is also limited: record its limit and choose the next target."""
        tracked.put_on(end.order.target.model)
        tracked.drop_turn()
        if snapshot is None:
            return self._probe(tracked)
        # OpenCode stores the error before the turn is over, so probe again later
        if snapshot.state is SessionState.BUSY:
            tracked.wake_at(now + ENDING)
            return []
        return self._assessor.assess(tracked, snapshot, now)

    def _limited(self, snapshot: SessionSnapshot) -> bool:
        """Return whether the turn ended because of a limit that OpenCode does not retry."""
        error = snapshot.last_error
        return error is not None and self.context.rules.classify(error).certainty is Certainty.SURE

    def probe_session(self, session: str, now: float, *, missed: bool = False) -> list[Effect]:
        """Probe a session whose refused attempt was read, but not handled, by an earlier run.

        `missed`: whether that run already journaled that no endpoint showed the session. If so, this is not journaled
        again.
        """
        tracked = self.tracked_sessions.of(session, now)
        tracked.missed(int(missed))
        return self._probe(tracked)

    def remember(self, refused: Mapping[str, ModelRef], shown: Iterable[Shown], now: float) -> None:
        """Store the limits that an earlier run recorded (`refused`: the model by session) and the refused attempts that
        were read from endpoints during that run.
        """
        for session, model in refused.items():
            # No cooldown means that the limit has ended, or that the daemon was killed before it could save the limit.
            if self.cooldowns.cooling(model, now) is not None:
                self.tracked_sessions.remember(session, model)
        for one in shown:
            self._remember(one, self.tracked_sessions.of(one.session, now))

    def remember_origins(self, claims: Mapping[str, Claim]) -> None:
        """Store each session's last move from an earlier run. If the fallback is limited, the chain of the model from
        which the session was moved applies.
        """
        self.tracked_sessions.remember_origins(claims)

    def _remember(self, shown: Shown, tracked: TrackedSession) -> None:
        tracked.enter((shown.model, shown.message, shown.attempt), shown.time)

    def remember_resumes(self, resumes: Mapping[str, tuple[str | None, int]]) -> None:
        """Store, by session, the id of a parked prompt and the number of times that the prompt has already been run
        again.
        """
        self.tracked_sessions.remember_resumes(resumes)

    def recall_parked(self, session: str, parked: ParkedTurn, now: float) -> list[Effect]:
        """Restore a turn that an earlier run of the daemon parked.

        The turn is run immediately if its time has passed, or if a user has cleared its model's cooldown in the
        meantime. If the cooldown is missing for another reason, it was lost, and the turn waits until its scheduled
        time. If the cooldown ends earlier than recorded in the journal, the clock was set back after the turn was
        parked.
        """
        tracked = self.tracked_sessions.of(session, now)
        waited_for = self.cooldowns.cooling(parked.waits_for or parked.turn.model, now)
        if waited_for is not None and waited_for.until is not None and waited_for.until < (parked.until or 0.0):
            parked = replace(parked, until=waited_for.until, resumes_at=run_at(session, waited_for.until, parked.since))
        model, until = parked.turn.model, parked.until
        free = self.cooldowns.cooling(model, now) is None
        cleared = free and (until is None or self.cooldowns.cleared_at(model) >= parked.since)
        at = parked.resumes_at or (None if until is None else after_return(until))
        due = cleared or (at is not None and at <= now)
        not_before = until if free and not due and until is not None else 0.0
        tracked.recall_parked(parked, now if due else at, not_before)
        return self._probe(tracked) if due and self._firsts.may_probe(tracked, now) else []

    def resume(self, session: str, claims: tuple[Claim, ...], now: float) -> list[Effect]:
        """Probe a session with moves that an earlier run claimed but did not finish. The turn may still be stopped."""
        tracked = self.tracked_sessions.of(session, now)
        tracked.resume(claims, now)
        return self._probe(tracked)

    # ---- deadlines and external changes

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._evenness.read(now):  # otherwise, the clock may be temporarily wrong, which makes ages unreliable
            self.cooldowns.prune(now)
            self.tracked_sessions.forget_old(now)
            effects = self._registrar.settle(now)
        self._decider.forget_exhausted(now)
        unseen = [model for model, (at, _) in self._unseen.items() if at <= now]
        effects += self.returns.due(self.cooldowns, now) if self._returns_sessions else []
        effects += self.questions.due(now)
        effects += self._probe_all(
            tracked for tracked in self.tracked_sessions.due(now) if self._firsts.may_probe(tracked, now)
        )
        return effects + [effect for model in unseen for effect in self._ask_for_model(model)]

    @property
    def _returns_sessions(self) -> bool:
        return self.context.policy.return_to_primary and self.context.policy.mode is Mode.AUTO

    def _wake_stuck(self) -> list[Effect]:
        """Probe stuck sessions again, because a model may be available now."""
        self._decider.forget_exhausted()
        return self._probe_all(tracked for tracked in self.tracked_sessions.all() if tracked.doing is Doing.STUCK)

    def _blacklist_changed(self, entries: Iterable[Cooldown], at: float, now: float) -> list[Effect]:
        """Apply a change of the blacklist by another program. Models whose cooldowns were cleared are available again,
        so the turns waiting for them are run again.
        """
        before = {entry.model for entry in self.cooldowns.entries() if entry.active(now) and not entry.unmet}
        effects = self._registrar.take_over(entries, at)
        cleared = before - {entry.model for entry in self.cooldowns.entries()}
        if not cleared:
            return effects + self._wake_stuck()
        self._decider.forget_exhausted()
        self._cleared = cleared, now
        everyone = self.tracked_sessions.all()
        waiting = [tracked for tracked in everyone if tracked.turn is not None or tracked.doing is Doing.STUCK]
        for tracked in waiting:
            tracked.allow()
        # The last probe finds sessions that no log line named, or whose refused attempts were too old.
        return [*effects, *self._probe_all(waiting), Probe(None, None)]

    def _waited_for_cleared(self, snapshot: SessionSnapshot, now: float) -> bool:
        """Return whether the session is still waiting for a retry although the user has just cleared its model's
        cooldown.
        """
        models, at = self._cleared
        model = snapshot.model
        if model is None or snapshot.state is not SessionState.RETRY or now - at >= FRESH:
            return False
        return bool(models & {model, model.whole_provider}) and self.cooldowns.cooling(model, now) is None

    def _configured(self, now: float) -> list[Effect]:
        """Probe again every session whose turn is waiting, stuck or left unchanged, because the policy has changed."""
        self._decider.forget_exhausted()
        halted = (Doing.WAITING, Doing.STUCK, Doing.OFFERED, Doing.LEFT)
        anew = self._registrar.aim_anew(now)
        if not self.context.policy.prevention.prevent:
            anew += self._registrar.ease((str(entry.model) for entry in self.cooldowns.entries()), now)
        return anew + self._probe_all(tracked for tracked in self.tracked_sessions.all() if tracked.doing in halted)

    def _probe_all(self, tracked_sessions: Iterable[TrackedSession]) -> list[Effect]:
        return [effect for tracked in tracked_sessions for effect in self._probe(tracked)]
