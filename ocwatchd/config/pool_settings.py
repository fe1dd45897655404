"""Read and check the pools in the configuration. The module is fast to import, like `names`, which uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ocwatchd.config.reader import Document
from ocwatchd.core.domain.chains import resolve
from ocwatchd.core.domain.pools import LEAST_USED, STRATEGIES, Pool
from ocwatchd.errors import ConfigError

MEMBERS, STRATEGY, WEIGHTS = "members", "strategy", "weights"

Report = Callable[[ConfigError], None]
Keys = tuple[str | int, ...]


class Checks:
    """The names and functions needed to check a pool, including the function that reports a fault.

    This is a plain class, because importing `dataclasses` takes 10 ms of the 25 ms of CPU time that `ocwatch pick` may
    use.
    """

    __slots__ = ("aliases", "is_model", "report")

    def __init__(self, aliases: Mapping[str, str], is_model: Callable[[str], bool], report: Report) -> None:
        """Store the values. `report` raises or stores a fault."""
        self.aliases, self.is_model, self.report = aliases, is_model, report


def read_pool(document: Document, keys: Keys, value: object, checks: Checks) -> Pool | None:
    """Return the pool under `keys`, or None if a fault makes it unusable.

    Raises:
        ConfigError: The pool is faulty, and `checks.report` raises.
    """
    report = checks.report
    name = str(keys[-1])
    if "/" in name or not name.strip() or name == "*":
        report(document.fault(keys, "a pool's name must not contain a slash or be `*`"))
        return None
    if name in checks.aliases:
        report(document.fault(keys, "is also an alias in `models`; give one of them another name"))
        return None
    if not isinstance(value, dict):
        report(document.fault(keys, 'must be an object: {"members": ["provider/model", …]}'))
        return None
    members = _members(document, (*keys, MEMBERS), value.get(MEMBERS), checks)
    strategy = value.get(STRATEGY, LEAST_USED)
    if strategy not in STRATEGIES:
        choices = ", ".join(f'"{choice}"' for choice in STRATEGIES)
        report(document.fault((*keys, STRATEGY), f"{strategy!r} is not one of {choices}"))
        strategy = LEAST_USED
    weights = _weights(document, (*keys, WEIGHTS), value.get(WEIGHTS, {}), members, checks)
    return Pool(name, members, str(strategy), weights) if members else None


def _members(document: Document, keys: Keys, value: object, checks: Checks) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        checks.report(document.fault(keys, "must be a list of at least one model"))
        return ()
    found: list[str] = []
    for index, item in enumerate(value):
        model = resolve(item, checks.aliases) if isinstance(item, str) else ""
        if not checks.is_model(model) or model.endswith("/*"):
            checks.report(document.fault((*keys, index), f"{item!r} is neither provider/model nor an alias of a model"))
        elif model in found:
            checks.report(document.fault((*keys, index), f"{item} is already in the pool"))
        else:
            found.append(model)
    return tuple(found)


def _weights(
    document: Document, keys: Keys, value: object, members: tuple[str, ...], checks: Checks
) -> dict[str, float]:
    if not isinstance(value, dict):
        checks.report(document.fault(keys, "must be an object that maps each member to a number"))
        return {}
    found: dict[str, float] = {}
    for name, weight in value.items():
        model = resolve(name, checks.aliases)
        if name.startswith(("//", "$", "#")):
            continue
        if model not in members:
            checks.report(document.fault((*keys, name), f"{name} is not a member of the pool"))
        elif isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1000:
            checks.report(
                document.fault((*keys, name), f"{weight!r} is not valid: use a number greater than 0 and at most 1000")
            )
        else:
            found[model] = float(weight)
    return found
