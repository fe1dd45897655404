"""Tests of models that stop sending: run again on the same model, then on the fallback; and of what is no stall."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import LONGEST_PAUSE, Cooldowns
from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.snapshot import RunningTool, SessionState
from ocwatchd.core.domain.streams import (
    DEFAULT_PATIENCE,
    MAX_PATIENCE,
    MAX_PATIENCE_2,
    MIN_PATIENCE,
    StreamGaps,
    learned_patience,
)
from ocwatchd.core.domain.types import Cause, Target
from ocwatchd.core.engine.guards import forbidden
from ocwatchd.core.engine.messages import (
    AnsweredNothing,
    FellSilent,
    GapsLearned,
    Move,
    Notify,
    Probe,
    Probed,
    SaveBlacklist,
    Tick,
)
from ocwatchd.core.policy import Mode, StallPolicy
from tests.unit.brain import DOOR, POLICY, A, B, C, T, end, engine, feed, fields, notes, of, refused, retrying, seen

SILENT = FellSilent("ses_1")
LIMIT = 20.0
SET = replace(POLICY, stall=StallPolicy(after=LIMIT))


def working(silence=LIMIT, at=0.1, model=A, **more):
    shown = {"state": SessionState.BUSY, "attempt": None, "next_at": None, "message": "", "silence": silence}
    return retrying(at, model=model, **{**shown, **more})


def stalls(brain, at=0.2, **more):
    """Show the session as silent twice, which is needed for a stall, and return the effects."""
    first = feed(brain, SILENT, seen(working(at=at, **more)), at=at)
    assert of(Move, first) == []
    return first + feed(brain, Tick(), seen(working(LIMIT + 1, at + 1, **more)), at=at + 1)


def test_it_is_run_again_on_its_own_model_first_then_moved_with_a_short_cooldown_and_no_strike():
    brain = engine(SET)
    effects = stalls(brain)
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.stalled, move.order.failing) == (A, True, False)
    assert notes(effects) == ["stalled", "claim"]
    assert fields("claim", effects)["why"] == "p/a has sent nothing for 21s"
    assert brain.cooldowns.cooling(A, T + 2) is None
    ended = feed(brain, end(move, MoveResult.MOVED, working(0.0, answer="msg_3")), at=2)
    assert "stopped sending" in of(Notify, ended)[0].text
    again = stalls(brain, at=30, answer="msg_3")
    (move,) = of(Move, again)
    assert (move.order.target.model, move.order.stalled, move.order.failing) == (B, True, True)
    entry = brain.cooldowns.cooling(A, T + 32)
    assert (entry.strikes, entry.paused, entry.until) == (0, True, T + 31 + LONGEST_PAUSE)
    assert entry.target.model == B
    assert [save.changed[0].model for save in of(SaveBlacklist, again)][:1] == [A]
    told = of(Notify, feed(brain, end(move, MoveResult.MOVED, working(0.0, model=B, answer="msg_4")), at=32))
    assert told[0].text == "p/a has stalled: p/b continues"


def test_a_fallback_that_stalls_is_tried_again_and_left_for_the_next_one():
    brain = engine(replace(SET, stall=StallPolicy(after=LIMIT, retry_same=0)))
    for at, model, target in ((0, A, B), (30, B, C)):
        (move,) = of(Move, stalls(brain, at=at, model=model, answer=f"msg_{at + 2}"))
        assert move.order.target.model == target
        feed(brain, end(move, MoveResult.MOVED, working(0.0, model=target, answer=f"msg_{at + 3}")), at=at + 2)


def test_silence_has_to_be_seen_twice_and_longer_the_second_time():
    brain = engine(SET)
    assert feed(brain, SILENT) == [Probe("ses_1", None)]
    assert feed(brain, seen(working())) == []
    assert brain.next_wake() is not None
    # it sends again, or another step has begun
    assert of(Move, feed(brain, Tick(), seen(working(0.1, 1.0)), at=1)) == []
    assert of(Move, feed(brain, SILENT, seen(working(LIMIT, 30.0)), at=30)) == []
    assert of(Move, feed(brain, Tick(), seen(working(LIMIT, 31.0, answer="msg_9")), at=31)) == []


@pytest.mark.parametrize(
    "more",
    [
        {"running": (RunningTool("bash"),)},
        {"running": (RunningTool("task", "ses_2"),)},
        {"running": (RunningTool("write", pending=True), RunningTool("bash"))},
        {"asking": True},
        {"background": ("ses_2",)},
        {"compacting": True},
        {"state": SessionState.RETRY, "attempt": 1, "next_at": T + 2, "message": "socket hang up"},
        {"state": SessionState.IDLE, "answer_completed": True},
        {"silence": None},
        {"silence": LIMIT - 1},
        {"user_message": None},
    ],
)
def test_what_takes_its_time_for_another_reason_has_not_stalled(more):
    brain = engine(SET)
    for at in (0.2, 1.2):
        shown = working(at=at, **{"silence": LIMIT + at, **more})
        assert of(Move, feed(brain, SILENT, seen(shown), at=at)) == []
    assert brain.cooldowns.entries() == ()


def test_a_call_that_is_still_being_written_runs_nothing():
    brain = engine(SET)
    (move,) = of(Move, stalls(brain, running=(RunningTool("write", pending=True),)))
    assert move.order.stalled
    learnt = engine(POLICY)
    feed(learnt, GapsLearned({"p/a": 1.0}))
    for at in (0.2, 1.2):
        shown = working(100 + at, at, running=(RunningTool("write", pending=True),))
        assert of(Move, feed(learnt, SILENT, seen(shown), at=at)) == [], "OpenCode shows nothing of a call's text"


def test_what_is_not_wanted_is_not_done():
    for policy in (replace(SET, stall=StallPolicy(enabled=False)), replace(SET, mode=Mode.OFF)):
        brain = engine(policy)
        assert notes(feed(brain, SILENT, seen(working(9999)), seen(working(10_000)))) == []
    for mode in (Mode.ASK, Mode.NOTIFY):
        brain = engine(replace(SET, mode=mode))
        effects = stalls(brain)
        assert of(Move, effects) == []
        assert len(of(Notify, effects)) == 1
        assert of(Notify, stalls(brain, at=5)) == [], "once"


def test_with_no_other_model_it_is_run_again_a_few_times_and_then_left():
    brain = engine(replace(SET, chains={}))
    moves = []
    for number in range(6):
        effects = stalls(brain, at=number * 30, answer=f"msg_{number}")
        moves += of(Move, effects)
        for move in of(Move, effects):
            feed(brain, end(move, MoveResult.MOVED, working(0.0, answer=f"msg_{number + 1}")), at=number * 30 + 2)
    assert [move.order.target.model for move in moves] == [A, A, A]
    assert brain.cooldowns.cooling(A, T + 200) is None


def test_a_limited_model_that_stalls_is_left_at_once():
    brain = engine(SET)
    feed(brain, refused(session="ses_9"))
    (move,) = of(Move, stalls(brain))
    assert move.order.target.model == B


def test_another_prompt_begins_anew():
    brain = engine(SET)
    (move,) = of(Move, stalls(brain))
    feed(brain, end(move, MoveResult.MOVED, working(0.0, answer="msg_3")), at=2)
    (move,) = of(Move, stalls(brain, at=30, user_message="msg_5", answer="msg_6"))
    assert move.order.target.model == A


def test_a_run_is_told_that_it_has_stalled():
    brain = engine(SET)
    effects = stalls(brain, endpoint=replace(DOOR, run=True))
    assert of(Move, effects) == []
    assert fields("left", effects)["why"].startswith("stalled; a plain `opencode run`")


def test_a_stalled_run_of_opencode_2_is_left_and_its_user_notified_once():
    brain = engine(SET)
    effects = stalls(brain, belongs_to_run=True, switchable=True)
    assert of(Move, effects) == []
    assert "`opencode run` would end without an answer" in fields("left", effects)["why"]
    assert len(of(Notify, effects)) == 1


def test_a_stalled_subagent_has_its_parent_run_again():
    brain = engine(SET)
    child = {"session": "ses_2", "parent": "ses_1"}
    parent = working(1.0, running=(RunningTool("task", "ses_2"),))

    def shown(at):
        snapshot = working(LIMIT + at, at, **child)
        return Probed("ses_2", A, (snapshot,), 1, (replace(parent, seen=T + at),))

    feed(brain, FellSilent("ses_2"), shown(0.2))
    (move,) = of(Move, feed(brain, Tick(), shown(1.2), at=1.2))
    assert (move.order.snapshot.session, move.order.child, move.order.target.model) == ("ses_1", "ses_2", A)
    assert move.order.silence == LIMIT + 1.2, "the subagent's own, which shows whether it has continued"
    assert forbidden(move.order, parent, frozenset(), frozenset({"ses_1"})) is None
    two = replace(parent, running=(RunningTool("task", "ses_2"), RunningTool("bash")))
    assert forbidden(move.order, two, frozenset(), frozenset({"ses_1"})).result is MoveResult.REFUSED


def subagent_stalls(brain, child="ses_2", at=0.2, parent=None):
    """Show a subagent of `ses_1` as silent twice, and return the effects."""
    parent = parent or working(1.0, running=(RunningTool("task", child),))

    def shown(later):
        snapshot = working(LIMIT + later, later, session=child, parent="ses_1")
        return Probed(child, A, (snapshot,), 1, (replace(parent, seen=T + later),))

    return feed(brain, FellSilent(child), shown(at), at=at) + feed(brain, Tick(), shown(at + 1), at=at + 1)


def test_the_stalls_of_all_subagents_of_a_prompt_count_together():
    brain = engine(SET)
    (first,) = of(Move, subagent_stalls(brain))
    assert first.order.target.model == A
    feed(brain, end(first, MoveResult.MOVED), at=2.0)
    effects = subagent_stalls(brain, "ses_3", at=30.0)
    (second,) = of(Move, effects)
    assert (second.order.snapshot.session, second.order.child, second.order.target.model) == ("ses_1", "ses_3", B)
    assert brain.cooldowns.cooling(A, T + 32) is not None
    (other,) = of(Move, subagent_stalls(brain, "ses_4", 200.0, working(1.0, user_message="msg_new")))
    assert other.order.target.model == A, "the first stall of the next prompt"


def test_a_subagent_that_the_only_call_does_not_name_is_not_in_the_background():
    parent = working(1.0, running=(RunningTool("task"),), background=("ses_2",))
    (move,) = of(Move, subagent_stalls(engine(SET), parent=parent))
    assert (move.order.snapshot.session, move.order.child) == ("ses_1", "ses_2")
    assert forbidden(move.order, parent, frozenset(), frozenset({"ses_1"})) is None


def test_a_stalled_subagent_beside_others_in_the_background_is_told_once():
    parent = working(1.0, running=(RunningTool("task", "ses_2"),), background=("ses_9",))
    brain = engine(SET)
    effects = subagent_stalls(brain, parent=parent)
    assert (of(Move, effects), notes(effects)) == ([], ["stalled", "left"])
    assert fields("left", effects)["why"].startswith("stalled, but a subagent is working in the background")
    (notice,) = of(Notify, effects)
    assert notice.title == "p/a has stalled"
    again = subagent_stalls(brain, at=10.0, parent=parent)
    assert (of(Move, again), notes(again), of(Notify, again)) == ([], [], [])
    assert brain.cooldowns.cooling(A, T + 12) is None


def test_the_move_looks_again_before_it_stops_anything():
    order = Order(working(), Target(B), cause=Cause.STALL)
    assert forbidden(order, working()) is None
    assert forbidden(order, working(running=(RunningTool("write", pending=True),))) is None
    assert forbidden(order, working(running=(RunningTool("bash"),))).result is MoveResult.REFUSED
    assert forbidden(order, working(asking=True)).result is MoveResult.REFUSED
    assert forbidden(order, working(background=("ses_2",))).result is MoveResult.REFUSED
    assert forbidden(order, working(answer="msg_9")).result is MoveResult.ALREADY
    assert forbidden(order, working(compacting=True)).result is MoveResult.ALREADY
    assert forbidden(replace(order, cause=None), working()).result is MoveResult.ALREADY


def test_the_pause_of_a_model_moves_no_other_session_and_is_no_strike():
    cooldowns = Cooldowns()
    assert cooldowns.pause(A, 3600, T, "stall", "silent", "ses_9").until == T + LONGEST_PAUSE
    assert cooldowns.pause(A, 3600, T + 1, "stall", "silent", "ses_9") is None
    brain = engine(SET, cooldowns)
    shown = retrying(message="400: the prompt quotes a rate limit that it is about", wait=2.0)
    assert of(Move, feed(brain, seen(shown))) == []
    brain.handle(refused(at=1.0), T + 1)
    entry = cooldowns.cooling(A, T + 2)
    assert (entry.strikes, entry.paused) == (1, False)


# ---- how long a model may be silent


def test_the_time_is_learnt_from_good_answers_within_bounds():
    assert learned_patience(None) == DEFAULT_PATIENCE
    assert [learned_patience(gap) for gap in (0.5, 30.0, 5000.0)] == [MIN_PATIENCE, 120.0, MAX_PATIENCE]
    brain = engine(POLICY)
    assert brain.context.stall_after("p/a") == DEFAULT_PATIENCE
    feed(brain, GapsLearned({"p/a": 50.0}))
    assert (brain.context.stall_after("p/a"), brain.context.stall_after("p/b")) == (200.0, DEFAULT_PATIENCE)
    assert engine(SET).context.stall_after("p/a") == LIMIT
    assert brain.context.stall_after("p/b", 2) == MAX_PATIENCE_2, "OpenCode 2 ends the request soon after that"
    assert (brain.context.stall_after("p/a", 2), engine(SET).context.stall_after("p/a", 2)) == (200.0, LIMIT)


def test_one_odd_gap_is_forgotten_after_fifty_good_answers():
    gaps = StreamGaps()
    gaps.note("p/a", 200.0)
    for _ in range(49):
        gaps.note("p/a", 2.0)
    assert gaps.longest() == {"p/a": 200.0}
    gaps.note("p/a", 2.0)
    assert gaps.longest() == {"p/a": 2.0}
    assert StreamGaps(gaps.all()).longest() == gaps.longest()


# ---- answers that are cut off again and again


def cutting(steps=3, at=0.1, **more):
    return working(0.2, at, cut_steps=steps, **more)


def test_a_model_that_cuts_its_answers_off_is_left_after_three_in_a_row():
    brain = engine(SET)
    for steps in (0, 1, 2):
        assert of(Move, feed(brain, AnsweredNothing("ses_1", T), seen(cutting(steps)))) == []
    effects = feed(brain, AnsweredNothing("ses_1", T), seen(cutting()))
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.stalled, move.order.failing) == (B, True, True)
    assert fields("claim", effects)["why"] == "p/a has cut off its answer 3 times in a row"
    assert brain.cooldowns.cooling(A, T + 1).strikes == 0
    assert forbidden(move.order, cutting(4, answer="msg_9")) is None, "another one has begun meanwhile"
    assert forbidden(move.order, working(answer="msg_9")).result is MoveResult.ALREADY


def test_where_it_cannot_be_moved_its_user_is_notified_once():
    for policy in (
        replace(SET, chains={}),
        replace(SET, move_on=frozenset({Cause.LIMIT})),
        replace(SET, mode=Mode.NOTIFY),
    ):
        brain = engine(policy)
        effects = [effect for at in (0.2, 3.0) for effect in feed(brain, SILENT, seen(cutting(3 + int(at), at)), at=at)]
        assert of(Move, effects) == []
        assert len(of(Notify, effects)) == 1
    assert feed(engine(replace(SET, mode=Mode.OFF)), SILENT, seen(cutting()))[1:] == []


def test_a_connection_that_is_reset_in_the_middle_of_each_answer_is_the_same():
    brain = engine(SET)
    for attempt in (1, 2, 3):
        shown = retrying(message="Connection reset by server", wait=2.0**attempt, attempt=attempt, answer_spoke=True)
        effects = feed(brain, seen(shown))
        assert len(of(Move, effects)) == (attempt == 3)
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.stalled) == (B, True)
    before = retrying(message="Connection refused", wait=8.0, attempt=3)
    assert of(Move, feed(engine(SET), seen(before))) == [], "nothing was ever said: that is no answer cut off"
