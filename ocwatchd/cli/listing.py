"""`ocwatch status` and `ocwatch cooldowns`: the daemon's sign of life and the register, read without asking anyone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ocwatchd.cli.escape import escape
from ocwatchd.cli.places import data_directory, state_file
from ocwatchd.cli.render import clock, fit, iso, say, say_json, screen_width, span, table, tell, warn, wrapped
from ocwatchd.cli.views import REMEDY, CooldownView, StatusView, cooldown_views, status_view
from ocwatchd.errors import ExitCode
from ocwatchd.state import heartbeat
from ocwatchd.state.entries import read_entries
from ocwatchd.state.hearing import unheard
from ocwatchd.state.heartbeat import FRESH, Heartbeat, State

WHY = {"manual": "blocked by hand", "forecast": "about to be limited"}
"""By who told the end; else the kind of limit says it."""
MORE = "# what to do about it: ocwatch doctor"


def status(as_json: bool = False) -> int:
    """Say how the daemon is. 0: up and hearing; 3: down, or alive but deaf."""
    view = current_status(time.time())
    if as_json:
        say_json(view.as_json())
    else:
        tell(_status_text(view))
    return ExitCode.DONE if view.up else ExitCode.DAEMON_DOWN


def current_status(now: float) -> StatusView:
    """The daemon, the register and the forecasts as their files show them now (epoch seconds)."""
    from ocwatchd.state import forecasts  # late: `cooldowns` has no use for it

    found = read_entries(state_file("blacklist.json"))
    beat = heartbeat.read(state_file("daemon.json"))
    ahead = forecasts.read(state_file("forecasts.json"), now)
    return status_view(beat, found, found.problems(), now, _unheard(beat, now), ahead)


def _unheard(beat: Heartbeat, now: float) -> str | None:
    if beat.state(now) != State.UP:
        return None
    return unheard(f"{data_directory()}/log", state_file("cursors.json"), beat.started, now)


def cooldowns(as_json: bool = False) -> int:
    """List the models that rest; the same with the daemon up or down."""
    now = time.time()
    found = read_entries(state_file("blacklist.json"))
    views, problems = cooldown_views(found, now), found.problems()
    if as_json:
        entries = [view.as_json() for view in views]
        say_json({"time": iso(now), "cooldowns": entries, "problems": problems})
        return ExitCode.DONE
    for problem in problems:
        warn(escape(problem))
    say(cooldown_table(views, now) if views else "No model is cooling.")
    return ExitCode.DONE


def cooldown_table(views: Sequence[CooldownView], now: float, width: int | None = None, *, whole: bool = False) -> str:
    """One line a model: who, how long, until when, and a phrase on why and what stands in; `whole` cuts nothing."""
    rows = [(view.model, span(view.remaining), clock(view.until, now), _phrase(view)) for view in views]
    return table(("MODEL", "LEFT", "UNTIL", "WHY; STAND-IN"), rows, width, whole=whole)


def session_table(sessions: Sequence[Mapping[str, object]], width: int | None = None, *, whole: bool = False) -> str:
    """One line a session: what happens there."""
    rows = [(str(one.get("session", "?")), str(one.get("phrase", ""))) for one in sessions]
    return table(("SESSION", "WHAT HAPPENS"), rows, width, whole=whole)


def forecast_table(ahead: Sequence[Mapping[str, object]], now: float) -> str:
    """One line a model: when its limit will be reached, how much of it is used, how that is known."""
    rows = [(str(one["model"]), limit_in(one, now), f"{used_of(one)} ({one.get('label')})") for one in ahead]
    return table(("MODEL", "LIMIT IN", "FORECAST"), rows, whole=True)


def limit_in(one: Mapping[str, object], now: float) -> str:
    """`10m (20:12)`, `now`; `-` if it is not foreseen."""
    left = one.get("hits_in_seconds")
    if not isinstance(left, int | float):
        return "-"
    return f"{span(left)} ({clock(now + left, now)})" if left > 0 else "now"


def used_of(one: Mapping[str, object]) -> str:
    """`48 of 50 requests in 1h`."""
    used, limit, window = (one.get(name) for name in ("used", "limit", "window_seconds"))
    of = f" of {limit:,}" if isinstance(limit, int) else ""
    within = f" in {span(window)}" if isinstance(window, int | float) else ""
    return f"{used:,}{of} {one.get('measure')}{within}" if isinstance(used, int) else "?"


def _phrase(view: CooldownView) -> str:
    why = WHY.get(view.told_by) or view.kind.replace("_", " ")
    if view.until is None:
        why = f"{why}, until cleared"
    if view.strikes > 1:
        why = f"{why}, {view.strikes} strikes"
    return f"{why}; {view.target[0]}" if view.target else why


def _status_text(view: StatusView) -> str:
    parts = [headline(view)]
    if view.cooldowns:
        parts.append("\n" + cooldown_table(view.cooldowns, view.now, whole=True))
    elif view.up:
        parts.append("No model is cooling.")
    if view.sessions:
        parts.append("\n" + session_table(view.sessions, whole=True))
    if view.known_limits:
        parts.append("\n" + forecast_table(view.known_limits, view.now))
    if view.health:
        parts.append("")
        parts += map(_health_line, view.health)
        parts.append(MORE)
    elif view.state == State.DEAF:
        parts.append(MORE)
    return "\n".join(parts)


def _health_line(line: str) -> str:
    width = screen_width()
    return "# " + wrapped(fit(escape(line), 4 * width), 2, width).lstrip()


def _files(followed: str) -> int:
    """How many logs one entry of `following` stands for: a directory says it, `/logs (12 files)`."""
    number = followed.rpartition("(")[2].removesuffix(" files)")
    return int(number) if number.isdecimal() else 1


def headline(view: StatusView) -> str:
    """One sentence on the daemon, with the remedy if it is not well."""
    if view.state == State.UP:
        count = sum(map(_files, view.following))
        logs = "no log yet" if not count else f"{count} log{'s' if count > 1 else ''}"
        return f"ocwatchd is up (pid {view.pid}, since {clock(view.started, view.now)}) and follows {logs}."
    if view.state == State.DEAF:
        silent = view.beat is None or view.now - view.beat >= FRESH
        since = "never" if view.beat is None else f"{span(view.now - view.beat)} ago"
        why = f"its last beat was {since}" if silent else "it does not read what OpenCode writes"
        return f"ocwatchd is deaf: pid {view.pid} lives, but {why}; {REMEDY[view.state]}"
    return f"ocwatchd is not running; {REMEDY[view.state]}"
