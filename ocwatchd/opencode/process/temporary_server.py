"""A temporary `opencode serve` for ourselves alone: same program, home and project as a process that is to be replaced.

It listens on loopback behind a random password that stands in its environment only, and ends with the block.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ocwatchd.core.views import Door, TcpAddress
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.doors import basic_auth
from ocwatchd.opencode.http import DoorError

START_LIMIT = 60.0
"""Seconds until it must answer; 2 - 4 s on an idle machine of two cores, many times that on a loaded one."""
PROBE_LIMIT = 1.0
"""Seconds for one probe: 1.18 may leave a request of its first second without an answer."""
POLL = 0.1
STOP_LIMIT = 2.0
"""Seconds after SIGTERM; 1.0 - 1.3 often do not react to it, and nothing is lost when its work is done."""


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
) -> Iterator[Door]:
    """The door into a server that runs during the block. Its words go to `output`; it has `limit` seconds to start.

    `started` is told its pid at once; `options` are OpenCode's. It is started inside `gate`, which may raise instead.

    Raises:
        OpenCodeUnreachable: it does not start.
    """
    port, password = _free_port(), secrets.token_urlsafe(24)
    own = {"OPENCODE_SERVER_PASSWORD": password, "OPENCODE_SERVER_USERNAME": "opencode", "PWD": directory}
    env = {name: value for name, value in environ.items() if name not in ("TMUX", "TMUX_PANE")} | own
    command = [str(program), "serve", "--hostname", "127.0.0.1", "--port", str(port), *options]
    null = subprocess.DEVNULL
    try:
        with gate or nullcontext(), open(output or os.devnull, "ab") as sink:  # noqa: PTH123 (either of two kinds of name)
            process = subprocess.Popen(
                command, cwd=directory, env=env, stdin=null, stdout=sink, stderr=sink, start_new_session=True
            )
            started(process.pid)
    except OSError as fault:
        raise OpenCodeUnreachable(f"{program} cannot be started: {fault.strerror or fault}") from fault
    try:
        door = Door(TcpAddress("127.0.0.1", port), process.pid, directory, basic_auth(own), many=True)
        _wait_ready(process, Api(door), limit)
        yield door
    finally:
        stop_group(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], api: Api, limit: float) -> None:
    deadline = time.monotonic() + limit
    while True:
        if process.poll() is not None:
            raise OpenCodeUnreachable(f"`opencode serve` ended at once, with code {process.returncode}")
        with suppress(DoorError):
            api.path(PROBE_LIMIT)
            return
        if time.monotonic() > deadline:
            raise OpenCodeUnreachable(f"`opencode serve` did not answer within {limit:.0f} s")
        time.sleep(POLL)


def stop_group(process: subprocess.Popen[bytes], patience: float = STOP_LIMIT) -> None:
    """End a process that leads a group of its own, and that group: SIGTERM, after `patience` seconds SIGKILL."""
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    _signal(process, signal.SIGKILL)  # and whatever it started: servers of tools, which have no other user
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(process.pid, number)
