"""`ocwatch forecast`: when limits will be reached, and how that is known. Reads the message store; asks nobody."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ocwatchd.cli.past import entries
from ocwatchd.cli.render import clock, iso, say, say_json, span, table
from ocwatchd.core.entries import Entry
from ocwatchd.core.forecast import WINDOWS, Forecast, History, Label, Measure, foresee, foresee_told, learn
from ocwatchd.core.limits import LimitKind
from ocwatchd.errors import ExitCode
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state.allowances import read_allowances

LOOK_BACK = 7 * 86_400.0
"""Seconds of use that limits are learnt from."""
HOUR = 3600.0
_ABOUT_USE = frozenset((LimitKind.RATE_LIMIT.value, LimitKind.QUOTA.value))
_ORDER = (Label.EXACT, Label.LEARNT, Label.ESTIMATED, Label.UNKNOWN)


def forecast(as_json: bool = False) -> int:
    """Say for every model that was used lately how near its limit is."""
    now, paths = time.time(), Paths.from_env()
    histories = _histories(SessionStore(paths.opencode_data), now)
    limits = _limits(entries(), now)
    told = read_allowances(paths.allowances, now)
    names = sorted({*(name for name, history in histories.items() if _recent(history, now)), *told})
    found = []
    for name in names:
        history = histories.get(name, History())
        exact = foresee_told(name, history, told.get(name, ()), now)
        found.append((exact or foresee(name, history, learn(history, limits[name]), now), history))
    found.sort(key=lambda pair: (pair[0].hits or float("inf"), _ORDER.index(pair[0].label)))
    if as_json:
        say_json({"time": iso(now), "forecasts": [_as_json(one, history, now) for one, history in found]})
    elif found:
        rows = [(one.model, _when(one, now), _used(one, history, now), _how(one)) for one, history in found]
        say(table(("MODEL", "LIMIT IN", "USED", "HOW THAT IS KNOWN"), rows, whole=True))
    else:
        say("No model was used within the last five hours.")
    return ExitCode.DONE


def _histories(store: SessionStore, now: float) -> dict[str, History]:
    uses: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for answer in store.answers(now - LOOK_BACK):
        message = answer.message
        if message.model and message.created is not None and message.created <= now and message.tokens:
            uses[str(message.model)].append((message.created, message.tokens.spent))
    return {name: History(own) for name, own in uses.items()}


def _limits(told: Sequence[Entry], now: float) -> Mapping[str, list[float]]:
    """When each model met a limit that comes of use; trouble of the provider's says nothing of it."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in told:
        if line.what == "limit" and line.model and line.text("kind") in _ABOUT_USE and now - line.time < LOOK_BACK:
            found[line.model].append(line.refused_at)
    return found


def _recent(history: History, now: float) -> bool:
    return history.used(Measure.REQUESTS, now - WINDOWS[-1], now) > 0


def _when(one: Forecast, now: float) -> str:
    if one.label is Label.UNKNOWN:
        return "?"
    return "-" if one.hits is None else "now" if one.hits <= now else f"{span(one.hits - now)} ({clock(one.hits, now)})"


def _used(one: Forecast, history: History, now: float) -> str:
    if one.measure is None:
        return f"{history.used(Measure.TOKENS, now - HOUR, now):,.0f} tokens in {span(HOUR)}"
    of = f" of {one.limit:,.0f}" if one.limit else ""
    return f"{one.used:,.0f}{of} {one.measure}" + (f" in {span(one.window)}" if one.window else "")


def _how(one: Forecast) -> str:
    match one.label:
        case Label.EXACT:
            return "exact: the provider's headers"
        case Label.UNKNOWN:
            return "not enough data: no limit met yet"
        case _:
            return f"{one.label} from {one.limits} limit{'s' if one.limits > 1 else ''}"


def _as_json(one: Forecast, history: History, now: float) -> dict[str, object]:
    return {
        "model": one.model,
        "label": one.label.value,
        "measure": one.measure and one.measure.value,
        "window_seconds": one.window,
        "used": round(one.used),
        "limit": None if one.limit is None else round(one.limit),
        "share": None if one.share is None else round(one.share, 4),
        "hits": iso(one.hits),
        "hits_in_seconds": None if one.hits is None else round(max(one.hits - now, 0.0), 3),
        "free": iso(one.free),
        "limits_seen": one.limits,
        "windows": [
            {
                "window_seconds": window,
                "tokens": round(history.used(Measure.TOKENS, now - window, now)),
                "requests": round(history.used(Measure.REQUESTS, now - window, now)),
            }
            for window in WINDOWS
        ],
    }
