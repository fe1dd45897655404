"""End the processes that tests leave behind. They are recognized by a HOME below a given directory.

A test that fails ends the processes of its own home. A pytest that is killed (by a timeout of CI, or a hung worker)
runs no clean-up, and the processes of its tests continue, because each leads its own session. Every pytest process
therefore has a small helper process that waits for the end of a pipe, which the kernel closes however pytest ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE = 3.0
"""Time, in seconds, between SIGTERM, which `oc-smart` and the daemon pass on, and SIGKILL."""
ROUNDS = 5
"""Number of passes: a process that is just being started is found by the next one."""


def below(root: Path) -> list[psutil.Process]:
    """Return this user's running processes whose HOME is `root` or below it."""
    return [process for process in psutil.process_iter() if _home_in(process, str(root))]


def _home_in(process: psutil.Process, root: str) -> bool:
    try:
        home = process.environ().get("HOME", "")
        mine = home == root or home.startswith(f"{root}/")
        return mine and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def sweep(root: Path) -> list[str]:
    """End these processes and return their command lines."""
    ended: list[str] = []
    for _ in range(ROUNDS):
        found = below(root)
        if not found:
            break
        ended += [_named(process) for process in found]
        _signal(found, signal.SIGTERM)
        _, alive = psutil.wait_procs(found, PATIENCE)
        _signal(alive, signal.SIGKILL)
        psutil.wait_procs(alive, PATIENCE)
    return ended


def _named(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


@contextmanager
def reaper(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that sweeps `root` when this one ends, and also at the end of the block."""
    command = [sys.executable, __file__, str(root)]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


def main() -> None:
    """Wait for the end of standard input, then sweep the directory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    time.sleep(0.2)  # the process that had the pipe open may have just started another one
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
