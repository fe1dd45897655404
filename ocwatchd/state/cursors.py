"""cursors.json: how far each log was read. Lost or damaged, it costs one bounded look back, so it is started afresh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from ocwatchd.core.cursor import Cursor
from ocwatchd.state.files import write_atomic

VERSION = 1
SIZE_CAP = 16 << 20
"""Bytes: 5,000 files take about 1.5 MB."""


def load(path: Path) -> tuple[dict[str, Cursor], str | None]:
    """The saved cursors by log path, and what was wrong with the file (None if nothing, or if there is none)."""
    try:
        if path.is_symlink() or path.stat().st_size > SIZE_CAP:
            return {}, f"{path} is not a cursor file of ours: reading afresh"
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, None
    except (OSError, orjson.JSONDecodeError) as error:
        return {}, f"{path} cannot be read ({error}): reading the logs afresh"
    files = document.get("files") if isinstance(document, dict) and document.get("version") == VERSION else None
    if not isinstance(files, dict):
        return {}, f"{path} has another version or shape: reading the logs afresh"
    cursors = {str(name): Cursor.from_json(value) for name, value in files.items()}
    return {name: cursor for name, cursor in cursors.items() if cursor is not None}, None


def save(path: Path, cursors: Mapping[str, Cursor]) -> None:
    """Replace the file, durably, mode 0600.

    Raises:
        OSError: nothing was changed.
    """
    files = {name: cursor.as_json() for name, cursor in cursors.items()}
    write_atomic(path, orjson.dumps({"version": VERSION, "files": files}))
