"""Which stand-in has worked best so far, from the journal: for `order: learnt`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocwatchd.core.figures import Fallback

FAILURE = 30.0
"""Seconds that a move which fails costs: the next one begins only after it."""
PRIOR_TRIES, PRIOR_SECONDS = 2.0, 1.0
"""A stand-in that nobody has tried counts as two that worked in a second, and began to answer after another one: a
single failure puts nobody at the end."""


@dataclass(frozen=True, slots=True)
class Experience:
    """How moves to one target went: tried, worked, and the middle one's seconds until the turn went on there and from
    then on until its answer began (None: nobody has measured it).
    """

    tried: int
    moved: int
    seconds: float | None
    first_token: float | None = None

    @property
    def expected(self) -> float:
        """Seconds from the first refusal to the beginning of an answer that a move to it is expected to cost."""
        tried = self.tried + PRIOR_TRIES
        moved = self.moved + PRIOR_TRIES
        seconds = self._weighed(self.seconds) + self._weighed(self.first_token)
        return seconds + (1 - moved / tried) * FAILURE

    def _weighed(self, seconds: float | None) -> float:
        weight = self.moved / (self.moved + PRIOR_TRIES)
        return PRIOR_SECONDS if seconds is None else seconds * weight + PRIOR_SECONDS * (1 - weight)

    def __str__(self) -> str:
        """In words."""
        took = f", in {self.seconds:.1f} s" if self.seconds is not None else ""
        spoke = f", an answer begun {self.first_token:.1f} s later" if self.first_token is not None else ""
        return f"{self.moved} of {self.tried} moves worked{took}{spoke}"


Experiences = Mapping[str, Experience]


def learnt(fallbacks: Sequence[Fallback]) -> dict[str, Experience]:
    """By model."""
    return {one.model: Experience(one.tried, one.moved, one.median, one.median_first_token) for one in fallbacks}


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
