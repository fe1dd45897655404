"""Run `ocwatchd` with a wall clock set by a test: `python -m tests.support.stepped FILE`; FILE contains an offset."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ocwatchd.config import load
from ocwatchd.daemon.loop import Daemon
from ocwatchd.paths import Paths


class SteppedClock:
    """The machine's clock plus an offset in seconds, which is read from a file each time."""

    def __init__(self, offset: Path) -> None:
        self._offset = offset

    def now(self) -> float:
        """Return epoch seconds."""
        try:
            return time.time() + float(self._offset.read_text())
        except (OSError, ValueError):
            return time.time()


if __name__ == "__main__":
    paths = Paths.from_env()
    Daemon(paths, load(paths), SteppedClock(Path(sys.argv[1]))).run()
