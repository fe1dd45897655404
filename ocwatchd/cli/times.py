"""Parse the times that users type: `--for 1h30m`, `--until 14:20`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ocwatchd.errors import UsageError

LONGEST = 10 * 366 * 86400.0
"""Maximum duration, in seconds, of a block with --for or --until. Without these options, a block has no end time."""

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(seconds?|sec|s|minutes?|min|m|hours?|h|days?|d|weeks?|w)", re.IGNORECASE)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def seconds_of(text: str) -> float:
    """Return a duration in seconds: `90s`, `15m`, `1h30m`, `2 days`.

    Raises:
        UsageError: The text is not a duration, or the duration is zero or more than ten years.
    """
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise UsageError(f"{text!r} is not a valid duration. Use 90s, 15m, 1h30m or 2d")
    total = sum(float(number) * _UNITS[unit[0].lower()] for number, unit in parts)
    if not 0 < total <= LONGEST:
        raise UsageError(f"{text!r} is out of range: use more than 0 seconds and at most ten years")
    return total


def moment_of(text: str, now: float) -> float:
    """Return a future time in epoch seconds: `14:20` (the next one), `2026-11-22 14:20` (local), or RFC 3339.

    Raises:
        UsageError: The text is not a time, or the time is in the past or more than ten years ahead.
    """
    found = _clock(text.strip(), now) or _calendar(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a valid time. Use 14:20, '2026-11-22 14:20' or 2026-11-22T14:20:00Z")
    if not now < found <= now + LONGEST:
        raise UsageError(f"{text!r} is out of range: use a time in the next ten years")
    return found


def since_of(text: str, now: float) -> float:
    """Return a past time in epoch seconds: `2h` (ago), `14:20` (the last one), `2026-11-22 14:20` (local), or RFC 3339.

    Raises:
        UsageError: The text is not a time, or the time is in the future.
    """
    if _PART.search(text) and not _PART.sub("", text).strip():
        return now - seconds_of(text)
    coming = _clock(text.strip(), now)
    found = _calendar(text.strip()) if coming is None else coming if coming <= now else _day_before(coming)
    if found is None:
        raise UsageError(f"{text!r} is not a valid time. Use 2h, 14:20, '2026-11-22 14:20' or 2026-11-22T14:20:00Z")
    if found > now:
        raise UsageError(f"{text!r} is out of range: use a time in the past")
    return found


def _day_before(epoch: float) -> float:
    return (datetime.fromtimestamp(epoch) - timedelta(days=1)).timestamp()


def _clock(text: str, now: float) -> float | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    today = datetime.fromtimestamp(now).astimezone()
    moment = today.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0, tzinfo=None)
    if moment.timestamp() <= now:
        # add a day in local time, so that the time of day is the same after daylight saving time ends
        moment += timedelta(days=1)
    return moment.timestamp()


def _calendar(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()  # a time without a zone is local time, as users expect
    except (ValueError, OverflowError, OSError):
        return None
