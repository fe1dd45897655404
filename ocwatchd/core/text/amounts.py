"""Format durations and counts for people: the one format of all commands, notices, the journal's reasons and the log.

This module imports nothing, because it is used by `oc-smart` and by commands that scripts call frequently. Points in
time depend on the clock's zone, so they are formatted in `ocwatchd.time_words`.
"""

from __future__ import annotations

MINUTE, HOUR, DAY = 60, 3600, 86400
"""The units above a second, in seconds."""
UNITS = (("d", DAY, "h", HOUR), ("h", HOUR, "m", MINUTE), ("m", MINUTE, "s", 1))
"""Each unit with its length in seconds, and the next smaller unit with its length."""
TENTHS_BELOW = 59.95
"""Duration, in seconds, from which `exactly` omits tenths of a second. Below it, the rounded value is less than 60.0.
"""


def span(seconds: float | None) -> str:
    """Return a duration in its two largest units, rounded up to whole seconds: `45s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds is None:
        return "-"
    whole = -int(-max(seconds, 0) // 1)
    for unit, size, below, part in UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit} {rest}{below}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def about(seconds: float) -> str:
    """Return an estimated duration, rounded to minutes above a minute: `about 45s`, `about 58m`, `about 2h 5m`."""
    return f"about {span(round(seconds / MINUTE) * MINUTE if seconds >= MINUTE else round(seconds))}"


def exactly(seconds: float) -> str:
    """Return a measured duration, with tenths of a second if it is below a minute: `0.8s`, `45.2s`, `3m 20s`."""
    return f"{seconds:.1f}s" if seconds < TENTHS_BELOW else span(seconds)


def count(number: int, noun: str) -> str:
    """Return the number with the noun in singular or plural: `1 move`, `3 moves`. The plural must end with `s`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
