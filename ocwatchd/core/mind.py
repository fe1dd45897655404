"""What every decision rests on."""

from __future__ import annotations

from dataclasses import dataclass

from ocwatchd.core.ledger import Ledger
from ocwatchd.core.policy import Policy
from ocwatchd.core.rules import RuleSet


@dataclass(slots=True)
class Mind:
    """One for all who decide: an edited configuration exchanges `policy` and `rules`, the ledger stays."""

    policy: Policy
    rules: RuleSet
    ledger: Ledger
