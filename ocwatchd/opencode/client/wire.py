"""Make HTTP requests to an endpoint, bounded in time and size. All failures are raised as EndpointErrors.

This module uses the standard library's HTTP client, and adds a deadline for the whole exchange and a maximum size of
the response. The client's own timeout applies only to each read, so a response that arrives very slowly would never
time out.

When a request is abandoned, its connection stays open until OpenCode has responded, because closing it would interrupt
OpenCode's work. When the connection of a request for the list of providers was closed during a cold start of 1.14.48, a
prompt that was waiting for the same providers never ran.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress, UnixAddress
from ocwatchd.core.text.amounts import span
from ocwatchd.core.text.redact import redact
from ocwatchd.opencode.client.request import EndpointError, Request, StreamHandle, Trouble, connect_file
from ocwatchd.opencode.listeners import NotOurs, Place, check_peer, places, unchanged

ANSWER_TIMEOUT = 60.0
"""Maximum time, in seconds, for which the connection of an abandoned request stays open. A cold start took up to 45 s
(1.14.48).
"""
MAX_PER_ENDPOINT, MAX_KEPT = 8, 64
"""Maximum numbers of connections of abandoned requests that are kept, per endpoint and in total. Further connections
are closed immediately, because all of them wait for the same work, and the first connection is enough to keep OpenCode
from canceling that work.
"""
BODY_TIMEOUT = 1.0
"""Maximum time, in seconds, for reading the response to an abandoned request, counted from its first byte. Closing the
connection earlier would make OpenCode abort the request.
"""
_CHUNK = 64 * 1024


class Unanswered:
    """Keeps the connections of abandoned requests, each on its own short-lived thread. Thread-safe."""

    def __init__(
        self, patience: float = ANSWER_TIMEOUT, per_endpoint: int = MAX_PER_ENDPOINT, most: int = MAX_KEPT
    ) -> None:
        """`patience` is the maximum time, in seconds, for which a connection is kept."""
        self._patience, self._per_endpoint, self._most = patience, per_endpoint, most
        self._kept: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def keep(self, endpoint: Hashable, sock: socket.socket) -> None:
        """Take over the socket of a sent request, and close it as soon as the response has arrived."""
        with self._lock:
            if self._kept[endpoint] >= self._per_endpoint or self._kept.total() >= self._most:
                sock.close()
                return
            self._kept[endpoint] += 1
        threading.Thread(target=self._wait, args=(endpoint, sock), name="unanswered", daemon=True).start()

    def _wait(self, endpoint: Hashable, sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(self._patience)
                sock.recv(1)
                sock.settimeout(BODY_TIMEOUT)
                end = time.monotonic() + BODY_TIMEOUT
                while sock.recv(_CHUNK) and time.monotonic() < end:
                    pass
        except OSError:
            return  # no response arrived, or the peer closed the connection
        finally:
            with self._lock:
                self._kept[endpoint] -= 1
                if not self._kept[endpoint]:
                    del self._kept[endpoint]


MAX_BODY = 64 * 1024 * 1024
"""Maximum size of a response, in bytes. A message list with pasted images reached 20 MB."""

MAX_LINE = 1024 * 1024
"""Maximum length, in bytes, of a line in a stream. Longer lines (streamed images) are skipped; relevant lines are a few
hundred bytes long.
"""
MAX_STREAMED, WINDOW = 256 * 1024 * 1024, 10.0
"""Maximum number of bytes from a stream within WINDOW seconds. OpenCode never sends that much, and reading more would
keep a processor busy.
"""
LINE_COST = 256
"""Number of bytes that are added to the length of each line when the bytes of a stream are counted, because even a
short line takes time to process.
"""

LARGE = 4 * 1024 * 1024
_MAY_BE_LARGE = threading.BoundedSemaphore(1)
"""Allows only one response at a time to be larger than LARGE. Without this restriction, a dozen endpoints with endless
responses took 64 MiB each. With two large responses at a time and ten waiting, they took 209 MiB together. Responses
hardly ever wait for each other, because reading one over loopback takes very little time.
"""

_UNANSWERED = Unanswered()

_SHOWN = 200
"""Maximum number of characters of a response that an error message quotes."""


class _DeadlineSocket(socket.socket):
    """A socket whose reads and writes share one deadline."""

    deadline: float | None = None
    """The deadline in monotonic seconds, or None for no deadline."""

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
    """A connection to an endpoint, over TCP or a socket file."""

    def __init__(self, endpoint: Endpoint, limit: float, handle: StreamHandle | None = None) -> None:
        host = endpoint.address.host if isinstance(endpoint.address, TcpAddress) else "localhost"
        super().__init__(host, timeout=limit)
        self._endpoint, self._handle, self.deadline = endpoint, handle, time.monotonic() + limit

    def connect(self) -> None:
        self.sock = _connected(self._endpoint.address, self.deadline)
        if self._handle is not None:
            self._handle.hold(self.sock)

    def leave(self) -> None:
        """Stop waiting for the response, but keep the connection open so that the server is not interrupted."""
        sock, self.sock = self.sock, None
        if sock is not None:
            _UNANSWERED.keep(self._endpoint.address, sock)


def _connected(address: TcpAddress | UnixAddress, deadline: float) -> _DeadlineSocket:
    """Return a connection to a process of this user.

    The owner is checked for every connection, because a different process may be listening by now.

    Raises:
        NotOurs: Another user's process is listening at the address; nothing was sent.
        OSError: No process is listening at the address, or the deadline has passed.
    """
    place = _listened_at(address) if isinstance(address, TcpAddress) else None
    sock = _DeadlineSocket(place.family if place else socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        if isinstance(address, UnixAddress):
            connect_file(sock, address.path)
            check_peer(sock)
        elif place is not None:
            sock.connect(place.address)
            if not unchanged(place):
                raise ConnectionAbortedError("the listener changed while the connection was being made")
    except BaseException:
        sock.close()
        raise
    sock.deadline = deadline
    return sock


def _listened_at(address: TcpAddress) -> Place:
    """Return the first resolved address at which a process of this user is listening."""
    for place in places(address.host, address.port):
        if place.listeners:
            return place
    raise ConnectionRefusedError("no process is listening there")


def exchange(endpoint: Endpoint, request: Request, limit: float) -> bytes:
    """Send a request and return the body of the response.

    Raises:
        EndpointError: No complete response with a 2xx status arrived within `limit` seconds.
    """
    connection = _Connection(endpoint, limit)
    try:
        with _faults_named(endpoint, request), ExitStack() as held:
            return _read(endpoint, request, _send(connection, endpoint, request), connection.deadline, held)
    finally:
        connection.close()


def exchange_all(endpoint: Endpoint, requests: Sequence[Request], limit: float) -> Iterator[bytes]:
    """Send several independent requests simultaneously, and yield the bodies of their 2xx responses in the order of the
    requests.

    Each request has its own connection, and all are sent before the first response is read, so that together they take
    one round trip. If the caller stops early, the connections of the other requests are kept until their responses
    arrive.

    Raises:
        EndpointError: One of the requests failed, or was not completed within `limit` seconds.
    """
    sent = deque[tuple[Request, _Connection]]()
    try:
        for request in requests:
            with _faults_named(endpoint, request):
                connection = _Connection(endpoint, limit)
                sent.append((request, connection))
                _ask(connection, endpoint, request)
        while sent:
            request, connection = sent[0]
            with _faults_named(endpoint, request), ExitStack() as held:
                body = _read(endpoint, request, _response(connection), connection.deadline, held)
            sent.popleft()[1].close()
            yield body
    finally:
        if sent:
            sent.popleft()[1].close()
        for _, connection in sent:
            connection.leave()


@contextmanager
def _faults_named(endpoint: Endpoint, request: Request) -> Iterator[None]:
    """Convert exceptions in the block into an EndpointError."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise _named(endpoint, request, fault) from fault


def stream(endpoint: Endpoint, request: Request, idle: float, handle: StreamHandle | None = None) -> Iterator[bytes]:
    """Yield the lines of a streamed response until the server or `handle` ends it. Lines longer than MAX_LINE are
    skipped.

    Raises:
        EndpointError: No data arrived for `idle` seconds, too much data arrived, or the connection was lost.
    """
    connection = _Connection(endpoint, idle, handle)
    try:
        response = _send(connection, endpoint, request)
        if response.status // 100 != 2:
            raise EndpointError(endpoint, request.what, Trouble.STATUS, str(response.status), response.status)
        sock = connection.sock
        began, taken, whole = time.monotonic(), 0, True
        while True:
            now = time.monotonic()
            if isinstance(sock, _DeadlineSocket):
                sock.deadline = now + idle
            began, taken = (now, 0) if now - began > WINDOW else (began, taken)
            piece = response.readline(MAX_LINE)
            taken += len(piece) + LINE_COST
            if taken > MAX_STREAMED:
                raise EndpointError(endpoint, request.what, Trouble.TOO_LARGE, f"{taken} bytes within {span(WINDOW)}")
            if not piece:
                return
            begins, whole = whole, piece.endswith(b"\n")
            if begins and whole:
                yield piece.rstrip(b"\r\n")
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise _named(endpoint, request, fault) from fault
    finally:
        connection.close()


def _send(connection: _Connection, endpoint: Endpoint, request: Request) -> http.client.HTTPResponse:
    _ask(connection, endpoint, request)
    return _response(connection)


def _ask(connection: _Connection, endpoint: Endpoint, request: Request) -> None:
    headers = {"accept": "*/*"}
    if request.body is not None:
        headers["content-type"] = "application/json"
    if endpoint.auth:
        headers["authorization"] = endpoint.auth
    connection.request(request.method, request.path, request.body, headers)


def _response(connection: _Connection) -> http.client.HTTPResponse:
    try:
        return connection.getresponse()
    except TimeoutError:
        connection.leave()
        raise


def _read(
    endpoint: Endpoint, request: Request, response: http.client.HTTPResponse, deadline: float, held: ExitStack
) -> bytes:
    taken, large = bytearray(), False
    while chunk := response.read(_CHUNK):
        taken += chunk
        if len(taken) > LARGE and not large:
            if request.body is not None:  # only the response to a GET may be large
                raise EndpointError(
                    endpoint, request.what, Trouble.TOO_LARGE, f"more than {LARGE} bytes", response.status
                )
            if not _MAY_BE_LARGE.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                raise TimeoutError("other large responses are still being read")
            held.callback(_MAY_BE_LARGE.release)
            large = True
        if len(taken) > MAX_BODY:
            raise EndpointError(
                endpoint, request.what, Trouble.TOO_LARGE, f"more than {MAX_BODY} bytes", response.status
            )
    if response.status // 100 != 2:
        shown = redact(bytes(taken[: 4 * _SHOWN]).decode("utf-8", "replace"))[:_SHOWN]
        raise EndpointError(endpoint, request.what, Trouble.STATUS, f"{response.status} {shown!r}", response.status)
    if response.length:  # http.client does not report a truncated body that is read in pieces
        raise http.client.IncompleteRead(bytes(taken[:_SHOWN]), response.length)
    return bytes(taken)


def _named(endpoint: Endpoint, request: Request, fault: Exception) -> EndpointError:
    if isinstance(fault, NotOurs):
        return EndpointError(endpoint, request.what, Trouble.FOREIGN, str(fault))
    if isinstance(fault, TimeoutError):
        return EndpointError(endpoint, request.what, Trouble.TIMEOUT, "no complete response arrived in time")
    broken = isinstance(fault, OSError | http.client.RemoteDisconnected | http.client.IncompleteRead)
    trouble = Trouble.UNREACHABLE if broken else Trouble.GARBAGE
    return EndpointError(
        endpoint, request.what, trouble, repr(fault)[:_SHOWN]
    )  # use repr, because a status line may contain escape sequences
