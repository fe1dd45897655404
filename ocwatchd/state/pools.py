"""What blacklist.json says of pools, for the companion plugin and other consumers, which may pass over it.

Unlike a cooldown it is no fact: it is what the daemon wishes for new sessions, so it holds until `until` alone, and is
renewed while the daemon runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from ocwatchd.clock import rfc3339
from ocwatchd.core.fallback import agent_for
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.policy import Policy

LASTS = 60.0
"""Seconds for which new sessions are spread after the daemon has spoken last."""


def document(policy: Policy, loads: Mapping[str, float], measured: float | None, now: float) -> dict[str, object]:
    """The field `pools`: by name `members` (`model`, `agent`, `weight`, `load`), `spread`, `measured`, `until`."""
    return {
        name: {
            "strategy": pool.strategy,
            "spread": pool.spreads,
            "members": [_member(member, pool.weight(member), policy, loads) for member in pool.members],
            "measured": None if measured is None else rfc3339(measured),
            "until": rfc3339(now + LASTS),
        }
        for name, pool in policy.pools.items()
    }


def _member(model: str, weight: float, policy: Policy, loads: Mapping[str, float]) -> dict[str, object]:
    agent = agent_for(ModelRef.parse(model), policy)
    return {"model": model, "agent": agent, "weight": weight, "load": round(loads.get(model, 0.0), 2)}
