"""A limited turn: wait, leave it, move it, or give up until something is free. A move is claimed first."""

from __future__ import annotations

from collections.abc import Callable

from ocwatchd.core import notes
from ocwatchd.core.cases import HOUR, Case, Doing
from ocwatchd.core.considered import considered
from ocwatchd.core.decide import where_to, worth_waiting
from ocwatchd.core.fallback import Choice, Chosen, Exhausted
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.messages import Effect, Free, Move, MoveEnded, Remember
from ocwatchd.core.mind import Mind
from ocwatchd.core.moves import MoveResult, Order
from ocwatchd.core.policy import Mode
from ocwatchd.core.pools import pool_of
from ocwatchd.core.rejection import stands_in_for
from ocwatchd.core.views import SessionState, SessionView

RECHECK = 3.0
"""Seconds after OpenCode's own next attempt at which its outcome is looked at; doubled while the turn still runs."""
ENDING = 0.3
"""Seconds after which a turn whose answer has failed is over: 1.18.33 took up to 0.1 s with twelve sessions at once."""
AFTER_RETURN = 0.05
"""Seconds after a model's return at which a stuck session is looked at: not a moment before the told time."""

RUN_RECHECK = 30.0
"""Seconds after which a limited `opencode run` is looked at again: it ends, or `oc-smart` carries it over, unheard."""

RIVAL_PATIENCE = 10.0
"""Seconds that another fallback plugin gets. Five published ones moved after 0.4 to 0.9 s what they understood; two
movers at one time would stop each other's runs, and what it has not moved by now it has not understood."""


class Decider:
    """What becomes of a limited turn."""

    def __init__(self, mind: Mind, claim_id: Callable[[], str]) -> None:
        """`claim_id` makes a fresh name for each move."""
        self._mind, self._claim_id = mind, claim_id
        self._exhausted: dict[frozenset[ModelRef], float] = {}
        self.parents: dict[str, SessionView] = {}
        """Sessions that wait for a subagent, as last seen."""

    def forget_exhausted(self, now: float | None = None) -> None:
        """Chains of which something has returned by now (None: all) are worth a notice again."""
        self._exhausted = {key: end for key, end in self._exhausted.items() if now is not None and end > now}

    def decide(self, case: Case, view: SessionView, entry: Cooldown, now: float) -> list[Effect]:
        """A turn whose model is cooling (`entry`)."""
        if self._mind.policy.mode is Mode.OFF:
            return []
        wait, why = worth_waiting(self._mind.policy, view, entry, now)
        if wait:
            return self.let_wait(case, view, why, now)
        if self._mind.policy.mode is not Mode.AUTO:
            case.phrase = f"limited on {view.model}: ocwatch redirect {view.session}"
            offered, case.doing = case.doing is Doing.OFFERED, Doing.OFFERED
            return [] if offered else notes.offer(view, entry, self._mind.policy.mode)
        held = self._held(case, view, now)
        if held is not None:
            return held
        if view.parent is not None:
            return self._move_parent(case, view, why, now)
        return self.move(case, view, why, now)

    def rejected(self, case: Case, view: SessionView, words: str, now: float) -> list[Effect]:
        """A stand-in that was given the session has failed it: the next one, or back to where it came from.

        Nothing follows where the session was not put on this model by us, or not for this prompt.
        """
        model, origin = view.model, self._put_here_from(case, view, now)
        if model is None or origin is None or self._mind.policy.mode is not Mode.AUTO:
            return []
        case.failed_targets.add(model)
        case.origin, case.landed = origin, model
        told = notes.rejected(view, words)
        held = self._held(case, view, now)
        if held is not None:
            return [told, *held]
        return [told, *self.move(case, view, f"it fails the session that it was given: {words}", now)]

    def _put_here_from(self, case: Case, view: SessionView, now: float) -> ModelRef | None:
        """The model that we took the session from: for this prompt, or because that one cools still."""
        moved = case.origin if case.landed == view.model else None
        if moved and (case.landed_for == view.user_message or self._mind.ledger.cooling(moved, now) is not None):
            return moved
        return stands_in_for(view, self._mind.policy, self._mind.ledger, now)

    def _held(self, case: Case, view: SessionView, now: float) -> list[Effect] | None:
        """What is done where the turn may not be moved at all; None where it may."""
        if view.door.run:
            effects = self._leave(
                case, view, "limited, but `opencode run` would end without an answer if it was stopped"
            )
            case.wake = now + RUN_RECHECK
            return effects
        if view.door.rival and now < (until := case.rival_until(view.user_message, view.model, now, RIVAL_PATIENCE)):
            effects = self._leave(case, view, f"limited, and left to it at first: {view.door.rival}")
            case.wake = until
            return effects
        if view.tool_running or view.asking:
            return self._leave(case, view, "limited, but a tool runs or a question is open")
        if case.moves_within_hour(now) >= self._mind.policy.moves_per_hour:
            cap, told = "moved too often within an hour: left alone", case.doing is Doing.LEFT
            self._leave(case, view, cap)
            return [] if told else notes.too_many_moves(view, cap)
        return None

    def let_wait(self, case: Case, view: SessionView, why: str, now: float) -> list[Effect]:
        """OpenCode's own retry is left alone, and looked at afterwards."""
        case.doing, case.retried_at = Doing.WAITING, max(now, view.next_at or now)
        case.wake = case.retried_at + RECHECK
        case.phrase = f"waits for OpenCode's own retry: {why}"
        return [notes.wait(view, why)]

    def _leave(self, case: Case, view: SessionView, why: str) -> list[Effect]:
        told = case.doing is Doing.LEFT and case.phrase == why
        case.rest(why)
        case.doing = Doing.LEFT
        return [] if told else [notes.left(view, why)]

    def stopped(self, case: Case) -> list[Effect]:
        """Its user stopped the turn: that is the end of it."""
        waited = case.pending is not None or case.doing is not Doing.NOTHING
        case.rest("stopped by its user")
        case.pending = None
        return [notes.stopped(case.session)] if waited else []

    def _move_parent(self, case: Case, view: SessionView, why: str, now: float) -> list[Effect]:
        """The session that waits for a limited subagent is moved, if it uses the same model.

        With a model of its own the subagent would meet the limit again: it is stopped, and its parent goes on. Its
        answer could not reach the parent any more, wherever it were moved (measured on 1.0 to 1.18).
        """
        parent = self.parents.get(view.parent or "")
        if parent is None or parent.state is not SessionState.BUSY:
            return self._leave(case, view, "a limited subagent that nobody waits for")
        if parent.model == view.model:
            return self.move(case, view, why, now, parent)
        case.rest("stopped, so that the session that waits for it goes on")
        return [notes.freed(view), Free(view)]

    def move(
        self, case: Case, view: SessionView, why: str, now: float, parent: SessionView | None = None
    ) -> list[Effect]:
        """Claim and make a move; `parent` is moved in place of the subagent that `view` shows."""
        model = view.model or view.prompt_model
        if model is None:
            return []
        if case.landed != model or case.origin is None:
            case.origin, case.origin_agent = model, (parent or view).agent
        moved = parent or view
        choice = self._choice(case, moved, model, now)
        failing = model in case.failed_targets
        back = Target(case.origin, case.origin_agent or moved.agent) if failing else Target(model, moved.agent)
        if isinstance(choice, Exhausted) and not case.stranded and back.model == model:
            return self._stuck(case, view, choice, now)
        # A turn that we stopped, or put on a model that fails it, must not stay so: with nothing free it goes back to
        # OpenCode's own retry.
        target = choice.target if isinstance(choice, Chosen) else back
        claim = self._claim_id()
        case.doing, case.wake, case.phrase = Doing.MOVING, None, f"moving to {target.model}"
        case.moves.append(now)
        if pool_of(str(target.model), self._mind.policy.pools):
            self._mind.fill.give(str(target.model), now)
        child = view.session if parent else None
        order = Order(moved, target, child, case.stranded, case.looping(now), model, failing)
        rests = self._mind.ledger.cooling(model, now)
        outlook = self._mind.outlook(moved, now)
        tried = considered(choice, self._mind.ledger, model, case.failed_targets, now, outlook)
        if isinstance(choice, Exhausted):
            why_back = "nothing else is free, and OpenCode's own retry goes on there"
            tried.append({"model": str(target.model), "why": why_back, "chosen": True})
        origin = Target(case.origin, case.origin_agent)
        return [notes.claim(claim, order, view, why, rests, tried, origin), Move(claim, order)]

    def _choice(self, case: Case, moved: SessionView, model: ModelRef, now: float) -> Choice:
        """Down the chain of the model that the session came from; that may be one which prevention passed over."""
        origin, outlook = case.origin or model, self._mind.outlook(moved, now)
        choice = where_to(self._mind.policy, self._mind.ledger, moved, origin, case.failed_targets, now, outlook)
        if isinstance(choice, Chosen) or origin != model:
            return choice
        for entry in self._mind.ledger.entries():
            if entry.active(now) and entry.target is not None and entry.target.model == model:
                wider = where_to(
                    self._mind.policy, self._mind.ledger, moved, entry.model, case.failed_targets, now, outlook
                )
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
        elif view.model in case.failed_targets:
            case.phrase = f"{view.model} fails the session, and nothing else is free"
        elif failing := [ref for ref in choice.models if self._fails(ref, case, now)]:
            case.phrase = f"limited, and what is free fails the session: {', '.join(map(str, failing))}"
        elif choice.unfit:
            fits_not = "; ".join(f"{unfit}: {why}" for unfit, why in choice.unfit[:2])
            case.phrase = f"limited, and what is free cannot take the session: {fits_not}"
        elif soonest is None:
            case.phrase = "every model is cooling, nobody knows until when"
        else:
            case.phrase = f"every model is cooling; the first to return is {soonest[0]},"
        chain = frozenset(choice.models)
        if now < self._exhausted.get(chain, 0.0):
            return []
        self._exhausted[chain] = soonest[1] if soonest else float("inf")
        outlook = self._mind.outlook(view, now)
        tried = considered(choice, self._mind.ledger, view.model, case.failed_targets, now, outlook)
        return notes.exhausted(view, choice, case.phrase, now, tried)

    def _fails(self, model: ModelRef, case: Case, now: float) -> bool:
        """Whether this prompt cannot go there although it is free."""
        return model in case.failed_targets and self._mind.ledger.cooling(model, now) is None

    def after_failure(self, case: Case, end: MoveEnded, now: float) -> list[Effect]:
        """The move could not be made: the next target, or another look."""
        target, outcome = end.order.target.model, end.outcome
        case.phrase = f"could not be moved to {target}: {outcome.why}"
        if case.moves_within_hour(now) >= self._mind.policy.moves_per_hour:
            case.wake = case.moves[0] + HOUR
            return []
        view = outcome.view
        if view is not None:
            case.failed_targets.add(target)
            case.landed = target if view.model == target else case.landed
            if view.stuck and not outcome.stranded:
                return self.move(case, view, case.phrase, now)
        if view is not None and view.state is SessionState.BUSY:
            case.wake = now + ENDING  # OpenCode writes the error down before the turn is over
        else:
            case.look_later(now)  # its door failed us
        return []

    def landed(self, case: Case, end: MoveEnded) -> list[Effect]:
        """The target answers: say so, and remember to give the session back."""
        order, view = end.order, end.outcome.view
        case.landed, case.landed_for = order.target.model, order.view.user_message
        if case.pending is not None and case.pending.ref == order.origin:
            case.pending = None  # the log's late line about the turn that has ended
        case.phrase = f"moved from {order.origin} to {order.target.model}"
        moved = view.session if view else order.session
        # First what is kept, then the end of the claim: a kill between the two leaves it to the next life.
        return [*self._remember(case, moved, order.target), notes.ended(end), notes.moved(end)]

    def found_after(self, case: Case, view: SessionView) -> list[Effect]:
        """Moves that an earlier life began, and of whose end it wrote nothing, are over: what a door shows now."""
        effects: list[Effect] = []
        for claim in case.open_claims:
            note = notes.found_after(view, claim)
            if view.model == claim.target.model and claim.origin is not None:
                case.landed, case.landed_for = view.model, view.user_message
                case.origin, case.origin_agent = claim.origin.model, claim.origin.agent
                if note.what == MoveResult.MOVED:
                    effects += self._remember(case, view.session, claim.target)
            effects.append(note)
        case.open_claims = ()
        return effects

    def _remember(self, case: Case, session: str, target: Target) -> list[Effect]:
        """To give the session back; or that it is back."""
        if not self._mind.policy.come_back or case.origin is None:
            return []
        if target.model == case.origin:
            return [Remember(session)]
        return [Remember(session, Target(case.origin, case.origin_agent), target)]
