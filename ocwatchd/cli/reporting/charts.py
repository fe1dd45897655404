"""The report's charts: shapes in inline SVG that stretches, words beside it in HTML, so that text never shrinks.

Nothing here knows colours: shapes carry classes, and the page's style sheet says what they look like, light or dark.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from ocwatchd.cli.render import clock
from ocwatchd.cli.reporting.markup import lasting, text
from ocwatchd.core.figures import HOUR, Figures
from ocwatchd.core.spans import Rest

WIDE = 1000.0
"""Units across a strip; the browser stretches them to what room there is."""
ROWS = 12
"""Models that have a row of their own."""
COLOURS = 6
"""Models that have a colour of their own; the rest share one."""
BARS = 112
"""Bars at most: at least 3 pixels each on a telephone."""
BINS = (HOUR, 3 * HOUR, 6 * HOUR, 24 * HOUR, 7 * 24 * HOUR, 28 * 24 * HOUR)
TICKS = (900, 1800, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 86_400, 2 * 86_400, 7 * 86_400, 28 * 86_400)
MOST_TICKS = 8
DAY = 86_400.0
WIDEST = 30.0
"""Units that a bar takes at most: three hours of a morning are three bars, not three walls."""
LEAST = 2.0
"""Units that the shortest cooldown takes: a thing that cannot be seen did not happen."""


def over_time(found: Figures) -> str:
    """Refusals over time, stacked by model."""
    size = next((size for size in BINS if (found.now - found.since) / size <= BARS), BINS[-1])
    first = _floor(found.since, size)
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
    told = "\n".join(f"{number} × {name}" for name, number in bar.most_common())
    return f"<g><title>{text(_moment(begin))} + {_size(size)}: {_lines(told)}</title>{shapes}</g>"


def by_hour(found: Figures) -> str:
    """Refusals by model and local hour of the day: when to expect them."""
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
    """When each model rested, and the refusals that made it."""
    names = [one.model for one in found.models][:ROWS]
    facts = {one.model: one for one in found.models}
    rows = ""
    for name in names:
        own = [rest for rest in found.rests if rest.model == name]
        limits = facts[name].limits
        count = f"{limits} limit{'' if limits == 1 else 's'}" if limits else "no limit"
        aside = f"{count}, {lasting(facts[name].cooling)} cooling"
        strip = _svg(_strip(own, found), 22, f"Cooldowns of {name}")
        rows += f'<div class="row"><div class="name">{text(name)}<small>{aside}</small></div>{strip}</div>'
    kinds = sorted({_kind(rest) for rest in found.rests})
    legend = "".join(f'<li><i class="k {kind}"></i>{kind.replace("_", " ")}</li>' for kind in kinds)
    legend += '<li><i class="k tick"></i>a refusal</li>' if found.limits else ""
    more = len(found.models) - len(names)
    left = f'<p class="note">{more} more models are in the JSON.</p>' if more > 0 else ""
    axis = f'<div class="row"><div class="name"></div>{_axis(found.since, found.now)}</div>'
    return f'<div class="lanes">{rows}{axis}</div><ul class="legend">{legend}</ul>{left}'


def _strip(own: Sequence[Rest], found: Figures) -> str:
    """Bars of one model; what would cover the same pixels is drawn once, so a storm makes no huge page."""
    drawn: set[tuple[str, str, str]] = set()
    shapes, ticks = "", ""
    for rest in own:
        x, end = _x(rest.since, found), _x(rest.end(found.now), found)
        place = (_kind(rest), f"{x:.1f}", f"{max(end - x, LEAST):.1f}")
        if place not in drawn:
            drawn.add(place)
            shapes += (
                f'<rect class="{place[0]}" x="{place[1]}" y="3" width="{place[2]}" height="16">'
                f"<title>{text(_told(rest, found.now))}</title></rect>"
            )
        for at in rest.limits:
            mark = ("", f"{_x(at, found):.0f}", "")
            if at >= found.since and mark not in drawn:
                drawn.add(mark)
                ticks += f'<rect class="tick" x="{mark[1]}" y="0" width="1" height="22"/>'
    return f'<rect class="lane" x="0" y="3" width="{WIDE:.0f}" height="16"/>{shapes}{ticks}'


def _told(rest: Rest, now: float) -> str:
    end = "until cleared" if rest.until is None else f"until {clock(rest.until, now)}"
    over = {"answered": ", answered before", "cleared": ", cleared by hand"}.get(rest.over(now) or "", "")
    return f"{rest.kind.replace('_', ' ')} from {clock(rest.since, now)} {end} ({rest.told_by}){over}; {rest.decision}"


def _kind(rest: Rest) -> str:
    if rest.told_by == "manual":
        return "manual"
    return rest.kind if rest.kind in ("rate_limit", "quota", "overloaded", "billing") else "rate_limit"


def share(rate: float) -> str:
    """A bar that is filled as far as the rate says, 0 to 1."""
    filled = f'<rect class="good" x="0" y="0" width="{WIDE * rate:.1f}" height="8"/>'
    return _svg(f'<rect class="lane" x="0" y="0" width="{WIDE:.0f}" height="8"/>{filled}', 8, f"{rate:.0%}")


# ---- the parts of every chart


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
        at = _floor(at + step * 1.5, step) if step >= DAY else at + step  # a day of 23 or 25 hours shifts nothing
    return f'<div class="axis">{marks}</div>'


def _floor(epoch: float, step: float) -> float:
    """The last multiple of `step` in local time, counted from a local midnight; of days, from the epoch's."""
    offset = time.localtime(epoch).tm_gmtoff
    found = (epoch + offset) // step * step
    return found - time.localtime(found - offset).tm_gmtoff


def _tick(at: float, step: float) -> str:
    local = time.localtime(at)
    if step >= DAY:
        return time.strftime("%a %d" if step <= 2 * DAY else "%d %b", local)
    return time.strftime("%a %d" if local.tm_hour == local.tm_min == 0 else "%H:%M", local)


def _x(at: float, found: Figures) -> float:
    inside = min(max(at, found.since), found.now)
    return (inside - found.since) / max(found.now - found.since, 1.0) * WIDE


def _colour(name: str, names: Sequence[str]) -> str:
    place = names.index(name)
    return f"c{place + 1}" if place < COLOURS else "c0"


def _size(seconds: float) -> str:
    hours = int(seconds // HOUR)
    if hours % 24:
        return "an hour" if hours == 1 else f"{hours} hours"
    return "a day" if hours == 24 else f"{hours // 24} days"


def _moment(at: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(at))


def _lines(told: str) -> str:
    return "&#10;".join(text(line) for line in told.split("\n"))
