"""Read and write forecasts.json, which contains the daemon's latest forecasts of limits, for the fast commands `status`
and `watch`.

`ocwatch forecast` does not use the file, but computes new forecasts.
"""

from __future__ import annotations

import json

from ocwatchd.state.blacklist.format import moment
from ocwatchd.state.safe_read import StateError, read_plain, write_unsynced

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ocwatchd.core.forecast.model import Forecast
    from ocwatchd.core.forecast.plan_windows import PlanWindow

VERSION = 1
FRESH = 180.0
"""Age, in seconds, above which the file is out of date. The daemon writes it every minute while models are used."""


MAX_PERCENT = 10_000.0
"""Largest accepted percentage of a plan window, as in `core.forecast.plan_windows`. NaN and infinity are rejected."""


def as_json(one: Forecast) -> dict[str, object]:
    """Return a model's forecast in the form of the JSON contract, without `hits_in_seconds`. `timed` adds that field
    when the file is read.
    """
    from ocwatchd.clock import rfc3339  # lazy import: it imports datetime, which takes 2 ms of CPU time

    return {
        "model": one.model,
        "label": one.label.value,
        "measure": one.measure and one.measure.value,
        "window_seconds": one.window,
        "used": round(one.used),
        "limit": None if one.limit is None else round(one.limit),
        "left": None if one.left is None else round(one.left),
        "share": None if one.share is None else round(one.share, 4),
        "hits": None if one.hits is None else rfc3339(one.hits),
        "free": None if one.free is None else rfc3339(one.free),
        "limits_seen": one.limits,
    }


def window_as_json(one: PlanWindow) -> dict[str, object]:
    """Return one plan window (a period in which a provider's plan has its own quota) in the form of the JSON
    contract.
    """
    from ocwatchd.clock import rfc3339  # lazy import: it imports datetime, which takes 2 ms of CPU time

    return {
        "provider": one.provider,
        "window": one.name,
        "window_seconds": one.length,
        "used_percent": round(one.used, 2),
        "resets": None if one.resets is None else rfc3339(one.resets),
        "used_up": None if one.used_up is None else rfc3339(one.used_up),
        "reported": rfc3339(one.at),
    }


def timed(raw: Mapping[str, object], now: float) -> dict[str, object]:
    """Return the forecast with the additional field `hits_in_seconds`: the number of seconds until the limit, or None
    if no limit is expected.
    """
    hits = raw.get("hits")
    return {**raw, "hits_in_seconds": None if hits is None else round(max(moment(hits, "hits") - now, 0.0), 3)}


def write(
    path: os.PathLike[str],
    forecasts: Sequence[Mapping[str, object]],
    now: float,
    plan_windows: Sequence[Mapping[str, object]] = (),
) -> None:
    """Replace the file without fsync, because its content would be out of date after a power failure anyway.

    Raises:
        OSError: The file could not be written.
    """
    from ocwatchd.clock import rfc3339  # lazy import: it imports datetime, which takes 2 ms of CPU time

    document = {"version": VERSION, "time": rfc3339(now), "forecasts": list(forecasts), "plan_windows": [*plan_windows]}
    write_unsynced(path, json.dumps(document).encode())


def read(path: str | os.PathLike[str], now: float) -> list[dict[str, object]]:
    """Return the forecasts, sorted with the nearest limit first, or an empty list if the file is out of date or
    unreadable. Never raises.
    """
    try:
        rows = _current(path, now)["forecasts"]
        return [timed(one, now) for one in rows if isinstance(one, dict) and isinstance(one["model"], str)]
    except (OSError, StateError, ValueError, KeyError, TypeError, RecursionError):
        return []


def read_plan_windows(path: str | os.PathLike[str], now: float) -> list[dict[str, object]]:
    """Return the current windows of providers' plans, or an empty list if the file is out of date or unreadable. Never
    raises.
    """
    try:
        rows = _current(path, now).get("plan_windows", [])
        return [one for one in rows if _names_window(one) and _lies_ahead(one, now)]
    except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _names_window(row: Mapping[str, object]) -> bool:
    used = row["used_percent"]
    named = isinstance(row["provider"], str) and isinstance(row["window"], str)
    return named and isinstance(used, int | float) and 0 <= used <= MAX_PERCENT


def _lies_ahead(row: Mapping[str, object], now: float) -> bool:
    moments = [moment(row[name], name) for name in ("resets", "used_up") if row[name] is not None]
    return row["resets"] is None or moments[0] > now


def _current(path: str | os.PathLike[str], now: float) -> dict[str, Any]:
    raw = json.loads(read_plain(path))
    if raw["version"] != VERSION or abs(now - moment(raw["time"], "time")) > FRESH:
        return {"forecasts": []}
    return dict(raw)
