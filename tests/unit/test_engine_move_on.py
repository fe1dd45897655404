"""What else a turn is moved for: only what the configuration names, only after a repeat, and never as a strike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import LONGEST_PAUSE
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import Cause, ErrorDetails, LimitKind, Scope, Verdict
from ocwatchd.core.domain.types import Certainty as Sure
from ocwatchd.core.engine.messages import FellSilent, Move, Notify
from ocwatchd.core.policy import Mode
from tests.unit.brain import POLICY, A, B, C, T, end, engine, failed, feed, fields, notes, of, refused, retrying, seen

ALL = replace(POLICY, move_on=frozenset(Cause))
ERRORS = {
    Cause.SERVER_ERROR: ErrorDetails("Bad Gateway", "APIError", status=502),
    Cause.NOT_FOUND: ErrorDetails("The model does not exist", "APIError", status=404),
    Cause.AUTH: ErrorDetails("Incorrect API key provided", "APIError", status=401),
}
OTHERS = tuple(ERRORS)


def retried(attempt, words="Bad Gateway", wait=None, at=0.1, **more):
    return retrying(at, wait=at + 2.0**attempt if wait is None else wait, attempt=attempt, message=words, **more)


@pytest.mark.parametrize("cause", OTHERS)
def test_a_turn_that_failed_is_run_again_first_and_then_moved_without_a_strike(cause):
    brain = engine(ALL)
    (again,) = of(Move, feed(brain, seen(failed(error=ERRORS[cause]))))
    assert (again.order.target.model, again.order.cause, again.order.stalled) == (A, cause, False)
    assert brain.cooldowns.entries() == ()
    told = of(Notify, feed(brain, end(again, MoveResult.MOVED, retrying(state=SessionState.BUSY)), at=1))
    assert told[0].text == "p/a had failed, and the turn was run again on it"
    effects = feed(brain, seen(failed(2.0, error=ERRORS[cause], answer="msg_3")), at=2)
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.failing) == (B, True)
    assert fields("claim", effects)["why"].startswith("p/a fails: ")
    entry = brain.cooldowns.cooling(A, T + 3)
    assert (entry.strikes, entry.until, entry.rule) == (0, T + 2 + LONGEST_PAUSE, f"move-on:{cause.value}")


@pytest.mark.parametrize("cause", OTHERS)
def test_by_default_nothing_but_limits_and_stalls_moves_a_turn(cause):
    brain = engine()
    for at in (0.1, 1.0, 2.0):
        assert of(Move, feed(brain, seen(failed(at, error=ERRORS[cause])), at=at)) == []
    for attempt in range(1, 9):
        assert of(Move, feed(brain, seen(retried(attempt, wait=2.0)))) == []
    assert brain.cooldowns.entries() == ()


def test_a_second_run_that_fails_at_once_moves_the_turn_too():
    brain = engine(ALL)
    (again,) = of(Move, feed(brain, seen(failed(error=ERRORS[Cause.AUTH]))))
    over = failed(1.0, error=ERRORS[Cause.AUTH], answer="msg_3")
    (move,) = of(Move, feed(brain, end(again, MoveResult.FAILED, over), at=1))
    assert move.order.target.model == B
    assert brain.cooldowns.cooling(A, T + 3).strikes == 0


def test_the_retry_of_opencode_is_the_repeat():
    brain = engine(ALL)
    assert of(Move, feed(brain, seen(retried(1)))) == []
    (move,) = of(Move, feed(brain, seen(retried(2, at=3.0)), at=3))
    assert (move.order.target.model, move.order.cause) == (B, Cause.SERVER_ERROR)


def test_a_wait_that_is_longer_than_max_delay_has_no_repeat_to_wait_for():
    brain = engine(ALL)
    (move,) = of(Move, feed(brain, seen(retried(1, wait=1_900_000.0))))
    assert move.order.target.model == B
    assert brain.cooldowns.cooling(A, T + 3).until <= T + 1 + LONGEST_PAUSE


@pytest.mark.parametrize("times", [0, 3])
def test_how_often_the_same_model_is_tried_first_is_configured(times):
    brain = engine(replace(ALL, same_first={Cause.SERVER_ERROR: times}))
    assert [len(of(Move, feed(brain, seen(retried(attempt))))) for attempt in range(1, times + 1)] == [0] * times
    assert len(of(Move, feed(brain, seen(retried(times + 1))))) == 1


@pytest.mark.parametrize(
    "error",
    [
        ErrorDetails("prompt is too long: 210000 tokens", "APIError", status=400),
        ErrorDetails("Invalid schema for function 'bash'", "APIError", status=400),
        ErrorDetails("the user stopped it", "MessageAbortedError"),
        ErrorDetails("nobody knows these words", "UnknownError"),
    ],
)
def test_an_error_that_another_model_would_answer_with_too_moves_nothing(error):
    brain = engine(ALL)
    for at in (0.1, 1.0, 2.0):
        assert of(Move, feed(brain, seen(failed(at, error=error)), at=at)) == []


def test_an_old_failure_and_a_subagent_are_left_alone():
    brain = engine(ALL)
    assert of(Move, feed(brain, seen(replace(failed(61.5, error=ERRORS[Cause.AUTH]), answer_ended=T)), at=62)) == []
    assert of(Move, feed(brain, seen(failed(error=ERRORS[Cause.AUTH], parent="ses_0")))) == []
    asked = engine(replace(ALL, mode=Mode.ASK))
    assert of(Move, feed(asked, seen(failed(error=ERRORS[Cause.AUTH])))) == []


def test_with_no_other_model_opencode_goes_on_alone():
    brain = engine(replace(ALL, chains={}))
    for attempt in range(1, 6):
        assert of(Move, feed(brain, seen(retried(attempt)))) == []
    assert brain.cooldowns.entries() == ()


def test_each_kind_of_limit_can_be_left_to_opencode():
    overloaded = Verdict(Sure.SURE, LimitKind.OVERLOADED, Scope.MODEL, "overloaded")
    for cause, verdict, words in (
        (Cause.LIMIT, None, None),
        (Cause.OVERLOAD, overloaded, "Provider is overloaded"),
    ):
        news = refused() if verdict is None else refused(verdict=verdict, reason=words)
        shown = retrying() if words is None else retrying(message=words)
        brain = engine(replace(ALL, move_on=ALL.move_on - {cause}))
        effects = feed(brain, news, seen(shown))
        assert of(Move, effects) == []
        assert "moveOn" in fields("left", effects)["why"]
        assert brain.cooldowns.cooling(A, T + 1) is not None, "new prompts avoid it all the same"
        assert len(of(Move, feed(engine(replace(ALL, move_on=frozenset({cause}))), news, seen(shown)))) == 1


def test_a_stall_that_is_not_named_is_not_looked_for():
    brain = engine(replace(POLICY, move_on=frozenset({Cause.LIMIT})))
    assert brain.context.stall_after("p/a") is None
    busy = retrying(state=SessionState.BUSY, attempt=None, next_at=None, message="", silence=99_999.0)
    for at in (0.2, 1.2):
        assert notes(feed(brain, FellSilent("ses_1"), seen(replace(busy, silence=busy.silence + at)), at=at)) == []


def test_a_fallback_that_fails_the_same_way_is_left_for_the_next():
    brain = engine(ALL)
    (move,) = of(Move, feed(brain, seen(retried(2))))
    feed(brain, end(move, MoveResult.MOVED, retrying(state=SessionState.BUSY, model=B, answer="msg_3")), at=1)
    (onwards,) = of(
        Move, feed(brain, seen(failed(5.0, error=ERRORS[Cause.SERVER_ERROR], model=B, answer="msg_4")), at=5)
    )
    assert onwards.order.target.model == C


# ---- frozen by OpenCode's own retry


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (retried(1, wait=1_814_400.0), "waits 21d before"),
        (retried(1, wait=1200.0), "waits 20m before"),
        (retried(8, "Connection refused", wait=30.0), "failed 8 times in a row"),
    ],
)
def test_a_wait_without_end_and_without_a_limit_is_shown_with_the_command_and_enters_nothing(shown, words):
    brain = engine()
    effects = feed(brain, seen(shown))
    assert of(Move, effects) == []
    assert words in fields("frozen", effects)["why"]
    assert of(Notify, effects)[0].text.endswith("ocwatch redirect ses_1")
    tracked = brain.tracked_sessions.known("ses_1")
    assert tracked.phrase == "frozen, although no limit is known: ocwatch redirect ses_1"
    assert brain.cooldowns.entries() == ()
    again = feed(brain, seen(replace(shown, seen=shown.seen + 60, attempt=shown.attempt + 1)), at=60)
    assert (notes(again), of(Notify, again)) == ([], []), "once"


def test_an_ordinary_retry_is_not_frozen():
    brain = engine()
    assert notes(feed(brain, seen(retried(7, "Connection refused", wait=30.0)))) == ["doubtful"]
    assert "ocwatch" not in brain.tracked_sessions.known("ses_1").phrase
    off = engine(replace(POLICY, mode=Mode.OFF))
    assert of(Notify, feed(off, seen(retried(9, wait=1_814_400.0)))) == []


def test_where_move_on_names_it_a_frozen_session_is_moved():
    brain = engine(ALL)
    assert [move.order.target.model for move in of(Move, feed(brain, seen(retried(8, wait=1_814_400.0))))] == [B]
