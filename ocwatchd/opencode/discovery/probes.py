"""Find stuck sessions and the endpoints of the processes that run them. Information from endpoints takes precedence
over the message stores.

A probe is needed if the log record of a limit does not name a session. It is also needed to find sessions that are
stuck on a model that was already cooling down. Several processes are queried at the same time. A stalled process delays
only the results that no other process can provide.

The module is long because all queries to several processes share the rules about their order and timeouts.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, UnixAddress
from ocwatchd.core.text.amounts import exactly
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.protocol import Client
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.stalls import STALLS
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api, connect
from ocwatchd.opencode.discovery.endpoints import PROBE_LIMIT, EndpointFinder
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.snapshots import take_snapshot
from ocwatchd.workers import Workers

OPEN_SINCE = 86_400.0
"""Maximum age, in seconds, of sessions with an open last answer. It is long because OpenCode's own retry may wait
silently for hours.
"""

FAILED_SINCE = 60.0
"""Maximum age, in seconds, of a failed last answer. Older failures are ignored."""

STALL_TIMEOUT, LAST_RESORT_TIMEOUT = 1.0, 3.0
"""Time, in seconds, without any response after which a probe stops waiting for a process: the first value applies if
another process has shown the session, the second otherwise. The slowest response of a healthy server took 2.4 s
(1.18.33, its very first request).
"""

HEDGE = 0.5
"""Time, in seconds, without a response after which the next process is queried as well. A response takes 5 to 60 ms."""

HEAD_START = 0.1
"""Maximum time, in seconds, that a probe waits for the first responses of new processes, so that it can query the
nearest process first.
"""

FRESH = 1.0
"""A server whose last response is at most this many seconds old is not pinged before it is queried about other
projects.
"""

MAX_ROUND = 6.0
"""Maximum duration, in seconds, of a probe. A single call may take 5 s."""

MAX_ASKED, MAX_PER_PROCESS = 256, 4
"""Maximum numbers of simultaneous queries, in total and to one process. Each query has its own thread, which exits when
it is idle.
"""

MAX_HOMES = 1000
"""Maximum number of sessions whose last process is remembered."""

T = TypeVar("T")
SnapshotsById = Mapping[str, SessionSnapshot]


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a probe.

    `endpoints` is the number of endpoints that responded, and `failing` is the number of endpoints that did not.
    `troubles` contains messages about the failing endpoints.
    """

    snapshots: tuple[SessionSnapshot, ...]
    endpoints: int
    troubles: tuple[str, ...] = ()
    failing: int = 0


Report = Callable[[Sequence[SessionSnapshot]], None]
"""Called with the stuck sessions of one process as soon as the process has responded."""


class SessionProbe(Protocol):
    """Probes sessions. Its methods block for seconds, so call them on a worker thread."""

    def session(self, ident: str) -> Findings:
        """Return the snapshot of one session. The result contains no snapshot if the session is not found."""
        ...

    def stuck(self, report: Report | None = None) -> Findings:
        """Return all stuck sessions. Before this method returns, `report` is called with them, exactly once for each
        session.
        """
        ...


class Prober:
    """Queries all endpoints of one data directory about sessions.

    Its methods block for seconds if an endpoint does not respond, so call them on a worker thread.
    """

    def __init__(
        self,
        finder: EndpointFinder,
        store: SessionStore,
        connect: Callable[[Endpoint], Api] = connect,
        clock: Clock | None = None,
        hedge: float = HEDGE,
    ) -> None:
        """`finder` and `store` use the same data directory. `connect` opens an endpoint. `hedge` is the time in seconds
        that is used instead of HEDGE.
        """
        self._finder, self._store, self._hedge = finder, store, hedge
        self._connect, self._clock = connect, clock or SystemClock()
        self._workers = Workers(MAX_ASKED, {}, MAX_PER_PROCESS)
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()
        self._located: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()
        """The endpoint of each session's last event, and the event's arrival time (monotonic seconds), by session id.
        The next probe of a session removes its entry.
        """
        self._unreliable: set[Hashable] = set()
        """Processes that did not respond to their last query. Servers that are among them are queried last, even if
        they respond to a ping.
        """

    def located(self, ident: str, endpoint: Endpoint) -> None:
        """Record that an event of this session has just arrived through this endpoint. Thread-safe."""
        self._located[ident] = endpoint, time.monotonic()
        while len(self._located) > MAX_HOMES:
            self._located.popitem(last=False)

    def reported(self, ident: str, pid: int) -> None:
        """Record that the companion plugin in this process has just reported a refused attempt of this session."""
        endpoint = self._finder.of_process(pid)
        if endpoint is not None:
            self.located(ident, endpoint)
        else:
            self._finder.hurry_process(pid, None)

    def session(self, ident: str) -> Findings:
        """Return the session's snapshot from the process that is working on the session, or else from the first process
        that knows the session.

        The processes are queried in this order: the process that worked on the session last, processes of the session's
        project, and servers of many projects.
        """
        if (snapshot := self._at_located(ident)) is not None:
            return Findings((snapshot,), 1)
        round_, stored, home = self._round(), self._store.session(ident), self._homes.get(ident)
        directory = stored.directory if stored else None
        if home is not None:
            self._finder.hurry(home)
        else:
            self._finder.hurry_process(None, directory)
        idle: dict[Hashable, SessionSnapshot] = {}
        while True:
            groups, servers = _nearest(round_.new(), directory, home)
            servers.sort(key=lambda process: process.lane in self._unreliable)
            for process, snapshot in round_.ask(groups, self._about(round_, ident, stored), servers, idle):
                if snapshot is None:
                    continue
                if snapshot.state in (SessionState.BUSY, SessionState.RETRY):
                    self._remember(snapshot)
                    return round_.findings([snapshot])
                idle.setdefault(process.lane, snapshot)
            if not round_.more(_patience(idle)):
                break
        groups, servers = _nearest(round_.processes(), directory, home)
        order = [process.lane for group in (*groups, servers) for process in group]
        return round_.findings([idle[lane] for lane in order if lane in idle][:1])

    def _at_located(self, ident: str) -> SessionSnapshot | None:
        """Return the snapshot from the endpoint that has just sent an event of the session. Return None if the session
        is idle there.

        This avoids a scan of the process table, which needs 15 ms of CPU time and took 0.1 s at a load of 17.
        """
        endpoint, at = self._located.pop(ident, (None, 0.0))
        if endpoint is None or time.monotonic() - at > FRESH or (now := self._finder.current(endpoint)) is None:
            return None
        process, stored = _Process((now,)), self._store.session(ident)
        future: Future[SessionSnapshot] = Future()

        def question(_: _Process) -> SessionSnapshot:
            api = self._connect(now)
            session = stored or api.session(ident, now.directory)
            snapshot = take_snapshot(api, session, self._clock, questions=False)
            # A session that is waiting for a retry runs no tool, so it has no open questions.
            return take_snapshot(api, session, self._clock) if snapshot.state is SessionState.BUSY else snapshot

        self._workers.submit(process.lane, partial(_answer, future, question, process))
        try:
            snapshot = future.result(LAST_RESORT_TIMEOUT)
        except (EndpointError, TimeoutError):
            future.cancel()
            return None
        if snapshot.state is SessionState.IDLE:  # another process may be working on the session
            return None
        if snapshot.parent is not None and not isinstance(now.address, UnixAddress):
            # a full probe is needed, because only the plugin's own socket shows whether the plugin sends the next
            # subagent to another model
            return None
        self._remember(snapshot)
        return snapshot

    def stuck(self, report: Report | None = None, directories: Iterable[str] = ()) -> Findings:
        """Return all sessions that are waiting for a retry or whose last answer failed within the last minute.

        `directories` contains further projects about which servers of many projects are queried.
        """
        round_, now = self._round(), self._clock.now()
        unsettled = self._store.unsettled(now - OPEN_SINCE)
        snapshots: dict[str, SessionSnapshot] = {}

        def take(shown: SnapshotsById | None) -> None:
            new = {ident: snapshot for ident, snapshot in (shown or {}).items() if ident not in snapshots}
            snapshots.update(new)
            for snapshot in new.values():
                self._remember(snapshot)
            if new and report is not None:
                report(tuple(new.values()))

        more = True
        while more:
            for _, shown in round_.ask([round_.new()], self._retrying(round_, None), found=(True,)):
                take(shown)
            more = round_.more(STALL_TIMEOUT)
        # A query makes OpenCode open the project. Therefore, only servers of many projects are queried about other
        # projects, and only about projects with an unsettled session that the project's own process has not shown.
        missing = [entry.session.directory for entry in unsettled if entry.session.id not in snapshots]
        wanted = list(dict.fromkeys([*directories, *missing]))
        servers = [process for process in round_.processes() if process.many and process.lane in round_.answered]
        for _, shown in round_.ask([servers] if wanted else [], self._retrying(round_, wanted), found=(True,)):
            take(shown)
        for entry in unsettled:
            ended = entry.answer.completed
            if ended is not None and ended >= now - FAILED_SINCE and entry.session.id not in snapshots:
                take(
                    {
                        snapshot.session: snapshot
                        for snapshot in self.session(entry.session.id).snapshots
                        if snapshot.stuck
                    }
                )
        return round_.findings(list(snapshots.values()))

    def _round(self) -> _Round:
        if len(self._unreliable) > MAX_HOMES:
            self._unreliable.clear()
        return _Round(self._finder, self._workers, self._connect, self._hedge, self._unreliable)

    def _remember(self, snapshot: SessionSnapshot) -> None:
        self._homes[snapshot.session] = snapshot.endpoint
        self._homes.move_to_end(snapshot.session)
        if len(self._homes) > MAX_HOMES:
            self._homes.popitem(last=False)

    def _about(
        self, round_: _Round, ident: str, stored: Session | None
    ) -> Callable[[_Process], SessionSnapshot | None]:
        """Return a query for one session. The query returns None if the process does not know the session."""

        def question(process: _Process) -> SessionSnapshot | None:
            idle: SessionSnapshot | None = None
            for endpoint in process.endpoints:
                snapshot = round_.through(endpoint, lambda client: client.snapshot(ident, stored, self._clock))
                if snapshot is not None and snapshot.state in (SessionState.BUSY, SessionState.RETRY):
                    return snapshot
                idle = idle or snapshot
            return idle

        return question

    def _retrying(self, round_: _Round, places: Sequence[str] | None) -> Callable[[_Process], SnapshotsById]:
        """Return a query for all sessions that are waiting for a retry in these projects, or in the process's own
        project if `places` is None.
        """

        def question(process: _Process) -> SnapshotsById:
            found: dict[str, SessionSnapshot] = {}
            for endpoint in reversed(
                process.endpoints
            ):  # if two endpoints report the same session, the result from the first endpoint is kept
                for place in _asked_about(endpoint, places):
                    for snapshot in round_.through(endpoint, partial(self._retrying_in, place)) or ():
                        found[snapshot.session] = snapshot
            return found

        return question

    def _retrying_in(self, directory: str, client: Client) -> list[SessionSnapshot]:
        return list(client.waiting(directory, self._store.session, self._clock))


@dataclass(frozen=True, slots=True)
class _Process:
    """One OpenCode process and its endpoints. The preferred endpoint comes first. In 1.14, a session is visible through
    only one of the endpoints.
    """

    endpoints: tuple[Endpoint, ...]

    @property
    def lane(self) -> Hashable:
        """The key of this process in `Workers`."""
        return _lane(self.endpoints[0])

    @property
    def many(self) -> bool:
        return any(endpoint.many for endpoint in self.endpoints)

    def has(self, endpoint: Endpoint) -> bool:
        return any((own.address, own.pid) == (endpoint.address, endpoint.pid) for own in self.endpoints)

    @property
    def stalled_for(self) -> float:
        """Time, in seconds, for which this process has not responded to pending requests."""
        return max(STALLS.stalled_for(endpoint.address) for endpoint in self.endpoints)


class _Round:
    """One probe of all processes. An endpoint that fails is not queried again in the same probe."""

    def __init__(
        self,
        finder: EndpointFinder,
        workers: Workers,
        connect: Callable[[Endpoint], Api],
        hedge: float,
        unreliable: set[Hashable],
    ) -> None:
        self._finder, self._workers, self._connect = finder, workers, connect
        self._hedge, self._unreliable = hedge, unreliable
        self._began = time.monotonic()
        self._found = finder.known()
        while self._found.pending and finder.wait(self._found, self._began + HEAD_START - time.monotonic()):
            self._found = finder.known()
        self._failed: dict[Endpoint, str] = {}
        self._returned, self._asked = set[Endpoint](), set[Hashable]()
        self.answered: set[Hashable] = set()
        """Keys in `Workers` (see `lane`) of the processes that have responded in this probe."""

    def processes(self) -> list[_Process]:
        """Return the processes that are proven to be OpenCode processes of this user."""
        second = self._found.second
        return [
            _Process((endpoint, *(other for other in second if other.pid == endpoint.pid is not None)))
            for endpoint in self._found.open
        ]

    def new(self) -> list[_Process]:
        """Return the processes that have new endpoints since the last call, each with only those endpoints."""
        found = [
            tuple(endpoint for endpoint in process.endpoints if endpoint not in self._returned)
            for process in self.processes()
        ]
        self._returned.update(endpoint for endpoints in found for endpoint in endpoints)
        return [_Process(endpoints) for endpoints in found if endpoints]

    def more(self, patience: float) -> bool:
        """Wait for new endpoints until `patience` seconds after the start of the probe. Return whether there are
        any.
        """
        end = self._began + patience
        while True:
            self._found = self._finder.known()
            if not self._returned.issuperset((*self._found.open, *self._found.second)):
                return True
            if not self._found.pending or not self._finder.wait(self._found, end - time.monotonic()):
                return False

    def findings(self, snapshots: Sequence[SessionSnapshot]) -> Findings:
        """Return the result of this probe."""
        processes = self.processes()
        failed = {
            endpoint: why
            for endpoint, why in self._failed.items()
            if any(process.has(endpoint) for process in processes)
        }
        silent = {
            process.endpoints[
                0
            ]: f"{process.endpoints[0]}: {Trouble.TIMEOUT}: no answer for {exactly(process.stalled_for)}"
            for process in processes
            if process.lane in self._late and process.stalled_for >= STALL_TIMEOUT
        }
        failed |= {endpoint: why for endpoint, why in silent.items() if endpoint not in failed}
        answering = sum(process.endpoints[0] not in failed and process.lane not in self._late for process in processes)
        return Findings(
            tuple(snapshots), answering, (*self._found.troubles, *failed.values()), self._found.failing + len(failed)
        )

    @property
    def _late(self) -> set[Hashable]:
        return self._asked - self.answered

    def through(self, endpoint: Endpoint, call: Callable[[Client], T]) -> T | None:
        """Make a call to this endpoint and return its result. Return None if the call fails or the endpoint does not
        know the session.
        """
        if endpoint in self._failed:
            return None
        try:
            answer = call(client_of(endpoint, self._connect))
        except EndpointError as fault:
            # these statuses mean that the endpoint works but does not know the session
            if fault.status not in (400, 404):
                self._fails(endpoint, fault)
            return None
        self._unreliable.discard(_lane(endpoint))
        return answer

    def _fails(self, endpoint: Endpoint, fault: EndpointError) -> None:
        self._failed[endpoint] = str(fault)
        self._unreliable.add(_lane(endpoint))
        self._finder.doubt(endpoint, fault)

    def _pings(self, process: _Process) -> bool:
        endpoint = process.endpoints[0]
        try:
            client_of(endpoint, self._connect).ping(PROBE_LIMIT)
        except EndpointError as fault:
            self._fails(endpoint, fault)
            return False
        return True

    def ask(
        self,
        groups: Iterable[Sequence[_Process]],
        question: Callable[[_Process], T],
        servers: Sequence[_Process] = (),
        found: Sized = (),
    ) -> Iterator[tuple[_Process, T]]:
        """Query each group of processes, one group after another, and then the servers one by one. Yield the results as
        they arrive.

        The next group is queried when the previous group has responded. Whenever responses are still missing after
        HEDGE seconds, further groups are queried, twice as many each time. If there are several servers, they are
        pinged first, and those that respond to the ping are queried first. A stalled process is abandoned after
        STALL_TIMEOUT seconds if `found` is not empty, otherwise after LAST_RESORT_TIMEOUT seconds.
        """
        waiting, unpinged = deque(group for group in groups if group), list(servers)
        pings, asked = dict[Future[bool], _Process](), dict[Future[T], _Process]()
        begun, together = float("-inf"), 1
        try:
            while waiting or unpinged or pings or asked:
                now = time.monotonic()
                if now - begun >= self._hedge or not asked:
                    together = together * 2 if asked else 1
                    for _ in range(min(together, len(waiting))):
                        asked |= {self._submit(process, question): process for process in waiting.popleft()}
                        begun = now
                    if not waiting and begun < now:
                        quiet = [process for process in unpinged if len(unpinged) > 1 and not _fresh(process)]
                        waiting += ([process] for process in unpinged if process not in quiet)
                        pings |= {self._submit(process, self._pings): process for process in quiet}
                        unpinged = []
                        if waiting:
                            continue
                under_way = (*pings.values(), *asked.values())
                left = max((_patience(found) - process.stalled_for for process in under_way), default=0.0)
                if waiting or unpinged:
                    left = begun + self._hedge - now
                elif left <= 0 or now - self._began > MAX_ROUND:
                    return
                futures: list[Future[Any]] = [*pings, *asked]
                wait(futures, max(left, 0.001), FIRST_COMPLETED)
                for ping in [ping for ping in pings if ping.done()]:
                    process = pings.pop(ping)
                    waiting += [[process]] if ping.result() else []
                for answer in [answer for answer in asked if answer.done()]:
                    process = asked.pop(answer)
                    self.answered.add(process.lane)
                    yield process, answer.result()
        finally:
            self._unreliable |= {process.lane for process in asked.values() if process.stalled_for >= self._hedge}
            futures = [*pings, *asked]
            for future in futures:
                future.cancel()

    def _submit(self, process: _Process, question: Callable[[_Process], T]) -> Future[T]:
        self._asked.add(process.lane)
        future: Future[T] = Future()
        self._workers.submit(process.lane, partial(_answer, future, question, process))
        return future


def _asked_about(endpoint: Endpoint, places: Sequence[str] | None) -> Sequence[str]:
    """Return the projects about which this endpoint must be queried. For OpenCode 2, a single query (`""`) covers all
    projects.
    """
    if endpoint.generation == 2:
        return [""] if places is None else []
    if places is None:
        return [endpoint.directory] if endpoint.directory else []
    return [place for place in places if place != endpoint.directory]


def _lane(endpoint: Endpoint) -> Hashable:
    return endpoint.pid or endpoint.address


def _answer(future: Future[T], question: Callable[[_Process], T], process: _Process) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(question(process))
    except Exception as fault:  # the exception is raised again where the result is awaited
        future.set_exception(fault)


def _patience(found: Sized) -> float:
    return STALL_TIMEOUT if len(found) else LAST_RESORT_TIMEOUT


def _fresh(process: _Process) -> bool:
    return STALLS.answered_within(process.endpoints[0].address, FRESH)


def _nearest(
    processes: Sequence[_Process], directory: str | None, home: Endpoint | None
) -> tuple[list[list[_Process]], list[_Process]]:
    """Return the groups of processes to query one after another, and the servers to query about projects other than
    their own.

    The process of a terminal in another project is not queried, because it would load this project with all its
    plugins, only to report that it does not know the session. If the directory is unknown, all processes are queried,
    each about its own project.
    """
    at_home = [process for process in processes if home and process.has(home)]
    others = [process for process in processes if process not in at_home]
    near = [process for process in others if directory is None or _places(process) & {None, directory}]
    near.sort(key=lambda process: directory not in _places(process))
    servers = [process for process in others if process not in near and process.many]
    return [at_home, near], servers


def _places(process: _Process) -> set[str | None]:
    return {endpoint.directory for endpoint in process.endpoints}
