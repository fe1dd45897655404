"""Tests of endpoints: whose and what they are, and that a bad one costs little and does not hide a good one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress, UnixAddress
from ocwatchd.opencode.client.v2.service import auth_in
from ocwatchd.opencode.discovery.endpoints import (
    PROBE_LIMIT,
    EndpointFinder,
    OpenCodeProcess,
    ProcessTable,
    basic_auth,
    continued_session,
)
from ocwatchd.opencode.discovery.plugin_sockets import clear_stale, sockets_of
from tests.conftest import Count
from tests.integration.fakedoor import answer, listening, routes, says
from tests.support.processes import wait_until

PLACE = {"/path": {"home": "/home/dev", "worktree": "/", "directory": "/project"}}
OPENCODE = routes(PLACE)


def process(data: Path, *endpoints: Endpoint, pid: int = 7, created: float = 1.0, **more: Any) -> OpenCodeProcess:
    addresses = tuple(endpoint.address for endpoint in endpoints if isinstance(endpoint.address, TcpAddress))
    return OpenCodeProcess(pid, created, "/project", data, more.pop("auth", None), False, addresses, **more)


def finder(data: Path, *processes: OpenCodeProcess, **more: Any) -> EndpointFinder:
    return EndpointFinder(data, processes=lambda: processes, environ=more.pop("environ", {}), **more)


def test_only_what_answers_as_opencode_is_a_door(tmp_path: Path) -> None:
    with (
        listening(OPENCODE) as good,
        listening(says(answer({"hello": 1}))) as other,
        listening(says(b"SSH-2.0\r\n")) as odd,
    ):
        found = finder(tmp_path, process(tmp_path, other, good, odd)).find()
    assert found.open == (Endpoint(good.address, 7, "/project"),)
    assert found.troubles == ()  # a process may listen for other purposes


def test_a_process_of_another_home_is_not_even_asked(tmp_path: Path) -> None:
    seen: list[str] = []
    with listening(routes(PLACE, seen)) as theirs:
        others = [process(tmp_path / "b", theirs), OpenCodeProcess(8, 1.0, None, None, None, False, ())]
        assert finder(tmp_path / "a", *others).find().open == ()
    assert seen == []


def test_a_linked_home_is_the_same_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with listening(OPENCODE) as endpoint:
        assert finder(tmp_path / "link", process(tmp_path / "real", endpoint)).find().open


def test_the_password_of_the_process_goes_before_ours(tmp_path: Path) -> None:
    requests: list[bytes] = []

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        requests.append(request)
        OPENCODE(connection, line, request)

    theirs = basic_auth({"OPENCODE_SERVER_PASSWORD": "theirs", "OPENCODE_SERVER_USERNAME": "me"})
    with listening(play) as endpoint:
        for auth in (theirs, None):
            ours = {"OPENCODE_SERVER_PASSWORD": "ours"}
            (found,) = finder(tmp_path, process(tmp_path, endpoint, auth=auth), environ=ours).find().open
            assert found.auth in (theirs, basic_auth(ours))
    assert b"authorization: Basic bWU6dGhlaXJz" in requests[0]
    assert b"authorization: Basic b3BlbmNvZGU6b3Vycw==" in requests[1]


SHELL = {
    "OPENCODE_PASSWORD": "of OpenCode 2", "OPENCODE_SERVER_PASSWORD": "of OpenCode 1", "OPENCODE_SERVER_USERNAME": "me",
}  # fmt: skip
"""Variables of a user who has both generations. OpenCode 2 prefers the first, and its user name is fixed."""


def test_each_generation_gets_the_password_that_it_would_use(tmp_path: Path) -> None:
    health = answer({"healthy": True, "version": "2.0.26", "pid": 7})

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        right = f"authorization: {auth_in(SHELL)}".encode() in request
        connection.sendall(health if right else answer(b"", 401))

    with listening(play) as endpoint:
        theirs = {"auth": basic_auth(SHELL), "auth_v2": auth_in(SHELL)}
        (found,) = finder(tmp_path, process(tmp_path, endpoint, generation=2, **theirs)).find().open
        assert (found.auth, found.generation) == (auth_in(SHELL), 2)
        # A release is called `opencode`, as OpenCode 1 is, so it is known by its answer.
        (found,) = finder(tmp_path, process(tmp_path, endpoint, **theirs)).find().open
        assert (found.auth, found.generation) == (auth_in(SHELL), 2)
    with listening(OPENCODE) as endpoint:
        (found,) = finder(tmp_path, process(tmp_path, endpoint, **theirs)).find().open
        assert (found.auth, found.generation) == (basic_auth(SHELL), 1)


@pytest.mark.parametrize(("registers", "why"), [(False, "rejects the password"), (True, "a generated password")])
def test_an_opencode_2_that_rejects_the_password_is_named_with_the_reason(
    registers: bool, why: str, tmp_path: Path
) -> None:
    """The background service ignores the variables, so their password is not tried."""
    with listening(says(answer(b"", 401))) as endpoint:
        one = process(tmp_path, endpoint, generation=2, auth_v2=auth_in(SHELL), registers=registers)
        found = finder(tmp_path, one).find()
    assert found.open == ()
    (status,) = found.statuses
    assert (status.pid, why in (status.trouble or "")) == (7, True)


def test_a_locked_door_says_what_to_do(tmp_path: Path) -> None:
    with listening(says(answer(b"", 401))) as endpoint:
        found = finder(tmp_path, process(tmp_path, endpoint)).find()
    assert found.open == ()
    assert "OPENCODE_SERVER_PASSWORD" in found.troubles[0]


def test_a_hanging_door_neither_hides_the_others_nor_costs_its_time_twice(tmp_path: Path) -> None:
    def hang(connection: socket.socket, line: str, request: bytes) -> None:
        connection.recv(1)

    with ExitStack() as open_endpoints:
        bad = [open_endpoints.enter_context(listening(hang)) for _ in range(5)]
        good = open_endpoints.enter_context(listening(OPENCODE))
        looking = finder(tmp_path, process(tmp_path, *bad, good))
        began = time.monotonic()
        assert [endpoint.address for endpoint in looking.find().open] == [good.address]
        assert time.monotonic() - began < 4  # all at once; one after the other they take five seconds
        time.sleep(0.15)  # one search serves other callers for 0.1 s
        began = time.monotonic()
        found = looking.find()
        assert time.monotonic() - began < 0.9  # a probe takes a second
    assert [endpoint.address for endpoint in found.open] == [good.address]
    assert len(found.troubles) == len(bad)


def test_what_answers_is_known_before_what_hangs_has_been_given_up(tmp_path: Path) -> None:
    """Fifty endpoints that never answer, eight at a time, delayed the discovery of a good one by 7 s."""
    release = threading.Event()

    def hang(connection: socket.socket, line: str, request: bytes) -> None:
        release.wait()

    with ExitStack() as opened:
        opened.callback(release.set)
        bad = [opened.enter_context(listening(hang)) for _ in range(30)]
        good = opened.enter_context(listening(OPENCODE))
        looking = finder(tmp_path, process(tmp_path, *bad, good))
        endpoints = looking.known()
        while not endpoints.open and endpoints.failing < len(bad):
            assert looking.wait(endpoints, 10)
            endpoints = looking.known()
        assert [endpoint.address for endpoint in endpoints.open] == [good.address]
        assert endpoints.failing < len(bad)


def test_what_fails_is_asked_ever_more_rarely_until_a_session_needs_it(tmp_path: Path) -> None:
    seen, clock = list[str](), [0.0]

    def broken(connection: socket.socket, line: str, request: bytes) -> None:
        seen.append(line)
        connection.sendall(answer(b"", 500))

    with listening(broken) as endpoint:
        looking = EndpointFinder(
            tmp_path, processes=lambda: [process(tmp_path, endpoint)], environ={}, elapsed=lambda: clock[0]
        )

        for moment, times in ((0, 1), (2.8, 1), (3, 2), (8.8, 2), (9, 3), (20.8, 3), (21, 4), (44.8, 4), (45, 5)):
            clock[0] = moment
            wait_until(lambda: looking.known().seen == times, 10)  # noqa: B023 (called in this round)
            found = looking.find()
            assert (len(seen), found.open, found.failing) == (times, (), 1)
        looking.hurry(Endpoint(endpoint.address, 7))
        found = looking.find()
        assert (len(seen), found.pending, found.failing) == (6, 0, 1)
        for pid, directory, times in (
            (7, None, 7),
            (8, None, 7),
            (None, "/elsewhere", 7),
            (None, "/project", 8),
            (8, "/project", 9),
        ):
            looking.hurry_process(pid, directory)
            looking.find()
            assert len(seen) == times


@pytest.mark.parametrize("waits", [True, False])
def test_a_command_can_wait_for_a_door_that_is_slow_to_give_its_first_answer(waits: bool, tmp_path: Path) -> None:
    asked = []

    def slow(connection: socket.socket, line: str, request: bytes) -> None:
        asked.append(line)
        if len(asked) == 1:
            time.sleep(PROBE_LIMIT + 0.5)
        OPENCODE(connection, line, request)

    with listening(slow) as endpoint, listening(says(b"")) as broken:
        looking = finder(tmp_path, process(tmp_path, endpoint), process(tmp_path, broken, pid=8))
        if waits:
            assert looking.find().open == ()
        else:
            looking.known()  # the first probe is still in flight
        assert looking.find_late()
        assert [found.address for found in looking.last().open] == [endpoint.address]
        assert not looking.find_late(), "the other one still does not answer"


def test_a_proven_door_is_not_probed_again_until_the_pid_is_another_process(tmp_path: Path) -> None:
    seen: list[str] = []
    with listening(routes(PLACE, seen)) as endpoint:
        running = [process(tmp_path, endpoint)]
        looking = EndpointFinder(tmp_path, processes=lambda: running, environ={})
        for created, probes in ((1.0, 1), (1.0, 1), (2.0, 2)):
            running[:] = [process(tmp_path, endpoint, created=created)]
            assert looking.find().open
            assert seen == ["GET /path"] * probes
            time.sleep(0.11)


def test_configured_addresses_are_doors_if_they_are_on_this_machine(tmp_path: Path) -> None:
    with listening(OPENCODE) as endpoint:
        assert isinstance(endpoint.address, TcpAddress)
        urls = [
            f"http://me:let%20me@127.0.0.1:{endpoint.address.port}",
            "http://203.0.113.9:4096",
            "https://127.0.0.1:4096",
            "file:///etc/passwd",
            "http://example.com@[::",
            "http://127.0.0.1:notaport",
        ]
        found = finder(tmp_path, urls=urls).find()
    (one,) = found.open
    assert (one.pid, one.directory, one.many) == (None, "/project", True)
    assert one.auth == basic_auth({"OPENCODE_SERVER_PASSWORD": "let me", "OPENCODE_SERVER_USERNAME": "me"})
    assert len(found.troubles) == 5
    assert not any("let" in trouble for trouble in found.troubles)


def test_sockets_count_if_directory_and_file_are_ours_and_their_process_lives(tmp_path: Path) -> None:
    sockets = tmp_path / "doors"
    sockets.mkdir(mode=0o700)
    with (
        listening(OPENCODE, sockets / "7.sock"),
        listening(OPENCODE, sockets / "8.sock"),  # a socket of another home, or of a process that has ended
        listening(OPENCODE, sockets / "x.sock"),
    ):
        (sockets / "9.sock").write_text("no socket")
        running = [process(tmp_path), process(tmp_path, pid=9), process(tmp_path / "other", pid=8)]
        looking = finder(tmp_path, *running, sockets=sockets)
        assert looking.find().open == (Endpoint(UnixAddress(str(sockets / "7.sock")), 7, "/project"),)
        sockets.chmod(0o755)
        time.sleep(0.11)
        assert looking.find().open == ()
        assert finder(tmp_path, *running, sockets=tmp_path / "none").find().open == ()


def test_no_socket_of_anybody_else_is_asked(tmp_path: Path) -> None:
    """The cases are a link to a socket, a linked directory, and (as root) a socket or directory of another user."""
    seen: list[str] = []
    sockets = tmp_path / "doors"
    sockets.mkdir(mode=0o700)
    running = [process(tmp_path), process(tmp_path, pid=8), process(tmp_path, pid=9)]
    with listening(routes(PLACE, seen), tmp_path / "7.sock"), listening(routes(PLACE, seen), sockets / "8.sock"):
        (sockets / "7.sock").symlink_to(tmp_path / "7.sock")
        (sockets / "9.sock").symlink_to("/nowhere")
        (tmp_path / "link").symlink_to(sockets)
        assert finder(tmp_path, *running, sockets=tmp_path / "link").find().open == ()
        if os.geteuid() == 0:
            os.chown(sockets / "8.sock", 65534, 65534)
        else:
            (sockets / "8.sock").unlink()
        assert finder(tmp_path, *running, sockets=sockets).find().open == ()
        if os.geteuid() == 0:
            os.chown(sockets / "8.sock", 0, 0)
            os.chown(sockets, 65534, 65534)
            assert finder(tmp_path, *running, sockets=sockets).find().open == ()
        assert seen == []


@pytest.mark.parametrize(
    ("about", "rival"),
    [
        ('{"standing_back": "another fallback plugin is active: x"}', "another fallback plugin is active: x"),
        ('{"standing_back": null}', None),
        ('{"standing_back": 1}', None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_a_door_says_who_else_moves_sessions_there(tmp_path: Path, about: str | None, rival: str | None) -> None:
    sockets = tmp_path / "doors"
    sockets.mkdir(mode=0o700)
    if about is not None:
        (sockets / "7.json").write_text(about)
    with listening(OPENCODE, sockets / "7.sock"), listening(OPENCODE) as port:
        for through_port, running in ((False, process(tmp_path)), (True, process(tmp_path, port))):
            if through_port:
                (sockets / "7.sock").unlink()  # on a busy machine the socket did not answer in time
            (endpoint,) = finder(tmp_path, running, sockets=sockets).find().open
            assert (endpoint.rival, isinstance(endpoint.address, TcpAddress)) == (rival, through_port)


def test_a_process_has_one_door_and_it_is_the_socket(tmp_path: Path) -> None:
    sockets = tmp_path / "doors"
    sockets.mkdir(mode=0o700)
    with listening(OPENCODE) as port, listening(OPENCODE) as other, listening(OPENCODE, sockets / "7.sock"):
        assert isinstance(port.address, TcpAddress)
        assert isinstance(other.address, TcpAddress)
        urls = [f"http://127.0.0.1:{address.port}" for address in (port.address, other.address)]
        looking = finder(tmp_path, process(tmp_path, port), sockets=sockets, urls=urls)
        # The port of the same process, found or configured, would do everything twice; another server is different.
        found = looking.find()
        assert [endpoint.address for endpoint in found.open] == [UnixAddress(str(sockets / "7.sock")), other.address]
        assert [endpoint.address for endpoint in found.second] == [port.address]
        (sockets / "7.sock").unlink()
        time.sleep(0.11)
        assert [endpoint.address for endpoint in looking.find().open] == [port.address, other.address]


def test_only_what_dead_processes_left_is_cleared(tmp_path: Path) -> None:
    sockets = tmp_path / "doors"
    sockets.mkdir(mode=0o700)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (sockets / f"{dead.pid}.json").write_text("{}")
    (sockets / "note.txt").write_text("mine")
    own = socket.socket(socket.AF_UNIX)
    own.bind(str(sockets / f"{os.getpid()}.sock"))  # the process runs, but does not listen (yet)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(sockets / f"{dead.pid}.sock"))
    left.close()
    with listening(says(b""), sockets / "99999999.sock"):  # no such process here, but it answers: in a container
        clear_stale(sockets)
        names = {path.name for path in sockets.iterdir()}
    own.close()
    assert names == {f"{os.getpid()}.sock", "99999999.sock", "note.txt"}


def test_a_socket_with_a_long_path_can_be_asked(tmp_path: Path) -> None:
    sockets = tmp_path / ("long" * 30)
    sockets.mkdir(mode=0o700)
    (tmp_path / "l").symlink_to(sockets)
    with listening(OPENCODE, tmp_path / "l" / "7.sock"):
        looking = finder(tmp_path, process(tmp_path), sockets=sockets)
        assert looking.find().open == (Endpoint(UnixAddress(str(sockets / "7.sock")), 7, "/project"),)


# ---- the process table itself

SERVER = """
import os, socket, sys, time
if sys.argv[1:2] == ["as-nobody"]:
    os.setuid(65534)
    del sys.argv[1]
socks = [socket.create_server((host, 0)) for host in sys.argv[1:]]
print(*[sock.getsockname()[1] for sock in socks], flush=True)
time.sleep(60)
"""


@contextmanager
def program(name: str, cwd: Path, environ: dict[str, str], *hosts: str) -> Iterator[tuple[int, list[int]]]:
    """Start a process of this name that listens on these hosts; yield its pid and ports."""
    cwd.mkdir(parents=True, exist_ok=True)
    (cwd / name).symlink_to(Path(sys.executable).resolve())
    (cwd / "serve").write_text(SERVER)
    running = subprocess.Popen(
        [str(cwd / name), "serve", *hosts], cwd=cwd, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        yield running.pid, [int(port) for port in running.stdout.readline().split()]
    finally:
        running.kill()
        running.communicate()


def test_processes_are_told_by_name_environment_and_listeners(tmp_path: Path) -> None:
    first, second = {"HOME": str(tmp_path / "a")}, {"HOME": "/x", "XDG_DATA_HOME": str(tmp_path / "data")}
    locked = second | SHELL
    with (
        program("opencode", tmp_path / "p1", first, "127.0.0.1", "0.0.0.0") as (one, ports),
        program(".opencode", tmp_path / "p2", locked) as (two, _),
        program("innocent", tmp_path / "p3", first, "127.0.0.1") as (three, _),
    ):
        table = ProcessTable()
        for _ in range(2):  # the second time from the cache
            seen = {found.pid: found for found in table()}
            assert three not in seen
            assert seen[one].data == tmp_path / "a/.local/share/opencode"
            assert seen[one].directory == str(tmp_path / "p1")
            assert seen[one].serves_many
            assert {address.port for address in seen[one].listeners} == set(ports)
            assert {address.host for address in seen[one].listeners} == {"127.0.0.1"}
            assert (seen[two].data, seen[two].listeners) == (tmp_path / "data/opencode", ())
            assert (seen[two].auth, seen[two].auth_v2) == (basic_auth(locked), auth_in(locked))
    assert not {one, two} & {found.pid for found in table()}


def test_sockets_of_many_processes_are_read_at_once(tmp_path: Path) -> None:
    """Compare with psutil, which reads the kernel's tables again for each process: 0.45 CPU s with 50 OpenCodes."""
    hosts = ["127.0.0.1", "0.0.0.0"]
    environ = {"HOME": str(tmp_path)}
    with (
        program("one", tmp_path / "p1", environ, *hosts) as (one, ports),
        program("two", tmp_path / "p2", environ, "127.0.0.1") as (two, _),
        program("three", tmp_path / "p3", environ) as (three, _),
        socket.create_connection(("127.0.0.1", ports[0])),
        ExitStack() as held,
    ):
        if Path("/proc/net/if_inet6").exists():
            sixth = held.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            assert sixth.getsockname()[:2] in sockets_of([os.getpid()])[os.getpid()].listening
        pids = [one, two, three, os.getpid(), 99999999]
        found, by_psutil = sockets_of(pids), sockets_of(pids, tables=tmp_path)  # without the tables, as on macOS
        assert sorted(port for _, port in found[one].listening) == sorted(ports)
        assert found[three].listening == ()
        assert ("127.0.0.1", ports[0]) in found[os.getpid()].connected
        assert set(found) == set(by_psutil) == set(pids) - {99999999}
        for pid in found:
            assert sorted(found[pid].listening) == sorted(by_psutil[pid].listening)
            assert sorted(found[pid].connected) == sorted(by_psutil[pid].connected)


def test_who_only_calls_himself_opencode_is_no_door(tmp_path: Path, counted: Count) -> None:
    """Another user's process is not even listed. One of this user has to answer as OpenCode. Only loopback is asked."""
    environ, data = {"HOME": str(tmp_path)}, tmp_path / ".local/share/opencode"
    others = ["as-nobody"] if os.geteuid() == 0 else []
    reachable = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    with (
        program("opencode", tmp_path / "p1", environ, *others, "127.0.0.1") as (theirs, _),
        program("opencode", tmp_path / "p2", environ, "127.0.0.1", *reachable[:1]) as (forged, ports),
    ):
        listed = {found.pid: found for found in ProcessTable()()}
        assert bool(others) == (theirs not in listed)
        assert [address.port for address in listed[forged].listeners] == ports[:1]
        found = EndpointFinder(data, processes=lambda: [listed[forged]], environ={}).find()
    assert found.open == ()
    assert found.failing == 1  # it listens and does not answer
    counted("faults survived", 2)


@pytest.mark.parametrize(
    ("environ", "auth"),
    [
        ({}, None),
        ({"OPENCODE_SERVER_USERNAME": "me"}, None),
        ({"OPENCODE_SERVER_PASSWORD": "pw"}, "Basic b3BlbmNvZGU6cHc="),
        ({"OPENCODE_SERVER_PASSWORD": "pw", "OPENCODE_SERVER_USERNAME": "me"}, "Basic bWU6cHc="),
    ],
)
def test_authorization(environ: dict[str, str], auth: str | None) -> None:
    assert basic_auth(environ) == auth


@pytest.mark.parametrize(
    ("arguments", "session"),
    [
        ("run -s ses_1 hello", "ses_1"),
        ("run --session=ses_1 hello", "ses_1"),
        ("run hello", None),
        ("run -c hello", None),
        ("run -s ses_1 --fork hello", None),
        ("run -- what does -s ses_1 mean", None),
        ("run -s newest hello", None),
    ],
)
def test_the_session_that_a_run_continues(arguments: str, session: str | None) -> None:
    assert continued_session(arguments.split()) == session
