"""One frame of `ocwatch watch`: lines that fit the screen, each with a style. Values in, text out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ocwatchd.cli.escape import escape
from ocwatchd.cli.history import stamp, told_lines
from ocwatchd.cli.listing import cooldown_table, headline, limit_in, session_table, used_of
from ocwatchd.cli.render import clock, columns, fit, hanging
from ocwatchd.cli.views import StatusView
from ocwatchd.core.entries import Entry
from ocwatchd.core.wording import phrase, word
from ocwatchd.state.heartbeat import State

LEAST_EVENTS = 4
"""Lines kept for events, however much cools."""
HEADLINE = {State.UP: "bold green", State.DEAF: "bold yellow", State.DOWN: "bold red"}
GOOD = frozenset(("moved", "answered", "went_on", "already", "free", "cleared", "eased"))
BAD = frozenset(("failed", "target_limited", "exhausted", "unreachable", "left", "refused"))
TITLE, PLAIN, QUIET = "bold", "", "dim"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen; `style` in rich's words."""

    text: str
    style: str = PLAIN


def frame(view: StatusView, events: Sequence[Entry], width: int, height: int, foot: str = "q ends") -> list[Line]:
    """At most `height` lines of at most `width` columns: daemon, cooldowns, sessions, then as many events as fit."""
    health = [Line(f"# {escape(line)}", "yellow") for line in view.health[:2]]
    room = max(height - 3 - len(health) - LEAST_EVENTS, 4)
    cooling = _block(cooldown_table(view.cooldowns, view.now, width), room // 2) if view.cooldowns else []
    sessions = _block(session_table(view.sessions, width), room - len(cooling)) if view.sessions else []
    head = [Line(line, HEADLINE[view.state]) for line in hanging("", headline(view), "", width)]
    top = [*head, *health, *(cooling or [Line("No model is cooling.")]), *sessions, *_ahead(view)]
    left = height - len(top) - 3
    lines = [*top, Line(""), Line("EVENTS", TITLE), *_events(events, left, view.now)]
    lines = lines[: height - 1]
    lines += [Line("")] * (height - 1 - len(lines))
    return [Line(fit(line.text, width), line.style) for line in [*lines, _foot(foot, view, width)]]


def _ahead(view: StatusView) -> list[Line]:
    """The nearest limit that is foreseen; nothing if none is."""
    for one in view.known_limits[:1]:
        if one.get("hits_in_seconds") is not None:
            when = limit_in(one, view.now)
            within = "is reached now" if when == "now" else f"in {when}"
            text = f"Next limit ({one.get('label')}): {one['model']} {within}, {used_of(one)}"
            return [Line(""), Line(escape(text), "yellow")]
    return []


def _block(table: str, room: int) -> list[Line]:
    """A table under an empty line, in so many lines; what does not fit is counted."""
    title, *rows = table.split("\n")
    most = max(room - 2, 2)
    shown = rows if len(rows) <= most else [*rows[: most - 1], f"… and {len(rows) - most + 1} more"]
    return [Line(""), Line(title, TITLE), *(Line(row) for row in shown)]


def _events(events: Sequence[Entry], room: int, now: float) -> list[Line]:
    told = told_lines(events)[-room:] if room > 0 else []
    return [event(line, now) for line in told] or [Line("Nothing has happened yet.", QUIET)]


def event(line: Entry, now: float) -> Line:
    """One event, with its time if it is today's, else with its day."""
    today = time.localtime(line.time)[:3] == time.localtime(now)[:3]
    when = stamp(line.time) if today else time.strftime("%d %H:%M", time.localtime(line.time))
    story = phrase(line, lambda at: clock(at, line.time))
    style = "green" if line.what in GOOD else "red" if line.what in BAD else "yellow" if line.what == "limit" else PLAIN
    return Line(f"{when:<8}  {escape(word(line)):<9}  {escape(story)}", style)


def _foot(foot: str, view: StatusView, width: int) -> Line:
    now = stamp(view.now)
    return Line(foot + " " * max(width - columns(foot) - columns(now), 1) + now, QUIET)
