"""Whether the daemon reads what OpenCode writes: compares the logs with how far they were read, both on disk.

A beating heart does not prove open eyes. Cheap enough for `ocwatch status`: a stat for each log, and one small read for
those that are ahead.
"""

from __future__ import annotations

import json
import os
import stat

from ocwatchd.state.plain import StateError, read_plain

PATIENCE = 10.0
"""Seconds that lines may wait unread; the daemon looks every second, and saves how far it came every two."""
LOOK = 1 << 16
"""Bytes of unread log that are searched for the end of a line: an unfinished line is rightly kept back."""
RECENT = 86_400.0
"""Seconds since its last write for which a log matters: older lines were old news when the daemon began."""


def unheard(logs: str, cursors: str, started: float | None, now: float) -> str | None:
    """A sentence about a log of directory `logs` whose new lines nobody has read; None if all is read.

    `cursors`: the daemon's file. `started`: when it began, epoch seconds; what was written before is no fault of its.
    """
    read = _offsets(cursors)
    saved = _mtime(cursors)
    for path, size, written in _logs(logs):
        waiting = min(written, now) - max(saved, started or 0.0)
        if waiting < PATIENCE or now - written > RECENT:
            continue
        offset = read.get(path, 0)
        if size > offset and _has_line(path, offset):
            return f"OpenCode writes to {path}, and none of the last {waiting:.0f} s was read"
    return None


def _logs(directory: str) -> list[tuple[str, int, float]]:
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".log"):
                    info = entry.stat()
                    if stat.S_ISREG(info.st_mode):
                        found.append((entry.path, info.st_size, info.st_mtime))
    except OSError:
        return []
    return found


def _offsets(cursors: str) -> dict[str, int]:
    try:
        files = json.loads(read_plain(cursors)).get("files", {})
        return {path: int(cursor["offset"]) for path, cursor in files.items()}
    except (OSError, StateError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _has_line(path: str, offset: int) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return b"\n" in file.read(LOOK)
    except OSError:  # the daemon says itself what it cannot read
        return False
