"""The fake provider's HTTP/1.1 server: it reads requests, records them, and sends the answers."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from tests.support.answers import Answer, Cut, Drop, Error, Hang, MidStream, Ok, Request, Stall, Tool
from tests.support.shapes import Shape
from tests.support.wire import (
    Api,
    Reply,
    ToolUse,
    api_of,
    empty_event,
    end_events,
    error_event,
    sse,
    stalling,
    text_events,
    texts_of,
    tool_events,
    whole_body,
)


class Book(Protocol):
    """Records the requests and chooses the answers."""

    closing: threading.Event

    def arrived(self, request: Request) -> Answer:
        """Record a request and return its answer."""
        ...

    def note(self, request: Request, **changes: Any) -> None:
        """Record what happened to a request."""
        ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    book: Book

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    arrival = (0.0, 0.0)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def parse_request(self) -> bool:
        self.arrival = (time.monotonic(), time.time())
        return super().parse_request()

    def do_GET(self) -> None:
        self._whole(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api = api_of(self.path)
        if api is None or not self.path.startswith("/p/"):
            self._whole(404, {"error": {"message": f"no such route: {self.path}"}})
            return
        request = self._request(api, json.loads(raw or b"{}"))
        book = self.server.book
        answer = book.arrived(request)
        try:
            self._answer(request, answer)
        except OSError:
            book.note(request, client_left=True)
            self.close_connection = True
        book.note(request, finished=time.time(), status=request.status or 0)

    def _request(self, api: Api, body: dict[str, Any]) -> Request:
        path = self.path.partition("?")[0]
        model = path.rpartition("/")[2].partition(":")[0] if api is Api.GOOGLE else str(body.get("model", ""))
        users, tools, tool_last = texts_of(api, body)
        return Request(
            number=-1,
            monotonic=self.arrival[0],
            wall=self.arrival[1],
            provider=path.split("/")[2],
            name=model,
            api=api,
            stream=bool(body.get("stream")) or "streamGenerateContent" in path,
            path=self.path,
            headers={k.lower(): v for k, v in self.headers.items()},
            body=body,
            user_texts=users,
            tool_results=tools,
            ends_with_tool_result=tool_last,
            nth=0,
        )

    def _answer(self, request: Request, answer: Answer) -> None:
        match answer:
            case Error():
                self._pause(answer.delay)
                self.server.book.note(request, status=answer.status)
                self._whole(answer.status, answer.body, answer.headers, answer.reason)
            case Hang():
                self._pause(answer.seconds)
                self._break()
            case Drop(text=None):
                self._break()
            case Stall():
                self._stall(request, answer.shape)
            case _:
                self.server.book.note(request, status=200)
                self._success(request, answer)

    def _stall(self, request: Request, shape: Shape) -> None:
        """Send the part of an answer given by `shape`, and then nothing until the client leaves."""
        if shape is Shape.HALF_HEADERS:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-")
        if shape not in (Shape.NO_HEADERS, Shape.HALF_HEADERS):
            self.server.book.note(request, status=200)
            self._begin_stream({})
            thought = "Let me think" if shape is Shape.THOUGHT else ""
            reply = Reply(request.api, request.name, request.provider, f"{request.number}", thought)
            for block in stalling(reply, shape):
                self._send(block)
        repeated = {
            Shape.KEEP_ALIVE: b": keep-alive\n\n",
            Shape.TRICKLE: b"x",
            Shape.EMPTY_EVENTS: empty_event(request.name),
        }
        while shape in repeated and not self.server.book.closing.is_set():
            self._send(repeated[shape])
            self._pause(0.5)
        self._pause(3600.0)

    def _success(self, request: Request, answer: Answer) -> None:
        text = getattr(answer, "text", None) or f"answer of {request.model}"
        ident, thought = f"{request.number}", getattr(answer, "thought", "")
        used = getattr(answer, "used", 100)
        reply = Reply(request.api, request.name, request.provider, ident, thought, used)
        use = None
        if isinstance(answer, Tool):
            use = ToolUse(answer.name, answer.arguments, f"call_{ident}", answer.said)
        if not request.stream:
            self._pause(answer.seconds if isinstance(answer, Ok) else 0)
            self._whole(200, whole_body(reply, text, use))
            return
        self._begin_stream(answer.headers if isinstance(answer, Ok) else {})
        if use:
            self._send(*(sse(e) for e in tool_events(reply, use)))
        elif isinstance(answer, Ok):
            for _ in range(round(answer.keep_alive)):
                self._send(b": keep-alive\n\n")
                self._pause(1.0)
            self._text(reply, text, answer)
        else:
            self._send(*(sse(e) for e in text_events(reply, [text])))
        if isinstance(answer, MidStream):
            self._send(sse(error_event(request.api, answer.payload)))
        if isinstance(answer, Cut) and answer.reset:
            self._reset()
        elif isinstance(answer, Drop):
            self._break()
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _text(self, reply: Reply, text: str, answer: Ok) -> None:
        size = -(-len(text) // answer.pieces)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        for event in text_events(reply, pieces):
            self._send(sse(event))
            self._pause(answer.seconds / len(pieces))
        self._send(*(sse(e) for e in end_events(reply, text)))

    # ---- bytes

    def _whole(
        self, status: int, body: Any, headers: Mapping[str, str] | None = None, reason: str | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        sent = {name.lower() for name in headers or {}}
        self.send_response(status, reason)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "content-type" not in sent:
            self.send_header("Content-Type", "text/plain" if isinstance(body, str | bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _send(self, *blocks: bytes) -> None:
        for block in blocks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))

    def _pause(self, seconds: float) -> None:
        """Wait for `seconds`. End with the test, and raise if the client leaves."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.server.book.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.1))
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError("the client left")

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> None:
        """Close the connection with a reset instead of an orderly end."""
        self.close_connection = True
        self.wfile.flush()
        time.sleep(0.2)  # a reset discards data that the client has not read yet
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
