"""Fetch the capabilities of models from OpenCode's endpoints, and cache them per project directory.

When OpenCode starts, it loads its providers before it responds to requests. Each list is therefore fetched on its own
thread with a long timeout. Callers wait only a short time, and then continue without the list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import partial

from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.request import EndpointError

KEPT = 60.0
"""Time, in seconds, after which a cached list is fetched again. A list is 1 to 300 kB in size, and changes when the
configuration changes.
"""
LATER = 5.0
"""Delay, in seconds, before an outdated list is fetched again. Lists are needed just before a session is moved, and
fetching them immediately would delay the move.
"""
MAX_LISTS = 64
"""Maximum number of cached lists, and of simultaneous requests."""
CALL_TIMEOUT = 60.0
"""Timeout, in seconds, of a request. A cold start under load took up to 45 s (1.14.48)."""
WAIT = 3.0
"""Time, in seconds, for which callers wait for the response to a request. The slowest response of a healthy server took
2.4 s.
"""


class Offers:
    """A cache of the capabilities of models, by endpoint and directory. Thread-safe."""

    def __init__(self, patience: float = CALL_TIMEOUT, wait: float = WAIT, later: float = LATER) -> None:
        """All arguments are in seconds: `patience` is the timeout of a request, `wait` is the time for which a caller
        waits for the response, and `later` is the delay before an outdated list is fetched again.
        """
        self._patience, self._wait, self._later = patience, wait, later
        self._known: dict[tuple[Endpoint, str], tuple[float, dict[str, Capacity]]] = {}
        self._asked: dict[tuple[Endpoint, str], float] = {}
        self._news = threading.Condition()

    def at(self, places: Iterable[tuple[Endpoint, str]], now: float) -> dict[str, Capacity] | None:
        """Return the last reported capacities by `provider/model`. Return None if no list has arrived in time.

        A cached list is returned immediately. If it is outdated, it is fetched again afterward.
        """
        wanted = list(dict.fromkeys(places))
        with self._news:
            for place in wanted:
                self._ask(place, now)
            for place in wanted:
                left = self._asked.get(place, 0.0) + self._wait - time.monotonic()
                self._news.wait_for(partial(self._settled, place), max(left, 0.0))
            found = [self._known[place][1] for place in wanted if place in self._known]
        return {model: capacity for offers in found for model, capacity in offers.items()} or None

    def _settled(self, place: tuple[Endpoint, str]) -> bool:
        return place not in self._asked or place in self._known

    def _ask(self, place: tuple[Endpoint, str], now: float) -> None:
        at, offers = self._known.get(place, (0.0, {}))
        if place in self._asked or len(self._asked) >= MAX_LISTS or (offers and abs(now - at) <= KEPT):
            return
        self._asked[place] = time.monotonic()
        later = self._later if offers else 0.0
        threading.Thread(target=self._answer, args=(place, now, later), name="offers", daemon=True).start()

    def _answer(self, place: tuple[Endpoint, str], now: float, later: float) -> None:
        time.sleep(later)
        endpoint, directory = place
        offers: dict[str, Capacity] = {}
        try:
            offers = dict(client_of(endpoint, limit=self._patience).capacities(directory))
        except EndpointError:
            pass  # the next caller sends the request again
        finally:
            with self._news:
                if len(self._known) >= MAX_LISTS and place not in self._known:
                    self._known.clear()
                if offers:
                    self._known[place] = now, offers
                self._asked.pop(place, None)
                self._news.notify_all()


offers_at = Offers().at
"""The method `Offers.at` of the instance that the whole process shares."""
