"""What an earlier life of the daemon has begun is finished, and nothing of it counted or told twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.cases import MOST_CASES
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import ErrorFacts, Target
from ocwatchd.core.messages import LookUp, Move, Note, Remember, Shown, Surveyed, Tick
from ocwatchd.core.moves import Claim, MoveResult
from ocwatchd.core.views import SessionState
from tests.core.brain import POLICY, A, B, C, T, end, engine, failed, feed, notes, of, refused, retrying, seen


def test_a_turn_that_we_stopped_and_could_not_start_again_is_started_until_it_runs():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True))
    assert of(LookUp, brain.handle(Tick(), brain.next_wake()))
    stopped = failed(5, error=ErrorFacts(name="MessageAbortedError"))
    (again,) = of(Move, feed(brain, seen(stopped), at=5))
    assert again.order.own_abort
    assert again.order.target.model == B


def test_a_move_left_unfinished_by_a_killed_daemon_is_finished():
    brain = engine()
    assert brain.resume("ses_1", (Claim("c1", Target(B)),), T) == [LookUp("ses_1", None)]
    stopped = failed(error=ErrorFacts(name="MessageAbortedError"))
    (move,) = of(Move, feed(brain, seen(stopped)))
    assert move.order.own_abort
    answered = retrying(state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    done = engine()
    done.resume("ses_1", (Claim("c1", Target(B)), Claim("c2", Target(A))), T)
    ended = feed(done, seen(answered))
    assert of(Move, ended) == []
    told = [(note.what, note.fields["claim"]) for note in of(Note, ended) if "claim" in note.fields]
    assert told == [("failed", "c1"), ("moved", "c2")], "it is on A, where it answered"
    assert not [note for note in of(Note, feed(done, seen(answered))) if "claim" in note.fields]


def test_a_move_left_unfinished_is_finished_however_many_sessions_are_limited_meanwhile():
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    brain.resume("ses_1", (Claim("c1", Target(B)),), T)
    for number in range(MOST_CASES):
        brain.cases.of(f"other_{number}", T)
    assert len(brain.cases.all()) == MOST_CASES
    (move,) = of(Move, feed(brain, seen(failed(error=ErrorFacts(name="MessageAbortedError")))))
    assert move.order.session == "ses_1"


def test_what_an_earlier_life_has_counted_is_no_second_strike_however_many_sessions_it_was():
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    brain.remember({f"ses_{number}": A for number in range(2 * MOST_CASES)}, (), T)
    for number in range(2 * MOST_CASES):
        brain.cases.of(f"other_{number}", T)
    feed(brain, Surveyed("ses_0", None, (retrying(session="ses_0"),), 1))
    assert ledger.cooling(A, T).strikes == 0, "counted before"
    feed(brain, Surveyed("other_0", None, (retrying(session="other_0"),), 1))
    assert ledger.cooling(A, T).strikes == 1, "nobody knew of this one"


def test_a_move_that_landed_while_the_daemon_was_killed_is_given_back_like_any_other():
    """Its second move: A was the first model, and it is to A that the session goes back."""
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    claim = Claim("c1", Target(C, "helper"), Target(A, "build"))
    brain.resume("ses_1", (claim,), T)
    there = retrying(model=C, state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    assert of(Remember, feed(brain, seen(there))) == [Remember("ses_1", Target(A, "build"), Target(C, "helper"))]
    assert of(Remember, feed(brain, seen(there))) == []
    # Limited there, it goes down the chain of its first model.
    again = feed(brain, refused(5, model=C), seen(retrying(5, model=C)), at=5)
    assert [move.order.target.model for move in of(Move, again)] == [B]
    (claimed,) = [note for note in of(Note, again) if note.what == "claim"]
    assert claimed.fields["origin"] == {"model": "p/a", "agent": "build"}


@pytest.mark.parametrize(
    ("claim", "model", "policy", "told"),
    [
        (Claim("c1", Target(A), Target(A, "build")), A, POLICY, [Remember("ses_1")]),  # that was the way back
        (Claim("c1", Target(B), Target(A)), A, POLICY, []),  # it has not landed
        (Claim("c1", Target(B)), B, POLICY, []),  # an older version's claim does not say where it came from
        (Claim("c1", Target(B), Target(A)), B, replace(POLICY, come_back=False), []),
    ],
)
def test_what_is_remembered_of_a_move_that_an_earlier_life_began(claim, model, policy, told):
    brain = engine(policy)
    brain.resume("ses_1", (claim,), T)
    there = retrying(model=model, state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    assert of(Remember, feed(brain, seen(there))) == told


def test_what_an_earlier_life_has_counted_is_acted_on_and_no_second_strike():
    before = engine()
    feed(before, refused())
    brain = engine(ledger=Ledger(before.ledger.entries()))
    again = replace(refused(), counted=True)
    assert of(Move, feed(brain, again, seen(retrying())))
    assert brain.ledger.cooling(A, T).strikes == 1


def test_what_an_earlier_life_was_told_is_no_second_strike_when_a_door_shows_it():
    before = engine()
    feed(before, refused())
    for refusals, shown in (({"ses_1": A}, []), ({}, [Shown("ses_1", A, "msg_1", 1, T)])):
        brain = engine(ledger=Ledger(before.ledger.entries()))
        brain.remember(refusals, shown, T)
        brain.resume("ses_1", (), T)
        assert of(Move, feed(brain, seen(retrying())))
        assert brain.ledger.cooling(A, T).strikes == 1
    unsaved = engine()
    unsaved.remember({"ses_1": A}, [], T)
    feed(unsaved, seen(retrying()))
    assert unsaved.ledger.cooling(A, T).strikes == 1


@pytest.mark.parametrize("missed", [False, True])
def test_a_door_that_is_slow_at_first_does_not_lose_what_an_earlier_life_left_open(missed):
    before = engine()
    feed(before, refused())
    brain = engine(ledger=Ledger(before.ledger.entries()))
    brain.remember({"ses_1": A}, [], T)
    brain.look_at("ses_1", T, missed=missed)
    effects = feed(brain, Surveyed("ses_1", None, (), 0, failing=1))
    assert notes(effects) == ([] if missed else ["unanswered"]), "said once, however many lives look in vain"
    assert brain.next_wake() is not None
    assert of(LookUp, brain.handle(Tick(), brain.next_wake()))
    assert of(Move, feed(brain, seen(retrying())))
