"""The real daemon and the real commands, in a test's private HOME.

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
WHOLE_CHAIN: Mapping[str, Any] = {**CHAIN, "mock2/fallback": ["mock3/third"]}
"""The same chain with a fallback for every agent's model, so that no command reports a missing fallback."""


class Daemon:
    """`ocwatchd` as a process in `home`, with `settings` under `rateLimit` in its configuration."""

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
        """Start the daemon and wait until it reads logs."""
        self.process = start(self.command, self.home, self.home.root, self.output)
        wait_until(self._hears, 20, why="the daemon's heartbeat")

    def _hears(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.said()}")
        return self.heartbeat().get("pid") == self.pid

    @property
    def pid(self) -> int:
        """Return the pid of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        return stop(self.process, 8)

    def kill(self) -> None:
        """Send SIGKILL, which simulates a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def said(self) -> str:
        """Return the daemon's standard error so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def state(self) -> Path:
        """Return the daemon's state directory."""
        return self.home.root / ".local" / "state" / "ocwatchd"

    def heartbeat(self) -> dict[str, Any]:
        """Return the content of daemon.json, or an empty dict."""
        return _json(self.state / "daemon.json")

    def cooldown(self, model: str) -> dict[str, Any] | None:
        """Return one entry of the blacklist file, or None."""
        entry = _json(self.state / "blacklist.json").get("models", {}).get(model)
        return entry if isinstance(entry, dict) else None

    def wait_cooldown(self, model: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the model is on the blacklist, and return its entry."""
        entry: dict[str, Any] = wait_until(lambda: self.cooldown(model), timeout, why=f"{model} on the blacklist")
        return entry

    def wait_reported(self, model: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the model is listed with a reported reset time. The daemon queries OpenCode only after the first
        entry.
        """

        def reported() -> dict[str, Any] | None:
            entry = self.cooldown(model)
            return entry if entry and entry["reset_source"] != "estimate" else None

        entry: dict[str, Any] = wait_until(reported, timeout, why=f"the exact end of {model}'s cooldown")
        return entry

    def journal(self, what: str | None = None) -> list[dict[str, Any]]:
        """Return all journal entries, or those of one kind."""
        path = self.state / "journal.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [entry for entry in entries if what is None or entry["what"] == what]

    def wait_journal(self, what: str, count: int = 1, timeout: float = 60.0) -> list[dict[str, Any]]:
        """Wait for `count` journal entries of this kind, and return all of them."""
        wait_until(lambda: len(self.journal(what)) >= count, timeout, why=f"{count} × {what} in the journal")
        return self.journal(what)

    def ocwatch(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `ocwatch ARGS` in this home."""
        return ocwatch(self.home, *args)


def ocwatch(home: Home, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ocwatch ARGS` in a home.

    The timeout allows for `restart`, which starts OpenCode twice: a minute each on a loaded machine.
    """
    command: Sequence[str] = [sys.executable, "-m", "ocwatchd.cli", *args]
    return subprocess.run(
        command, cwd=home.root, env=home.env(home.root), capture_output=True, text=True, timeout=150, input=input
    )


def epoch(rfc3339: str) -> float:
    """Return the epoch seconds of a time in our files."""
    return datetime.fromisoformat(rfc3339).timestamp()


def settle(seconds: float) -> None:
    """Wait for a while. This is for tests in which an event must not happen, because there is nothing to wait for."""
    time.sleep(seconds)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
