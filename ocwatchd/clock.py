"""Read the wall clock, which tests can replace, and format times for files: RFC 3339, UTC, milliseconds, `Z`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of the current time. Code with side effects takes a Clock; pure code takes `now`."""

    def now(self) -> float:
        """Return the current time in epoch seconds."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> float:
        """Return the current time in epoch seconds."""
        return time.time()


def since_boot() -> float:
    """Return the seconds since boot, including sleep, on a clock that is never set.

    macOS has no `CLOCK_BOOTTIME`, but its `CLOCK_MONOTONIC` continues during sleep, unlike Python's `time.monotonic` on
    macOS.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def both_clocks(clock: Clock) -> tuple[float, float]:
    """Return the wall-clock time and the seconds since boot, read at the same time.

    The clocks are read again if the process was stopped between the two readings.
    """
    while True:
        before, now, after = since_boot(), clock.now(), since_boot()
        if after - before < 1.0:
            return now, after


FIRST, LAST = -62_135_596_800.0, 253_402_300_799.0
"""The first and the last epoch second that a date can represent, in UTC."""


def rfc3339(epoch: float) -> str:
    """Return epoch seconds as `2026-11-22T10:08:53.256Z`, rounded to the millisecond."""
    moment = datetime.fromtimestamp(round(epoch * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """Return the epoch seconds of an RFC 3339 time; a time without a zone is treated as UTC.

    Raises:
        ValueError: `text` is not an RFC 3339 time, or its zone moves it beyond the dates that `rfc3339` can write.
    """
    moment = datetime.fromisoformat(text)
    epoch = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not FIRST <= epoch <= LAST:
        raise ValueError(f"not a date in the years 1 to 9999: {text}")
    return epoch
