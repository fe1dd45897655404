"""What the models that an OpenCode offers can take, asked at doors into project directories and kept for a while.

A starting OpenCode loads its providers before it answers. So each list is asked for on a thread of its own, with much
patience, and nobody waits for it for long: a look goes on without.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import partial

from ocwatchd.core.capability import Capacity
from ocwatchd.core.views import Door
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError

KEPT = 60.0
"""Seconds: the list has 1 to 300 kB, and changes when a person edits a configuration."""
MOST = 64
PATIENCE = 60.0
"""Seconds that OpenCode gets to answer; a cold start under load took up to 45 s (1.14.48)."""
WAIT = 3.0
"""Seconds from the question on that somebody waits for the answer: 2.4 s was the slowest of a healthy server."""


class Offers:
    """Lists by door and directory; each is asked for once at a time. Thread-safe."""

    def __init__(self, patience: float = PATIENCE, wait: float = WAIT) -> None:
        """Both in seconds."""
        self._patience, self._wait = patience, wait
        self._known: dict[tuple[Door, str], tuple[float, dict[str, Capacity]]] = {}
        self._asked: dict[tuple[Door, str], float] = {}
        self._news = threading.Condition()

    def at(self, places: Iterable[tuple[Door, str]], now: float) -> dict[str, Capacity] | None:
        """By `provider/model`, as last told; None if no door has told in time, which forbids nothing."""
        wanted = list(dict.fromkeys(places))
        with self._news:
            for place in wanted:
                self._ask(place, now)
            for place in wanted:
                left = self._asked.get(place, 0.0) + self._wait - time.monotonic()
                self._news.wait_for(partial(self._settled, place), max(left, 0.0))
            found = [self._known[place][1] for place in wanted if place in self._known]
        return {model: capacity for offers in found for model, capacity in offers.items()} or None

    def _settled(self, place: tuple[Door, str]) -> bool:
        return place not in self._asked

    def _ask(self, place: tuple[Door, str], now: float) -> None:
        at, offers = self._known.get(place, (0.0, {}))
        if place in self._asked or len(self._asked) >= MOST or (offers and abs(now - at) <= KEPT):
            return
        self._asked[place] = time.monotonic()
        threading.Thread(target=self._answer, args=(place, now), name="offers", daemon=True).start()

    def _answer(self, place: tuple[Door, str], now: float) -> None:
        door, directory = place
        offers: dict[str, Capacity] = {}
        try:
            offers = Api(door, self._patience).capacities(directory)
        except DoorError:
            pass  # asked again with the next look
        finally:
            with self._news:
                if len(self._known) >= MOST and place not in self._known:
                    self._known.clear()
                if offers:
                    self._known[place] = now, offers
                self._asked.pop(place, None)
                self._news.notify_all()


offers_at = Offers().at
"""What this process has asked."""
