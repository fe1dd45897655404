"""Misbehaviours of an endpoint. Each receives the connection, the requested action, and an event that ends it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

Misbehaviour = Callable[[socket.socket, Callable[[], object], threading.Event], None]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PACE = 1.0
"""Seconds between the bytes of a slow answer."""


def hang(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send nothing until the test ends."""
    closing.wait()


def drip(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send an answer at one byte a second."""
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    while not closing.wait(PACE):
        connection.sendall(b" ")


def fail(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send a server error."""
    body = b'{"name":"UnknownError","data":{"message":"boom"}}'
    head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def rave(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send data that is not HTTP, with control sequences that a terminal would obey."""
    connection.sendall(b"\x1b]0;pwned\x07\x00\xff\xfe no http \r\n\r\n" * 50)


def flood(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send an endless answer without a line end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ")
    while not closing.is_set():
        connection.sendall(b"[" * (1 << 20))


def break_off(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Send half of an answer and close."""
    connection.sendall(HEAD + b'Content-Length: 4000\r\n\r\n{"ses_1": {"type"')


def done_and_lost(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Do the requested action, and close without a response."""
    act()


def dawdle(connection: socket.socket, act: Callable[[], object], closing: threading.Event) -> None:
    """Do the requested action, and respond a second later."""
    closing.wait(1.0)
    body = json.dumps(act()).encode()
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)


ALL: dict[str, Misbehaviour] = {
    "hangs": hang,
    "drips": drip,
    "fails": fail,
    "raves": rave,
    "floods": flood,
    "breaks off": break_off,
    "does it and closes": done_and_lost,
}
