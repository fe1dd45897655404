"""One HTTP exchange with a door, bounded in time and size: `exchange` and `stream` raise DoorError for everything else.

The standard library's client speaks it; what it lacks is a deadline for the whole exchange (its time limit counts from
byte to byte, so an answer that drips never ends) and a cap on what is read.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ocwatchd.core.views import Door, TcpAddress, UnixAddress
from ocwatchd.opencode.http import DoorError, Request, Trouble, connect_file
from ocwatchd.opencode.unanswered import Unanswered

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer. A message list with pasted images reached 20 MB; more is not worth the memory."""

MOST_LINE = 1024 * 1024
"""Bytes kept of a line of a stream; longer ones (streamed images) are passed over. What is wanted has some hundreds."""
MOST_STREAMED, WINDOW = 256 * 1024 * 1024, 10.0
"""Bytes within so many seconds that no OpenCode streams: reading them keeps a processor busy."""
LINE_COST = 256
"""Bytes that a line counts besides its own: short ones cost more than their length."""

LARGE = 4 * 1024 * 1024
_MAY_BE_LARGE = threading.BoundedSemaphore(2)
"""Two answers at once may be larger than this: a dozen doors that send without end took 64 MiB each."""

_UNANSWERED = Unanswered()

_CHUNK = 64 * 1024
_SHOWN = 200


class _DeadlineSocket(socket.socket):
    """A socket whose reads and writes together end at one moment (of the monotonic clock), None for never."""

    deadline: float | None = None

    def _arm(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self.settimeout(left)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self._arm()
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._arm()
        super().sendall(data, flags)


class _Connection(http.client.HTTPConnection):
    """A connection to either kind of door."""

    def __init__(self, door: Door, limit: float) -> None:
        host = door.address.host if isinstance(door.address, TcpAddress) else "localhost"
        super().__init__(host, timeout=limit)
        self._door, self.deadline = door, time.monotonic() + limit

    def connect(self) -> None:
        self.sock = _connected(self._door.address, self.deadline)

    def leave(self) -> None:
        """Wait no longer for the answer, without interrupting who makes it."""
        sock, self.sock = self.sock, None
        if sock is not None:
            _UNANSWERED.keep(self._door.address, sock)


def _connected(address: TcpAddress | UnixAddress, deadline: float) -> _DeadlineSocket:
    family = socket.AF_UNIX
    if isinstance(address, TcpAddress):
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    sock = _DeadlineSocket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        if isinstance(address, UnixAddress):
            connect_file(sock, address.path)
        else:
            sock.connect(where)
    except BaseException:
        sock.close()
        raise
    sock.deadline = deadline
    return sock


def exchange(door: Door, request: Request, limit: float) -> bytes:
    """The body of a 2xx answer, complete within `limit` seconds.

    Raises:
        DoorError: anything else.
    """
    connection = _Connection(door, limit)
    try:
        with ExitStack() as held:
            return _read(door, request, _send(connection, door, request), connection.deadline, held)
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise _named(door, request, fault) from fault
    finally:
        connection.close()


def stream(door: Door, request: Request, idle: float) -> Iterator[bytes]:
    """Lines of an answer that does not end by itself, until it does; overlong ones are left out.

    Raises:
        DoorError: nothing came for `idle` seconds, far too much came, or the connection broke.
    """
    connection = _Connection(door, idle)
    try:
        response = _send(connection, door, request)
        if response.status // 100 != 2:
            raise DoorError(door, request.what, Trouble.STATUS, str(response.status), response.status)
        sock = connection.sock
        began, taken, whole = time.monotonic(), 0, True
        while True:
            now = time.monotonic()
            if isinstance(sock, _DeadlineSocket):
                sock.deadline = now + idle
            began, taken = (now, 0) if now - began > WINDOW else (began, taken)
            piece = response.readline(MOST_LINE)
            taken += len(piece) + LINE_COST
            if taken > MOST_STREAMED:
                raise DoorError(door, request.what, Trouble.TOO_LARGE, f"{taken} bytes within {WINDOW:g} s")
            if not piece:
                return
            begins, whole = whole, piece.endswith(b"\n")
            if begins and whole:
                yield piece.rstrip(b"\r\n")
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise _named(door, request, fault) from fault
    finally:
        connection.close()


def _send(connection: _Connection, door: Door, request: Request) -> http.client.HTTPResponse:
    headers = {"accept": "*/*"}
    if request.body is not None:
        headers["content-type"] = "application/json"
    if door.auth:
        headers["authorization"] = door.auth
    connection.request(request.method, request.path, request.body, headers)
    try:
        return connection.getresponse()
    except TimeoutError:
        connection.leave()
        raise


def _read(door: Door, request: Request, response: http.client.HTTPResponse, deadline: float, held: ExitStack) -> bytes:
    taken, large = bytearray(), False
    while chunk := response.read(_CHUNK):
        taken += chunk
        if len(taken) > LARGE and not large:
            if request.body is not None:  # what is asked to be done is answered in a word
                raise DoorError(door, request.what, Trouble.TOO_LARGE, f"more than {LARGE} bytes", response.status)
            if not _MAY_BE_LARGE.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                raise TimeoutError("others are reading large answers")
            held.callback(_MAY_BE_LARGE.release)
            large = True
        if len(taken) > MAX_BODY:
            raise DoorError(door, request.what, Trouble.TOO_LARGE, f"more than {MAX_BODY} bytes", response.status)
    if response.status // 100 != 2:
        shown = bytes(taken[:_SHOWN]).decode("utf-8", "replace")
        raise DoorError(door, request.what, Trouble.STATUS, f"{response.status} {shown!r}", response.status)
    if response.length:  # announced and not sent: http.client says nothing when it reads in pieces
        raise http.client.IncompleteRead(bytes(taken[:_SHOWN]), response.length)
    return bytes(taken)


def _named(door: Door, request: Request, fault: Exception) -> DoorError:
    if isinstance(fault, TimeoutError):
        return DoorError(door, request.what, Trouble.TIMEOUT, "no complete answer in time")
    broken = isinstance(fault, OSError | http.client.RemoteDisconnected | http.client.IncompleteRead)
    trouble = Trouble.UNREACHABLE if broken else Trouble.GARBAGE
    return DoorError(door, request.what, trouble, repr(fault)[:_SHOWN])  # repr: a status line may hold escapes
