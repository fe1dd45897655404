"""Order fallbacks by the results of past moves in the journal, for the setting `order: learnt`. Pure functions and
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocwatchd.core.text.amounts import exactly

if TYPE_CHECKING:
    # for type checkers only: the import takes 6 ms of CPU time, and `block` does not need it
    from ocwatchd.core.history.metrics import Fallback


FAILURE = 30.0
"""Assumed cost of a failed move, in seconds: the time until the next move can begin."""
PRIOR_TRIES, PRIOR_SECONDS = 2.0, 1.0
"""Prior for every fallback: two successful moves that took one second each, with an answer that began one second later.
With this prior, a single failure does not put a model last.
"""


@dataclass(frozen=True, slots=True)
class Experience:
    """The results of moves to one target.

    `tried` counts the moves, and `moved` counts the moves that worked. `seconds` is the median time until the turn
    continued on the target. `first_token` is the median time from then until its answer began (None: not measured).
    """

    tried: int
    moved: int
    seconds: float | None
    first_token: float | None = None

    @property
    def expected(self) -> float:
        """The expected time, in seconds, from the first limit until the target of a move begins to answer."""
        tried = self.tried + PRIOR_TRIES
        moved = self.moved + PRIOR_TRIES
        seconds = self._weighed(self.seconds) + self._weighed(self.first_token)
        return seconds + (1 - moved / tried) * FAILURE

    def _weighed(self, seconds: float | None) -> float:
        weight = self.moved / (self.moved + PRIOR_TRIES)
        return PRIOR_SECONDS if seconds is None else seconds * weight + PRIOR_SECONDS * (1 - weight)

    def __str__(self) -> str:
        """Return a description for the user."""
        took = f", in {exactly(self.seconds)}" if self.seconds is not None else ""
        spoke = f", and the answer began {exactly(self.first_token)} later" if self.first_token is not None else ""
        return f"{self.moved} of {self.tried} moves worked{took}{spoke}"


Experiences = Mapping[str, Experience]


def experiences(fallbacks: Sequence[Fallback]) -> dict[str, Experience]:
    """Return the results of past moves by model."""
    return {row.model: Experience(row.tried, row.moved, row.median, row.median_first_token) for row in fallbacks}


def best_first(
    models: Sequence[str], known: Experiences, members: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """Return the models (or pools, ranked by their best member) ordered by experience. Equal models keep
    their order.
    """
    opened = members or {}

    def cost(name: str) -> float:
        of = [known.get(model, NEVER).expected for model in opened.get(name, (name,))]
        return round(min(of, default=NEVER.expected), 1)

    return tuple(sorted(models, key=cost))


NEVER = Experience(0, 0, None)
