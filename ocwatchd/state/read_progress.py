"""Check whether the daemon reads OpenCode's logs, by comparing their sizes with the daemon's cursors.

A fresh heartbeat does not prove that logs are being read. The check is cheap enough for `ocwatch status`: it needs one
stat call per log, and one small read for each log with unread bytes.
"""

from __future__ import annotations

import json
import os
import stat

from ocwatchd.ownership import open_followed
from ocwatchd.state.safe_read import StateError, read_plain
from ocwatchd.time_words import span

PATIENCE = 10.0
"""Maximum time, in seconds, for which a line may stay unread. The daemon polls every second and saves its cursors every
two seconds.
"""
SEARCHED_BYTES = 1 << 16
"""Number of unread bytes that are searched for the end of a line. The daemon leaves an unfinished line unread."""
RECENT = 86_400.0
"""A log that was last written more than this many seconds ago is not checked. Its lines were already old when the
daemon started.
"""


def unread_log(logs: str, cursors: str, started: float | None, now: float) -> str | None:
    """Return a sentence about a log in the directory `logs` with unread lines, or None if there is no such log.

    `cursors` is the path of the daemon's cursors. `started` is the daemon's start in epoch seconds. Lines from before
    the start are ignored.
    """
    read = _offsets(cursors)
    saved = _mtime(cursors)
    for path, size, written in _logs(logs):
        waiting = min(written, now) - max(saved, started or 0.0)
        if waiting < PATIENCE or now - written > RECENT:
            continue
        offset = read.get(path, 0)
        if size > offset and _has_line(path, offset):
            return f"OpenCode is writing to {path}, but the daemon has not read any of it for {span(round(waiting))}"
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
        with open(open_followed(path), "rb") as file:
            file.seek(offset)
            return b"\n" in file.read(SEARCHED_BYTES)
    except OSError:  # the daemon reports unreadable files
        return False
