"""What is entered in the register, as effects: a refusal, its exact end, an answer that ends it, and who stands in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ocwatchd.core import notes
from ocwatchd.core.cases import LOOP_REFUSALS, LOOP_WITHIN
from ocwatchd.core.considered import considered
from ocwatchd.core.decide import stand_in
from ocwatchd.core.fallback import Choice, Chosen
from ocwatchd.core.foresight import Threat
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import Hint, LimitEvent, ModelRef, Target
from ocwatchd.core.messages import Effect, SaveRegister, Spent
from ocwatchd.core.mind import Mind
from ocwatchd.core.views import SessionState, SessionView

SESSIONS_MOST = 500
"""Sessions of which the last refusals are remembered."""


class Registrar:
    """The only one who writes to the ledger on the daemon's behalf."""

    def __init__(self, mind: Mind) -> None:
        """Its ledger holds what is already known."""
        self._mind = mind
        self._foreseen: dict[ModelRef, float] = {}
        self._lately: dict[tuple[ModelRef | None, str | None], tuple[float, ...]] = {}

    def enter(self, event: LimitEvent, live: bool, now: float) -> list[Effect]:
        """A sure limit. Old news that is over already is not worth a line, nor is one refusal of very many."""
        if event.ref is None:
            return []
        entry = self._mind.ledger.record(event, self._mind.policy.rests)
        if not live and not entry.active(now):
            return []
        entry = self._mind.ledger.aim(entry.model, self._target_for(event.ref, now)) or entry
        save = SaveRegister(changed=(entry,))
        return [save] if self._one_of_many(event) else [notes.limit(event, entry, live), save]

    def _one_of_many(self, event: LimitEvent) -> bool:
        """Whether a session is refused without a pause: the register counts that, the journal tells the first few."""
        whose = event.ref, event.session
        times = self._lately.pop(whose, ())
        if len(self._lately) >= SESSIONS_MOST:
            del self._lately[next(iter(self._lately))]
        self._lately[whose] = (*times[1 - LOOP_REFUSALS :], event.time)
        return len(times) >= LOOP_REFUSALS - 1 and abs(event.time - self._lately[whose][0]) < LOOP_WITHIN

    def aim_anew(self, now: float) -> list[Effect]:
        """The chains were edited: who stands in for what rests now.

        Of a whole provider the chain of the model that was refused counts, which is not known any more: where the
        provider has no chain of its own, what was written down stays.
        """
        changed: list[Cooldown | None] = []
        for entry in self._mind.ledger.entries():
            target = self._target_for(entry.model, now)
            if entry.active(now) and (target is not None or entry.model.model != "*"):
                changed.append(self._mind.ledger.aim(entry.model, target))
        entries = tuple(entry for entry in changed if entry is not None)
        return [SaveRegister(changed=entries)] if entries else []

    def take_over(self, entries: Iterable[Cooldown], at: float) -> list[Effect]:
        """Somebody else wrote the register, `at` that time; what has refused since they cleared it is entered again."""
        again = self._mind.ledger.replace_all(entries, at)
        return [SaveRegister(changed=again)] if again else []

    def refine(self, session: str, model: ModelRef, told: Hint | None, now: float) -> list[Effect]:
        """The exact end of a limit that is entered already, as this session's refusal tells it."""
        entry = self._mind.ledger.refine(model, told.until, told.told_by, now) if told else None
        return [SaveRegister(changed=(entry,)), notes.told(session, entry, told.source)] if entry and told else []

    def answered(self, view: SessionView, began: float) -> list[Effect]:
        """The turn has ended well, and `began` is when its last answer was asked for at the earliest."""
        if view.state is not SessionState.IDLE or view.model is None or not view.answer_completed:
            return []
        if view.answer_ended is None or view.answer_ended < began:
            return []
        ended = self._mind.ledger.answered(view.model, began)
        return [notes.answered(view, ended, began), SaveRegister(removed=(ended.model,))] if ended else []

    def foresee(self, threats: Mapping[str, Threat], now: float) -> list[Effect]:
        """Send the next prompts elsewhere, where there is anything free; a model that rests is left to its cooldown."""
        effects: list[Effect] = []
        for name, threat in threats.items():
            model = ModelRef.parse(name)
            if now < self._foreseen.get(model, 0.0) and self._mind.ledger.avoided(model, now) is None:
                continue  # a person has cleared it, or it was limited and answers again: that is the better knowledge
            choice = self._choice_for(model, now)
            if not isinstance(choice, Chosen) or self._mind.ledger.avoided(choice.target.model, now):
                continue
            entry = self._mind.ledger.foresee(model, threat.until, now, threat.why, choice.target)
            if entry is not None:
                self._foreseen[model] = threat.until
                tried = considered(choice, self._mind.ledger, None, (), now, self._mind.outlook(None, now))
                effects += [SaveRegister(changed=(entry,)), notes.foreseen(entry, threat, tried)]
        return effects

    def ease(self, models: Iterable[str], now: float) -> list[Effect]:
        """Forecasts for these models are taken back."""
        effects: list[Effect] = []
        for name in models:
            entry = self._mind.ledger.avoided(model := ModelRef.parse(name), now)
            if entry is not None and entry.foreseen and entry.model == model:
                self._mind.ledger.clear(model)
                self._foreseen.pop(model, None)
                effects += [SaveRegister(removed=(model,)), notes.eased(model)]
        return effects

    def spend(self, told: Spent, now: float) -> list[Effect]:
        """Where the budget is spent (or a new day has begun), other models stand in for what rests."""
        self._mind.spent, self._mind.prices = told.dollars, told.prices
        purse = self._mind.purse
        if purse.over == self._mind.told_over:
            return []
        self._mind.told_over = purse.over
        return notes.budget(purse, now) + self.aim_anew(now)

    def _target_for(self, model: ModelRef, now: float) -> Target | None:
        """Where prompts for a cooling model go, as the register tells everybody."""
        choice = self._choice_for(model, now)
        return choice.target if isinstance(choice, Chosen) else None

    def _choice_for(self, model: ModelRef, now: float) -> Choice:
        outlook = self._mind.outlook(None, now)
        return stand_in(self._mind.policy, self._mind.ledger, model, None, {model}, now, outlook)
