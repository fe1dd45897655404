"""The brain: `Engine.handle(message, now)` returns what to do. No I/O, so every policy is tested by feeding values.

A limit is first entered in the ledger and the register is saved; then the door is asked, because the log alone neither
knows OpenCode's next attempt nor whether the turn is still stuck. Only what a door shows in trouble is ever moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ocwatchd.core import notes
from ocwatchd.core.cases import Case, Cases, Doing
from ocwatchd.core.decider import RECHECK, Decider
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import Certainty, LimitEvent, ModelRef, ToldBy
from ocwatchd.core.messages import (
    Aborted,
    Configured,
    Effect,
    Foreseen,
    Heard,
    Learnt,
    LookUp,
    Message,
    MoveEnded,
    Prevented,
    Refused,
    RegisterChanged,
    Shown,
    Spent,
    Surveyed,
    TakenOver,
    Tick,
    Used,
)
from ocwatchd.core.mind import Mind
from ocwatchd.core.moves import Claim, MoveResult
from ocwatchd.core.outofreach import may_run_elsewhere, nobody_showed
from ocwatchd.core.policy import Policy
from ocwatchd.core.registrar import Registrar
from ocwatchd.core.rules import RuleSet
from ocwatchd.core.views import SessionView
from ocwatchd.core.weigher import FRESH, Weigher


class Engine:
    """Owns the ledger and the cases; the only place that decides."""

    def __init__(self, policy: Policy, rules: RuleSet, ledger: Ledger, claim_id: Callable[[], str]) -> None:
        """`claim_id` makes a fresh name for each move."""
        self.mind = Mind(policy, rules, ledger)
        self.ledger = ledger
        self.cases = Cases()
        self._registrar = Registrar(self.mind)
        self._decider = Decider(self.mind, claim_id)
        self._weigher = Weigher(self.mind, self._registrar, self._decider)
        self._asked_for: set[ModelRef] = set()

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Everything that follows from this message, in the order in which it is to be done."""
        match message:
            case Refused():
                return self._refused(message, now)
            case Surveyed():
                return self._surveyed(message, now)
            case MoveEnded():
                return self._move_ended(message, now)
            case Heard():
                return self._heard(message, now)
            case Prevented():
                return [notes.prevented(message)]
            case Aborted(session, time):
                return self._aborted(session, time)
            case TakenOver(session):
                return self._taken_over(session)
            case RegisterChanged(entries, at):
                return self._registrar.take_over(entries, at) + self._wake_stuck()
            case Configured(policy, rules):
                self.mind.policy, self.mind.rules = policy, rules
                return self._configured(now)
            case Used(loads, models, at):
                self.mind.fill.measure(loads, models, at)
                return []
            case Learnt(known):
                self.mind.known = known
                return []
            case Foreseen():
                return self._registrar.foresee(message.threats, now) + self._registrar.ease(message.calm, now)
            case Spent():
                effects = self._registrar.spend(message, now)
                return effects + (self._wake_stuck() if effects else [])
            case Tick():
                return self._tick(now)

    def next_wake(self) -> float | None:
        """When `Tick` is wanted, epoch seconds."""
        return self.cases.next_wake()

    # ---- the log speaks

    def _refused(self, news: Refused, now: float) -> list[Effect]:
        event, live = news.event, news.live
        certainty = event.verdict.certainty
        if certainty is Certainty.NO:
            return []
        sure = certainty is Certainty.SURE and event.ref is not None
        # Of old news, too, a door may have shown the session, or may show it yet: one refusal, whoever tells of it.
        recent = live or now - event.time < FRESH
        case = self.cases.of(event.session, now) if event.session and recent and not event.small else None
        if case is not None and live:
            case.note_refusal(event.time)
        if case is not None and sure and self._already_shown(case, event):
            return self._told_again(case, event, live)
        known = news.counted or self.ledger.lifted_since(event)
        effects = self._registrar.enter(event, live, now) if sure and not known else []
        # A title or summary request never moves a session, and old news moves nothing.
        if not live or event.small:
            if case is not None and sure:
                case.counted = event.ref
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

    def _told_again(self, case: Case, event: LimitEvent, live: bool) -> list[Effect]:
        """The log may know the end, or at least the failure's exact time, which tells a Retry-After from a backoff."""
        if event.ref is None:
            return []
        if event.hint is not None:
            return self._registrar.refine(case.session, event.ref, event.hint, event.time)
        known = self.ledger.cooling(event.ref, event.time)
        if not live or known is None or known.told_by is not ToldBy.BACKOFF or case.doing is Doing.MOVING:
            return []
        case.pending = event
        return self._look(case)

    def _aborted(self, session: str, time: float) -> list[Effect]:
        case = self.cases.known(session)
        # Our own abort is logged like a person's, and up to a second late: after the move is done.
        if case is not None and case.doing is not Doing.MOVING and not case.is_our_abort(time):
            return self._decider.stopped(case)
        return []

    def _taken_over(self, session: str) -> list[Effect]:
        case = self.cases.known(session)
        if case is not None and case.doing is not Doing.MOVING:
            case.rest("moved by hand")
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
        self.mind.offers = self.mind.offers if answer.offers is None else answer.offers
        self._decider.parents = {view.session: view for view in answer.parents}
        if answer.session is None:
            if answer.model is not None:
                self._asked_for.discard(answer.model)
            return [effect for view in answer.views for effect in self._found(view, answer.model, now)]
        case = self.cases.of(answer.session, now)
        case.looking = False
        again, case.again = case.again, False
        if case.doing is Doing.MOVING:
            return []
        (view, *_) = answer.views or (None,)
        if view is None or may_run_elsewhere(case, view):
            effects = nobody_showed(case, answer, now)
        else:
            effects = self._weigher.weigh(case, view, now)
        return effects + (self._look(case) if again else [])

    def _found(self, view: SessionView, model: ModelRef | None, now: float) -> list[Effect]:
        """A session in trouble that no log line named."""
        if model is not None and view.model != model:
            return []
        case = self.cases.of(view.session, now)
        return [] if case.looking or case.doing is Doing.MOVING else self._weigher.weigh(case, view, now)

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
                return self._decider.landed(case, end) + (self._look(case) if again else [])
            case MoveResult.TARGET_LIMITED:
                case.landed = order.target.model
                return effects + (self._weigher.weigh(case, outcome.view, now) if outcome.view else self._look(case))
            case MoveResult.FAILED:
                return effects + self._decider.after_failure(case, end, now)
            case MoveResult.REFUSED | MoveResult.USER_TOOK_OVER:
                case.phrase = outcome.why
                return effects + (self._look(case) if again else [])

    def look_at(self, session: str, now: float, *, missed: bool = False) -> list[Effect]:
        """An earlier life read of its refusal and got no further: is it still stuck?

        `missed`: that life has looked and noted that no door showed it, which is not noted again.
        """
        case = self.cases.of(session, now)
        case.misses = int(missed)
        return self._look(case)

    def remember(self, refused: Mapping[str, ModelRef], shown: Iterable[Shown], now: float) -> None:
        """An earlier life entered refusals of these sessions by these models, and what doors showed."""
        for session, model in refused.items():
            if self.ledger.cooling(model, now) is not None:  # else it was ended, or killed before it was saved
                self.cases.remember(session, model)
        for one in shown:
            self._remember(one, self.cases.of(one.session, now))

    def _remember(self, shown: Shown, case: Case) -> None:
        case.entered = (shown.model, shown.message, shown.attempt)
        case.sighted[shown.model] = shown.time

    def resume(self, session: str, claims: tuple[Claim, ...], now: float) -> list[Effect]:
        """Moves that were claimed in an earlier life and never ended: look whether the turn was left stopped."""
        case = self.cases.of(session, now)
        case.stranded, case.open_claims = True, claims
        return self._look(case)

    # ---- time passes

    def _tick(self, now: float) -> list[Effect]:
        self.ledger.prune(now)
        self.cases.forget_old(now)
        self._decider.forget_exhausted(now)
        return self._look_all(self.cases.due(now))

    def _wake_stuck(self) -> list[Effect]:
        """The register changed: what was stuck may move now."""
        self._decider.forget_exhausted()
        return self._look_all(case for case in self.cases.all() if case.doing is Doing.STUCK)

    def _configured(self, now: float) -> list[Effect]:
        """Another policy holds: whoever waits, is stuck, or was offered a move may be moved now, or elsewhere."""
        self._decider.forget_exhausted()
        halted = (Doing.WAITING, Doing.STUCK, Doing.OFFERED, Doing.LEFT)
        anew = self._registrar.aim_anew(now)
        if not self.mind.policy.foresight.prevent:
            anew += self._registrar.ease((str(entry.model) for entry in self.ledger.entries()), now)
        return anew + self._look_all(case for case in self.cases.all() if case.doing in halted)

    def _look_all(self, cases: Iterable[Case]) -> list[Effect]:
        return [effect for case in cases for effect in self._look(case)]
