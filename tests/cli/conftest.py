"""Fixtures for the real command line, in a subprocess with a private HOME."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ocwatchd
from ocwatchd.paths import Paths

ROOT = Path(ocwatchd.__file__).parents[1]


class Cli:
    """`ocwatch` for a user whose home is empty."""

    def __init__(self, home: Path) -> None:
        config = home / ".config" / "opencode"
        config.mkdir(parents=True)
        self.paths = Paths(
            home, config, home / ".local/share/opencode", home / ".local/state/ocwatchd", home / ".cache/ocwatchd"
        )
        self.env = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TZ": "UTC"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ocwatchd.cli", *arguments]

    def __call__(
        self, *arguments: str, input: bytes | None = None, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            env={**self.env, **env},
            cwd=cwd or self.paths.home,
            input=b"" if input is None else input,
            capture_output=True,
            timeout=60,
        )
        assert b"Traceback" not in done.stderr
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
        )

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        assert document["version"] == 1
        return document

    def configure(self, **rate_limit: Any) -> None:
        self.paths.config_file.write_text(json.dumps({"rateLimit": rate_limit}))

    def opencode(self, **config: Any) -> None:
        (self.paths.opencode_config / "opencode.json").write_text(json.dumps(config))

    def register(self, **models: dict[str, Any] | None) -> None:
        self.paths.state_dir.mkdir(parents=True, exist_ok=True)
        self.paths.blacklist.write_text(json.dumps({"version": 1, "models": models}))

    def registered(self) -> dict[str, Any]:
        models = json.loads(self.paths.blacklist.read_text())["models"]
        assert isinstance(models, dict)
        return models

    def heartbeat(self, age: float = 0.0, pid: int | None = None, **more: Any) -> None:
        self.paths.state_dir.mkdir(parents=True, exist_ok=True)
        beat = {"version": 1, "pid": pid or os.getpid(), "started": at(-300), "beat": at(-age), **more}
        self.paths.heartbeat.write_text(json.dumps(beat))


def at(seconds: float) -> str:
    """Return the time `seconds` from now in the format of our files."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def resting(seconds: float | None = 3600, **changes: Any) -> dict[str, Any]:
    """Return an entry of the blacklist file."""
    until = None if seconds is None else at(seconds)
    known = {
        "kind": "rate_limit",
        "scope": "model",
        "since": at(-60),
        "until": until,
        "strikes": 1,
        "reset_source": "estimate",
    }
    return {**known, **changes}


def store(cli: Cli, *sessions: tuple[str, str, str]) -> None:
    """Write OpenCode's message store with these sessions, the latest first: id, title and directory of each."""
    cli.paths.opencode_data.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(cli.paths.opencode_data / "opencode.db") as connection:
        connection.execute(
            "CREATE TABLE session (id, title, directory, parent_id, version, time_created, time_updated)"
        )
        connection.execute("CREATE TABLE message (id, session_id, time_created, data)")
        for number, (ident, title, directory) in enumerate(sessions):
            now = int(time.time() * 1000) - 60_000 * number
            connection.execute(
                "INSERT INTO session VALUES (?, ?, ?, NULL, '1.18.33', ?, ?)", (ident, title, directory, now, now)
            )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home")
