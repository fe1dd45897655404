"""How often something costly may be done: a few times at once after a rest, then steadily. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """Never more than `burst` + t / `every` in any t seconds. What it takes itself counts as no rest."""

    every: float
    """Seconds from the end of one to the next, once the burst is spent."""
    burst: int
    _rested: float = float("-inf")
    """When all of the burst is there again, epoch seconds."""

    def due(self, now: float) -> float:
        """From when on the next may be begun, epoch seconds: not behind `now` if at once, never far ahead."""
        due = self._rested - (self.burst - 1) * self.every
        return due if due - now <= self.every else now  # else the clock was set back

    def taken(self, begun: float, ended: float) -> Pace:
        """The pace after one more, be it one that did not wait for its turn."""
        rested = max(self._rested, begun) + max(ended - begun, 0.0) + self.every
        return replace(self, _rested=min(rested, ended + self.burst * self.every))
