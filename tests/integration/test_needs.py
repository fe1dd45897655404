"""Tests of what a session contains and what models accept, by OpenCode's own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.capability import Capacity, Needs
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.policy import Policy
from ocwatchd.launcher.capability_check import misfits
from ocwatchd.opencode.client.v1.responses import capacity_of
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.messages import message_of
from ocwatchd.opencode.sessions.snapshots import needs_of
from ocwatchd.state.blacklist.fallback_data import capabilities_in, document
from tests.integration.test_sessions import NOW, as_database, write_files

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
        ({"capabilities": {"toolcall": False}}, Capacity(tools=False)),
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


OFFERS = {
    "q/small": Capacity(8000, 1000, frozenset(("text",))),
    "r/big": Capacity(200_000, 8000, frozenset(("text", "image"))),
    "s/mute": Capacity(0, 0, frozenset(("image",)), tools=False),
    "x/nobodys": Capacity(1),
}
POLICY = Policy(
    chains={"p/a": ("small", "r/big", "s/mute"), "q/small": ("t/last",)},
    aliases={"small": "q/small"},
    agents={"r/big": "seer"},
)


def test_what_the_register_says_of_stand_ins_is_what_is_read_of_it() -> None:
    told = document(POLICY, [ModelRef.parse("p/a")], Outlook(offers=OFFERS))
    assert told["fallbacks"] == {
        "p/a": [
            {"model": "q/small", "agent": None},
            {"model": "r/big", "agent": "seer"},
            {"model": "s/mute", "agent": None},
            {"model": "t/last", "agent": None},
        ]
    }
    written = json.loads(json.dumps(told))
    assert capabilities_in(written) == {name: offer for name, offer in OFFERS.items() if name != "x/nobodys"}


@pytest.mark.parametrize(
    "odd", [{}, {"capabilities": 3}, {"capabilities": {"q/small": "much"}}, {"capabilities": {"q/small": {}}}]
)
def test_what_cannot_be_read_of_it_forbids_nothing(odd: dict[str, Any]) -> None:
    called = message_of({"role": "assistant", "tokens": TOKENS}, [{"type": "tool", "tool": "bash"}], "msg_a")
    assert called is not None
    assert misfits(odd, [called], "x" * 10**6, ["picture.png"]) == {}


@pytest.mark.parametrize(
    ("messages", "words", "files", "unfit"),
    [
        ([], "Hello", [], set()),
        ([answer({"input": 9000})], "", [], {"q/small"}),
        ([answer({"input": 6000})], "x" * 4400, [], {"q/small"}),
        ([], "Look", ["a/dot.png", "README.md"], {"q/small"}),
        ([], "Read", ["paper.pdf"], {"q/small", "r/big", "s/mute"}),
        ([message_of({"role": "assistant"}, [{"type": "tool", "tool": "bash"}], "msg_a")], "", [], {"s/mute"}),
    ],
)
def test_who_could_not_take_what_is_launched(
    messages: list[Any], words: str, files: list[str], unfit: set[str]
) -> None:
    register = json.loads(json.dumps(document(POLICY, [], Outlook(offers=OFFERS))))
    assert set(misfits(register, messages, words, files)) == unfit
