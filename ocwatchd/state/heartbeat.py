"""daemon.json: the sign of life that the daemon's pumping loop writes, and how others read it.

Alive is not enough: a process can live with its loop stuck or its eyes shut. `up` needs the process and a fresh beat.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from ocwatchd.state.entries import moment
from ocwatchd.state.plain import StateError, read_plain, write_unsynced

TYPE_CHECKING = False  # as typing has it, whose import costs what is saved
if TYPE_CHECKING:
    from pathlib import Path  # 5 CPU ms that a status line has no use for

VERSION = 1
FRESH = 10.0
"""Seconds after which a beat is stale; the loop beats every second or two."""


class State:
    """What is known of the daemon from outside (words of the JSON contract)."""

    UP = "up"
    DEAF = "deaf"  # the process lives, its loop does not beat
    DOWN = "down"


def write(
    path: Path,
    pid: int,
    started: float,
    beat: float,
    following: Sequence[str],
    sessions: Sequence[Mapping[str, object]] = (),
    health: Sequence[str] = (),
    configuration: Mapping[str, object] | None = None,
) -> None:
    """Replace the heartbeat, atomically but without fsync: it is worthless after a power cut.

    `sessions` are `{"session", "phrase", …}`, `health` phrases for a person; an empty one means all is well.
    `configuration` is `{"file", "loaded", "problem"}`.

    Raises:
        OSError: it could not be written.
    """
    document = {
        "version": VERSION,
        "pid": pid,
        "started": _iso(started),
        "beat": _iso(beat),
        "following": list(following),
        "sessions": [dict(session) for session in sessions],
        "health": list(health),
        "configuration": configuration,
    }
    write_unsynced(path, json.dumps(document).encode())


class Heartbeat:
    """The last sign of life. `pid` is 0 and times are None where there was none, or none that can be read."""

    __slots__ = ("beat", "configuration", "following", "health", "pid", "sessions", "started")

    def __init__(self, raw: Mapping[str, object]) -> None:
        """Take what has the right type; the rest counts as not said."""
        pid = raw.get("pid")
        self.pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31 else 0
        self.started = _epoch(raw.get("started"))
        self.beat = _epoch(raw.get("beat"))
        self.following = [str(item) for item in _items(raw, "following")]
        self.sessions = [item for item in _items(raw, "sessions") if isinstance(item, dict)]
        self.health = [str(item) for item in _items(raw, "health")]
        configuration = raw.get("configuration")
        self.configuration = configuration if isinstance(configuration, dict) else None

    def state(self, now: float) -> str:
        """One of `State`, by the process table and the age of the beat."""
        if not self.pid or not _alive(self.pid):
            return State.DOWN
        fresh = self.beat is not None and abs(now - self.beat) < FRESH
        return State.UP if fresh else State.DEAF


def read(path: str | os.PathLike[str]) -> Heartbeat:
    """The last heartbeat; an empty one where there is none. Never raises."""
    try:
        raw = json.loads(read_plain(path))
    except (OSError, StateError, ValueError, RecursionError):
        raw = None
    return Heartbeat(raw if isinstance(raw, dict) else {})


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _items(raw: Mapping[str, object], name: str) -> list[object]:
    value = raw.get(name)
    return value if isinstance(value, list) else []


def _iso(epoch: float) -> str:
    from ocwatchd.clock import rfc3339  # late: the reader's commands have to start fast

    return rfc3339(epoch)


def _epoch(value: object) -> float | None:
    try:
        return moment(value, "time")
    except ValueError:
        return None
