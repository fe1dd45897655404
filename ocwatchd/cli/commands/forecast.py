"""`ocwatch forecast`: when limits will be reached, and how that is known. Reads the message store; asks nobody."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ocwatchd.cli.render import clock, iso, say, say_json, span, table
from ocwatchd.config import load
from ocwatchd.core.forecast import WINDOWS, Forecast, History, Label, Measure
from ocwatchd.core.foresight import nearest
from ocwatchd.core.ledger import Cooldown
from ocwatchd.errors import ExitCode
from ocwatchd.foresight import learnt, standings, uses
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import blacklist
from ocwatchd.state.forecasts import as_json, timed
from ocwatchd.state.journal import Journal

HOUR = 3600.0
HOW = {
    Label.EXACT: "exact: the provider's headers",
    Label.CONFIGURED: "configured",
    Label.UNKNOWN: "not enough data: no limit met yet",
}


def forecast(json: bool = False) -> int:
    """Say for every model that was used lately how near its limit is.

    Raises:
        ConfigError: the configuration, which may name limits, cannot be read.
    """
    now, paths = time.time(), Paths.from_env()
    policy, store = load(paths).policy, SessionStore(paths.opencode_data)
    bounds = learnt(store, Journal(paths.journal), now)
    known = standings(uses(store.answers(now - WINDOWS[-1]), now).values(), paths, bounds, policy, now)
    found = sorted(((nearest(one, now), one.history) for one in known), key=lambda pair: pair[0].rank)
    if json:
        say_json({"time": iso(now), "forecasts": [_as_json(one, history, now) for one, history in found]})
    elif found:
        moved = {str(entry.model): entry.until for entry in _foreseen(paths, now)}
        rows = [(one.model, _when(one, now), _used(one, history, now), _how(one, moved, now)) for one, history in found]
        say(table(("MODEL", "LIMIT IN", "USED", "HOW THAT IS KNOWN"), rows, whole=True))
    else:
        say("No model was used within the last five hours.")
    return ExitCode.DONE


def _when(one: Forecast, now: float) -> str:
    if one.label is Label.UNKNOWN:
        return "?"
    return "-" if one.hits is None else "now" if one.hits <= now else f"{span(one.hits - now)} ({clock(one.hits, now)})"


def _used(one: Forecast, history: History, now: float) -> str:
    if one.measure is None:
        return f"{history.used(Measure.TOKENS, now - HOUR, now):,.0f} tokens in {span(HOUR)}"
    of = f" of {one.limit:,.0f}" if one.limit else ""
    return f"{one.used:,.0f}{of} {one.measure}" + (f" in {span(one.window)}" if one.window else "")


def _how(one: Forecast, moved: Mapping[str, float | None], now: float) -> str:
    known = HOW.get(one.label) or f"{one.label} from {one.limits} limit{'s' if one.limits > 1 else ''}"
    return known + (f"; new prompts go elsewhere until {clock(moved[one.model], now)}" if one.model in moved else "")


def _foreseen(paths: Paths, now: float) -> list[Cooldown]:
    return [entry for entry in blacklist.read(paths.blacklist).entries() if entry.foreseen and entry.active(now)]


def _as_json(one: Forecast, history: History, now: float) -> dict[str, object]:
    windows = [
        {
            "window_seconds": window,
            "tokens": round(history.used(Measure.TOKENS, now - window, now)),
            "requests": round(history.used(Measure.REQUESTS, now - window, now)),
        }
        for window in WINDOWS
    ]
    return {**timed(as_json(one), now), "windows": windows}
