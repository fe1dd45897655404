"""Tests that the next run of the daemon finishes what an earlier run began, and counts and reports nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import Claim, MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ErrorDetails, Target
from ocwatchd.core.engine.messages import Aborted, Move, Note, Probe, Probed, Remember, Shown, Tick
from ocwatchd.core.engine.session import MAX_TRACKED
from tests.unit.brain import POLICY, A, B, C, T, end, engine, failed, feed, notes, of, refused, retrying, seen


def test_a_turn_that_we_stopped_and_could_not_start_again_is_started_until_it_runs():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True))
    assert of(Probe, brain.handle(Tick(), brain.next_wake()))
    stopped = failed(5, error=ErrorDetails(name="MessageAbortedError"))
    (again,) = of(Move, feed(brain, seen(stopped), at=5))
    assert again.order.own_abort
    assert again.order.target.model == B


def test_a_move_left_unfinished_by_a_killed_daemon_is_finished():
    brain = engine()
    assert brain.resume("ses_1", (Claim("c1", Target(B)),), T) == [Probe("ses_1", None)]
    stopped = failed(error=ErrorDetails(name="MessageAbortedError"))
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


ABORTED = ErrorDetails(name="MessageAbortedError")


def test_a_new_run_that_its_user_has_stopped_is_not_started_again_although_its_move_failed():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True))  # the endpoint failed while the new run began
    ended = feed(brain, seen(failed(5, error=ABORTED, model=B, answer="msg_3")), at=5)
    assert of(Move, ended) == []
    assert notes(ended) == ["stopped"]
    assert of(Move, feed(brain, seen(failed(6, error=ABORTED, answer="msg_3")), at=6)) == []


@pytest.mark.parametrize(("posts", "ours"), [(0, True), (1, False)])
def test_a_stop_that_opencode_carries_out_after_the_move_is_ours_unless_a_new_run_was_started(posts, ours):
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True, posts=posts), at=31)
    told = feed(brain, Aborted("ses_1", T + 33, exact=True), at=33)
    assert notes(told) == ([] if ours else ["stopped"])
    effects = feed(brain, seen(failed(36, error=ABORTED)), at=36)
    assert [again.order.target.model for again in of(Move, effects)] == ([B] if ours else [])


def stopped_too_late(brain):
    """Move the session. The move ends before OpenCode has carried out its stop."""
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True), at=31)


def test_a_late_stop_of_ours_is_followed_at_once_and_only_once():
    brain = engine()
    stopped_too_late(brain)
    assert of(Probe, feed(brain, Aborted("ses_1", T + 33, exact=True), at=33))
    assert notes(feed(brain, Aborted("ses_1", T + 40, exact=True), at=40)) == ["stopped"], "a second one is the user's"


@pytest.mark.parametrize("state", [SessionState.RETRY, SessionState.BUSY])
@pytest.mark.parametrize("result", [MoveResult.ALREADY, MoveResult.REFUSED])
def test_a_second_attempt_that_changes_nothing_does_not_forget_the_stop_to_come(result, state):
    brain = engine()
    stopped_too_late(brain)
    (move,) = of(Move, feed(brain, seen(retrying(36)), at=36))
    feed(brain, end(move, result, retrying(37, state=state)), at=37)
    assert notes(feed(brain, Aborted("ses_1", T + 40, exact=True), at=40)) == []
    (again,) = of(Move, feed(brain, seen(failed(41, error=ABORTED)), at=41))
    assert again.order.own_abort


def test_a_users_stop_of_a_new_prompt_is_not_the_stop_to_come():
    brain = engine()
    stopped_too_late(brain)
    feed(brain, seen(retrying(36, state=SessionState.BUSY, attempt=None, next_at=None)), at=36)
    feed(brain, seen(retrying(40, state=SessionState.BUSY, attempt=None, next_at=None, user_message="msg_9")), at=40)
    assert notes(feed(brain, Aborted("ses_1", T + 42, exact=True), at=42)) == ["stopped"]


def test_a_turn_that_was_answered_after_all_is_not_continued():
    brain = engine()
    stopped_too_late(brain)
    answered = retrying(36, state=SessionState.IDLE, attempt=None, next_at=None, answer_completed=True)
    assert of(Move, feed(brain, seen(answered), at=36)) == []
    (move,) = of(Move, feed(brain, refused(50), seen(retrying(50, user_message="msg_3")), at=50))
    assert not move.order.own_abort


def test_a_late_stop_of_a_subagents_parent_is_ours_as_well():
    brain = engine()
    child = retrying(parent="ses_p")
    parent = retrying(session="ses_p", state=SessionState.BUSY, attempt=None, answer="msg_p")
    (move,) = of(Move, feed(brain, refused(), Probed("ses_1", A, (child,), 1, parents=(parent,))))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True), at=31)
    assert notes(feed(brain, Aborted("ses_p", T + 33, exact=True), at=33)) == []


def test_a_stop_long_after_a_move_that_failed_is_the_users():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True), at=31)
    assert notes(feed(brain, Aborted("ses_1", T + 100, exact=True), at=100)) == ["stopped"]


def test_an_old_run_that_still_works_after_the_move_has_failed_is_probed_until_it_has_ended():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True), at=31)
    assert of(Probe, brain.handle(Tick(), brain.next_wake()))
    busy = retrying(38, state=SessionState.BUSY, attempt=None, next_at=None)
    assert of(Move, feed(brain, seen(busy), at=38)) == []
    assert of(Probe, brain.handle(Tick(), brain.next_wake()))
    (again,) = of(Move, feed(brain, seen(failed(60, error=ABORTED)), at=60))
    assert (again.order.target.model, again.order.own_abort) == (B, True)


@pytest.mark.parametrize(("answer", "again"), [("msg_2", True), ("msg_3", False)])
def test_an_earlier_lifes_move_goes_on_only_if_it_was_the_one_who_stopped_the_turn(answer, again):
    brain = engine()
    brain.resume("ses_1", (Claim("c1", Target(B), Target(A), "msg_2"),), T)
    effects = feed(brain, seen(failed(error=ABORTED, answer=answer)))
    assert bool(of(Move, effects)) is again


def test_a_parent_that_was_stopped_for_its_subagent_is_the_one_to_go_on():
    brain = engine()
    child = retrying(parent="ses_p")
    parent = retrying(session="ses_p", state=SessionState.BUSY, attempt=None, answer="msg_p")
    found = Probed("ses_1", A, (child,), 1, parents=(parent,))
    (move,) = of(Move, feed(brain, refused(), found))
    assert (move.order.snapshot.session, move.order.child) == ("ses_p", "ses_1")
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True))
    assert of(Probe, brain.handle(Tick(), brain.next_wake())) == [Probe("ses_p", None)]
    stopped = replace(parent, state=SessionState.ERROR, last_error=ABORTED)
    (again,) = of(Move, feed(brain, Probed("ses_p", None, (stopped,), 1), at=9))
    assert (again.order.snapshot.session, again.order.child, again.order.own_abort) == ("ses_p", None, True)


def test_a_move_left_unfinished_is_finished_however_many_sessions_are_limited_meanwhile():
    (cooldowns := Cooldowns()).block(A, None, T)
    brain = engine(cooldowns=cooldowns)
    brain.resume("ses_1", (Claim("c1", Target(B)),), T)
    for number in range(MAX_TRACKED):
        brain.tracked_sessions.of(f"other_{number}", T)
    assert len(brain.tracked_sessions.all()) == MAX_TRACKED
    (move,) = of(Move, feed(brain, seen(failed(error=ErrorDetails(name="MessageAbortedError")))))
    assert move.order.session == "ses_1"


def test_what_an_earlier_life_has_counted_is_no_second_strike_however_many_sessions_it_was():
    (cooldowns := Cooldowns()).block(A, None, T)
    brain = engine(cooldowns=cooldowns)
    brain.remember({f"ses_{number}": A for number in range(2 * MAX_TRACKED)}, (), T)
    for number in range(2 * MAX_TRACKED):
        brain.tracked_sessions.of(f"other_{number}", T)
    feed(brain, Probed("ses_0", None, (retrying(session="ses_0"),), 1))
    assert cooldowns.cooling(A, T).strikes == 0, "counted before"
    feed(brain, Probed("other_0", None, (retrying(session="other_0"),), 1))
    assert cooldowns.cooling(A, T).strikes == 1, "nobody knew of this one"


def test_a_move_that_landed_while_the_daemon_was_killed_is_given_back_like_any_other():
    """In its second move the session still returns to A, which was its first model."""
    (cooldowns := Cooldowns()).block(A, None, T)
    brain = engine(cooldowns=cooldowns)
    claim = Claim("c1", Target(C, "helper"), Target(A, "build"))
    brain.resume("ses_1", (claim,), T)
    there = retrying(model=C, state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    assert of(Remember, feed(brain, seen(there))) == [Remember("ses_1", Target(A, "build"), Target(C, "helper"))]
    assert of(Remember, feed(brain, seen(there))) == []
    # If it is limited there, it uses the chain of its first model.
    again = feed(brain, refused(5, model=C), seen(retrying(5, model=C)), at=5)
    assert [move.order.target.model for move in of(Move, again)] == [B]
    (claimed,) = [note for note in of(Note, again) if note.what == "claim"]
    assert claimed.fields["origin"] == {"model": "p/a", "agent": "build"}


@pytest.mark.parametrize(
    ("claim", "model", "policy", "told"),
    [
        (Claim("c1", Target(A), Target(A, "build")), A, POLICY, [Remember("ses_1")]),  # this was the return
        (Claim("c1", Target(B), Target(A)), A, POLICY, []),  # its request has not arrived
        (Claim("c1", Target(B)), B, POLICY, []),  # the claim of an older version does not contain the origin
        (Claim("c1", Target(B), Target(A)), B, replace(POLICY, return_to_primary=False), []),
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
    brain = engine(cooldowns=Cooldowns(before.cooldowns.entries()))
    again = replace(refused(), counted=True)
    assert of(Move, feed(brain, again, seen(retrying())))
    assert brain.cooldowns.cooling(A, T).strikes == 1


def test_what_an_earlier_life_was_told_is_no_second_strike_when_a_door_shows_it():
    before = engine()
    feed(before, refused())
    for refusals, shown in (({"ses_1": A}, []), ({}, [Shown("ses_1", A, "msg_1", 1, T)])):
        brain = engine(cooldowns=Cooldowns(before.cooldowns.entries()))
        brain.remember(refusals, shown, T)
        brain.resume("ses_1", (), T)
        assert of(Move, feed(brain, seen(retrying())))
        assert brain.cooldowns.cooling(A, T).strikes == 1
    unsaved = engine()
    unsaved.remember({"ses_1": A}, [], T)
    feed(unsaved, seen(retrying()))
    assert unsaved.cooldowns.cooling(A, T).strikes == 1


@pytest.mark.parametrize("missed", [False, True])
def test_a_door_that_is_slow_at_first_does_not_lose_what_an_earlier_life_left_open(missed):
    before = engine()
    feed(before, refused())
    brain = engine(cooldowns=Cooldowns(before.cooldowns.entries()))
    brain.remember({"ses_1": A}, [], T)
    brain.probe_session("ses_1", T, missed=missed)
    effects = feed(brain, Probed("ses_1", None, (), 0, failing=1))
    assert notes(effects) == ([] if missed else ["unanswered"]), "said once, however many lives look in vain"
    assert brain.next_wake() is not None
    assert of(Probe, brain.handle(Tick(), brain.next_wake()))
    assert of(Move, feed(brain, seen(retrying())))


@pytest.mark.parametrize("seconds", [-0.4, 2.0])
def test_an_abort_from_before_this_run_is_that_of_the_move_that_it_resumes(seconds):
    """OpenCode logs our abort up to a second late, so the next run reads it; a later one is the user's."""
    brain = engine()
    brain.resume("ses_1", (Claim("c1", Target(B), Target(A), "msg_2"),), T)
    told = feed(brain, Aborted("ses_1", T + seconds, exact=True), at=max(seconds, 0.1))
    assert notes(told) == ([] if seconds < 0 else ["stopped"])
    moves = of(Move, feed(brain, seen(failed(error=ABORTED)), at=3))
    assert [move.order.target.model for move in moves] == ([B] if seconds < 0 else [])
