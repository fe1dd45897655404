"""What every decision rests on."""

from __future__ import annotations

from dataclasses import dataclass, field

from ocwatchd.core.ledger import Ledger
from ocwatchd.core.outlook import Outlook
from ocwatchd.core.policy import Policy
from ocwatchd.core.pools import Fill
from ocwatchd.core.rules import RuleSet


@dataclass(slots=True)
class Mind:
    """One for all who decide: an edited configuration exchanges `policy` and `rules`, the ledger stays."""

    policy: Policy
    rules: RuleSet
    ledger: Ledger
    fill: Fill = field(default_factory=Fill)

    def outlook(self, session: str, now: float) -> Outlook:
        """What a choice for this session rests on; without one (empty), for nobody in particular."""
        return Outlook(session, self.fill.loads(now))
