"""The report as a self-contained HTML page with a light and a dark theme, without scripts or external resources.

Charts are inline SVG that the browser stretches. Their labels are HTML beside the SVG, so that the text is never
scaled. The shapes have classes, which `page.css` styles.

This module is long because it contains a function for every section of the page.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape as html_escape
from importlib import resources
from statistics import median

from ocwatchd import __version__
from ocwatchd.cli.output.escape import escape
from ocwatchd.clock import from_rfc3339
from ocwatchd.core.domain.budget import dollars
from ocwatchd.core.history.costs import SessionUse, Spending, Used
from ocwatchd.core.history.intervals import CooldownSpan
from ocwatchd.core.history.metrics import HOUR, Cost, Fallback, Figures, ModelFigures
from ocwatchd.core.text.amounts import about, count, exactly
from ocwatchd.opencode.sessions.names import short_directory
from ocwatchd.time_words import clock


def text(value: object) -> str:
    """Return `value` escaped for an element or attribute, including control and direction-changing characters."""
    return html_escape(escape(str(value)), quote=True)


def lasting(seconds: float | None) -> str:
    """Return a duration, or `–` for None."""
    return "–" if seconds is None else exactly(max(seconds, 0.0))


WIDE = 1000.0
"""Width of a chart in SVG units, which the browser stretches to the available width."""
ROWS = 12
"""Maximum number of models that have their own row."""
COLOURS = 6
"""Number of models that have their own color. All other models share one color."""
BARS = 112
"""Maximum number of bars, so that each is at least 3 pixels wide on a phone."""
BINS = (HOUR, 3 * HOUR, 6 * HOUR, 24 * HOUR, 7 * 24 * HOUR, 28 * 24 * HOUR)
TICKS = (900, 1800, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 86_400, 2 * 86_400, 7 * 86_400, 28 * 86_400)
MOST_TICKS = 8
DAY = 86_400.0
WIDEST = 30.0
"""Maximum width of a bar in SVG units, for charts with few bars."""
LEAST = 2.0
"""Minimum width, in SVG units, of the bar of a cooldown, so that the bar is visible."""


def _begin(found: Figures) -> float:
    """Return the start of the time axis: the journal's first entry, but not before the start of the window."""
    return max(found.since, found.begins or found.since)


def over_time(found: Figures) -> str:
    """Return the chart of refused attempts over time, stacked by model."""
    size = next((size for size in BINS if (found.now - _begin(found)) / size <= BARS), BINS[-1])
    first = _floor(_begin(found), size)
    count = int((found.now - first) // size) + 1
    bars: list[Counter[str]] = [Counter() for _ in range(count)]
    for hour, model, number in found.hours:
        bars[min(max(int((hour - first) // size), 0), count - 1)][model] += number
    highest = max((bar.total() for bar in bars), default=0) or 1
    names = [one.model for one in found.models if one.limits]
    shapes = [_bar(bar, index, count, highest, names, first + index * size, size) for index, bar in enumerate(bars)]
    legend = "".join(f'<li><i class="k {_colour(name, names)}"></i>{text(name)}</li>' for name in names[:COLOURS])
    if len(names) > COLOURS:
        legend += f'<li><i class="k c0"></i>{len(names) - COLOURS} more</li>'
    drawing = _svg("".join(shapes), 160, f"Limits over time, at most {highest} in {_size(size)}")
    axis = _axis(first, first + count * size)
    top = f'<span class="top">{highest} in {_size(size)}</span>'
    return f'<div class="plot">{top}{drawing}{axis}</div><ul class="legend">{legend}</ul>'


def _bar(
    bar: Counter[str], index: int, count: int, highest: int, names: Sequence[str], begin: float, size: float
) -> str:
    if not bar:
        return ""
    step, top, shapes = WIDE / count, 160.0, ""
    width = min(step * 0.8, WIDEST)
    for name in sorted(bar, key=names.index):
        height = 150.0 * bar[name] / highest
        top -= height
        x, y = f"{(index + 0.5) * step - width / 2:.2f}", f"{top:.2f}"
        shapes += f'<rect class="{_colour(name, names)}" x="{x}" y="{y}" width="{width:.2f}" height="{height:.2f}"/>'
    counts = "\n".join(f"{number} × {name}" for name, number in bar.most_common())
    return f"<g><title>{text(_short_moment(begin))} + {_size(size)}: {_lines(counts)}</title>{shapes}</g>"


def by_hour(found: Figures) -> str:
    """Return the table of refused attempts by model and local hour of the day."""
    grid: dict[str, Counter[int]] = {}
    for hour, model, number in found.hours:
        grid.setdefault(model, Counter())[time.localtime(hour).tm_hour] += number
    most = max((number for row in grid.values() for number in row.values()), default=1)
    names = [one.model for one in found.models if one.limits][:ROWS]
    head = "".join(f"<th>{hour if hour % 3 == 0 else ''}</th>" for hour in range(24))
    rows = "".join(_heat_row(name, grid.get(name, Counter()), most) for name in names)
    return (
        '<table class="heat"><caption class="sr">Limits by model and hour of the day</caption>'
        f'<thead><tr><th class="name">local hour</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _heat_row(name: str, row: Counter[int], most: int) -> str:
    cells = "".join(
        f'<td class="h{_level(row[hour], most)}" title="{row[hour]} at {hour}:00">{row[hour] or ""}</td>'
        for hour in range(24)
    )
    return f'<tr><th class="name" scope="row">{text(name)}</th>{cells}</tr>'


def _level(number: int, most: int) -> int:
    return 0 if not number else min(1 + 4 * number // (most + 1), 4)


def timelines(found: Figures) -> str:
    """Return the chart of cooldowns and refused attempts by model."""
    names = [one.model for one in found.models][:ROWS]
    facts = {one.model: one for one in found.models}
    rows = ""
    for name in names:
        own = [rest for rest in found.cooldown_spans if rest.model == name]
        limits = facts[name].limits
        count = f"{limits} limit{'' if limits == 1 else 's'}" if limits else "no limit"
        aside = f"{count}, {lasting(facts[name].cooling)} cooling"
        strip = _svg(_strip(own, found), 22, f"Cooldowns of {name}")
        rows += f'<div class="row"><div class="name">{text(name)}<small>{aside}</small></div>{strip}</div>'
    kinds = sorted({_kind(rest) for rest in found.cooldown_spans})
    legend = "".join(f'<li><i class="k {kind}"></i>{kind.replace("_", " ")}</li>' for kind in kinds)
    legend += '<li><i class="k tick"></i>a refused attempt</li>' if found.limits else ""
    more = len(found.models) - len(names)
    left = f'<p class="note">{more} more models are in the JSON report.</p>' if more > 0 else ""
    axis = f'<div class="row"><div class="name"></div>{_axis(_begin(found), found.now)}</div>'
    return f'<div class="lanes">{rows}{axis}</div><ul class="legend">{legend}</ul>{left}'


def _strip(own: Sequence[CooldownSpan], found: Figures) -> str:
    """Return the bars of one model.

    Shapes on the same pixels are drawn once, so that a very large number of limits does not make a huge page.
    """
    drawn: set[tuple[str, str, str]] = set()
    shapes, ticks = "", ""
    for rest in own:
        x, end = _x(rest.since, found), _x(rest.end(found.now), found)
        place = (_kind(rest), f"{x:.1f}", f"{max(end - x, LEAST):.1f}")
        if place not in drawn:
            drawn.add(place)
            shapes += (
                f'<rect class="{place[0]}" x="{place[1]}" y="3" width="{place[2]}" height="16">'
                f"<title>{text(_cooldown_title(rest, found.now))}</title></rect>"
            )
        for at in rest.limits:
            mark = ("", f"{_x(at, found):.0f}", "")
            if at >= _begin(found) and mark not in drawn:
                drawn.add(mark)
                ticks += f'<rect class="tick" x="{mark[1]}" y="0" width="1" height="22"/>'
    return f'<rect class="lane" x="0" y="3" width="{WIDE:.0f}" height="16"/>{shapes}{ticks}'


def _cooldown_title(rest: CooldownSpan, now: float) -> str:
    end = "until cleared" if rest.until is None else f"until {clock(rest.until, now)}"
    over = {"answered": ", but answered before", "cleared": ", but cleared before"}.get(rest.over(now) or "", "")
    kind = rest.kind.replace("_", " ")
    return f"{kind} from {clock(rest.since, now)} {end} ({rest.reset_source}){over}; {rest.decision}"


def _kind(rest: CooldownSpan) -> str:
    if rest.reset_source == "manual":
        return "manual"
    return rest.kind if rest.kind in ("rate_limit", "quota", "overloaded", "billing") else "rate_limit"


def share(rate: float) -> str:
    """Return a bar that shows a rate from 0 to 1."""
    filled = f'<rect class="good" x="0" y="0" width="{WIDE * rate:.1f}" height="8"/>'
    return _svg(f'<rect class="lane" x="0" y="0" width="{WIDE:.0f}" height="8"/>{filled}', 8, f"{rate:.0%}")


# ---- parts of every chart


def _svg(shapes: str, height: int, name: str) -> str:
    box = f'viewBox="0 0 {WIDE:.0f} {height}" preserveAspectRatio="none"'
    return f'<svg {box} style="height:{height}px" role="img" aria-label="{text(name)}">{shapes}</svg>'


def _axis(begin: float, end: float) -> str:
    step = next((step for step in TICKS if (end - begin) / step <= MOST_TICKS), TICKS[-1])
    at, marks = _floor(begin, step), ""
    while at <= end:
        place = (at - begin) / (end - begin) * 100
        if 0 <= place <= 96:
            marks += f'<span style="left:{place:.2f}%">{text(_tick(at, step))}</span>'
        # round to local midnight, because a local day may have 23 or 25 hours
        at = _floor(at + step * 1.5, step) if step >= DAY else at + step
    return f'<div class="axis">{marks}</div>'


def _floor(epoch: float, step: float) -> float:
    """Return the last multiple of `step` seconds before or at `epoch`, in local time.

    Multiples are counted from local midnight of 1 January 1970, so multiples of a day are local midnights.
    """
    offset = time.localtime(epoch).tm_gmtoff
    found = (epoch + offset) // step * step
    return found - time.localtime(found - offset).tm_gmtoff


def _tick(at: float, step: float) -> str:
    local = time.localtime(at)
    if step >= DAY:
        return time.strftime("%a %d" if step <= 2 * DAY else "%d %b", local)
    return time.strftime("%a %d" if local.tm_hour == local.tm_min == 0 else "%H:%M", local)


def _x(at: float, found: Figures) -> float:
    inside = min(max(at, _begin(found)), found.now)
    return (inside - _begin(found)) / max(found.now - _begin(found), 1.0) * WIDE


def _colour(name: str, names: Sequence[str]) -> str:
    place = names.index(name)
    return f"c{place + 1}" if place < COLOURS else "c0"


def _size(seconds: float) -> str:
    hours = int(seconds // HOUR)
    if hours % 24:
        return "an hour" if hours == 1 else f"{hours} hours"
    return "a day" if hours == 24 else f"{hours // 24} days"


def _short_moment(at: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(at))


def _lines(lines: str) -> str:
    return "&#10;".join(text(line) for line in lines.split("\n"))


ENDED = {
    "moved": "moved to another model",
    "answered": "continued with the same model after a wait",
    "went_on": "continued with the same model after a wait",
    "already": "continued by themselves",
    "stopped": "stopped by you",
    "user_took_over": "replaced by another prompt from you",
    "freed": "stopped, so that the parent session continues",
    "open": "not over yet, or without a known end",
}


MAX_DAY_ROWS, MAX_SESSION_ROWS = 100, 50
"""Maximum number of rows in the tables on usage."""


def page(found: Figures, money: Spending, plan_windows: Sequence[Mapping[str, object]] = ()) -> str:
    """Return the whole HTML page."""
    style = resources.files("ocwatchd").joinpath("cli/report/page.css").read_text("utf-8")
    charts = _charts(found, money) if found.limits or found.cooldown_spans else [_empty()]
    body = "".join([_head(found), _tiles(found), _plans(plan_windows), *charts, _usage(money)])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>ocwatchd: {text(_window(found))}</title><style>{style}</style></head>"
        f"<body><main>{body}{_method(found)}</main></body></html>\n"
    )


def _head(found: Figures) -> str:
    late = ""
    if found.begins is not None:
        begins = text(_moment(found.begins))
        late = f'<p class="note">The journal begins on {begins}. Earlier limits are unknown.</p>'
    made = f"Created {_moment(found.now)} by ocwatchd {__version__}. Times are local ({time.strftime('%Z')})."
    return f"<header><h1>Rate limits, {text(_window(found))}</h1><p>{text(made)}</p>{late}</header>"


def _plans(windows: Sequence[Mapping[str, object]]) -> str:
    """Return the section on plan windows, or an empty string if no plan window was reported."""
    if not windows:
        return ""
    rows = "".join(
        f"<tr><td>{text(str(one['provider']))}</td><td>{text(str(one['window']))}</td>"
        f"<td>{one['used_percent']:.0f} %</td><td>{_when(one['resets'])}</td><td>{_when(one['used_up'])}</td></tr>"
        for one in windows
    )
    table = _table(("provider", "window", "used", "resets", "used up at this rate"), rows)
    return f"<section><h2>Plan windows</h2>{table}</section>"


def _when(moment: object) -> str:
    return "-" if moment is None else text(_moment(from_rfc3339(str(moment))))


def _empty() -> str:
    about = "There are no figures on limits for this period."
    return f'<section class="calm"><h2>No model was limited.</h2><p>{about}</p></section>'


def _tiles(found: Figures) -> str:
    cost, moved = found.cost, sum(one.moved for one in found.fallbacks)
    tried = sum(one.tried for one in found.fallbacks)
    times = sorted(seconds for one in found.fallbacks for seconds in one.recovery)
    to_come = f"and {lasting(cost.to_come)} to come" if cost.to_come >= 1 else "of waits with a known end"
    middle = median(times) if times else None
    tiles = [
        ("saved", _about(cost.saved), "saved", to_come),
        ("lost", _some(cost.lost), "lost", f"over {count(found.turns, 'limited turn')}"),
        (
            "",
            str(found.limits),
            "limit" if found.limits == 1 else "limits",
            f"of {count(len([m for m in found.models if m.limits]), 'model')}",
        ),
        (
            "",
            str(moved),
            "move" if moved == 1 else "moves",
            f"{moved / tried:.0%} of {tried} attempted" if tried else "none was made",
        ),
        ("", lasting(middle), "to continue", _of_how_many(times) if times else "no move yet"),
    ]
    return '<section class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</section>"


def _tile(kind: str, value: str, label: str, aside: str) -> str:
    return f'<div class="tile {kind}"><b>{text(value)}</b><span>{text(label)}</span><small>{text(aside)}</small></div>'


def _charts(found: Figures, money: Spending) -> list[str]:
    return [
        _section("Limits over time", "Every refused request, by model.", over_time(found)),
        _section("When models were cooling down", "Each bar is a cooldown: the model was not used.", timelines(found)),
        _section("Limits by hour of the day", "The hours at which limits are most frequent.", by_hour(found)),
        _section(
            "Fallbacks",
            "Results by target. Recovery is the time from the first refused attempt until the turn continued.",
            _fallbacks(found.fallbacks),
        ),
        _section("Models", "Time lost and saved, by limited model.", _models(found.models)),
        _section("Money", "Cost of moved turns, at OpenCode's prices, in US dollars.", _money(money)),
        _section("How limited turns ended", "", _outcomes(found)),
    ]


def _section(title: str, about: str, content: str) -> str:
    return f"<section><h2>{text(title)}</h2><p>{text(about)}</p>{content}</section>"


def _fallbacks(found: tuple[Fallback, ...]) -> str:
    if not found:
        return '<p class="note">No turn was moved.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(one.model)}</th><td data-of="success"><span class="meter">'
        f"{share(one.rate or 0.0)}</span>{one.rate or 0.0:.0%}</td>"
        + _cells(
            ("moved", f"{one.moved} of {one.tried}"),
            ("also limited", str(one.limited or "–")),
            ("failed", str(one.failed or "–")),
            ("recovery", _typical(one.recovery)),
            ("worst", lasting(one.worst)),
            ("first token", _typical(one.first_tokens)),
        )
        + "</tr>"
        for one in found
    )
    return _table(("target", "success", "moved", "also limited", "failed", "recovery", "worst", "first token"), rows)


def _models(found: tuple[ModelFigures, ...]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{text(one.model)}</th>'
        + _cells(
            ("limits", str(one.limits)),
            ("kinds", ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in one.kinds) or "–"),
            ("cooling", lasting(one.cooling)),
            ("lost", _some(one.cost.lost)),
            ("saved", _about(one.cost.saved)),
        )
        + "</tr>"
        for one in found
    )
    return _table(("model", "limits", "kinds", "cooling", "lost", "saved"), rows)


def _money(money: Spending) -> str:
    if not money.moved:
        return f'<p class="note">No moved turn has cost anything. The total cost is {dollars(money.total)}.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(one.target)}</th>'
        + _cells(
            ("turns", str(one.turns)),
            ("cost", dollars(one.dollars)),
            ("instead (estimate)", "–" if one.saved is None else dollars(one.instead)),
            ("saved (estimate)", "–" if one.saved is None else dollars(one.saved)),
        )
        + "</tr>"
        for one in money.moved
    )
    whole = f'<p class="note">The total cost is {dollars(money.total)}.</p>'
    return _table(("target", "turns", "cost", "instead (estimate)", "saved (estimate)"), rows) + whole


def _usage(money: Spending) -> str:
    """Return the section on tokens and cost by day and model, and by session, or an empty string if there is no
    usage.
    """
    if not money.days:
        return ""
    days = "".join(
        f'<tr><th scope="row">{text(day or "unknown day")}</th>{_cells(("model", model), *_used(used))}</tr>'
        for day, model, used in money.days[:MAX_DAY_ROWS]
    )
    sessions = "".join(
        f'<tr><th scope="row">{text(session_label(one))}</th>{_cells(*_used(one.used))}</tr>'
        for one in money.sessions[:MAX_SESSION_ROWS]
    )
    titles = ("answers", "input", "output", "cache", "cost")
    tables = _table(("day", "model", *titles), days) + _table(("session", *titles), sessions)
    return _section("Usage", "Tokens and cost (US dollars), according to OpenCode.", tables)


def session_label(one: SessionUse) -> str:
    """Return the title and directory of a session, or its id if it has no title."""
    if not one.title:
        return one.session
    return f"{one.title} in {short_directory(one.directory)}" if one.directory else one.title


def _used(used: Used) -> tuple[tuple[str, str], ...]:
    return (
        ("answers", str(used.answers)),
        ("input", f"{used.input:,}"),
        ("output", f"{used.output:,}"),
        ("cache", f"{used.cached:,}"),
        ("cost", dollars(used.dollars)),
    )


def _outcomes(found: Figures) -> str:
    count: dict[str, int] = {}
    for outcome, number in found.outcomes:
        name = ENDED.get(outcome, outcome)
        count[name] = count.get(name, 0) + number
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td data-of="share"><span class="meter">'
        f"{share(number / found.turns)}</span>{number / found.turns:.0%}</td>"
        f"{_cells(('turns', str(number)))}</tr>"
        for name, number in count.items()
    )
    return _table(("end", "share", "turns"), rows) if rows else '<p class="note">No turn was limited.</p>'


def _cells(*cells: tuple[str, str]) -> str:
    return "".join(f'<td data-of="{text(name)}">{text(value)}</td>' for name, value in cells)


def _table(titles: tuple[str, ...], rows: str) -> str:
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    return f'<table class="list"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


METHOD = """
<section class="method"><h2>How this is counted</h2><ul>
<li><b>Lost</b> is the time that limited turns waited: from a turn's first refused attempt until the turn continued (on
another model or on its own) or was stopped, or until now. Waits of one session are never counted twice; if two sessions
wait at the same time, both waits are counted. For a turn that is not over, only a wait with a known end counts.</li>
<li><b>Saved</b> is, for each moved turn, the time from when the turn continued until OpenCode's own next attempt or the
reset time that the provider reported, whichever is later. If the model answered or its cooldown was cleared before
then, the saved time ends at that moment. Time in the future is not counted yet. The figure assumes that you would have
waited, and that the reported reset time was right.</li>
<li>@UNCOUNTED@</li>
<li><b>Success</b> is the share of moves after which the target answered, among all moves after which it answered,
refused the request or failed. Moves that a guard or a user prevented are not counted.</li>
<li>New prompts that the companion plugin sent to a fallback before any request was made are not in the journal, so the
time that they saved is not counted.</li>
<li><b>Money</b> is the cost that OpenCode recorded with each answer of a moved turn. <b>Instead</b> is an estimate: the
same tokens at the prices of the limited model, if OpenCode's provider list has them. Models on a plan have no price in
that list.</li>
<li>A refused title or summary request counts as a limit, not as a turn.</li></ul>
<p>For the same figures as JSON: <code>ocwatch report --json</code>. To explain one decision: <code>ocwatch explain
ID</code>. To see the id of a decision, point at its cooldown in the chart.</p></section>
"""


def _method(found: Figures) -> str:
    return METHOD.replace("@UNCOUNTED@", _uncounted(found.cost))


def _uncounted(cost: Cost) -> str:
    if not cost.uncounted:
        return "The length of every avoided wait is known."
    turns = count(cost.uncounted, "moved turn")
    return f"{turns} avoided a wait of unknown length, which is not included in the time saved."


def _some(seconds: float) -> str:
    return lasting(seconds or None)


def _about(seconds: float) -> str:
    """Return an estimated duration, marked as an estimate, or `–` if there is none."""
    return about(seconds) if seconds else "–"


def _typical(times: Sequence[float]) -> str:
    """Return the median of the times, followed by their count, or `–` if there are no times."""
    if not times:
        return "–"
    return f"{lasting(median(times))} ({'1 turn' if len(times) == 1 else f'median of {len(times)}'})"


def _of_how_many(times: Sequence[float]) -> str:
    return "1 turn" if len(times) == 1 else f"median of {len(times)} turns; worst {lasting(times[-1])}"


def _window(found: Figures) -> str:
    return f"{_moment(found.since)} to {_moment(found.now)}"


def _moment(at: float) -> str:
    return time.strftime("%a %d %b %Y %H:%M", time.localtime(at))
