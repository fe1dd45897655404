"""Run the programs of service managers, with a timeout and with untranslated output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ocwatchd.core.text.amounts import span

PATIENCE = 10.0
"""Default timeout, in seconds, for a program; `systemctl show` takes 10 ms."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of running a program. `code` is None if the program could not be run or did not finish in time."""

    code: int | None
    out: str
    err: str

    @property
    def done(self) -> bool:
        """Return whether the program succeeded."""
        return self.code == 0

    @property
    def why(self) -> str:
        """Return the first line of standard error. If it is empty, return the first line of standard output, or else
        the exit code.
        """
        lines = (self.err or self.out).strip().splitlines()
        return lines[0].strip().rstrip(".") if lines else f"exit code {self.code}"


def ask(command: Sequence[str], patience: float = PATIENCE) -> Answer:
    """Run the program and return its result. No exception is raised if the program fails."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"`{' '.join(command)}` did not finish within {span(patience)}")
    except OSError as fault:
        return Answer(None, "", f"{command[0]}: {fault.strerror or fault}")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
