"""Tests of the load of pools, by the message store: these answers give these loads."""

from __future__ import annotations

import pytest

from ocwatchd.core.domain.budget import Tokens
from ocwatchd.core.domain.pools import LEAST_USED, ROUND_ROBIN, Pool
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.daemon.usage_meter import OPEN, WINDOW, measured
from ocwatchd.opencode.sessions.message_store import Answer
from ocwatchd.opencode.sessions.messages import Message

NOW = 1_800_000_000.0
A, B, OTHER = "p/a", "q/a", "x/y"


def answer(session: str, model: str, tokens: int = 0, age: float = 60, done: bool = True, cached: int = 0) -> Answer:
    created = NOW - age
    counted = Tokens(tokens, cache_read=cached) if tokens else None
    completed = created + 1 if done else None
    return Answer(
        session, Message("msg", "assistant", None, ModelRef.parse(model), None, created, completed, tokens=counted)
    )


@pytest.mark.parametrize(
    ("strategy", "answers", "wanted"),
    [
        (LEAST_USED, [], {}),
        (LEAST_USED, [answer("s1", A, 300, cached=10**9), answer("s2", B, 100), answer("s3", OTHER, 999)],
         {A: 1.5, B: 0.5}),
        (LEAST_USED, [answer("s1", A, done=False), answer("s2", A, age=OPEN + 1, done=False)], {A: 1.0}),
        (ROUND_ROBIN, [answer("s1", A), answer("s1", A), answer("s2", B), answer("s3", A), answer("s3", B)],
         {A: 1.0, B: 2.0}),
    ],
)  # fmt: skip
def test_loads(strategy: str, answers: list[Answer], wanted: dict[str, float]) -> None:
    asked: list[float] = []

    def read(since: float) -> list[Answer]:
        asked.append(since)
        return answers

    found = measured(read, [Pool("pool", (A, B), strategy)], NOW)
    assert {model: load for model, load in found.loads.items() if load} == wanted
    assert (found.models, found.at, asked) == ((A, B), NOW, [NOW - WINDOW])
