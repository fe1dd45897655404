"""Tests of prompts for members of a pool, and over the day's budget."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocwatchd.core.domain.pools import ROUND_ROBIN, Pool, order
from tests.support.bun import A, B, Bun, C, message, moved, pooled, prompt, rests, spent, went_to

pytestmark = pytest.mark.e2e


def created(session: str) -> dict[str, Any]:
    event = {"type": "session.created", "properties": {"info": {"id": session}}}
    return {"act": "hook", "name": "event", "input": {"event": event}}


@pytest.mark.parametrize(
    ("models", "pools", "asked", "wanted"),
    [
        ({}, pooled(a=9, b=9), A, C),  # the member with the lowest load
        ({}, pooled(a=9, b=9), B, B),  # only the first member represents the pool
        ({}, pooled(spread=False, a=9), A, A),
        ({}, pooled(until=-1, a=9), A, A),  # the daemon has ended
        ({C: rests()}, pooled(a=9), A, B),  # a member that is cooling down is left out
        ({A: rests()}, pooled(spread=False), A, A),  # an entry without a target
        ({A: rests(C, until="later") | {"target": {"model": C, "pool": "pool"}}}, pooled(c=9), A, B),
        ({A: rests(C) | {"target": {"model": C, "pool": "pool"}}}, pooled(spread=False, b=9), A, B),
        ({A: rests(C) | {"target": {"model": C, "pool": "gone"}}}, {}, A, C),
        ({"x/y": rests(C) | {"target": {"model": C, "pool": "pool"}}}, pooled(until=-1), "x/y", None),
        ({}, {"pool": "nonsense"}, A, A),
        ({}, {"pool": {"members": [1, {"model": 3}], "spread": True, "until": None}}, A, A),
    ],
)
def test_a_new_session_goes_to_its_member(newest: Bun, models: Any, pools: Any, asked: str, wanted: str | None) -> None:
    newest.register(json.dumps({"version": 1, "models": models, "pools": pools}))
    _, output = newest.play(created("ses_1"), message(asked))
    assert went_to(output).split()[0] == wanted or (wanted is None and went_to(output).split()[0] in (A, B, C))
    assert newest.errors() == ""


def test_a_burst_spreads_sessions_stay_and_what_was_begun_before_is_left(bun: Bun) -> None:
    bun.register(json.dumps({"version": 1, "models": {}, "pools": pooled()}))
    new = [f"ses_{number}" for number in range(9)]
    steps = [created(name) for name in new] + [prompt(A, True, session=name) for name in [*new, *new, "ses_old"]]
    outputs = bun.play(*steps)[len(new) :]
    first, again, old = outputs[:9], outputs[9:18], outputs[18]
    assert sorted(map(went_to, first)) == sorted([f"{name} build" for name in (A, B, C)] * 3)
    assert list(map(went_to, again)) == list(map(went_to, first))
    assert went_to(old) == f"{A} build"
    assert bun.errors() == ""


def test_plugin_and_daemon_draw_alike_and_a_session_does_not_go_back_within_its_pool(newest: Bun) -> None:
    sessions = [f"ses_dfb4031{number}ffe" for number in range(12)]
    away = rests(B) | {"target": {"model": B, "agent": None, "pool": "pool"}}
    newest.register(json.dumps({"version": 1, "models": {"x/y": away}, "pools": pooled()}))
    pool = Pool("pool", (A, B, C), ROUND_ROBIN)
    for session in sessions[:4]:
        (output,) = newest.play(prompt("x/y", True, session=session))
        assert went_to(output).split()[0] == order(pool, session, {})[0]
    (newest.state / "moved.json").write_text(moved(ses_1=(A, B)))
    (output,) = newest.play(prompt(B, False))
    assert went_to(output) == f"{B} build"


AWAY = {"x/y": rests(C) | {"target": {"model": C, "pool": "pool"}}}


@pytest.mark.parametrize(
    ("left", "models", "pools", "asked", "wanted"),
    [
        # a new session goes to a member without a price, whatever its load
        (spent(A), {}, pooled(b=9), A, C),
        (spent(A, C), {}, pooled(b=9), A, B),
        (spent(A, until=-1), {}, pooled(b=9, c=9), A, A),  # after midnight, with or without a daemon
        (spent(B), {}, pooled(), B, B),  # named, but not for the pool
        (spent(A), {}, pooled(spread=False), A, A),
        # no member is without a price, or free: the named one is used
        (spent(A, B, C), {}, pooled(a=9, b=9), A, C),
        (spent(A, B), {C: rests()}, pooled(a=9), A, B),
        # a fallback never has a price, neither from a pool nor from a chain
        (spent(A), {A: rests()}, pooled(b=9), A, C),
        (spent(C), AWAY, pooled(a=9), "x/y", B),
        (spent(C), AWAY, pooled(spread=False), "x/y", A),
        (spent(A, B, C), AWAY, pooled(), "x/y", "x/y"),
        (spent(A, C), {**AWAY, B: rests()}, pooled(), "x/y", "x/y"),
        (spent(B), {A: rests(B)}, {}, A, A),
        (spent(C), {A: rests(B), B: rests(C)}, {}, A, A),
        (spent(C), {A: rests(B), B: rests(C, reset_source="forecast")}, {}, A, B),
        # an unreadable file forbids nothing
        (spent(A, version=2), {}, pooled(b=9, c=9), A, A),
        (spent(over_budget=7), {}, pooled(b=9, c=9), A, A),
        (spent(A, until=0) | {"until": None}, {}, pooled(b=9, c=9), A, A),
        ([], {}, pooled(b=9, c=9), A, A),
    ],
)
def test_above_the_budget(newest: Bun, left: Any, models: Any, pools: Any, asked: str, wanted: str) -> None:
    newest.register(json.dumps({"version": 1, "models": models, "pools": pools}))
    (newest.state / "budget.json").write_text(json.dumps(left))
    _, output = newest.play(created("ses_1"), message(asked))
    assert went_to(output).split()[0] == wanted


def test_a_session_keeps_the_paid_member_that_it_has_but_gets_none_in_place_of_another_model(bun: Bun) -> None:
    bun.register(json.dumps({"version": 1, "models": AWAY, "pools": pooled(a=9, c=9)}))
    write = {"act": "write", "path": str(bun.state / "budget.json"), "text": json.dumps(spent(A, B))}
    before, _, after, instead, old, new = bun.play(
        created("ses_1"),
        created("ses_3"),
        prompt(A, True),
        write,
        prompt(A, True),
        prompt("x/y", True),
        prompt(A, True, session="ses_2"),
        prompt(A, True, session="ses_3"),
    )[2:]
    assert [went_to(output).split()[0] for output in (before, after, instead, old, new)] == [B, B, C, A, C]
    assert bun.errors() == ""
