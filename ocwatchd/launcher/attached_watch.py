"""Watch a `run` that is a client of a server: `run --attach URL` of OpenCode 1, and every `run` of OpenCode 2.

This is the counterpart of `TroubleSigns`. It is just as cheap, because the code that queries the server is not imported
before the first request.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.trouble_signs import LONG_RUN

if TYPE_CHECKING:
    from ocwatchd.launcher.attached_server import AttachedServer
    from ocwatchd.launcher.service_run import RunService

CHECK_INTERVAL = 1.0
"""Interval, in seconds, between checks of the server. The imports for the first check cost 70 ms of CPU time."""


LONG_RUN_CHECK_INTERVAL = 10.0
"""Interval, in seconds, between checks of whether a daemon handles the session of a client that has been running for
LONG_RUN seconds. A check reads the journal.
"""


class Attached:
    """Watches the session of a client through its server."""

    def __init__(self, arguments: Arguments, state: str, generation: int = 1) -> None:
        """Store the arguments. No request is sent yet. `state` is our state directory; `generation` is the generation
        of OpenCode.
        """
        self._arguments, self._state, self._generation = arguments, state, generation
        self._child = 0
        self.began = time.time()
        self._checked_at = time.monotonic()
        self._long_run_check = self._checked_at + LONG_RUN
        """Time, in monotonic seconds, of the next check for a long run."""
        self._server: AttachedServer | None = None
        self._service: RunService | None = None

    def started(self, child: int) -> None:
        """Record the pid of the child to watch."""
        self._child, self._long_run_check = child, time.monotonic() + LONG_RUN

    @property
    def service(self) -> RunService | None:
        """Return the interface to an OpenCode 2 server, or None for OpenCode 1."""
        if self._generation == 1:
            return None
        if self._service is None:
            from ocwatchd.launcher.service_run import RunService  # lazy import: most runs end before the first request

            self._service = RunService(self._arguments, self._state, self.began, self._child)
        return self._service

    @property
    def server(self) -> AttachedServer | None:
        """Return the interface to an OpenCode 1 server, or None for OpenCode 2."""
        if self._generation != 1:
            return None
        if self._server is None:
            # lazy import: most runs end before the first request
            from ocwatchd.launcher.attached_server import AttachedServer

            self._server = AttachedServer(self._arguments, self._state, self.began)
        return self._server

    def new_facts(self) -> dict[str, int]:
        """Return an empty mapping. A client has no plugin reports, because its server sends the model requests."""
        return {}

    def troubled(self) -> bool:
        """Return whether our session is waiting in OpenCode's own retry without a daemon to handle it.

        For OpenCode 1, also return True if no daemon handles the session and the client has been running for so long
        that its answer may have stalled.
        """
        if time.monotonic() - self._checked_at < CHECK_INTERVAL:
            return False
        self._checked_at = time.monotonic()
        asked = self.service or self.server
        return asked is not None and (asked.retrying() or self._may_have_stalled())

    def _may_have_stalled(self) -> bool:
        if self.server is None or time.monotonic() < self._long_run_check:
            return False
        self._long_run_check = time.monotonic() + LONG_RUN_CHECK_INTERVAL
        return self.server.unwatched()

    def failed(self) -> bool:
        """Return whether the turn of our session has ended in an error. Call this after the child has ended."""
        asked = self.service or self.server
        return asked is not None and asked.in_error()

    def moved(self) -> float | None:
        """Return the time, in epoch seconds, at which the daemon claimed a move of our session, or None if it has not
        claimed one.
        """
        journal = f"{self._state}/journal.jsonl"
        if not os.path.exists(journal) or os.stat(journal).st_mtime < self.began:
            return None
        return self.server.claimed() if self.server is not None else None
