"""`run --attach URL`, watched as lightly as any `run`: what it takes to ask its server is imported at the first look.

Stands where a `Sentinel` stands for a child that serves itself.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ocwatchd.launcher.arguments import Arguments

if TYPE_CHECKING:
    from ocwatchd.launcher.elsewhere import Elsewhere

LOOK = 1.0
"""Seconds between looks at the server. The first costs 70 CPU ms of imports, each further one a request."""


class Attached:
    """The client's session in its server, seen from outside."""

    def __init__(self, arguments: Arguments, state: str) -> None:
        """`state` is our own directory. Nothing is asked yet."""
        self._arguments, self._state = arguments, state
        self.child = 0
        self.began = time.time()
        self._looked = time.monotonic()
        self._server: Elsewhere | None = None

    @property
    def server(self) -> Elsewhere:
        """What can be asked."""
        if self._server is None:
            from ocwatchd.launcher.elsewhere import Elsewhere  # late: most runs end before the first look

            self._server = Elsewhere(self._arguments, self._state, self.began)
        return self._server

    def new_facts(self) -> dict[str, int]:
        """None: the requests are made in the server."""
        return {}

    def troubled(self) -> bool:
        """Whether our session waits in OpenCode's own retry, and that is ours to see to."""
        if time.monotonic() - self._looked < LOOK:
            return False
        self._looked = time.monotonic()
        return self.server.retrying()

    def failed(self) -> bool:
        """Whether our session's turn has ended in an error. For the child's end."""
        return self.server.in_error()

    def moved(self) -> float | None:
        """When the daemon claimed a move of our session, epoch seconds; None if it has not."""
        journal = f"{self._state}/journal.jsonl"
        if not os.path.exists(journal) or os.stat(journal).st_mtime < self.began:
            return None
        return self.server.claimed()
