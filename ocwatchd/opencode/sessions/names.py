"""Read the titles, directories and times of sessions from OpenCode's message stores, with few imports for a fast start.

The stores are SQLite databases from 1.2 on and in OpenCode 2, and JSON files before 1.2. If a store is missing, locked
or unknown, the result is empty and no error is raised: a session can always be shown by its id.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator

from ocwatchd.opencode.sessions.database import rows
from ocwatchd.ownership import read_followed

MAX_NAMES = 2000
"""Maximum number of sessions that are returned, most recently used first."""
MAX_PROJECTS = 20
"""Maximum number of project directories that are returned, most recently used first."""
MAX_FILES = 200
"""Maximum number of session files that are read from a store of a version before 1.2, newest first."""
MAX_TITLE = 40
"""Maximum number of characters of a title in a notice."""
_FILE_CAP = 1 << 20
"""Maximum number of bytes read from a session file."""
UNTITLED = "New session - "
"""The beginning of OpenCode's default title, which is followed by a timestamp."""


class SessionName:
    """A session with its title. `title` is empty if the session has no title yet. `updated` is in epoch seconds, or
    None if unknown.
    """

    __slots__ = ("directory", "id", "parent", "title", "updated")

    def __init__(
        self, ident: str, title: str = "", directory: str = "", updated: float | None = None, parent: str | None = None
    ) -> None:
        """Store the arguments. The title is normalized to one line, and OpenCode's default title becomes an empty
        string.
        """
        self.id = ident
        self.title = "" if title.startswith(UNTITLED) else " ".join(title.split())
        self.directory, self.updated, self.parent = directory, updated, parent


def session_names(data: str) -> list[SessionName]:
    """Return at most MAX_NAMES sessions of OpenCode's data directory `data`, most recently used first."""
    found: dict[str, SessionName] = {}
    for name in [*_read_databases(data), *_read_files(data)]:
        found.setdefault(name.id, name)
    return sorted(found.values(), key=lambda name: name.updated or 0.0, reverse=True)[:MAX_NAMES]


def project_directories(data: str) -> list[str]:
    """Return at most MAX_PROJECTS directories of the most recently used sessions. Directories that no longer exist are
    omitted.
    """
    found = dict.fromkeys(name.directory for name in session_names(data) if name.directory)
    return [directory for directory in found if os.path.isdir(directory)][:MAX_PROJECTS]


def short_directory(directory: str) -> str:
    """Return the directory, with the user's home abbreviated to `~`."""
    home = os.environ.get("HOME", "").rstrip("/")
    inside = home and (directory == home or directory.startswith(f"{home}/"))
    return f"~{directory[len(home) :]}" if inside else directory


def name_among_several(data: str, ident: str) -> str:
    """Return a name such as `“Fix the login form” in ~/shop` for a notice about a session, or an empty string if no
    name is needed.

    No name is needed if the data directory contains no other session. The result is also empty if neither title nor
    directory is known.
    """
    names = session_names(data)
    own = next((name for name in names if name.id == ident), None)
    if own is None or not any(name.parent is None and name.id != ident for name in names):
        return ""
    short = own.title if len(own.title) <= MAX_TITLE else own.title[: MAX_TITLE - 1] + "…"
    parts = (f"“{short}”" if short else "", f"in {short_directory(own.directory)}" if own.directory else "")
    return " ".join(part for part in parts if part)


def models_now(data: str, sessions: Iterable[str]) -> dict[str, str]:
    """Return the most recently used model (`provider/model`) of each session. Sessions that are not in any database are
    left out.
    """
    found = {}
    for session in sessions:
        for path in _databases(data):
            query = "SELECT data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT 4"
            models = (_model_of(row["data"]) for row in rows(path, query, session))
            model = next((model for model in models if model), None)
            if model:
                found[session] = model
                break
    return found


def _model_of(raw: object) -> str | None:
    message = _object(raw)
    inner = message.get("model")
    about = inner if isinstance(inner, dict) else message
    provider, model = about.get("providerID"), about.get("modelID", about.get("id"))
    return f"{provider}/{model}" if isinstance(provider, str) and isinstance(model, str) and provider else None


def _databases(data: str) -> list[str]:
    # The databases of OpenCode 2 and of development channels are named after the channel.
    paths = [f"{data}/opencode.db", *sorted(glob.glob(f"{glob.escape(data)}/opencode-*.db"))]
    return [path for path in paths if os.path.isfile(path)]


def _read_databases(data: str) -> Iterator[SessionName]:
    query = "SELECT id, title, directory, parent_id, time_updated FROM session ORDER BY time_updated DESC LIMIT ?"
    for path in _databases(data):
        for row in rows(path, query, MAX_NAMES):
            updated = row["time_updated"]
            seconds = updated / 1000 if isinstance(updated, int | float) else None
            yield SessionName(
                str(row["id"]), str(row["title"] or ""), str(row["directory"] or ""), seconds, row["parent_id"]
            )


def _read_files(data: str) -> Iterator[SessionName]:
    paths = glob.glob(f"{glob.escape(data)}/storage/session/*/ses_*.json")
    for path in sorted(paths, key=_changed, reverse=True)[:MAX_FILES]:
        try:
            about = _object(read_followed(path, _FILE_CAP))
        except OSError:
            continue
        ident, time = about.get("id"), about.get("time")
        updated = time.get("updated") if isinstance(time, dict) else None
        if isinstance(ident, str):
            title, directory = str(about.get("title") or ""), str(about.get("directory") or "")
            seconds = updated / 1000 if isinstance(updated, int | float) else None
            parent = about.get("parentID")
            yield SessionName(ident, title, directory, seconds, parent if isinstance(parent, str) else None)


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _object(raw: object) -> dict[str, object]:
    try:
        found = json.loads(raw) if isinstance(raw, str | bytes) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
