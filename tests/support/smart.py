"""The real `oc-smart` in the private HOME of a test, with a real OpenCode as `opencode` on its PATH."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.binaries import binary
from tests.support.daemon import CHAIN
from tests.support.homes import Home
from tests.support.reaper import below

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Timeout, in seconds, for a run. On a loaded machine, 1.18 alone needs 20 s."""


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """End a hanging process. The first signal is one that it can handle, so that it leaves nothing behind."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


class Smart:
    """`oc-smart` in `home`. `settings` contains the keys under `rateLimit` besides the chain."""

    def __init__(self, home: Home, version: str, chain: Mapping[str, Any] | None = CHAIN, **settings: Any) -> None:
        self.home, self.cwd = home, home.project(git=True)
        directory = home.root / "bin"
        directory.mkdir(exist_ok=True)
        if not (directory / "opencode").exists():
            (directory / "opencode").symlink_to(binary(version))
        self.env = {**home.env(self.cwd), "PYTHONPATH": str(ROOT), "SMART_TEST": str(home.root)}
        self.env["PATH"] = f"{directory}:{self.env['PATH']}"
        if chain is not None:
            text = json.dumps({"rateLimit": {"fallbackChain": chain, **settings}})
            (home.config_dir / "rate-limit-config.json").write_text(text)

    def start(self, *arguments: str, environ: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Start `oc-smart` with pipes for standard output and error."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "ocwatchd.cli.commands.run", *arguments]
        options = pipes | {"start_new_session": True, "text": True} | more
        return subprocess.Popen(command, cwd=self.cwd, env={**self.env, **(environ or {})}, **options)

    def as_program(self) -> list[str]:
        """Return the command line for a terminal, without the environment variables that reveal tmux."""
        passed = [f"{name}={self.env[name]}" for name in ("PATH", "PYTHONPATH", "SMART_TEST")]
        return ["env", "-u", "TMUX", "-u", "TMUX_PANE", *passed, sys.executable, "-m", "ocwatchd.cli.commands.run"]

    def run(self, *arguments: str, input: str | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run `oc-smart` until it ends."""
        if input is not None:
            more["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(input, timeout=PATIENCE)
        finally:
            stop(process, signal.SIGINT)
        print(f"$ oc-smart {arguments} -> {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def plain(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `opencode` itself in the same way."""
        stdin: dict[str, Any] = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            [str(self.home.root / "bin" / "opencode"), *arguments],
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            **stdin,
        )

    def left_behind(self) -> list[Sequence[str]]:
        """Return the command lines of this home's processes that are still running."""
        found = []
        for process in below(self.home.root):
            with suppress(psutil.Error):
                if process.environ().get("SMART_TEST") == str(self.home.root):
                    found.append(process.cmdline())
        return found

    def forget(self) -> None:
        """Delete the blacklist, so that no model is cooling down."""
        (self.home.root / ".local" / "state" / "ocwatchd" / "blacklist.json").unlink(missing_ok=True)

    def cooldowns(self) -> dict[str, Any]:
        """Return the entries of the blacklist file."""
        path = self.home.root / ".local" / "state" / "ocwatchd" / "blacklist.json"
        found: dict[str, Any] = json.loads(path.read_text())["models"] if path.exists() else {}
        return found

    def block(self, **models: Any) -> None:
        """Write the blacklist file."""
        path = self.home.root / ".local" / "state" / "ocwatchd" / "blacklist.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": 1, "models": models}))
