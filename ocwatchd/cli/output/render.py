"""Text for people: tables that fit, times as one says them. JSON for scripts. Writing to the terminal happens here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from ocwatchd.cli.escape import escape

TYPE_CHECKING = False  # what `typing` calls so costs 5 CPU ms to import
if TYPE_CHECKING:
    from typing import TextIO

WIDTH = 80
"""Columns where no terminal says how wide it is: also the promise for files and pipes."""

BESIDE_NAMES = 44
"""Columns kept for the rest of a table when a name is so long that it has to be shortened in its middle."""


def say(text: str) -> None:
    """One line or several on standard output; what the output cannot encode is written as an escape."""
    print(text)


def tell(text: str) -> None:
    """Prose on standard output: on a terminal broken between words, else (a pipe, a file) left as it is."""
    print(_flowing(text, sys.stdout))


def warn(text: str) -> None:
    """A line on standard error, under our name; broken between words as `tell` does."""
    print(_flowing(f"ocwatch: {text}", sys.stderr), file=sys.stderr)


def _flowing(text: str, stream: TextIO) -> str:
    """Only a terminal cuts words in two at its edge; what a program reads keeps its lines."""
    if stream is None or not stream.isatty():
        return text
    width = screen_width(stream)
    lines = text.split("\n")
    return "\n".join(
        piece for line in lines for piece in (hanging("", line, "", width) if columns(line) > width else [line])
    )


def say_json(document: Mapping[str, object]) -> None:
    """One JSON document, ASCII only: it survives every locale and holds nothing that a terminal would obey."""
    print(json.dumps({"version": 1, **document}, indent=2))


def say_json_line(document: Mapping[str, object]) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(document))


def iso(epoch: float | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, as everywhere in our JSON; None stays None."""
    if epoch is None:
        return None
    whole, thousandths = divmod(round(epoch * 1000), 1000)  # datetime would cost 2 CPU ms of the 25 of `statusline`
    year, month, day, hour, minute, second = time.gmtime(whole)[:6]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{thousandths:03}Z"


def clock(epoch: float | None, now: float) -> str:
    """The local time, as short as it stays clear: `14:20`, `Tue 14:20` within a week, `24 Dec 14:20`, `2027-01-03`."""
    if epoch is None:
        return "-"
    try:
        moment, today = time.localtime(epoch), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "far off"
    if moment[:3] == today[:3]:
        return time.strftime("%H:%M", moment)
    if abs(epoch - now) < 6 * 86400:
        return time.strftime("%a %H:%M", moment)
    return time.strftime("%d %b %H:%M" if moment[0] == today[0] else "%Y-%m-%d", moment)


def span(seconds: float | None) -> str:
    """A length of time in its two largest units, rounded up to whole seconds: `45s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds is None:
        return "-"
    whole = -int(-max(seconds, 0) // 1)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit} {rest}{below}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, *, whole: bool = False
) -> str:
    """Aligned columns within `width`; the first is a name, the last a phrase: cut if need be, or `whole` on several."""
    width = width or screen_width()
    name = max(width - BESIDE_NAMES, 12)
    cells = [list(titles), *([fit_middle(escape(row[0]), name), *map(escape, row[1:])] for row in rows)]
    widths = [max(columns(row[index]) for row in cells) for index in range(len(titles) - 1)]
    room = width - sum(widths) - 2 * len(widths)
    return "\n".join(_line(row, widths, max(room, 8), whole) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int], room: int, whole: bool) -> str:
    padded = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=False)]
    before = sum(widths) + 2 * len(widths)
    last = wrapped(row[-1], before, before + room).lstrip() if whole else fit(row[-1], room)
    return "  ".join([*padded, last]).rstrip()


def wrapped(text: str, indent: int, width: int) -> str:
    """`text` on as many lines of `width` columns as it takes, every one indented; a longer word stays whole."""
    margin = " " * indent
    return "\n".join(hanging(margin, " ".join(text.split()), margin, max(width, indent + 20)))


def hanging(head: str, text: str, indent: str, width: int | None = None) -> Iterator[str]:
    """`head` and `text` on lines of at most `width` columns, `indent` before all but the first; a longer word stays."""
    width = width or screen_width()
    line, empty = head, True
    for piece in text.split(" "):
        if not empty and columns(line) + 1 + columns(piece) > width:
            yield line.rstrip()
            line, empty = indent, True
        line = line + piece if empty else f"{line} {piece}"
        empty = False
    yield line.rstrip()


def fit(text: str, width: int) -> str:
    """`text`, cut at the end to `width` columns."""
    if columns(text) <= width:
        return text
    cut = text
    while cut and columns(cut) > width - 1:
        cut = cut[:-1]
    return cut.rstrip() + "…"


def fit_middle(text: str, width: int) -> str:
    """`text`, shortened in its middle: a model's provider and its version are what tells it apart."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def columns(text: str) -> int:
    """Columns that `text` takes on a terminal; Chinese characters take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # late: rarely needed

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def screen_width(stream: TextIO | None = None) -> int:
    """Columns of the terminal behind `stream` (else standard output); COLUMNS wins; 80 without either."""
    wished = os.environ.get("COLUMNS", "")
    if wished.isdecimal() and 20 <= int(wished) <= 1000:
        return int(wished)
    try:
        return max(os.get_terminal_size((stream or sys.stdout).fileno()).columns, 40)
    except (OSError, ValueError):
        return WIDTH
