"""What a choice among stand-ins rests on besides chains and cooldowns, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ocwatchd.core.capability import NOTHING, Capacity, Needs, unfit
from ocwatchd.core.experience import Experiences
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.money import Purse


@dataclass(frozen=True, slots=True)
class Outlook:
    """For one session, or for nobody in particular (`session` empty).

    `loads`: how full a pool's members are, as sessions' worth by model. `needs`: what the session takes up. `offers`:
    what models can take, by name; nothing is said against one that is not in it. `known`: how moves to them went.
    `purse`: what may be spent.
    """

    session: str = ""
    loads: Mapping[str, float] = field(default_factory=dict)
    needs: Needs = NOTHING
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    known: Experiences = field(default_factory=dict)
    purse: Purse = field(default_factory=Purse)

    def unfit(self, model: ModelRef) -> str | None:
        """Why the model cannot take the session; None if it can, or nobody knows."""
        return unfit(self.needs, self.offers.get(str(model)))

    def refused(self, model: ModelRef) -> str | None:
        """Why the model is not taken as a stand-in: it cannot take the session, or it would cost."""
        offer = self.offers.get(str(model))
        return self.unfit(model) or self.purse.too_dear(str(model), offer.price if offer else None)


UNKNOWN = Outlook()
"""Nothing is known."""
