"""The information on which the choice of a fallback depends, apart from chains and cooldowns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ocwatchd.core.domain.budget import DayBudget
from ocwatchd.core.domain.capability import NOTHING, Capacity, Needs, unfit
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.ranking import Experiences


@dataclass(frozen=True, slots=True)
class Outlook:
    """The information for choosing a fallback, either for one session or, if `session` is empty, for any session.

    `loads`: the load of pool members by model, in sessions. `needs`: what the session requires. `offers`: the capacity
    of models by name; a model without an entry is not ruled out. `known`: the results of past moves to each model.
    `day_budget`: today's budget and spending.
    """

    session: str = ""
    loads: Mapping[str, float] = field(default_factory=dict)
    needs: Needs = NOTHING
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    known: Experiences = field(default_factory=dict)
    day_budget: DayBudget = field(default_factory=DayBudget)

    def unfit(self, model: ModelRef) -> str | None:
        """Return why the model cannot run the session, or None if it can or if its capacity is unknown."""
        return unfit(self.needs, self.offers.get(str(model)))

    def over_budget(self, model: ModelRef) -> str | None:
        """Return why the model would cost too much today, or None if it would not."""
        offer = self.offers.get(str(model))
        return self.day_budget.is_over_budget(str(model), offer.price if offer else None)

    def refused(self, model: ModelRef) -> str | None:
        """Return why the model is not used as a fallback, or None if it may be used. The model may be unable to run the
        session, or it may cost too much.
        """
        return self.unfit(model) or self.over_budget(model)


UNKNOWN = Outlook()
"""An outlook without any information. It rules out no model."""
