"""Who is asked about whom: the door that works on a session is found, and nobody is asked more than needed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.core.views import SessionState, TcpAddress
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.doors import DoorFinder, OpenCodeProcess
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Surveyor
from tests.edges.fakedoor import Play, listening, routes

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
    """One fake OpenCode: what it says of the project /a, and what it was asked."""

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


def surveyor(stack: ExitStack, data: Path, *terminals: Terminal) -> Surveyor:
    processes = []
    for number, terminal in enumerate(terminals):
        door = stack.enter_context(listening(terminal.answers()))
        assert isinstance(door.address, TcpAddress)
        processes.append(OpenCodeProcess(number + 1, 1.0, None, data, None, terminal.serves_many, (door.address,)))
    finder = DoorFinder(data, processes=lambda: processes, environ={})
    return Surveyor(finder, SessionStore(data), lambda door: Api(door, 0.5), FixedClock())


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
    (view,) = found.views
    assert (view.state, view.attempt, view.next_at, view.door.pid) == (SessionState.RETRY, 3, NOW + 5, 2)
    assert (view.seen, view.directory, found.doors) == (NOW, "/a", 2)


def test_the_port_shows_what_it_runs_beside_the_plugins_door(stack: ExitStack, tmp_path: Path) -> None:
    """1.14 and 1.15 keep two sets of sessions: for the plugin's door what the port has prompted is at rest."""
    stored(tmp_path)
    (sockets := tmp_path / "doors").mkdir(mode=0o700)
    stack.enter_context(listening(Terminal("/a").answers(), sockets / "7.sock"))
    port = stack.enter_context(listening(Terminal("/a", RETRY).answers())).address
    assert isinstance(port, TcpAddress)
    process = OpenCodeProcess(7, 1.0, None, tmp_path, None, True, (port,))
    finder = DoorFinder(tmp_path, sockets=sockets, processes=lambda: [process], environ={})
    one = Surveyor(finder, SessionStore(tmp_path), lambda door: Api(door, 0.5), FixedClock())
    for found in (one.session("ses_1"), one.stuck()):
        (view,) = found.views
        assert (view.state, view.door.address) == (SessionState.RETRY, port)
        assert found.doors == 1


def test_a_terminal_of_another_project_is_not_asked(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    own, other = Terminal("/a"), Terminal("/b", RETRY)
    one = surveyor(stack, tmp_path, other, own)
    (view,) = one.session("ses_1").views
    assert (view.state, view.door.pid) == (SessionState.IDLE, 2)
    assert not other.was_asked
    one.stuck()
    assert all("directory=%2Fb" in line for line in other.asked if "/session/status" in line)


def test_without_a_store_everyone_is_asked_about_its_own(stack: ExitStack, tmp_path: Path) -> None:
    (view,) = surveyor(stack, tmp_path, Terminal("/a", RETRY)).session("ses_1").views
    assert view.state is SessionState.RETRY


def test_a_door_that_hangs_is_counted_out_and_hides_nobody(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)
    place = {"/path": {"home": "/h", "worktree": "/", "directory": "/a"}}

    def only_probe(connection: Any, line: str, request: bytes) -> None:
        if "/path" in line:
            routes(place)(connection, line, request)
        else:
            connection.recv(1)

    found = surveyor(stack, tmp_path, Terminal("/a", play=only_probe), Terminal("/a", RETRY)).session("ses_1")
    assert [view.door.pid for view in found.views] == [2]
    assert found.doors == 1
    assert "timeout" in found.troubles[0]


def test_the_stuck_are_found_behind_every_door(stack: ExitStack, tmp_path: Path) -> None:
    stored(tmp_path)  # its answer is open, and its project has no terminal of its own
    server = Terminal("/b", RETRY, serves_many=True)
    (view,) = surveyor(stack, tmp_path, server).stuck().views
    assert view.session == "ses_1"
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
    views = surveyor(stack, tmp_path, own).stuck().views
    assert len(views) == found
    assert all(view.last_error is not None and view.last_error.status == 429 for view in views)


def test_nobody_is_there(stack: ExitStack, tmp_path: Path) -> None:
    assert surveyor(stack, tmp_path).session("ses_1").doors == 0
    assert surveyor(stack, tmp_path).stuck().views == ()


def test_an_unknown_session_is_no_trouble_of_the_door(stack: ExitStack, tmp_path: Path) -> None:
    found = surveyor(stack, tmp_path, Terminal("/a")).session("ses_2")
    assert (found.views, found.doors, found.troubles) == ((), 1, ())
