"""Choose the targets of the models in the blacklist, based on the current cooldowns."""

from __future__ import annotations

from collections.abc import Iterable

from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import ModelRef, Scope, Target
from ocwatchd.core.fallback.choice import by_chains, named
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.fallback.selection import select
from ocwatchd.core.policy import Policy


class Targets:
    """Keeps the targets in the blacklist up to date. `outlook` describes sessions in general, not a
    particular session.
    """

    def __init__(self, policy: Policy, cooldowns: Cooldowns, outlook: Outlook, now: float) -> None:
        """Store the values on which the choice depends. `now` is in epoch seconds."""
        self._policy, self._cooldowns, self._outlook, self._now = policy, cooldowns, outlook, now
        self._situation = by_chains(policy, cooldowns, now, outlook)

    def keep(self, anew: Iterable[ModelRef] = ()) -> list[Cooldown]:
        """Set the target of each active entry to the nearest available model, and return the entries that changed.

        A target that is not in the chains was written by another program and does not change. A target also does not
        change if no other model is available, and an entry without a target does not receive one. The targets of the
        models in `anew` are always chosen again, for example after an edit of the chains.
        """
        replaced = frozenset(anew)
        found = (
            self._kept(entry, entry.model in replaced) for entry in self._cooldowns.entries() if entry.active(self._now)
        )
        return [entry for entry in found if entry is not None]

    def point(self, models: Iterable[ModelRef]) -> None:
        """Set the targets of these models' entries to the nearest available model, without changing other entries."""
        wanted = frozenset(models)
        for entry in self._cooldowns.entries():
            if entry.model in wanted:
                self._kept(entry, anew=True)

    def of(self, model: ModelRef) -> Target | None:
        """Return the fallback of `model` according to the chains alone, or None if no model is available."""
        found = select(str(model), self._situation, (str(model),))
        return Target(ModelRef.parse(found.model), found.agent, found.pool) if found.model else None

    def _kept(self, entry: Cooldown, anew: bool) -> Cooldown | None:
        if entry.target is None and not anew:
            return None
        target = self.of(entry.model)
        ours = anew or entry.target is None or named(entry.target.model, entry.model, self._policy, self._outlook)
        if not ours or (target is None and (not anew or entry.model.model == "*")):
            target = entry.target
        return self._cooldowns.aim(entry.model, target, self._apart(entry, target))

    def _apart(self, entry: Cooldown, target: Target | None) -> dict[ModelRef, Target]:
        """Return the targets of those configured models that the entry covers but whose own chains lead to another
        target.

        An entry can cover a whole provider because one model hit its limit. The chain of that model does not apply to
        the provider's other models.
        """
        if entry.scope is Scope.MODEL and entry.model.model != "*":
            return {}
        models = map(ModelRef.parse, self._policy.fallbacks.models.get(entry.model.provider, ()))
        covered = [model for model in models if model != entry.model and entry.covers(model)]
        return {model: own for model in covered if (own := self.of(model)) is not None and own != target}
