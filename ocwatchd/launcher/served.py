"""The session after its first move: its words are printed, its questions answered as `run` does, its end is seen."""

from __future__ import annotations

import time

from ocwatchd.clock import Clock
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.errors import ExitCode
from ocwatchd.launcher.output import Printer
from ocwatchd.opencode.answers import Session
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.look import look

SETTLED = 3.0
"""Seconds that an error has to stand before it is taken for the end: the engine may be about to move the session."""
MOST_FAULTS = 20
"""Failed calls in a row after which the private server counts as dead."""


class Served:
    """One session in the private server. Made when that answers, before anything is run in it."""

    def __init__(self, door: Door, session: Session, printer: Printer, allow: bool, clock: Clock) -> None:
        """`allow`: permissions are granted; else they are refused, because nobody is there to be asked."""
        self.session = session
        self.failed: SessionView | None = None
        """The session as its turn failed; None while it runs, or has ended well."""
        self._api, self._allow, self._clock = Api(door), allow, clock
        self._printer = printer
        self._faults, self._failed_at = 0, 0.0

    def look(self) -> SessionView | None:
        """Print what is new, answer what is asked; the session now, None if it cannot be seen.

        Raises:
            DoorError: the server has been failing for so long that it is dead.
        """
        try:
            self._printer.poll()
            for question in self._api.questions(self.session):
                self._api.reply(question, self._allow, self.session)
            view = look(self._api, self.session, self._clock, questions=False)
        except DoorError:
            self._faults += 1
            if self._faults >= MOST_FAULTS:
                raise
            return None
        self._faults = 0
        return view

    def ended(self, view: SessionView) -> int | None:
        """The exit code, if the turn has come to an end of its own: an answer, or an error that stands."""
        if view.state is SessionState.IDLE and view.answer_completed and not view.queued:
            self._printer.poll()
            return ExitCode.DONE
        if view.state is not SessionState.ERROR:
            self.failed = None
            return None
        if self.failed is None:
            self.failed, self._failed_at = view, time.monotonic()
        if time.monotonic() - self._failed_at < SETTLED:
            return None
        error = view.last_error
        message = error.message if error else "stopped"
        self._printer.error(message, {"name": error.name if error else None, "data": {"message": message}})
        return ExitCode.FAILED
