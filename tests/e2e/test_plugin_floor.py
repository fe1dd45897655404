"""Tests that the plugin judges a session's content as the daemon does, and fails open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.capability import unfit
from ocwatchd.core.engine.messages import Prevented
from ocwatchd.opencode.sessions.messages import Message, message_of
from ocwatchd.opencode.sessions.snapshots import needs_of
from ocwatchd.state.blacklist.fallback_data import capabilities_in
from ocwatchd.state.plugin_reports import prevented
from tests.support.bun import A, B, Bun, C, message, rests, spent, went_to
from tests.support.opencode import NEWEST, OLDEST

pytestmark = pytest.mark.e2e

TAKES = {
    B: {"context": 1000, "output": 100, "inputs": ["text"], "tools": True},
    C: {"context": 200_000, "output": 8000, "inputs": ["image", "pdf"], "tools": True},
}
STAND_INS = {A: [{"model": B, "agent": None}, {"model": C, "agent": "seer"}]}


@pytest.fixture(params=(NEWEST, OLDEST))
def bun(request: pytest.FixtureRequest, tmp_path: Path) -> Bun:
    return Bun(request.param, tmp_path / "home")


def register(bun: Bun, takes: Any = TAKES, fallbacks: Any = STAND_INS, **models: Any) -> None:
    models = models or {A: rests(B)}
    bun.register(json.dumps({"version": 1, "models": models, "capabilities": takes, "fallbacks": fallbacks}))


def said(text: str = "", mime: str | None = None, **more: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": text}, *([{"type": "file", "mime": mime, "url": "data:"}] if mime else [])]
    return {"info": {"id": "msg_u", "role": "user", **more}, "parts": parts}


def answer(context: int = 0, text: str = "", *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    half = context // 2
    tokens = {"input": half, "output": 1, "reasoning": 0, "cache": {"read": context - half - 1, "write": 0}}
    info = {"id": "msg_a", "role": "assistant", "tokens": tokens if context else None, **more}
    return {"info": info, "parts": [{"type": "text", "text": text}, *parts]}


CALL = {"type": "tool", "tool": "bash", "state": {"status": "completed"}}
NO_TOOLS = {**TAKES, B: {**TAKES[B], "tools": False}}
HISTORIES: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([], TAKES),
    ([said("x" * 3599)], TAKES),
    ([said("x" * 3604)], TAKES),
    ([said("x" * 9000), answer(899)], TAKES),
    ([said("x"), answer(901)], TAKES),
    ([answer(800), said("y" * 404)], TAKES),
    ([answer(800), said("y" * 396)], TAKES),
    ([answer(5000, summary=True), said("y")], TAKES),
    ([said("look", "image/png"), answer(10)], TAKES),
    ([said("read", "application/pdf"), said("hear", "audio/wav")], TAKES),
    ([said("read", "text/plain")], TAKES),
    ([answer(10, "", CALL)], TAKES),
    ([answer(10, "", CALL)], NO_TOOLS),
    ([answer(10)], NO_TOOLS),
    ([answer(9000)], {B: {"context": 0, "output": 0, "inputs": []}}),
    ([answer(9000)], {B: {**TAKES[B], "output": 0}}),
]


def test_the_plugin_judges_as_the_daemon_does(tmp_path: Path) -> None:
    bun = Bun(NEWEST, tmp_path / "home")
    for history, takes in HISTORIES:
        register(bun, takes)
        _, output = bun.play({"act": "history", "data": history}, message(A))
        read = [message_of(row["info"], row["parts"]) for row in history]
        needs = needs_of([row for row in read if isinstance(row, Message)])
        capacities = capabilities_in({"capabilities": takes})
        fits = [name for name in (B, C) if not unfit(needs, capacities.get(name))]
        wanted = {B: "mock2/b build", C: "mock3/c seer"}[fits[0]] if fits else "mock/a build"
        assert went_to(output) == wanted, history
        why = unfit(needs, capacities[B])
        assert not why or why in [fact["passed"][0]["why"] for fact in bun.facts()]
    assert bun.errors() == ""


def test_where_nothing_could_take_it_the_prompt_stays_and_says_so(bun: Bun) -> None:
    register(bun, {**TAKES, C: TAKES[B]})
    _, output = bun.play({"act": "history", "data": [answer(5000)]}, message(A))
    assert went_to(output) == "mock/a build"
    (fact,) = bun.facts()
    news = prevented(json.dumps(fact).encode())
    assert isinstance(news, Prevented)
    assert (news.session, news.model, news.target, [model for model, _ in news.passed]) == ("ses_1", A, None, [B, C])


@pytest.mark.parametrize(
    ("takes", "fallbacks", "history", "wanted"),
    [
        ({}, STAND_INS, {"data": [answer(5000)]}, "mock2/b build"),  # its capabilities are not known
        (TAKES, {}, {"data": [answer(5000)]}, "mock/a build"),
        (TAKES, STAND_INS, {"hangs": True}, "mock2/b build"),
        (TAKES, STAND_INS, {"data": None}, "mock2/b build"),
        (TAKES, STAND_INS, {"data": [{}, {"info": {"tokens": 7}, "parts": [None]}]}, "mock2/b build"),
        ("nonsense", ["nonsense"], {"data": [answer(5000)]}, "mock2/b build"),
        (TAKES, {A: ["nonsense", {"model": 7}, {"model": A}, {"model": C}]}, {"data": [answer(5000)]}, "mock3/c build"),
        ({B: {"context": "many", "inputs": 3}}, STAND_INS, {"data": [answer(5000)]}, "mock2/b build"),
    ],
)
def test_whatever_is_not_known_forbids_nothing(
    tmp_path: Path, takes: Any, fallbacks: Any, history: dict[str, Any], wanted: str
) -> None:
    bun = Bun(NEWEST, tmp_path / "home")
    register(bun, takes, fallbacks)
    _, output = bun.play({"act": "history", **history}, message(A))
    assert went_to(output) == wanted


def test_what_rests_itself_or_costs_too_much_is_no_way_out(bun: Bun) -> None:
    register(bun, **{A: rests(B), C: rests()})
    _, output = bun.play({"act": "history", "data": [answer(5000)]}, message(A))
    assert went_to(output) == "mock/a build"
    register(bun)
    (bun.state / "budget.json").write_text(json.dumps(spent(C)))
    _, output = bun.play({"act": "history", "data": [answer(5000)]}, message(A))
    assert went_to(output) == "mock/a build"
