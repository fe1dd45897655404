"""Pools of equal models, and the choice of a member for each session. The module has few imports, because `pick` uses
it.

The choice is a function of the session's id, the weights and each member's load. Prevention (the companion plugin has
the same function), redirect and the launcher therefore agree without exchanging messages. A session stays with its
member, and new sessions are spread over the members. OpenCode has no pools, so inside OpenCode a pool is represented by
its first member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log

LEAST_USED, ROUND_ROBIN, FIRST_HEALTHY = STRATEGIES = ("least-used", "round-robin", "first-healthy")

STEEP = 8.0
"""How strongly each session that a member serves reduces the member's chance in the draw between equal members. Of two
such members, the one with one fewer session receives the next session in 9,998 of 10,000 draws. A difference in load of
0.02 sessions hardly matters.
"""

MEMORY = 3600.0
"""Time, in seconds, for which a session counts toward a member's load after it was assigned to that member. This value
is used only if the load is not measured.
"""


class Pool:
    """A name for several equal models.

    `members` are models in the configured order; `weights` contains the weights that differ from 1. This is not a
    dataclass, because importing dataclasses takes 10 ms of the 25 ms of CPU time that `ocwatch pick` may use.
    """

    __slots__ = ("members", "name", "strategy", "weights")

    def __init__(
        self,
        name: str,
        members: Iterable[str],
        strategy: str = LEAST_USED,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Initialize the pool with its configured values."""
        self.name, self.members, self.strategy = name, tuple(members), strategy
        self.weights = dict(weights or {})

    def __eq__(self, other: object) -> bool:
        """Return whether the two pools have the same configuration."""
        return isinstance(other, Pool) and self._all() == other._all()

    def __hash__(self) -> int:
        """Return a hash of the name, which is unique in a configuration."""
        return hash(self.name)

    def _all(self) -> tuple[object, ...]:
        return self.name, self.members, self.strategy, self.weights

    @property
    def spreads(self) -> bool:
        """Whether new sessions are spread over the members; otherwise the first available member receives
        all of them.
        """
        return self.strategy != FIRST_HEALTHY and len(self.members) > 1

    def weight(self, member: str) -> float:
        """Return this member's weight, which determines its share of the load."""
        return self.weights.get(member, 1.0)


Pools = Mapping[str, Pool]


def order(pool: Pool, session: str, loads: Mapping[str, float]) -> tuple[str, ...]:
    """Return the members in the order in which this session uses them. `loads`: load by member, in sessions.

    Members with the same load are ordered by a draw that depends only on the session's id and on the members' weights.
    """
    if not pool.spreads:
        return pool.members

    def score(member: str) -> float:
        return (STEEP * loads.get(member, 0.0) - log(_draw(f"{session} {member}"))) / pool.weight(member)

    return tuple(sorted(pool.members, key=score))


def arranged(pools: Pools, session: str, loads: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Return the members of every pool in the order in which this session uses them."""
    return {name: order(pool, session, loads) for name, pool in pools.items()}


def pool_of(model: str, pools: Pools) -> Pool | None:
    """Return the first pool that contains `model`, or None if no pool contains it."""
    return next((pool for pool in pools.values() if model in pool.members), None)


def relative(used: Mapping[str, float], sessions: int) -> dict[str, float]:
    """Convert each model's token count to a load in sessions. The loads add up to `sessions`."""
    whole = sum(used.values())
    return {model: tokens * sessions / whole for model, tokens in used.items()} if whole > 0 else {}


def _draw(text: str) -> float:
    """Hash the text to a number in (0, 1), with FNV-1a and murmur3's finalizer. The plugin has the same function."""
    value = 0x811C9DC5
    for byte in text.encode("utf-8", "replace"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
    value ^= value >> 16
    return (value + 0.5) / 2**32


class Fill:
    """The load of pool members: the last measured load, plus the sessions assigned to each member since then."""

    __slots__ = ("_given", "_measured", "measured_at")

    def __init__(self) -> None:
        """Initialize every member's load to zero."""
        self._measured: dict[str, float] = {}
        self._given: dict[str, list[float]] = {}
        self.measured_at: float | None = None

    def measure(self, loads: Mapping[str, float], models: Iterable[str], at: float) -> None:
        """Set the load of these models, in sessions, that was measured at `at` (epoch seconds).

        The measured load already includes sessions assigned to a member before `at`.
        """
        self._measured, self.measured_at = dict(loads), at
        for model in models:
            self._given[model] = [moment for moment in self._given.get(model, ()) if moment > at]

    def give(self, model: str, now: float) -> None:
        """Count a session that was assigned to this member."""
        self._given[model] = [*(moment for moment in self._given.get(model, ()) if now - moment < MEMORY), now]

    def loads(self, now: float) -> dict[str, float]:
        """Return the load by member, in sessions, including recently assigned sessions."""
        found = dict(self._measured)
        for model, moments in self._given.items():
            count = sum(now - moment < MEMORY for moment in moments)
            if count:
                found[model] = found.get(model, 0.0) + count
        return found
