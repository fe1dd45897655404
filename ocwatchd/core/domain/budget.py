"""Tokens, prices, and the day's budget: above it no paid model is chosen as a stand-in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MILLION = 1e6


def dollars(amount: float) -> str:
    """With as many digits as it takes: single turns cost cents."""
    digits = 2 if abs(amount) >= 1 or not amount else 4
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{digits}f}"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one answer used, as OpenCode counts it."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def spent(self) -> int:
        """What counts against a limit: what was read from the provider's cache mostly does not."""
        return self.input + self.output + self.reasoning + self.cache_write

    @property
    def context(self) -> int:
        """How much of the model's context window the session fills after this answer."""
        return self.spent + self.cache_read


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens, as OpenCode's provider list tells them."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0

    @property
    def paid(self) -> bool:
        """Whether anything of it costs."""
        return any((self.input, self.output, self.cache_read, self.cache_write))

    def of(self, tokens: Tokens) -> float:
        """What these tokens would cost."""
        written = self.output * (tokens.output + tokens.reasoning)
        cached = self.cache_read * tokens.cache_read + self.cache_write * tokens.cache_write
        return (self.input * tokens.input + written + cached) / MILLION


@dataclass(frozen=True, slots=True)
class Purse:
    """What may be spent in a day, and what was, in US dollars. `budget` None: as much as you like."""

    budget: float | None = None
    spent: float = 0.0
    prices: Mapping[str, Price] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the day's budget is spent."""
        return self.budget is not None and self.spent >= self.budget

    def too_dear(self, model: str, price: Price | None = None) -> str | None:
        """Why this model is not chosen; None if it may be. `price`: a fresher one than was known."""
        known = price or self.prices.get(model)
        if not self.over or known is None or not known.paid:
            return None
        return f"paid, and today's budget is spent ({dollars(self.spent)} of {dollars(self.budget or 0)})"

    @property
    def dear(self) -> list[str]:
        """The models that are not chosen."""
        return sorted(name for name in self.prices if self.too_dear(name))
