"""Run the daemon's blocking work on worker threads. Results are posted to the daemon's queue.

The work is divided into lanes: groups of threads, each with its own maximum size, so that slow work in one lane does
not delay the other lanes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic

from ocwatchd.core.engine.messages import Failure, Message
from ocwatchd.daemon.faults import Faults
from ocwatchd.workers import Workers

Post = Callable[[Message | Failure], None]
"""A function that passes a message to the engine's thread. It is called from worker threads."""

MAX_THREADS, PER_ENDPOINT, MAX_PROBES = 96, 8, 32
"""Maximum number of threads: in total, per endpoint, and for probes. Threads mostly wait for OpenCode. In a test with 8
threads in total, hung endpoints delayed a session at a working endpoint by 20 s.
"""
PROBES, ENDPOINTS, FILES, NOTICES = "probes", "endpoints", "files", "notices"
"""Names of the shared lanes. In addition, each endpoint has its own lane, identified by its address."""
LAST_MOVES = 3.0
"""Time, in seconds, that moves in progress are given to finish at shutdown. A move takes 0.3 to 0.7 s, and the whole
shutdown must take at most 5 s.
"""

log = logging.getLogger(__name__)


class WorkerLanes:
    """Runs blocking work. An exception in one task is recorded and does not affect other tasks."""

    def __init__(self, post: Post, faults: Faults) -> None:
        """`post` receives the results, and `faults` records internal errors."""
        self._post, self._faults = post, faults
        self._workers = Workers(MAX_THREADS, {PROBES: MAX_PROBES, NOTICES: 1}, PER_ENDPOINT)

    def submit(
        self, lane: Hashable, what: str, work: Callable[[], None], failed: Callable[[Exception], Message] | None = None
    ) -> None:
        """Run `work` as soon as its lane has a free thread. If it raises, post the message that `failed` returns.

        `failed` is required if the engine waits for the result; otherwise, the engine would never handle that session
        again. `what` names the work in fault reports.
        """
        self._workers.submit(lane, partial(self._guarded, what, work, failed))

    def measure(self, work: Callable[[], Message]) -> None:
        """Run `work`, which reads files, and post the message that it returns."""
        self.submit(FILES, "measuring", lambda: self._post(work()))

    def close(self) -> None:
        """Start no new work, but give moves in progress up to `LAST_MOVES` seconds to finish, because an interrupted
        move would leave its turn stopped.
        """
        self._workers.close(LAST_MOVES, lambda lane: not isinstance(lane, str))

    def _guarded(self, what: str, work: Callable[[], None], failed: Callable[[Exception], Message] | None) -> None:
        began = monotonic()
        try:
            work()
        except Exception as fault:
            self._faults.note(what, fault)
            if failed is not None:
                self._post(failed(fault))
        finally:
            log.debug("%s took %.3f s", what, monotonic() - began)
