"""The drill's provider: a loopback server that limits its primary model for a few seconds and answers all others.

It is also OpenCode's proxy. It refuses all connections to other hosts and records them, so that the drill can report
them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from ocwatchd.clock import Clock, SystemClock

PRIMARY, FALLBACK, TITLES = "drill/primary", "drill-fallback/stand-in", "drill-titles/small"
CATALOGUE = "/api.json"
"""The path from which OpenCode fetches its list of models. OpenCode 1.1.34 has no built-in list, so it cannot run a
prompt without this one.
"""
ROUTE = "/v1/chat/completions"
BODY_CAP = 8 << 20
"""Maximum size of a request, in bytes. OpenCode's first request, with system prompt and tools, is about 60 kB."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to a model. `time` is its arrival in epoch seconds, and `text` contains all of the user's text."""

    model: str
    time: float
    status: int
    text: str


class DrillProvider:
    """The provider as a context manager; thread-safe. It refuses requests to `PRIMARY` for `cooldown` seconds after
    the first one."""

    def __init__(self, cooldown: float = 8.0, clock: Clock | None = None) -> None:
        """Bind to an unused loopback port. Requests are answered only within the context."""
        self.cooldown = cooldown
        self.outside: set[str] = set()
        """Other hosts that the drill's processes tried to reach. All these connections were refused."""
        self._clock = clock or SystemClock()
        self._asked: list[Asked] = []
        self._free_at: float | None = None
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.answer, self._server.outside = self._answer, self.outside
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The server's address. A provider's `baseURL` is `URL/PROVIDER/v1`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def free_at(self) -> float | None:
        """The time at which the primary is available again, in epoch seconds, or None before the first request to
        it.
        """
        return self._free_at

    def __enter__(self) -> Self:
        """Start answering requests."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop answering requests."""
        self._server.shutdown()
        self._server.server_close()

    def asked(self, model: str) -> list[Asked]:
        """Return the requests to a model so far, oldest first."""
        with self._changed:
            return [asked for asked in self._asked if asked.model == model]

    def wait(self, model: str, count: int, seconds: float) -> list[Asked]:
        """Wait up to `seconds` until a model has received `count` requests, and return its requests, oldest first."""
        with self._changed:
            self._changed.wait_for(lambda: sum(asked.model == model for asked in self._asked) >= count, max(seconds, 0))
        return self.asked(model)

    def _answer(self, model: str, text: str) -> tuple[int, float]:
        """Record a request, and return its HTTP status and the value of Retry-After in seconds."""
        now = self._clock.now()
        with self._changed:
            if model == PRIMARY and self._free_at is None:
                self._free_at = now + self.cooldown
            left = max((self._free_at or now) - now, 0.0) if model == PRIMARY else 0.0
            status = 429 if left else 200
            self._asked.append(Asked(model, now, status, text))
            self._changed.notify_all()
        return status, left


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    answer: Callable[[str, str], tuple[int, float]]
    outside: set[str]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close their connection early."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30.0
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the server's log lines."""

    def do_CONNECT(self) -> None:
        """Refuse a connection to another host."""
        self._refuse_outside(self.path.rpartition(":")[0])

    def do_GET(self) -> None:
        """Respond with an empty catalog. Refuse proxied requests for other hosts, whose request line contains an
        absolute URL.
        """
        host = urlsplit(self.path).hostname if "://" in self.path else None
        if host and host != "127.0.0.1":
            self._refuse_outside(host)
        elif self.path == CATALOGUE:
            self._whole(200, {})
        else:
            self._whole(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        """Answer a model request: `/PROVIDER/v1/chat/completions`."""
        body = self._body()
        provider, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        if body is None or f"/{rest}" != ROUTE:
            self.do_GET()
            return
        status, left = self.server.answer(f"{provider}/{body.get('model')}", _user_text(body))
        if status == 429:
            words = {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}
            self._whole(429, {"error": words}, {"Retry-After": f"{left:.3f}"})
        elif body.get("stream"):
            self._stream(f"answer of {provider}/{body.get('model')}")
        else:
            message = {"role": "assistant", "content": "Drill"}
            self._whole(200, _head("chat.completion", {"message": message, "finish_reason": "stop"}))

    def _body(self) -> dict[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_CAP:
            self.close_connection = True
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            return None
        return body if isinstance(body, dict) else None

    def _refuse_outside(self, host: str) -> None:
        self.server.outside.add(host)
        self.close_connection = True
        self._whole(403, {"error": {"message": "the drill refuses outside connections"}})

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        chunk = "chat.completion.chunk"
        for choice in (
            {"delta": {"role": "assistant", "content": text}, "finish_reason": None},
            {"delta": {}, "finish_reason": "stop"},
        ):
            self.wfile.write(f"data: {json.dumps(_head(chunk, choice))}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _whole(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _head(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    about = {"id": "chatcmpl-drill", "object": kind, "created": int(time.time()), "model": "drill"}
    return {**about, "choices": [{"index": 0, **choice}], "usage": usage}


def _user_text(body: dict[str, Any]) -> str:
    """Return the text of all user messages in a request."""
    messages = body.get("messages")
    said = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"] if messages else []
    parts = [part for content in said for part in (content if isinstance(content, list) else [content])]
    return "\n".join(str(part.get("text", "") if isinstance(part, dict) else part) for part in parts)
