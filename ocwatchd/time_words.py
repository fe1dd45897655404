"""Format times for people, and durations as in `core.text.amounts`. JSON contains RFC 3339 times instead
(`clock.rfc3339`).

Apart from `core.text.amounts`, this module imports only `time`, because it is used by `oc-smart` and by commands that
scripts call frequently.
"""

from __future__ import annotations

import time

from ocwatchd.core.text.amounts import about, exactly, span

__all__ = ["about", "clock", "exactly", "span", "stamp", "when"]

_WEEK = 6 * 86400.0
"""Maximum time difference, in seconds, for which the weekday alone identifies the day."""


def clock(epoch: float | None, now: float) -> str:
    """Return the shortest unambiguous local time: `14:20`, `Tue 14:20` within a week, `24 Dec 14:20`, `2027-01-03`.

    Return `-` for None, and `far off` for times beyond the calendar.
    """
    if epoch is None:
        return "-"
    return _local(epoch, now, "%H:%M", "%Y-%m-%d")


def stamp(epoch: float, now: float) -> str:
    """Return the local time with seconds, and with the date unless it is today.

    Examples: `14:20:05`, `Tue 14:20:05`, `24 Dec 14:20:05`, `2027-01-03 14:20:05`. This form is for events that may
    follow each other within a minute.
    """
    return _local(epoch, now, "%H:%M:%S", "%Y-%m-%d %H:%M:%S")


def when(epoch: float | None, now: float) -> str:
    """Return the local time and how far it is from `now`: `14:20 (in 3m 20s)`, `Tue 14:20 (2d 3h ago)`."""
    shown = clock(epoch, now)
    if epoch is None or shown == "far off":
        return shown
    return f"{shown} (in {span(epoch - now)})" if epoch > now else f"{shown} ({span(now - epoch)} ago)"


def _local(epoch: float, now: float, of_day: str, of_other_year: str) -> str:
    try:
        moment, today = time.localtime(epoch), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "far off"
    if moment[:3] == today[:3]:
        return time.strftime(of_day, moment)
    if abs(epoch - now) < _WEEK:
        return time.strftime(f"%a {of_day}", moment)
    return time.strftime(f"%d %b {of_day}" if moment[0] == today[0] else of_other_year, moment)
