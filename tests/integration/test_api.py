"""The API client against servers on a bad day: every fault is a DoorError that says what and where, within its time."""

from __future__ import annotations

import queue
import select
import socket
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.core.limits import ModelRef
from ocwatchd.core.views import Door, RunningTool, TcpAddress, UnixAddress
from ocwatchd.opencode import wire
from ocwatchd.opencode.answers import Session, version_of
from ocwatchd.opencode.api import Api, Rerun
from ocwatchd.opencode.http import DoorError, Trouble
from ocwatchd.opencode.unanswered import Unanswered
from tests.conftest import Count
from tests.edges.fakedoor import Play, answer, listening, routes, says

LIMIT = 0.4


def drip(piece: bytes, first: bytes = b"") -> Play:
    """Sends a little now and then, for ever: no single read ever takes long."""

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    return play


def hang(connection: socket.socket, line: str, request: bytes) -> None:
    connection.recv(1)


def flood(connection: socket.socket, line: str, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"[" * 1_000_000)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BAD_DAYS: list[tuple[str, Play, Trouble]] = [
    ("hangs", hang, Trouble.TIMEOUT),
    ("drips its headers", drip(b"X-A: b\r\n", b"HTTP/1.1 200 OK\r\n"), Trouble.TIMEOUT),
    ("drips its body", drip(b" ", HEAD + b"Content-Length: 100000\r\n\r\n{"), Trouble.TIMEOUT),
    ("drips chunks", drip(b"1\r\n \r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"), Trouble.TIMEOUT),
    ("never stops", flood, Trouble.TOO_LARGE),
    ("closes at once", says(b""), Trouble.UNREACHABLE),
    ("closes half way", says(HEAD + b'Content-Length: 100\r\n\r\n{"ses_1"'), Trouble.UNREACHABLE),
    ("closes in a chunk", says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"), Trouble.UNREACHABLE),
    ("speaks another protocol", says(b"SSH-2.0-OpenSSH_9.9\r\n"), Trouble.GARBAGE),
    ("sends broken chunks", says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), Trouble.UNREACHABLE),
    ("sends no JSON", says(answer(b"<!doctype html>")), Trouble.GARBAGE),
    ("sends broken UTF-8", says(answer(b'{"ses_\xff": 1}')), Trouble.GARBAGE),
    ("nests without end", says(answer(b"[" * 100_000)), Trouble.GARBAGE),
    ("sends a number", says(answer(429)), Trouble.GARBAGE),
    ("sends nothing", says(answer(b"")), Trouble.GARBAGE),
    ("has an error", says(answer({"name": "UnknownError"}, 500)), Trouble.STATUS),
    ("wants a password", says(answer(b"", 401)), Trouble.STATUS),
    ("sends us elsewhere", says(b"HTTP/1.1 302 F\r\nLocation: http://example.com\r\n\r\n"), Trouble.STATUS),
]


@pytest.mark.parametrize(("play", "trouble"), [case[1:] for case in BAD_DAYS], ids=[case[0] for case in BAD_DAYS])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_bad_day_is_one_kind_of_error_in_time(
    play: Play, trouble: Trouble, unix: bool, tmp_path: Path, counted: Count
) -> None:
    limit = 5.0 if trouble is Trouble.TOO_LARGE else LIMIT
    with listening(play, tmp_path / "1.sock" if unix else None) as door:
        began = time.monotonic()
        with pytest.raises(DoorError) as caught:
            Api(door, limit).status("/project")
        assert caught.value.trouble is trouble
        assert time.monotonic() - began < limit + 1
        assert str(door.address) in str(caught.value)
        assert "GET /session/status" in str(caught.value)
    counted("bad inputs", 1)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_who_waits_no_longer_interrupts_nobody(unix: bool, tmp_path: Path) -> None:
    """What is at work for a question goes on to its answer; only then is the connection closed."""
    answered: queue.Queue[bytes] = queue.Queue()

    def slow(connection: socket.socket, line: str, request: bytes) -> None:
        connection.settimeout(2 * LIMIT)
        try:
            interrupted = connection.recv(1)
        except TimeoutError:
            connection.sendall(answer({}))
            connection.settimeout(10)
            interrupted = b"not before the answer" + connection.recv(1)
        answered.put(interrupted)

    with listening(slow, tmp_path / "1.sock" if unix else None) as door:
        with pytest.raises(DoorError):
            Api(door, LIMIT).status("/project")
        assert answered.get(timeout=10) == b"not before the answer"


def test_what_is_left_unanswered_is_bounded_in_number_and_time() -> None:
    kept, pairs = Unanswered(patience=LIMIT, per_door=2, most=3), [socket.socketpair() for _ in range(5)]
    for (ours, _), door in zip(pairs, ("a", "a", "a", "b", "b"), strict=True):
        kept.keep(door, ours)
    closed = [readable(theirs, 0.05) for _, theirs in pairs]
    assert closed == [False, False, True, False, True]
    assert all(readable(theirs, 10) for _, theirs in pairs)
    again, other = socket.socketpair()
    kept.keep("a", again)
    assert not readable(other, 0.05)  # there is room again
    for _, theirs in (*pairs, (again, other)):
        theirs.close()


def readable(sock: socket.socket, patience: float) -> bool:
    return bool(select.select([sock], [], [], patience)[0])


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        closed = Door(TcpAddress("127.0.0.1", held.getsockname()[1]))
        for door in (closed, Door(UnixAddress(str(tmp_path / "none.sock"))), Door(UnixAddress("/" + "x" * 200))):
            with pytest.raises(DoorError) as caught:
                Api(door, LIMIT).path()
            assert caught.value.trouble is Trouble.UNREACHABLE


def test_errors_and_doors_never_show_the_password() -> None:
    with listening(says(answer(b"", 401))) as door, pytest.raises(DoorError) as caught:
        Api(Door(door.address, auth="Basic c2VjcmV0"), LIMIT).path()
    assert caught.value.status == 401
    assert "c2VjcmV0" not in str(caught.value) + repr(caught.value.door)


def test_what_a_server_says_reaches_no_terminal_unescaped() -> None:
    for raw in (b"HTTP/1.1 \x1b]0;evil\x07\r\n\r\n", answer(b"\x1b[2J\xe2\x80\xae", 500), b"\x1b[31mSSH\r\n"):
        with listening(says(raw)) as door, pytest.raises(DoorError) as caught:
            Api(door, LIMIT).path()
        assert str(caught.value).isprintable()


def test_the_same_requests_go_over_both_kinds_of_door(tmp_path: Path) -> None:
    requests: list[bytes] = []

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        requests.append(request)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    rerun = Rerun(
        "msg_1", ModelRef("openrouter", "qwen/qwen3:free"), "build", {"system": "Be brief", "tools": {"x": True}}
    )
    for unix in (None, tmp_path / "1.sock"):
        with listening(play, unix) as door:
            Api(Door(door.address, auth="Basic eA=="), LIMIT).rerun("ses_1", "/home/dev/my project/ü&x=1", rerun)
    over_tcp, over_unix = requests
    line, _, head = over_tcp.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    query = b"directory=%2Fhome%2Fdev%2Fmy%20project%2F%C3%BC%26x%3D1"
    assert line == b"POST /session/ses_1/prompt_async?" + query + b" HTTP/1.1"
    assert b"authorization: Basic eA==" in head
    assert orjson.loads(over_tcp.partition(b"\r\n\r\n")[2]) == {
        "messageID": "msg_1",
        "parts": [],
        "model": {"providerID": "openrouter", "modelID": "qwen/qwen3:free"},
        "agent": "build",
        "system": "Be brief",
        "tools": {"x": True},
    }
    assert over_unix.partition(b"\r\n")[0] == over_tcp.partition(b"\r\n")[0]
    assert over_unix.partition(b"\r\n\r\n")[2] == over_tcp.partition(b"\r\n\r\n")[2]


def test_a_session_id_cannot_become_another_route() -> None:
    seen: list[str] = []
    with listening(routes({}, seen)) as door, pytest.raises(DoorError):
        Api(door, LIMIT).abort("../config?x=", "/p")
    assert seen == ["POST /session/..%2Fconfig%3Fx%3D/abort?directory=%2Fp"]


def test_status_is_read_as_told_and_oddities_are_left_out() -> None:
    told = {
        "ses_a": {"type": "retry", "attempt": 2, "message": "slow down", "next": 1795363285194},
        "ses_b": {"type": "busy"},
        "ses_c": {"type": "retry", "attempt": "two", "message": None, "next": "soon"},
        "ses_d": "busy",
    }
    with listening(routes({"/session/status": told})) as door:
        status = Api(door, LIMIT).status("/p")
    assert status["ses_a"].next_at == pytest.approx(1795363285.194)
    assert (status["ses_a"].attempt, status["ses_a"].message) == (2, "slow down")
    assert (status["ses_b"].type, status["ses_b"].next_at) == ("busy", None)
    assert (status["ses_c"].attempt, status["ses_c"].next_at, status["ses_c"].message) == (None, None, "")
    assert "ses_d" not in status


RETRYING = {"type": "retry", "attempt": 1, "message": "slow down", "next": 1795363285194}


def listed_answer(completed: int | None, created: int) -> list[dict[str, Any]]:
    time_ = {"created": created, **({"completed": completed} if completed else {})}
    return [{"info": {"id": "msg_2", "role": "assistant", "time": time_}, "parts": []}]


@pytest.mark.parametrize(
    ("entries", "states"),
    [
        ([], {}),
        ([RETRYING, {**RETRYING, "attempt": 2}], {"ses_open": ("retry", 1), "ses_later": ("retry", 2)}),
        ([RETRYING, {"type": "busy"}], {"ses_open": ("busy", None), "ses_later": ("busy", None)}),  # whose is it?
        ([RETRYING], {"ses_open": ("busy", None), "ses_later": ("busy", None)}),
        ([RETRYING] * 3, {"ses_open": ("busy", None), "ses_later": ("busy", None)}),
    ],
)
def test_a_status_without_names_is_told_apart_only_where_it_is_certain(
    entries: list[Any], states: dict[str, Any]
) -> None:
    """1.0.98 - 1.0.162 list the states and leave out whose they are."""
    table = {
        "/session/status": entries,
        "/session": [{"id": ident, "directory": "/p"} for ident in ("ses_later", "ses_open", "ses_done")],
        "/session/ses_open/message": listed_answer(None, 1000),
        "/session/ses_later/message": listed_answer(None, 2000),
        "/session/ses_done/message": listed_answer(5000, 3000),
    }
    with listening(routes(table)) as door:
        status = Api(door, LIMIT).status("/p")
    assert {session: (found.type, found.attempt) for session, found in status.items()} == states


def test_messages_keep_facts_and_drop_texts() -> None:
    user = {
        "id": "msg_1",
        "role": "user",
        "agent": "build",
        "model": {"providerID": "p", "modelID": "m"},
        "system": "S",
    }
    body = '[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "type": null}}]'
    error = {
        "name": "APIError",
        "data": {
            "message": "Quota",
            "statusCode": 429,
            "isRetryable": True,
            "responseHeaders": {"Retry-After": "7"},
            "responseBody": body,
        },
    }
    failed = {
        "id": "msg_2",
        "role": "assistant",
        "parentID": "msg_1",
        "providerID": "p",
        "modelID": "m",
        "error": error,
    }
    task = {"type": "tool", "tool": "task", "state": {"status": "running", "metadata": {"sessionId": "ses_child"}}}
    done = {"type": "tool", "tool": "bash", "state": {"status": "completed", "output": "SECRET"}}
    odd: list[Any] = [None, 7, {}, {"info": {"id": 5}}, {"info": {"id": "msg_0", "role": "system"}}]
    listed = [
        *odd,
        {"info": user, "parts": [{"type": "text", "text": "SECRET"}]},
        {"info": failed, "parts": [task, done, None]},
    ]
    with listening(routes({"/session/ses_1/message": listed})) as door:
        prompt, answer_ = Api(door, LIMIT).messages("ses_1", "/p", 4)
    assert (prompt.user, prompt.model, prompt.agent, prompt.copied) == (
        True,
        ModelRef("p", "m"),
        "build",
        {"system": "S"},
    )
    assert (answer_.parent, answer_.model, answer_.running) == (
        "msg_1",
        ModelRef("p", "m"),
        (RunningTool("task", "ses_child"),),
    )
    assert answer_.error is not None
    assert (answer_.error.status, answer_.error.retryable, answer_.error.headers) == (429, True, {"retry-after": "7"})
    assert answer_.error.codes == ("429", "RESOURCE_EXHAUSTED")
    assert "SECRET" not in repr((prompt, answer_))


@pytest.mark.parametrize(
    ("version", "listed", "asked"),
    [
        ("1.18.33", ["/permission", "/question"], ["GET /permission?directory=%2Fp"]),  # the first answer is enough
        ("1.0.185", [], ["GET /doc"]),  # it would hand an unknown route to a web host far away
        (None, ["/permission"], ["GET /doc", "GET /permission?directory=%2Fp"]),
        ("local", ["/question"], ["GET /doc", "GET /question?directory=%2Fp"]),
    ],
)
def test_questions_are_asked_only_where_the_route_exists(
    version: str | None, listed: list[str], asked: list[str]
) -> None:
    seen: list[str] = []
    open_ = [{"id": "per_1", "sessionID": "ses_1"}]
    table = {"/doc": {"paths": {route: {} for route in listed}}, "/permission": open_, "/question": open_}
    with listening(routes(table, seen)) as door:
        assert Api(door, LIMIT).asking(Session("ses_1", "/p", version=version)) is bool(listed)
        assert seen == asked
        assert Api(door, LIMIT).asking(Session("ses_2", "/p", version=version)) is False


def test_events_are_read_as_they_come_and_a_silent_stream_ends() -> None:
    def play(connection: socket.socket, line: str, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        blocks = [
            b'data: {"type": "server.connected", "properties": {}}\n\n',
            b': a comment\n\ndata: {"directory": "/p", "payload": {"type": "session.st',
            b'atus", "properties": {"sessionID": "ses_1"}}}\n\n',
        ]
        for block in blocks:
            connection.sendall(b"%x\r\n%b\r\n" % (len(block), block))
            time.sleep(0.05)
        connection.recv(1)

    with listening(play) as door:
        events = Api(door, LIMIT).events("/p", idle=LIMIT)
        assert next(events)["type"] == "server.connected"
        assert next(events) == {"type": "session.status", "properties": {"sessionID": "ses_1"}}
        with pytest.raises(DoorError) as caught:
            next(events)
        assert caught.value.trouble is Trouble.TIMEOUT


def test_an_overlong_event_is_passed_over_and_an_endless_stream_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    long = b'data: {"type":"' + b"x" * (3 << 20) + b'"}\n'
    with listening(says(head + b'data: {"type":"a"}\n' + long + b'data: {"type":"b"}\n')) as door:
        assert [event["type"] for event in Api(door, LIMIT).events(None, LIMIT)] == ["a", "b"]
    for piece in (b"[" * (1 << 20), (b"data: " + b"x" * 4000 + b"\n") * 256):

        def endless(connection: socket.socket, line: str, request: bytes, piece: bytes = piece) -> None:
            connection.sendall(head)
            while True:
                connection.sendall(piece)

        with listening(endless) as door, pytest.raises(DoorError) as caught:
            list(Api(door, LIMIT).events(None, 60.0, only=(b"never",)))
        assert caught.value.trouble is Trouble.TOO_LARGE


def test_what_is_asked_to_be_done_is_not_answered_at_length() -> None:
    with listening(flood) as door, pytest.raises(DoorError) as caught:
        Api(door, 5.0).abort("ses_1", None)
    assert caught.value.trouble is Trouble.TOO_LARGE
    assert "4194304" in str(caught.value)


def test_models_and_agents_are_looked_up() -> None:
    providers = {"providers": [{"id": "p", "models": {"m/1": {}}}, {"id": None}, 3]}
    agents = [{"name": "build"}, {"name": 4}, None]
    with listening(routes({"/config/providers": providers, "/agent": agents})) as door:
        api = Api(door, LIMIT)
        assert api.knows(ModelRef("p", "m/1"), "/p")
        assert not api.knows(ModelRef("p", "m"), "/p")
        assert api.agents("/p") == {"build"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1.18.33", (1, 18, 33)), ("1.2.0-beta.1", (1, 2, 0)), ("local", ()), ("", ()), (None, ()), ("1..2", ())],
)
def test_versions(text: str | None, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_the_cap_leaves_room_for_pasted_images() -> None:
    assert wire.MAX_BODY >= 20_000_000
