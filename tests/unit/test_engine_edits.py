"""Tests of edits of the configuration while sessions wait, and of the journal's lines about decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import Hint, ModelRef, ResetSource, Scope
from ocwatchd.core.engine.messages import Aborted, Configured, Move, Probe
from ocwatchd.core.policy import Mode
from tests.support.rules import builtin
from tests.unit.brain import (
    POLICY,
    SURE,
    A,
    B,
    C,
    T,
    configured,
    engine,
    feed,
    fields,
    notes,
    of,
    refused,
    retrying,
    seen,
)


def test_an_edit_moves_who_waited_to_the_new_stand_in_and_keeps_the_cooldown():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=3)))
    until = brain.cooldowns.cooling(A, T + 1).until
    saved, look = brain.handle(configured(wait=False, chains={"p/a": ("p/c",)}), T + 1)
    assert (look, [entry.target.model for entry in saved.changed]) == (Probe("ses_1", None), [C])
    (move,) = of(Move, brain.handle(seen(retrying(1.1, wait=3)), T + 1.2))
    assert move.order.target.model == C
    assert brain.cooldowns.cooling(A, T + 1.2).until == until


@pytest.mark.parametrize(
    ("before", "change", "moves"),
    [
        ({"chains": {}}, {"chains": {"p/a": ("p/b",)}}, 1),
        ({"mode": Mode.ASK}, {"mode": Mode.AUTO}, 1),
        ({"moves_per_hour": 0}, {"moves_per_hour": 20}, 1),
        ({"mode": Mode.ASK}, {"mode": Mode.NOTIFY}, 0),
    ],
)
def test_an_edit_frees_who_was_stuck_offered_or_left(before, change, moves):
    brain = engine(replace(POLICY, **before))
    assert of(Move, feed(brain, refused(), seen(retrying()))) == []
    effects = brain.handle(Configured(replace(POLICY, **{**before, **change}), builtin()), T + 1)
    assert of(Probe, effects) == [Probe("ses_1", None)]
    assert len(of(Move, brain.handle(seen(retrying(1.1)), T + 1.2))) == moves


def test_an_edit_touches_no_cooldown_but_its_stand_in():
    brain = engine()
    whole = replace(SURE, scope=Scope.PROVIDER)
    feed(brain, refused(), refused(model=ModelRef("q", "x"), session="ses_2", verdict=whole))
    before = {entry.model: entry for entry in brain.cooldowns.entries()}
    assert brain.handle(configured(), T + 1) == []
    (saved,) = brain.handle(configured(chains={}), T + 1)
    assert [(entry.model, entry.target) for entry in saved.changed] == [(A, None)]
    assert {
        entry.model: replace(entry, target=before[entry.model].target) for entry in brain.cooldowns.entries()
    } == before


def test_a_whole_providers_stand_in_stays_where_no_chain_names_the_provider():
    brain = engine(replace(POLICY, chains={"q/x": ("p/b",)}))
    feed(brain, refused(model=ModelRef("q", "x"), verdict=replace(SURE, scope=Scope.PROVIDER)))
    (saved,) = brain.handle(configured(chains={"q/x": ("p/c",)}), T + 1)
    (entry,) = saved.changed
    assert (entry.target.model, entry.target_for(ModelRef("q", "x")).model) == (B, C)
    (saved,) = brain.handle(configured(chains={"q/*": ("p/c",)}), T + 1)
    assert [entry.target.model for entry in saved.changed] == [C]


def test_the_journal_tells_what_a_move_was_decided_on():
    cooldowns = Cooldowns()
    cooldowns.block(B, T + 60, T)
    hint = Hint(T + 3600, 3600.0, ResetSource.RETRY_AFTER, "Retry-After")
    effects = feed(engine(cooldowns=cooldowns), refused(hint=hint), seen(retrying()))
    evidence = fields("limit", effects)["evidence"]
    assert (evidence["at"], evidence["agent"], evidence["target"]) == (T, "build", "p/c")
    assert evidence["hint"]["source"] == "Retry-After"
    claim = fields("claim", effects)
    assert claim["why"] == "1h to wait; maxDelay is 30s"
    assert claim["rests"] == {"until": T + 3600, "reset_source": "retry-after", "kind": "rate_limit"}
    assert [(row["model"], row["why"], row.get("until")) for row in claim["considered"]] == [
        ("p/b", "cooling down (quota)", T + 60),
        ("p/c", "available", None),
    ]
    assert (claim["shown"]["state"], claim["shown"]["attempt"], claim["shown"]["next"]) == ("retry", 1, T + 3600)


def test_the_journal_tells_why_nothing_was_chosen():
    cooldowns = Cooldowns()
    cooldowns.block(B, T + 60, T)
    cooldowns.block(ModelRef("p", "*"), None, T)
    effects = feed(engine(cooldowns=cooldowns), refused(), seen(retrying()))
    rows = fields("exhausted", effects)["considered"]
    assert [(row["model"], row["why"]) for row in rows] == [
        ("p/b", "its provider is cooling down"),
        ("p/c", "its provider is cooling down"),
    ]


def test_every_session_that_waited_is_said_to_go_on():
    """The first answer ends the cooldown; the second session's return is reported as well."""
    brain = engine()
    for session in ("ses_1", "ses_2"):
        feed(brain, refused(session=session), seen(retrying(wait=3, session=session), session))
    done = {"state": SessionState.IDLE, "answer_started": T - 1, "answer_ended": T + 5, "answer_completed": True}
    told = [notes(feed(brain, seen(retrying(6, session=s, **done), s), at=6)) for s in ("ses_1", "ses_2", "ses_2")]
    assert told == [["answered"], ["went_on"], []]


def test_a_stop_is_noted_once_and_only_of_a_limited_turn():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=20)))
    assert notes(feed(brain, Aborted("ses_1", T + 5), at=5)) == ["stopped"]
    assert notes(feed(brain, Aborted("ses_1", T + 6), at=6)) == []
