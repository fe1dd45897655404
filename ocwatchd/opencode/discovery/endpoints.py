"""Find the endpoints of this user's OpenCode processes that use one data directory. No request is sent to the processes
of other users.

The module is long because all ways to find an endpoint share the checks of owner and home.

A candidate is an address at which OpenCode may be listening. A probe, in this module, is one request that checks
whether OpenCode is listening at a candidate.

The home of a process is read from its environment, because two homes of one user must never be mixed up. psutil is
imported only here and in `processes.py`, and only when processes are listed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ocwatchd.core.domain.snapshot import Endpoint, RunClient, TcpAddress, UnixAddress
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.client.request import EndpointError, Request, Trouble
from ocwatchd.opencode.client.transport import exchange
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.service import auth_in, registered
from ocwatchd.opencode.discovery.plugin_sockets import own_sockets, plugin_in, rival_in, sockets_of
from ocwatchd.opencode.discovery.processes import option
from ocwatchd.opencode.process.process_tree import launched_by
from ocwatchd.paths import opencode_data_of

if TYPE_CHECKING:
    import psutil

PROBE_LIMIT, MAX_PROBE_LIMIT = 1.0, 5.0
"""Timeout, in seconds, of the first probe, and maximum timeout. The timeout is doubled after each failure. A response
to `/path` takes 1 to 15 ms. In its first second, a server may not respond at all, and its very first response took
2.4 s (1.18.33).
"""

RETRY_PROBE, MAX_RETRY_PROBE = 3.0, 30.0
"""Delay, in seconds, before the next request to a listener that did not respond, and maximum delay. The delay is
doubled after each failure. A listener whose response shows that it is another program gets no further requests.
"""

MAX_PROBES = 64
"""Maximum number of simultaneous probes, each on its own thread. Endpoints without failures are probed first."""

SHARED = 0.1
"""Time, in seconds, for which the result of a search is reused. If four sessions hit a limit simultaneously, the result
is needed four times within milliseconds.
"""

_NAME = "opencode"
"""Part of the name of every OpenCode process: the npm wrapper starts `opencode` or `.opencode`, and Nix starts
`.opencode-wrapped`.
"""

_V2_NAME = "opencode2"
"""Process name of OpenCode 2's preview. The releases of OpenCode 2 are called `opencode`, like OpenCode 1."""

_CONTINUES = frozenset({"-s", "--session", "-c", "--continue"})

_MANY_PROJECTS = frozenset({"serve", "web", "acp"})
_DEFAULT_USER = "opencode"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (other programs listen on them, ocwatchd does not)


@dataclass(frozen=True, slots=True)
class OpenCodeProcess:
    """A running OpenCode process, as listed in the process table. `pid` and `created` together identify it."""

    pid: int
    created: float
    directory: str | None
    data: Path | None
    auth: str | None = field(repr=False)
    """The Authorization value that OpenCode 1 would expect, given the process's environment."""
    serves_many: bool
    """Whether this is a server for several project directories, not for one terminal."""
    listeners: tuple[TcpAddress, ...] = ()
    runs_once: bool = False
    """Whether this is an `opencode run`."""
    launched: bool = False
    """Whether the process was started by an `oc-smart` that is still running."""
    anew: bool = True
    """Whether the process begins a new session. This is used only for `opencode run`."""
    registers: bool = False
    """Whether this is OpenCode 2's background service, which writes its password to a file as soon as it is
    listening.
    """
    generation: int = 1
    """OpenCode's generation: 2 for OpenCode 2, and 1 for OpenCode 1 or if the generation is unknown."""
    executable: tuple[int, int] | None = None
    """Device and inode number of the process's program, or None if the system does not report them."""
    opened: str | None = None
    """The session that the process was started with (`-s`), or None if no session was given."""
    continued: str | None = None
    """The session that an `opencode run` continues, or None if it begins a session or does not name one."""
    connected: tuple[TcpAddress, ...] = ()
    """Addresses on this machine that the process is connected to."""
    auth_v2: str | None = field(default=None, repr=False)
    """The Authorization value that OpenCode 2 would expect, given the process's environment. It differs from `auth`:
    OpenCode 2 prefers another variable and has a fixed user name. A `--standalone` server receives its own password in
    that variable, and the user may also have exported the variable of OpenCode 1.
    """


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """The status of one OpenCode process: its generation, and whether the companion plugin is active in it.

    `trouble` is the reason why the process's sessions cannot be moved, or None if they can be moved.
    """

    pid: int | None
    address: TcpAddress | UnixAddress | None
    generation: int
    plugin: bool
    trouble: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return this status as an object in the form of the JSON contract."""
        address = None if self.address is None else str(self.address)
        known = {"pid": self.pid, "address": address, "generation": self.generation, "plugin": self.plugin}
        return {**known, "trouble": self.trouble}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The result of a search for endpoints. `open` contains one endpoint per process.

    `troubles` contains messages for `ocwatch doctor`, for example about endpoints that need a password or do not
    respond. `failing` is the number of endpoints that exist but do not respond correctly, and `pending` is the number
    of endpoints whose first response is still awaited.

    `second` contains further endpoints of the same processes. `opencode serve` 1.14.48 and 1.15.13 have two sets of
    sessions: a session prompted through the port looks idle through the plugin's endpoint. With 1.18.33, both endpoints
    show the same state.
    """

    open: tuple[Endpoint, ...]
    troubles: tuple[str, ...] = ()
    failing: int = 0
    second: tuple[Endpoint, ...] = ()
    statuses: tuple[EndpointStatus, ...] = ()
    pending: int = 0
    starting: bool = False
    """Whether a recently started OpenCode process does not respond yet, so that another search is due soon."""
    seen: int = 0
    """Number of responses to probes so far."""


_Key = tuple[object, float, int]
"""The identity of a candidate: its address and pid, the start time of its process (because a pid may be reused), and
its generation.
"""


@dataclass(slots=True)
class _Proof:
    """What is known about one candidate. If it is not `proven` that OpenCode is listening there, the next probe is due
    at `again` (monotonic seconds).
    """

    directory: str | None = None
    proven: bool = False
    asking: bool = False
    awaited: bool = True
    """Whether searches wait for the next response, because it is the first one or because a session is known to run
    there.
    """
    failures: int = 0
    again: float = 0.0
    trouble: str | None = None
    rejected: bool = False
    """Whether the latest response reported a wrong password."""

    def fail(self, now: float, trouble: str | None, forever: bool = False, *, rejected: bool = False) -> None:
        """Skip this endpoint until its next probe, because it did not respond as OpenCode does. Each further failure
        increases the delay before the next probe.
        """
        pause = min(RETRY_PROBE * 2.0 ** min(self.failures, 10), MAX_RETRY_PROBE)
        self.again = float("inf") if forever else now + pause
        self.proven, self.awaited, self.trouble, self.rejected = False, False, trouble, rejected
        self.failures += 1


class EndpointFinder:
    """Finds endpoints, and keeps track of those at which OpenCode is proven to be listening. A repeated search takes 27
    µs per running process.

    Each candidate is probed on its own thread, with one request at a time, so that an endpoint that does not respond
    does not delay the others.
    """

    def __init__(
        self,
        data: Path,
        *,
        urls: Sequence[str] = (),
        sockets: Path | None = None,
        environ: Mapping[str, str] | None = None,
        processes: Callable[[], Iterable[OpenCodeProcess]] | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        state: Path | None = None,
    ) -> None:
        """`data` is OpenCode's data directory; `urls` contains the endpoints from the configuration.

        `state` is OpenCode's state directory, where OpenCode 2 registers its service; `sockets` is the directory of the
        companion plugin's `PID.sock` files. `environ` contains the password for endpoints of processes that do not
        reveal theirs. `elapsed` is the monotonic clock, in seconds, that determines when to probe again.
        """
        self._data, self._sockets = _real(data), sockets
        self._urls = tuple(urls)
        self._own_auth = basic_auth(os.environ if environ is None else environ)
        self._processes, self._elapsed = processes or ProcessTable(), elapsed
        self._scanning, self._news = threading.Lock(), threading.Condition()
        self._scanned, self._changes, self._rescan = float("-inf"), 0, False
        self._running: list[OpenCodeProcess] = []
        self._candidates: list[tuple[Endpoint, _Key]] = []
        self._misnamed: list[str] = []
        self._proofs: dict[_Key, _Proof] = {}
        self._state = state
        self._newer: set[tuple[int, float]] = set()
        """The pid and start time of each process that responded like OpenCode 2. Guarded by `_news`."""
        self._runs: dict[tuple[int, float], RunClient] = {}

    def set_urls(self, urls: Sequence[str]) -> None:
        """Replace the endpoints from the configuration after the configuration was edited."""
        self._urls = tuple(urls)

    def find(self, patience: float = PROBE_LIMIT) -> Endpoints:
        """Return all working endpoints of this user's OpenCode processes. Wait up to `patience` seconds for new
        endpoints.
        """
        endpoints, end = self.known(), time.monotonic() + patience + SHARED
        while True:
            if self._rescan:
                endpoints = self.known()
            if not endpoints.pending or not self.wait(endpoints, end - time.monotonic()):
                return endpoints
            endpoints = self._found()

    def find_late(self, patience: float = MAX_PROBE_LIMIT) -> bool:
        """Probe the endpoints that have not responded once more, and wait up to `patience` seconds for them. Return
        whether one of them has responded.

        Commands use this before they report that OpenCode cannot be reached. At a load of 8 on two processors, an
        OpenCode that had just started took more than PROBE_LIMIT for its first response.
        """
        before = len(self.known().open)
        self.find()  # probes that have begun must end first, because they are not restarted
        self._hurry(lambda _: True)
        return len(self.find(patience).open) > before

    def known(self) -> Endpoints:
        """Return the endpoints that have responded so far, and start the probes that are due. Does not wait for
        responses. Thread-safe: simultaneous callers share one scan of the process table.
        """
        asked = self._elapsed()
        with self._scanning:
            if self._scanned < asked - SHARED or self._rescan:
                self._rescan = False
                self._scan()
                self._scanned = self._elapsed()
        return self._found()

    def last(self) -> Endpoints:
        """Return the result of the last scan of the process table, because a new scan would take 15 ms of CPU time."""
        return self._found()

    def processes(self) -> list[OpenCodeProcess]:
        """Return the OpenCode processes that use this data directory, as of the last scan of the process table."""
        with self._news:
            return list(self._running)

    def current(self, endpoint: Endpoint) -> Endpoint | None:
        """Return the up-to-date version of a proven endpoint, or None if the endpoint is not proven. Does not scan the
        process table.
        """
        with self._news:
            same = ((found, self._proofs[key]) for found, key in self._candidates if found.address == endpoint.address)
            proven = next(((found, proof) for found, proof in same if proof.proven and found.pid == endpoint.pid), None)
        if proven is None:
            return None
        found, proof = proven
        rival = rival_in(self._sockets, found.pid) if found.pid is not None else None
        return replace(found, directory=proof.directory, rival=rival)

    def of_process(self, pid: int) -> Endpoint | None:
        """Return a proven endpoint of this process without scanning the process table.

        If the process has a plugin socket, only the endpoint of that socket is returned. It proves that the plugin is
        loaded where the session runs, which matters for the session's subagents.
        """
        with self._news:
            proven = [
                endpoint for endpoint, key in self._candidates if self._proofs[key].proven and endpoint.pid == pid
            ]
        of_plugin = next((endpoint for endpoint in proven if isinstance(endpoint.address, UnixAddress)), None)
        if of_plugin is not None or any(path.stem == str(pid) for path in own_sockets(self._sockets)):
            return of_plugin
        return next(iter(proven), None)

    def wait(self, endpoints: Endpoints, patience: float) -> bool:
        """Wait up to `patience` seconds for the response to a probe that is not yet included in `endpoints`. Return
        whether a response arrived.
        """
        with self._news:
            return self._news.wait_for(lambda: self._changes != endpoints.seen, max(patience, 0.0))

    def doubt(self, endpoint: Endpoint, fault: EndpointError) -> None:
        """Skip a proven endpoint that has failed. It is probed again after a few seconds."""
        with self._news:
            for key, proof in self._proofs.items():
                if key[0] == (endpoint.address, endpoint.pid) and proof.proven:
                    proof.fail(self._elapsed(), _advice(endpoint, fault), rejected=fault.status == 401)
            self._changed()

    def hurry(self, endpoint: Endpoint) -> None:
        """Probe this endpoint immediately, despite earlier failures, because a session is known to run there."""
        self._hurry(lambda known: (known.address, known.pid) == (endpoint.address, endpoint.pid))

    def hurry_process(self, pid: int | None, directory: str | None) -> None:
        """Immediately probe the endpoints of this process and of the processes in this directory, because a session is
        known to run there.

        OpenCode does not respond during the first seconds after its start. Without this method, a session that hit a
        limit during these seconds would have to wait for the next regular probe (4 to 5 s on 1.18.33).
        """
        self._hurry(lambda known: (pid is not None and known.pid == pid) or known.directory == directory is not None)

    def _hurry(self, wanted: Callable[[Endpoint], bool]) -> None:
        with self._news:
            for known, key in self._candidates:
                proof = self._proofs[key]
                if wanted(known) and not proof.proven and proof.again != float("inf"):
                    proof.again, proof.awaited = 0.0, True
            self._begin_probes()

    def _scan(self) -> None:
        """List the candidates and start the probes that are due."""
        with self._news:
            newer = frozenset(self._newer)
        running = generations(
            replace(process, generation=2) if (process.pid, process.created) in newer else process
            for process in self._processes()
            if process.data and _real(process.data) == self._data
        )
        served = [process for process in running if process.generation == 1]
        servers = [process for process in running if process.generation == 2 and process.listeners]
        self._remember_runs([process for process in running if process.generation == 2 and process.runs_once])
        named = [endpoint_of_url(url, self._own_auth) for url in self._urls]
        configured = [endpoint for endpoint in named if isinstance(endpoint, Endpoint)]
        endpoints = [
            *self._of_sockets(served), *self._of_processes(served), *self._of_servers(servers), *configured
        ]  # fmt: skip
        with self._news:
            self._newer &= {(process.pid, process.created) for process in running}
            self._running, self._misnamed = running, [trouble for trouble in named if isinstance(trouble, str)]
            self._candidates = [(endpoint, _key(endpoint, running)) for endpoint in endpoints]
            self._proofs = {key: self._proofs.get(key) or _Proof() for _, key in self._candidates}
            self._begin_probes()

    def _found(self) -> Endpoints:
        with self._news:
            known = [(endpoint, self._proofs[key]) for endpoint, key in self._candidates]
            running, misnamed = self._running, self._misnamed
            # The directory in OpenCode's response has priority over that of the process, because `opencode DIR` changes
            # to DIR only after its start.
            found = [replace(endpoint, directory=proof.directory) for endpoint, proof in known if proof.proven]
            failing = [proof.trouble for _, proof in known if proof.trouble and not proof.proven]
            pending = sum(proof.awaited and not proof.proven for _, proof in known)
            rejecting = {endpoint.pid for endpoint, proof in known if proof.rejected and not proof.proven}
            young = {process.pid: process for process in running if time.time() - process.created < START_GRACE}
            unproven = {endpoint.pid for endpoint, proof in known if not proof.proven and proof.again < float("inf")}
            registering = any(process.registers and self._auth_of(process) is None for process in young.values())
            starting = registering or not unproven.isdisjoint(young)
            seen = self._changes
        first = _one_each(found, running)
        second = tuple(endpoint for endpoint in found if endpoint not in first and endpoint.pid is not None)
        served = (self._status(endpoint, running) for endpoint in first)
        statuses = (*served, *self._unserved(running, first, rejecting))
        return Endpoints(first, (*misnamed, *failing), len(failing), second, statuses, pending, starting, seen)

    def _status(self, endpoint: Endpoint, running: Sequence[OpenCodeProcess]) -> EndpointStatus:
        pid = endpoint.pid or next((process.pid for process in running if endpoint.address in process.listeners), None)
        active = pid is not None and plugin_in(self._sockets, pid)
        return EndpointStatus(pid, endpoint.address, endpoint.generation, active)

    def _unserved(
        self, running: Sequence[OpenCodeProcess], reached: Sequence[Endpoint], rejecting: Set[int | None]
    ) -> Iterator[EndpointStatus]:
        """Yield the OpenCode 2 servers without a working endpoint. For OpenCode 1, `ocwatch doctor` itself finds such
        servers.

        `rejecting` contains the pids of the servers that have rejected the password.
        """
        pids = {endpoint.pid for endpoint in reached}
        for process in running:
            if process.generation != 2 or not process.listeners or process.pid in pids:
                continue
            locked = self._auth_of(process) is None
            rejected = process.pid in rejecting
            # A service registers its password only after it has begun to listen, and starts to respond shortly
            # afterward.
            if time.time() - process.created > START_GRACE or ((locked or rejected) and not process.registers):
                trouble = LOCKED if locked else REJECTED if rejected else SILENT
                yield EndpointStatus(process.pid, process.listeners[0], 2, False, trouble)

    def _remember_runs(self, processes: Sequence[OpenCodeProcess]) -> None:
        """Remember each `opencode run` until RUNS_KEPT seconds after its end, because the session of a failed run must
        not be moved.
        """
        now = time.time()
        alive = {(process.pid, process.created): process for process in processes}
        for key, process in alive.items():
            self._runs[key] = RunClient(process.directory, process.created, process.anew, None, process.continued)
        for key, run in list(self._runs.items()):
            if key not in alive and run.ended is None:
                self._runs[key] = replace(run, ended=now)
            elif run.ended is not None and now - run.ended > RUNS_KEPT:
                del self._runs[key]

    # ---- candidates

    def _of_servers(self, servers: Sequence[OpenCodeProcess]) -> Iterator[Endpoint]:
        """Yield the endpoints of the OpenCode 2 servers whose password is known. The password is sent only to the
        process that is listening.
        """
        runs = tuple(self._runs.values())
        for process in servers:
            auth = self._auth_of(process)
            if auth is not None:
                yield Endpoint(process.listeners[0], process.pid, None, auth, many=True, generation=2, runs=runs)

    def _auth_of(self, process: OpenCodeProcess) -> str | None:
        services = registered(self._state)[0] if self._state is not None else []
        own = (each for each in services if each.pid == process.pid and each.address in process.listeners)
        service = next(own, None)
        if service is not None and service.auth:
            return service.auth
        # The background service ignores the environment variables (0.0.0-next-16350). Only the registration contains
        # its password.
        return None if process.registers else process.auth_v2

    def _of_processes(self, served: Sequence[OpenCodeProcess]) -> Iterator[Endpoint]:
        for process in served:
            for address in process.listeners:
                auth = process.auth or self._own_auth
                yield self._endpoint(address, process, auth)

    def _of_sockets(self, served: Sequence[OpenCodeProcess]) -> Iterator[Endpoint]:
        by_pid = {process.pid: process for process in served}
        for path in own_sockets(self._sockets):
            process = by_pid.get(int(path.stem)) if path.stem.isdecimal() else None
            if process is not None:  # the socket may belong to a dead process or to another home
                yield self._endpoint(UnixAddress(str(path)), process, None)

    def _endpoint(self, address: TcpAddress | UnixAddress, process: OpenCodeProcess, auth: str | None) -> Endpoint:
        rival = rival_in(self._sockets, process.pid)
        return Endpoint(
            address, process.pid, process.directory, auth, process.serves_many, process.runs_once, rival,
            opened=process.opened, launched=process.launched,
        )  # fmt: skip

    # ---- proof

    def _begin_probes(self) -> None:
        """Start the probes that are due, new candidates first. The caller holds `_news`."""
        now = self._elapsed()
        due = [(endpoint, key) for endpoint, key in self._candidates if _due(self._proofs[key], now)]
        due.sort(key=lambda each: (not self._proofs[each[1]].awaited, self._proofs[each[1]].failures, -each[1][1]))
        room = MAX_PROBES - sum(proof.asking for proof in self._proofs.values())
        for endpoint, key in due[: max(room, 0)]:
            proof = self._proofs[key]
            proof.asking = True
            threading.Thread(target=self._prove, args=(endpoint, proof), name="probe", daemon=True).start()

    def _prove(self, endpoint: Endpoint, proof: _Proof) -> None:
        """Check whether OpenCode is listening at this endpoint, and record the result. Other programs are not probed
        again.
        """
        limit = min(PROBE_LIMIT * 2.0 ** min(proof.failures, 10), MAX_PROBE_LIMIT)
        try:
            directory = None
            if endpoint.generation == 2:
                Routes(endpoint).about(limit)
            else:
                directory = Api(endpoint).path(limit).directory
        except EndpointError as fault:
            with self._news:
                process = next((each for each in self._running if each.pid == endpoint.pid), None)
            own = replace(endpoint, auth=process.auth_v2 or endpoint.auth) if process is not None else endpoint
            newer = endpoint.generation == 1 and fault.status in (401, 404) and answers_as_v2(own)
            forever = newer or fault.trouble is Trouble.GARBAGE or fault.status in (404, 405)
            with self._news:
                if newer and process is not None:
                    self._newer.add((process.pid, process.created))
                    self._rescan = True
                advice = None if forever else _advice(endpoint, fault)
                proof.fail(self._elapsed(), advice, forever, rejected=fault.status == 401)
        except Exception as fault:  # after a bug in ocwatchd, probes must not be repeated without a pause
            with self._news:
                proof.fail(self._elapsed(), f"{endpoint}: {fault!r}")
        else:
            with self._news:
                proof.directory = directory or endpoint.directory
                proof.proven, proof.failures, proof.trouble = True, 0, None
        finally:
            with self._news:
                proof.asking = False
                self._begin_probes()
                self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self._news.notify_all()


def _due(proof: _Proof, now: float) -> bool:
    return not proof.proven and not proof.asking and proof.again <= now


LOCKED = (
    "it uses a generated password that ocwatchd cannot read: start it with OPENCODE_PASSWORD set, or use OpenCode's "
    "background service"
)
REJECTED = (
    "it rejects the password that ocwatchd found for it: start it again with OPENCODE_PASSWORD set, or use OpenCode's "
    "background service"
)
SILENT = "it does not respond like OpenCode 2"
START_GRACE = 60.0
"""Maximum time, in seconds, that a server takes to start. It usually takes 3 to 4 s, and much longer on a loaded
machine.
"""
GENERATION_LIMIT = 10.0
"""Timeout, in seconds, of a search that must know the generation of every process; `--version` takes 0.3 to 0.7 s."""
V2_LIMIT = 3.0
"""Timeout, in seconds, of the request that determines the generation of an endpoint. The request is sent only to
endpoints that have just responded.
"""
RUNS_KEPT = 3600.0
"""Time, in seconds, for which the record of an `opencode run` is kept after the process has ended."""


def generations(processes: Iterable[OpenCodeProcess]) -> list[OpenCodeProcess]:
    """Mark a process as OpenCode 2 if it runs the same program as an OpenCode 2 process, or is connected to one."""
    found = list(processes)
    programs = {process.executable for process in found if process.generation == 2} - {None}
    listeners = {address for process in found if process.generation == 2 for address in process.listeners}
    return [
        replace(process, generation=2)
        if process.executable in programs or not listeners.isdisjoint(process.connected)
        else process
        for process in found
    ]


def answers_as_v2(endpoint: Endpoint) -> bool:
    """Return whether OpenCode 2 is listening at an endpoint. OpenCode 2 reports its version and pid under /api, whereas
    1.18 responds to /api/health without a version. If a password is set, both respond with 401, so the program of the
    process is checked instead.
    """
    for route in ("/api/health", "/api/info"):
        try:
            answer = json.loads(exchange(endpoint, Request("GET", route), V2_LIMIT))
        except EndpointError as fault:
            if fault.status == 401:
                return endpoint.pid is not None and _program_is_v2(endpoint.pid)
        except (ValueError, RecursionError):
            continue
        else:
            if isinstance(answer, dict) and isinstance(answer.get("version"), str) and "pid" in answer:
                return True
    return False


def _program_is_v2(pid: int) -> bool:
    """Return whether the program of a process is OpenCode 2. `--version` is run once for each program file, which takes
    0.3 to 0.7 s.
    """
    from ocwatchd.opencode.process.program import about_program  # lazy import: needed only if a password is set

    program = _executable(pid)
    if program is None:
        return False
    if program not in _GENERATIONS:
        try:
            _GENERATIONS[program] = about_program(Path(f"/proc/{pid}/exe"), os.environ).generation
        except OpenCodeUnreachable:
            return False
    return _GENERATIONS[program] == 2


_GENERATIONS: dict[tuple[int, int], int] = {}


def _one_each(found: Sequence[Endpoint], served: Iterable[OpenCodeProcess]) -> tuple[Endpoint, ...]:
    """Return only the first endpoint found for each process. If two endpoints of a process were returned, each of its
    sessions would be handled twice.
    """
    owners: dict[object, int] = {address: process.pid for process in served for address in process.listeners}
    kept: dict[object, Endpoint] = {}
    for endpoint in found:
        kept.setdefault(endpoint.pid or owners.get(endpoint.address, endpoint.address), endpoint)
    return tuple(kept.values())


def _advice(endpoint: Endpoint, fault: EndpointError) -> str | None:
    if fault.status == 401 and endpoint.generation == 2:
        return None  # `_unserved` reports this process
    if fault.status == 401:
        return f"{endpoint}: needs a password; set OPENCODE_SERVER_PASSWORD for ocwatchd as well"
    return str(fault)


def _key(endpoint: Endpoint, running: Iterable[OpenCodeProcess]) -> _Key:
    created = next((process.created for process in running if process.pid == endpoint.pid), 0.0)
    return (endpoint.address, endpoint.pid), created, endpoint.generation


def basic_auth(environ: Mapping[str, str]) -> str | None:
    """Return the Authorization value for a server that was started with this environment. Return None if no password is
    set.
    """
    password = environ.get("OPENCODE_SERVER_PASSWORD", "")
    user = environ.get("OPENCODE_SERVER_USERNAME", "") or _DEFAULT_USER
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode() if password else None


def endpoint_of_url(url: str, own_auth: str | None) -> Endpoint | str:
    """Return the endpoint for a configured URL or, if the URL cannot be used, an error message that does not contain
    the password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        return "a configured endpoint is not an address; use the form http://127.0.0.1:4096"
    if parts.scheme != "http":
        return f"{parts.scheme}://{host}: only http:// addresses of OpenCode servers are supported"
    if not _is_loopback(host):
        return f"http://{host}:{port}: not on this machine (127.0.0.1, ::1 or localhost), so it is not used"
    named = {
        "OPENCODE_SERVER_PASSWORD": unquote(parts.password or ""),
        "OPENCODE_SERVER_USERNAME": unquote(parts.username or ""),
    }
    return Endpoint(TcpAddress(host, port), auth=basic_auth(named) or own_auth, many=True)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ProcessTable:
    """Lists the OpenCode processes of this user. Properties that cannot change are read once per process."""

    def __init__(self) -> None:
        """Create an empty table. The first call reads the system's process table."""
        self._known: dict[tuple[int, float], OpenCodeProcess] = {}

    def __call__(self) -> list[OpenCodeProcess]:
        """Return the OpenCode processes that are currently running."""
        import psutil  # lazy import: not needed while no OpenCode is running

        gone = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)
        found: dict[tuple[int, float], OpenCodeProcess] = {}
        for process in psutil.process_iter(["name"]):
            if _NAME not in (process.info["name"] or "").lower():
                continue
            try:
                key = process.pid, process.create_time()
                known = self._known.get(key) or _read(process)
                if known is not None:
                    found[key] = known
            except gone:
                # the process has ended, or the system denies access to it (macOS)
                continue
        sockets = sockets_of(pid for pid, _ in found)
        self._known = {
            key: replace(
                known,
                listeners=tuple(_on_loopback(sockets[key[0]].listening)),
                connected=tuple(TcpAddress(*peer) for peer in sockets[key[0]].connected if _is_loopback(peer[0])),
            )
            for key, known in found.items()
            if key[0] in sockets
        }
        return list(self._known.values())


def _read(process: psutil.Process) -> OpenCodeProcess | None:
    with process.oneshot():
        if process.uids().real != os.getuid():
            return None
        environ, arguments = process.environ(), process.cmdline()[1:]
        newer = process.name().lower().startswith(_V2_NAME) or _is_v2_server(arguments)
        launched = launched_by(environ, process.pid)
        return OpenCodeProcess(
            pid=process.pid,
            created=process.create_time(),
            directory=process.cwd() or None,
            data=opencode_data_of(environ),
            auth=basic_auth(environ),
            auth_v2=auth_in(environ),
            serves_many=not _MANY_PROJECTS.isdisjoint(arguments[:2]),
            # `oc-smart` itself moves the sessions that it has started. They are therefore treated like those of
            # `opencode run`.
            runs_once="run" in arguments[:2] or launched,
            launched=launched,
            anew=_CONTINUES.isdisjoint(word.partition("=")[0] for word in arguments),
            registers="--service" in arguments,
            opened=option(arguments, "-s", "--session"),
            continued=continued_session(arguments),
            generation=2 if newer else 1,
            executable=_executable(process.pid),
        )


def continued_session(arguments: Sequence[str]) -> str | None:
    """Return the session that these arguments of `opencode run` continue, or None if the session is uncertain.

    `--fork` begins a new session, and arguments after `--` belong to the prompt.
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if any(word.partition("=")[0] == "--fork" for word in own):
        return None
    named = option(own, "-s", "--session")
    return named if named is not None and named.startswith("ses_") else None


def _executable(pid: int) -> tuple[int, int] | None:
    """Return the device and inode number of a process's program. Return None on macOS, and for other programs such as
    bun.

    The path does not identify the program: after an in-place upgrade, the program path of a running OpenCode 1 process
    leads to OpenCode 2.
    """
    link = f"/proc/{pid}/exe"
    try:
        about = os.stat(link)  # noqa: PTH116 (follows the link even to a file that was deleted)
        return (about.st_dev, about.st_ino) if _NAME in os.readlink(link).rpartition("/")[2] else None  # noqa: PTH115
    except OSError:
        return None


def _is_v2_server(arguments: Sequence[str]) -> bool:
    """Return whether these are the arguments of an OpenCode 2 server. OpenCode 1's `serve` has neither `--service` nor
    `--stdio`.
    """
    return arguments[:1] == ["serve"] and not {"--service", "--stdio"}.isdisjoint(arguments)


def _on_loopback(found: Iterable[tuple[str, int]]) -> Iterator[TcpAddress]:
    for host, port in found:
        if host in _EVERYWHERE:
            yield TcpAddress(_EVERYWHERE[host], port)
        elif _is_loopback(host):
            yield TcpAddress(host, port)
