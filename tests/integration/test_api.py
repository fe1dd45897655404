"""Tests of the API client with misbehaving servers: every fault is an EndpointError within its time limit."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.snapshot import Endpoint, RunningTool, SessionState, TcpAddress, UnixAddress
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.opencode.client import wire
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v1.responses import Session, version_of
from ocwatchd.opencode.client.v1.routes import Api, Rerun
from ocwatchd.opencode.client.wire import Unanswered
from ocwatchd.opencode.sessions.snapshots import take_snapshot
from tests.conftest import Count
from tests.integration.fakedoor import Play, answer, listening, routes, says

LIMIT = 0.4


def drip(piece: bytes, first: bytes = b"") -> Play:
    """Return an answer that endlessly sends a little at a time, so that no single read takes long."""

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
    with listening(play, tmp_path / "1.sock" if unix else None) as endpoint:
        began = time.monotonic()
        with pytest.raises(EndpointError) as caught:
            Api(endpoint, limit).status("/project")
        assert caught.value.trouble is trouble
        assert time.monotonic() - began < limit + 1
        assert str(endpoint.address) in str(caught.value)
        assert "GET /session/status" in str(caught.value)
    counted("bad inputs", 1)


def test_a_directory_whose_name_is_not_utf_8_is_asked_for_as_javascript_has_it() -> None:
    seen: list[str] = []
    with listening(routes({"/session/status": {}}, seen)) as endpoint:
        Api(endpoint, 5.0).status(os.fsdecode(b"/caf\xe9/\xff\xc3("))
    assert seen == ["GET /session/status?directory=%2Fcaf%EF%BF%BD%2F%EF%BF%BD%EF%BF%BD%28"]


def test_half_an_emoji_in_an_answer_hides_nothing() -> None:
    """JavaScript cuts a long title by UTF-16 units, and writes the incomplete pair as an escape."""
    told = {"ses_1": {"type": "retry", "attempt": 1, "message": "cut HALF", "next": 1}, "ses_2": {"type": "busy"}}
    with listening(says(answer(orjson.dumps(told).replace(b"HALF", rb"\ud83d")))) as endpoint:
        assert set(Api(endpoint, 5.0).status("/project")) == {"ses_1", "ses_2"}


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_who_waits_no_longer_interrupts_nobody(unix: bool, tmp_path: Path) -> None:
    """Work on a request continues until it is answered; only then is the connection closed."""
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

    with listening(slow, tmp_path / "1.sock" if unix else None) as endpoint:
        with pytest.raises(EndpointError):
            Api(endpoint, LIMIT).status("/project")
        assert answered.get(timeout=10) == b"not before the answer"


def test_what_is_left_unanswered_is_bounded_in_number_and_time() -> None:
    kept, pairs = Unanswered(patience=LIMIT, per_endpoint=2, most=3), [socket.socketpair() for _ in range(5)]
    for (ours, _), endpoint in zip(pairs, ("a", "a", "a", "b", "b"), strict=True):
        kept.keep(endpoint, ours)
    closed = [readable(theirs, 0.05) for _, theirs in pairs]
    assert closed == [False, False, True, False, True]
    assert all(readable(theirs, 10) for _, theirs in pairs)
    again, other = socket.socketpair()
    kept.keep("a", again)
    assert not readable(other, 0.05)  # there is room for another request
    for _, theirs in (*pairs, (again, other)):
        theirs.close()


def readable(sock: socket.socket, patience: float) -> bool:
    return bool(select.select([sock], [], [], patience)[0])


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        closed = Endpoint(TcpAddress("127.0.0.1", held.getsockname()[1]))
        for endpoint in (
            closed,
            Endpoint(UnixAddress(str(tmp_path / "none.sock"))),
            Endpoint(UnixAddress("/" + "x" * 200)),
        ):
            with pytest.raises(EndpointError) as caught:
                Api(endpoint, LIMIT).path()
            assert caught.value.trouble is Trouble.UNREACHABLE


def test_errors_and_doors_never_show_the_password() -> None:
    with listening(says(answer(b"", 401))) as endpoint, pytest.raises(EndpointError) as caught:
        Api(Endpoint(endpoint.address, auth="Basic c2VjcmV0"), LIMIT).path()
    assert caught.value.status == 401
    assert "c2VjcmV0" not in str(caught.value) + repr(caught.value.endpoint)


def test_what_a_server_says_reaches_no_terminal_unescaped() -> None:
    for raw in (b"HTTP/1.1 \x1b]0;evil\x07\r\n\r\n", answer(b"\x1b[2J\xe2\x80\xae", 500), b"\x1b[31mSSH\r\n"):
        with listening(says(raw)) as endpoint, pytest.raises(EndpointError) as caught:
            Api(endpoint, LIMIT).path()
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
        with listening(play, unix) as endpoint:
            Api(Endpoint(endpoint.address, auth="Basic eA=="), LIMIT).rerun(
                "ses_1", "/home/dev/my project/ü&x=1", rerun
            )
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
    with listening(routes({}, seen)) as endpoint, pytest.raises(EndpointError):
        Api(endpoint, LIMIT).abort("../config?x=", "/p")
    assert seen == ["POST /session/..%2Fconfig%3Fx%3D/abort?directory=%2Fp"]


@pytest.mark.parametrize("ident", ["", ".", "..", "...", "\ud800"])
def test_an_id_that_is_none_is_not_asked_for(ident: str) -> None:
    """`/session/../abort` is another route on a server that normalises its paths, as Bun's does.
    The `..` comes from a log or a user, and needs no slash for it.
    """
    seen: list[str] = []
    session, model = Session(ident, "/p", None, "1.18.33", None), ModelRef("p", "a")
    with listening(routes({}, seen)) as endpoint:
        api = Api(endpoint)
        for ask in (
            lambda: api.session(ident),
            lambda: api.messages(ident, None, 1),
            lambda: api.raw_messages(ident, None, 1),
            lambda: api.message("ses_1", ident, None),
            lambda: api.abort(ident, "/p"),
            lambda: api.rerun(ident, "/p", Rerun("msg_1", model, None, {})),
            lambda: api.forget(session, "msg_1"),
            lambda: api.forget(Session("ses_1", "/p", None, "1.18.33", None), ident),
            lambda: api.reply(("/permission", ident), True, session),
        ):
            with pytest.raises(EndpointError) as refused:
                ask()
            assert refused.value.status == 404, "the endpoint is sound, and has no such session"
    assert not [line for line in seen if "%3F" not in line]


def test_status_is_read_as_told_and_oddities_are_left_out() -> None:
    told = {
        "ses_a": {"type": "retry", "attempt": 2, "message": "slow down", "next": 1795363285194},
        "ses_b": {"type": "busy"},
        "ses_c": {"type": "retry", "attempt": "two", "message": None, "next": "soon"},
        "ses_d": "busy",
    }
    with listening(routes({"/session/status": told})) as endpoint:
        status = Api(endpoint, LIMIT).status("/p")
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
        ([RETRYING, {"type": "busy"}], {"ses_open": ("busy", None), "ses_later": ("busy", None)}),  # no session
        ([RETRYING], {"ses_open": ("busy", None), "ses_later": ("busy", None)}),
        ([RETRYING] * 3, {"ses_open": ("busy", None), "ses_later": ("busy", None)}),
    ],
)
def test_a_status_without_names_is_told_apart_only_where_it_is_certain(
    entries: list[Any], states: dict[str, Any]
) -> None:
    """1.0.98 - 1.0.162 list the states without their sessions."""
    table = {
        "/session/status": entries,
        "/session": [{"id": ident, "directory": "/p"} for ident in ("ses_later", "ses_open", "ses_done")],
        "/session/ses_open/message": listed_answer(None, 1000),
        "/session/ses_later/message": listed_answer(None, 2000),
        "/session/ses_done/message": listed_answer(5000, 3000),
    }
    with listening(routes(table)) as endpoint:
        status = Api(endpoint, LIMIT).status("/p")
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
    with listening(routes({"/session/ses_1/message": listed})) as endpoint:
        prompt, answer_ = Api(endpoint, LIMIT).messages("ses_1", "/p", 4)
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
        ("1.0.185", [], ["GET /doc"]),  # it would pass an unknown route on to a web host
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
    with listening(routes(table, seen)) as endpoint:
        assert Api(endpoint, LIMIT).asking(Session("ses_1", "/p", version=version)) is bool(listed)
        assert seen == asked
        assert Api(endpoint, LIMIT).asking(Session("ses_2", "/p", version=version)) is False


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

    with listening(play) as endpoint:
        events = Api(endpoint, LIMIT).events("/p", idle=LIMIT)
        assert next(events)["type"] == "server.connected"
        assert next(events) == {"type": "session.status", "properties": {"sessionID": "ses_1"}}
        with pytest.raises(EndpointError) as caught:
            next(events)
        assert caught.value.trouble is Trouble.TIMEOUT


def test_an_overlong_event_is_passed_over_and_an_endless_stream_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    long = b'data: {"type":"' + b"x" * (3 << 20) + b'"}\n'
    with listening(says(head + b'data: {"type":"a"}\n' + long + b'data: {"type":"b"}\n')) as endpoint:
        assert [event["type"] for event in Api(endpoint, LIMIT).events(None, LIMIT)] == ["a", "b"]
    for piece in (b"[" * (1 << 20), (b"data: " + b"x" * 4000 + b"\n") * 256):

        def endless(connection: socket.socket, line: str, request: bytes, piece: bytes = piece) -> None:
            connection.sendall(head)
            while True:
                connection.sendall(piece)

        with listening(endless) as endpoint, pytest.raises(EndpointError) as caught:
            list(Api(endpoint, LIMIT).events(None, 60.0, only=(b"never",)))
        assert caught.value.trouble is Trouble.TOO_LARGE


def test_what_is_asked_to_be_done_is_not_answered_at_length() -> None:
    with listening(flood) as endpoint, pytest.raises(EndpointError) as caught:
        Api(endpoint, 5.0).abort("ses_1", None)
    assert caught.value.trouble is Trouble.TOO_LARGE
    assert "4194304" in str(caught.value)


def test_models_and_agents_are_looked_up() -> None:
    providers = {"providers": [{"id": "p", "models": {"m/1": {}}}, {"id": None}, 3]}
    agents = [{"name": "build"}, {"name": 4}, None]
    with listening(routes({"/config/providers": providers, "/agent": agents})) as endpoint:
        api = Api(endpoint, LIMIT)
        assert api.knows(ModelRef("p", "m/1"), "/p")
        assert not api.knows(ModelRef("p", "m"), "/p")
        assert api.agents("/p") == {"build"}


def test_a_model_that_was_reported_once_is_not_asked_about_again() -> None:
    providers, asked = {"providers": [{"id": "p", "models": {"m": {}}}]}, list[str]()
    with listening(routes({"/config/providers": providers}, asked)) as endpoint:
        api = Api(endpoint, LIMIT)
        Api(endpoint, LIMIT, sharing=api).capacities("/p")
        assert api.knows(ModelRef("p", "m"), "/p")
        assert len(asked) == 1
        assert api.knows(ModelRef("p", "m"), "/elsewhere")
        assert len(asked) == 2, "another project has a configuration of its own"
        api.forget_names()
        assert api.knows(ModelRef("p", "m"), "/p")
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1.18.33", (1, 18, 33)), ("1.2.0-beta.1", (1, 2, 0)), ("local", ()), ("", ()), (None, ()), ("1..2", ())],
)
def test_versions(text: str | None, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_the_cap_leaves_room_for_pasted_images() -> None:
    assert wire.MAX_BODY >= 20_000_000


def test_what_is_shown_of_a_session_is_asked_at_once() -> None:
    """Status, messages, permissions and questions: all are requested before any is answered."""
    together = threading.Barrier(4, timeout=5)
    table = {
        "/session/status": {"ses_1": {"type": "busy"}},
        "/session/ses_1/message": [],
        "/permission": [],
        "/question": [],
    }

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        together.wait()
        routes(table)(connection, line, request)

    with listening(play) as endpoint:
        found = take_snapshot(Api(endpoint, 5.0), Session("ses_1", "/p", version="1.18.33"), SystemClock())
    assert (found.state, found.asking) == (SessionState.BUSY, False)
