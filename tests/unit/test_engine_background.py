"""Tests that a limited session waits for its background subagents, reports this once, and is then moved."""

from __future__ import annotations

import pytest

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import RunningTool, SessionState
from ocwatchd.core.engine.messages import Free, Move, Notify, Probe, Probed, Tick
from tests.unit.brain import A, B, T, end, engine, failed, feed, notes, of, refused, retrying, seen

CHILD = "ses_child"


def test_it_is_moved_once_they_have_ended() -> None:
    brain = engine()
    held = feed(brain, refused(), seen(retrying(background=(CHILD,))))
    assert (of(Move, held), notes(held)[-1], len(of(Notify, held))) == ([], "left", 1)
    for round_ in range(1, 40):
        at = brain.next_wake()
        assert at is not None
        assert at - T <= 2.3 * round_, "nothing tells when they end: so it is looked often"
        assert of(Probe, brain.handle(Tick(), at))
        again = brain.handle(seen(retrying(at - T, background=(CHILD,))), at)
        assert again == [], "said once"
    (tracked,) = brain.tracked_sessions.all()
    assert "a subagent is working in the background" in tracked.phrase
    done = brain.handle(seen(retrying(at - T, queued=1, user_message="msg_3")), at + 2)
    assert [move.order.target.model for move in of(Move, done)] == [B]


def test_a_turn_that_has_failed_needs_no_abort_and_is_run_again_at_once() -> None:
    assert of(Move, feed(engine(), refused(), seen(failed(background=(CHILD,)))))


@pytest.mark.parametrize(("background", "moved"), [((), True), ((CHILD,), False)])
def test_a_parent_that_would_be_moved_for_a_limited_subagent_waits_for_the_others(
    background: tuple[str, ...], moved: bool
) -> None:
    brain = engine()
    calls = (RunningTool("task", "ses_1"),)
    parent = retrying(
        session="ses_p", state=SessionState.BUSY, attempt=None, running=calls, background=background, model=A
    )
    found = Probed("ses_1", A, (retrying(parent="ses_p"),), 1, parents=(parent,))
    effects = feed(brain, refused(), found)
    assert bool(of(Move, effects)) is moved
    assert moved or brain.next_wake() is not None


def test_a_limited_subagent_is_not_stopped_over_subagents_of_its_own() -> None:
    brain = engine()
    parent = retrying(session="ses_p", state=SessionState.BUSY, attempt=None, model=B)
    child = retrying(parent="ses_p", background=("ses_grandchild",))
    assert of(Free, feed(brain, refused(), Probed("ses_1", A, (child,), 1, parents=(parent,)))) == []
    assert of(Free, feed(brain, Probed("ses_1", A, (retrying(parent="ses_p"),), 1, parents=(parent,)), at=3))


def test_a_move_that_was_held_back_at_the_last_moment_is_tried_again() -> None:
    """The subagent began between the probe and the move."""
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.REFUSED, retrying(), why="a subagent is working in the background"))
    at = brain.next_wake()
    assert at is not None
    assert of(Probe, brain.handle(Tick(), at))
    assert of(Move, brain.handle(seen(retrying(at - T)), at))


@pytest.mark.parametrize("what", [{"asking": True}, {"running": (RunningTool("bash"),)}])
def test_whatever_else_holds_a_move_back_is_looked_at_again(what: dict[str, object]) -> None:
    brain = engine()
    assert of(Move, feed(brain, refused(), seen(retrying(**what)))) == []
    at = brain.next_wake()
    assert at is not None
    brain.handle(Tick(), at)
    assert of(Move, brain.handle(seen(retrying(at - T)), at))
