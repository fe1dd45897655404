"""Text output: tables that fit, human-readable times, JSON for scripts, and writing to the terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from ocwatchd.cli.output.escape import escape

TYPE_CHECKING = False  # defined here because importing it from `typing` costs 5 ms of CPU time
if TYPE_CHECKING:
    from typing import TextIO

WIDTH = 80
"""Width of the output, in columns, if neither COLUMNS nor a terminal defines one, as for files and pipes."""

BESIDE_NAMES = 44
"""Width, in columns of text, reserved for all columns except the names, if they need that much. A name that does not
fit into the remaining width is shortened in the middle.
"""
LEAST_PHRASE = 14
"""Minimum width, in columns of text, of a table's last column. Names are shortened to keep this width free."""


COMMAND_INDENT = "    "
"""The indentation of a command within prose. Such a line is not wrapped, so that the command can be copied."""


def say(text: str) -> None:
    """Print one or more lines on standard output. Characters that it cannot encode are escaped."""
    print(text)


def tell(text: str) -> None:
    """Print prose on standard output, wrapped between words on a terminal, and unchanged in a pipe or file."""
    print(_flowing(text, sys.stdout))


def warn(text: str) -> None:
    """Print a line on standard error after the program's name, wrapped as in `tell`."""
    print(_flowing(f"ocwatch: {text}", sys.stderr), file=sys.stderr)


def _indent_of(line: str) -> str:
    """Return the indentation of the continuation lines if this line is wrapped. If the line is indented, they are
    indented by two more columns.
    """
    margin = len(line) - len(line.lstrip(" "))
    return " " * (margin + 2) if margin else ""


def _flowing(text: str, stream: TextIO) -> str:
    """Return the text, wrapped if `stream` is a terminal. Commands on separate lines are not wrapped."""
    if stream is None or not stream.isatty():
        return text
    width = screen_width(stream)
    lines = text.split("\n")
    return "\n".join(
        piece
        for line in lines
        for piece in (
            hanging("", line, _indent_of(line), width)
            if columns(line) > width and not line.startswith(COMMAND_INDENT)
            else [line]
        )
    )


STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""The terminal code for each text style."""


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return the text in this style if `stream` is a terminal with colors. `style` consists of words in STYLES.

    `stream` is standard output by default. NO_COLOR (https://no-color.org) disables colors, and so does a TERM that is
    empty, `dumb` or `unknown`.
    """
    output = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown")
    if plain or not text or output is None or not output.isatty():
        return text
    codes = ";".join(STYLES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


SYMBOLS = {"ok": ("✓", "+"), "info": ("·", "-"), "warning": ("!", "!"), "error": ("✗", "x")}
"""The symbol for each severity, and its ASCII replacement for outputs that cannot encode the symbol."""


SEVERITY_STYLES = {"ok": "green", "info": "dim", "warning": "yellow", "error": "red"}
"""The style of the symbol for each severity."""


def symbol(severity: str) -> str:
    """Return the symbol for a finding of this severity (`ok`, `info`, `warning`, `error`), one column wide.

    On a terminal, the symbol is colored.
    """
    shown, plain = SYMBOLS[severity]
    try:
        shown.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        shown = plain
    return paint(shown, SEVERITY_STYLES[severity])


def say_json(document: Mapping[str, object]) -> None:
    """Print one JSON document in ASCII, so that every locale can encode it and it contains no terminal codes."""
    print(json.dumps({"version": 1, **document}, indent=2))


def say_json_line(document: Mapping[str, object]) -> None:
    """Print one JSON object on a line."""
    print(json.dumps(document))


def iso(epoch: float | None) -> str | None:
    """Return the time in the format of our JSON output: RFC 3339, in UTC, with milliseconds. Return None for None."""
    if epoch is None:
        return None
    # importing datetime would cost 2 of the 25 ms of CPU time that `statusline` may take
    whole, thousandths = divmod(round(epoch * 1000), 1000)
    year, month, day, hour, minute, second = time.gmtime(whole)[:6]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{thousandths:03}Z"


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, *, whole: bool = False
) -> str:
    """Return a table of at most `width` columns of text.

    If a row is too long, the name in the first column is shortened, and the phrase in the last column is truncated, or
    wrapped if `whole` is set.
    """
    width = width or screen_width()
    cells = [list(titles), *(list(map(escape, row)) for row in rows)]
    gaps = 2 * (len(titles) - 1)
    between = sum(max(columns(row[index]) for row in cells) for index in range(1, len(titles) - 1)) + gaps
    whole_row = between + max(columns(row[-1]) for row in cells)
    if max(columns(row[0]) for row in cells) + whole_row > width:
        name = max(width - max(min(BESIDE_NAMES, whole_row), between + LEAST_PHRASE), 12)
        cells = [[fit_middle(row[0], name), *row[1:]] for row in cells]
    widths = [max(columns(row[index]) for row in cells) for index in range(len(titles) - 1)]
    room = width - sum(widths) - 2 * len(widths)
    return "\n".join(_line(row, widths, max(room, 8), whole) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int], room: int, whole: bool) -> str:
    padded = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=False)]
    before = sum(widths) + 2 * len(widths)
    last = wrapped(row[-1], before, before + room).lstrip() if whole else fit(row[-1], room)
    return "  ".join([*padded, last]).rstrip()


def wrapped(text: str, indent: int, width: int) -> str:
    """Return `text` wrapped to indented lines of at most `width` columns. Longer words are not broken."""
    margin = " " * indent
    return "\n".join(hanging(margin, " ".join(text.split()), margin, max(width, indent + 20)))


def hanging(head: str, text: str, indent: str, width: int | None = None) -> Iterator[str]:
    """Yield `head` and `text` as lines of at most `width` columns. Longer words are not broken.

    `indent` precedes every line but the first.
    """
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
    """Return `text`, truncated to at most `width` columns."""
    if columns(text) <= width:
        return text
    cut = text
    while cut and columns(cut) > width - 1:
        cut = cut[:-1]
    return cut.rstrip() + "…"


def fit_middle(text: str, width: int) -> str:
    """Return `text`, shortened in the middle to at most `width` characters.

    Users recognize a model by its provider and its version, which are at the beginning and at the end.
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def visible(text: str) -> str:
    """Return the text without the codes of `paint`."""
    if "\x1b[" not in text:
        return text
    import re  # lazy import: needed only on a terminal with colors

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def columns(text: str) -> int:
    """Return the width of `text` on a terminal, in columns. Wide characters, such as Chinese ones, take two."""
    text = visible(text)
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # lazy import: rarely needed

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def screen_width(stream: TextIO | None = None) -> int:
    """Return the width of the terminal behind `stream` (by default standard output), in columns.

    COLUMNS takes precedence. With neither COLUMNS nor a terminal, the width is 80.
    """
    wished = os.environ.get("COLUMNS", "")
    if wished.isdecimal() and 20 <= int(wished) <= 1000:
        return int(wished)
    try:
        return max(os.get_terminal_size((stream or sys.stdout).fileno()).columns, 40)
    except (OSError, ValueError):
        return WIDTH
