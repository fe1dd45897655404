"""Query, by model name, the cooldowns that apply at a given time, with built-in types only, for commands that must
start fast.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ocwatchd.core.domain.chains import NO_POOLS, Fallbacks, Members, is_free
from ocwatchd.core.fallback.selection import Listed, Selection, Situation, select
from ocwatchd.state.blacklist.format import Entry

FORECAST = "forecast"
"""The value of `reset_source` for a limit that is only expected."""
NOTHING: Mapping[str, str] = {}


class CooldownTable:
    """The cooldowns that apply at a given time, queried by model name."""

    def __init__(
        self,
        active: dict[str, Entry],
        pools: Members = NO_POOLS,
        unfit: Mapping[str, str] = NOTHING,
        over_budget: Mapping[str, str] = NOTHING,
    ) -> None:
        """Store the active entries, and the members of each pool in the order that applies to this session.

        `unfit` contains the models that cannot continue the session, and `over_budget` contains the models that are
        over budget, each with the reason.
        """
        self._active = active
        self.pools, self.unfit, self.over_budget = pools, unfit, over_budget
        self._tiers = [key for key, entry in active.items() if entry.scope == "free_tier" and is_free(key)]

    def without(self, unfit: Mapping[str, str]) -> CooldownTable:
        """Return a copy of the table with `unfit` as the models that cannot continue the session."""
        return CooldownTable(self._active, self.pools, unfit, self.over_budget)

    def __bool__(self) -> bool:
        """Return whether any model is cooling down."""
        return bool(self._active)

    def _covering(self, model: str) -> list[Entry]:
        """Return the entries that cover `model`: the model's own entry, its provider's entry, and, for a free model,
        the entries of the provider's free tier.
        """
        provider = model.partition("/")[0]
        keys = [model, f"{provider}/*"]
        if self._tiers and is_free(model):
            keys += [key for key in self._tiers if key.startswith(f"{provider}/")]
        return [self._active[key] for key in dict.fromkeys(keys) if key in self._active]

    def blocking(self, model: str) -> Entry | None:
        """Return the entry that covers `model`, or None if there is none. If several entries cover it, return the one
        that ends last.
        """
        return max(self._covering(model), key=lambda entry: entry.end, default=None)

    def blocked(self, model: str) -> bool:
        """Return whether `model` is cooling down or is expected to be limited soon."""
        return bool(self._covering(model))

    def limited(self, model: str) -> bool:
        """Return whether `model` is cooling down. A forecast limit is ignored, because the model is still used if no
        other model is available.
        """
        return any(entry.reset_source != FORECAST for entry in self._covering(model))

    def listed(self, model: str) -> list[Listed]:
        """Return the targets in the entries that cover `model`. The target of the entry that ends last comes first."""
        entries = sorted(self._covering(model), key=lambda entry: entry.end, reverse=True)
        return [target for entry in entries if (target := entry.target_for(model)) is not None]

    def select(
        self, asked: str, fallbacks: Fallbacks, tried: Collection[str] = (), agent: str | None = None
    ) -> Selection:
        """Return the model to use in place of `asked` for a session of `agent`. Models in `tried` are not used."""
        situation = Situation(
            fallbacks.chains, fallbacks.agents, self.blocked, self.limited, self.pools,
            self.unfit.get, self.over_budget.get, self.listed, agent,
        )  # fmt: skip
        return select(asked, situation, tried)
