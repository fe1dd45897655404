"""`ocwatch status` and `ocwatch cooldowns`: print the daemon's state from its files, without contacting the daemon."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import exists

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import (
    COMMAND_INDENT,
    fit,
    hanging,
    iso,
    paint,
    say,
    say_json,
    screen_width,
    table,
    tell,
    warn,
    wrapped,
)
from ocwatchd.cli.output.views import REMEDY, CooldownView, StatusView, cooldown_views, status_view
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.paths import data_directory, state_file
from ocwatchd.state import heartbeat
from ocwatchd.state.blacklist.format import Contents, Entry, moment, read_entries
from ocwatchd.state.heartbeat import FRESH, Heartbeat, State, running
from ocwatchd.state.read_progress import unread_log
from ocwatchd.time_words import clock, span, when

NOTHING = "nothing to do. To see everything work: ocwatch drill"
"""The text to print instead of a next step if there is nothing to do."""
LOOK = "ocwatch explain (see why) or ocwatch watch (follow what happens)"
"""The next step to print if a model is cooling down and there is no problem."""
SET_MODEL = "set `model` in opencode.json, then: ocwatch config init --write --force (write a fallback chain)"
"""The next step to print if no fallback chain is configured and no model is known to be in use."""
RESTART = "restart the OpenCode processes named above (until then, their sessions cannot be moved)"
"""The next step to print if the only problem is that OpenCode processes run without the companion plugin."""
LOADING = 20.0
"""Time, in seconds, that a new OpenCode process may need until it has loaded the companion plugin (usually 3 to 4 s).
"""
ESTIMATED = "without the companion plugin, ocwatchd reads only the log, and the log contained no reset time"
"""The reason why the end of a cooldown is an estimate."""
WHY = {"manual": "blocked by you", "forecast": "about to be limited"}
"""The reason to show, by reset source. For any other source, the kind of limit is shown."""
BESIDE_REASON, LEAST_REASON = 58, 12
"""Width, in characters, of all columns of the cooldown table except REASON, and the minimum width of REASON."""
BESIDE_TITLE, LEAST_TITLE = 48, 12
"""Width, in columns, of all columns of the table of sessions except SESSION, and the minimum width of SESSION."""
HEADLINE = {State.UP: "green", State.STALLED: "yellow", State.DOWN: "red"}
"""The style of the first line, by the daemon's state."""


def status(as_json: bool = False, instead: str | None = None) -> int:
    """Print the daemon, cooldowns and sessions, and return the exit code.

    `instead` is the next step to print if there is no problem. `up` passes it, and has already named the OpenCode
    processes that run without the companion plugin.

    Exit codes: 0 the daemon is running and reading logs; 3 it is down or stalled; 4 the configuration cannot be used, a
    model in use has no fallback, or OpenCode does not offer a configured model; 5 a running OpenCode process cannot be
    served.
    """
    view = current_status(time.time())
    if as_json:
        say_json(view.as_json())
    else:
        view = replace(view, without_chain=_without_chain(view))
        tell(_status_text(replace(view, earlier=()) if instead else view, instead))
    if not view.up:
        return ExitCode.DAEMON_DOWN
    if view.unserved:
        return ExitCode.OPENCODE_UNREACHABLE
    bad = view.misconfigured or view.without_fallback or view.unknown_models
    return ExitCode.BAD_CONFIG if bad else ExitCode.DONE


def current_status(now: float) -> StatusView:
    """Return the daemon's state, the cooldowns and the forecasts, read from their files. `now` is in epoch seconds."""
    from ocwatchd.state import forecasts  # lazy import: not used by `cooldowns`

    found = read_entries(state_file("blacklist.json"))
    beat = heartbeat.read(state_file("daemon.json"))
    beat.sessions = named_sessions(beat.sessions)
    beat.earlier = _without_plugin(beat.earlier, found, now)
    ahead, plans = (read(state_file("forecasts.json"), now) for read in (forecasts.read, forecasts.read_plan_windows))
    return status_view(beat, found, (*found.problems(), *_sharing(now)), now, _unread(beat, now), ahead, plans)


def _without_chain(view: StatusView) -> str | None:
    """Return the path of the daemon's configuration if it contains no fallbacks although sessions are to be moved.

    The daemon does not report this while no model is known to be in use. Return None in all other cases, and if the
    configuration cannot be used.
    """
    file = (view.configuration or {}).get("file")
    if not view.up or view.without_fallback or not isinstance(file, str):
        return None
    from ocwatchd.config.names import needs_no_fallback, read_names  # lazy import: not used by `cooldowns`
    from ocwatchd.config.reader import read_document

    try:
        document = read_document(file)
        names = read_names(document)
    except ConfigError:
        return None
    spare = any(names.chains.values()) or any(len(pool.members) > 1 for pool in names.pools.values())
    return None if spare or needs_no_fallback(document) else file


def _without_plugin(found: Sequence[Mapping[str, object]], cooldowns: Contents, now: float) -> list[dict[str, object]]:
    """Return those processes in the heartbeat's list `found` that still run without the companion plugin.

    Two values are added, or None if they are not known: `model`, which the session uses now, and `limit`, the cooldown
    of this model.
    """
    if not found:
        return []
    from ocwatchd.opencode.sessions.names import models_now  # lazy import: rarely needed
    from ocwatchd.state.blacklist.query import CooldownTable  # lazy import: rarely needed

    older = [
        one
        for one in running(found)
        if now - moment(one.get("started"), "started") >= LOADING
        and not exists(f"{state_file('doors')}/{one.get('pid')}.json")
    ]
    models = models_now(data_directory(), [str(one["session"]) for one in older if one.get("session")])
    table, added = CooldownTable(cooldowns.active(now)), []
    for one in older:
        model = models.get(str(one.get("session")))
        entry = table.blocking(model) if model else None
        added.append({**one, "model": model, "limit": entry and _limit_of(one, entry)})
    return added


def _limit_of(one: Mapping[str, object], entry: Entry) -> dict[str, object]:
    """Return the cooldown of the model of a process without the companion plugin. `restart` is the command that
    continues the session on another model, or None for a process with `--pure`, which `ocwatch restart` leaves alone.
    """
    from shlex import quote  # lazy import: rarely needed

    estimate = entry.reset_source == "estimate" and entry.until is not None
    restart = None if one.get("pure") else f"ocwatch restart {quote(str(one['session']))}"
    reason = ESTIMATED if estimate else None
    return {"until": iso(entry.until), "estimate": estimate, "reason": reason, "restart": restart}


def _sharing(now: float) -> list[str]:
    """Return the reason why sharing does not work, as a list with one sentence. The list is empty if sharing works or
    is not configured.
    """
    path = state_file("share/status.json")
    if not exists(path):
        return []
    from ocwatchd.state import share_status  # lazy import: needed only if cooldowns are shared

    why = share_status.health(share_status.read(path, now))
    return [why] if why else []


def named_sessions(sessions: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the sessions, with `title`, `directory`, `updated` and the current `model` added from OpenCode's store."""
    if not sessions:
        return []
    from ocwatchd.opencode.sessions.names import models_now, session_names  # lazy import: 8 ms of CPU time

    data = data_directory()
    names = {name.id: name for name in session_names(data)}
    models = models_now(data, [str(one.get("session")) for one in sessions])
    found = []
    for one in sessions:
        name = names.get(str(one.get("session")))
        more: dict[str, object] = {"title": None, "directory": None, "updated": None}
        if name is not None:
            more = {"title": name.title or None, "directory": name.directory or None, "updated": iso(name.updated)}
        found.append({**one, **more, "model": models.get(str(one.get("session")))})
    return found


def _unread(beat: Heartbeat, now: float) -> str | None:
    if beat.state(now) != State.UP:
        return None
    return unread_log(f"{data_directory()}/log", state_file("cursors.json"), beat.started, now)


def cooldowns(as_json: bool = False) -> int:
    """Print the models that are cooling down. The daemon need not be running."""
    now = time.time()
    found = read_entries(state_file("blacklist.json"))
    views, problems = cooldown_views(found, now), found.problems()
    if as_json:
        entries = [view.as_json() for view in views]
        say_json({"time": iso(now), "cooldowns": entries, "problems": problems})
        return ExitCode.DONE
    for problem in problems:
        warn(escape(problem))
    if not views:
        say("No model is cooling down.")
        return ExitCode.DONE
    title, *rows = cooldown_table(views, now).split("\n")
    say("\n".join((paint(title, "bold"), *rows)))
    return ExitCode.DONE


def cooldown_table(views: Sequence[CooldownView], now: float, width: int | None = None, *, whole: bool = False) -> str:
    """Return the table of cooldowns, in the order of `views`. With `whole`, no text is truncated."""
    width = width or screen_width()
    rows = []
    for view in views:
        # mark an estimated reset time with a tilde
        about = "~" if view.reset_source == "estimate" and view.until is not None else ""
        reset = "when cleared" if view.until is None else about + clock(view.until, now)
        reason = _reason(view) if whole else fit(_reason(view), max(width - BESIDE_REASON, LEAST_REASON))
        rows.append((view.model, about + span(view.remaining), reset, reason, view.target[0] if view.target else "-"))
    return table(("MODEL", "LEFT", "RESET", "REASON", "FALLBACK"), rows, width, whole=whole)


def session_table(
    sessions: Sequence[Mapping[str, object]], now: float, width: int | None = None, *, whole: bool = False
) -> str:
    """Return the table of sessions: title or id, current model, and latest event."""
    width = width or screen_width()
    rows = []
    for one in sessions:
        model, phrase = str(one.get("model") or ""), str(one.get("phrase") or "")
        # users recognize a session by the beginning of its title, so a long title is truncated at its end
        title = fit(str(one.get("title") or one.get("session", "?")), max(width - BESIDE_TITLE, LEAST_TITLE))
        happened = _still_true(phrase, model)
        if model:  # the preceding column already names the model
            happened = happened.removesuffix(f" to {model}")
        rows.append((title, model or "-", ": ".join(part for part in (_what_follows(one, now), happened) if part)))
    return table(("SESSION", "MODEL NOW", "WHAT HAPPENED LAST"), rows, width, whole=whole)


def _session_lines(sessions: Sequence[Mapping[str, object]], now: float) -> list[str]:
    """Return a heading and, for each session, its title, directory and id, followed by its model and latest event."""
    from ocwatchd.cli.sessions import described  # lazy import: needed only if there is a session to show
    from ocwatchd.opencode.sessions.names import SessionName

    lines = [paint("SESSIONS", "bold")]
    for one in sessions:
        ident, model, phrase = (str(one.get(key) or "") for key in ("session", "model", "phrase"))
        updated = one.get("updated")
        title, directory = (str(one.get(key) or "") for key in ("title", "directory"))
        name = SessionName(ident, title, directory, moment(updated, "updated") if updated else None)
        head = described(name, now)
        lines.append(escape(f"{head} ({ident})" if head else ident))
        # while a move is in progress, it is not known whether the model answers
        settled = model and phrase != f"moving to {model}"
        parts = (f"on {model}" if settled else "", _still_true(phrase, model), _what_follows(one, now))
        happened = "; ".join(part for part in parts if part)
        lines += [f"  {line}" for line in hanging("", escape(happened), "", screen_width() - 2)]
    return lines


def _what_follows(one: Mapping[str, object], now: float) -> str:
    """Return a phrase that says when a parked turn will run again or its user will be notified. Return an empty string
    if no turn is parked.
    """
    if not one.get("until"):
        return ""
    then = "you are notified" if one.get("then") == "notify" else "runs again"
    at = _at(one["until"], now)
    return f"{then} {at}" if at == "now" else f"{then} at {at}"


def _still_true(phrase: str, model: str) -> str:
    """Return the phrase about the latest event of a session that now uses `model`.

    If the session was moved but is using the primary again, the phrase says that it returned.
    """
    origin, moved, target = phrase.removeprefix("moved from ").partition(" to ")
    if phrase.startswith("moved from ") and moved and model == origin:
        return f"returned from {target}"
    return phrase


def forecast_table(ahead: Sequence[Mapping[str, object]], now: float) -> str:
    """Return the table of forecasts: the time at which each limit will be reached, the usage so far, and the source of
    the forecast.
    """
    rows = [(str(one["model"]), limit_in(one, now), f"{used_of(one)} ({one.get('label')})") for one in ahead]
    return table(("MODEL", "LIMIT AT", "FORECAST"), rows, whole=True)


def plan_table(windows: Sequence[Mapping[str, object]], now: float) -> str:
    """Return the table of plan windows: percentage used, reset time, and when the window will be used up at the current
    rate.
    """
    rows = [
        (str(one["provider"]), str(one["window"]), f"{one['used_percent']:.0f} %",
         _at(one["resets"], now), _at(one["used_up"], now))
        for one in windows
    ]  # fmt: skip
    return table(("PROVIDER", "PLAN WINDOW", "USED", "RESETS", "USED UP AT THIS RATE"), rows, whole=True)


def _at(time_of: object, now: float) -> str:
    """Return a time from a JSON document as `15:40 (in 12m)`. Return `now` if the time has passed, and `-` if it is
    missing.
    """
    if time_of is None:
        return "-"
    end = moment(time_of, "time")
    return when(end, now) if end > now else "now"


def limit_in(one: Mapping[str, object], now: float) -> str:
    """Return the time at which the limit will be reached, as `20:12 (in 10m)` or `now`. Return `-` if no limit is
    forecast.
    """
    left = one.get("hits_in_seconds")
    if not isinstance(left, int | float):
        return "-"
    return when(now + left, now) if left > 0 else "now"


def used_of(one: Mapping[str, object]) -> str:
    """Return the usage as text: `48 of 50 requests in 1h`."""
    used, limit, window = (one.get(name) for name in ("used", "limit", "window_seconds"))
    of = f" of {limit:,}" if isinstance(limit, int) else ""
    within = f" in {span(window)}" if isinstance(window, int | float) else ""
    return f"{used:,}{of} {one.get('measure')}{within}" if isinstance(used, int) else "?"


def _reason(view: CooldownView) -> str:
    if view.node:
        return f"{view.kind.replace('_', ' ')}, reported by {view.node}"
    why = WHY.get(view.reset_source) or view.kind.replace("_", " ")
    return f"{why}, {view.strikes} strikes" if view.strikes > 1 else why


def _status_text(view: StatusView, instead: str | None = None) -> str:
    all_served = not view.unserved and not view.earlier
    parts = [paint(headline(view), HEADLINE[view.state if all_served else State.STALLED])]
    if view.cooldowns:
        title, *rows = cooldown_table(view.cooldowns, view.now, whole=True).split("\n")
        parts += ["", paint(title, "bold"), *rows]
    elif view.up:
        parts.append("No model is known to be cooling down." if view.unserved else "No model is cooling down.")
    if view.sessions:
        parts += ["", *_session_lines(view.sessions, view.now)]
    if view.known_limits:
        parts.append("\n" + forecast_table(view.known_limits, view.now))
    if view.plan_windows:
        parts.append("\n" + plan_table(view.plan_windows, view.now))
    if view.health or view.unserved or view.without_fallback or view.unknown_models or view.without_chain:
        parts.append("")
        if view.without_chain:
            parts.append(
                _health_line(f"{view.without_chain} contains no fallback chain: no session is moved", cut=False)
            )
        if view.without_fallback or view.unknown_models:
            from ocwatchd.core.domain.chains import no_fallback, not_offered  # lazy import: rarely needed

            gaps = ((no_fallback, view.without_fallback), (not_offered, view.unknown_models))
            parts += [_health_line(sentence(models), cut=False) for sentence, models in gaps if models]
        parts += [_health_line(line, cut=False) for line in view.unserved]
        parts += map(_health_line, view.health)
    if view.earlier:
        parts += ["", *_earlier_lines(view)]
    # if the daemon is not running and there is nothing else to report, the headline already names this command
    if len(parts) > 1 or view.state != State.DOWN:
        step = next_step(view)
        parts.append("\n" + paint(f"next: {instead if instead and step in (NOTHING, LOOK) else step}", "bold"))
    return "\n".join(parts)


def _earlier_lines(view: StatusView) -> list[str]:
    """Return the lines about the OpenCode processes without the companion plugin. The commands are not wrapped."""
    lines = []
    for one in view.earlier:
        why = f"{one.get('place')} {one.get('why')}, so its sessions cannot be moved."
        lines.append(_health_line(f"{why} To restart it with the plugin, {one.get('way')}:", cut=False))
        lines.append(f"{COMMAND_INDENT}{escape(str(one.get('restart')))}")
        limit = one.get("limit")
        if isinstance(limit, dict):
            lines.append(_health_line(_limit_sentence(str(one.get("model")), limit, view.now), cut=False))
    return lines


def _limit_sentence(model: str, limit: Mapping[str, object], now: float) -> str:
    """Return sentences about the cooldown of `model`, which a process without the companion plugin uses."""
    if limit["until"] is None:
        until = "until it is cleared"
    else:
        shown = when(moment(limit["until"], "until"), now)
        until = (
            f"until about {shown}. This time is an estimate: {limit['reason']}"
            if limit["estimate"]
            else f"until {shown}"
        )
    text = f"Its model {model} is cooling down {until}."
    return f"{text} To continue on another model: {limit['restart']}" if limit["restart"] else text


def next_step(view: StatusView) -> str:
    """Return the most useful command to run now, with its purpose in parentheses."""
    if view.state == State.DOWN:
        return "ocwatch up (start the daemon)"
    if view.state == State.STALLED:
        return "ocwatch doctor (see what to do)"
    for one in view.sessions:  # the phrase contains a command if the user has to act
        before, marked, command = str(one.get("phrase", "")).rpartition(": ocwatch ")
        if marked and before:
            return f"ocwatch {escape(command)} (continue this session)"
    if any(str(one.get("phrase", "")).endswith("Use: oc-smart run") for one in view.sessions):
        return "oc-smart run (use it instead of `opencode run`: it continues on a fallback)"
    if view.misconfigured:
        return "ocwatch config check (list all errors of the configuration)"
    if view.unknown_models:
        return "ocwatch config check (shows the line of each name and suggests similar names)"
    if view.without_fallback:
        return "ocwatch config init (see a proposed chain), or edit rate-limit-config.json"
    if view.without_chain:
        return SET_MODEL
    if view.unserved or view.health:
        return "ocwatch doctor (see what to do)"
    for one in view.earlier:
        limit = one.get("limit")
        if isinstance(limit, dict) and limit["restart"]:
            return f"{escape(str(limit['restart']))} (continue this session on another model)"
    if view.earlier:
        return RESTART
    if view.cooldowns:
        return LOOK
    return NOTHING


def _health_line(line: str, cut: bool = True) -> str:
    width = screen_width()
    return "# " + wrapped(fit(escape(line), 4 * width) if cut else escape(line), 2, width).lstrip()


def _files(followed: str) -> int:
    """Return the number of logs in an entry of `following`: 12 for `/logs (12 files)`, 1 for a file."""
    number = followed.rpartition("(")[2].removesuffix(" files)")
    return int(number) if number.isdecimal() else 1


def headline(view: StatusView) -> str:
    """Return a sentence on the daemon's state. If it is stalled or not running, the sentence names a command to run."""
    if view.state == State.UP:
        count = sum(map(_files, view.following))
        logs = "no log yet" if not count else f"{count} log{'s' if count > 1 else ''}"
        follows = "cannot serve every running OpenCode process" if view.unserved else f"follows {logs}"
        joint = "but" if view.unserved else "and"
        return f"ocwatchd is up (pid {view.pid}, since {clock(view.started, view.now)}) {joint} {follows}."
    if view.state == State.STALLED:
        silent = view.beat is None or view.now - view.beat >= FRESH
        since = "never" if view.beat is None else f"{span(view.now - view.beat)} ago"
        why = f"its last heartbeat was {since}" if silent else "it is not reading OpenCode's logs"
        return f"ocwatchd is stalled: pid {view.pid} is running, but {why}; {REMEDY[view.state]}"
    return f"ocwatchd is not running; {REMEDY[view.state]}"
