"""A pool of daemon threads for blocking work, divided into lanes.

A lane is a group of related tasks, such as those of one endpoint, and uses only a few threads. An endpoint that hangs
with thirty sessions therefore delays only its own tasks. The tasks of a busy lane wait in order of arrival. The threads
do not keep the process from exiting.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping

Work = Callable[[], None]

IDLE_TIMEOUT = 20.0
"""Time, in seconds, after which an idle thread exits. Without this timeout, the forty threads started by a burst of
limits kept 4 MiB of memory.
"""


class Workers:
    """A pool of threads. `submit` never blocks. Submitted functions must not raise, because an exception would end the
    thread.
    """

    def __init__(
        self, most: int, lanes: Mapping[Hashable, int], per_lane: int, idle_timeout: float = IDLE_TIMEOUT
    ) -> None:
        """Allow at most `most` threads in total. A lane may use `lanes[lane]` threads, or `per_lane` threads if it is
        not listed.
        """
        self._most, self._lanes, self._per_lane, self._idle_timeout = most, lanes, per_lane, idle_timeout
        self._waiting: deque[tuple[Hashable, Work]] = deque()
        self._busy: dict[Hashable, int] = {}
        self._idle = self._threads = 0
        self._closed = False
        self._news = threading.Condition()

    def submit(self, lane: Hashable, work: Work) -> None:
        """Run the work as soon as its lane and a thread are free. After `close` was called, the work is discarded."""
        with self._news:
            if self._closed:
                return
            self._waiting.append((lane, work))
            if len(self._waiting) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name=f"ocwatchd {self._threads}", daemon=True).start()
            self._news.notify()

    def close(self, patience: float = 0.0, awaited: Callable[[Hashable], bool] = bool) -> None:
        """Discard all waiting work, and wait up to `patience` seconds for running work in the lanes `awaited`."""
        with self._news:
            self._closed = True
            self._waiting.clear()
            self._news.notify_all()
            self._news.wait_for(lambda: not any(map(awaited, self._busy)), patience)

    def _serve(self) -> None:
        while True:
            with self._news:
                self._idle += 1
                called = True
                while (taken := self._next()) is None and called and not self._closed:
                    called = self._news.wait(self._idle_timeout)
                self._idle -= 1
                if taken is None:
                    self._threads -= 1
                    return
                lane, work = taken
                self._busy[lane] = self._busy.get(lane, 0) + 1
            try:
                work()
            finally:
                with self._news:
                    self._busy[lane] -= 1
                    if not self._busy[lane]:
                        del self._busy[lane]
                    # the next task of this lane, or `close`, may be waiting for this notification
                    self._news.notify_all()

    def _next(self) -> tuple[Hashable, Work] | None:
        for index, (lane, _) in enumerate(self._waiting):
            if self._busy.get(lane, 0) < self._lanes.get(lane, self._per_lane):
                taken = self._waiting[index]
                del self._waiting[index]
                return taken
        return None
