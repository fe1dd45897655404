"""`forecast.limits`: limits that a person knows, checked; in the units of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocwatchd.config.keys import FORECAST, LARGEST, LIMIT_KEYS, LIMIT_WINDOW, LIMITS, REQUESTS, TOKENS
from ocwatchd.config.names import ROOT, Report, check_name, remarks, section
from ocwatchd.config.reader import Document
from ocwatchd.core.chains import resolve
from ocwatchd.core.forecast import Bound, Label, Measure
from ocwatchd.core.pools import Pools

Limit = dict[str, float]
"""By name, as in `LIMIT_KEYS`."""


def read_limits(document: Document, names: Mapping[str, object], report: Report) -> dict[str, list[Limit]]:
    """By model, alias or pool, as written.

    Raises:
        ConfigError: one is faulty, and `report` raises.
    """
    found: dict[str, list[Limit]] = {}
    for name, value in section(document, ROOT, FORECAST, LIMITS, report=report).items():
        keys = (ROOT, FORECAST, LIMITS, name)
        if remarks(name) or not check_name(document, keys, name, names, report):
            continue
        if name.endswith("/*"):
            report(document.fault(keys, "has no effect on a whole provider; name its models"))
            continue
        items: list[Any] = value if isinstance(value, list) else [value]
        faults = [fault for item in items if (fault := _fault(item))]
        if faults:
            report(document.fault(keys, faults[0]))
        else:
            found[name] = [{key: float(item[key]) for key in item if not remarks(key)} for item in items]
    return found


def bounds(limits: Mapping[str, list[Limit]], aliases: Mapping[str, str], pools: Pools) -> dict[str, tuple[Bound, ...]]:
    """By model. What is said of a pool holds for each of its members, as they are accounts of their own."""
    found: dict[str, tuple[Bound, ...]] = {}
    for name, items in limits.items():
        known = tuple(bound for item in items for bound in _bounds(item))
        model = resolve(name, aliases)
        for member in pools[model].members if model in pools else (model,):
            found[member] = (*found.get(member, ()), *known)
    return found


def _bounds(item: Limit) -> list[Bound]:
    window = item[LIMIT_WINDOW] / 1000
    measures = {TOKENS: Measure.TOKENS, REQUESTS: Measure.REQUESTS}
    return [Bound(measures[name], window, item[name], Label.CONFIGURED) for name in measures if name in item]


def _fault(item: object) -> str | None:
    if not isinstance(item, dict):
        return 'has to be an object, or a list of them: {"tokens": 900000, "window": 3600000}'
    known = [key.name for key in LIMIT_KEYS]
    for name, value in item.items():
        if name not in known and not remarks(name):
            return f"{name!r} is none of {', '.join(known)}"
        if name in known and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST):
            return f"`{name}` has to be a number above 0, not {value!r}"
    if LIMIT_WINDOW not in item or not {TOKENS, REQUESTS} & item.keys():
        return "needs `window` (milliseconds), and `tokens` or `requests`"
    return None
