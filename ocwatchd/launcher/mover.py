"""Moves the session of an `opencode run`: its process is ended, and a server goes on with the same prompt.

An abort would make `run` end with code 0 and no answer (1.0 - 1.18), so the first move takes the process's place: in a
private server, or, of a client (`--attach`), in the one where the session lives. All later ones go through it too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ocwatchd.clock import Clock
from ocwatchd.core.guards import forbidden
from ocwatchd.core.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.views import Door
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.launcher.child import Child
from ocwatchd.launcher.ground import Ground
from ocwatchd.opencode.answers import Session
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.look import look
from ocwatchd.redirect import RerunOverApi


class RunMover:
    """A `Mover` for the one session of a child. `close` ends the private server."""

    name = "run"

    def __init__(self, child: Child, ground: Ground, clock: Clock, opened: Callable[[Door, Session], None]) -> None:
        """`opened` is called once, when the server answers and before anything is run in it."""
        self._child, self._ground, self._clock, self._opened = child, ground, clock, opened
        self._rerun, self._held = RerunOverApi(), ExitStack()
        self.door: Door | None = None
        self.taken_over = False
        """The child's end is ours, not its own."""

    def move(self, order: Order) -> MoveOutcome:
        """As every mover. What ends the child has been checked through its own door before."""
        if self.door is not None:
            return self._on_server(order)
        refused = self._refusal(order) if self._child.poll() is None else None
        if refused is not None:
            return refused
        self.taken_over = True
        self._child.end()
        try:
            self.door = self._held.enter_context(self._ground.server(order.view.directory))
        except OpenCodeUnreachable as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, stranded=True)
        try:
            view = order.view
            self._opened(self.door, Session(view.session, view.directory, view.parent, view.version))
        except DoorError as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, stranded=True)
        return self._on_server(self._ground.order(order))

    def close(self) -> None:
        """End the private server, if there is one."""
        self._held.close()

    def _on_server(self, order: Order) -> MoveOutcome:
        assert self.door is not None
        return self._rerun.move(replace(order, view=replace(order.view, door=self.door)))

    def _refusal(self, order: Order) -> MoveOutcome | None:
        """Why the child is left alone; None to end it."""
        view, target = order.view, order.target
        try:
            api = Api(view.door)
            if not api.knows(target.model, view.directory):
                return MoveOutcome(MoveResult.FAILED, f"OpenCode knows no model {target.model}", view)
            if target.agent and target.agent not in api.agents(view.directory):
                return MoveOutcome(MoveResult.FAILED, f"OpenCode knows no agent {target.agent}", view)
            statuses = api.status(view.directory)
            now = look(api, Session(view.session, view.directory, view.parent, view.version), self._clock, statuses)
        except DoorError as fault:
            if self._child.poll() is not None:
                return None
            return MoveOutcome(MoveResult.FAILED, str(fault), None)
        retrying = frozenset(name for name, status in statuses.items() if status.type == "retry")
        busy = frozenset(name for name, status in statuses.items() if status.type == "busy")
        ruling = forbidden(order, now, retrying, busy)
        return MoveOutcome(ruling.result, ruling.why, now) if ruling else None
