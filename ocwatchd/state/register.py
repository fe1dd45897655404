"""The cooldowns of one moment, asked by model name: plain values, for commands that start at once."""

from __future__ import annotations

from ocwatchd.core.chains import covers, follow
from ocwatchd.state.entries import Entry


class Register:
    """The cooldowns of one moment, asked by model name."""

    def __init__(self, active: dict[str, Entry]) -> None:
        """`active` are the entries whose end lies ahead."""
        self._active = active

    def __bool__(self) -> bool:
        """Whether anything cools at all."""
        return bool(self._active)

    def blocking(self, model: str) -> Entry | None:
        """The entry that blocks `model`; of several the one that ends last."""
        entries = [entry for key, entry in self._active.items() if covers(key, entry.scope, model)]
        return max(entries, key=lambda entry: entry.end, default=None)

    def blocked(self, model: str) -> bool:
        """Whether `model` rests."""
        return self.blocking(model) is not None

    def target(self, model: str) -> str | None:
        """Where prompts for `model` go, as its entry says."""
        target = self.target_with_agent(model)
        return target[0] if target else None

    def target_with_agent(self, model: str) -> tuple[str, str | None] | None:
        """The same, with the agent that its entry names."""
        entry = self._active.get(model) or self.blocking(model)
        return entry.target if entry else None

    def pick(self, model: str, stand_ins: list[str]) -> str | None:
        """`model` if free; else where its entry sends prompts, as prevention does; else the first free of its chain."""
        if not self.blocked(model):
            return model
        led = follow(model, self.target, self.blocked)
        return led or next((name for name in stand_ins if not self.blocked(name)), None)
