"""A minimal fake of OpenCode behind an endpoint: sessions that are stuck on a model, and counts of their requests.

Other tests start real OpenCode processes. This fake is for tests with hundreds of sessions, a kill at every moment, or
an endpoint that misbehaves (`misbehaviour`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.misbehaviour import Misbehaviour

WAIT_MS = 9_000_000
"""Milliseconds until the next attempt, as shown by the fake: the same wait as in the tests' refusals."""


@dataclass(slots=True)
class FakeSession:
    """One session whose only prompt is retried on mock/primary."""

    id: str
    status: str = "retry"
    messages: list[dict[str, Any]] = field(default_factory=list)
    runs: int = 0
    """Number of times that the prompt was run on a fallback."""
    ran: list[tuple[float, str]] = field(default_factory=list)
    """Each run of the prompt: its time (epoch seconds) and its model."""
    posts: int = 0
    spoilt: int = 0
    """Number of aborts of a working or completed turn; each of them loses an answer."""
    bad: dict[str, Misbehaviour] = field(default_factory=dict)
    """The endpoint's misbehaviour for this session, by step."""

    @property
    def answered(self) -> bool:
        """Return whether the answer is complete."""
        last = self.messages[-1]["info"]
        return "error" not in last and "completed" in last["time"]


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    request_queue_size = 64


class _TcpServer(ThreadingHTTPServer):
    request_queue_size = 64


STEPS = {
    ("GET", "path"): "probe",
    ("GET", "session/status"): "list",
    ("GET", "session/ID/message"): "look",
    ("GET", "config/providers"): "models",
    ("GET", "global/event"): "events",
    ("POST", "session/ID/abort"): "abort",
    ("POST", "session/ID/prompt_async"): "prompt",
}
"""The requests that the daemon sends to an endpoint during a move, and their names."""


class FakeOpenCode:
    """A server for a `with` block, over TCP or at a socket file. A fallback takes `thinking` seconds to answer.

    `bad` is the endpoint's misbehaviour by step, instead of an answer. `seen` is called with every step before the step
    is done.
    """

    def __init__(self, directory: str, thinking: float = 0.15, unix: Path | None = None) -> None:
        self.directory, self.thinking = directory, thinking
        self.sessions: dict[str, FakeSession] = {}
        self.bad: dict[str, Misbehaviour] = {}
        self.seen: Callable[[str, FakeSession | None], None] = lambda step, session: None
        self.toasts: list[str] = []
        self.closing = threading.Event()
        self.dead = False
        self._lock = threading.RLock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                self._act(path, lambda: fake.get(path))

            def do_POST(self) -> None:
                path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._act(path, lambda: fake.post(path, json.loads(body or b"{}")))

            def _act(self, path: str, act: Callable[[], object]) -> None:
                step, session = fake.step_of(self.command, path)
                fake.seen(step, session)
                if fake.dead:
                    self.close_connection = True
                    return
                bad = (session.bad if session else {}).get(step) or fake.bad.get(step)
                if bad is None:
                    self._reply(act())
                else:
                    self.close_connection = True
                    bad(self.connection, act, fake.closing)

            def _reply(self, answer: object) -> None:
                data = json.dumps(answer).encode()
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    return  # the daemon was killed while it was listening

        self._server = _UnixServer(str(unix), Handler) if unix else _TcpServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = "" if unix else f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.die()
        self._server.shutdown()

    def die(self) -> None:
        """Stop as if by SIGKILL: close the server, leave open requests unanswered, and stop all work."""
        with self._lock:
            self.dead = True
            self._server.server_close()
            for session in self.sessions.values():
                session.status = "idle"

    def limited(self, ident: str) -> FakeSession:
        """Return a new session whose prompt has just been refused."""
        session = FakeSession(ident)
        prompt = {"id": f"msg_0_{ident}", "role": "user", "agent": "build", "time": {"created": _now()}}
        session.messages.append({"info": prompt | {"model": _model("mock/primary")}, "parts": [{"type": "text"}]})
        with self._lock:
            self.sessions[ident] = session
            self._begin(session, "mock/primary")
        return session

    def given_up(self, ident: str, model: str, words: str) -> FakeSession:
        """Return a new session whose prompt has just been refused and is not retried."""
        session = FakeSession(ident, "idle")
        prompt = {"id": f"msg_0_{ident}", "role": "user", "agent": "build", "time": {"created": _now()}}
        session.messages.append({"info": prompt | {"model": _model(model)}, "parts": [{"type": "text"}]})
        with self._lock:
            self.sessions[ident] = session
            info = self._begin(session, model)["info"]
            info["time"]["completed"] = _now()
            info["error"] = {"name": "APIError", "data": {"message": words, "statusCode": 429, "isRetryable": False}}
        return session

    def _begin(self, session: FakeSession, model: str) -> dict[str, Any]:
        info: dict[str, Any] = {
            "id": f"msg_{len(session.messages)}_{session.id}",
            "role": "assistant",
            "agent": "build",
        }
        info |= _model(model) | {"parentID": session.messages[0]["info"]["id"], "time": {"created": _now()}}
        session.messages.append({"info": info, "parts": []})
        return session.messages[-1]

    def step_of(self, method: str, path: str) -> tuple[str, FakeSession | None]:
        """Return the step that corresponds to a request, and the session in the request."""
        parts = path.strip("/").split("/")
        session = self.sessions.get(parts[1]) if parts[0] == "session" and len(parts) > 1 else None
        named = "/".join([parts[0], "ID", *parts[2:]]) if session else "/".join(parts)
        return STEPS.get((method, named), named), session

    def get(self, path: str) -> object:
        """Return the answer to a GET; None means not found."""
        with self._lock:
            match path.strip("/").split("/"):
                case ["path"]:
                    return {"home": self.directory, "worktree": self.directory, "directory": self.directory}
                case ["session", "status"]:
                    return {s.id: self._status(s) for s in self.sessions.values() if s.status != "idle"}
                case ["session", ident] if ident in self.sessions:
                    return {"id": ident, "directory": self.directory, "version": "1.18.33", "time": {"updated": _now()}}
                case ["session", ident, "message"] if ident in self.sessions:
                    return self.sessions[ident].messages
                case ["config", "providers"]:
                    models = {"mock": {"primary": {}}, "mock2": {"fallback": {}}, "mock3": {"third": {}}}
                    models["mock"] |= {s.messages[0]["info"]["model"]["modelID"]: {} for s in self.sessions.values()}
                    return {"providers": [{"id": name, "models": held} for name, held in models.items()]}
                case ["agent"]:
                    return [{"name": "build"}]
                case ["permission"] | ["question"]:
                    return []
                case ["doc"]:
                    return {"paths": {}}
        return None

    def _status(self, session: FakeSession) -> dict[str, object]:
        if session.status == "retry":
            return {"type": "retry", "attempt": 1, "message": "Too Many Requests", "next": _now() + WAIT_MS}
        return {"type": session.status}

    def post(self, path: str, body: dict[str, Any]) -> object:
        """Carry out a POST and return its answer."""
        with self._lock:
            match path.strip("/").split("/"):
                case ["session", ident, "abort"] if ident in self.sessions:
                    self._abort(self.sessions[ident])
                    return True
                case ["session", ident, "prompt_async"] if ident in self.sessions:
                    self._run(self.sessions[ident], body["model"])
                    return {}
                case ["tui", "show-toast"]:
                    self.toasts.append(json.dumps(body))
                    return True
        return None

    def _abort(self, session: FakeSession) -> None:
        session.spoilt += session.status == "busy" or session.answered
        if session.status != "idle":
            session.status = "idle"
            info = session.messages[-1]["info"]
            info["time"]["completed"] = _now()
            info["error"] = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}

    def _run(self, session: FakeSession, model: dict[str, str]) -> None:
        session.posts += 1
        if session.status != "idle" or session.answered:
            return  # OpenCode starts one run for two posts, and none for a post of an answered prompt
        session.runs += 1
        session.ran.append((time.time(), f"{model['providerID']}/{model['modelID']}"))
        session.status = "busy"
        message = self._begin(session, f"{model['providerID']}/{model['modelID']}")
        message["parts"] = [{"type": "text"}]
        threading.Timer(self.thinking, self._finish, (session, message)).start()

    def _finish(self, session: FakeSession, message: dict[str, Any]) -> None:
        with self._lock:
            if session.status == "busy" and session.messages[-1] is message:
                session.status = "idle"
                message["info"]["time"]["completed"] = _now()
                message["info"]["finish"] = "stop"


def _now() -> int:
    return int(time.time() * 1000)


def _model(name: str) -> dict[str, str]:
    provider, _, model = name.partition("/")
    return {"providerID": provider, "modelID": model}
