"""Free ports, processes in separate process groups, the OpenCodes of a home, and waiting for a condition."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.homes import Home

FIRST_PORT, PORTS, WORKERS = 20_000, 1_000, 12
"""The ports of the tests: `PORTS` for each of the `WORKERS` of pytest-xdist. The kernel assigns ports of outgoing
connections from 32768 on (macOS from 49152 on), so it cannot assign one between `free_port` and the server's start.
"""


def _ports() -> Iterator[int]:
    """Yield this worker's ports, endlessly. Two test runs at once begin at different ones."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = os.getpid() * 389 % PORTS
    for number in itertools.count(begin):
        yield FIRST_PORT + worker % WORKERS * PORTS + number % PORTS


_PORTS = _ports()
_ONE_PORT = threading.Lock()


def free_port() -> int:
    """Return a TCP port on loopback that is currently free, and a different one with each call.

    Raises:
        OSError: all ports of this worker are busy.
    """
    with _ONE_PORT:
        for port in itertools.islice(_PORTS, PORTS):
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(f"none of the {PORTS} ports of this worker is free")


def wait_until(what: Callable[[], Any], timeout: float = 60.0, pause: float = 0.05, why: str = "") -> Any:
    """Call `what` until it returns a true value, and return that value.

    Raises:
        TimeoutError: `what` returned none within `timeout` seconds; the message contains `why` and the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = what()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {why or what}; last seen: {seen!r}")
        time.sleep(pause)


def unless_late(what: Callable[[], Any]) -> Callable[[], Any]:
    """Return `what` with None instead of a TimeoutError, for `wait_until`.

    On a busy machine one request to OpenCode may take longer than its own timeout. It is then repeated until the
    timeout of `wait_until`.
    """

    def asked() -> Any:
        try:
            return what()
        except TimeoutError:
            return None

    return asked


def start(command: Sequence[str], home: Home, cwd: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a process of `home` in its own process group; its standard output and error go to `output`."""
    with output.open("ab") as sink:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=home.env(cwd),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], patience: float = 3.0) -> int:
    """End a process started by `start` and its whole group: SIGTERM, and after `patience` seconds SIGKILL."""
    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):  # 1.0 to 1.3 often do not end within 8 s of SIGTERM
            process.wait(patience)
    signal_group(process.pid, signal.SIGKILL)
    return process.wait(10)


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended; one that was not reaped yet counts as ended.

    The process may end at any moment, also between two looks at it: psutil reports that as a process that is gone.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def opencodes(home: Home, *, parent: int | None = None) -> list[psutil.Process]:
    """Return the OpenCode processes of this home, or those of them that `parent` has started.

    A process may end between two looks at it. It is then left out.
    """
    found = []
    for process in psutil.process_iter():
        try:
            ours = "opencode" in process.name() and process.environ().get("HOME") == str(home.root)
            if ours and parent in (None, process.ppid()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_opencode(home: Home, *, parent: int | None = None, besides: int = 0) -> psutil.Process:
    """Wait until exactly one OpenCode of this home runs, not counting the process `besides`; return it.

    A program that OpenCode starts also counts as an OpenCode between its fork and its exec, and is waited for.
    """

    def others() -> list[psutil.Process]:
        found = [process for process in opencodes(home, parent=parent) if process.pid != besides]
        return found if len(found) == 1 else []

    (only,) = wait_until(others, why="exactly one OpenCode")
    process: psutil.Process = only
    return process


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group that we started, if it still exists."""
    # macOS raises PermissionError for a group whose last member is a zombie.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
