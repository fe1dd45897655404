"""forecasts.json: how near the limits are, as the daemon saw it last; for `status` and `watch`, which have no time to
count. `ocwatch forecast` counts anew.
"""

from __future__ import annotations

import json

from ocwatchd.state.entries import moment
from ocwatchd.state.plain import StateError, read_plain, write_unsynced

TYPE_CHECKING = False  # as typing has it, whose import costs what is saved
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ocwatchd.core.forecast import Forecast

VERSION = 1
FRESH = 180.0
"""Seconds after which it is out of date; the daemon writes it every minute while models are used."""


def as_json(one: Forecast) -> dict[str, object]:
    """One model's forecast, as the JSON contract has it, but for `hits_in_seconds`: that depends on when it is read."""
    from ocwatchd.clock import rfc3339

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


def timed(raw: Mapping[str, object], now: float) -> dict[str, object]:
    """The same with `hits_in_seconds`."""
    hits = raw.get("hits")
    return {**raw, "hits_in_seconds": None if hits is None else round(max(moment(hits, "hits") - now, 0.0), 3)}


def write(path: os.PathLike[str], forecasts: Sequence[Mapping[str, object]], now: float) -> None:
    """Replace the file, without fsync: after a power cut it would be out of date anyway.

    Raises:
        OSError: it could not be written.
    """
    from ocwatchd.clock import rfc3339

    document = {"version": VERSION, "time": rfc3339(now), "forecasts": list(forecasts)}
    write_unsynced(path, json.dumps(document).encode())


def read(path: str | os.PathLike[str], now: float) -> list[dict[str, object]]:
    """The forecasts, the nearest limit first; none if they are out of date or cannot be read. Never raises."""
    try:
        raw = json.loads(read_plain(path))
        if raw["version"] != VERSION or abs(now - moment(raw["time"], "time")) > FRESH:
            return []
        return [timed(one, now) for one in raw["forecasts"] if isinstance(one, dict) and isinstance(one["model"], str)]
    except (OSError, StateError, ValueError, KeyError, TypeError, RecursionError):
        return []
