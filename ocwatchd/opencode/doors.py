"""Finds the doors into the OpenCode processes of this user and of one data directory; asks none of anybody else's.

Processes of other homes are told apart by their own environment: two homes of one user must never be mixed up. psutil
is imported here and in `processes.py` alone, and only when processes are looked for.
"""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ocwatchd.core.views import Door, TcpAddress, UnixAddress
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.family import launched_by
from ocwatchd.opencode.http import DoorError, Trouble
from ocwatchd.opencode.sockets import own_sockets, rival_in
from ocwatchd.paths import opencode_data_of

if TYPE_CHECKING:
    import psutil

PROBE_LIMIT = 1.0
"""Seconds for the probe. `/path` takes 1 - 15 ms; a server in its first second may not answer at all (1.18.33)."""

RETRY_PROBE = 3.0
"""Seconds before a listener that did not answer is asked again; one that answered as something else never is."""

SHARED = 0.1
"""Seconds for which a look serves others: four sessions limited at once ask four times within milliseconds."""

_NAME = "opencode"
"""Part of the process name: the npm wrapper starts `opencode` or `.opencode`, Nix `.opencode-wrapped`."""

_MANY_PROJECTS = frozenset({"serve", "web", "acp"})
_DEFAULT_USER = "opencode"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (others listen so, on loopback too; we never do)


@dataclass(frozen=True, slots=True)
class OpenCodeProcess:
    """A running OpenCode, as the process table tells it. `created` makes the pid unambiguous."""

    pid: int
    created: float
    directory: str | None
    data: Path | None
    auth: str | None = field(repr=False)
    serves_many: bool
    """A server for several project directories, not one terminal."""
    listeners: tuple[TcpAddress, ...] = ()
    runs_once: bool = False
    """An `opencode run`."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What was found, one door into each process. `troubles` are sentences for `doctor`: a door that wants a password,
    one that hangs. `failing` counts those that are there and do not answer as they should.

    `second`: further doors into these processes. `opencode serve` 1.14.48 and 1.15.13 keep two sets of sessions, and
    what the port has prompted is at rest for the plugin's door; with 1.18.33 both show the same.
    """

    open: tuple[Door, ...]
    troubles: tuple[str, ...] = ()
    failing: int = 0
    second: tuple[Door, ...] = ()


class DoorFinder:
    """Remembers what it has proven, so that looking again costs a walk over the process table: 27 µs a process."""

    def __init__(
        self,
        data: Path,
        *,
        urls: Sequence[str] = (),
        sockets: Path | None = None,
        environ: Mapping[str, str] | None = None,
        processes: Callable[[], Iterable[OpenCodeProcess]] | None = None,
    ) -> None:
        """`data`: the OpenCode data directory that is served. `urls`: doors that the configuration names.

        `sockets`: the directory of the companion plugin's `PID.sock`. `environ` holds the password for doors whose
        process does not tell one.
        """
        self._data, self._sockets = _real(data), sockets
        self.urls = tuple(urls)
        self._own_auth = basic_auth(os.environ if environ is None else environ)
        self._processes = processes or ProcessTable()
        self._proven: dict[tuple[object, float], str | None] = {}
        self._refused: dict[tuple[object, float], tuple[float, str | None]] = {}
        self._lock = threading.Lock()
        self._last: tuple[float, Doors] | None = None

    def find(self) -> Doors:
        """Every door into an OpenCode of ours that answers. Thread-safe: askers at one moment share a look."""
        asked = time.monotonic()
        with self._lock:
            if self._last is None or self._last[0] < asked - SHARED:
                self._last = time.monotonic(), self._find()
            return self._last[1]

    def doubt(self, door: Door, fault: DoorError) -> None:
        """It was found and has failed since: it is left out for some seconds, then it has to prove itself anew."""
        with self._lock:
            for key in [key for key in self._proven if key[0] == (door.address, door.pid)]:
                del self._proven[key]
                self._refused[key] = (time.monotonic() + RETRY_PROBE, _advice(door, fault))
            self._last = None

    def _find(self) -> Doors:
        served = [process for process in self._processes() if process.data and _real(process.data) == self._data]
        named = [door_of_url(url, self._own_auth) for url in self.urls]
        configured = [door for door in named if isinstance(door, Door)]
        troubles = [trouble for trouble in named if isinstance(trouble, str)]
        candidates = [*self._of_sockets(served), *self._of_processes(served), *configured]
        keys = {_key(door, served) for door in candidates}
        self._proven = {key: directory for key, directory in self._proven.items() if key in keys}
        self._refused = {key: value for key, value in self._refused.items() if key in keys}
        answers = list(self._probe_all([(door, _key(door, served)) for door in candidates]))
        found = [door for door, trouble in answers if trouble is None and door is not None]
        failing = [trouble for _, trouble in answers if trouble]
        first = _one_each(found, served)
        second = tuple(door for door in found if door not in first and door.pid is not None)
        return Doors(first, tuple(troubles + failing), len(failing), second)

    # ---- candidates

    def _of_processes(self, served: Sequence[OpenCodeProcess]) -> Iterator[Door]:
        for process in served:
            for address in process.listeners:
                auth = process.auth or self._own_auth
                yield self._door(address, process, auth)

    def _of_sockets(self, served: Sequence[OpenCodeProcess]) -> Iterator[Door]:
        by_pid = {process.pid: process for process in served}
        for path in own_sockets(self._sockets):
            process = by_pid.get(int(path.stem)) if path.stem.isdecimal() else None
            if process is not None:  # files of dead processes stay behind; those of other homes are not ours to ask
                yield self._door(UnixAddress(str(path)), process, None)

    def _door(self, address: TcpAddress | UnixAddress, process: OpenCodeProcess, auth: str | None) -> Door:
        rival = rival_in(self._sockets, process.pid)
        return Door(address, process.pid, process.directory, auth, process.serves_many, process.runs_once, rival)

    # ---- proof

    def _probe_all(
        self, candidates: Sequence[tuple[Door, tuple[object, float]]]
    ) -> Iterable[tuple[Door | None, str | None]]:
        if len(candidates) < 2:
            return [self._prove(*candidate) for candidate in candidates]
        with ThreadPoolExecutor(min(len(candidates), 8), "probe") as pool:
            return list(pool.map(lambda candidate: self._prove(*candidate), candidates))

    def _prove(self, door: Door, key: tuple[object, float]) -> tuple[Door | None, str | None]:
        """The door if OpenCode answers there; else what is wrong, None if it is simply something else."""
        if key in self._proven:
            return replace(door, directory=self._proven[key]), None
        until, trouble = self._refused.get(key, (0.0, None))
        if time.monotonic() < until:
            return None, trouble
        try:
            place = Api(door).path(PROBE_LIMIT)
        except DoorError as fault:
            forever = fault.trouble is Trouble.GARBAGE or fault.status in (404, 405)
            trouble = None if forever else _advice(door, fault)
            self._refused[key] = (float("inf") if forever else time.monotonic() + RETRY_PROBE, trouble)
            return None, trouble
        # What OpenCode says goes before the process's directory: `opencode DIR` changes to it after its start.
        self._proven[key] = place.directory or door.directory
        return replace(door, directory=self._proven[key]), None


def _one_each(found: Sequence[Door], served: Iterable[OpenCodeProcess]) -> tuple[Door, ...]:
    """One door into each process, the first found: asked through two, it would do everything twice."""
    owners: dict[object, int] = {address: process.pid for process in served for address in process.listeners}
    kept: dict[object, Door] = {}
    for door in found:
        kept.setdefault(door.pid or owners.get(door.address, door.address), door)
    return tuple(kept.values())


def _advice(door: Door, fault: DoorError) -> str:
    if fault.status == 401:
        return f"{door}: wants a password; set OPENCODE_SERVER_PASSWORD for ocwatchd as well"
    return str(fault)


def _key(door: Door, served: Iterable[OpenCodeProcess]) -> tuple[object, float]:
    created = next((process.created for process in served if process.pid == door.pid), 0.0)
    return (door.address, door.pid), created


def basic_auth(environ: Mapping[str, str]) -> str | None:
    """The Authorization value for a server that was started with this environment; None if it wants none."""
    password = environ.get("OPENCODE_SERVER_PASSWORD", "")
    user = environ.get("OPENCODE_SERVER_USERNAME", "") or _DEFAULT_USER
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode() if password else None


def door_of_url(url: str, own_auth: str | None) -> Door | str:
    """The door at a configured address; else what is wrong with it, without the password that may stand in it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        return "a configured door is no address: write it as http://127.0.0.1:4096"
    if parts.scheme != "http":
        return f"{parts.scheme}://{host}: only http:// addresses of OpenCode servers are understood"
    if not _is_loopback(host):
        return f"http://{host}:{port}: not on this machine (127.0.0.1, ::1 or localhost); it is not used"
    named = {
        "OPENCODE_SERVER_PASSWORD": unquote(parts.password or ""),
        "OPENCODE_SERVER_USERNAME": unquote(parts.username or ""),
    }
    return Door(TcpAddress(host, port), auth=basic_auth(named) or own_auth, many=True)


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
    """OpenCode processes of this user. What cannot change in a process's life is asked once."""

    def __init__(self) -> None:
        """Nothing is read before the first call."""
        self._known: dict[tuple[int, float], OpenCodeProcess] = {}

    def __call__(self) -> list[OpenCodeProcess]:
        """Those that run now."""
        import psutil

        gone = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)
        found: dict[tuple[int, float], OpenCodeProcess] = {}
        for process in psutil.process_iter(["name"]):
            if _NAME not in (process.info["name"] or "").lower():
                continue
            try:
                key = process.pid, process.create_time()
                known = self._known.get(key) or _read(process)
                if known is not None:
                    found[key] = replace(known, listeners=tuple(_listeners(process)))
            except gone:
                continue  # it has ended, or the system lets us not look (macOS): not ours to serve
        self._known = found
        return list(found.values())


def _read(process: psutil.Process) -> OpenCodeProcess | None:
    with process.oneshot():
        if process.uids().real != os.getuid():
            return None
        environ, arguments = process.environ(), process.cmdline()[1:3]
        return OpenCodeProcess(
            pid=process.pid,
            created=process.create_time(),
            directory=process.cwd() or None,
            data=opencode_data_of(environ),
            auth=basic_auth(environ),
            serves_many=not _MANY_PROJECTS.isdisjoint(arguments),
            # What `oc-smart` has started is its own to move: left alone like any `run`.
            runs_once="run" in arguments or launched_by(environ, process.pid),
        )


def _listeners(process: psutil.Process) -> Iterator[TcpAddress]:
    # psutil 6 renamed it; the old name goes on working there with a warning.
    connections = getattr(process, "net_connections", None) or process.connections
    for connection in connections(kind="tcp"):
        if connection.status != "LISTEN" or not connection.laddr:
            continue
        host, port = connection.laddr[:2]
        if host in _EVERYWHERE:
            yield TcpAddress(_EVERYWHERE[host], port)
        elif _is_loopback(host):
            yield TcpAddress(host, port)
