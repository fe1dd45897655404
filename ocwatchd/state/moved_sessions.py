"""Read and write moved.json, which lists the sessions that were moved over the API, with their primaries.

OpenCode continues a session with its last model, so a prompt that does not name a model would be sent to the fallback
again. The companion plugin sends such prompts back to the primary as soon as the primary is available. Without this
file, the plugin does not change such prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.messages import Remember
from ocwatchd.state.files import StateError, locked, read_plain, sweep_leftovers, write_atomic

VERSION = 1
KEPT = 7 * 86_400.0
"""Time, in seconds, for which a session is kept after its move."""
WRONG = 365 * 86_400.0
"""Maximum plausible age, in seconds, of the last move. If the move seems to be older, the clock is probably wrong."""
MOST = 500
"""Maximum number of sessions that are kept. The oldest are dropped first."""


def remember(path: Path, news: Remember, now: float) -> None:
    """Record a moved session, or remove it if it has returned to its primary.

    Raises:
        StateError: The file cannot be written.
    """
    try:
        with locked(path):
            sessions = _kept(_sessions(path), now)
            sessions.pop(news.session, None)
            if news.origin is not None and news.target is not None:
                entry = {"from": _written(news.origin), "to": _written(news.target), "since": rfc3339(now)}
                sessions[news.session] = entry
            kept = dict(list(sessions.items())[-MOST:])
            sweep_leftovers(path)
            write_atomic(path, json.dumps({"version": VERSION, "sessions": kept}, indent=1).encode() + b"\n")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def origin_of(path: Path, session: str, model: ModelRef | None) -> ModelRef | None:
    """Return the primary of a session that was last moved to `model`, or None if it is unknown."""
    try:
        entry = _sessions(path).get(session, {})
    except (OSError, StateError):
        return None
    origin, target = entry.get("from"), entry.get("to")
    if not isinstance(origin, dict) or not isinstance(target, dict) or target.get("model") != str(model):
        return None
    try:
        return ModelRef.parse(str(origin.get("model")))
    except ValueError:
        return None


def _kept(sessions: dict[str, Mapping[str, object]], now: float) -> dict[str, Mapping[str, object]]:
    """Return the sessions that were moved in the last KEPT seconds. If the last move seems to be over a year ago,
    return all sessions.

    A clock may briefly be years ahead, and a wrong time must not cause sessions to be dropped.
    """
    if now - max(map(_since, sessions.values()), default=now) > WRONG:
        return sessions
    return {name: entry for name, entry in sessions.items() if now - _since(entry) < KEPT}


def recall(path: Path, now: float) -> list[Remember]:
    """Return the sessions that were moved in the last KEPT seconds, or an empty list if the file cannot be read."""
    try:
        entries = _sessions(path)
    except (OSError, StateError):
        return []
    found = []
    for session, entry in entries.items():
        origin, target = _read(entry.get("from")), _read(entry.get("to"))
        if origin is not None and target is not None and now - _since(entry) < KEPT:
            found.append(Remember(session, origin, target))
    return found


def _read(value: object) -> Target | None:
    if not isinstance(value, dict):
        return None
    agent = value.get("agent")
    try:
        return Target(ModelRef.parse(str(value.get("model"))), agent if isinstance(agent, str) else None)
    except ValueError:
        return None


def _sessions(path: Path) -> dict[str, Mapping[str, object]]:
    """Return the sessions in the file, or an empty dict if the file is missing or damaged.

    Raises:
        StateError: A newer version wrote the file.
        OSError: The file cannot be read.
    """
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
        raise StateError(f"{path} has version {version}, newer than this ocwatchd supports; it is left unchanged")
    return {name: entry for name, entry in document["sessions"].items() if isinstance(entry, dict)}


def _since(entry: Mapping[str, object]) -> float:
    try:
        return from_rfc3339(str(entry.get("since")))
    except ValueError:
        return 0.0


def _written(target: Target) -> dict[str, str | None]:
    return {"model": str(target.model), "agent": target.agent}
