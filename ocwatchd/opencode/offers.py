"""What the models that an OpenCode offers can take, asked at doors into project directories and kept for a while."""

from __future__ import annotations

from collections.abc import Iterable

from ocwatchd.core.capability import Capacity
from ocwatchd.core.views import Door
from ocwatchd.opencode.api import connect
from ocwatchd.opencode.http import DoorError

KEPT = 60.0
"""Seconds: the list has 1 to 300 kB, and changes when a person edits a configuration."""
MOST = 64

_asked: dict[tuple[Door, str], tuple[float, dict[str, Capacity]]] = {}


def offers_at(places: Iterable[tuple[Door, str]], now: float) -> dict[str, Capacity] | None:
    """By `provider/model`; None if no door could be asked, which forbids nothing."""
    found: dict[str, Capacity] = {}
    for door, directory in dict.fromkeys(places):
        at, offers = _asked.get((door, directory), (0.0, {}))
        if not offers or abs(now - at) > KEPT:
            try:
                offers = connect(door).capacities(directory)
            except DoorError:
                continue
            if len(_asked) >= MOST:
                _asked.clear()
            _asked[door, directory] = now, offers
        found |= offers
    return found or None
