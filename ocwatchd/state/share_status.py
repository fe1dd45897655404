"""Write and read share/status.json, the state of `ocwatch share`. This module has no costly imports, because `ocwatch
status` uses it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from ocwatchd.state.heartbeat import alive
from ocwatchd.state.safe_read import StateError, read_plain, write_unsynced

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
NAME = "status.json"
BEAT = 20.0
"""Interval, in seconds, between writes of an unchanged status."""
FRESH = 3 * BEAT
"""The share process is considered stopped if it has not written its status for this many seconds."""


class Link:
    """The states of the connection. The values are part of the JSON contract."""

    CONNECTED = "connected"
    CONNECTING = "connecting"  # the server or folder has not been reached yet
    GONE = "gone"
    SKEWED = "skewed"  # connected, but one of the two clocks is wrong
    STOPPED = "stopped"  # no share process is running; this value is never written


def write(path: Path, document: Mapping[str, object]) -> None:
    """Replace the file atomically but without fsync, because it is worthless after a power failure.

    Raises:
        OSError: The file could not be written.
    """
    write_unsynced(path, json.dumps({"version": VERSION, **document}).encode())


def read(path: str | os.PathLike[str], now: float) -> dict[str, object] | None:
    """Return the last status, or None if the share process has never run or has ended normally. Never raises.

    `state` is `Link.STOPPED` if the process that wrote the status has ended, or has not written for `FRESH` seconds.
    """
    try:
        document = json.loads(read_plain(path))
    except (OSError, StateError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return None
    pid, beat = document.get("pid"), document.get("beat_epoch")
    fresh = isinstance(beat, int | float) and abs(now - beat) < FRESH
    if not fresh or not isinstance(pid, int) or not alive(pid):
        document |= {"state": Link.STOPPED, "since": document.get("beat")}
    return document


def health(document: Mapping[str, object] | None) -> str | None:
    """If sharing does not work, return a sentence about the fault. Return None if it works or was not started."""
    if document is None:
        return None
    since, why, place = (document.get(name) for name in ("since", "why", "place"))
    match document.get("state"):
        case Link.STOPPED:
            return f"cooldowns have not been shared since {since}: `ocwatch share` is not running"
        case Link.GONE:
            fault = f"{place} cannot be used ({why}); run: ocwatch share doctor"
            return f"cooldowns have not been shared since {since}: {fault}"
        case Link.SKEWED:
            return f"shared cooldowns have been ignored since {since}: {why}"
        case Link.CONNECTED if why:
            return f"shared cooldowns: {why}"
    return None
