"""moved.json: sessions that were moved over the API and stick to their target, and where they came from.

A prompt that names no model stays with the target for good, as OpenCode goes on with a session's last model. The
companion plugin gives such a prompt back to the first model once that is free again; without it nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.limits import Target
from ocwatchd.core.messages import Remember
from ocwatchd.state.files import StateError, locked, read_plain, sweep_leftovers, write_atomic

VERSION = 1
KEPT = 7 * 86_400.0
"""Seconds after its move that a session is remembered."""
MOST = 500
"""Sessions remembered; the oldest are forgotten first."""


def remember(path: Path, news: Remember, now: float) -> None:
    """Enter a session, or forget it if it is back where it came from.

    Raises:
        StateError: the file cannot be written.
    """
    try:
        with locked(path):
            sessions = {name: entry for name, entry in _sessions(path).items() if now - _since(entry) < KEPT}
            sessions.pop(news.session, None)
            if news.origin is not None and news.target is not None:
                entry = {"from": _written(news.origin), "to": _written(news.target), "since": rfc3339(now)}
                sessions[news.session] = entry
            kept = dict(list(sessions.items())[-MOST:])
            sweep_leftovers(path)
            write_atomic(path, json.dumps({"version": VERSION, "sessions": kept}, indent=1).encode() + b"\n")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def _sessions(path: Path) -> dict[str, Mapping[str, object]]:
    """What the file holds; a broken one holds nothing, and a newer one is left to whoever wrote it."""
    try:
        document = json.loads(read_plain(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, StateError):
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("sessions"), dict):
        return {}
    version = document.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StateError(f"{path} has version {version}, newer than this ocwatchd knows: it stays as it is")
    return {name: entry for name, entry in document["sessions"].items() if isinstance(entry, dict)}


def _since(entry: Mapping[str, object]) -> float:
    try:
        return from_rfc3339(str(entry.get("since")))
    except ValueError:
        return 0.0


def _written(target: Target) -> dict[str, str | None]:
    return {"model": str(target.model), "agent": target.agent}
