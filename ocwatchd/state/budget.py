"""budget.json: what is left of today's budget, for commands that start at once."""

from __future__ import annotations

import json
import os

from ocwatchd.state.entries import moment
from ocwatchd.state.plain import StateError, read_plain

VERSION = 1


class Budget:
    """Of today, in US dollars. `dear`: the models that are not chosen, because it is spent."""

    __slots__ = ("budget", "dear", "spent")

    def __init__(self, budget: float = 0.0, spent: float = 0.0, dear: frozenset[str] = frozenset()) -> None:
        """Hold what was read."""
        self.budget, self.spent, self.dear = budget, spent, dear

    @property
    def over(self) -> bool:
        """Whether nothing is left of it."""
        return self.spent >= self.budget


def dear(path: str | os.PathLike[str], now: float) -> dict[str, str]:
    """Why models do not stand in for others today, by name; nothing while there is money."""
    left = read(path, now)
    if left is None:
        return {}
    why = f"paid, and today's budget is spent (${left.spent:,.2f} of ${left.budget:,.2f})"
    return dict.fromkeys(left.dear, why)


def read(path: str | os.PathLike[str], now: float) -> Budget | None:
    """None without a budget, or if what is written is of another day. Never raises."""
    try:
        raw = json.loads(read_plain(path))
        if raw["version"] != VERSION or now >= moment(raw["until"], "until"):
            return None
        return Budget(float(raw["budget"]), float(raw["spent"]), frozenset(map(str, raw["dear"])))
    except (OSError, StateError, ValueError, KeyError, TypeError, RecursionError):
        return None
