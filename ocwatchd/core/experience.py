"""Which stand-in has worked best so far, from the journal: for `order: learnt`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocwatchd.core.figures import Fallback

FAILURE = 30.0
"""Seconds that a move which fails costs: the next one begins only after it."""
PRIOR_TRIES, PRIOR_SECONDS = 2.0, 1.0
"""A stand-in that nobody has tried counts as two that worked in a second: a single failure puts nobody at the end."""


@dataclass(frozen=True, slots=True)
class Experience:
    """How moves to one target went: tried, worked, and the middle one's seconds until the turn went on there."""

    tried: int
    moved: int
    seconds: float | None

    @property
    def expected(self) -> float:
        """Seconds that a move to it is expected to cost."""
        tried = self.tried + PRIOR_TRIES
        moved = self.moved + PRIOR_TRIES
        weight = self.moved / moved
        seconds = PRIOR_SECONDS if self.seconds is None else self.seconds * weight + PRIOR_SECONDS * (1 - weight)
        return seconds + (1 - moved / tried) * FAILURE

    def __str__(self) -> str:
        """In words."""
        took = f", in {self.seconds:.1f} s" if self.seconds is not None else ""
        return f"{self.moved} of {self.tried} moves worked{took}"


Experiences = Mapping[str, Experience]


def learnt(fallbacks: Sequence[Fallback]) -> dict[str, Experience]:
    """By model."""
    return {one.model: Experience(one.tried, one.moved, one.median) for one in fallbacks}


def best_first(
    models: Sequence[str], known: Experiences, members: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The models (or pools, by their best member) as experience orders them; equals stay as they were written."""
    opened = members or {}

    def cost(name: str) -> float:
        of = [known.get(model, NEVER).expected for model in opened.get(name, (name,))]
        return round(min(of, default=NEVER.expected), 1)

    return tuple(sorted(models, key=cost))


NEVER = Experience(0, 0, None)
