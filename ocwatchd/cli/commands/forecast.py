"""`ocwatch forecast`: print when each limit will be reached, and the source of that forecast.

`ocwatch forecast --replay` compares a learned rule with a naive one, by the forecasts that each would have made last
week.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ocwatchd.cli.commands.status import plan_table
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, screen_width, table, wrapped
from ocwatchd.config import load
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.forecast.model import (
    SKIP,
    WINDOWS,
    Forecast,
    History,
    Label,
    Measure,
    Verdict,
    judge,
    learned_rule,
    naive_rule,
    separate,
)
from ocwatchd.core.forecast.prevention import nearest
from ocwatchd.daemon.forecaster import learned_bounds, met, standings, uses
from ocwatchd.errors import ExitCode
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import quota_command
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.forecasts import as_json, timed, window_as_json
from ocwatchd.state.journal import Journal
from ocwatchd.state.plugin_reports import read_plan_windows
from ocwatchd.time_words import span, when

HOUR = 3600.0
HOW = {
    Label.EXACT: "exact: from the provider's headers",
    Label.CONFIGURED: "configured",
    Label.UNKNOWN: "not enough data: fewer than two limits so far",
}


def forecast(json: bool = False) -> int:
    """Print how close each recently used model is to its limit.

    Raises:
        ConfigError: The configuration, which may contain limits, cannot be read.
    """
    now, paths = time.time(), Paths.from_env()
    policy, store = load(paths).policy, SessionStore(paths.opencode_data)
    bounds = learned_bounds(store, Journal(paths.journal), now)
    known = standings(uses(store.answers(now - WINDOWS[-1]), now).values(), paths, bounds, policy, now)
    found = sorted(((nearest(one, now), one.history) for one in known), key=lambda pair: pair[0].rank)
    plans = [window_as_json(window) for window in read_plan_windows(paths.allowances, now)]
    asked = quota_command.read(paths.allowances) if policy.prevention.command else None
    if json:
        rows_of = [_as_json(one, history, now) for one, history in found]
        about = asked.as_json() if asked else None
        say_json({"time": iso(now), "forecasts": rows_of, "plan_windows": plans, "plan_command": about})
        return ExitCode.DONE
    if found:
        moved = {str(entry.model): entry.until for entry in _foreseen(paths, now)}
        rows = [(one.model, _when(one, now), _used(one, history, now), _how(one, moved, now)) for one, history in found]
        say(table(("MODEL", "LIMIT AT", "USED", "HOW THIS IS KNOWN"), rows, whole=True))
    else:
        say("No model was used within the last five hours.")
    if plans:
        say("\n" + plan_table(plans, now))
    if asked is not None and asked.problem is not None:
        say("\n" + escape(f"forecast.command failed at {when(asked.asked, now)}: {asked.problem}"))
    return ExitCode.DONE


def _when(one: Forecast, now: float) -> str:
    if one.label is Label.UNKNOWN:
        return "?"
    return "-" if one.hits is None else "now" if one.hits <= now else when(one.hits, now)


def _used(one: Forecast, history: History, now: float) -> str:
    if one.measure is None:
        return f"{history.used(Measure.TOKENS, now - HOUR, now):,.0f} tokens in {span(HOUR)}"
    of = f" of {one.limit:,.0f}" if one.limit else ""
    return f"{one.used:,.0f}{of} {one.measure}" + (f" in {span(one.window)}" if one.window else "")


def _how(one: Forecast, moved: Mapping[str, float | None], now: float) -> str:
    known = HOW.get(one.label) or f"{one.label} from {one.limits} limits"
    return known + (f"; new prompts go to a fallback until {when(moved[one.model], now)}" if one.model in moved else "")


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


RULES = {"learnt": learned_rule, "naive": naive_rule}
ABOUT = (
    "An alarm predicts a limit within two minutes, and counts as correct if a limit occurs within fifteen. The naive "
    "rule raises an alarm at 80 % of the lowest usage in the hour before any limit. Each rule uses only earlier data."
)


def replay(json: bool = False) -> int:
    """Print how many forecasts each rule would have made in the last week, and how accurate they would have been. Only
    models with enough limits to learn from are included.
    """
    now, paths = time.time(), Paths.from_env()
    found: list[tuple[str, int, dict[str, Verdict]]] = []
    few: dict[str, int] = {}
    for name, (used, limits) in sorted(met(SessionStore(paths.opencode_data), Journal(paths.journal), now).items()):
        verdicts = {rule: verdict for rule, by in RULES.items() if (verdict := judge(by, used, limits))}
        if verdicts and used:
            found.append((name, len(separate(limits)), verdicts))
        else:
            few[name] = len(separate(limits))
    if json:
        say_json({"time": iso(now), "replays": [_replay_as_json(*one) for one in found], "too_few_limits": few})
        return ExitCode.DONE
    if found:
        rows = [_row(name, rule, verdict) for name, _, verdicts in found for rule, verdict in verdicts.items()]
        say(table(("MODEL", "RULE", "ALARMS", "PRECISION", "FORETOLD", "LEAD"), rows))
        say("\n" + wrapped(ABOUT, 0, screen_width()))
    for name, limits_met in few.items():
        plural = "s" if limits_met != 1 else ""
        say(f"{escape(name)}: {limits_met} limit{plural} in the last week; the first {SKIP} are needed for learning")
    if not found and not few:
        say("No limit occurred within the last week.")
    return ExitCode.DONE


def _row(name: str, rule: str, verdict: Verdict) -> tuple[str, ...]:
    parts = (f"{verdict.alarms}", f"{verdict.precision:.2f}", f"{verdict.recall:.2f}", span(verdict.lead))
    return name, rule, *parts


def _replay_as_json(name: str, limits: int, verdicts: dict[str, Verdict]) -> dict[str, object]:
    rules = {
        rule: {
            "alarms": verdict.alarms,
            "precision": round(verdict.precision, 4),
            "recall": round(verdict.recall, 4),
            "lead_seconds": round(verdict.lead, 3),
        }
        for rule, verdict in verdicts.items()
    }
    return {"model": name, "limits": limits, **rules}
