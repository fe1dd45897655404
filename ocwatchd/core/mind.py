"""What every decision rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ocwatchd.core.capability import Capacity
from ocwatchd.core.experience import Experiences
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.money import Price, Purse
from ocwatchd.core.outlook import Outlook
from ocwatchd.core.policy import Order, Policy
from ocwatchd.core.pools import Fill
from ocwatchd.core.rules import RuleSet
from ocwatchd.core.views import SessionView


@dataclass(slots=True)
class Mind:
    """One for all who decide: an edited configuration exchanges `policy` and `rules`, the ledger stays."""

    policy: Policy
    rules: RuleSet
    ledger: Ledger
    fill: Fill = field(default_factory=Fill)
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    """What models can take, as a door told last."""
    known: Experiences = field(default_factory=dict)
    spent: float = 0.0
    """US dollars, today."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    told_over: bool = False
    """Whether it was said that today's budget is spent; a life before this one may have said it."""

    @property
    def purse(self) -> Purse:
        """What may be spent today, and what was."""
        return Purse(self.policy.budget, self.spent, self.prices)

    def outlook(self, view: SessionView | None, now: float) -> Outlook:
        """What a choice for this session rests on; without one, for nobody in particular."""
        known = self.known if self.policy.order is Order.LEARNT else {}
        if view is None:
            return Outlook("", self.fill.loads(now), offers=self.offers, known=known, purse=self.purse)
        return Outlook(view.session, self.fill.loads(now), view.needs, self.offers, known, self.purse)
