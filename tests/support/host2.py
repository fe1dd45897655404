"""The companion plugin in a stand-in for the released OpenCode 2, under the Bun inside OpenCode's own binary.

The releases cannot be fetched for tests. `host2.mjs` lists the behaviour that it imitates, and its sources. The tests
depend on that contract rather than on a real OpenCode. Time is virtual unless a test asks for real time.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocwatchd.opencode.plugin import install as plugin_file
from tests.support.opencode import NEWEST, binary

HOST = Path(__file__).with_name("host2.mjs")
HOUR = 3_600_000


@dataclass(frozen=True)
class Host2:
    """A home with the plugin, and a simulated OpenCode 2."""

    home: Path

    @property
    def state(self) -> Path:
        return self.home / ".local/state/ocwatchd"

    @property
    def socket(self) -> Path:
        return self.state / "decisions.sock"

    def install(self) -> Path:
        """Copy the shipped plugin into the home and return its path."""
        for name in (plugin_file.NAME, *plugin_file.PARTS):
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plugin_file.shipped(name))
        return self.home / plugin_file.NAME

    def play(
        self,
        *steps: dict[str, Any],
        clock: str = "virtual",
        before: Sequence[tuple[str, Any]] = (),
        after: Sequence[tuple[str, Any]] = (),
    ) -> list[Any]:
        """Load the plugin, run the steps, and return the result of each.

        `before` and `after` contain hooks of other plugins, as pairs of a hook's name and its decision.
        """
        given = {
            "plugin": str(self.install()),
            "steps": [{"act": "start"}, *steps],
            "clock": clock,
            "socket": str(self.socket),
            "before": before,
            "after": after,
        }
        done = subprocess.run(
            [str(binary(NEWEST)), str(HOST)],
            env={"BUN_BE_BUN": "1", "HOME": str(self.home), "PATH": os.environ["PATH"], "TZ": "UTC"},
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        thrown = [result for result in results if isinstance(result, dict) and "thrown" in result]
        assert thrown == [], thrown
        return list(results[1:])

    def register(self, models: dict[str, Any]) -> None:
        """Write blacklist.json."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.state / "blacklist.json").write_text(json.dumps({"version": 1, "models": models}))

    def errors(self) -> str:
        path = self.state / "plugin-errors.log"
        return path.read_text() if path.exists() else ""


def refused(kind: str = "provider.rate-limit", status: int = 429, **more: Any) -> dict[str, Any]:
    """Return an attempt that the provider refuses. `retryAfter` is in milliseconds."""
    return {"error": {"type": kind, "message": f"HTTP {status}", "status": status}, **more}


def session(model: str | None = "mock/a", name: str = "ses_1", **more: Any) -> dict[str, Any]:
    return {"act": "session", "id": name, "model": model, **more}


def script(model: str, *outcomes: dict[str, Any]) -> dict[str, Any]:
    """Return a step that sets the outcomes of a model's requests, in order; the last one is repeated."""
    return {"act": "script", "model": model, "outcomes": outcomes}


def daemon(*answers: dict[str, Any] | str) -> dict[str, Any]:
    """Return a step that starts a daemon with these answers, in order; the last one is repeated."""
    return {"act": "daemon", "answers": answers}


def move(model: str = "mock2/b", **more: Any) -> dict[str, Any]:
    return {"verdict": "move", "model": model, **more}


def prompt(name: str = "ses_1", *, wait: bool = True) -> dict[str, Any]:
    return {"act": "prompt", "session": name, "wait": wait}


def ended(name: str = "ses_1") -> dict[str, Any]:
    return {"act": "ended", "session": name}


SEEN = {"act": "seen"}
