"""The hosts of a watched `run`'s session, and the mover of that session.

A session runs in the child and later in a private server, but a client's session remains in the client's server. The
hosts differ in the endpoint that is probed and in the server that continues the session; the engine is the same.

An abort would make `run` exit with code 0 and without an answer (1.0 to 1.18). The first move therefore ends the
process, and a server continues with the same prompt: a private server or, for a client (`--attach`), the session's own
server. All later moves also use that server.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ocwatchd.clock import Clock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, UnixAddress
from ocwatchd.core.engine.guards import forbidden
from ocwatchd.core.engine.messages import TroubleReported
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.attached_server import AttachedServer
from ocwatchd.launcher.child import Child
from ocwatchd.launcher.service_run import RunService
from ocwatchd.launcher.signals import Signals
from ocwatchd.launcher.stdout import Output
from ocwatchd.movers.preflight import unknown_target
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import STARTING_LIMIT, Api, connect
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.discovery.endpoints import EndpointFinder, OpenCodeProcess, ProcessTable
from ocwatchd.opencode.discovery.probes import Findings, Prober, Report, SessionProbe
from ocwatchd.opencode.process.process_tree import descends
from ocwatchd.opencode.process.temporary_server import private_server
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.snapshots import snapshot_of, take_snapshot
from ocwatchd.paths import Paths
from ocwatchd.state.plugin_reports import PluginReports


@dataclass(frozen=True, slots=True)
class Run:
    """A started `opencode run`.

    `environ` contains the variables set in addition to our own environment. `asked` is the model that the user
    requested. `began` is the start time in epoch seconds. `server` is the server to which an OpenCode 1 client is
    attached. `service` is the server of an OpenCode 2 client.
    """

    child: Child
    signals: Signals
    output: Output
    program: str
    environ: Mapping[str, str]
    arguments: Arguments
    asked: str | None
    began: float
    server: AttachedServer | None = None
    service: RunService | None = None


class OwnProcesses:
    """The OpenCode processes that this launcher started: the child and the private server."""

    def __init__(self, child: int) -> None:
        """Store the child's pid, which counts as ours even after the child has exited."""
        self._child, self._table = child, ProcessTable()

    def __call__(self) -> Iterable[OpenCodeProcess]:
        """Return the processes that are still running. They are not marked as a `run`, so that their sessions can be
        moved.
        """
        return [replace(found, runs_once=False) for found in self._table() if self.holds(found.pid)]

    def holds(self, pid: int) -> bool:
        """Return whether this launcher started the process."""
        return pid == self._child or descends(pid, frozenset((os.getpid(),)))


class OwnPluginReports(PluginReports):
    """The companion plugin's reports from our own processes, read from their beginning.

    `sessions` contains the ids of the sessions in the reports.
    """

    def __init__(self, directory: Path, own: Callable[[int], bool]) -> None:
        """Store the arguments without reading. `own` returns whether a pid belongs to one of our processes."""
        self._own = own
        self._judged: dict[str, bool] = {}
        self._ready = False
        self.sessions: list[str] = []
        super().__init__(directory)
        self._ready = True

    def poll(self) -> Sequence[TroubleReported]:
        """Return the refused attempts reported since the last call. The daemon handles all other reports."""
        found = [report for report in super().poll() if isinstance(report, TroubleReported)]
        self.sessions += [report.session for report in found if report.session not in self.sessions]
        return found

    def _files(self) -> list[Path]:
        return [path for path in super()._files() if self._mine(path)] if self._ready else []

    def _mine(self, path: Path) -> bool:
        if path.stem not in self._judged:
            self._judged[path.stem] = path.stem.isdecimal() and self._own(int(path.stem))
        return self._judged[path.stem]


def failed_snapshot(
    store: SessionStore, known: Sequence[str], pid: int, since: float, now: float
) -> SessionSnapshot | None:
    """Return a snapshot of the session of an ended child if the session's last turn has failed, according to the
    message store.

    `known` contains the known sessions of the child; `since` is the child's start in epoch seconds.
    """
    session = _root(store, known, since)
    if session is None:
        return None
    endpoint = Endpoint(UnixAddress(""), pid, session.directory)
    snapshot = snapshot_of(endpoint, session, RetryStatus("idle"), store.messages(session.id), False, now)
    return snapshot if snapshot.state is SessionState.ERROR and not snapshot.aborted else None


def _root(store: SessionStore, known: Sequence[str], since: float) -> Session | None:
    """Return the main session of the child, or None if it is unknown."""
    if not known:  # if the session's id is unknown, there must be exactly one match
        here = os.environ.get("PWD") or str(Path.cwd())
        mine = [found.session for found in store.unsettled(since) if found.session.directory == here]
        mine = [session for session in mine if session.parent is None]
        return mine[0] if len(mine) == 1 else None
    session = store.session(known[0])
    while session is not None and session.parent is not None:
        session = store.session(session.parent)
    return session


class SessionHost(Protocol):
    """The supervisor's interface to the process or server in which a session runs."""

    finder: EndpointFinder
    prober: SessionProbe
    facts: OwnPluginReports

    def server(self, directory: str) -> AbstractContextManager[Endpoint]:
        """Return a context manager for the server in which the session continues after the child has ended.

        Raises:
            OpenCodeUnreachable: The server does not start. The error is raised when the context is entered.
        """
        ...

    def order(self, order: Order) -> Order:
        """Return the order of a move, adapted to this host."""
        ...

    def failed(self, known: Sequence[str], /) -> SessionSnapshot | None:
        """Return a snapshot of the session of an ended child if the session's turn has failed. `known` contains the
        sessions known so far.
        """
        ...

    def left_to_daemon(self) -> bool:
        """Return whether the daemon handles this session."""
        ...

    def holds(self, session: str, /) -> bool:
        """Return whether this is our session or one of its subagents, although it runs at one of our endpoints."""
        ...

    def abandon(self) -> None:
        """Stop the session if it would continue to send requests after the launcher has given up."""
        ...

    def close(self) -> None:
        """Prevent further servers from being started. Thread-safe."""
        ...


class OwnSessionHost:
    """Host of a session in a child that contains its own server. After a move, a private server with the same
    environment replaces the child.
    """

    def __init__(self, run: Run, paths: Paths, clock: Clock, started: Callable[[int], None]) -> None:
        """Store the arguments. `started` is called with the private server's pid."""
        own = OwnProcesses(run.child.pid)
        self._run, self._started, self._clock = run, started, clock
        self._store = SessionStore(paths.opencode_data)
        self._lock, self._closed = threading.Lock(), False
        self.finder = EndpointFinder(
            paths.opencode_data, sockets=paths.endpoints, environ={**os.environ}, processes=own
        )
        self.prober: SessionProbe = Prober(self.finder, self._store, clock=clock)
        self.facts = OwnPluginReports(paths.facts, own.holds)

    def server(self, directory: str) -> AbstractContextManager[Endpoint]:
        """Return a context manager that starts the private server on entering."""
        run = self._run
        environ = {**os.environ, **run.environ}
        options = ["--pure"] if run.arguments.has("--pure") else []
        return private_server(Path(run.program), directory, environ, self._started, options, gate=self._gate())

    def order(self, order: Order) -> Order:
        """Return the order, adapted to a turn that ended when the child exited."""
        return replace(order, own_abort=True, child=None, looping=False)

    def failed(self, known: Sequence[str], /) -> SessionSnapshot | None:
        """Return a snapshot of the failed session, taken from the message store."""
        run = self._run
        return failed_snapshot(self._store, known or self.facts.sessions, run.child.pid, run.began, self._clock.now())

    def left_to_daemon(self) -> bool:
        """Return False, because the daemon leaves these sessions to the launcher."""
        return False

    def holds(self, _: str, /) -> bool:
        """Return True, because our processes run no other sessions."""
        return True

    def abandon(self) -> None:
        """Do nothing, because the turn ends with its process."""

    def close(self) -> None:
        """Prevent further servers from being started."""
        with self._lock:
            self._closed = True

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """Raise OpenCodeUnreachable after `close`, because a server that a worker thread started after `close` would
        keep running.
        """
        with self._lock:
            if self._closed:
                raise OpenCodeUnreachable("oc-smart is ending")
            yield


class _ClientSessionHost:
    """Base class of the hosts of a client's session, which remains in the client's server."""

    def __init__(self, client: AttachedServer | RunService, finder: EndpointFinder, paths: Paths) -> None:
        """`client` is the client's server. Its `session` must be set."""
        self._client = client
        self.finder = finder
        self.prober: SessionProbe = _OneSession(client)
        self.facts = OwnPluginReports(paths.facts, lambda _: False)

    def server(self, directory: str) -> AbstractContextManager[Endpoint]:
        """Return the server, which keeps running."""
        assert self._client.endpoint is not None
        return nullcontext(replace(self._client.endpoint, directory=directory))

    def order(self, order: Order) -> Order:
        """Return the order unchanged, because the turn is still waiting in the server."""
        return order

    def failed(self, _: Sequence[str], /) -> SessionSnapshot | None:
        """Return a snapshot of the session from the server, if its turn has failed."""
        snapshot = next(iter(self.prober.stuck().snapshots), None)
        return snapshot if snapshot and snapshot.state is SessionState.ERROR and not snapshot.aborted else None

    def close(self) -> None:
        """Do nothing, because nothing was started."""


class ServerSessionHost(_ClientSessionHost):
    """Host of the session of an OpenCode 1 client (`--attach`)."""

    def __init__(self, server: AttachedServer, paths: Paths) -> None:
        """`server` is the client's server. Its `session` must be set."""
        finder = EndpointFinder(paths.opencode_data, urls=[server.url], environ=server.environ, processes=tuple)
        super().__init__(server, finder, paths)
        self._server = server

    def left_to_daemon(self) -> bool:
        """Return whether a daemon handles the session. The daemon may have been started after this launcher."""
        return self._server.left_to_daemon()

    def holds(self, session: str, /) -> bool:
        """Return whether this is our session or one of its subagents. The server may run other sessions."""
        return self._server.holds(session)

    def abandon(self) -> None:
        """Stop the turn, because its answer would not be read."""
        server = self._server
        if server.endpoint is not None and server.session is not None:
            with suppress(EndpointError):
                connect(server.endpoint).abort(server.session.id, server.session.directory)


class ServiceSessionHost(_ClientSessionHost):
    """Host of the session of an OpenCode 2 client."""

    def __init__(self, service: RunService, paths: Paths) -> None:
        """`service` is the client's OpenCode 2 server. Its `session` must be set."""
        super().__init__(service, service.finder, paths)
        self._service = service

    def left_to_daemon(self) -> bool:
        """Return False, because the daemon only switches the model, which does not interfere with the launcher."""
        return False

    def holds(self, session: str, /) -> bool:
        """Return whether this is our session. Stalls are not detected here."""
        return self._service.session is not None and session == self._service.session.id

    def abandon(self) -> None:
        """Stop the turn, because its answer would not be read."""
        service = self._service
        if service.endpoint is not None and service.session is not None:
            with suppress(EndpointError):
                Routes(service.endpoint).interrupt(service.session.id)


class _OneSession:
    """Probes our session and its subagents, but no other session of the server."""

    def __init__(self, client: AttachedServer | RunService) -> None:
        self._client = client

    def session(self, ident: str) -> Findings:
        return self._findings(ident)

    def stuck(self, report: Report | None = None) -> Findings:
        found = self._findings(None)
        stuck = tuple(snapshot for snapshot in found.snapshots if snapshot.stuck)
        if stuck and report is not None:
            report(stuck)
        return replace(found, snapshots=stuck)

    def _findings(self, ident: str | None) -> Findings:
        try:
            return self._client.findings(ident)
        except EndpointError as fault:
            return Findings((), 0, (str(fault),), 1)


class RunMover:
    """The `Mover` of a child's session. `close` ends the private server."""

    name = "run"

    def __init__(
        self,
        child: Child,
        session_host: SessionHost,
        clock: Clock,
        opened: Callable[[Endpoint, Session], None],
        silence: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """Store the arguments. `opened` is called once, after the server has responded and before the prompt runs in
        it. `silence` returns the number of seconds for which a busy session has been silent, or None if the session is
        not known to be busy.
        """
        self._silence = silence
        self._child, self._session_host, self._clock, self._opened = child, session_host, clock, opened
        self._rerun = RerunOverApi(lambda endpoint: Api(endpoint, STARTING_LIMIT), silence=silence)
        self._held = ExitStack()
        self.endpoint: Endpoint | None = None
        self._shown = False
        self._taken_over = False

    def move(self, order: Order) -> MoveOutcome:
        """Make the move on the server. Before the first move, check at the child's endpoint that the child may be
        ended, and end it.
        """
        if self.endpoint is not None:
            return self._on_server(self.endpoint, order)
        refused = self._refusal(order) if self._child.poll() is None else None
        if refused is not None:
            return refused
        self.take_over()
        self._child.end()
        try:
            self.endpoint = self._held.enter_context(self._session_host.server(order.snapshot.directory))
        except OpenCodeUnreachable as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, stranded=True)
        return self._on_server(self.endpoint, self._session_host.order(order))

    @property
    def taken_over(self) -> bool:
        """Return whether the engine has taken over the session from the child."""
        return self._taken_over

    def take_over(self) -> None:
        """Record that the engine has taken over. The child's exit code is ignored from now on."""
        self._taken_over = True

    def close(self) -> None:
        """End the private server if there is one."""
        self._held.close()

    def _on_server(self, endpoint: Endpoint, order: Order) -> MoveOutcome:
        """Make the move on the server. Nothing is run before the session's output can be printed."""
        snapshot = order.snapshot
        if not self._shown:
            try:
                session = Session(snapshot.session, snapshot.directory, snapshot.parent, snapshot.version)
                self._opened(endpoint, session)
            except EndpointError as fault:
                return MoveOutcome(MoveResult.FAILED, str(fault), None, stranded=True)
            self._shown = True
        return self._rerun.move(replace(order, snapshot=replace(snapshot, endpoint=endpoint)))

    def _refusal(self, order: Order) -> MoveOutcome | None:
        """Return the outcome of the move if the child must not be ended for it, or None if the child may be ended."""
        snapshot = order.snapshot
        try:
            api = Api(snapshot.endpoint, STARTING_LIMIT)
            unknown = unknown_target(api, order.target, snapshot.directory)
            if unknown is not None:
                return MoveOutcome(unknown.result, unknown.why, snapshot)
            statuses = api.status(snapshot.directory)
            now = take_snapshot(
                api,
                Session(snapshot.session, snapshot.directory, snapshot.parent, snapshot.version),
                self._clock,
                statuses,
            )
        except EndpointError as fault:
            if self._child.poll() is not None:
                return None
            return MoveOutcome(MoveResult.FAILED, str(fault), None)
        retrying = frozenset(name for name, status in statuses.items() if status.type == "retry")
        busy = frozenset(name for name, status in statuses.items() if status.type == "busy")
        silence, before = self._silence(order.session), order.silence
        if order.stalled and silence is not None and before is not None and silence < before:
            return MoveOutcome(MoveResult.ALREADY, f"{now.model} has continued its answer", now)
        ruling = forbidden(order, now, retrying, busy)
        return MoveOutcome(ruling.result, ruling.why, now) if ruling else None
