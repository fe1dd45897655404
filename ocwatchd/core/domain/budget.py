"""Token counts, model prices, and the day's budget. When the budget is spent, no paid model is chosen as a fallback.
Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MILLION = 1e6


def dollars(amount: float) -> str:
    """Return the amount as text, with four decimals below one dollar, because single turns cost cents."""
    digits = 2 if abs(amount) >= 1 or not amount else 4
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{digits}f}"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one answer, as reported by OpenCode."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def spent(self) -> int:
        """The number of tokens that count against a limit. With most providers, tokens read from the provider's cache
        do not count.
        """
        return self.input + self.output + self.reasoning + self.cache_write

    @property
    def context(self) -> int:
        """The number of tokens of the model's context window that are in use after this answer."""
        return self.spent + self.cache_read


@dataclass(frozen=True, slots=True)
class Price:
    """Prices in US dollars per million tokens, from OpenCode's provider list."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0

    @property
    def paid(self) -> bool:
        """Whether any part of the price is above zero."""
        return any((self.input, self.output, self.cache_read, self.cache_write))

    def of(self, tokens: Tokens) -> float:
        """Return the cost of these tokens in US dollars."""
        written = self.output * (tokens.output + tokens.reasoning)
        cached = self.cache_read * tokens.cache_read + self.cache_write * tokens.cache_write
        return (self.input * tokens.input + written + cached) / MILLION


@dataclass(frozen=True, slots=True)
class DayBudget:
    """The day's budget and the amount spent so far, in US dollars. `budget` is None if none is configured."""

    budget: float | None = None
    spent: float = 0.0
    prices: Mapping[str, Price] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the day's budget is spent."""
        return self.budget is not None and self.spent >= self.budget

    def is_over_budget(self, model: str, price: Price | None = None) -> str | None:
        """Return why the budget excludes this model, or None if the model may be chosen.

        `price`, if given, takes precedence over the known price.
        """
        known = price or self.prices.get(model)
        if not self.over or known is None or not known.paid:
            return None
        return f"paid, and today's budget is spent ({dollars(self.spent)} of {dollars(self.budget or 0)})"

    @property
    def over_budget(self) -> list[str]:
        """The models that are over budget, sorted."""
        return sorted(name for name in self.prices if self.is_over_budget(name))
