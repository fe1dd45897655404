"""Send HTTP requests to an endpoint: a single request, several at once, or one with a streamed response.

The implementation is in `wire`, which is imported when the first request is sent. The standard library's HTTP client
also loads TLS and e-mail modules. They take 7 MiB and 60 ms of CPU time, and a daemon without an open endpoint does not
need them.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.opencode.client.request import EndpointError, Request, StreamHandle, Trouble, connect_file
from ocwatchd.opencode.client.stalls import STALLS

log = logging.getLogger(__name__)


def is_listening(path: os.PathLike[str]) -> bool:
    """Return whether a process is listening at this socket file. Also return True if the file exists but its listener
    cannot be determined.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.2)
        try:
            connect_file(sock, os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return os.path.lexists(path)
    return True


def exchange(endpoint: Endpoint, request: Request, limit: float) -> bytes:
    """Send a request and return the body of the response.

    Raises:
        EndpointError: No complete response with a 2xx status arrived within `limit` seconds.
    """
    from ocwatchd.opencode.client import wire  # lazy import: it loads TLS and e-mail modules, which take 7 MiB

    with _recorded(endpoint, [request]):
        return wire.exchange(endpoint, request, limit)


def exchange_all(endpoint: Endpoint, requests: Sequence[Request], limit: float) -> Iterator[bytes]:
    """Send several independent requests simultaneously, and yield the bodies of their responses in the order of the
    requests.

    Raises:
        EndpointError: A request failed, or the requests together took longer than `limit` seconds.
    """
    from ocwatchd.opencode.client import wire  # lazy import: it loads TLS and e-mail modules, which take 7 MiB

    with _recorded(endpoint, requests):
        yield from wire.exchange_all(endpoint, requests, limit)


@contextmanager
def _recorded(endpoint: Endpoint, requests: Sequence[Request]) -> Iterator[None]:
    """Record for STALLS and in the log whether the endpoint answers the requests, and how long it takes."""
    STALLS.began(endpoint.address)
    about = ", ".join(request.what for request in requests)
    answered, began, outcome = True, time.monotonic(), f"{about} at {endpoint.address}: answered"
    try:
        yield
    except EndpointError as fault:
        answered, outcome = fault.trouble is not Trouble.TIMEOUT, str(fault)
        raise
    finally:
        STALLS.ended(endpoint.address, answered=answered)
        log.debug("%s, %.3f s", outcome, time.monotonic() - began)


def stream(endpoint: Endpoint, request: Request, idle: float, handle: StreamHandle | None = None) -> Iterator[bytes]:
    """Yield the lines of a streamed response until the server or `handle` ends it.

    Raises:
        EndpointError: No data arrived for `idle` seconds, or the connection was lost.
    """
    from ocwatchd.opencode.client import wire  # lazy import: it loads TLS and e-mail modules, which take 7 MiB

    return wire.stream(endpoint, request, idle, handle)
