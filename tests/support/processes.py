"""Free ports, processes in separate process groups, and waiting for a condition."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.homes import Home


def free_port() -> int:
    """Return a TCP port on loopback that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group that we started, if it still exists."""
    # macOS raises PermissionError for a group whose last member is a zombie.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
