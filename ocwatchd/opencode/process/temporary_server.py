"""Run a temporary `opencode serve` with the program, home and project of a process that will be replaced.

The server listens on loopback. Its random password exists only in its environment. It is stopped at the end of the
block.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress
from ocwatchd.core.text.amounts import span
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.protocol import Client
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.discovery.endpoints import basic_auth
from ocwatchd.opencode.process.process_tree import stop_group

START_LIMIT = 60.0
"""Timeout, in seconds, for the server's first response. It takes 2 to 4 s on two idle cores, and much longer under
load.
"""
PROBE_LIMIT = 1.0
"""Timeout, in seconds, of one probe. 1.18 may never respond to a request that it receives in its first second."""
POLL = 0.1
"""Interval, in seconds, between probes."""


@contextmanager
def private_server(
    program: Path,
    directory: str,
    environ: Mapping[str, str],
    started: Callable[[int], None] = lambda _: None,
    options: Sequence[str] = (),
    output: Path | None = None,
    limit: float = START_LIMIT,
    gate: AbstractContextManager[object] | None = None,
    generation: int = 1,
) -> Iterator[Endpoint]:
    """Run a server during the block and yield its endpoint.

    `started` is called with the pid immediately. `options` are passed to OpenCode, and its output is appended to
    `output`. The server has `limit` seconds to start. The process is created inside the context `gate`, which may raise
    to prevent the start.

    Raises:
        OpenCodeUnreachable: The server does not start.
    """
    port, password = _free_port(), secrets.token_urlsafe(24)
    own = {"OPENCODE_SERVER_PASSWORD": password, "OPENCODE_SERVER_USERNAME": "opencode", "PWD": directory}
    env = {name: value for name, value in environ.items() if name not in ("TMUX", "TMUX_PANE")} | own
    command = [str(program), "serve", "--hostname", "127.0.0.1", "--port", str(port), *options]
    null = subprocess.DEVNULL
    try:
        with gate or nullcontext(), open(output or os.devnull, "ab") as sink:  # noqa: PTH123 (a path or a name)
            process = subprocess.Popen(
                command, cwd=directory, env=env, stdin=null, stdout=sink, stderr=sink, start_new_session=True
            )
            started(process.pid)
    except OSError as fault:
        raise OpenCodeUnreachable(f"{program} cannot be started: {fault.strerror or fault}") from fault
    try:
        endpoint = Endpoint(
            TcpAddress("127.0.0.1", port), process.pid, directory, basic_auth(own), many=True, generation=generation
        )
        _wait_ready(process, client_of(endpoint), limit)
        yield endpoint
    finally:
        stop_group(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], client: Client, limit: float) -> None:
    deadline = time.monotonic() + limit
    while True:
        if process.poll() is not None:
            raise OpenCodeUnreachable(f"`opencode serve` exited immediately with code {process.returncode}")
        with suppress(EndpointError):
            client.ping(PROBE_LIMIT)
            return
        if time.monotonic() > deadline:
            raise OpenCodeUnreachable(f"`opencode serve` did not respond within {span(limit)}")
        time.sleep(POLL)
