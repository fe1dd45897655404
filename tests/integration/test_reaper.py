"""Tests that no process of a test outlives pytest, however pytest ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.reaper import below, sweep

ROOT = Path(__file__).resolve().parents[2]
PYTEST = """
import os, signal, subprocess, sys, time
from pathlib import Path
from tests.support.reaper import reaper
root = Path(sys.argv[1])
stubborn = "trap '' TERM INT; sleep 300 & wait; sleep 300"
with reaper(root):
    for name, command in (("one", ["sleep", "300"]), ("two", ["sh", "-c", stubborn])):
        subprocess.Popen(command, env={**os.environ, "HOME": str(root / name)}, start_new_session=True)
    Path(sys.argv[2]).touch()
    time.sleep(300 if sys.argv[3] == "killed" else 0)
"""


@pytest.mark.parametrize("end", ["killed", "over"])
def test_what_was_started_ends_with_whoever_started_it(tmp_path: Path, end: str) -> None:
    root, ready = tmp_path / "homes", tmp_path / "ready"
    stranger = subprocess.Popen(["sleep", "300"], env={**os.environ, "HOME": f"{root}-of-another"})
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", PYTEST, str(root), str(ready), end], env=environ)
    try:
        wait_until(ready.exists, 30, why="the processes")
        if end == "killed":
            assert len(below(root)) >= 2
            process.kill()
        process.wait(60)
        wait_until(lambda: not below(root), 30, why="their end")
        assert stranger.poll() is None
    finally:
        for each in (process, stranger):
            each.kill()
            each.wait()
        sweep(root)


def test_a_sweep_of_nothing_costs_next_to_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    assert sweep(tmp_path) == []
    assert time.monotonic() - began < 3
