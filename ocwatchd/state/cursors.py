"""Read and write the daemon's read positions: cursors.json for logs, event-progress.json for OpenCode 2's events.

A lost or damaged file is replaced. Such a loss only causes a limited part of the logs or events to be read again.

The module also stores stream-gaps.json. For each model, this file contains the longest gap in each of the last
successful answers, as measured in the event stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import orjson

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.domain.streams import MAX_PATIENCE, StreamGaps
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.state.files import StateError, read_plain, write_atomic
from ocwatchd.state.safe_read import write_unsynced

VERSION = 1
SIZE_CAP = 16 << 20
"""Maximum size, in bytes, of cursors.json. The cursors of 5,000 logs take about 1.5 MB."""


def load(path: Path) -> tuple[dict[str, Cursor], str | None]:
    """Return the saved cursors by log path, and a sentence for the user if the file is damaged (otherwise None)."""
    try:
        document = json.loads(read_plain(path, SIZE_CAP))
    except FileNotFoundError:
        return {}, None
    except (OSError, StateError, ValueError, RecursionError) as error:
        return {}, f"{path} cannot be read ({error}); the logs will be read again"
    files = document.get("files") if isinstance(document, dict) and document.get("version") == VERSION else None
    if not isinstance(files, dict):
        return {}, f"{path} has an unknown version or format; the logs will be read again"
    cursors = {str(name): Cursor.from_json(value) for name, value in files.items()}
    return {name: cursor for name, cursor in cursors.items() if cursor is not None}, None


def save(path: Path, cursors: Mapping[str, Cursor]) -> None:
    """Replace the file durably, with mode 0600. Names that are not UTF-8 are kept as escaped surrogates.

    Raises:
        OSError: The file could not be written and was not changed.
    """
    files = {name: cursor.as_json() for name, cursor in cursors.items()}
    write_atomic(path, json.dumps({"version": VERSION, "files": files}).encode())


EVENTS_VERSION = 1


def load_event_numbers(path: Path) -> tuple[dict[str, int], float | None]:
    """Return the number of each session's last failure, and the time of the last read in epoch seconds. If the file
    cannot be used, return no numbers and None as the time.
    """
    try:
        document = orjson.loads(read_plain(path))
        if not isinstance(document, dict) or document.get("version") != EVENTS_VERSION:
            return {}, None
        sessions, read_at = document.get("sessions"), document.get("read_at")
        known = sessions.items() if isinstance(sessions, dict) else ()
        numbers = {str(name): number for name, number in known if type(number) is int and number >= 0}
        return numbers, from_rfc3339(read_at) if isinstance(read_at, str) else None
    except (OSError, StateError, ValueError):
        return {}, None


def save_event_numbers(path: Path, numbers: Mapping[str, int], read_at: float | None) -> None:
    """Replace the file durably, with mode 0600.

    Raises:
        OSError: The file could not be written and was not changed.
    """
    document = {
        "version": EVENTS_VERSION,
        "read_at": None if read_at is None else rfc3339(read_at),
        "sessions": dict(numbers),
    }
    write_atomic(path, orjson.dumps(document))


GAPS_VERSION = 1


def load_gaps(path: Path) -> StreamGaps:
    """Return the gaps that earlier runs have measured, or no gaps if the file cannot be read. Never raises."""
    try:
        raw = orjson.loads(read_plain(path))
        told = raw["gaps"].items() if raw["version"] == GAPS_VERSION else ()
        return StreamGaps({str(model): [_seconds(gap) for gap in gaps] for model, gaps in told})
    except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError):
        return StreamGaps()


def _seconds(gap: object) -> float:
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not 0 <= gap <= 100 * MAX_PATIENCE:
        raise ValueError(f"not a gap: {gap!r}")
    return float(gap)


def save_gaps(path: Path, gaps: StreamGaps, now: float) -> None:
    """Replace the file, with mode 0600. The file is not flushed to disk, because gaps that are lost will be measured
    again.

    Raises:
        OSError, StateError: The file could not be written.
    """
    write_unsynced(path, orjson.dumps({"version": GAPS_VERSION, "time": rfc3339(now), "gaps": gaps.all()}))
