"""Tests that the running daemon uses edits of its configuration, and that `ocwatch status` shows this."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Cli, resting
from tests.support.processes import wait_until


class Running:
    """`ocwatchd` in the home of `cli`."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.errors = cli.paths.home / "stderr"
        with self.errors.open("wb") as sink:
            command = [sys.executable, "-m", "ocwatchd"]
            self.process = subprocess.Popen(command, env=cli.env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        wait_until(lambda: cli("status").returncode == 0, 60, why="the daemon to be up")

    def told(self, what: str) -> list[dict[str, Any]]:
        """Return the journal's entries of this kind."""
        if not self.cli.paths.journal.exists():
            return []
        entries = [json.loads(line) for line in self.cli.paths.journal.read_text().splitlines() if line.endswith("}")]
        return [entry for entry in entries if entry["what"] == what]

    def configuration(self) -> dict[str, Any]:
        """Return the daemon's current statement about its configuration."""
        beat = json.loads(self.cli.paths.heartbeat.read_text())["configuration"]
        assert isinstance(beat, dict)
        return beat


@pytest.fixture
def daemon(cli: Cli) -> Iterator[Running]:
    cli.register(**{"p/a": resting(3600, target={"model": "q/b", "agent": None})})
    cli.configure(fallbackChain={"p/a": "q/b"})
    running = Running(cli)
    yield running
    running.process.terminate()
    try:
        assert running.process.wait(20) == 0
    finally:
        running.process.kill()


def test_edits_are_taken_over_a_broken_one_is_said_and_mended(cli: Cli, daemon: Running) -> None:
    edited = time.monotonic()
    cli.configure(fallbackChain={"p/a": "r/c"}, maxRetrys=1)
    wait_until(lambda: cli.registered()["p/a"]["target"]["model"] == "r/c", 60, why="the new stand-in")
    print(f"{time.monotonic() - edited:.2f} s from the edit to the blacklist")
    assert cli.registered()["p/a"]["reset_source"] == "estimate", "the cooldown itself stays"
    (note,) = daemon.told("configured")
    assert "did you mean 'maxRetries'?" in note["warnings"][0]

    cli.paths.config_file.write_text('{\n"rateLimit": {\n"mode": "fast"}}')
    wait_until(lambda: daemon.configuration()["problem"], 60, why="the broken edit to be said")
    status = cli("status")
    assert status.returncode == 4
    said = " ".join(status.stdout.split())
    assert "line 3: rateLimit.mode: 'fast'" in said
    assert said.endswith("next: ocwatch config check (list all errors of the configuration)")
    document = cli.json("status", code=4)
    assert document["configuration"]["file"] == str(cli.paths.config_file)
    assert "'fast'" in document["configuration"]["problem"]
    assert "the last valid configuration is used" in document["health"][0]
    assert cli.registered()["p/a"]["target"]["model"] == "r/c"
    assert len(daemon.told("misconfigured")) == 1
    assert daemon.errors.read_text().count("misconfigured") == 1

    cli.configure(fallbackChain={"p/a": "r/c"})
    wait_until(lambda: daemon.configuration()["problem"] is None, 60, why="the mending to be said")
    assert cli.json("status")["health"] == []
    assert len(daemon.told("configured")) == 2


def test_a_daemon_that_is_started_with_a_broken_one_ends_with_4(cli: Cli) -> None:
    cli.paths.config_file.write_text('{"rateLimit": {"mode": "fast"}}')
    done = subprocess.run([sys.executable, "-m", "ocwatchd"], env=cli.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "'fast'" in done.stderr
    assert cli.json("status", code=3)["configuration"] is None
