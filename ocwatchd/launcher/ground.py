"""Where the session of a watched `run` lives: in the child and then a private server, or in the server of a client.

The brain is the same for both; only whom it asks, and where the session goes on, differ.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ocwatchd.clock import Clock
from ocwatchd.core.moves import Order
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.launcher.elsewhere import Elsewhere
from ocwatchd.launcher.own import OwnFacts, OwnProcesses, failed_view
from ocwatchd.launcher.run import Run
from ocwatchd.opencode.api import connect
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.private import private_server
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Findings, Look, Surveyor
from ocwatchd.paths import Paths


class Ground(Protocol):
    """What the supervisor has to know of the place."""

    finder: DoorFinder
    surveyor: Look
    facts: OwnFacts

    def server(self, directory: str) -> AbstractContextManager[Door]:
        """The server in which the session goes on once the child has ended.

        Raises:
            OpenCodeUnreachable: on entering, if it does not start.
        """
        ...

    def order(self, order: Order) -> Order:
        """A move as it is to be made there."""
        ...

    def failed(self, known: Sequence[str], /) -> SessionView | None:
        """The session of a child that has ended, if its turn has failed. `known`: sessions heard of."""
        ...

    def anothers(self) -> bool:
        """Whether the daemon has come to see to this session."""
        ...

    def abandon(self) -> None:
        """Nobody waits for the answer any more, and nothing is to go on asking."""
        ...

    def close(self) -> None:
        """Start nothing any more. Thread-safe."""
        ...


class OwnGround:
    """A child that serves itself. What it was started with, its private server gets as well."""

    def __init__(self, run: Run, paths: Paths, clock: Clock, started: Callable[[int], None]) -> None:
        """`started` is told of the private server's pid."""
        own = OwnProcesses(run.child.pid)
        self._run, self._started, self._clock = run, started, clock
        self._store = SessionStore(paths.opencode_data)
        self._lock, self._closed = threading.Lock(), False
        self.finder = DoorFinder(paths.opencode_data, sockets=paths.doors, environ={**os.environ}, processes=own)
        self.surveyor: Look = Surveyor(self.finder, self._store, clock=clock)
        self.facts = OwnFacts(paths.facts, own.holds)

    def server(self, directory: str) -> AbstractContextManager[Door]:
        """As every ground."""
        run = self._run
        environ = {**os.environ, **run.environ}
        options = ["--pure"] if run.arguments.has("--pure") else []
        return private_server(Path(run.program), directory, environ, self._started, options, gate=self._gate())

    def order(self, order: Order) -> Order:
        """Nothing runs there yet: the old turn was stopped with its process."""
        return replace(order, own_abort=True, child=None, looping=False)

    def failed(self, known: Sequence[str], /) -> SessionView | None:
        """As the message store shows it."""
        run = self._run
        return failed_view(self._store, known or self.facts.sessions, run.child.pid, run.began, self._clock.now())

    def anothers(self) -> bool:
        """Never: the daemon knows its launcher."""
        return False

    def abandon(self) -> None:
        """It ends with its process."""

    def close(self) -> None:
        """What has not been started by now never is."""
        with self._lock:
            self._closed = True

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """A server that a worker started while we end would stay behind."""
        with self._lock:
            if self._closed:
                raise OpenCodeUnreachable("oc-smart ends")
            yield


class ServersGround:
    """A client of another server, in which the session stays."""

    def __init__(self, server: Elsewhere, paths: Paths) -> None:
        """`server` knows its session."""
        self._server = server
        self.finder = DoorFinder(paths.opencode_data, urls=[server.url], environ=server.environ, processes=tuple)
        self.surveyor: Look = _OneSession(server)
        self.facts = OwnFacts(paths.facts, lambda _: False)

    def server(self, directory: str) -> AbstractContextManager[Door]:
        """It runs, and goes on doing so."""
        assert self._server.door is not None
        return nullcontext(replace(self._server.door, directory=directory))

    def order(self, order: Order) -> Order:
        """The turn waits in there as it did."""
        return order

    def failed(self, _: Sequence[str], /) -> SessionView | None:
        """As the server shows it."""
        view = next(iter(self.surveyor.stuck().views), None)
        return view if view and view.state is SessionState.ERROR and not view.aborted else None

    def anothers(self) -> bool:
        """A daemon that was started since has it in its care."""
        return self._server.left_to_daemon()

    def abandon(self) -> None:
        """The server would go on asking for nobody."""
        server = self._server
        if server.door is not None and server.session is not None:
            with suppress(DoorError):
                connect(server.door).abort(server.session.id, server.session.directory)

    def close(self) -> None:
        """Nothing is ever started here."""


class _OneSession:
    """The one session that is ours, and its subagents; others of that server are others' affair."""

    def __init__(self, server: Elsewhere) -> None:
        self._server = server

    def session(self, ident: str) -> Findings:
        return self._server.findings(ident)

    def stuck(self) -> Findings:
        found = self._server.findings()
        return replace(found, views=tuple(view for view in found.views if view.stuck))
