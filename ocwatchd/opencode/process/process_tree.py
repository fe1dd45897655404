"""Who descends from whom in the process table: the npm package's `opencode` is a wrapper that starts the real one."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

POLL = 0.02


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, the deepest first; empty if there are none, or it is gone."""
    import psutil

    try:
        return [child.pid for child in reversed(psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def descends(pid: int, ancestors: frozenset[int], most: int = 4) -> bool:
    """Whether `pid` is one of these processes, or at most `most` generations below one."""
    import psutil

    try:
        process: psutil.Process | None = psutil.Process(pid)
        for _ in range(most + 1):
            if process is None or process.pid in ancestors:
                return process is not None
            process = process.parent()
    except psutil.Error:
        return False
    return False


def end_all(pids: list[int], number: signal.Signals, patience: float) -> None:
    """Send a signal to these processes, and SIGKILL to those that are there after `patience` seconds."""
    import psutil

    found = []
    for pid in pids:
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    for process in found:
        with suppress(psutil.Error):
            process.send_signal(number)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(map(_runs, found)):
        time.sleep(POLL)
    for process in found:
        with suppress(psutil.Error):
            if _runs(process):
                process.kill()


def _runs(process: object) -> bool:
    import psutil

    with suppress(psutil.Error):
        assert isinstance(process, psutil.Process)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def launched_by(environ: dict[str, str], pid: int) -> bool:
    """Whether this process was started by an `oc-smart` that still lives: then its sessions are that one's to move.

    What OpenCode itself starts inherits the variable, but lies further below.
    """
    named = environ.get("OCWATCHD_LAUNCHER", "")
    if not named.isdecimal() or int(named) in (pid, os.getpid()):
        return False
    return descends(pid, frozenset((int(named),)), most=2)
