"""Threads for work that blocks: none of it delays the end of the process, and no neighbour takes all of them.

Work of one lane, such as one door, is done by a few threads at most: a door that hangs with thirty sessions holds up
its own. Work that found no thread waits in its lane, first come, first served.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping

Work = Callable[[], None]

REST = 20.0
"""Seconds without work after which a thread ends: forty that a storm had called stayed for good, 4 MiB of them."""


class Workers:
    """`submit` never blocks. The work must not raise: its thread would end with it."""

    def __init__(self, most: int, lanes: Mapping[Hashable, int], per_lane: int, rest: float = REST) -> None:
        """At most so many threads in all, and so many at work in one lane: as `lanes` says, or else `per_lane`."""
        self._most, self._lanes, self._per_lane, self._rest = most, lanes, per_lane, rest
        self._waiting: deque[tuple[Hashable, Work]] = deque()
        self._busy: dict[Hashable, int] = {}
        self._idle = self._threads = 0
        self._closed = False
        self._news = threading.Condition()

    def submit(self, lane: Hashable, work: Work) -> None:
        """Do this as soon as its lane and a thread are free; after `close`, nothing."""
        with self._news:
            if self._closed:
                return
            self._waiting.append((lane, work))
            if len(self._waiting) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name=f"ocwatchd {self._threads}", daemon=True).start()
            self._news.notify()

    def close(self, patience: float = 0.0, awaited: Callable[[Hashable], bool] = bool) -> None:
        """Begin nothing new; give what is under way in `awaited` lanes so many seconds to end."""
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
                    called = self._news.wait(self._rest)
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
                    self._news.notify_all()  # the next of this lane may have been waiting for it, or `close`

    def _next(self) -> tuple[Hashable, Work] | None:
        for index, (lane, _) in enumerate(self._waiting):
            if self._busy.get(lane, 0) < self._lanes.get(lane, self._per_lane):
                taken = self._waiting[index]
                del self._waiting[index]
                return taken
        return None
