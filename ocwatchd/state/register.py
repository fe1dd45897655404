"""The cooldowns of one moment, asked by model name: plain values, for commands that start at once."""

from __future__ import annotations

from collections.abc import Sequence

from ocwatchd.core.chains import NO_POOLS, Members, covers, first_free, follow
from ocwatchd.state.entries import Entry

FORECAST = "forecast"
"""What `told_by` says of a limit that nobody has met yet."""


class Register:
    """The cooldowns of one moment, asked by model name."""

    def __init__(self, active: dict[str, Entry], pools: Members = NO_POOLS) -> None:
        """`active` are the entries whose end lies ahead, `pools` the members of each as they come for this session."""
        self._active = active
        self.pools = pools

    def __bool__(self) -> bool:
        """Whether anything cools at all."""
        return bool(self._active)

    def blocking(self, model: str) -> Entry | None:
        """The entry that blocks `model`; of several the one that ends last."""
        entries = [entry for key, entry in self._active.items() if covers(key, entry.scope, model)]
        return max(entries, key=lambda entry: entry.end, default=None)

    def blocked(self, model: str) -> bool:
        """Whether `model` rests, or is about to be limited."""
        return self.blocking(model) is not None

    def limited(self, model: str) -> bool:
        """Whether `model` rests: one whose limit is only foreseen still answers, where nothing else is free."""
        return any(entry.told_by != FORECAST and covers(key, entry.scope, model) for key, entry in self._active.items())

    def target(self, model: str) -> str | None:
        """Where prompts for `model` go, as its entry says."""
        target = self.target_with_agent(model)
        return target[0] if target else None

    def target_with_agent(self, model: str) -> tuple[str, str | None] | None:
        """The same, with the agent that its entry names. Of a pool its first free member."""
        entry = self._active.get(model) or self.blocking(model)
        if entry is None or entry.target is None:
            return None
        member = self.free_member(entry.pool) if entry.pool else None
        return entry.target if member in (None, entry.target[0]) else (str(member), None)

    def free_member(self, pool: str) -> str | None:
        """The first free member of a pool; None if there is no such pool, or all of it rests."""
        return self._first(self.pools.get(pool, ()))

    def _first(self, names: Sequence[str]) -> str | None:
        """The first that is free, else the first whose limit is only foreseen."""
        return first_free(names, self.blocked) or first_free(names, self.limited)

    def pick(self, model: str, stand_ins: list[str]) -> str | None:
        """`model` if free; else where its entry sends prompts, as prevention does; else the first free of its chain;
        else the first whose limit is only foreseen.

        Of a pool the first free member, which the stand-ins begin with.
        """
        names = stand_ins if model in self.pools else [model, *stand_ins]
        led = None
        if names[:1] == [model] and self.blocked(model):
            led = follow(model, self.target, self.blocked)
        return led or self._first(names)
