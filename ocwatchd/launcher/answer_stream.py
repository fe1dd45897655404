"""Follow a session after its first move: print its output, answer its questions as `run` does, and detect when its turn
has ended.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Protocol

from ocwatchd.clock import Clock
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.errors import ExitCode
from ocwatchd.launcher.output import Printer
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.sessions.snapshots import take_snapshot

SETTLED = 3.0
"""Time, in seconds, for which a turn must have been in an error state before it is treated as over. The engine may move
the session during this time.
"""
MAX_FAULTS = 20
"""Number of consecutive failed requests after which the server is considered dead."""


class Polled(Protocol):
    """Prints the output of a session."""

    def poll(self) -> None:
        """Print new output.

        Raises:
            EndpointError: The endpoint does not respond.
        """
        ...


class Served(ABC):
    """A session that the launcher follows in place of the session's client. The launcher starts following the session
    before the prompt is run.
    """

    def __init__(self, session: Session, printer: Polled) -> None:
        """Store the arguments. No request is sent yet."""
        self.session = session
        self.failed: SessionSnapshot | None = None
        """The last snapshot of the turn if the turn has failed. None while the turn is running, and after it has
        succeeded.
        """
        self._printer = printer
        self._faults, self._failed_at = 0, 0.0

    def poll(self) -> SessionSnapshot | None:
        """Print new output and answer questions. Return the current snapshot, or None if the server did not respond.

        Raises:
            EndpointError: The server has failed so often that it is considered dead.
        """
        try:
            self._printer.poll()
            snapshot = self._answer_and_probe()
        except EndpointError:
            self._faults += 1
            if self._faults >= MAX_FAULTS:
                raise
            return None
        self._faults = 0
        return snapshot

    def ended(self, snapshot: SessionSnapshot) -> int | None:
        """Return the exit code if the turn has ended with an answer or a permanent error, or None while it is
        running.
        """
        if snapshot.state is SessionState.IDLE and snapshot.answer_completed and not snapshot.queued:
            self._printer.poll()
            return ExitCode.DONE
        if snapshot.state is not SessionState.ERROR:
            self.failed = None
            return None
        if self.failed is None:
            self.failed, self._failed_at = snapshot, time.monotonic()
        if time.monotonic() - self._failed_at < SETTLED:
            return None
        self._print_error(snapshot.last_error)
        return ExitCode.FAILED

    @abstractmethod
    def _answer_and_probe(self) -> SessionSnapshot:
        """Answer open questions and return the current snapshot."""

    @abstractmethod
    def _print_error(self, error: ErrorDetails | None) -> None:
        """Print the error that ended the turn. `error` is None if the turn was stopped."""


class ServedPrivately(Served):
    """A session in a private server of OpenCode 1 that is already responding."""

    def __init__(self, endpoint: Endpoint, session: Session, printer: Printer, allow: bool, clock: Clock) -> None:
        """With `allow`, permissions are granted; otherwise they are refused, because no user can be asked."""
        super().__init__(session, printer)
        self._api, self._allow, self._clock = Api(endpoint), allow, clock
        self._print = printer.error

    def _answer_and_probe(self) -> SessionSnapshot:
        for question in self._api.questions(self.session):
            self._api.reply(question, self._allow, self.session)
        return take_snapshot(self._api, self.session, self._clock, questions=False)

    def _print_error(self, error: ErrorDetails | None) -> None:
        message = error.message if error else "stopped"
        self._print(message, {"name": error.name if error else None, "data": {"message": message}})
