"""The managers' own programs, run with a limit of time and without a language."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE = 10.0
"""Seconds for a question; `systemctl show` takes 10 ms."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a program ended; `code` is None if it could not be run or did not end in time."""

    code: int | None
    out: str
    err: str

    @property
    def done(self) -> bool:
        """Whether it did what it was asked to."""
        return self.code == 0

    @property
    def why(self) -> str:
        """Its own first words about what went wrong."""
        lines = (self.err or self.out).strip().splitlines()
        return lines[0].strip().rstrip(".") if lines else f"exit code {self.code}"


def ask(command: Sequence[str], patience: float = PATIENCE) -> Answer:
    """Run it and return what it said. Never raises for what the program does."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"`{' '.join(command)}` did not answer within {patience:g} s")
    except OSError as fault:
        return Answer(None, "", f"{command[0]}: {fault.strerror or fault}")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
