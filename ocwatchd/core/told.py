"""What somebody told about the end of a limit, before it is tamed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ocwatchd.core.limits import ToldBy


@dataclass(frozen=True, slots=True)
class Told:
    """A wait (`after`, seconds) or a moment (`until`, epoch seconds), as it was said. Neither: it could not be read."""

    source: str
    after: float | None = None
    until: float | None = None
    estimated: bool = False
    told_by: ToldBy = ToldBy.TEXT
