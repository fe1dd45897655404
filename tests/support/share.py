"""Machines that share cooldowns: private homes, each with a real `ocwatch share` and a blacklist that tests write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.format import read_entries

PATIENCE = 45.0
OPUS = ModelRef("anthropic", "claude-opus-4")
CHAIN = {"anthropic/claude-opus-4": "other/fallback"}


def wait_for(condition: Callable[[], object], patience: float = PATIENCE, why: str | Callable[[], str] = "") -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, (why() if callable(why) else why) or "waited in vain"
        time.sleep(0.005)


class Machine:
    """One home. `share` is its section of the configuration; `environ` contains additional variables.

    `prefix` is a command that runs the helper.
    """

    def __init__(
        self,
        root: Path,
        share: Mapping[str, object],
        *,
        environ: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """Write the configuration; start nothing."""
        self._prefix = prefix
        self.root, self._more = root, dict(environ or {})
        self.state = root / ".local" / "state" / "ocwatchd"
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.blacklist = self.state / "blacklist.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(share)

    def configure(self, share: Mapping[str, object] | None) -> None:
        """Write the configuration."""
        directory = self.root / ".config" / "opencode"
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"fallbackChain": CHAIN, **({"share": dict(share)} if share is not None else {})}
        temporary = directory / "new.json"
        temporary.write_text(json.dumps({"rateLimit": settings}))
        temporary.replace(directory / "rate-limit-config.json")

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of every program on this machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "OPENCODE"))}
        return {**kept, "HOME": str(self.root), **self._more}

    def start(self, *, ready: bool = True) -> Machine:
        """Start the helper and wait until it is connected."""
        with (self.root / "share.log").open("ab") as log:
            command = [*self._prefix, sys.executable, "-m", "ocwatchd.cli", "share"]
            self._process = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)
        if ready:
            self.wait_state("connected")
        return self

    @property
    def ended(self) -> bool:
        """Return whether the helper has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Return the process id of the helper."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return the output of the helper."""
        return (self.root / "share.log").read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the helper and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(20)

    def __enter__(self) -> Machine:
        """Start the helper."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End the helper."""
        if self._process is not None:
            self.stop()

    # ---- actions of a daemon or a user

    def limit(
        self, model: ModelRef = OPUS, lasting: float | None = 3600.0, *, strikes: int = 1,
        source: ResetSource = ResetSource.RETRY_AFTER,
    ) -> float:  # fmt: skip
        """Enter a limit as the daemon does when this machine hits one. Return its time in epoch seconds."""
        now = time.time()
        entry = Cooldown(
            model, LimitKind.QUOTA, Scope.MODEL, now, None if lasting is None else now + lasting, strikes, source,
            reason="SECRET-REASON of prompt", session="ses_secret",
        )  # fmt: skip
        blacklist.update(self.blacklist, lambda entries: {**entries, model: entry}, now)
        return now

    def answered(self, model: ModelRef = OPUS) -> None:
        """End a cooldown because the model has answered, as the daemon does."""
        blacklist.update(
            self.blacklist, lambda entries: {ref: one for ref, one in entries.items() if ref != model}, time.time()
        )

    def ocwatch(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command on this machine, with lines of any length."""
        done = subprocess.run(
            [sys.executable, "-m", "ocwatchd.cli", *words], env={**self.environ, "COLUMNS": "400"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    # ---- observations

    def entry(self, model: ModelRef = OPUS) -> dict[str, Any] | None:
        """Return the active entry of a model as the file contains it."""
        found = read_entries(self.blacklist)
        if str(model) not in found.active(time.time()):
            return None
        models = found.raw["models"]
        assert isinstance(models, dict)
        row: dict[str, Any] = models[str(model)]
        return row

    def prevented(self, model: ModelRef = OPUS) -> bool:
        """Return whether new prompts avoid a model because of another machine's report."""
        entry = self.entry(model)
        return entry is not None and entry["reset_source"] == "shared"

    def known(self) -> set[str]:
        """Return the records that this machine knows."""
        try:
            return set(json.loads((self.state / "share" / "known.json").read_text())["records"])
        except FileNotFoundError:
            return set()

    def status(self) -> dict[str, Any]:
        """Return the status that the helper has written."""
        try:
            found: dict[str, Any] = json.loads((self.state / "share" / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_state(self, state: str) -> None:
        """Wait until the helper reports this state."""
        wait_for(lambda: self._said(state), why=lambda: f"not {state}: {self.status()}\n{self.log()}")

    def _said(self, state: str) -> bool:
        assert not self.ended, self.log()
        return self.status().get("state") == state and self.status().get("pid") == self._pid()

    def _pid(self) -> object:
        return self._process.pid if self._process is not None else None


def agree(*machines: Machine, records: int | None = None) -> bool:
    """Return whether all machines know the same records (and exactly `records` of them, if given)."""
    known = [machine.known() for machine in machines]
    return all(one == known[0] for one in known) and (records is None or len(known[0]) == records)
