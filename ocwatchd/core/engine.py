"""The brain: `Engine.handle(message, now)` returns what to do. No I/O, so every policy is tested by feeding values.

A limit is first entered in the ledger and the register is saved; then the door is asked, because the log alone neither
knows OpenCode's next attempt nor whether the turn is still stuck. Only what a door shows in trouble is ever moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ocwatchd.core import evidence, notes
from ocwatchd.core.cases import Case, Cases, Doing
from ocwatchd.core.decide import where_to, worth_waiting
from ocwatchd.core.fallback import Choice, Chosen, Exhausted
from ocwatchd.core.guards import silent
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import Certainty, Hint, LimitEvent, ModelRef, Target, ToldBy
from ocwatchd.core.messages import (
    Aborted,
    Effect,
    Free,
    Heard,
    LookUp,
    Message,
    Move,
    MoveEnded,
    Note,
    Refused,
    RegisterChanged,
    Remember,
    Surveyed,
    Tick,
)
from ocwatchd.core.moves import MoveResult, Order
from ocwatchd.core.policy import Mode, Policy
from ocwatchd.core.registrar import Registrar
from ocwatchd.core.rules import RuleSet
from ocwatchd.core.views import SessionState, SessionView

RECHECK = 3.0
"""Seconds after OpenCode's own next attempt at which its outcome is looked at; doubled while the turn still runs."""
LONGEST_RECHECK = 60.0
MISSES = 3
"""Looks that may find no door before a session counts as out of reach."""
JUST_AFTER = 0.001
"""Seconds: OpenCode's next attempt comes after the refusal, be it ever so soon."""
AFTER_RETURN = 0.05
"""Seconds after a model's return at which a stuck session is looked at: not a moment before the told time."""
FRESH = 60.0
"""Seconds after which a failed turn is old news: it never moves a session."""
MOST_UNKNOWN_WORDS = 500
"""Different texts of doubtful retries that are journalled in one life of the daemon."""


class Engine:
    """Owns the ledger and the cases; the only place that decides."""

    def __init__(self, policy: Policy, rules: RuleSet, ledger: Ledger, claim_id: Callable[[], str]) -> None:
        """`claim_id` makes a fresh name for each move."""
        self.policy = policy
        self.rules = rules
        self.ledger = ledger
        self.cases = Cases()
        self._registrar = Registrar(policy, ledger)
        self._claim_id = claim_id
        self._asked_for: set[ModelRef] = set()
        self._exhausted: dict[frozenset[ModelRef], float] = {}
        self._unknown_words: set[str] = set()
        self._parents: dict[str, SessionView] = {}

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Everything that follows from this message, in the order in which it is to be done."""
        match message:
            case Refused(event, live):
                return self._refused(event, live, now)
            case Surveyed():
                return self._surveyed(message, now)
            case MoveEnded():
                return self._move_ended(message, now)
            case Heard():
                return self._heard(message, now)
            case Aborted(session, time):
                return self._aborted(session, time)
            case RegisterChanged(entries):
                self.ledger.replace_all(entries)
                return self._wake_stuck()
            case Tick():
                return self._tick(now)

    def next_wake(self) -> float | None:
        """When `Tick` is wanted, epoch seconds."""
        return self.cases.next_wake()

    # ---- the log speaks

    def _refused(self, event: LimitEvent, live: bool, now: float) -> list[Effect]:
        certainty = event.verdict.certainty
        if certainty is Certainty.NO:
            return []
        sure = certainty is Certainty.SURE and event.ref is not None
        case = self.cases.of(event.session, now) if event.session and live and not event.small else None
        if case is not None and sure and self._already_shown(case, event):
            return self._told_again(case, event)
        effects = self._registrar.enter(event, live, now) if sure else []
        if case is not None:
            case.note_refusal(event.time)
            if case.looping(now) and effects:
                effects = [effect for effect in effects if not isinstance(effect, Note)]  # the register counts them all
        # A title or summary request never moves a session, and old news moves nothing.
        if not live or event.small:
            return effects
        if case is None:
            return effects + (self._ask_for_model(event.ref) if sure and event.ref else [])
        case.pending = event
        return effects + self._look(case)

    def _heard(self, news: Heard, now: float) -> list[Effect]:
        case = self.cases.of(news.session, now)
        case.heard = news.time
        if news.facts is not None:
            case.fact = news
        return self._look(case)

    def _already_shown(self, case: Case, event: LimitEvent) -> bool:
        """Whether this is the log's late line about a refusal that a door has shown already: no second strike."""
        if event.ref is None or event.time > case.sighted.get(event.ref, 0.0):
            return False
        del case.sighted[event.ref]
        return True

    def _told_again(self, case: Case, event: LimitEvent) -> list[Effect]:
        """The log may know the end, or at least the failure's exact time, which tells a Retry-After from a backoff."""
        if event.ref is None:
            return []
        if event.hint is not None:
            return self._registrar.refine(event.ref, event.hint, event.time)
        known = self.ledger.cooling(event.ref, event.time)
        if known is None or known.told_by is not ToldBy.BACKOFF or case.doing is Doing.MOVING:
            return []
        case.pending = event
        return self._look(case)

    def _aborted(self, session: str, time: float) -> list[Effect]:
        case = self.cases.known(session)
        # Our own abort is logged like a person's, and up to a second late: after the move is done.
        if case is not None and case.doing is not Doing.MOVING and not case.is_our_abort(time):
            case.rest("stopped by its user")
            case.pending = None
        return []

    # ---- asking the doors

    def _look(self, case: Case) -> list[Effect]:
        if case.looking or case.doing is Doing.MOVING:
            case.again = True
            return []
        case.looking, case.wake = True, None
        return [LookUp(case.session, case.pending.ref if case.pending else None)]

    def _ask_for_model(self, model: ModelRef) -> list[Effect]:
        if model in self._asked_for:
            return []
        self._asked_for.add(model)
        return [LookUp(None, model)]

    def _surveyed(self, answer: Surveyed, now: float) -> list[Effect]:
        self._parents = {view.session: view for view in answer.parents}
        if answer.session is None:
            if answer.model is not None:
                self._asked_for.discard(answer.model)
            return [effect for view in answer.views for effect in self._found(view, answer.model, now)]
        case = self.cases.of(answer.session, now)
        case.looking = False
        again, case.again = case.again, False
        if case.doing is Doing.MOVING:
            return []
        effects = self._weigh(case, answer.views[0], now) if answer.views else self._out_of_reach(case, answer, now)
        return effects + (self._look(case) if again else [])

    def _found(self, view: SessionView, model: ModelRef | None, now: float) -> list[Effect]:
        """A session in trouble that no log line named."""
        if model is not None and view.model != model:
            return []
        case = self.cases.of(view.session, now)
        return [] if case.looking or case.doing is Doing.MOVING else self._weigh(case, view, now)

    def _out_of_reach(self, case: Case, answer: Surveyed, now: float) -> list[Effect]:
        case.misses += 1
        if case.misses < MISSES and (case.pending is not None or case.stranded):
            case.wake = now + RECHECK  # a busy machine, or an OpenCode that starts: a door that hangs once is not gone
            return []
        pending, case.pending, case.misses = case.pending, None, 0
        if pending is None or pending.verdict.certainty is not Certainty.SURE:
            return []
        why = "no OpenCode answers" if answer.doors == 0 else "no OpenCode that answers knows this session"
        case.rest(f"limited, and {why}")
        return notes.unreachable(case.session, pending.ref, why)

    # ---- weighing

    def _weigh(self, case: Case, view: SessionView, now: float) -> list[Effect]:
        pending, case.pending, case.misses = case.pending, None, 0
        case.begin_message(view.user_message)
        if case.stranded and _stopped_unanswered(view):
            return self._move(case, view, now)
        if view.aborted:
            case.rest("stopped by its user")
            return []
        looping = case.looping(now) and view.state is SessionState.BUSY and silent(view)
        if not (view.stuck or looping) or view.model is None:
            return self._weigh_progress(case, view, pending, now)
        failed_at, case.heard = evidence.moment_of(view, _exact_time(pending, view.model), case.heard), None
        fact = evidence.fact_about(view, case.fact)
        told = evidence.header_hint(fact) or evidence.honoured_until(view, failed_at)
        shown = evidence.judge(view, self.rules, told, fact)
        effects, limited = self._weigh_evidence(case, view, pending, shown, told, now)
        entry = self.ledger.cooling(view.model, now)
        if limited and entry is None and view.state is SessionState.RETRY:
            return effects + self._let_wait(case, view, "the limit has just ended", now)
        # A retry on a model that is known to cool is stuck, whatever its words; a failure must itself be a limit.
        if entry is None or not (limited or view.state is SessionState.RETRY):
            return effects + self._wait_for_another_eye(case, view, now)
        return effects + self._decide(case, view, entry, now)

    def _weigh_evidence(
        self,
        case: Case,
        view: SessionView,
        pending: LimitEvent | None,
        shown: LimitEvent | None,
        told: Hint | None,
        now: float,
    ) -> tuple[list[Effect], bool]:
        """Enter what the door shows beyond the log. Says also whether this turn is limited at all."""
        model = view.model
        if model is None:
            return [], False
        this = (model, view.user_message, view.attempt or 0)
        if pending is not None and pending.ref == model and pending.verdict.certainty is Certainty.SURE:
            case.entered = this
            return self._registrar.refine(model, told, now), True
        if shown is None or shown.verdict.certainty is not Certainty.SURE or now - shown.time > FRESH:
            return [], False
        if case.entered == this:
            return [], True
        case.entered, case.sighted[model] = this, view.seen
        return self._registrar.enter(shown, True, now), True

    def _wait_for_another_eye(self, case: Case, view: SessionView, now: float) -> list[Effect]:
        """Words that prove nothing: look again after the next attempt; keep them, so that a rule can be made."""
        case.rest("")
        if view.state is not SessionState.RETRY:
            return []
        case.wake = max(now, view.next_at or now) + RECHECK
        case.phrase = "retrying, not known to be limited"
        words = view.message[:200]
        if words in self._unknown_words or len(self._unknown_words) >= MOST_UNKNOWN_WORDS:
            return []
        self._unknown_words.add(words)
        return [notes.doubtful(view, words)]

    def _weigh_progress(self, case: Case, view: SessionView, pending: LimitEvent | None, now: float) -> list[Effect]:
        """The turn runs or has ended well. An answer proves that its model works again."""
        if pending is not None and pending.ref == view.model:
            # OpenCode asked again before we looked: what comes of it is still to be seen.
            case.doing, case.retried_at = Doing.WAITING, pending.time + JUST_AFTER
        if view.state is SessionState.BUSY:
            if case.doing is Doing.WAITING:
                case.patience = min(case.patience * 2, LONGEST_RECHECK)
                case.wake = now + case.patience
            if view.model != case.landed:
                case.phrase = "working"
            return []
        # An answer is begun with the first attempt at it, which may have been refused; the retry's time says more.
        began = max(view.answer_started or 0.0, case.retried_at)
        # Where it was moved stays worth saying while it is there.
        case.rest(case.phrase if view.model == case.landed and case.phrase.startswith("moved") else "")
        return self._registrar.answered(view, began)

    # ---- deciding

    def _decide(self, case: Case, view: SessionView, entry: Cooldown, now: float) -> list[Effect]:
        if self.policy.mode is Mode.OFF:
            return []
        wait = worth_waiting(self.policy, view, entry, now)
        if wait is not None:
            return self._let_wait(case, view, wait, now)
        if self.policy.mode is not Mode.AUTO:
            case.phrase = f"limited on {view.model}: ocwatch redirect {view.session}"
            offered, case.doing = case.doing is Doing.OFFERED, Doing.OFFERED
            return [] if offered else notes.offer(view, entry, self.policy.mode)
        if view.door.run:
            return self._leave(case, view, "limited, but `opencode run` would end without an answer if it was stopped")
        if view.tool_running or view.asking:
            return self._leave(case, view, "limited, but a tool runs or a question is open")
        if case.moves_within_hour(now) >= self.policy.moves_per_hour:
            why, told = "moved too often within an hour: left alone", case.doing is Doing.LEFT
            self._leave(case, view, why)
            return [] if told else notes.too_many_moves(view, why)
        if view.parent is not None:
            return self._move_parent(case, view, now)
        return self._move(case, view, now)

    def _let_wait(self, case: Case, view: SessionView, why: str, now: float) -> list[Effect]:
        case.doing, case.retried_at = Doing.WAITING, max(now, view.next_at or now)
        case.wake = case.retried_at + RECHECK
        case.phrase = f"waits for OpenCode's own retry: {why}"
        return [notes.wait(view, why)]

    def _leave(self, case: Case, view: SessionView, why: str) -> list[Effect]:
        told = case.doing is Doing.LEFT and case.phrase == why
        case.rest(why)
        case.doing = Doing.LEFT
        return [] if told else [notes.left(view, why)]

    def _move_parent(self, case: Case, view: SessionView, now: float) -> list[Effect]:
        """The session that waits for a limited subagent is moved, if it uses the same model.

        With a model of its own the subagent would meet the limit again: it is stopped, and its parent goes on. Its
        answer could not reach the parent any more, wherever it were moved (measured on 1.0 to 1.18).
        """
        parent = self._parents.get(view.parent or "")
        if parent is None or parent.state is not SessionState.BUSY:
            return self._leave(case, view, "a limited subagent that nobody waits for")
        if parent.model == view.model:
            return self._move(case, view, now, parent)
        case.rest("stopped, so that the session that waits for it goes on")
        return [notes.freed(view), Free(view)]

    def _move(self, case: Case, view: SessionView, now: float, parent: SessionView | None = None) -> list[Effect]:
        """Claim and make a move; `parent` is moved in place of the subagent that `view` shows."""
        model = view.model or view.prompt_model
        if model is None:
            return []
        if case.landed != model or case.origin is None:
            case.origin, case.origin_agent = model, (parent or view).agent
        moved = parent or view
        choice = self._choice(case, moved, model, now)
        if isinstance(choice, Exhausted) and not case.stranded:
            return self._stuck(case, view, choice, now)
        # A turn that we stopped must not stay stopped: with nothing free it goes back to OpenCode's own retry.
        target = choice.target if isinstance(choice, Chosen) else Target(model, moved.agent)
        claim = self._claim_id()
        case.doing, case.wake, case.phrase = Doing.MOVING, None, f"moving to {target.model}"
        case.moves.append(now)
        child = view.session if parent else None
        order = Order(moved, target, child, case.stranded, case.looping(now), model)
        return [notes.claim(claim, order), Move(claim, order)]

    def _choice(self, case: Case, moved: SessionView, model: ModelRef, now: float) -> Choice:
        """Down the chain of the model that the session came from; that may be one which prevention passed over."""
        origin = case.origin or model
        choice = where_to(self.policy, self.ledger, moved, origin, case.failed_targets, now)
        if isinstance(choice, Chosen) or origin != model:
            return choice
        for entry in self.ledger.entries():
            if entry.active(now) and entry.target is not None and entry.target.model == model:
                wider = where_to(self.policy, self.ledger, moved, entry.model, case.failed_targets, now)
                if isinstance(wider, Chosen) or not choice.chained:
                    return wider
        return choice

    def _stuck(self, case: Case, view: SessionView, choice: Exhausted, now: float) -> list[Effect]:
        """Nothing is free: one notice, OpenCode's own retry is left alone, and another look when the first returns."""
        case.doing = Doing.STUCK
        soonest = choice.soonest
        # The model that the session waits for is asked again by OpenCode itself.
        case.wake = soonest[1] + AFTER_RETURN if soonest and soonest[0] != view.model else None
        if not choice.chained:
            case.phrase = f"limited, and no fallback is configured for {view.model}"
        elif soonest is None:
            case.phrase = "every model is cooling, nobody knows until when"
        else:
            case.phrase = f"every model is cooling; the first to return is {soonest[0]},"
        chain = frozenset(choice.models)
        if now < self._exhausted.get(chain, 0.0):
            return []
        self._exhausted[chain] = soonest[1] if soonest else float("inf")
        return notes.exhausted(view, choice, case.phrase, now)

    # ---- a move has ended

    def _move_ended(self, end: MoveEnded, now: float) -> list[Effect]:
        order, outcome = end.order, end.outcome
        case = self.cases.of(order.session, now)
        case.doing, case.moved_until = Doing.NOTHING, now
        again, case.again = case.again, False
        effects: list[Effect] = [notes.ended(end)]
        case.stranded = outcome.stranded
        if outcome.result in (MoveResult.ALREADY, MoveResult.REFUSED) and case.moves:
            case.moves.pop()  # nothing was touched
        match outcome.result:
            case MoveResult.ALREADY:
                case.rest(outcome.why)
                case.wake = now + RECHECK
                return effects
            case MoveResult.MOVED:
                return effects + self._landed(case, end) + (self._look(case) if again else [])
            case MoveResult.TARGET_LIMITED:
                case.landed = order.target.model
                return effects + (self._weigh(case, outcome.view, now) if outcome.view else self._look(case))
            case MoveResult.FAILED:
                return effects + self._after_failure(case, end, now)
            case MoveResult.REFUSED | MoveResult.USER_TOOK_OVER:
                case.phrase = outcome.why
                return effects + (self._look(case) if again else [])

    def _after_failure(self, case: Case, end: MoveEnded, now: float) -> list[Effect]:
        target, outcome = end.order.target.model, end.outcome
        case.phrase = f"could not be moved to {target}: {outcome.why}"
        if case.moves_within_hour(now) >= self.policy.moves_per_hour:
            return []
        view = outcome.view
        if view is not None:
            case.failed_targets.add(target)
            case.landed = target if view.model == target else case.landed
            if view.stuck and not outcome.stranded:
                return self._move(case, view, now)
        case.wake = now + RECHECK
        return []

    def _landed(self, case: Case, end: MoveEnded) -> list[Effect]:
        order, view = end.order, end.outcome.view
        case.landed = order.target.model
        if case.pending is not None and case.pending.ref == order.origin:
            case.pending = None  # the log's late line about the turn that has ended
        case.phrase = f"moved from {order.origin} to {order.target.model}"
        moved = view.session if view else order.session
        if not self.policy.come_back or case.origin is None:
            return [notes.moved(end)]
        if order.target.model == case.origin:
            return [notes.moved(end), Remember(moved)]
        return [notes.moved(end), Remember(moved, Target(case.origin, case.origin_agent), order.target)]

    def resume(self, session: str, now: float) -> list[Effect]:
        """A move that was claimed in an earlier life and never ended: look whether its turn was left stopped."""
        case = self.cases.of(session, now)
        case.stranded = True
        return self._look(case)

    # ---- time passes

    def _tick(self, now: float) -> list[Effect]:
        self.ledger.prune(now)
        self.cases.forget_old(now)
        self._exhausted = {key: end for key, end in self._exhausted.items() if end > now}
        return self._look_all(self.cases.due(now))

    def _wake_stuck(self) -> list[Effect]:
        """The register changed: what was stuck may move now."""
        self._exhausted.clear()
        return self._look_all(case for case in self.cases.all() if case.doing is Doing.STUCK)

    def _look_all(self, cases: Iterable[Case]) -> list[Effect]:
        return [effect for case in cases for effect in self._look(case)]


def _stopped_unanswered(view: SessionView) -> bool:
    """Whether nothing runs and the last prompt has no answer."""
    answered = view.state is SessionState.IDLE and view.answer_completed and not view.queued
    return not answered and (view.aborted or view.state is SessionState.IDLE)


def _exact_time(event: LimitEvent | None, model: ModelRef) -> float | None:
    """The failure's own time, if a log with a millisecond clock told it; a whole second is an old log's."""
    if event is None or event.ref != model or event.time == int(event.time):
        return None
    return event.time
