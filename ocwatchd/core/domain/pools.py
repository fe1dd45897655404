"""Pools: a name for several equal models, and which of them a session gets. No values, few imports: `pick` runs on it.

The choice is a function of the session's id, the weights and how full each member is, so that prevention (in the
companion plugin, which has the same function), redirect and launcher agree without talking to each other: a session
stays with its member, new ones spread. OpenCode knows no pools, so inside it a pool's first member speaks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log

LEAST_USED, ROUND_ROBIN, FIRST_HEALTHY = STRATEGIES = ("least-used", "round-robin", "first-healthy")

STEEP = 8.0
"""How much one session's worth of load counts against the draw between equals: with one session more on a member
another one gets the next in 9,998 of 10,000 cases, a fiftieth of a session decides hardly anything."""

MEMORY = 3600.0
"""Seconds for which a session that was given to a member counts as that member's, where nothing measures its use."""


class Pool:
    """`members` are models, in the order in which they were written; `weights` those that differ from 1.

    A plain class: importing dataclasses costs 10 of the 25 CPU ms that `ocwatch pick` has.
    """

    __slots__ = ("members", "name", "strategy", "weights")

    def __init__(
        self,
        name: str,
        members: Iterable[str],
        strategy: str = LEAST_USED,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Hold what was configured."""
        self.name, self.members, self.strategy = name, tuple(members), strategy
        self.weights = dict(weights or {})

    def __eq__(self, other: object) -> bool:
        """Whether both say the same."""
        return isinstance(other, Pool) and self._all() == other._all()

    def __hash__(self) -> int:
        """By name: that is what a configuration has once."""
        return hash(self.name)

    def _all(self) -> tuple[object, ...]:
        return self.name, self.members, self.strategy, self.weights

    @property
    def spreads(self) -> bool:
        """Whether new sessions are spread over it; else its first free member gets them all."""
        return self.strategy != FIRST_HEALTHY and len(self.members) > 1

    def weight(self, member: str) -> float:
        """How much of the load this member is to have, compared with the others."""
        return self.weights.get(member, 1.0)


Pools = Mapping[str, Pool]


def order(pool: Pool, session: str, loads: Mapping[str, float]) -> tuple[str, ...]:
    """The members as they come for this session, best first. `loads`: sessions' worth of use by member.

    Equal members are drawn by the session's id, each in proportion to its weight.
    """
    if not pool.spreads:
        return pool.members

    def score(member: str) -> float:
        return (STEEP * loads.get(member, 0.0) - log(_draw(f"{session} {member}"))) / pool.weight(member)

    return tuple(sorted(pool.members, key=score))


def arranged(pools: Pools, session: str, loads: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Every pool's members as they come for this session."""
    return {name: order(pool, session, loads) for name, pool in pools.items()}


def pool_of(model: str, pools: Pools) -> Pool | None:
    """The pool that `model` is a member of; the first one, if it is in several."""
    return next((pool for pool in pools.values() if model in pool.members), None)


def relative(used: Mapping[str, float], sessions: int) -> dict[str, float]:
    """What was used (tokens by model) by so many sessions, as sessions' worth."""
    whole = sum(used.values())
    return {model: tokens * sessions / whole for model, tokens in used.items()} if whole > 0 else {}


def _draw(text: str) -> float:
    """A number in (0, 1) that is always the same for one text: FNV-1a, then murmur3's finish, as in the plugin."""
    value = 0x811C9DC5
    for byte in text.encode("utf-8", "replace"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
    value ^= value >> 16
    return (value + 0.5) / 2**32


class Fill:
    """How full the members are: what was measured, and which sessions were given to them since. The engine's own."""

    __slots__ = ("_given", "_measured", "measured_at")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._measured: dict[str, float] = {}
        self._given: dict[str, list[float]] = {}
        self.measured_at: float | None = None

    def measure(self, loads: Mapping[str, float], models: Iterable[str], at: float) -> None:
        """Sessions' worth of use of these models, measured at `at` (epoch seconds): what was given before is in it."""
        self._measured, self.measured_at = dict(loads), at
        for model in models:
            self._given[model] = [moment for moment in self._given.get(model, ()) if moment > at]

    def give(self, model: str, now: float) -> None:
        """A session goes to this member."""
        self._given[model] = [*(moment for moment in self._given.get(model, ()) if now - moment < MEMORY), now]

    def loads(self, now: float) -> dict[str, float]:
        """Sessions' worth by member, those given lately included."""
        found = dict(self._measured)
        for model, moments in self._given.items():
            count = sum(now - moment < MEMORY for moment in moments)
            if count:
                found[model] = found.get(model, 0.0) + count
        return found
