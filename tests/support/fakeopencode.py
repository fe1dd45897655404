"""An OpenCode of a few lines behind a TCP door: sessions that are stuck on a model, and what is done to them, counted.

Real OpenCodes are started elsewhere; this one is for what takes hundreds of sessions, or a kill at every moment.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

WAIT_MS = 9_000_000
"""Until the next attempt that it shows: as long as the refusals in the tests say."""


@dataclass(slots=True)
class FakeSession:
    """One session whose only prompt is retried on mock/primary."""

    id: str
    status: str = "retry"
    messages: list[dict[str, Any]] = field(default_factory=list)
    runs: int = 0
    """How often the prompt was run on a target."""
    posts: int = 0
    spoilt: int = 0
    """Aborts that hit a turn which worked or was done: an answer lost."""

    @property
    def answered(self) -> bool:
        """Whether a target's answer is complete."""
        last = self.messages[-1]["info"]
        return last["providerID"] != "mock" and "completed" in last["time"]


class FakeOpenCode:
    """Serves until the end of the block. A target takes `thinking` seconds for its answer."""

    def __init__(self, directory: str, thinking: float = 0.15) -> None:
        self.directory, self.thinking = directory, thinking
        self.sessions: dict[str, FakeSession] = {}
        self.toasts: list[str] = []
        self._lock = threading.RLock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(fake.get(urlsplit(self.path).path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._reply(fake.post(urlsplit(self.path).path, json.loads(body or b"{}")))

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
                    return  # the daemon was killed while it listened

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def limited(self, ident: str) -> FakeSession:
        """A new session, refused just now."""
        session = FakeSession(ident)
        prompt = {"id": f"msg_0_{ident}", "role": "user", "agent": "build", "time": {"created": _now()}}
        session.messages.append({"info": prompt | {"model": _model("mock/primary")}, "parts": [{"type": "text"}]})
        with self._lock:
            self.sessions[ident] = session
            self._begin(session, "mock/primary")
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

    def get(self, path: str) -> object:
        """What a GET answers; None: not found."""
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
        """What a POST does and answers."""
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
            return  # OpenCode makes one run of two posts, and none for an answered prompt
        session.runs += 1
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
