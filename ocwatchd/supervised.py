"""A terminal in which OpenCode runs under `oc-smart`: the launcher starts it again when it is asked to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.opencode.family import descends
from ocwatchd.opencode.processes import Running
from ocwatchd.opencode.terminals import PICKUP_LIMIT, Again, TerminalFault
from ocwatchd.state.files import make_private_dir
from ocwatchd.state.relaunch import Asking, path_for

VARIABLE = "OCWATCHD_TERMINAL"
"""Set by the launcher to its own process id."""
NEAR = 3
"""Generations between launcher and OpenCode: a wrapper or two, but not a tool that starts another OpenCode."""


@dataclass(slots=True)
class Supervised:
    """The launcher's terminal."""

    launcher: int
    state_dir: Path
    asking: Asking | None = None

    def __str__(self) -> str:
        return f"the terminal of oc-smart, process {self.launcher}"

    @contextmanager
    def kept_open(self, again: Again) -> Iterator[None]:
        """Within the block the launcher does not leave with OpenCode; what stands in `again` follows in any case.

        Raises:
            OcwatchError: it cannot be asked; nothing was changed.
            OSError: likewise.
        """
        make_private_dir(self.state_dir)
        request = {"words": again.words, "directory": again.directory, "plugin": again.plugin is not None}
        self.asking = Asking(path_for(str(self.state_dir), self.launcher), request)
        try:
            yield
        finally:
            self.asking.close()

    def withdraw(self) -> None:
        """Nothing was ended, so nothing is to follow."""
        if self.asking is not None:
            self.asking.withdraw()

    def launch(self, again: Again, scratch: Path) -> None:  # noqa: ARG002 (asked for already)
        """Have it started.

        Raises:
            TerminalFault: the launcher does not react.
        """
        with suppress(ProcessLookupError):
            os.kill(self.launcher, signal.SIGCONT)  # stopped together with an OpenCode that hung
        if self.asking is None or not self.asking.go(PICKUP_LIMIT):
            raise TerminalFault(f"{self} did not start it again")

    def runs(self, running: Running) -> bool:
        """Whether a process runs in this terminal."""
        return descends(running.pid, frozenset((self.launcher,)), most=NEAR)


def find_supervised(running: Running, state_dir: Path) -> Supervised | None:
    """The launcher above this process, if it can start it again."""
    named = running.environ.get(VARIABLE, "")
    near = [relative.pid for relative in running.above[:NEAR]]
    return Supervised(int(named), state_dir) if named.isdecimal() and int(named) in near else None
