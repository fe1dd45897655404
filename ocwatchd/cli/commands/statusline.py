"""`ocwatch statusline`: one line for tmux, waybar, starship and the like. Imports nothing that costs."""

from __future__ import annotations

import json
import time

from ocwatchd.cli.escape import escape
from ocwatchd.cli.places import state_file
from ocwatchd.cli.render import clock, fit_middle, iso, say, span
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.state import heartbeat
from ocwatchd.state.entries import Entry, read_entries
from ocwatchd.state.heartbeat import State

FORMATS = ("plain", "tmux", "waybar", "starship", "json")
NAME = 24
"""Columns for a model in a bar; longer names are shortened in their middle."""
TMUX = {"ok": "", "cooling": "#[fg=yellow]", "down": "#[fg=red]", "deaf": "#[fg=red]"}


def statusline(form: str = "plain") -> int:
    """Print one line. 0: the daemon is up; 3: it is down or deaf, which the line says as well.

    Raises:
        UsageError: neither a format nor a template with known fields.
    """
    if form not in FORMATS and "{" not in form:
        raise UsageError(f"{form!r} is no format; use {', '.join(FORMATS)}, or a template like '{{model}} {{until}}'")
    now = time.time()
    beat = heartbeat.read(state_file("daemon.json"))
    state = beat.state(now)
    found = read_entries(state_file("blacklist.json")).active(now)
    fields = _fields(state, found, beat.sessions if state != State.DOWN else [], now)
    if form == "json":
        end = min((entry.end for entry in found.values()), default=float("inf"))
        left = None if end == float("inf") else round(end - now, 3)
        say(json.dumps({"version": 1, "time": iso(now), **_document(fields, left)}))
    else:
        say(_written(form, fields))
    return ExitCode.DONE if state == State.UP else ExitCode.DAEMON_DOWN


def _fields(state: str, found: dict[str, Entry], sessions: list[dict[str, object]], now: float) -> dict[str, str]:
    """What a template can name; the model is the one that returns first. Empty where there is nothing to say."""
    key, entry = next(iter(found.items()), ("", None))
    target = entry.target[0] if entry and entry.target else ""
    mood = ("cooling" if found else "ok") if state == State.UP else state
    fields = {
        "state": mood,
        "daemon": state,
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
    fields = {name: escape(value) for name, value in fields.items()}
    return {**fields, "text": _text(fields), "tip": _tip(state, found, now)}


def _written(form: str, fields: dict[str, str]) -> str:
    match form:
        case "plain":
            return fields["text"]
        case "tmux":  # `#` begins a style or a command there
            style, text = TMUX[fields["state"]], fields["text"].replace("#", "##")
            return f"{style}{text}#[default]" if style else text
        case "starship":
            return "" if fields["state"] == "ok" else fields["text"]
        case "waybar":
            bar = {"text": _pango(fields["text"]), "tooltip": _pango(fields["tip"])}
            return json.dumps({**bar, "alt": fields["state"], "class": fields["state"]})
        case _:
            return _filled(form, fields)


def _filled(template: str, fields: dict[str, str]) -> str:
    """The template with its fields; `{{` and `}}` are braces. No more of Python's format language than that."""
    import re

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in fields:
            names = ", ".join(name for name in fields if name != "tip")
            raise UsageError(f"{match[0]} is no field; there are {names}")
        return fields[match[1]]

    return escape(re.sub(r"\{\{|\}\}|\{([^{}]*)\}", value, template))


def _text(fields: dict[str, str]) -> str:
    if fields["state"] in (State.DOWN, State.DEAF):
        return f"ocwatchd {fields['state']}"
    if fields["state"] == "ok":
        return "ok"
    more = f" +{int(fields['cooling']) - 1}" if fields["cooling"] != "1" else ""
    instead = f" > {fields['target_name']}" if fields["target"] else ""
    return f"{fields['name']} {fields['left'] or 'blocked'}{instead}{more}"


def _tip(state: str, found: dict[str, Entry], now: float) -> str:
    lines = [f"ocwatchd is {state}"] if state != State.UP else []
    for key, entry in found.items():
        end = "until cleared" if entry.until is None else f"until {clock(entry.until, now)}"
        lines.append(escape(f"{key} {end}" + (f", {entry.target[0]} stands in" if entry.target else "")))
    return "\n".join(lines) or "No model is cooling."


def _pango(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _document(fields: dict[str, str], left: float | None) -> dict[str, object]:
    """The JSON contract: null where there is nothing to say."""
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
