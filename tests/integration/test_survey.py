"""Tests of which endpoint is asked about which session: the right one is found with no more requests than needed."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.core.domain.snapshot import SessionState, TcpAddress
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.discovery.endpoints import EndpointFinder, OpenCodeProcess
from ocwatchd.opencode.discovery.probes import HEDGE, Prober
from ocwatchd.opencode.sessions.message_store import SessionStore
from tests.integration.fakedoor import Play, listening, routes
from tests.support.processes import wait_until

NOW = 1_795_000_000.0
ABOUT = {"id": "ses_1", "directory": "/a", "version": "1.18.33"}
MESSAGES: list[dict[str, Any]] = [
    {
        "info": {"id": "msg_1", "role": "user", "model": {"providerID": "p", "modelID": "m"}, "agent": "build"},
        "parts": [],
    },
    {"info": {"id": "msg_2", "role": "assistant", "parentID": "msg_1", "providerID": "p", "modelID": "m"}, "parts": []},
]
RETRY = {"ses_1": {"type": "retry", "attempt": 3, "message": "slow down", "next": NOW * 1000 + 5000}}


class FixedClock:
    def now(self) -> float:
        return NOW


@dataclass
class Terminal:
    """A fake OpenCode: its answers about the project /a, and the requests that it got."""

    directory: str
    status: Any = field(default_factory=dict)
    serves_many: bool = False
    play: Play | None = None
    asked: list[str] = field(default_factory=list)

    def answers(self) -> Play:
        table: dict[str, Any] = {
            "/path": {"home": "/h", "worktree": "/", "directory": self.directory},
            "/session/status": self.status,
            "/session/ses_1": ABOUT,
            "/session/ses_1/message": MESSAGES,
            "/permission": [],
            "/question": [],
        }
        if self.play:
            return self.play
        elsewhere = routes(table | {"/session/status": {}}, self.asked)
        here = routes(table, self.asked)
        return lambda connection, line, request: (here if "directory=%2Fa" in line else elsewhere)(
            connection, line, request
        )

    @property
    def was_asked(self) -> bool:
        return any(not line.startswith("GET /path") for line in self.asked)


@pytest.fixture
def stack() -> Any:
    with ExitStack() as held:
        yield held


def surveyor(stack: ExitStack, data: Path, *terminals: Terminal, limit: float = 0.5, hedge: float = HEDGE) -> Prober:
    processes = []
    for number, terminal in enumerate(terminals):
        endpoint = stack.enter_context(listening(terminal.answers()))
        assert isinstance(endpoint.address, TcpAddress)
        processes.append(OpenCodeProcess(number + 1, 1.0, None, data, None, terminal.serves_many, (endpoint.address,)))
    finder = EndpointFinder(data, processes=lambda: processes, environ={})
    return Prober(finder, SessionStore(data), lambda endpoint: Api(endpoint, limit), FixedClock(), hedge)


def stored(data: Path, error: dict[str, Any] | None = None, ended: float | None = None) -> None:
    session = data / "storage" / "session" / "prj" / "ses_1.json"
    session.parent.mkdir(parents=True)
    session.write_bytes(orjson.dumps(ABOUT))
    for message in MESSAGES:
        info = dict(message["info"])
        if info["role"] == "assistant":
            info |= {"error": error} if error else {}
            info |= {"time": {"completed": ended * 1000}} if ended else {}
        path = data / "storage" / "message" / "ses_1" / f"{info['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(info))


def test_the_door_that_works_on_it_counts_not_the_first_that_knows_it(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    own, server = Terminal("/a"), Terminal("/b", RETRY, serves_many=True)
    found = surveyor(stack, tmp_path, own, server).session("ses_1")
    (snapshot,) = found.snapshots
    assert (snapshot.state, snapshot.attempt, snapshot.next_at, snapshot.endpoint.pid) == (
        SessionState.RETRY,
        3,
        NOW + 5,
        2,
    )
    assert (snapshot.seen, snapshot.directory, found.endpoints) == (NOW, "/a", 2)


def test_the_port_shows_what_it_runs_beside_the_plugins_door(stack: ExitStack, tmp_path: Path) -> None:
    """1.14 and 1.15 keep two sets of sessions: at the plugin's endpoint, a session prompted over the port is idle."""
    stored(tmp_path)
    (sockets := tmp_path / "doors").mkdir(mode=0o700)
    stack.enter_context(listening(Terminal("/a").answers(), sockets / "7.sock"))
    port = stack.enter_context(listening(Terminal("/a", RETRY).answers())).address
    assert isinstance(port, TcpAddress)
    process = OpenCodeProcess(7, 1.0, None, tmp_path, None, True, (port,))
    finder = EndpointFinder(tmp_path, sockets=sockets, processes=lambda: [process], environ={})
    one = Prober(finder, SessionStore(tmp_path), lambda endpoint: Api(endpoint, 0.5), FixedClock())
    for found in (one.session("ses_1"), one.stuck()):
        (snapshot,) = found.snapshots
        assert (snapshot.state, snapshot.endpoint.address) == (SessionState.RETRY, port)
        assert found.endpoints == 1


def test_a_terminal_of_another_project_is_not_asked(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    own, other = Terminal("/a"), Terminal("/b", RETRY)
    one = surveyor(stack, tmp_path, other, own)
    (snapshot,) = one.session("ses_1").snapshots
    assert (snapshot.state, snapshot.endpoint.pid) == (SessionState.IDLE, 2)
    assert not other.was_asked
    one.stuck()
    assert all("directory=%2Fb" in line for line in other.asked if "/session/status" in line)


def test_without_a_store_everyone_is_asked_about_its_own(stack: ExitStack, tmp_path: Path) -> None:
    (snapshot,) = surveyor(stack, tmp_path, Terminal("/a", RETRY)).session("ses_1").snapshots
    assert snapshot.state is SessionState.RETRY


def test_a_door_that_hangs_is_counted_out_and_hides_nobody(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    place = {"/path": {"home": "/h", "worktree": "/", "directory": "/a"}}

    def only_probe(connection: Any, line: str, request: bytes) -> None:
        if "/path" in line:
            routes(place)(connection, line, request)
        else:
            connection.recv(1)

    one = surveyor(stack, tmp_path, Terminal("/a", play=only_probe), Terminal("/a", RETRY))
    found = one.session("ses_1")
    assert [snapshot.endpoint.pid for snapshot in found.snapshots] == [2]
    assert found.endpoints == 1
    (trouble,) = wait_until(lambda: one.session("ses_1").troubles, 10, why="its question has come to nothing")
    assert "timeout" in trouble


def test_the_stuck_are_found_behind_every_door(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)  # its answer is unfinished, and its project has no terminal of its own
    server = Terminal("/b", RETRY, serves_many=True)
    (snapshot,) = surveyor(stack, tmp_path, server).stuck().snapshots
    assert snapshot.session == "ses_1"
    assert any("status?directory=%2Fa" in line for line in server.asked)


@pytest.mark.parametrize(("ago", "found"), [(5, 1), (300, 0)])
def test_a_failure_counts_while_it_is_fresh(stack: ExitStack, tmp_path: Path, ago: float, found: int) -> None:
    error = {"name": "APIError", "data": {"message": "Quota exceeded", "statusCode": 429}}
    stored(tmp_path, error, NOW - ago)
    failed = dict(MESSAGES[1]["info"], error=error, time={"completed": (NOW - ago) * 1000})
    own = Terminal("/a")
    table = {"/path": {"home": "/h", "worktree": "/", "directory": "/a"}, "/session/status": {}, "/permission": []}
    listed = [MESSAGES[0], {"info": failed, "parts": []}]
    own.play = routes(table | {"/question": [], "/session/ses_1/message": listed})
    os.utime(tmp_path / "storage" / "session" / "prj" / "ses_1.json", (NOW - ago, NOW - ago))
    snapshots = surveyor(stack, tmp_path, own).stuck().snapshots
    assert len(snapshots) == found
    assert all(snapshot.last_error is not None and snapshot.last_error.status == 429 for snapshot in snapshots)


def test_nobody_is_there(stack: ExitStack, tmp_path: Path) -> None:
    assert surveyor(stack, tmp_path).session("ses_1").endpoints == 0
    assert surveyor(stack, tmp_path).stuck().snapshots == ()


def test_an_unknown_session_is_no_trouble_of_the_door(stack: ExitStack, tmp_path: Path) -> None:
    found = surveyor(stack, tmp_path, Terminal("/a")).session("ses_2")
    assert (found.snapshots, found.endpoints, found.troubles) == ((), 1, ())


# ---- processes that accept connections and never answer

FOREVER = 1e6
"""Seconds after which the test fails, because an answer of a hung process would never arrive."""


@pytest.fixture
def hung(stack: ExitStack) -> Hung:
    return Hung(stack)


class Hung:
    """Processes that answer the test request (if `proven`), and nothing else before the end of the test."""

    def __init__(self, stack: ExitStack) -> None:
        self.release = threading.Event()
        stack.callback(self.release.set)

    def terminal(self, directory: str, *, proven: bool = True, serves_many: bool = False) -> Terminal:
        """One of these processes."""
        place = routes({"/path": {"home": "/h", "worktree": "/", "directory": directory}})
        asked: list[str] = []

        def play(connection: Any, line: str, request: bytes) -> None:
            first = not asked
            asked.append(line)
            if proven and first and "/path" in line:
                place(connection, line, request)
            else:
                self.release.wait()

        return Terminal(directory, play=play, serves_many=serves_many, asked=asked)


def test_a_session_of_a_server_is_found_beside_servers_that_never_answer(
    stack: ExitStack, tmp_path: Path, hung: Hung
) -> None:
    """Every server may have it. Asked one by one beside 50 stopped servers, 120 s were not enough."""
    stored(tmp_path)
    before = [hung.terminal(f"/b{number}", serves_many=True) for number in range(12)]
    good = Terminal("/c", RETRY, serves_many=True)
    one = surveyor(stack, tmp_path, *before, good, limit=FOREVER)
    for _ in range(3):
        (snapshot,) = one.session("ses_1").snapshots
        assert (snapshot.state, snapshot.endpoint.pid) == (SessionState.RETRY, 13)


def test_a_session_at_rest_is_shown_beside_a_process_of_its_project_that_never_answers(
    stack: ExitStack, tmp_path: Path, hung: Hung
) -> None:
    stored(tmp_path)
    one = surveyor(stack, tmp_path, hung.terminal("/a"), Terminal("/a"), limit=FOREVER)
    found = one.session("ses_1")
    assert [(snapshot.state, snapshot.endpoint.pid) for snapshot in found.snapshots] == [(SessionState.IDLE, 2)]


def test_a_look_for_a_session_of_a_hung_process_ends(stack: ExitStack, tmp_path: Path, hung: Hung) -> None:
    stored(tmp_path)
    found = surveyor(stack, tmp_path, hung.terminal("/a"), limit=FOREVER).session("ses_1")
    assert (found.snapshots, found.endpoints) == ((), 0)


def test_those_in_trouble_are_told_before_a_hung_process_has_answered(
    stack: ExitStack, tmp_path: Path, hung: Hung
) -> None:
    stored(tmp_path)
    one = surveyor(stack, tmp_path, *(hung.terminal("/b") for _ in range(5)), Terminal("/a", RETRY), limit=FOREVER)
    told: list[str] = []
    found = one.stuck(lambda snapshots: told.extend(snapshot.session for snapshot in snapshots))
    assert told == ["ses_1"] == [snapshot.session for snapshot in found.snapshots]
    assert (found.endpoints, found.failing) == (1, 5)


def test_a_process_that_has_not_proven_itself_delays_no_look_for_what_another_has(
    stack: ExitStack, tmp_path: Path, hung: Hung
) -> None:
    stored(tmp_path)
    never = [hung.terminal("/a", proven=False) for _ in range(5)]
    one = surveyor(stack, tmp_path, *never, Terminal("/a", RETRY), limit=FOREVER)
    (snapshot,) = one.session("ses_1").snapshots
    assert snapshot.endpoint.pid == 6
    assert not hung.release.is_set()


def test_the_process_that_worked_on_it_is_asked_first_and_alone(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    first, second, working = Terminal("/a"), Terminal("/a"), Terminal("/a", dict(RETRY))
    one = surveyor(stack, tmp_path, first, second, working, hedge=FOREVER)
    assert one.session("ses_1").snapshots[0].endpoint.pid == 3
    for terminal in (first, second, working):
        wait_until(lambda: any("/question" in line for line in terminal.asked), 10)  # noqa: B023 (called in this round)
        terminal.asked.clear()
    assert one.session("ses_1").snapshots[0].endpoint.pid == 3
    assert (first.asked, second.asked) == ([], [])
    working.status.clear()  # the session is idle there by now, so the other endpoints count as well
    assert one.session("ses_1").snapshots[0].state is SessionState.IDLE
    assert first.was_asked
    assert second.was_asked


def test_servers_are_asked_about_another_project_one_by_one(stack: ExitStack, tmp_path: Path) -> None:
    """A request makes it open the project, with all its plugins."""
    stored(tmp_path)
    servers = [Terminal(f"/b{number}", RETRY, serves_many=True) for number in range(3)]
    one = surveyor(stack, tmp_path, *servers, hedge=FOREVER)
    assert len(one.session("ses_1").snapshots) == 1
    assert [any("directory=%2Fa" in line for line in server.asked) for server in servers].count(True) == 1


@pytest.mark.parametrize("state", ["retry", "busy"])
@pytest.mark.parametrize("source", ["event", "plugin"])
@pytest.mark.parametrize(("came_from", "asked"), [(1, False), (0, True)])
def test_whose_event_has_just_come_is_asked_first(
    stack: ExitStack, tmp_path: Path, came_from: int, asked: bool, source: str, state: str
) -> None:
    """If it works on the session, no other process is asked, and the process table is not searched."""
    stored(tmp_path)
    status = {"ses_1": {**RETRY["ses_1"], "type": state}}
    near, far = Terminal("/a"), Terminal("/b", status, serves_many=True)
    processes, walks = list[OpenCodeProcess](), list[float]()
    for pid, terminal in enumerate((near, far), 1):
        address = stack.enter_context(listening(terminal.answers())).address
        assert isinstance(address, TcpAddress)
        processes.append(OpenCodeProcess(pid, 1.0, None, tmp_path, None, terminal.serves_many, (address,)))

    def walk() -> list[OpenCodeProcess]:
        walks.append(0.0)
        return processes

    finder = EndpointFinder(tmp_path, processes=walk, environ={}, elapsed=partial(next, count(0.0)))
    one = Prober(finder, SessionStore(tmp_path), lambda endpoint: Api(endpoint, 0.5), FixedClock())
    endpoints = finder.find().open
    near.asked.clear()
    walks.clear()
    if source == "event":
        one.located("ses_1", endpoints[came_from])
    else:
        one.reported("ses_1", came_from + 1)
    (snapshot,) = one.session("ses_1").snapshots
    assert (snapshot.state.value, snapshot.endpoint.pid) == (state, 2)
    assert (near.asked != [], walks != []) == (asked, asked)
