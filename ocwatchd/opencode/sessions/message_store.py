"""Read OpenCode's message stores: SQLite from 1.2 on, JSON files before. Nothing is ever written.

If a file, table or column is missing, or a database is locked or broken, the result is empty and no error is raised. If
the session has an endpoint, information from the endpoint is always better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.text.parse_json import parse_json
from ocwatchd.opencode.client.v1.responses import Session, session_of
from ocwatchd.opencode.sessions.database import rows
from ocwatchd.opencode.sessions.messages import Json, Message, mapping, message_of
from ocwatchd.ownership import read_followed

if TYPE_CHECKING:
    import sqlite3

MAX_SESSIONS = 200
"""Maximum number of sessions that `recent` returns."""
FEW_MESSAGES = 4
"""Number of last messages that are read by default."""
MAX_ANSWERS = 50_000
"""Maximum number of answers that `answers` returns. Ten busy sessions produce a few thousand answers a day."""
_FILE_CAP = 16 * 1024 * 1024
"""Maximum size of a JSON file in bytes. A larger file is treated as empty."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its session, for counting usage."""

    session: str
    message: Message


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A session whose last answer is open or has failed. A session with an open answer may be stuck or busy, or its
    process may have died.
    """

    session: Session
    answer: Message


class Store(Protocol):
    """The interface of a message store."""

    def session(self, ident: str) -> Session | None:
        """Return one session, or None if it is unknown."""
        ...

    def recent(self, since: float) -> list[Session]:
        """Return the sessions that have changed since the time `since` (epoch seconds), most recently changed first."""
        ...

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages, oldest first, without their parts."""
        ...

    def turns_of_v1(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages that OpenCode 1 has written, oldest first."""
        ...

    def answers(self, since: float) -> Iterable[Answer]:
        """Return at most `MAX_ANSWERS` answers that began at or after `since` (epoch seconds), in all sessions."""
        ...

    def mark(self) -> float:
        """Return the time of the store's last change, in epoch seconds, from the modification times of its files."""
        ...


class SessionStore:
    """All message stores of one data directory, which may have been used by several versions of OpenCode."""

    def __init__(self, data: Path) -> None:
        """`data` is OpenCode's data directory, which may not exist yet."""
        self._data = data

    def session(self, ident: str) -> Session | None:
        """Return one session, or None if no store has it."""
        return next((found for store in self._stores() if (found := store.session(ident))), None)

    def recent(self, since: float) -> list[Session]:
        """Return the sessions that have changed since the time `since` (epoch seconds), most recently changed first."""
        found = {session.id: session for store in self._stores() for session in store.recent(since)}
        return sorted(found.values(), key=lambda session: session.updated or 0.0, reverse=True)[:MAX_SESSIONS]

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages, oldest first."""
        return next((found for store in self._stores() if (found := store.messages(session, limit))), [])

    def answers(self, since: float) -> Iterator[Answer]:
        """Yield the answers that began at or after `since` (epoch seconds), in all sessions."""
        return (answer for store in self._stores() for answer in store.answers(since))

    def mark(self) -> float:
        """Return the time of the last change to any of the stores (epoch seconds)."""
        return max((store.mark() for store in self._stores()), default=0.0)

    def unsettled(self, since: float) -> list[Unsettled]:
        """Return the sessions of OpenCode 1 that have changed since the time `since` and whose last answer is open or
        has failed.

        OpenCode 2 reports its waiting sessions itself, and its events show which sessions have failed.
        """
        pairs = ((session, _last_answer(self._turns_of_v1(session.id))) for session in self.recent(since))
        return [Unsettled(session, answer) for session, answer in pairs if answer and _is_unsettled(answer)]

    def _turns_of_v1(self, session: str) -> list[Message]:
        return next((found for store in self._stores() if (found := store.turns_of_v1(session))), [])

    def last_error(self, session: str) -> ErrorDetails | None:
        """Return the error of the last answer. OpenCode stores an error only after its last attempt."""
        answer = _last_answer(self.messages(session))
        return answer.error if answer else None

    def _stores(self) -> Iterator[Store]:
        # The databases of development channels are named after the channel.
        for path in [self._data / "opencode.db", *sorted(self._data.glob("opencode-*.db"))]:
            if path.is_file():
                yield SqliteStore(path)
        storage = self._data / "storage"
        if storage.is_dir():
            yield JsonStore(storage)


def taken_over_by_v2(data: Path) -> Path | None:
    """Return the database of OpenCode 1 in this data directory if OpenCode 2 has migrated it; otherwise, return None.

    The migration drops the table `todo` and two others (0.0.0-next-16350, in the database of the channel `latest`).
    1.18 has both `todo` and OpenCode 2's table `session_message`; earlier versions have only `todo`.
    """
    path = data / "opencode.db"
    if not path.is_file():
        return None
    tables = SqliteStore(path).tables()
    return path if "session_message" in tables and "todo" not in tables else None


def _last_answer(messages: list[Message]) -> Message | None:
    return next((message for message in reversed(messages) if not message.user), None)


def _is_unsettled(answer: Message) -> bool:
    return answer.completed is None or (answer.error is not None and not answer.stopped)


class SqliteStore:
    """The database `opencode.db` of OpenCode 1 from 1.2 on, and of OpenCode 2.

    OpenCode 1 keeps messages in the table `message`, and OpenCode 2 keeps them in `session_message`. A database that
    OpenCode 2 has migrated has both tables, with the messages of OpenCode 1 still in `message`. OpenCode 1.18 creates
    `session_message`, but leaves it empty.
    """

    def __init__(self, path: Path) -> None:
        """`path` is the path of the database file, which may not exist."""
        self._path = path

    def session(self, ident: str) -> Session | None:
        """Return one session, or None if it is unknown."""
        rows = self._rows("SELECT id, directory, parent_id, version, time_updated FROM session WHERE id = ?", ident)
        return next(iter(_sessions(rows)), None)

    def recent(self, since: float) -> list[Session]:
        """Return the sessions that have changed since the time `since` (epoch seconds), most recently changed first."""
        query = (
            "SELECT id, directory, parent_id, version, time_updated FROM session"
            " WHERE time_updated >= ? ORDER BY time_updated DESC LIMIT ?"
        )
        return list(_sessions(self._rows(query, int(since * 1000), MAX_SESSIONS)))

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages, oldest first."""
        newer = (
            "SELECT id, type, data FROM session_message WHERE session_id = ? AND type IN ('user', 'assistant')"
            " ORDER BY seq DESC LIMIT ?"
        )
        steps = _steps(reversed(self._rows(newer, session, limit)))
        return [*self.turns_of_v1(session, limit), *steps][-limit:]

    def turns_of_v1(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages that OpenCode 1 has written, oldest first."""
        # This is the order of OpenCode's own index. For any other order, SQLite would have to read all messages of a
        # long session.
        query = "SELECT id, data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT ?"
        rows = reversed(self._rows(query, session, limit))
        read = (message_of(_json(row["data"]), (), row["id"]) for row in rows)
        return [message for message in read if message is not None]

    def answers(self, since: float) -> Iterator[Answer]:
        """Yield the answers that began at or after `since`. The query uses the table of sessions, because messages are
        indexed by session.
        """
        query = (
            "SELECT m.session_id, m.id, m.data FROM session AS s JOIN message AS m ON m.session_id = s.id"
            " WHERE s.time_updated >= ? AND m.time_created >= ? LIMIT ?"
        )
        for row in self._each(query, int(since * 1000), int(since * 1000), MAX_ANSWERS):
            message = message_of(_json(row["data"]), (), row["id"])
            if message and not message.user:
                yield Answer(row["session_id"], message)
        newer = (
            "SELECT session_id, id, type, data FROM session_message"
            " WHERE type IN ('user', 'assistant') AND time_created >= ? ORDER BY session_id, seq LIMIT ?"
        )
        prompts: dict[str, str] = {}
        for row in self._each(newer, int(since * 1000), MAX_ANSWERS):
            for message in _steps([row]):
                if message.user:
                    prompts[row["session_id"]] = message.id
                else:  # the answer does not name its prompt, so the last prompt before the answer is used
                    yield Answer(row["session_id"], replace(message, parent=prompts.get(row["session_id"])))

    def tables(self) -> frozenset[str]:
        """Return the names of the database's tables."""
        rows = self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return frozenset(str(row["name"]) for row in rows)

    def mark(self) -> float:
        """Return the time of the last change to the database or its WAL file (epoch seconds)."""
        return max(_changed(self._path), _changed(self._path.with_name(f"{self._path.name}-wal")))

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return list(self._each(query, *values))

    def _each(self, query: str, *values: object) -> Iterator[sqlite3.Row]:
        return rows(self._path, query, *values)


def _steps(rows: Iterable[sqlite3.Row]) -> Iterator[Message]:
    """Yield the messages in rows of the table `session_message`."""
    from ocwatchd.opencode.client.v2.messages import step_of  # lazy import: only needed for OpenCode 2

    for row in rows:
        step = step_of({**_json(row["data"]), "id": row["id"], "type": row["type"]})
        if step is not None:
            yield step.message


def _sessions(rows: Iterable[sqlite3.Row]) -> Iterator[Session]:
    for row in rows:
        info = {"id": row["id"], "directory": row["directory"], "parentID": row["parent_id"], "version": row["version"]}
        found = session_of({**info, "time": {"updated": row["time_updated"]}})
        if found is not None:
            yield found


class JsonStore:
    """The directory `storage/`, used before 1.2, with a JSON file for each session and message."""

    def __init__(self, storage: Path) -> None:
        """`storage` is the path of the directory that contains the messages."""
        self._storage = storage

    def session(self, ident: str) -> Session | None:
        """Return one session, or None if it is unknown."""
        if not _is_plain(ident):
            return None
        paths = (project / f"{ident}.json" for project in self._projects())
        return next((found for path in paths if (found := session_of(_file(path)))), None)

    def recent(self, since: float) -> list[Session]:
        """Return the sessions whose files have changed since the time `since` (epoch seconds), most recently changed
        first.
        """
        dated = [(_changed(path), path) for project in self._projects() for path in _listed(project, "ses_*.json")]
        paths = [path for changed, path in sorted(dated, reverse=True)[:MAX_SESSIONS] if changed >= since]
        return [found for path in paths if (found := session_of(_file(path)))]

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """Return the last messages, oldest first. The file names sort in chronological order."""
        if not _is_plain(session):
            return []
        paths = sorted(_listed(self._storage / "message" / session, "msg_*.json"))[-limit:]
        read = (message_of(_file(path), (), path.stem) for path in paths)
        return [message for message in read if message is not None]

    turns_of_v1 = messages

    def answers(self, since: float) -> list[Answer]:
        """Return the answers that began at or after `since`. Files that have not changed since that time are not
        read.
        """
        found: list[Answer] = []
        for session in self.recent(since):
            files = [
                path
                for path in _listed(self._storage / "message" / session.id, "msg_*.json")
                if _changed(path) >= since
            ]
            read = (message_of(_file(path), (), path.stem) for path in files[: MAX_ANSWERS - len(found)])
            found += [Answer(session.id, m) for m in read if m and not m.user and (m.created or 0.0) >= since]
        return found

    def mark(self) -> float:
        """Return the time at which a message was last added to any session (epoch seconds)."""
        return max((_changed(path) for path in _listed(self._storage / "message", "*")), default=0.0)

    def _projects(self) -> list[Path]:
        return _listed(self._storage / "session", "*")


def _is_plain(ident: str) -> bool:
    return ident.replace("_", "").isalnum()  # the id may come from a log, and must not lead to another path


def _listed(directory: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return list(directory.glob(pattern))
    return []


def _changed(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _file(path: Path) -> Json:
    with suppress(OSError):
        data = read_followed(path, _FILE_CAP + 1)
        return _json(data) if len(data) <= _FILE_CAP else {}
    return {}


def _json(raw: object) -> Json:
    with suppress(ValueError):
        return mapping(parse_json(raw)) if isinstance(raw, str | bytes) else {}
    return {}
