"""The real daemon and the real commands, in the private HOME of a test.

with Daemon(home, chain={"mock/primary": ["mock2/fallback", "mock3/third"]}) as daemon:
    daemon.wait_journal("moved")
    assert daemon.ocwatch("status").returncode == 0
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.homes import Home
from tests.support.processes import start, stop, wait_until

CHAIN: Mapping[str, Any] = {"mock/primary": ["mock2/fallback", "mock3/third"]}


class Daemon:
    """`ocwatchd` as a process of `home`, with `settings` under `rateLimit` in its configuration."""

    def __init__(self, home: Home, chain: Mapping[str, Any] = CHAIN, **settings: Any) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self.output = home.root / "ocwatchd.err"
        self.command: Sequence[str] = (sys.executable, "-m", "ocwatchd")
        config = {"rateLimit": {"fallbackChain": chain, **settings}}
        (home.config_dir / "rate-limit-config.json").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        print(self.said())  # shown by pytest if the test fails

    def start(self) -> None:
        """Start it and wait until it hears."""
        self.process = start(self.command, self.home, self.home.root, self.output)
        wait_until(self._hears, 20, why="the daemon's heartbeat")

    def _hears(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        return self.heartbeat().get("pid") == self.pid

    @property
    def pid(self) -> int:
        """The running daemon's."""
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        return stop(self.process, 8)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def said(self) -> str:
        """All of its standard error so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.home.root / ".local" / "state" / "ocwatchd"

    def heartbeat(self) -> dict[str, Any]:
        """daemon.json, or nothing."""
        return _json(self.state / "daemon.json")

    def cooldown(self, model: str) -> dict[str, Any] | None:
        """One entry of the blacklist file."""
        entry = _json(self.state / "blacklist.json").get("models", {}).get(model)
        return entry if isinstance(entry, dict) else None

    def wait_cooldown(self, model: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the model is listed."""
        entry: dict[str, Any] = wait_until(lambda: self.cooldown(model), timeout, why=f"{model} on the blacklist")
        return entry

    def wait_told(self, model: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the model is listed with an end that is no guess: OpenCode is asked after the first entry."""

        def told() -> dict[str, Any] | None:
            entry = self.cooldown(model)
            return entry if entry and entry["told_by"] != "backoff" else None

        entry: dict[str, Any] = wait_until(told, timeout, why=f"the exact end of {model}'s cooldown")
        return entry

    def journal(self, what: str | None = None) -> list[dict[str, Any]]:
        """All journal entries, or those of one sort."""
        path = self.state / "journal.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [entry for entry in entries if what is None or entry["what"] == what]

    def wait_journal(self, what: str, count: int = 1, timeout: float = 60.0) -> list[dict[str, Any]]:
        """Wait for `count` journal entries of this sort."""
        wait_until(lambda: len(self.journal(what)) >= count, timeout, why=f"{count} × {what} in the journal")
        return self.journal(what)

    def ocwatch(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `ocwatch ARGS` in this home."""
        return ocwatch(self.home, *args)


def ocwatch(home: Home, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ocwatch ARGS` in a home. `restart` waits for two starts of OpenCode: a minute each on a loaded machine."""
    command: Sequence[str] = [sys.executable, "-m", "ocwatchd.cli", *args]
    return subprocess.run(
        command, cwd=home.root, env=home.env(home.root), capture_output=True, text=True, timeout=150, input=input
    )


def epoch(rfc3339: str) -> float:
    """Epoch seconds of a time in our files."""
    return datetime.fromisoformat(rfc3339).timestamp()


def settle(seconds: float) -> None:
    """Let time pass in which nothing may happen: the one thing that cannot be waited for otherwise."""
    time.sleep(seconds)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
