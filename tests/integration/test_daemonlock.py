"""Tests that a state directory has one daemon, and which process it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ocwatchd.state.daemon_lock import AlreadyRunning, hold, holder

HOLD = """
import sys, pathlib
from ocwatchd.state.daemon_lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_held_by_another_process_until_that_ends(tmp_path: Path) -> None:
    lock, beat = tmp_path / "daemon.lock", tmp_path / "daemon.json"
    assert holder(lock, beat) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        beat.write_text(f'{{"pid": {other.pid}}}')
        assert holder(lock, beat) == other.pid
        with pytest.raises(AlreadyRunning, match=f"pid {other.pid}"), hold(lock):
            pass
        other.kill()
    assert lock.read_text() == f"{other.pid}\n", "a killed one leaves its pid behind …"
    assert holder(lock, beat) is None, "… and is none any more"
    with hold(lock):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_a_pid_that_is_not_the_holders_is_never_named(tmp_path: Path) -> None:
    """The pid of a killed daemon may belong to any process, until the next daemon has written its own."""
    lock, beat = tmp_path / "daemon.lock", tmp_path / "daemon.json"
    beat.write_text("{}")
    with hold(lock):
        for wrong in (f"{os.getppid()}\n", "4194304\n", "", "nonsense"):
            lock.write_text(wrong)
            assert holder(lock, beat) == 0, wrong
