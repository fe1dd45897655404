"""The cooldowns of one moment, asked by model name: plain values, for commands that start at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ocwatchd.core.chains import NO_POOLS, Members, covers, first_free, follow
from ocwatchd.state.entries import Entry

FORECAST = "forecast"
"""What `told_by` says of a limit that nobody has met yet."""
NOTHING: Mapping[str, str] = {}


class Register:
    """The cooldowns of one moment, asked by model name."""

    def __init__(
        self,
        active: dict[str, Entry],
        pools: Members = NO_POOLS,
        unfit: Mapping[str, str] = NOTHING,
        dear: Mapping[str, str] = NOTHING,
    ) -> None:
        """`active` are the entries whose end lies ahead, `pools` the members of each as they come for this session,
        `unfit` says of models why they cannot stand in for others in it, `dear` why they would cost too much for that.
        """
        self._active = active
        self.pools, self.unfit, self.dear = pools, unfit, dear

    def without(self, unfit: Mapping[str, str]) -> Register:
        """The same for a session that these models could not take."""
        return Register(self._active, self.pools, unfit, self.dear)

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

    def _first(self, names: Sequence[str], own: Sequence[str] = ()) -> str | None:
        """The first that is free and may be taken, else the first whose limit is only foreseen. `own` are what a person
        asked for, whatever it costs.
        """

        def refused(model: str) -> bool:
            return model in self.unfit or (model in self.dear and model not in own)

        free = first_free(names, lambda model: self.blocked(model) or refused(model))
        return free or first_free(names, lambda model: self.limited(model) or refused(model))

    def passed_over(self, picked: str | None, stand_ins: list[str]) -> list[tuple[str, str]]:
        """The free stand-ins that come before what was picked and may not be taken, each with why."""
        before = stand_ins[: stand_ins.index(picked)] if picked in stand_ins else stand_ins
        why = {**self.dear, **self.unfit}
        return [(name, why[name]) for name in before if name in why and not self.blocked(name)]

    def pick(self, model: str, stand_ins: list[str]) -> str | None:
        """`model` if free; else where its entry sends prompts, as prevention does; else the first free of its chain;
        else the first whose limit is only foreseen.

        Of a pool the first free member, which the stand-ins begin with; one that costs too much only after the others.
        """
        own = self.pools.get(model, (model,))
        if model in self.pools:
            return self._first(sorted(stand_ins, key=lambda name: (name not in own, name in self.dear)), own)
        if not self.blocked(model):
            return model
        return follow(model, self.target, self._unusable) or self._first([model, *stand_ins], own)

    def _unusable(self, model: str) -> bool:
        """Whether it cannot stand in for another one."""
        return self.blocked(model) or model in self.unfit or model in self.dear
