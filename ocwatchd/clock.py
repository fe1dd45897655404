"""Wall time behind a seam, and its one way of being written down: RFC 3339, UTC, milliseconds, `Z`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What acts takes a Clock; what decides takes `now`."""

    def now(self) -> float:
        """Epoch seconds."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()


def rfc3339(epoch: float) -> str:
    """Epoch seconds as `2026-11-22T10:08:53.256Z`, rounded to the millisecond."""
    moment = datetime.fromtimestamp(round(epoch * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """Epoch seconds of an RFC 3339 time; a time without a zone is taken as UTC.

    Raises:
        ValueError: not such a time.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
