"""Tests of moves of OpenCode 2 sessions at moments that a real OpenCode rarely shows, on a fake server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order, ReturnResult
from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress
from ocwatchd.core.domain.types import Cause, ModelRef, Target
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.snapshot import turn_of

PRIMARY, FALLBACK = ModelRef("mock", "primary"), ModelRef("mock", "fallback")
LIMIT = {"type": "provider.rate-limit", "message": "Too many", "status": 429}
STOPPED = {"type": "aborted", "message": "Step interrupted"}
SILENCE = 1.0
"""Seconds of silence for which the session is moved. The move waits half of this time for the target."""


def prompt(number: int) -> dict[str, Any]:
    return {"id": f"msg_{number}", "type": "user", "text": f"Prompt {number}", "time": {"created": 1000 + number}}


def call() -> dict[str, Any]:
    return {"type": "tool", "id": "call_1", "name": "shell", "state": {"status": "completed"}}


class Service:
    """A server with one session. `interrupted` and `begun` are what the session does when it is interrupted and when a
    turn begins in it; `refused` maps a route to the status with which it is refused.
    """

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages, self.active, self.ending = list(messages), {"ses_1"}, 0
        self.queue: list[str] = []
        self.children: list[str] = []
        self.log: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.model = "primary"
        self.staged: str | None = None
        self.interrupted: Callable[[], None] = self.stop
        self.begun: Callable[[], None] = self.answer
        self.refused: dict[str, int] = {}
        self.probed: Callable[[], None] = lambda: None

    # ---- what happens in the session

    def answers(self, number: int, model: str = "primary", **more: Any) -> dict[str, Any]:
        named = {"providerID": "mock", "id": model}
        time = {"created": 1000 + number, **({"completed": 2000 + number} if "finish" in more else {})}
        return {"id": f"msg_{number}", "type": "assistant", "model": named, "content": [], "time": time} | more

    def stop(self) -> None:
        """End the turn. The running answer is then marked as stopped."""
        last = self.messages[-1]
        if last["type"] == "assistant" and "finish" not in last:
            last |= {"error": STOPPED, "finish": "error"}
        self.end("interrupted", reason="user")

    def end(self, how: str, **more: Any) -> None:
        self.active.clear()
        self.log.append(json.dumps({"type": f"session.execution.{how}", "data": {"sessionID": "ses_1", **more}}))

    def answer(self) -> None:
        """Answer the last prompt on the session's model."""
        text = [{"type": "text", "text": "Hello"}]
        self.messages.append(self.answers(90 + len(self.messages), self.model, content=text, finish="stop"))
        self.end("succeeded")

    def begin(self) -> None:
        self.active.add("ses_1")
        self.log.append(json.dumps({"type": "session.execution.started", "data": {"sessionID": "ses_1"}}))
        self.begun()

    # ---- the API

    def get(self, path: str, query: dict[str, list[str]]) -> Any:
        match path.removeprefix("/api/session/ses_1").removeprefix("/api/"):
            case "session/active":
                if self.ending:
                    self.ending -= 1
                    if not self.ending:
                        self.stop()
                self.probed()
                return {session: {"type": "running"} for session in self.active}
            case "session":
                return [{**self.info(), "id": child, "parentID": "ses_1"} for child in self.children]
            case "":
                return self.info()
            case "/message":
                return self.messages[::-1][: int(query["limit"][0])]
            case "/inbox":
                return [{"id": name} for name in self.queue]
            case "/permission" | "/form" | "agent":
                return []
            case "model":
                return [{"providerID": "mock", "id": name} for name in ("primary", "fallback")]
        return None

    def info(self) -> dict[str, Any]:
        model = {"providerID": "mock", "id": self.model}
        return {"id": "ses_1", "location": {"directory": "/p"}, "time": {"created": 1, "updated": 1}, "model": model}

    def post(self, name: str, body: dict[str, Any]) -> int:
        self.calls.append((name, body))
        status = self.refused.get(name) or (409 if name == "revert/stage" and self.active else 204)
        if status != 204:
            return status
        match name:
            case "interrupt":
                self.interrupted()
            case "model":
                self.model = body["model"]["id"]
            case "revert/stage":
                self.staged = body["messageID"]
            case "revert/commit":
                self.commit()
            case "prompt":
                self.commit()
                self.messages.append(prompt(int(body["id"][4:])))
                self.begin()
            case "synthetic":
                self.messages.append({"id": "msg_80", "type": "synthetic", "text": "", "time": {"created": 1080}})
                if self.staged is None:
                    self.begin()
            case "revert/clear":
                self.staged = None
                if self.queue:
                    self.messages.append(prompt(int(self.queue.pop()[4:])))
                    self.begin()
                else:
                    self.active, self.ending = {"ses_1"}, 2
        return status

    def commit(self) -> None:
        """Remove the messages that a revert has marked."""
        if self.staged is not None:
            self.messages = [entry for entry in self.messages if entry["id"] < self.staged]
        self.staged = None

    @property
    def posts(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def serve() -> Iterator[Callable[[Service], Routes]]:
    """Return a function that opens a service's API, until the end of the test."""
    servers: list[ThreadingHTTPServer] = []

    def opened(service: Service) -> Routes:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path.endswith("/log"):
                    events = [*service.log, json.dumps({"type": "log.synced"})]
                    self.reply(200, "".join(f"data: {event}\n\n" for event in events))
                else:
                    found = service.get(address.path, parse_qs(address.query))
                    self.reply(404 if found is None else 200, json.dumps({"data": found}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(service.post(self.path.removeprefix("/api/session/ses_1/"), body), "")

            def reply(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return Routes(Endpoint(TcpAddress("127.0.0.1", server.server_address[1]), generation=2))

    yield opened
    for server in servers:
        server.shutdown()
        server.server_close()


class Time:
    """A clock that moves only while the mover sleeps."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds


def mover(silence: Callable[[str], float | None] = lambda _: None, limit: float = 5.0) -> SwitchModel:
    """Return a mover with a fake clock. `limit` is the timeout of its calls, in seconds."""
    passing = Time()
    return SwitchModel(
        lambda endpoint: Routes(endpoint, limit), passing.sleep, elapsed=lambda: passing.elapsed, silence=silence
    )


def move(api: Routes, target: ModelRef = FALLBACK, by: SwitchModel | None = None, **more: Any) -> MoveOutcome:
    """Move the session because its answer has stalled."""
    snapshot = replace(turn_of(api, "ses_1", SystemClock()).snapshot, silence=SILENCE)
    return (by or mover()).move(Order(snapshot, Target(target), **{"cause": Cause.STALL, **more}))


Serve = Callable[[Service], Routes]


def test_a_turn_that_takes_its_time_to_end_is_run_again(serve: Serve) -> None:
    """The releases confirm an interrupt before the turn has ended, and refuse to revert it until then."""
    service = Service(prompt(1))
    service.interrupted = lambda: setattr(service, "ending", 4)
    assert move(serve(service)).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "revert/stage", "model", "prompt"]


def test_a_wait_that_takes_its_time_to_end_is_moved(serve: Serve) -> None:
    service = Service(prompt(1))
    service.messages.append(service.answers(2, retry={"attempt": 2, "at": 4_102_444_800_000, "error": LIMIT}))
    service.interrupted = lambda: setattr(service, "ending", 4)
    assert move(serve(service), cause=None).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "revert/stage", "model", "prompt"]


@pytest.mark.parametrize("slow", ["interrupt", "the check that follows it"])
def test_an_interrupt_whose_answer_is_late_is_not_sent_again(
    slow: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCode may carry out the first one late. A second one would then stop the turn that has begun again."""
    monkeypatch.setattr("ocwatchd.opencode.client.v2.routes.ONCE_LIMIT", 0.5)
    service = Service(prompt(1))

    def interrupted() -> None:
        service.stop()
        if slow == "interrupt":
            time.sleep(1.2)
        else:
            service.probed = late

    def late() -> None:
        service.probed = lambda: None
        time.sleep(1.2)

    service.interrupted = interrupted
    outcome = move(serve(service), by=mover(limit=0.5))
    assert service.posts.count("interrupt") == 1
    assert outcome.result is (MoveResult.FAILED if slow == "interrupt" else MoveResult.MOVED), outcome.why


def test_an_interrupted_turn_that_does_not_end_is_not_taken_for_new_work_of_the_user(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocwatchd.opencode.client.v2.routes.END_TIMEOUT", 0.2)
    service = Service(prompt(1))
    service.interrupted = lambda: None
    outcome = move(serve(service))
    assert (outcome.result, outcome.stranded) == (MoveResult.FAILED, True)
    assert outcome.why == "the interrupted turn has not ended yet"


def test_after_an_interrupt_of_ours_a_wait_that_ends_soon_is_interrupted_again(serve: Serve) -> None:
    """The first interrupt may still take effect, and would then stop the attempt on the new model."""
    service = Service(prompt(1))
    soon = 1000 * (SystemClock().now() + 1)
    service.messages.append(service.answers(2, retry={"attempt": 2, "at": soon, "error": LIMIT}))
    assert move(serve(service), cause=None, own_abort=True).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "revert/stage", "model", "prompt"]


def test_a_turn_that_begins_late_is_begun_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second synthetic message would be a second turn."""
    monkeypatch.setattr("ocwatchd.opencode.client.v2.routes.ONCE_LIMIT", 0.5)
    service = Service(prompt(1))
    service.messages.append(service.answers(2, content=[call()]))
    begun = service.begun

    def late() -> None:
        time.sleep(1.2)
        begun()

    service.begun = late
    outcome = move(serve(service))
    assert service.posts.count("synthetic") == 1, service.posts
    assert outcome.result is MoveResult.MOVED, outcome.why


def test_a_return_that_took_effect_after_its_timeout_is_no_choice_of_the_user(serve: Serve) -> None:
    service = Service(prompt(1))
    service.active.clear()
    service.model = "fallback"
    api = serve(service)
    late = mover(limit=0.5)
    post = service.post

    def slow(name: str, body: dict[str, Any]) -> int:
        service.post = post  # type: ignore[method-assign]  # only the first call is slow
        status = post(name, body)
        time.sleep(1.2)
        return status

    service.post = slow  # type: ignore[method-assign]  # see above
    origin, target = Target(PRIMARY), Target(FALLBACK)
    assert late.return_session(api.endpoint, "ses_1", origin, target) is ReturnResult.LATER
    assert late.return_session(api.endpoint, "ses_1", origin, target) is ReturnResult.DONE
    assert service.model == "primary"


def test_a_prompt_that_waits_behind_a_finished_answer_is_not_left_waiting(serve: Serve) -> None:
    service = Service(prompt(1))
    service.messages.append(service.answers(2, finish="stop"))
    service.queue = ["msg_3"]
    assert move(serve(service)).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "model", "revert/clear"]
    assert [entry["id"] for entry in service.messages] == ["msg_1", "msg_2", "msg_3", "msg_93"]


def test_a_prompt_that_the_interrupt_has_stopped_is_begun_again_and_not_lost(serve: Serve) -> None:
    """The stalled answer ends just before the interrupt, and OpenCode takes up the next prompt."""
    service = Service(prompt(1))
    running = service.answers(2)
    service.messages.append(running)

    def end() -> None:
        running.update(finish="stop", time={"created": 1002, "completed": 1003})
        service.messages.append(prompt(3))
        service.stop()

    service.interrupted = end
    assert move(serve(service)).result is MoveResult.MOVED
    assert [body.get("id") for name, body in service.calls if name == "prompt"] == ["msg_3"]
    assert [entry["id"] for entry in service.messages] == ["msg_1", "msg_2", "msg_3", "msg_93"]


@pytest.mark.parametrize("next_prompt", [False, True])
def test_an_answer_that_ends_just_before_the_interrupt_is_kept(next_prompt: bool, serve: Serve) -> None:
    service = Service(prompt(1))
    running = service.answers(2)
    service.messages.append(running)

    def end() -> None:
        running.update(finish="stop", time={"created": 1002, "completed": 1003})
        if next_prompt:
            service.messages += [prompt(3), service.answers(4, finish="stop")]
        service.stop()

    service.interrupted = end
    outcome = move(serve(service))
    assert (outcome.result, outcome.stranded) == (MoveResult.ALREADY, False)
    assert service.posts == ["interrupt"]


def after_the_post(service: Service, steps: dict[int, Callable[[], object]]) -> None:
    """Let the new run begin without an answer, and take each step at that probe after the post."""
    probes = 0

    def probed() -> None:
        nonlocal probes
        if service.posts[-1:] == ["prompt"]:
            probes += 1
            steps.get(probes, lambda: None)()

    service.probed, service.begun = probed, lambda: None


@pytest.mark.parametrize(
    ("how", "more", "result"),
    [
        ("interrupted", {"reason": "user"}, MoveResult.USER_TOOK_OVER),
        ("interrupted", {"reason": "shutdown"}, MoveResult.FAILED),
        ("failed", {"error": LIMIT}, MoveResult.FAILED),
        ("succeeded", {}, MoveResult.FAILED),
    ],
)
def test_a_user_who_stops_the_new_run_before_its_first_byte_is_obeyed(
    how: str, more: dict[str, Any], result: MoveResult, serve: Serve
) -> None:
    """OpenCode 2 then lists no answer. Without the log, the turn would look as if it had never begun."""
    service = Service(prompt(1), prompt(2))
    service.messages.insert(1, service.answers(1, id="msg_11", finish="stop"))
    after_the_post(service, {2: lambda: service.end(how, **more)})
    outcome = move(serve(service), PRIMARY)
    assert (outcome.result, outcome.stranded) == (result, result is MoveResult.FAILED)
    assert service.posts == ["interrupt", "revert/stage", "prompt"]


def test_a_log_that_is_late_shows_that_the_user_has_stopped_the_new_run(serve: Serve) -> None:
    service = Service(prompt(1))
    after_the_post(service, {2: service.active.clear, 4: service.stop})
    assert move(serve(service), PRIMARY).result is MoveResult.USER_TOOK_OVER


def test_a_run_that_has_not_begun_was_not_stopped_by_the_user(serve: Serve) -> None:
    service = Service(prompt(1))
    service.begun = service.active.clear
    outcome = move(serve(service), PRIMARY)
    assert (outcome.result, outcome.stranded) == (MoveResult.FAILED, True)


@pytest.mark.parametrize(("silence", "result"), [(5.0, MoveResult.ALREADY), (25.0, MoveResult.MOVED)])
def test_a_subagent_that_has_continued_is_not_stopped(silence: float, result: MoveResult, serve: Serve) -> None:
    """The session that waits for it is silent all the while, because its tool is running."""
    service = Service(prompt(1))
    running = {**call(), "name": "subagent", "state": {"status": "running"}}
    service.messages.append(service.answers(2, content=[running]))
    service.children, service.active = ["ses_2"], {"ses_1", "ses_2"}
    by = mover({"ses_2": silence}.get)
    assert move(serve(service), by=by, child="ses_2", silence=20.0).result is result
    assert ("interrupt" in service.posts) is (result is MoveResult.MOVED)


def test_a_partial_answer_that_cannot_be_removed_does_not_keep_the_turn_from_going_on(serve: Serve) -> None:
    """While a revert is staged, OpenCode admits a synthetic message and begins no turn."""
    service = Service(prompt(1))
    service.messages += [service.answers(2, content=[call()], finish="tool-calls"), service.answers(3)]
    service.refused = {"revert/commit": 409}
    assert move(serve(service)).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "revert/stage", "revert/commit", "revert/clear", "model", "synthetic"]


def test_a_partial_answer_is_removed_before_the_turn_goes_on(serve: Serve) -> None:
    service = Service(prompt(1))
    service.messages += [service.answers(2, content=[call()], finish="tool-calls"), service.answers(3)]
    assert move(serve(service)).result is MoveResult.MOVED
    assert service.posts == ["interrupt", "revert/stage", "revert/commit", "model", "synthetic"]
    assert [entry["id"] for entry in service.messages][:3] == ["msg_1", "msg_2", "msg_80"]
