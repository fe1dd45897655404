"""Tests of turns without a free model: they wait, and run again once when their model is free or cleared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ErrorDetails, Hint, ResetSource, Target
from ocwatchd.core.engine.decide import GONE_TIMEOUT
from ocwatchd.core.engine.messages import BlacklistChanged, Move, Note, Probe, Probed, SaveBlacklist, Tick
from ocwatchd.core.engine.parking import MAX_JITTER
from ocwatchd.core.engine.session import LimitedTurn, ParkedTurn
from ocwatchd.core.policy import Mode, Policy
from tests.unit.brain import LIMITED, POLICY, A, B, C, T, end, engine, failed, feed, notes, of, refused, retrying, seen

ALONE = Policy(chains={})
HOURS = 5 * 3600.0
GAVE_UP = ErrorDetails(message=LIMITED, status=429, name="APIError")
IDLE = {"state": SessionState.IDLE, "attempt": None, "next_at": None, "answer_completed": True}
STOPPED = ErrorDetails(name="MessageAbortedError")


def hint(at):
    return Hint(T + at, at, ResetSource.TEXT, "in words")


def parked(policy=ALONE, wait=HOURS, **more):
    """Return an engine whose only session waits for A, with a reset time from the text; OpenCode has given up on it."""
    brain = engine(policy, **more)
    feed(brain, refused(hint=hint(wait)), seen(retrying(wait=4.0, attempt=2)))
    feed(brain, seen(failed(70, GAVE_UP)), at=70)
    return brain


def at_reset(brain, wait=HOURS):
    """Return the effects at the moment after A's return, when its session is to be probed."""
    at = brain.next_wake()
    assert at is not None
    assert wait <= at - T < wait + 1 + MAX_JITTER
    assert of(Probe, brain.handle(Tick(), at)) == [Probe("ses_1", None)]
    return at


def targets(effects):
    return [move.order.target.model for move in of(Move, effects)]


def test_what_opencode_has_given_up_is_run_again_once_at_the_reset():
    brain = parked()
    at = at_reset(brain)
    (move,) = of(Move, brain.handle(seen(failed(70, GAVE_UP)), at))
    assert (move.order.target.model, move.order.snapshot.session) == (A, "ses_1")
    brain.handle(end(move, MoveResult.MOVED, retrying(at - T, state=SessionState.BUSY, answer="msg_3")), at + 1)
    assert brain.next_wake() is None
    assert of(Move, brain.handle(seen(failed(70, GAVE_UP)), at + 2)) == [], "once"


def test_refused_again_it_waits_again_for_as_long_as_it_is_told():
    brain = parked()
    at = at_reset(brain)
    (move,) = of(Move, brain.handle(seen(failed(70, GAVE_UP)), at))
    again = retrying(at - T, wait=at - T + 7200, answer="msg_3")
    waits = brain.handle(end(move, MoveResult.TARGET_LIMITED, again), at)
    assert (targets(waits), "parked" in notes(waits)) == ([], True)
    assert 7200 <= brain.next_wake() - at < 7201 + MAX_JITTER


@pytest.mark.parametrize(
    "now",
    [
        {"answer": "msg_4"},  # the user has sent another prompt, which has failed as well
        IDLE,  # it was answered
        {"last_error": STOPPED},
        {"endpoint": replace(retrying().endpoint, pid=2)},  # opened again in another OpenCode
    ],
)
def test_whoever_went_on_or_stopped_it_is_left_alone(now):
    brain = parked()
    at = at_reset(brain)
    ended = brain.handle(seen(replace(failed(70, ErrorDetails("broken", "UnknownError")), **now)), at)
    assert of(Move, ended) == []
    assert {"unparked", "stopped"} & set(notes(ended))
    assert brain.next_wake() is None


def test_a_retry_of_opencodes_own_that_is_near_is_left_to_it_and_a_far_one_is_not():
    for next_at, wanted in ((HOURS + 5, []), (HOURS + 900, [A])):
        brain = engine(ALONE)
        feed(brain, refused(hint=hint(HOURS)), seen(retrying(wait=4.0, attempt=2)))
        waits = retrying(HOURS - 100, wait=next_at, attempt=10)  # as 1.3.2 waits, which never gives up
        feed(brain, seen(waits), at=HOURS - 100)
        at = at_reset(brain)
        assert targets(brain.handle(seen(replace(waits, seen=at)), at)) == wanted


def test_what_works_at_the_reset_is_looked_at_until_it_is_known_what_comes_of_it():
    brain = parked()
    at = at_reset(brain)
    busy = retrying(at - T, state=SessionState.BUSY, attempt=None, next_at=None)
    assert of(Move, brain.handle(seen(busy), at)) == []
    assert brain.next_wake() is not None
    brain.handle(Tick(), brain.next_wake())
    assert targets(brain.handle(seen(failed(at - T + 5, GAVE_UP)), at + 6)) in ([], [A])


def test_with_a_chain_whatever_returns_first_takes_it():
    brain = engine(POLICY)
    for model, wait in ((B, 1800), (C, 7200)):
        feed(brain, refused(model=model, session="ses_2", hint=hint(wait)))
    feed(brain, refused(hint=hint(HOURS)), seen(failed(70, GAVE_UP)), at=70)
    at = at_reset(brain, 1800)
    assert targets(brain.handle(seen(failed(70, GAVE_UP)), at)) == [B]


@pytest.mark.parametrize("policy", [POLICY, ALONE])
@pytest.mark.parametrize("cleared", [(A,), (A, B, C)])
@pytest.mark.parametrize("gave_up", [True, False])
def test_what_a_person_clears_is_run_again_there_however_long_ago_it_was_refused(policy, cleared, gave_up):
    brain = engine(policy)
    for model in (B, C):
        feed(brain, refused(model=model, session="ses_2", hint=hint(HOURS)))
    feed(brain, refused(hint=hint(HOURS)), seen(retrying(wait=HOURS)))
    shown = failed(70, GAVE_UP) if gave_up else retrying(70, wait=HOURS)
    feed(brain, seen(shown), at=70)
    left = [entry for entry in brain.cooldowns.entries() if entry.model not in cleared]
    looked = brain.handle(BlacklistChanged(tuple(left), T + 900), T + 900)
    assert Probe("ses_1", None) in looked
    shown = replace(shown, seen=T + 900.3)
    freed = brain.handle(seen(shown), T + 900.3)
    assert (targets(freed), of(SaveBlacklist, freed)) == ([A], []), "and it is not entered again"


def test_a_session_that_nobody_knew_of_is_found_when_its_model_is_cleared():
    brain = engine(cooldowns=(cooldowns := Cooldowns()))
    feed(brain, refused(live=False, hint=hint(HOURS)))  # an old limit
    assert cooldowns.cooling(A, T) is not None
    assert Probe(None, None) in brain.handle(BlacklistChanged((), T + 600), T + 600)
    found = Probed(None, None, (retrying(600.2, wait=HOURS), retrying(600.2, model=B, session="ses_2")), 1)
    effects = brain.handle(found, T + 600.3)
    assert [(m.order.session, m.order.target.model) for m in of(Move, effects) if m.order.session == "ses_1"] == [
        ("ses_1", A)
    ]
    assert cooldowns.cooling(A, T + 600.3) is None


def test_a_failed_turn_is_run_again_if_its_model_is_cleared_before_anyone_has_looked():
    brain = engine(ALONE)
    feed(brain, refused())
    brain.handle(BlacklistChanged((), T + 1), T + 1)
    assert targets(brain.handle(seen(failed(2, GAVE_UP)), T + 2)) == [A]


@pytest.mark.parametrize("mode", [Mode.ASK, Mode.NOTIFY, Mode.OFF])
def test_where_a_person_decides_nothing_is_run_again_unasked(mode):
    brain = parked(replace(ALONE, mode=mode))
    brain.handle(BlacklistChanged((), T + 900), T + 900)
    assert of(Move, brain.handle(seen(failed(70, GAVE_UP, seen=T + 901)), T + 901)) == []


def test_a_later_run_of_the_daemon_takes_it_up_whether_the_reset_is_to_come_or_past():
    before = parked()
    (note,) = [note for note in of(Note, feed(engine(ALONE), refused(hint=hint(HOURS)), seen(failed())))
               if note.what == "parked"]  # fmt: skip
    assert (note.durable, note.fields["answer"], note.fields["until"]) == (True, "msg_2", T + HOURS)
    turn = LimitedTurn(A, "msg_2", 1)
    for later, looks in ((60.0, []), (HOURS + 3600, [Probe("ses_1", None)])):
        brain = engine(ALONE, Cooldowns(before.cooldowns.entries()))
        assert brain.recall_parked("ses_1", ParkedTurn(turn, T + HOURS, T), T + later) == looks
        at = T + later if looks else at_reset(brain)
        assert targets(brain.handle(seen(failed(70, GAVE_UP)), at)) == [A]


def test_a_session_that_was_moved_before_goes_back_to_where_it_came_from_in_a_later_run_too():
    before = engine(POLICY)
    for model, wait in ((A, 1800), (C, HOURS)):
        feed(before, refused(model=model, session="ses_2", hint=hint(wait)))
    (move,) = of(Move, feed(before, refused(hint=hint(1800)), seen(failed(1, GAVE_UP)), at=1))
    spent = failed(2, GAVE_UP, model=B, answer="msg_3")
    waits = feed(before, end(move, MoveResult.FAILED, spent), at=2)
    assert "parked" in notes(waits), "a limit that OpenCode does not retry is a limit of the target, not its failure"
    assert before.cooldowns.cooling(B, T + 2) is not None
    turn = LimitedTurn(B, "msg_3", 1, Target(A, "build"))
    (note,) = [note for note in of(Note, waits) if note.what == "parked"]
    assert note.fields["origin"] == {"model": "p/a", "agent": "build"}
    brain = engine(POLICY, Cooldowns(before.cooldowns.entries()))
    brain.recall_parked("ses_1", ParkedTurn(turn, T + 60, T), T + 3)
    at = brain.next_wake()
    assert of(Probe, brain.handle(Tick(), at))
    later = brain.handle(seen(replace(spent, seen=T + 1800)), T + 1801)
    assert targets(later) == [A]


def test_a_model_that_was_cleared_while_no_daemon_ran_is_run_again_at_the_start():
    brain = engine(ALONE)
    brain.cooldowns.lift({A: T + 30})
    assert brain.recall_parked("ses_1", ParkedTurn(LimitedTurn(A, "msg_2", 1), T + HOURS, T), T + 60)
    assert targets(brain.handle(seen(failed(70, GAVE_UP)), T + 61)) == [A]


def test_it_is_not_forgotten_however_long_it_waits_and_is_dropped_with_its_opencode():
    week = 7 * 86400.0
    brain = parked(wait=week)
    brain.handle(Tick(), T + 86400)
    at = at_reset(brain, week)
    reset, gone = at, notes(brain.handle(Probed("ses_1", None, (), 0), at))
    while (wake := brain.next_wake()) is not None:
        at = wake
        brain.handle(Tick(), at)
        gone += notes(brain.handle(Probed("ses_1", None, (), 0), at))
    assert gone[-1] == "unparked"
    assert GONE_TIMEOUT <= at - reset < GONE_TIMEOUT + 120
    assert brain.next_wake() is None


def test_a_target_that_fails_the_session_is_not_tried_again_and_again():
    brain = parked()
    at = at_reset(brain)
    (move,) = of(Move, brain.handle(seen(failed(70, GAVE_UP)), at))
    broken = failed(at - T, ErrorDetails("no such thing", "APIError", status=400), answer="msg_3")
    after = brain.handle(end(move, MoveResult.FAILED, broken), at)
    assert (of(Move, after), brain.next_wake()) == ([], None)
