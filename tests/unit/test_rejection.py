"""Tests that the next fallback follows if a fallback refuses a session, and that no circle arises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.engine.guards import OF_THE_MODEL
from ocwatchd.core.engine.messages import Move, Note, Notify, Probe, Tick
from ocwatchd.core.policy import Mode, Policy
from tests.unit.brain import DOOR, A, B, C, T, end, engine, failed, feed, notes, of, refused, retrying, seen

WORDS = "messages.5: Invalid `signature` in `thinking` block"
WRONG = ErrorDetails(message=WORDS, status=400, name="APIError")
ONLY_B = Policy(chains={"p/a": ("p/b",)})


def moved(brain):
    """Return an engine with a session of A that is on B."""
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    return feed(brain, end(move, MoveResult.MOVED, retrying(1, model=B, state=SessionState.BUSY)), at=1)


def fails(at=2.0, model=B, error=WRONG, **more):
    return seen(failed(at, model=model, error=error, **more))


def test_who_fails_a_session_that_it_was_given_hands_it_on():
    brain = engine()
    moved(brain)
    effects = feed(brain, fails(), at=2)
    assert notes(effects) == ["rejected", "claim"]
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.origin, move.order.failing) == (C, B, True)
    rejection, claim = of(Note, effects)
    assert (rejection.fields["model"], rejection.fields["why"]) == ("p/b", WORDS)
    assert claim.fields["why"] == f"the model failed in this session: {WORDS}"
    assert [row["why"] for row in claim.fields["considered"]] == ["it is the limited model", "available"]
    landed = feed(brain, end(move, MoveResult.MOVED, retrying(3, model=C, state=SessionState.BUSY)), at=3)
    assert [tell.text for tell in of(Notify, landed)] == ["p/b has failed in this session: p/c continues"]


def test_with_nothing_else_free_it_waits_where_it_came_from_and_there_it_stays():
    brain = engine(ONLY_B)
    moved(brain)
    (move,) = of(Move, feed(brain, fails(), at=2))
    assert (move.order.target.model, move.order.target.agent) == (A, "build")
    back = feed(brain, end(move, MoveResult.TARGET_LIMITED, retrying(3)), at=3)
    # A has refused the prompt once more: that is another limit, not the one before the move.
    assert (of(Move, back), notes(back)) == ([], ["target_limited", "limit", "parked", "exhausted"])
    assert of(Note, back)[-1].fields["why"] == "limited, and every available fallback has failed in this session: p/b"
    assert of(Move, feed(brain, refused(4), seen(retrying(4)), at=4)) == []  # B is not tried again for this prompt


def test_a_target_whose_turn_is_just_ending_is_looked_at_again_in_a_moment():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    ending = replace(failed(1, model=B, error=WRONG), state=SessionState.BUSY)
    feed(brain, end(move, MoveResult.FAILED, ending), at=1)
    assert brain.next_wake() < T + 2
    assert of(Probe, brain.handle(Tick(), brain.next_wake())) == [Probe("ses_1", None)]
    assert [move.order.target.model for move in of(Move, feed(brain, fails(2), at=2))] == [C]


def test_a_prompt_that_prevention_sent_is_handed_on_too():
    brain = engine()
    feed(brain, refused(session="ses_other"))
    (move,) = of(Move, feed(brain, seen(failed(2, model=B, error=WRONG, before=(A,))), at=2))
    assert move.order.target.model == C


@pytest.mark.parametrize(
    ("snapshot", "at"),
    [
        (failed(2, model=B, error=WRONG, user_message="msg_9"), 2),  # ocwatchd did not put it on B
        (failed(2, model=B, error=WRONG, before=(C,)), 2),  # moved from a model that is free: its user's own choice
        (failed(2, model=A, error=WRONG, before=(B,)), 2),  # A is not a fallback
        (failed(2, model=B, error=WRONG, before=(A,)), 90),  # too long ago
        (failed(2, model=B, error=WRONG, before=(A,), endpoint=replace(DOOR, run=True)), 2),
        *(
            (failed(2, model=B, before=(A,), error=ErrorDetails(message="no", name=name)), 2)
            for name in ("MessageAbortedError", "MessageOutputLengthError", "UnknownError")
        ),
    ],
)
def test_what_is_left_alone(snapshot, at):
    brain = engine()
    feed(brain, refused(session="ses_other"))
    assert of(Move, feed(brain, seen(snapshot), at=at)) == []


@pytest.mark.parametrize("name", sorted(OF_THE_MODEL))
def test_whatever_the_models_provider_says_counts(name):
    brain = engine()
    moved(brain)
    assert of(Move, feed(brain, fails(error=ErrorDetails(message="", name=name)), at=2))


def test_the_model_that_it_came_back_to_is_left_only_within_that_prompt():
    brain = engine(Policy(chains={"p/a": ("p/b", "p/c"), "p/b": ("p/c",)}))
    moved(brain)
    brain.cooldowns.clear(A)
    (back,) = of(Move, feed(brain, refused(5, model=B), seen(retrying(5, model=B)), at=5))
    assert back.order.target.model == A
    feed(brain, end(back, MoveResult.MOVED, retrying(6, state=SessionState.BUSY)), at=6)
    assert of(Move, feed(brain, seen(failed(9, error=WRONG, user_message="msg_7")), at=9)) == []
    (onwards,) = of(Move, feed(brain, seen(failed(7, error=WRONG)), at=7))
    assert onwards.order.target.model == C


@pytest.mark.parametrize(("free", "moves"), [(False, [C]), (True, [])])
def test_a_later_prompt_is_handed_on_only_while_the_first_model_cools(free, moves):
    brain = engine()
    moved(brain)
    if free:
        brain.cooldowns.clear(A)
    effects = feed(brain, fails(9, user_message="msg_7"), at=9)
    assert [move.order.target.model for move in of(Move, effects)] == moves


def test_it_acts_only_where_it_may():
    brain = engine(Policy(chains=ONLY_B.chains, mode=Mode.ASK))
    feed(brain, refused(session="ses_other"))
    assert of(Move, feed(brain, seen(failed(2, model=B, error=WRONG, before=(A,))), at=2)) == []


def test_no_turn_goes_round():
    """Whichever fallbacks fail, in any order: each gets one prompt once."""
    brain = engine(Policy(chains={"p/a": ("p/b", "p/c"), "p/b": ("p/a", "p/c"), "p/c": ("p/b", "p/a")}))
    effects, targets = feed(brain, refused(), seen(retrying())), []
    for step in range(20):
        for move in of(Move, effects):
            targets.append(move.order.target.model)
            failure = failed(step + 1.0, model=move.order.target.model, error=WRONG)
            effects = feed(brain, end(move, MoveResult.FAILED, failure), at=step + 1.0)
    assert targets == [B, C, A]
