"""Which process of a log that all share (1.17 and later) has a session: a line names its run, and the run its start."""

from __future__ import annotations

import mmap
import re
from datetime import datetime
from pathlib import Path

_LINE = re.compile(rb"timestamp=(?P<time>\S+) level=(?P<level>\S+) run=(?P<run>[0-9a-zA-Z_-]{4,64}) ")
_FROM_THE_START = (b"INFO", b"DEBUG")
"""Levels that are written from a process's first moments on. Where only warnings are, the first line is no start."""


def run_began(log_dir: Path, session: str) -> float | None:
    """When the process that last named the session wrote its first line, epoch seconds; None if the log does not say.

    The whole log is searched for a literal, 0.3 s per GB: for a person's command, not for the daemon.
    """
    try:
        with (
            (log_dir / "opencode.log").open("rb") as handle,
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as log,
        ):
            last = _line_at(log, log.rfind(session.encode()))
            first = _line_at(log, log.find(b" run=" + last["run"] + b" ")) if last else None
            if first is None or first["level"] not in _FROM_THE_START:
                return None
            return datetime.fromisoformat(first["time"].decode()).timestamp()
    except (OSError, ValueError):  # no log, an empty one, or a time that is none
        return None


def _line_at(log: mmap.mmap, position: int) -> re.Match[bytes] | None:
    """The head of the line around this position; a match in the middle of a forged line is none."""
    return _LINE.match(log, log.rfind(b"\n", 0, position) + 1) if position >= 0 else None
