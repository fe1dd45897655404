"""Asking a door over HTTP: what may be asked, what may go wrong, and `exchange` and `stream`, which do it.

How it is done stands in `wire`, imported with the first question: the standard library's client brings TLS and e-mail
along, 7 MiB and 60 CPU ms that a daemon without an open door has no use for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ocwatchd.core.views import Door
from ocwatchd.errors import OpenCodeUnreachable

_LONGEST_PATH = 103
"""Bytes of a socket's path that every system takes: macOS 103, Linux 107."""


class Trouble(StrEnum):
    """What went wrong at a door."""

    UNREACHABLE = "unreachable"  # nobody listens, or the connection broke
    TIMEOUT = "timeout"
    STATUS = "status"  # it answered with another status than 2xx
    GARBAGE = "garbage"  # not HTTP, not JSON, or JSON of another shape
    TOO_LARGE = "too large"


class DoorError(OpenCodeUnreachable):
    """A door did not do what was asked; `str()` says what, and of which door. `status` is set for Trouble.STATUS."""

    def __init__(self, door: Door, what: str, trouble: Trouble, detail: str, status: int | None = None) -> None:
        """`what` was asked, e.g. `GET /path`."""
        super().__init__(f"{what} at {door}: {trouble}: {detail}")
        self.door, self.trouble, self.status = door, trouble, status


def connect_file(sock: socket.socket, path: str) -> None:
    """Connect to a socket file. A longer path than the kernel takes goes through its directory's descriptor (Linux)."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        sock.connect(path)
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def is_listening(path: os.PathLike[str]) -> bool:
    """Whether some process listens at this socket file; True also where that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.2)
        try:
            connect_file(sock, os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return os.path.lexists(path)
    return True


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a door. `path` includes the query; `body` is JSON already written."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def what(self) -> str:
        """For messages; without the query, which may be long."""
        return f"{self.method} {self.path.partition('?')[0]}"


def exchange(door: Door, request: Request, limit: float) -> bytes:
    """The body of a 2xx answer, complete within `limit` seconds.

    Raises:
        DoorError: anything else.
    """
    from ocwatchd.opencode import wire

    return wire.exchange(door, request, limit)


def stream(door: Door, request: Request, idle: float) -> Iterator[bytes]:
    """Lines of an answer that does not end by itself, until it does.

    Raises:
        DoorError: nothing came for `idle` seconds, or the connection broke.
    """
    from ocwatchd.opencode import wire

    return wire.stream(door, request, idle)
