"""Track how long each endpoint has left requests unanswered, so that callers do not wait for a stalled endpoint."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

MAX_REMEMBERED = 1024
"""Maximum number of tracked endpoints. The endpoint with the oldest request or response is dropped first."""


class Stalls:
    """Records how long each endpoint has left all its pending requests unanswered. Thread-safe.

    A response to any request shows that the process is not stalled. An OpenCode process under load responds to some
    requests while others wait, but a stopped process (SIGSTOP, a blocked event loop) responds to none.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        """`elapsed` returns the current monotonic time in seconds."""
        self._elapsed = elapsed
        self._owing: OrderedDict[Hashable, float] = OrderedDict()
        self._answered: OrderedDict[Hashable, float] = OrderedDict()
        self._asked: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def began(self, endpoint: Hashable) -> None:
        """Record that a request was sent. The caller must call `ended` when the request has finished."""
        with self._lock:
            self._asked[endpoint] += 1
            self._owing.setdefault(endpoint, self._elapsed())
            _bound(self._owing)

    def ended(self, endpoint: Hashable, *, answered: bool) -> None:
        """Record that a request has finished. `answered` is True for a response, a refused connection or an error, and
        False for a timeout.
        """
        with self._lock:
            self._asked[endpoint] -= 1
            waiting = self._asked[endpoint] > 0
            if not waiting:
                del self._asked[endpoint]
            if not waiting:
                self._owing.pop(endpoint, None)
            if not answered:
                return
            if waiting:
                self._owing[endpoint] = self._elapsed()
            self._answered[endpoint] = self._elapsed()
            self._answered.move_to_end(endpoint)
            _bound(self._answered)

    def stalled_for(self, endpoint: Hashable) -> float:
        """Return the number of seconds since the endpoint's last response, or since its first pending request was sent,
        whichever is later. Return 0 if no request is pending.
        """
        with self._lock:
            since = self._owing.get(endpoint)
            return 0.0 if since is None else self._elapsed() - since

    def answered_within(self, endpoint: Hashable, seconds: float) -> bool:
        """Return whether the endpoint has responded within the last `seconds` and has no pending request."""
        with self._lock:
            last = self._answered.get(endpoint)
            return last is not None and endpoint not in self._owing and self._elapsed() - last <= seconds


def _bound(table: OrderedDict[Hashable, float]) -> None:
    if len(table) > MAX_REMEMBERED:
        table.popitem(last=False)


STALLS = Stalls()
"""The instance that is shared by all requests that this process sends."""
