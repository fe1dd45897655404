"""What OpenCode stored of its sessions, read beside it: SQLite from 1.2 on, JSON files before. Never writes nor waits.

Every method answers with what there is: a missing file, table or column, a locked or broken database is an empty
answer, because the door tells the same things better whenever there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import orjson

from ocwatchd.core.limits import ErrorFacts
from ocwatchd.opencode.answers import Session, session_of
from ocwatchd.opencode.records import Json, Message, mapping, message_of

if TYPE_CHECKING:
    import sqlite3

BUSY_WAIT = 0.2
"""Seconds a reader waits for a writer's lock. In WAL mode readers never wait; a checkpoint takes some milliseconds."""

MOST_SESSIONS = 200
FEW_MESSAGES = 4
MOST_ANSWERS = 50_000
"""Answers counted at once; a day of ten busy sessions has some thousands."""
_FILE_CAP = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one session, for counting what was used."""

    session: str
    message: Message


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A session whose last answer is open or failed. An open one may be stuck, at work, or left by a dead process."""

    session: Session
    answer: Message


class Store(Protocol):
    """One kind of message store."""

    def session(self, ident: str) -> Session | None:
        """One session."""
        ...

    def recent(self, since: float) -> list[Session]:
        """Sessions that changed since then (epoch seconds), the latest first."""
        ...

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """The last messages, oldest first, without their parts."""
        ...

    def answers(self, since: float) -> Iterable[Answer]:
        """Answers that were begun since then (epoch seconds), of all sessions, at most `MOST_ANSWERS`."""
        ...

    def mark(self) -> float:
        """When the store was last written (epoch seconds, as files tell it)."""
        ...


class SessionStore:
    """All stores of one data directory together. Versions of both kinds may have worked in it."""

    def __init__(self, data: Path) -> None:
        """`data`: OpenCode's data directory; it may not exist yet."""
        self._data = data

    def session(self, ident: str) -> Session | None:
        """One session, None if no store has it."""
        return next((found for store in self._stores() if (found := store.session(ident))), None)

    def recent(self, since: float) -> list[Session]:
        """Sessions that changed since then (epoch seconds), the latest first."""
        found = {session.id: session for store in self._stores() for session in store.recent(since)}
        return sorted(found.values(), key=lambda session: session.updated or 0.0, reverse=True)[:MOST_SESSIONS]

    def recent_directories(self, since: float) -> list[str]:
        """Project directories of the sessions that changed since then, the latest first."""
        return list(dict.fromkeys(session.directory for session in self.recent(since)))

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """The last messages, oldest first."""
        return next((found for store in self._stores() if (found := store.messages(session, limit))), [])

    def answers(self, since: float) -> Iterator[Answer]:
        """Answers that were begun since then (epoch seconds), of all sessions, one at a time: a week has many."""
        return (answer for store in self._stores() for answer in store.answers(since))

    def mark(self) -> float:
        """When any of them was last written."""
        return max((store.mark() for store in self._stores()), default=0.0)

    def unsettled(self, since: float) -> list[Unsettled]:
        """Sessions that changed since then and whose last answer is open, or failed."""
        pairs = ((session, _last_answer(self.messages(session.id))) for session in self.recent(since))
        return [Unsettled(session, answer) for session, answer in pairs if answer and _is_unsettled(answer)]

    def last_error(self, session: str) -> ErrorFacts | None:
        """The error of the last answer. There is none while OpenCode still retries: it is written after the last."""
        answer = _last_answer(self.messages(session))
        return answer.error if answer else None

    def _stores(self) -> Iterator[Store]:
        # A development channel of OpenCode names its database after itself.
        for path in [self._data / "opencode.db", *sorted(self._data.glob("opencode-*.db"))]:
            if path.is_file():
                yield SqliteStore(path)
        storage = self._data / "storage"
        if storage.is_dir():
            yield JsonStore(storage)


def _last_answer(messages: list[Message]) -> Message | None:
    return next((message for message in reversed(messages) if not message.user), None)


def _is_unsettled(answer: Message) -> bool:
    return answer.completed is None or (answer.error is not None and not answer.stopped)


class SqliteStore:
    """`opencode.db`, from 1.2 on."""

    def __init__(self, path: Path) -> None:
        """The file is opened anew for each question: a held connection would keep OpenCode's WAL from being reset."""
        self._path = path

    def session(self, ident: str) -> Session | None:
        """One session."""
        rows = self._rows("SELECT id, directory, parent_id, version, time_updated FROM session WHERE id = ?", ident)
        return next(iter(_sessions(rows)), None)

    def recent(self, since: float) -> list[Session]:
        """Sessions that changed since then, the latest first."""
        query = (
            "SELECT id, directory, parent_id, version, time_updated FROM session"
            " WHERE time_updated >= ? ORDER BY time_updated DESC LIMIT ?"
        )
        return list(_sessions(self._rows(query, int(since * 1000), MOST_SESSIONS)))

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """The last messages, oldest first."""
        # In the order of OpenCode's own index: any other makes SQLite read all messages of a long session.
        query = "SELECT id, data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT ?"
        rows = reversed(self._rows(query, session, limit))
        read = (message_of(_json(row["data"]), (), row["id"]) for row in rows)
        return [message for message in read if message is not None]

    def answers(self, since: float) -> Iterator[Answer]:
        """Answers that were begun since then; by session, as the index of messages begins with it."""
        query = (
            "SELECT m.session_id, m.id, m.data FROM session AS s JOIN message AS m ON m.session_id = s.id"
            " WHERE s.time_updated >= ? AND m.time_created >= ? LIMIT ?"
        )
        for row in self._each(query, int(since * 1000), int(since * 1000), MOST_ANSWERS):
            message = message_of(_json(row["data"]), (), row["id"])
            if message and not message.user:
                yield Answer(row["session_id"], message)

    def mark(self) -> float:
        """When it was last written; its log is where that shows first."""
        return max(_changed(self._path), _changed(self._path.with_name(f"{self._path.name}-wal")))

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return list(self._each(query, *values))

    def _each(self, query: str, *values: object) -> Iterator[sqlite3.Row]:
        """The rows as they are read; what a broken file has told by then stands."""
        import sqlite3  # late: 1 MiB that a daemon without a limited session has no use for

        uri = f"file:{quote(str(self._path))}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_WAIT)) as connection:
                connection.row_factory = sqlite3.Row
                yield from connection.execute(query, values)
        except (sqlite3.Error, OSError):
            return


def _sessions(rows: Iterable[sqlite3.Row]) -> Iterator[Session]:
    for row in rows:
        info = {"id": row["id"], "directory": row["directory"], "parentID": row["parent_id"], "version": row["version"]}
        found = session_of({**info, "time": {"updated": row["time_updated"]}})
        if found is not None:
            yield found


class JsonStore:
    """`storage/`, before 1.2: a file for each session and message."""

    def __init__(self, storage: Path) -> None:
        """`storage`: the directory of that name."""
        self._storage = storage

    def session(self, ident: str) -> Session | None:
        """One session."""
        if not _is_plain(ident):
            return None
        paths = (project / f"{ident}.json" for project in self._projects())
        return next((found for path in paths if (found := session_of(_file(path)))), None)

    def recent(self, since: float) -> list[Session]:
        """Sessions that changed since then, the latest first. The files' own times say which."""
        dated = [(_changed(path), path) for project in self._projects() for path in _listed(project, "ses_*.json")]
        paths = [path for changed, path in sorted(dated, reverse=True)[:MOST_SESSIONS] if changed >= since]
        return [found for path in paths if (found := session_of(_file(path)))]

    def messages(self, session: str, limit: int = FEW_MESSAGES) -> list[Message]:
        """The last messages, oldest first: their names ascend with time."""
        if not _is_plain(session):
            return []
        paths = sorted(_listed(self._storage / "message" / session, "msg_*.json"))[-limit:]
        read = (message_of(_file(path), (), path.stem) for path in paths)
        return [message for message in read if message is not None]

    def answers(self, since: float) -> list[Answer]:
        """Answers that were begun since then; the files' own times say which are looked into."""
        found: list[Answer] = []
        for session in self.recent(since):
            files = [
                path
                for path in _listed(self._storage / "message" / session.id, "msg_*.json")
                if _changed(path) >= since
            ]
            read = (message_of(_file(path), (), path.stem) for path in files[: MOST_ANSWERS - len(found)])
            found += [Answer(session.id, m) for m in read if m and not m.user and (m.created or 0.0) >= since]
        return found

    def mark(self) -> float:
        """When a message was last begun in any session."""
        return max((_changed(path) for path in _listed(self._storage / "message", "*")), default=0.0)

    def _projects(self) -> list[Path]:
        return _listed(self._storage / "session", "*")


def _is_plain(ident: str) -> bool:
    return ident.replace("_", "").isalnum()  # an id comes from a log: it must not become a path


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
        if path.stat().st_size <= _FILE_CAP:
            return _json(path.read_bytes())
    return {}


def _json(raw: object) -> Json:
    with suppress(ValueError):
        return mapping(orjson.loads(raw)) if isinstance(raw, str | bytes) else {}
    return {}
