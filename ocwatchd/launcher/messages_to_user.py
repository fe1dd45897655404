"""Print the messages of `oc-smart` on standard error, because standard output contains only the answer. Imports few
modules.
"""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print a message on standard error, without control characters. On a terminal, the message is wrapped between
    words.
    """
    line = f"oc-smart: {printable(text)}"
    try:
        print(_broken(line, os.get_terminal_size(2).columns) if os.isatty(2) else line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a closed standard error must not end the launcher
        return


def printable(text: str) -> str:
    """Return `text` with replacement characters instead of control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _broken(line: str, width: int) -> str:
    if not 20 <= width < len(line):  # a terminal of unknown size reports 0
        return line
    from textwrap import wrap  # lazy import: 4 ms of CPU time, needed only for a long line

    return "\n".join(wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def debug(text: str) -> None:
    """Log a line at level `debug` if OCWATCHD_LOG is set. Otherwise, do nothing, to avoid importing `logging`."""
    if "OCWATCHD_LOG" in os.environ:
        from logging import getLogger  # lazy import: 5 ms of CPU time

        getLogger("ocwatchd.launcher").debug(text)
