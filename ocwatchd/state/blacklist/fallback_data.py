"""Build the fields of blacklist.json about fallbacks and pools, which readers use to choose a model for their session.

`fallbacks` contains all fallbacks of each listed model, nearest first. `agent_chains` contains the chains of individual
agents, which take precedence and do not depend on the listed models. `capabilities` contains the capabilities of each
model, from OpenCode's provider list. The companion plugin, `ocwatch pick` and `oc-smart` read these fields.

`pools` contains the members of each pool and their loads, so that readers can choose a member for a new session.
Because loads become outdated, the field is valid only until the time in `until`. A running daemon renews the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from ocwatchd.clock import rfc3339
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.chains import resolve
from ocwatchd.core.domain.cooldowns import is_free
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.choice import agent_for, candidates, of_agents
from ocwatchd.core.fallback.considered import MAX_RECORDED
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.policy import Policy

Rows = dict[ModelRef, list[dict[str, object]]]


def document(
    policy: Policy, listed: Iterable[ModelRef], outlook: Outlook, known: Rows | None = None
) -> dict[str, object]:
    """Return the fields `fallbacks`, `agent_chains` and `capabilities`.

    The keys of `fallbacks` are the `listed` models, and the configured models that their entries cover. `outlook` must
    not be specific to one session. `known` contains rows that were computed earlier with the same policy and outlook.
    New rows are added to it.
    """
    known = {} if known is None else known
    found = {}
    for model in _covered(listed, policy):
        if model not in known:
            fit = (ref for ref in candidates(model, policy, outlook) if not outlook.refused(ref))
            known[model] = [_row(ref, policy) for ref in islice(fit, MAX_RECORDED)]
        found[str(model)] = known[model]
    named = {resolve(name, policy.aliases) for targets in policy.chains.values() for name in targets}
    named |= {member for pool in policy.pools.values() for member in pool.members}
    named |= {str(row["model"]) for rows in found.values() for row in rows}
    return {
        "fallbacks": found,
        "agent_chains": of_agents(policy, outlook),
        "capabilities": {name: _capacity(outlook.offers[name]) for name in sorted(named) if name in outlook.offers},
    }


def _covered(listed: Iterable[ModelRef], policy: Policy) -> Iterable[ModelRef]:
    """Return the listed models, and the configured models that the entry of a listed provider or free tier covers."""
    found: dict[ModelRef, None] = {}
    for model in listed:
        found[model] = None
        if model.model == "*" or is_free(model):
            named = map(ModelRef.parse, policy.fallbacks.models.get(model.provider, ()))
            found |= dict.fromkeys(ref for ref in named if model.model == "*" or is_free(ref))
    return found


def _row(model: ModelRef, policy: Policy) -> dict[str, object]:
    return {"model": str(model), "agent": agent_for(model, policy)}


def _capacity(capacity: Capacity) -> dict[str, object]:
    return {
        "context": capacity.context,
        "output": capacity.output,
        "inputs": sorted(capacity.inputs),
        "tools": capacity.tools,
    }


def capabilities_in(raw: Mapping[str, object]) -> dict[str, Capacity]:
    """Return the capacities from the field `capabilities` of a blacklist. Unreadable rows are omitted."""
    listed = raw.get("capabilities")
    rows = listed.items() if isinstance(listed, dict) else ()
    return {name: _read(row) for name, row in rows if isinstance(row, dict)}


def _read(row: Mapping[str, object]) -> Capacity:
    context, output = (_count(row.get(name)) for name in ("context", "output"))
    inputs = row.get("inputs")
    kinds = frozenset(kind for kind in inputs if isinstance(kind, str)) if isinstance(inputs, list) else frozenset()
    # without a readable list, assume that the model accepts everything
    return Capacity(context, output, kinds if isinstance(inputs, list) else EVERYTHING, row.get("tools") is not False)


EVERYTHING = frozenset(("image", "pdf", "audio", "video"))


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12 else 0


LASTS = 60.0
"""Time, in seconds, for which the field `pools` is valid after the daemon has written it."""


def pools_document(policy: Policy, loads: Mapping[str, float], measured: float | None, now: float) -> dict[str, object]:
    """Return the field `pools`. It contains `strategy`, `spread`, `members` (`model`, `agent`, `weight`, `load`),
    `measured` and `until` for each pool.
    """
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
