"""What blacklist.json says of stand-ins beyond the first one, for whoever knows the session that goes on.

`stand_ins`: by listed model everything that may stand in for it, nearest first. `takes`: by model what OpenCode's own
provider list says that it can take. The companion plugin, `ocwatch pick` and `oc-smart` choose by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ocwatchd.core.capability import Capacity
from ocwatchd.core.chains import resolve
from ocwatchd.core.considered import MOST
from ocwatchd.core.fallback import agent_for, candidates
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.outlook import Outlook
from ocwatchd.core.policy import Policy


def document(policy: Policy, listed: Iterable[ModelRef], outlook: Outlook) -> dict[str, object]:
    """The fields `stand_ins` and `takes`, for the `listed` models. `outlook` is nobody's in particular."""
    found = {
        str(model): [ref for ref in candidates(model, policy, outlook) if not outlook.refused(ref)] for model in listed
    }
    named = {resolve(name, policy.aliases) for targets in policy.chains.values() for name in targets}
    named |= {member for pool in policy.pools.values() for member in pool.members}
    named |= {str(model) for models in found.values() for model in models}
    return {
        "stand_ins": {name: [_row(model, policy) for model in models[:MOST]] for name, models in found.items()},
        "takes": {name: _capacity(outlook.offers[name]) for name in sorted(named) if name in outlook.offers},
    }


def _row(model: ModelRef, policy: Policy) -> dict[str, object]:
    return {"model": str(model), "agent": agent_for(model, policy)}


def _capacity(told: Capacity) -> dict[str, object]:
    return {"context": told.context, "output": told.output, "inputs": sorted(told.inputs), "tools": told.tools}


def takes_in(raw: Mapping[str, object]) -> dict[str, Capacity]:
    """The field `takes` of a register; what cannot be read is left out, which forbids nothing."""
    listed = raw.get("takes")
    rows = listed.items() if isinstance(listed, dict) else ()
    return {name: _read(row) for name, row in rows if isinstance(row, dict)}


def _read(row: Mapping[str, object]) -> Capacity:
    context, output = (_count(row.get(name)) for name in ("context", "output"))
    inputs = row.get("inputs")
    kinds = frozenset(kind for kind in inputs if isinstance(kind, str)) if isinstance(inputs, list) else frozenset()
    # Without a readable list nothing is said against it.
    return Capacity(context, output, kinds if isinstance(inputs, list) else EVERYTHING, row.get("tools") is not False)


EVERYTHING = frozenset(("image", "pdf", "audio", "video"))


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12 else 0
