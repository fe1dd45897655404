"""`ocwatch statusline`: print one line for a status bar such as tmux, waybar or starship. It imports few modules."""

from __future__ import annotations

import json
import time

from ocwatchd.cli.output.escape import escape, neutral, pango, tmux
from ocwatchd.cli.output.render import fit_middle, iso, say
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.paths import state_file
from ocwatchd.state import heartbeat
from ocwatchd.state.blacklist.format import Entry, moment, read_entries
from ocwatchd.state.forecasts import read_plan_windows
from ocwatchd.state.heartbeat import State, running, unserved
from ocwatchd.time_words import clock, span

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMATS = ("plain", "tmux", "waybar", "starship", "json")
NAME = 24
"""Maximum width of a model's name, in columns; longer names are shortened in the middle."""
SAFE = {"tmux": tmux, "waybar": pango, "json": escape}
"""The escape function of each format. Other formats use `neutral`, because the program that displays the line is
unknown.
"""
TMUX = {
    "ok": "",
    "cooling": "#[fg=yellow]",
    "down": "#[fg=red]",
    "deaf": "#[fg=red]",
    "unserved": "#[fg=red]",
    "no-fallback": "#[fg=red]",
    "unknown-model": "#[fg=red]",
}
DAEMON: dict[str, str] = {State.DOWN: "down", State.STALLED: "stalled"}
"""The word shown for each state in which the daemon cannot act."""
NEARLY_USED_UP = 80.0
"""The line shows a plan window only after this percentage of the window has been used."""
UNSERVED = "unserved"
"""State: the daemon is up, but cannot move the sessions of a running OpenCode process."""
NO_FALLBACK = "no-fallback"
"""State: the daemon is up, but a model in use has no fallback."""
UNKNOWN_MODEL = "unknown-model"
"""State: the daemon is up, but the configuration contains a model that OpenCode does not offer."""
CODES = {
    NO_FALLBACK: ExitCode.BAD_CONFIG,
    UNKNOWN_MODEL: ExitCode.BAD_CONFIG,
    State.UP: ExitCode.DONE,
    UNSERVED: ExitCode.OPENCODE_UNREACHABLE,
}
"""Exit codes by state. Other states mean that the daemon is stalled or not running (exit code 3)."""


def statusline(form: str = "plain") -> int:
    """Print one line, and return the exit code.

    Exit codes: 0 the daemon is up; 3 it is down or stalled; 4 a model in use has no fallback, or OpenCode does not
    offer a configured model; 5 a running OpenCode process cannot be served.

    Raises:
        UsageError: `form` is neither a format nor a template with known fields.
    """
    if form not in FORMATS and "{" not in form:
        raise UsageError(f"{form!r} is not a format; use {', '.join(FORMATS)} or a template like '{{model}} {{until}}'")
    now = time.time()
    beat = heartbeat.read(state_file("daemon.json"))
    state = beat.state(now)
    if state == State.UP and unserved(running(beat.endpoints)):
        state = UNSERVED
    elif state == State.UP and beat.without_fallback:
        state = NO_FALLBACK
    elif state == State.UP and beat.unknown_models:
        state = UNKNOWN_MODEL
    found = read_entries(state_file("blacklist.json")).active(now)
    plans = [] if state in DAEMON else read_plan_windows(state_file("forecasts.json"), now)
    safe = SAFE.get(form, neutral)
    raw = _fields(state, found, beat.sessions if state != State.DOWN else [], now) | _plan_fields(plans, now)
    if form not in FORMATS:  # a template prints one line
        raw["tip"] = raw["tip"].replace("\n", "; ")
    fields = {name: safe(value) for name, value in raw.items()}
    _add_plan(fields, form)
    if form == "json":
        end = min((entry.end for entry in found.values()), default=float("inf"))
        left = None if end == float("inf") else round(end - now, 3)
        document = {**_document(fields, left), "plan_windows": plans}
        say(json.dumps({"version": 1, "time": iso(now), **document}))
    else:
        say(_written(form, fields))
    return CODES.get(state, ExitCode.DAEMON_DOWN)


def _fields(state: str, found: dict[str, Entry], sessions: list[dict[str, object]], now: float) -> dict[str, str]:
    """Return the values of the template's fields. Fields without a value are empty strings. `model` is the model whose
    cooldown ends first.

    The values are not escaped; the caller applies `SAFE`.
    """
    key, entry = next(iter(found.items()), ("", None))
    target = entry.target[0] if entry and entry.target else ""
    mood = ("cooling" if found else "ok") if state == State.UP else state
    fields = {
        "state": mood,
        "daemon": State.UP if state in CODES else state,
        "cooling": str(len(found)),
        "model": key,
        "name": fit_middle(key.partition("/")[2], NAME),
        "kind": entry.kind.replace("_", " ") if entry else "",
        "until": "" if entry is None else "cleared" if entry.until is None else clock(entry.until, now),
        "until_iso": iso(entry.until) or "" if entry else "",
        "left": "" if entry is None or entry.until is None else span(entry.until - now),
        "target": target,
        "target_name": fit_middle(target.partition("/")[2], NAME),
        "sessions": str(len(sessions)),
    }
    return {**fields, "text": _text(fields), "tip": _tip(state, found, now)}


def _plan_fields(plans: Sequence[Mapping[str, object]], now: float) -> dict[str, str]:
    """Return the fields about the plan window with the highest usage; they are empty if no plan window is known."""
    one = max(plans, key=_used, default=None)
    resets = None if one is None or one["resets"] is None else moment(one["resets"], "resets")
    return {
        "plan_provider": "" if one is None else str(one["provider"]),
        "plan_window": "" if one is None else fit_middle(str(one["window"]), NAME),
        "plan_used": "" if one is None else f"{_used(one):.0f}",
        "plan_resets": "" if resets is None else clock(resets, now),
    }


def _used(one: Mapping[str, object]) -> float:
    used = one["used_percent"]
    return float(used) if isinstance(used, int | float) else 0.0


def _add_plan(fields: dict[str, str], form: str) -> None:
    """Set the field `plan`, such as `5h 87%`, if the window is nearly used up, and add it to the line and to the
    tooltip.

    The caller escapes the names first, because `neutral` would replace the percent sign, which is markup in some bars.
    Here the sign follows a digit and precedes a blank or the end of the line, where no bar interprets it.
    """
    near = bool(fields["plan_used"]) and float(fields["plan_used"]) >= NEARLY_USED_UP
    fields["plan"] = f"{fields['plan_window']} {fields['plan_used']}%" if near else ""
    if near:
        quiet = form == "starship" and fields["state"] == "ok"
        fields["text"] = fields["plan"] if quiet else f"{fields['text']} {fields['plan']}"
        resets = f", resets {fields['plan_resets']}" if fields["plan_resets"] else ""
        separator = "\n" if form == "waybar" else "; "
        fields["tip"] += f"{separator}{fields['plan_provider']} {fields['plan']} used{resets}"


def _written(form: str, fields: dict[str, str]) -> str:
    match form:
        case "plain":
            return fields["text"]
        case "tmux":
            style, text = TMUX[fields["state"]], fields["text"]
            return f"{style}{text}#[default]" if style else text
        case "starship":
            return "" if fields["state"] == "ok" and not fields["plan"] else fields["text"]
        case "waybar":
            bar = {"text": fields["text"], "tooltip": fields["tip"]}
            return json.dumps({**bar, "alt": fields["state"], "class": fields["state"]})
        case _:
            return _filled(form, fields)


def _filled(template: str, fields: dict[str, str]) -> str:
    """Return the template with its fields filled in; `{{` and `}}` become braces.

    Other parts of Python's format language are not supported.
    """
    import re

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in fields:
            raise UsageError(f"{match[0]} is not a field; the fields are {', '.join(fields)}")
        return fields[match[1]]

    return escape(re.sub(r"\{\{|\}\}|\{([^{}]*)\}", value, template))


def _text(fields: dict[str, str]) -> str:
    if fields["state"] in (State.DOWN, State.STALLED):
        return f"ocwatchd {DAEMON[fields['state']]}"
    if fields["state"] == UNSERVED:
        return "OpenCode not served"
    if fields["state"] == NO_FALLBACK and fields["cooling"] == "0":
        return "no fallback"
    if fields["state"] == UNKNOWN_MODEL and fields["cooling"] == "0":
        return "unknown model"
    if fields["state"] == "ok":
        return "ok"
    more = f" +{int(fields['cooling']) - 1}" if fields["cooling"] != "1" else ""
    instead = f" > {fields['target_name']}" if fields["target"] else ""
    return f"{fields['name']} {fields['left'] or 'blocked'}{instead}{more}"


def _tip(state: str, found: dict[str, Entry], now: float) -> str:
    problem = (
        "ocwatchd cannot move the sessions of a running OpenCode process. To see why: ocwatch status"
        if state == UNSERVED
        else ""
    )
    if state == NO_FALLBACK:
        problem = "a model in use has no fallback. To see which: ocwatch status"
    if state == UNKNOWN_MODEL:
        problem = "the configuration names a model that OpenCode does not offer. To see where: ocwatch config check"
    lines = [problem or f"ocwatchd is {DAEMON[state]}"] if state != State.UP else []
    for key, entry in found.items():
        end = "until cleared" if entry.until is None else f"until {clock(entry.until, now)}"
        lines.append(f"{key} {end}" + (f", fallback {entry.target[0]}" if entry.target else ""))
    return "\n".join(lines) or "No model is cooling down."


def _document(fields: dict[str, str], left: float | None) -> dict[str, object]:
    """Return the JSON document. Fields without a value are null."""
    texts = {name: fields[name] or None for name in ("model", "kind", "target")}
    return {
        "state": fields["state"],
        "daemon": fields["daemon"],
        "cooling": int(fields["cooling"]),
        **texts,
        "until": fields["until_iso"] or None,
        "left_seconds": left,
        "sessions": int(fields["sessions"]),
        "text": fields["text"],
    }
