"""Tests of message stores of both kinds: read beside a writer, in any state."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.core.domain.types import ModelRef
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.sessions.message_store import SessionStore

NOW = 1_795_000_000.0
Row = dict[str, Any]


def session(ident: str, directory: str, updated: float, parent: str | None = None) -> Row:
    more = {"parentID": parent} if parent else {}
    time_ = {"created": 1, "updated": int(updated * 1000)}
    return {"id": ident, "directory": directory, "version": "1.2.27", "title": "SECRET", "time": time_, **more}


def prompt(ident: str) -> Row:
    return {"id": ident, "role": "user", "agent": "build", "model": {"providerID": "p", "modelID": "m"}, "system": "S"}


def answer(ident: str, parent: str, completed: float | None = None, error: Row | None = None, **more: Any) -> Row:
    time_ = {"created": 1000, **({"completed": int(completed * 1000)} if completed else {})}
    named = {"providerID": "p", "modelID": "m", "mode": "build"}
    return {
        "id": ident,
        "role": "assistant",
        "parentID": parent,
        "time": time_,
        **named,
        **({"error": error} if error else {}),
        **more,
    }


LIMITED: Row = {
    "name": "APIError",
    "data": {
        "message": "Too many requests",
        "statusCode": 429,
        "isRetryable": True,
        "responseHeaders": {"Retry-After": "20"},
        "responseBody": '{"error": {"type": "rate_limit_error"}}',
    },
}
ABORT: Row = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}

SESSIONS = [
    session("ses_open", "/a", NOW - 10),
    session("ses_failed", "/b", NOW - 20),
    session("ses_fine", "/a", NOW - 30),
    session("ses_stopped", "/c", NOW - 40),
    session("ses_child", "/a", NOW - 50, parent="ses_open"),
    session("ses_old", "/old", NOW - 90_000),
]
MESSAGES = {
    "ses_open": [
        prompt("msg_1"),
        answer("msg_2", "msg_1", NOW, finish="tool-calls"),
        answer("msg_3", "msg_1"),
        prompt("msg_4"),
    ],
    "ses_failed": [prompt("msg_1"), answer("msg_2", "msg_1", NOW - 20, LIMITED)],
    "ses_fine": [prompt("msg_1"), answer("msg_2", "msg_1", NOW - 30, finish="stop")],
    "ses_stopped": [prompt("msg_1"), answer("msg_2", "msg_1", NOW - 40, ABORT)],
    "ses_child": [],
    "ses_old": [prompt("msg_1"), answer("msg_2", "msg_1")],
}


def write_database(data: Path, name: str = "opencode.db") -> sqlite3.Connection:
    """Return an open database as 1.2 - 1.18 make it, as beside a running OpenCode."""
    data.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(data / name, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE session (id TEXT PRIMARY KEY, project_id TEXT, parent_id TEXT, directory TEXT, title TEXT,"
        " version TEXT, time_created INTEGER, time_updated INTEGER)"
    )
    connection.execute("CREATE TABLE message (id TEXT PRIMARY KEY, session_id TEXT, time_created INTEGER, data TEXT)")
    for row in SESSIONS:
        values = (
            row["id"],
            row.get("parentID"),
            row["directory"],
            row["title"],
            row["version"],
            row["time"]["updated"],
        )
        connection.execute("INSERT INTO session VALUES (?, 'prj', ?, ?, ?, ?, 0, ?)", values)
    for ident, messages in MESSAGES.items():
        for number, message in enumerate(messages):
            held = {key: value for key, value in message.items() if key != "id"}
            entry = (f"{message['id']}{ident}", ident, number, orjson.dumps(_renamed(held, ident)).decode())
            connection.execute("INSERT INTO message VALUES (?, ?, ?, ?)", entry)
    return connection


def _renamed(message: Row, ident: str) -> Row:
    return {**message, "parentID": f"{message['parentID']}{ident}"} if "parentID" in message else message


def write_files(data: Path) -> None:
    """Write the files of 1.0 and 1.1."""
    for row in SESSIONS:
        path = data / "storage" / "session" / "prj" / f"{row['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(row))
        os.utime(path, (row["time"]["updated"] / 1000,) * 2)
    for ident, messages in MESSAGES.items():
        for message in messages:
            path = data / "storage" / "message" / ident / f"{message['id']}{ident}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(_renamed(message, ident)))


def as_database(data: Path) -> None:
    write_database(data).close()


@pytest.fixture(params=[as_database, write_files], ids=["sqlite", "json"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    fill: Callable[[Path], None] = request.param
    fill(tmp_path)
    return SessionStore(tmp_path)


def test_a_session_is_found_with_its_parent(store: SessionStore) -> None:
    assert store.session("ses_child") == Session("ses_child", "/a", "ses_open", "1.2.27", NOW - 50)
    assert store.session("ses_none") is None
    assert store.session("../prj/ses_open") is None


def test_recent_sessions_come_latest_first(store: SessionStore) -> None:
    recent = [found.id for found in store.recent(NOW - 1000)]
    assert recent == ["ses_open", "ses_failed", "ses_fine", "ses_stopped", "ses_child"]


def test_the_last_messages_come_oldest_first(store: SessionStore) -> None:
    messages = store.messages("ses_open", 3)
    assert [message.id for message in messages] == ["msg_2ses_open", "msg_3ses_open", "msg_4ses_open"]
    assert [message.completed for message in messages] == [NOW, None, None]
    assert (messages[2].user, messages[2].model, messages[2].copied) == (True, ModelRef("p", "m"), {"system": "S"})
    assert messages[1].parent == "msg_1ses_open"
    assert store.messages("ses_none") == []


def test_unsettled_sessions_are_open_or_failed_and_not_stopped(store: SessionStore) -> None:
    unsettled = {found.session.id: found.answer for found in store.unsettled(NOW - 1000)}
    assert set(unsettled) == {"ses_open", "ses_failed"}
    assert unsettled["ses_open"].completed is None


def test_the_error_of_the_last_attempt_is_told_with_its_headers(store: SessionStore) -> None:
    error = store.last_error("ses_failed")
    assert error is not None
    assert (error.name, error.status, error.retryable, error.message) == ("APIError", 429, True, "Too many requests")
    assert (error.headers, error.codes) == ({"retry-after": "20"}, ("rate_limit_error",))
    assert store.last_error("ses_open") is None
    assert store.last_error("ses_none") is None


def test_the_title_and_texts_are_not_read(store: SessionStore) -> None:
    assert "SECRET" not in repr(store.recent(0))


@pytest.mark.parametrize("where", ["here", os.fsdecode(b"caf\xe9")])
def test_text_and_names_that_are_not_utf_8_hide_nothing(tmp_path: Path, where: str) -> None:
    data = tmp_path / where
    with closing(write_database(data)) as writer:
        writer.execute("UPDATE session SET directory = CAST(x'2fff' AS TEXT) WHERE id = 'ses_open'")
        writer.execute("UPDATE message SET data = CAST(x'7b22ff' AS TEXT) WHERE session_id = 'ses_failed'")
        store = SessionStore(data)
        recent = {found.id: found.directory for found in store.recent(NOW - 1000)}
        assert recent["ses_open"] == "/\ufffd"
        assert len(recent) == 5
        assert store.messages("ses_failed") == []
        assert store.messages("ses_fine")


def test_a_store_that_grows_is_read_as_it_is_now(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    assert (store.session("ses_open"), store.recent(0), store.messages("ses_open")) == (None, [], [])
    with closing(write_database(tmp_path)) as writer:  # the written data is still in the write-ahead log
        assert store.session("ses_open") is not None
        writer.execute("UPDATE session SET directory = '/moved' WHERE id = 'ses_open'")
        moved = store.session("ses_open")
        assert moved is not None
        assert moved.directory == "/moved"


def test_both_kinds_and_development_databases_are_read_together(tmp_path: Path) -> None:
    write_database(tmp_path, "opencode-dev.db").close()
    (tmp_path / "opencode.db").write_bytes(b"")
    other = tmp_path / "storage" / "session" / "prj" / "ses_before.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(orjson.dumps(session("ses_before", "/before", NOW)))
    store = SessionStore(tmp_path)
    assert store.session("ses_open") is not None
    assert store.session("ses_before") is not None


def test_a_writer_is_neither_waited_for_nor_disturbed(tmp_path: Path) -> None:
    with closing(write_database(tmp_path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("UPDATE session SET directory = '/new'")
        began = time.monotonic()
        found = SessionStore(tmp_path).session("ses_open")
        assert time.monotonic() - began < 3  # sqlite would wait five seconds by itself
        assert found is not None
        assert found.directory == "/a"  # as before the writer's transaction
        writer.execute("COMMIT")


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE message",
        "DROP TABLE session",
        "ALTER TABLE session DROP COLUMN parent_id",
        "ALTER TABLE session RENAME COLUMN time_updated TO updated",
        "ALTER TABLE message RENAME COLUMN data TO content",
        "UPDATE message SET data = 'no json'",
        "UPDATE message SET data = '[1]'",
        "UPDATE message SET data = NULL",
        "UPDATE session SET directory = NULL, version = 7, time_updated = 'x'",
    ],
)
def test_another_schema_is_an_empty_answer(tmp_path: Path, damage: str) -> None:
    with closing(write_database(tmp_path)) as writer:
        writer.execute(damage)
    store = SessionStore(tmp_path)
    store.recent(0)
    store.unsettled(0)
    assert store.last_error("ses_open") is None
    found = store.session("ses_open")
    assert found is None or (found.directory, found.parent) == ("/a", None)


def test_broken_files_are_empty_answers(tmp_path: Path) -> None:
    write_files(tmp_path)
    for path in (tmp_path / "storage").rglob("*.json"):
        path.write_bytes(b'{"id": "ses_')
    (tmp_path / "opencode.db").write_bytes(b"not a database" * 100)
    store = SessionStore(tmp_path)
    assert (store.session("ses_open"), store.recent(0), store.messages("ses_open")) == (None, [], [])
