"""Read budget.json, which contains today's budget and spending, for commands that must start fast."""

from __future__ import annotations

import json
import os

from ocwatchd.state.blacklist.format import moment
from ocwatchd.state.safe_read import StateError, read_plain

VERSION = 1


class Budget:
    """Today's budget and spending in US dollars. `over_budget` contains the models that are over budget."""

    __slots__ = ("budget", "over_budget", "spent")

    def __init__(self, budget: float = 0.0, spent: float = 0.0, over_budget: frozenset[str] = frozenset()) -> None:
        """Store the values from the file."""
        self.budget, self.spent, self.over_budget = budget, spent, over_budget

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= self.budget


def over_budget(path: str | os.PathLike[str], now: float) -> dict[str, str]:
    """Return the models that must not be used as fallbacks today, each with the reason, or an empty dict if the budget
    is not spent.
    """
    left = read(path, now)
    if left is None:
        return {}
    why = f"paid, and today's budget is spent (${left.spent:,.2f} of ${left.budget:,.2f})"
    return dict.fromkeys(left.over_budget, why)


def read(path: str | os.PathLike[str], now: float) -> Budget | None:
    """Return today's budget, or None if the file is missing, invalid or from another day. Never raises."""
    try:
        raw = json.loads(read_plain(path))
        if raw["version"] != VERSION or now >= moment(raw["until"], "until"):
            return None
        return Budget(float(raw["budget"]), float(raw["spent"]), frozenset(map(str, raw["over_budget"])))
    except (OSError, StateError, ValueError, KeyError, TypeError, RecursionError):
        return None
