"""Tests of what prevents a move and what allows it again: all models cooling down, a user's clear or stop, maxima."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.engine.messages import (
    Aborted,
    BlacklistChanged,
    Move,
    Note,
    Notify,
    Probe,
    Probed,
    SaveBlacklist,
    TakenOver,
    Tick,
)
from ocwatchd.core.policy import Mode, Policy
from tests.unit.brain import (
    DOOR,
    POLICY,
    A,
    B,
    C,
    T,
    end,
    engine,
    failed,
    feed,
    fields,
    heard,
    notes,
    of,
    refused,
    retrying,
    seen,
)


def test_everything_exhausted_is_told_once_and_looked_at_when_the_first_returns():
    cooldowns = Cooldowns()
    cooldowns.block(B, T + 100, T)
    cooldowns.block(C, None, T)
    brain = engine(cooldowns=cooldowns)
    effects = feed(brain, refused(), seen(retrying()))
    assert len(of(Notify, effects)) == 1
    assert of(Notify, effects)[0].at == T + 100
    assert of(Move, effects) == []
    again = feed(brain, refused(1, session="ses_2"), seen(retrying(1.1, session="ses_2"), "ses_2"), at=1.2)
    assert of(Notify, again) == []
    assert T + 100 <= brain.next_wake() < T + 101
    (look,) = of(Probe, brain.handle(Tick(), T + 102))
    first, (other,) = look.session, {"ses_1", "ses_2"} - {look.session}
    (move,) = of(Move, brain.handle(seen(retrying(102, session=first), first), T + 102))
    assert move.order.target.model == B
    brain.handle(end(move, MoveResult.MOVED), T + 103)
    assert of(Probe, brain.handle(Tick(), brain.next_wake())) == [Probe(other, None)], "then the other one"
    back = brain.handle(seen(retrying(104, session=other), other), T + 104)
    assert [move.order.target.model for move in of(Move, back)] == [B]


def test_without_a_chain_it_says_so_once_and_leaves_it():
    effects = feed(engine(Policy()), refused(), seen(retrying()))
    assert "no fallback is configured" in of(Notify, effects)[0].text
    assert of(Move, effects) == []


def test_a_person_who_clears_a_model_wakes_what_was_stuck():
    cooldowns = Cooldowns()
    for model in (B, C):
        cooldowns.block(model, None, T)
    brain = engine(cooldowns=cooldowns)
    feed(brain, refused(), seen(retrying()))
    kept = [entry for entry in brain.cooldowns.entries() if entry.model != B]
    assert of(Probe, feed(brain, BlacklistChanged(tuple(kept), T + 1), at=1))
    assert [move.order.target.model for move in of(Move, feed(brain, seen(retrying(1.1)), at=1.2))] == [B]


@pytest.mark.parametrize("early", [0.0, 0.2])
def test_what_was_refused_before_a_person_cleared_the_model_does_not_block_it_again(early):
    brain = engine()
    feed(brain, refused(session="ses_2"))
    feed(brain, BlacklistChanged((), T + 1), at=1.2)
    # The log is late, or an endpoint was probed before: both report a refused attempt from before the clear.
    late = feed(brain, refused(early), seen(retrying(0.9)), at=1.3)
    assert of(SaveBlacklist, late) == of(Move, late) == []
    late = feed(brain, refused(early, session="ses_3"), seen(failed(0.9, session="ses_3"), "ses_3"), at=1.3)
    assert of(SaveBlacklist, late) == of(Move, late) == []
    assert brain.cooldowns.cooling(A, T + 1.3) is None
    # OpenCode's own next attempt is refused after the clear.
    again = feed(brain, refused(1.4), seen(retrying(1.5, attempt=2)), at=1.5)
    assert of(SaveBlacklist, again)[0].changed[0].strikes == 1
    assert [move.order.target.model for move in of(Move, again)] == [B]


def test_an_old_logs_whole_second_may_lie_behind_the_clear_and_counts():
    brain = engine()
    feed(brain, refused())
    feed(brain, BlacklistChanged((), T + 1), at=1.2)
    assert of(SaveBlacklist, feed(brain, refused(0.5), at=1.3))  # logged in the same second as the clear
    assert brain.cooldowns.cooling(A, T + 1.3) is not None


def test_what_is_refused_before_the_daemon_knows_of_the_clear_is_a_first_strike_of_its_own():
    brain = engine()
    feed(brain, refused(), refused(2.1))
    (saved,) = of(SaveBlacklist, feed(brain, BlacklistChanged((), T + 2), at=2.3))
    assert [(entry.model, entry.since, entry.strikes) for entry in saved.changed] == [(A, T + 2.1, 1)]
    assert of(SaveBlacklist, feed(brain, BlacklistChanged((), T + 3), at=3.3)) == []
    assert brain.cooldowns.cooling(A, T + 3.3) is None


@pytest.mark.parametrize("what", [{"running": ("bash",)}, {"asking": True}])
def test_a_running_tool_or_an_open_question_is_never_disturbed(what):
    effects = feed(engine(), refused(), seen(retrying(**what)))
    assert notes(effects)[-1] == "left"
    assert of(Move, effects) == []


def test_a_users_abort_ends_it():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=20)))
    feed(brain, Aborted("ses_1", T + 5), at=5)
    assert brain.next_wake() is None
    stopped = failed(error=ErrorDetails(name="MessageAbortedError"))
    assert notes(feed(engine(), refused(), seen(stopped))[3:]) == ["stopped"]


def test_an_abort_by_a_move_that_is_not_ours_is_not_taken_for_the_users():
    brain = engine(policy=Policy(chains={"p/a": ("p/b",)}, mode=Mode.ASK))
    feed(brain, refused(), seen(retrying()))
    assert feed(brain, TakenOver("ses_1"), TakenOver("ses_2")) == []
    assert brain.tracked_sessions.known("ses_1").phrase == "moved by hand"
    assert brain.tracked_sessions.known("ses_2") is None


def test_our_own_abort_is_not_taken_for_the_users():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, Aborted("ses_1", T + 0.3))
    assert notes(feed(brain, end(move, MoveResult.MOVED), at=0.8)) == ["moved"]
    feed(brain, Aborted("ses_1", T + 0.3), at=1.3)  # 1.18 logs it up to a second late
    assert brain.tracked_sessions.known("ses_1").phrase == "moved from p/a to p/b"
    feed(brain, Aborted("ses_1", T + 9), at=9)
    assert brain.tracked_sessions.known("ses_1").phrase == "stopped by its user"


@pytest.mark.parametrize(("mode", "offers"), [(Mode.ASK, 1), (Mode.NOTIFY, 1), (Mode.OFF, 0)])
def test_modes_that_do_not_act(mode, offers):
    brain = engine(replace(POLICY, mode=mode))
    effects = feed(brain, refused(), seen(retrying()), refused(1), seen(retrying(1.1)))
    assert of(Move, effects) == []
    assert len(of(Notify, effects)) == offers


def test_moves_are_capped_per_session_and_hour():
    brain = engine(replace(POLICY, moves_per_hour=2))
    effects = []
    for n in range(4):
        moves = feed(brain, refused(n * 10), seen(retrying(n * 10, user_message=f"msg_{n}")), at=n * 10)
        effects += moves
        for move in of(Move, moves):
            feed(brain, end(move, MoveResult.MOVED), at=n * 10 + 1)
    assert len(of(Move, effects)) == 2
    assert "Too many moves" in [tell.title for tell in of(Notify, effects)]


def test_after_a_failed_move_at_the_cap_it_looks_again_when_an_hour_has_passed():
    brain = engine(replace(POLICY, moves_per_hour=1))
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    assert not of(Move, feed(brain, end(move, MoveResult.FAILED, retrying()), at=1))
    due = brain.next_wake()
    assert due is not None and due >= T + 3600
    assert of(Probe, brain.handle(Tick(), T + 3601))


def test_a_wait_that_is_over_already_is_no_negative_one():
    effects = feed(engine(), refused(), seen(retrying(wait=-5)))
    assert [note.fields["why"] for note in of(Note, effects) if note.what == "wait"] == ["0s to wait"]


def test_a_target_that_fails_is_not_tried_again_for_this_message():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    broken = failed(model=B, error=ErrorDetails(message="invalid x-api-key", status=401))
    (onwards,) = of(Move, feed(brain, end(move, MoveResult.FAILED, broken)))
    assert onwards.order.target.model == C


def test_of_a_limited_run_that_has_ended_nothing_is_said_any_more():
    brain = engine()
    run = retrying(endpoint=replace(DOOR, run=True))
    effects = feed(brain, refused(), seen(run))
    assert "left" in notes(effects)
    assert not of(Move, effects)
    said = brain.tracked_sessions.of("ses_1", T).phrase
    assert said == "limited; a plain `opencode run` cannot be moved. Use: oc-smart run"
    look = brain.handle(Tick(), brain.next_wake())
    assert of(Probe, look)
    assert notes(feed(brain, seen(run), at=31)) == []
    assert brain.tracked_sessions.of("ses_1", T).phrase
    brain.handle(Tick(), brain.next_wake())
    assert feed(brain, Probed("ses_1", A, (), 1), at=62) == []
    assert brain.tracked_sessions.of("ses_1", T).phrase == ""
    assert brain.next_wake() is None


def test_a_run_that_oc_smart_has_started_is_left_to_it():
    brain = engine()
    run = replace(DOOR, run=True, launched=True)
    effects = feed(brain, refused(), seen(retrying(endpoint=run)))
    assert not of(Move, effects)
    phrase = brain.tracked_sessions.of("ses_1", T).phrase
    assert phrase == fields("left", effects)["why"] == "oc-smart has started it, and handles its limits"
    moved = retrying(20, model=B, state=SessionState.BUSY, answer="msg_3", answer_began=True, endpoint=run)
    brain.handle(Tick(), brain.next_wake())
    feed(brain, seen(moved), at=31)
    assert brain.tracked_sessions.of("ses_1", T).phrase == "working"


def test_at_the_cap_it_looks_again_when_the_first_move_of_the_hour_is_an_hour_old():
    brain = engine(replace(POLICY, moves_per_hour=2))
    (first,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(first, MoveResult.MOVED), at=1)
    (second,) = of(Move, feed(brain, refused(600, B), seen(retrying(600, model=B, user_message="msg_9")), at=600))
    feed(brain, end(second, MoveResult.FAILED, retrying(600, model=B)), at=601)
    assert brain.next_wake() == pytest.approx(T + 3600, abs=1)


def test_nobody_looks_again_at_a_session_after_a_move_during_which_nothing_came():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    working = retrying(1, model=B, state=SessionState.BUSY, answer="msg_3", answer_began=True)
    feed(brain, end(move, MoveResult.MOVED, working), at=1)
    assert len(of(Probe, feed(brain, heard(2), at=2))) == 1
    assert of(Probe, feed(brain, seen(working), at=2.1)) == []


def test_a_limit_that_an_endpoint_shows_is_none_of_a_title_request():
    effects = feed(engine(), heard(), seen(failed()))
    assert fields("limit", effects)["small"] is False


def test_a_limited_run_that_is_left_alone_is_looked_at_again_half_a_minute_later():
    brain = engine()
    feed(brain, refused(), seen(retrying(endpoint=replace(DOOR, run=True))))
    assert brain.next_wake() == pytest.approx(T + 0.2 + 30)
