"""Tests of OpenCode 2's files: its configuration in a new format, and its messages in another table."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ocwatchd.config.opencode_config import default_model, in_older_shape, merged
from ocwatchd.config.opencode_setup import read_setup
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.paths import Paths

NOW = 1_796_000_000.0
SDK = "@ai-sdk/anthropic"
NEWER = {
    "model": "work/sonnet",
    "agents": {"title": {"model": "work/haiku"}, "spare": {"model": "home/sonnet", "description": "the fallback"}},
    "experimental": {"policies": [
        {"action": "provider.use", "resource": "*", "effect": "deny"},
        {"action": "provider.use", "resource": "work", "effect": "allow"},
        {"action": "provider.use", "resource": "home", "effect": "allow"},
        {"action": "tool.use", "resource": "*", "effect": "deny"},
    ]},
    "providers": {
        "work": {"package": f"aisdk:{SDK}", "settings": {"baseURL": "https://example.org"}, "models": {"sonnet": {}}},
        "home": {"package": SDK, "settings": {"baseURL": "http://127.0.0.1:1/v1"}, "models": {"sonnet": {}}},
        "other": {"models": {"opus": {}}},
    },
}  # fmt: skip


def test_a_configuration_in_the_new_shape_offers_the_same(tmp_path: Path) -> None:
    older = in_older_shape(NEWER)
    assert older["provider"]["work"]["npm"] == "@ai-sdk/anthropic"  # type: ignore[index]  # JSON
    assert older["enabled_providers"] == ["work", "home"]
    paths = Paths(tmp_path, tmp_path / "config", tmp_path / "data", tmp_path / "state", tmp_path / "cache")
    paths.opencode_config.mkdir()
    (paths.opencode_config / "opencode.json").write_text(json.dumps(NEWER))
    setup = read_setup(paths, {})
    assert {(offer.name, offer.local) for offer in setup.offers} == {("work/sonnet", False), ("home/sonnet", True)}
    assert setup.small_model == "work/haiku"
    assert [(agent.name, agent.model) for agent in setup.agents] == [("spare", "home/sonnet")]


def test_files_of_both_shapes_are_merged(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    files[0].write_text(json.dumps({"model": "a/b", "provider": {"work": {"models": {"opus": {"name": "O"}}}}}))
    files[1].write_text(json.dumps(NEWER))
    whole = merged(map(str, files), {})
    assert set(whole["provider"]["work"]["models"]) == {"opus", "sonnet"}  # type: ignore[index]  # JSON
    assert default_model(whole, {}) == "work/sonnet"


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        ([("work", "deny")], {"disabled_providers": ["work"]}),
        ([("work", "deny"), ("work", "allow")], {}),
        ([("work", "deny"), ("*", "allow")], {}),
        ([("work", "allow"), ("*", "deny")], {"enabled_providers": []}),
        ([("*", "deny"), ("work", "allow"), ("work", "deny")], {"enabled_providers": []}),
    ],
)
def test_the_last_policy_that_matches_counts(policies: list[tuple[str, str]], found: dict[str, object]) -> None:
    listed = [{"action": "provider.use", "resource": name, "effect": effect} for name, effect in policies]
    older = in_older_shape({"experimental": {"policies": listed}})
    assert {key: value for key, value in older.items() if key.endswith("providers")} == found


def database(data: Path, name: str = "opencode-next.db") -> None:
    """Write a store as 0.0.0-next-16350 makes it, with the fields that are read."""
    tables = (
        "CREATE TABLE session (id text, directory text, parent_id text, version text, time_updated integer)",
        "CREATE TABLE message (id text, session_id text, time_created integer, data text)",
        "CREATE TABLE session_message (id text, session_id text, type text, seq integer, "
        "time_created integer, data text)",
    )
    at = int(NOW * 1000)
    model = {"id": "primary", "providerID": "mock", "variant": "default"}
    tokens = {"input": 100, "output": 10, "reasoning": 0, "cache": {"read": 5, "write": 0}}
    time = {"created": at, "completed": at + 50}
    answer = {
        "time": time,
        "agent": "build",
        "model": model,
        "content": [],
        "finish": "stop",
        "cost": 0.5,
        "tokens": tokens,
    }
    waits = {"time": {"created": at + 100}, "agent": "build", "model": model, "content": []}
    with closing(sqlite3.connect(data / name)) as connection:
        for table in tables:
            connection.execute(table)
        connection.execute("INSERT INTO session VALUES ('ses_1', '/p', NULL, 'next', ?)", (at,))
        rows = [
            ("msg_1", "user", 1, {"time": {"created": at}, "text": "Hello"}),
            ("msg_2", "assistant", 2, answer),
            ("msg_3", "model-switched", 3, {"time": {"created": at}, "model": model}),
            ("msg_4", "assistant", 4, waits),
        ]
        for ident, kind, seq, data_ in rows:
            row = (ident, "ses_1", kind, seq, at + seq, json.dumps(data_))
            connection.execute("INSERT INTO session_message VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.commit()


def test_messages_of_the_new_table_are_read(tmp_path: Path) -> None:
    database(tmp_path)
    store = SessionStore(tmp_path)
    assert [message.id for message in store.messages("ses_1")] == ["msg_1", "msg_2", "msg_4"]
    assert [message.id for message in store.messages("ses_1", 2)] == ["msg_2", "msg_4"]
    first, second = store.answers(NOW - 1)
    assert (first.session, first.message.model, first.message.cost) == ("ses_1", ModelRef("mock", "primary"), 0.5)
    assert (first.message.parent, second.message.parent) == ("msg_1", "msg_1")
    assert first.message.tokens is not None
    assert (first.message.tokens.spent, first.message.completed, second.message.completed) == (110, NOW + 0.05, None)
    assert list(store.answers(NOW + 1)) == []


def test_who_waits_in_opencode_2_is_asked_of_opencode_2(tmp_path: Path) -> None:
    database(tmp_path)
    assert SessionStore(tmp_path).unsettled(NOW - 1) == []


def test_a_database_that_opencode_2_took_over_has_both(tmp_path: Path) -> None:
    database(tmp_path, "opencode.db")
    older = {
        "role": "assistant",
        "providerID": "p",
        "modelID": "m",
        "time": {"created": int(NOW * 1000), "completed": 1},
    }
    with closing(sqlite3.connect(tmp_path / "opencode.db")) as connection:
        row = ("msg_0", "ses_1", int(NOW * 1000), json.dumps(older))
        connection.execute("INSERT INTO message VALUES (?, ?, ?, ?)", row)
        connection.commit()
    store = SessionStore(tmp_path)
    assert [answer.message.id for answer in store.answers(NOW - 1)] == ["msg_0", "msg_2", "msg_4"]
    assert [message.id for message in store.messages("ses_1")] == ["msg_0", "msg_1", "msg_2", "msg_4"]
