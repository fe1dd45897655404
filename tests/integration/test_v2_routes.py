"""Tests of OpenCode 2's API with the names of the preview and of the releases, on a fake server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.snapshot import Endpoint, SessionState, TcpAddress
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v2.errors import error_of
from ocwatchd.opencode.client.v2.event_stream import EventStream, Progress
from ocwatchd.opencode.client.v2.messages import again, retry_of
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.snapshot import is_own_delay, turn_of

SESSION = {"id": "ses_1", "location": {"directory": "/p"}, "time": {"created": 1000, "updated": 1000}}
PROMPT = {"id": "msg_1", "type": "user", "text": "Hello", "time": {"created": 1000}}
LIMIT = {"type": "provider.rate-limit", "message": "Too many", "status": 429, "response": {"body": "{}"}}


def answer(**more: Any) -> dict[str, Any]:
    model = {"providerID": "mock", "id": "primary"}
    return {"id": "msg_2", "type": "assistant", "model": model, "content": [], "time": {"created": 1001}, **more}


def routes_of(messages: list[dict[str, Any]], *, active: bool, queue: str, about: str) -> dict[str, Any]:
    return {
        about: {"version": "2.1.0", "pid": os.getpid()},
        "/api/session/active": {"data": {"ses_1": {"type": "running"}} if active else {}},
        "/api/session/ses_1": {"data": SESSION},
        "/api/session/ses_1/message": {"data": messages[::-1]},
        f"/api/session/ses_1/{queue}": {"data": [{"id": "msg_9"}]},
    }


@contextmanager
def served(answers: Mapping[str, Any]) -> Iterator[Routes]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(urlsplit(self.path).path)
            found = found() if callable(found) else found
            data = found if isinstance(found, bytes) else json.dumps(found).encode() if found is not None else b""
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield Routes(Endpoint(TcpAddress("127.0.0.1", server.server_address[1]), os.getpid(), generation=2))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("queue", "about"), [("pending", "/api/health"), ("inbox", "/api/info")])
def test_both_sets_of_names_are_understood(queue: str, about: str) -> None:
    with served(routes_of([PROMPT, answer(finish="stop")], active=False, queue=queue, about=about)) as api:
        assert api.about()["version"] == "2.1.0"
        turn = turn_of(api, "ses_1", SystemClock())
        assert (turn.queued, turn.snapshot.state) == (1, SessionState.IDLE)
        assert api.queued("ses_1") == 1


def test_what_answers_without_version_and_process_is_no_opencode_2() -> None:
    with served({"/api/health": {"healthy": True}}) as api, pytest.raises(EndpointError):
        api.about()


@pytest.mark.parametrize(
    ("message", "active", "state", "aborted"),
    [
        (answer(retry={"attempt": 2, "at": 4_102_444_800_000, "error": LIMIT}), True, SessionState.RETRY, False),
        (answer(retry={"attempt": 2, "at": 1000, "error": LIMIT}), True, SessionState.BUSY, False),
        (answer(), True, SessionState.BUSY, False),
        (answer(finish="error", error=LIMIT), False, SessionState.ERROR, False),
        (answer(), False, SessionState.ERROR, True),
        (answer(finish="tool-calls"), False, SessionState.ERROR, True),
        (answer(finish="stop"), False, SessionState.IDLE, False),
    ],
)
def test_what_a_session_does(message: dict[str, Any], active: bool, state: SessionState, aborted: bool) -> None:
    with served(routes_of([PROMPT, message], active=active, queue="inbox", about="/api/info")) as api:
        seen = turn_of(api, "ses_1", SystemClock()).snapshot
        assert (seen.state, seen.aborted, seen.user_message) == (state, aborted, "msg_1")
        if state is SessionState.RETRY:
            assert (seen.attempt, seen.honoured) == (1, True)
            assert seen.refusal is not None
            assert (seen.refusal.status, seen.refusal.typed) == (429, "rate_limit")


def test_a_turn_that_ends_while_it_is_looked_at_was_not_stopped() -> None:
    """Messages and activity are requested at the same time: the messages may be from before the end."""
    seen = iter([answer(), answer(finish="stop")])
    answers = routes_of([PROMPT], active=False, queue="inbox", about="/api/info")
    answers["/api/session/ses_1/message"] = lambda: {"data": [next(seen), PROMPT]}
    with served(answers) as api:
        snapshot = turn_of(api, "ses_1", SystemClock()).snapshot
        assert (snapshot.state, snapshot.aborted) == (SessionState.IDLE, False)


def test_the_model_of_an_answer_that_has_not_begun_is_known() -> None:
    """An answer is listed only after its first byte. Before that, its model is the session's or the default one."""
    later = {**PROMPT, "id": "msg_3", "time": {"created": 2000}}
    default, chosen = {"providerID": "mock", "id": "default"}, {"providerID": "mock", "id": "chosen"}
    done = answer(finish="stop", time={"created": 1001, "completed": 1002})
    for messages, model, wanted in (
        ([PROMPT], None, "mock/default"),
        ([PROMPT], chosen, "mock/chosen"),
        ([PROMPT, done, later], None, "mock/primary"),
        ([PROMPT, done, later], chosen, "mock/chosen"),
        ([PROMPT, answer()], chosen, "mock/primary"),
    ):
        answers = routes_of(messages, active=True, queue="inbox", about="/api/info")
        answers["/api/session/ses_1"] = {"data": {**SESSION, **({"model": model} if model else {})}}
        answers["/api/model/default"] = {"data": default}
        with served(answers) as api:
            assert str(turn_of(api, "ses_1", SystemClock()).snapshot.model) == wanted


@pytest.mark.parametrize("error", [{"type": "aborted", "message": "Step interrupted"}, LIMIT])
def test_the_error_of_an_earlier_turn_is_not_that_of_an_answer_that_has_not_begun(error: dict[str, Any]) -> None:
    """Otherwise, after a stopped turn, the next one would count as stopped too until its first byte."""
    later = {**PROMPT, "id": "msg_3", "time": {"created": 2000}}
    messages = [PROMPT, answer(finish="error", error=error), later]
    with served(routes_of(messages, active=True, queue="inbox", about="/api/info")) as api:
        snapshot = turn_of(api, "ses_1", SystemClock()).snapshot
        assert (snapshot.state, snapshot.last_error, snapshot.user_message) == (SessionState.BUSY, None, "msg_3")


@pytest.mark.parametrize("status", ["running", "completed"])
def test_a_summary_that_is_being_written_is_recognized(status: str) -> None:
    summary = {"id": "msg_3", "type": "compaction", "status": status, "time": {"created": 1002}}
    with served(routes_of([PROMPT, answer(), summary], active=True, queue="inbox", about="/api/info")) as api:
        assert turn_of(api, "ses_1", SystemClock()).snapshot.compacting is (status == "running")


def test_a_tool_that_has_ended_and_one_that_runs_are_told_apart() -> None:
    def call(status: str) -> dict[str, Any]:
        return {"type": "tool", "id": "call_1", "name": "shell", "state": {"status": status}}

    for status, ended, running in (
        ("completed", True, 0),
        ("error", True, 0),
        ("running", False, 1),
        ("streaming", False, 1),
        ("new", False, 1),
    ):
        messages = [PROMPT, answer(content=[call(status)])]
        with served(routes_of(messages, active=True, queue="inbox", about="/api/info")) as api:
            turn = turn_of(api, "ses_1", SystemClock())
            assert (turn.tools_ended, len(turn.snapshot.running)) == (ended, running), status
            assert turn.snapshot.tool_executing is (running == 1 and status != "streaming")


@pytest.mark.parametrize(
    ("messages", "silence"),
    [
        ([PROMPT, answer(retry={"attempt": 2, "at": 1_000_600_000, "error": LIMIT})], 100.0),
        ([PROMPT, answer(retry={"attempt": 2, "at": 999_000_000, "error": LIMIT})], 700.0),
        ([PROMPT, answer()], 700.0),
        ([PROMPT, answer(retry={"attempt": 2, "at": 1_000_600_000, "error": LIMIT}), {**PROMPT, "id": "msg_3"}], 700.0),
    ],
)
def test_a_wait_that_began_before_the_stream_is_not_silence(messages: list[dict[str, Any]], silence: float) -> None:
    class At:
        def now(self) -> float:
            return 1_000_000.0

    class Kept(StreamActivity):
        def lost(self, endpoint: Hashable) -> None:
            """Keep the sessions, so that they can be read after the stream."""

    elapsed = 0.0
    activity = Kept(elapsed=lambda: elapsed)
    answers = routes_of(messages, active=True, queue="inbox", about="/api/info")
    answers["/api/session"] = {"data": [SESSION]}
    answers["/api/experimental/session/ses_1/log"] = b'data: {"type":"log.synced"}'
    answers["/api/event"] = b'data: {"type":"server.connected"}\n\ndata: {"type":"session.step.\n\n'
    with served(answers) as api, pytest.raises(EndpointError, match="not JSON"):
        EventStream(api.endpoint, lambda _: None, Progress(), At(), activity).follow()
    elapsed = 700.0
    assert activity.silence("ses_1") == silence


def test_errors_of_the_preview_and_of_the_releases() -> None:
    preview = error_of({"type": "provider.unknown", "message": 'Provider request failed with HTTP 402: {"error": "x"}'})
    release = error_of(
        {"type": "provider.quota", "message": "No", "status": 402, "response": {"body": '{"error": "x"}'}}
    )
    assert preview is not None
    assert release is not None
    assert (preview.status, release.status, preview.name, release.typed) == (402, 402, "APIError", "quota")
    bare = error_of({"type": "provider.rate-limit", "message": "Provider request failed with HTTP 429"})
    assert bare is not None
    assert bare.status == 429
    stopped = error_of({"type": "aborted", "message": "Step interrupted"})
    assert stopped is not None
    assert stopped.name == "MessageAbortedError"
    assert [error_of(value) for value in (None, {}, [], "x", {"type": 5})] == [None] * 5
    assert [retry_of(value) for value in (None, {}, {"attempt": True}, {"attempt": "2"})] == [None] * 4


def test_opencode_s_own_delays_of_both_kinds() -> None:
    preview, released = (2.0, 4.0, 8.0, 16.0), (2.1, 4.9, 7.0, 10.0, 12.5)
    for delays in (preview, released):
        assert all(is_own_delay(at, seconds, 0.25) for at, seconds in enumerate(delays, 1)), delays
    assert not any(is_own_delay(at, seconds, 0.25) for at, seconds in ((1, 5.0), (1, 3600.0), (2, 20.0), (4, 40.0)))


def test_a_prompt_is_sent_again_with_all_that_it_holds() -> None:
    stored = {
        "id": "msg_1", "type": "user", "text": "Hi", "time": {"created": 1}, "metadata": {"a": 1},
        "files": [{"data": "QQ==", "mime": "image/png", "source": {"type": "uri", "uri": "file:///a"}, "name": "a"}],
    }  # fmt: skip
    assert again(stored) == {
        "id": "msg_1", "text": "Hi", "metadata": {"a": 1},
        "files": [{"uri": "data:image/png;base64,QQ==", "name": "a"}],
    }  # fmt: skip
