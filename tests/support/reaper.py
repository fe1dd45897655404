"""Ends what tests have started and left behind: the processes whose HOME is a private one below a directory.

A test that fails sweeps its own home. A pytest that is killed (a timeout of CI, a hung worker) runs no clean-up at all,
and nothing that a test starts notices: each process leads a session of its own. So every pytest process has a small one
beside it that waits for the end of a pipe, which the kernel tells however that end comes.
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
"""Seconds after SIGTERM, which `oc-smart` and the daemon hand on, until SIGKILL."""
ROUNDS = 5
"""A process that is just being started is seen by the next round."""


def below(root: Path) -> list[psutil.Process]:
    """This user's live processes whose HOME is `root`, or lies below it."""
    return [process for process in psutil.process_iter() if _home_in(process, str(root))]


def _home_in(process: psutil.Process, root: str) -> bool:
    try:
        home = process.environ().get("HOME", "")
        mine = home == root or home.startswith(f"{root}/")
        return mine and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def sweep(root: Path) -> list[str]:
    """End them; the command lines of what was there."""
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
    """While the block runs, a process that sweeps `root` when this one ends; it does so at the block's end as well."""
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
    """Wait for the end of standard input, then sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    time.sleep(0.2)  # whoever held the pipe may have been about to start something
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
