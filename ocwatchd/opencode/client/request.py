"""Requests to an endpoint, their errors, and functions for socket files with long paths."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.errors import OpenCodeUnreachable

_MAX_PATH = 103
"""Maximum length, in bytes, of a socket path on all systems: macOS accepts 103, Linux 107."""


class Trouble(StrEnum):
    """The reason why a request to an endpoint failed."""

    UNREACHABLE = "unreachable"  # no process listens, or the connection was lost
    TIMEOUT = "timeout"
    FOREIGN = "not yours"  # another user's process listens at the address; nothing was sent
    STATUS = "status"  # the endpoint responded with a status other than 2xx
    GARBAGE = "garbage"  # the response is not HTTP, not JSON, or unexpected JSON
    TOO_LARGE = "too large"


class EndpointError(OpenCodeUnreachable):
    """Raised if a request to an endpoint has failed. The message names the request and the endpoint. `status` is the
    HTTP status if `trouble` is Trouble.STATUS.
    """

    def __init__(self, endpoint: Endpoint, what: str, trouble: Trouble, detail: str, status: int | None = None) -> None:
        """`what` names the request, such as `GET /path`."""
        super().__init__(f"{what} at {endpoint}: {trouble}: {detail}")
        self.endpoint, self.trouble, self.status = endpoint, trouble, status

    @property
    def unsent(self) -> bool:
        """Whether no connection could be made, so that the request certainly had no effect."""
        return isinstance(self.__cause__, ConnectionRefusedError | ConnectionAbortedError | FileNotFoundError)


def connect_file(sock: socket.socket, path: str) -> None:
    """Connect to a socket file. On Linux, its path may have any length."""
    with _short(path) as name:
        sock.connect(name)


def bind_file(sock: socket.socket, path: str) -> None:
    """Bind a socket to a new socket file. On Linux, its path may have any length."""
    with _short(path) as name:
        sock.bind(name)


@contextmanager
def _short(path: str) -> Iterator[str]:
    """Yield a path to the socket file that is short enough for the kernel. If the path is too long, the directory part
    is replaced with a path through a descriptor of the directory.
    """
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an endpoint. `path` includes the query; `body` is serialized JSON."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def what(self) -> str:
        """The request as shown in messages. The query is omitted, because it may be long."""
        return f"{self.method} {self.path.partition('?')[0]}"


class StreamHandle:
    """A handle with which another thread can end a stream."""

    def __init__(self) -> None:
        """Initially, the handle has no connection."""
        self._sock: socket.socket | None = None
        self._cut = False
        self._lock = threading.Lock()

    def hold(self, sock: socket.socket | None) -> None:
        """Set the socket of the stream. If the stream was already ended, the socket is closed immediately."""
        with self._lock:
            self._sock = sock
            if self._cut:
                self._shut()

    def cut(self) -> None:
        """End the stream, so that its reader receives no further lines."""
        with self._lock:
            self._cut = True
            self._shut()

    def _shut(self) -> None:
        if self._sock is not None:
            with suppress(OSError):  # the stream has already ended
                self._sock.shutdown(socket.SHUT_RDWR)
