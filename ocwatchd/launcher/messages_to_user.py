"""What `oc-smart` says of itself, on standard error: standard output is the answer. Light: every start has it."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """A line of the story on standard error, free of control characters; on a terminal broken between words."""
    line = "oc-smart: " + "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    try:
        print(_broken(line, os.get_terminal_size(2).columns) if os.isatty(2) else line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a closed standard error must not end anything
        return


def _broken(line: str, width: int) -> str:
    if not 20 <= width < len(line):  # a terminal of unknown size says 0
        return line
    from textwrap import wrap  # late: 4 CPU ms, which only a long line needs

    return "\n".join(wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
