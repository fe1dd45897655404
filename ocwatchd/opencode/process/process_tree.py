"""Find, check and end related processes. The npm package's `opencode` is a wrapper that starts the real program."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress

POLL = 0.02
"""Interval, in seconds, between checks of whether processes have ended."""
STOP_LIMIT = 2.0
"""Time, in seconds, between SIGTERM and SIGKILL. OpenCode 1.0 to 1.3 often ignores SIGTERM. SIGKILL does no harm,
because the processes have finished their work by then.
"""


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process, children before parents. The list is empty if the process has none or has
    ended.
    """
    import psutil  # lazy import: not needed while no OpenCode is running

    try:
        return [child.pid for child in reversed(psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def descends(pid: int, ancestors: frozenset[int], most: int = 4) -> bool:
    """Return whether a process is one of `ancestors`, or a descendant of one of them within `most` generations."""
    import psutil  # lazy import: not needed while no OpenCode is running

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
    """Send a signal to processes, and then SIGKILL to those that are still running after `patience` seconds."""
    import psutil  # lazy import: not needed while no OpenCode is running

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
    import psutil  # lazy import: not needed while no OpenCode is running

    with suppress(psutil.Error):
        assert isinstance(process, psutil.Process)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def launched_by(environ: dict[str, str], pid: int) -> bool:
    """Return whether a process was started by an `oc-smart` that is still running. Such an `oc-smart` moves the
    sessions itself.

    Programs that OpenCode starts also inherit the environment variable that `oc-smart` sets, but they are more
    generations away from `oc-smart`.
    """
    named = environ.get("OCWATCHD_LAUNCHER", "")
    if not named.isdecimal() or int(named) in (pid, os.getpid()):
        return False
    return descends(pid, frozenset((int(named),)), most=2)


def stop_group(process: subprocess.Popen[bytes], patience: float = STOP_LIMIT) -> None:
    """End a process and the process group that it leads. Send SIGTERM, and after at most `patience` seconds SIGKILL."""
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    # the group includes processes that this process has started, such as tool servers
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS reports PermissionError for a group of zombies
        os.killpg(process.pid, number)
