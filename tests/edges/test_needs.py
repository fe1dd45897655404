"""What a session holds and what models take, read from OpenCode's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.capability import Capacity, Needs
from ocwatchd.opencode.answers import capacity_of
from ocwatchd.opencode.look import needs_of
from ocwatchd.opencode.records import message_of
from ocwatchd.opencode.sessions import SessionStore
from tests.edges.test_sessions import NOW, as_database, write_files

TOKENS = {"input": 100, "output": 20, "reasoning": 5, "cache": {"read": 1000, "write": 40}}


def prompt(text: str = "", mime: str | None = None) -> Any:
    parts = [{"type": "text", "text": text}] + ([{"type": "file", "mime": mime, "url": "data:…"}] if mime else [])
    return message_of({"role": "user"}, parts, "msg_u")


def answer(tokens: Any = None, **more: Any) -> Any:
    return message_of({"role": "assistant", "tokens": tokens, **more}, [{"type": "text", "text": "x" * 40}], "msg_a")


@pytest.mark.parametrize(
    ("messages", "needs"),
    [
        ([], Needs()),
        ([prompt("y" * 80)], Needs(20)),
        ([prompt("y" * 80), answer(TOKENS), prompt("z" * 8)], Needs(1165 + 2)),
        ([answer(TOKENS), answer({"input": 0, "output": 0}), prompt("z" * 8)], Needs(1165 + 12)),
        ([answer(TOKENS, summary=True), prompt("z" * 8)], Needs(20 + 2)),
        ([answer({"input": "many", "output": -3, "cache": 7})], Needs(10)),
        ([prompt("", "image/png"), prompt("", "application/pdf"), prompt("", "text/plain")],
         Needs(0, frozenset(("image", "pdf")))),
    ],
)  # fmt: skip
def test_needs(messages: list[Any], needs: Needs) -> None:
    assert needs_of(messages) == needs


@pytest.mark.parametrize(
    ("model", "capacity"),
    [
        ({}, Capacity()),
        ({"limit": {"context": 0, "output": None}, "capabilities": {"input": []}}, Capacity()),
        (
            {"limit": {"context": 200000, "output": 8000}, "capabilities": {"input": {"text": True, "pdf": False}}},
            Capacity(200000, 8000, frozenset(("text",))),
        ),
    ],
)
def test_capacity(model: dict[str, Any], capacity: Capacity) -> None:
    assert capacity_of(model) == capacity


@pytest.mark.parametrize("fill", [as_database, write_files])
def test_the_answers_of_all_sessions_since_then(tmp_path: Path, fill: Any) -> None:
    assert list(SessionStore(tmp_path).answers(0)) == []
    fill(tmp_path)
    found = list(SessionStore(tmp_path).answers(0))
    assert {"ses_open", "ses_failed", "ses_fine"} <= {row.session for row in found}
    assert all(not row.message.user for row in found)
    assert list(SessionStore(tmp_path).answers(NOW + 1000)) == []
    assert SessionStore(tmp_path).mark() > 0
