"""`ocwatchd` with a wall clock that a test sets: `python -m tests.support.stepped FILE`, which holds an offset."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ocwatchd.config import load
from ocwatchd.daemon import Daemon
from ocwatchd.paths import Paths


class SteppedClock:
    """The machine's clock, set forward or back by what stands in a file at this moment."""

    def __init__(self, offset: Path) -> None:
        self._offset = offset

    def now(self) -> float:
        """Epoch seconds."""
        try:
            return time.time() + float(self._offset.read_text())
        except (OSError, ValueError):
            return time.time()


if __name__ == "__main__":
    paths = Paths.from_env()
    Daemon(paths, load(paths), SteppedClock(Path(sys.argv[1]))).run()
