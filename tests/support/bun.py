"""The companion plugin alone, under the Bun inside OpenCode's own binaries, and helpers that build its input."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ocwatchd.opencode.plugin import install as plugin_file
from tests.support.opencode import binary

DRIVER = Path(__file__).with_name("plugin_driver.mjs")
A, B, C = "mock/a", "mock2/b", "mock3/c"


@dataclass(frozen=True)
class Bun:
    """The plugin in its own home, under the Bun of one OpenCode version."""

    version: str
    home: Path
    tui: bool = False

    @property
    def state(self) -> Path:
        return self.home / ".local/state/ocwatchd"

    def play(
        self,
        *steps: dict[str, Any],
        env: dict[str, str] | None = None,
        without: tuple[str, ...] = (),
        unset: tuple[str, ...] = (),
    ) -> list[Any]:
        """Start the plugin without the parts in `without`, run the steps, and return the result of each."""
        self.home.mkdir(exist_ok=True)
        plugin = self.home / plugin_file.NAME
        for name in {plugin_file.NAME, *plugin_file.PARTS} - {*without}:
            part = self.home / name
            part.parent.mkdir(exist_ok=True)
            part.write_bytes(plugin_file.shipped(name))
        whole = [*([] if steps[0]["act"] == "start" else [{"act": "start"}]), *steps]
        environ = {"BUN_BE_BUN": "1", "HOME": str(self.home), "PATH": os.environ["PATH"], "TZ": "UTC"}
        environ |= ({"IN_WORKER": "1"} if self.tui else {}) | (env or {})
        done = subprocess.run(
            [str(binary(self.version)), str(DRIVER)],
            env={name: value for name, value in environ.items() if name not in unset},
            input=json.dumps({"plugin": str(plugin), "steps": whole}),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert isinstance(results, list)
        return results[len(whole) - len(steps) :]

    def register(self, text: str | None = None, **models: Any) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        entries = {name.replace("__", "/"): entry for name, entry in models.items()}
        (self.state / "blacklist.json").write_text(text or json.dumps({"version": 1, "models": entries}))

    @property
    def endpoints(self) -> Path:
        return self.state / "doors"

    def about(self) -> dict[str, Any]:
        """Return the step that reads the process's own files."""
        return {"act": "about", "doors": str(self.endpoints)}

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.state.glob("facts/*.jsonl") for line in path.read_text().splitlines()]

    def errors(self) -> str:
        path = self.state / "plugin-errors.log"
        return path.read_text() if path.exists() else ""


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def rests(
    target: str | None = None, agent: str | None = None, until: str | None = "later", **more: Any
) -> dict[str, Any]:
    end = at(3600) if until == "later" else until
    return {"until": end, "target": {"model": target, "agent": agent} if target else None, **more}


def message(model: str, agent: str = "build", parts: int = 1) -> dict[str, Any]:
    provider, _, name = model.partition("/")
    output = {"message": {"agent": agent, "model": {"providerID": provider, "modelID": name}}, "parts": [{}] * parts}
    return {"act": "hook", "name": "chat.message", "input": {"sessionID": "ses_1"}, "output": output}


def went_to(output: dict[str, Any]) -> str:
    chosen = output["message"]
    return f"{chosen['model']['providerID']}/{chosen['model']['modelID']} {chosen['agent']}"


def prompt(model: str, named: bool, agent: str = "build", session: str = "ses_1") -> dict[str, Any]:
    """Return the step for a prompt that uses `model`: the model is `named` in the prompt, or was used last
    before it.
    """
    step = message(model, agent)
    step["input"] = {"sessionID": session} | ({"model": step["output"]["message"]["model"]} if named else {})
    return step


def moved(since: float = -60, **sessions: tuple[str, str]) -> str:
    entries = {
        name: {"from": {"model": origin}, "to": {"model": target}, "since": at(since)}
        for name, (origin, target) in sessions.items()
    }
    return json.dumps({"version": 1, "sessions": entries})


def pooled(spread: bool = True, until: float = 86_400, **loads: float) -> dict[str, Any]:
    members = [{"model": name, "weight": 1, "load": loads.get(name[-1], 0), "agent": None} for name in (A, B, C)]
    return {"pool": {"members": members, "spread": spread, "until": at(until), "measured": None}}


def spent(*models: str, until: float = 3600, **more: Any) -> dict[str, Any]:
    """Return the budget.json of a day on which the budget is used up and these models are over budget."""
    return {"version": 1, "budget": 1, "spent": 2, "until": at(until), "over_budget": models, **more}
