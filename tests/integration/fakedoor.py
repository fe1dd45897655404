"""Fake servers with scripted answers, over TCP or a unix socket, for faults that a real OpenCode rarely shows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress, UnixAddress

Play = Callable[[socket.socket, str, bytes], None]
"""A function that answers one request, given its request line (`GET /path HTTP/1.1`) and all its bytes."""


def answer(body: Any, status: int = 200) -> bytes:
    """Return a whole HTTP answer; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nContent-Type: application/json\r\n\r\n"
    return head.encode() + data


def says(raw: bytes) -> Play:
    """Return an answer that sends these bytes and closes."""
    return lambda connection, line, request: connection.sendall(raw)


def routes(table: dict[str, Any], seen: list[str] | None = None) -> Play:
    """Return a server with these answers by path (without the query), and 404 for other paths.

    `seen` collects request lines.
    """

    def play(connection: socket.socket, line: str, request: bytes) -> None:
        if seen is not None:
            seen.append(line.removesuffix(" HTTP/1.1"))
        path = line.split(" ")[1].partition("?")[0]
        connection.sendall(answer(table[path]) if path in table else answer({"name": "NotFound"}, 404))

    return play


@contextmanager
def listening(play: Play, unix: Path | None = None) -> Iterator[Endpoint]:
    """Yield an endpoint at which `play` answers every connection, until the end of the block."""
    server = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a test may listen here again
    server.bind(str(unix) if unix else ("127.0.0.1", 0))
    server.listen(16)
    closing = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                request = _request(connection)
                play(connection, request.split(b"\r\n")[0].decode(), request)
            except OSError:
                return

    def serve() -> None:
        while not closing.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield Endpoint(UnixAddress(str(unix))) if unix else Endpoint(TcpAddress("127.0.0.1", server.getsockname()[1]))
    finally:
        closing.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < wanted:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
