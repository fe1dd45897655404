"""Tests of the engine with other endpoints and other plugins, with parent sessions, and with the plugin's facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState, UnixAddress
from ocwatchd.core.domain.types import Certainty, ErrorDetails, ResetSource
from ocwatchd.core.engine.decide import RECHECK
from ocwatchd.core.engine.messages import (
    Free,
    Move,
    Notify,
    Probe,
    Probed,
    Remember,
    SaveBlacklist,
    Tick,
    TroubleReported,
)
from tests.unit.brain import (
    DOOR,
    POLICY,
    SURE,
    A,
    B,
    C,
    T,
    end,
    engine,
    feed,
    heard,
    notes,
    of,
    refused,
    retrying,
    seen,
)


def test_back_to_where_it_came_from_if_the_target_is_limited_later():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying(wait=60))))
    feed(brain, end(move, MoveResult.MOVED))
    later = feed(brain, refused(100, model=B), seen(retrying(100, wait=3700, model=B)), at=100.1)
    assert [move.order.target.model for move in of(Move, later)] == [A]


@pytest.mark.parametrize("model", [A, C], ids=["its own model", "another model"])
def test_a_parent_that_does_not_wait_is_neither_moved_nor_told_anything(model):
    brain = engine()
    brain.handle(refused(), T)
    parent = retrying(session="ses_0", state=SessionState.IDLE, attempt=None, next_at=None, model=model)
    effects = brain.handle(Probed("ses_1", A, (retrying(parent="ses_0"),), 1, (parent,)), T + 0.1)
    assert (of(Move, effects), of(Free, effects)) == ([], [])
    assert "left" in notes(effects)


def test_a_subagent_is_freed_by_moving_its_parent():
    brain = engine()
    brain.handle(refused(), T)
    child = retrying(parent="ses_0")
    parent = retrying(session="ses_0", state=SessionState.BUSY, attempt=None, next_at=None)
    effects = brain.handle(Probed("ses_1", A, (child,), 1, (parent,)), T + 0.1)
    (move,) = of(Move, effects)
    assert (move.order.snapshot.session, move.order.child) == ("ses_0", "ses_1")
    own_model = replace(parent, model=C)
    brain = engine()
    brain.handle(refused(), T)
    effects = brain.handle(Probed("ses_1", A, (child,), 1, (own_model,)), T + 0.1)
    assert of(Free, effects) == [Free(child)]
    (told,) = of(Notify, effects)
    assert "a subagent on this model was stopped" in told.text, "its parent says only that a task was cancelled"
    assert of(Move, effects) == []


def test_a_limit_of_nobody_knows_which_session_is_looked_into_until_every_endpoint_has_answered():
    """A wait of hours is logged once: if the session's endpoint failed at that moment, no later event reports it."""
    brain = engine()
    effects = feed(brain, refused(session=None))
    assert of(Probe, effects) == [Probe(None, A)]
    failing = Probed(None, A, (), 1, failing=1)
    at = 0.2
    for pause in (3.0, 6.0, 12.0):
        assert feed(brain, failing, Tick(), at=at) == []
        assert brain.next_wake() == T + at + pause
        assert feed(brain, Tick(), at=at + pause - 0.1) == []
        at += pause
        assert feed(brain, Tick(), at=at) == [Probe(None, A)]
        assert feed(brain, Tick(), at=at) == []
    feed(brain, Probed(None, A, (), 2), at=at)
    assert brain.next_wake() is None


def working(at=0.1, **more):
    """The turn runs and its answer is empty: between two refusals of a loop, or before the first token."""
    return retrying(at, state=SessionState.BUSY, attempt=None, next_at=None, message="", **more)


def test_a_loop_that_only_the_event_stream_names_is_ended():
    """Beside a working session, an old log does not show whose refusals these are: 809 requests in 35 s on 1.3.2."""
    brain = engine()
    for number in range(7):
        effects = feed(brain, refused(number / 20, session=None), heard(number / 20), at=number / 20)
        assert of(Move, effects + feed(brain, seen(working()), at=number / 20)) == []
    feed(brain, heard(0.35), at=0.35)
    (move,) = of(Move, feed(brain, seen(working()), at=0.4))
    assert move.order.looping
    assert move.order.session == "ses_1"


def test_a_session_that_works_on_the_model_of_a_loop_is_left_alone():
    brain = engine()
    for number in range(20):
        feed(brain, refused(number / 20, session=None), at=number / 20)
    feed(brain, TroubleReported("ses_2", T + 1.0), at=1.0)
    assert of(Move, feed(brain, seen(working(session="ses_2"), "ses_2"), at=1.1)) == []


def test_many_attempts_at_one_answer_within_seconds_are_a_loop():
    """If neither log nor event stream names the session: OpenCode's own backoff needs 4 minutes for eight attempts."""
    for attempt, began, moves in ((8, 1.0, 1), (8, 200.0, 0), (7, 1.0, 0)):
        brain = engine(replace(POLICY, retry=replace(POLICY.retry, max_retries=99)))
        feed(brain, refused(session=None))
        shown = retrying(wait=0.2, attempt=attempt, answer_started=T - began)
        feed(brain, Probed(None, A, (shown,), 1))
        assert len(of(Move, feed(brain, heard(0.2), seen(working(0.2))))) == moves, (attempt, began)


def test_a_loop_in_words_that_nobody_knows_is_a_limit_all_the_same():
    brain = engine()
    unknown = replace(SURE, certainty=Certainty.UNKNOWN, kind=None, scope=None)
    for number in range(8):
        feed(brain, refused(number / 20, verdict=unknown, reason="nope"), at=number / 20)
    effects = feed(brain, seen(working(0.4)), at=0.4)
    assert [move.order.target.model for move in of(Move, effects)] == [B]
    assert brain.cooldowns.cooling(A, T + 1).reset_source is ResetSource.ESTIMATE


def test_what_one_endpoint_shows_is_acted_on_before_the_others_have_answered():
    brain = engine()
    feed(brain, refused(session=None))
    (move,) = of(Move, feed(brain, Probed(None, A, (retrying(),), 1, more=True)))
    assert move.order.session == "ses_1"
    assert feed(brain, refused(0.1, session=None), at=0.3)[-1:] != [Probe(None, A)], "the look is still under way"


def test_a_subagent_with_a_model_of_its_own_is_sent_anew_where_the_plugin_prevents():
    """Once per prompt: if the next subagent were limited too, the parent would be run again endlessly."""
    plugins = replace(DOOR, address=UnixAddress("/doors/1.sock"))
    brain = engine()
    brain.handle(refused(), T)
    child = retrying(parent="ses_0", endpoint=plugins)
    parent = retrying(session="ses_0", state=SessionState.BUSY, attempt=None, next_at=None, model=C, endpoint=plugins)
    effects = brain.handle(Probed("ses_1", A, (child,), 1, (parent,)), T + 0.1)
    (move,) = of(Move, effects)
    order = move.order
    assert (order.snapshot.session, order.target.model, order.child, order.origin) == ("ses_0", C, "ses_1", A)
    done = feed(brain, end(move, MoveResult.MOVED, replace(parent, answer_began=True)), at=1.0)
    assert of(Remember, done) == [], "it stays on the model that it had"
    another = replace(child, session="ses_2")
    feed(brain, refused(2.0, session="ses_2"), at=2.0)
    effects = brain.handle(Probed("ses_2", A, (another,), 1, (parent,)), T + 2.1)
    assert (of(Move, effects), of(Free, effects)) == ([], [Free(another)])


def test_what_oc_smart_has_moved_did_not_go_on_with_the_same_model():
    """The daemon leaves a run to `oc-smart`, and sees the answer half a minute later: `report` showed nothing saved."""
    run = replace(DOOR, run=True)
    for answered_by, told in ((B, []), (A, ["went_on"])):
        brain = engine()
        assert notes(feed(brain, refused(), seen(retrying(endpoint=run))))[-1] == "left"
        done = {"state": SessionState.IDLE, "attempt": None, "next_at": None, "answer_completed": True}
        shown = retrying(30, model=answered_by, endpoint=run, answer_ended=T - 1, **done)
        assert notes(feed(brain, Tick(), seen(shown), at=30.2)) == told


def test_a_session_that_no_door_leads_to_is_told_of():
    brain = engine()
    nobody = Probed("ses_1", A, (), 0)
    effects = feed(brain, refused(), nobody)
    for expected in (["limit", "unanswered"], []):  # an endpoint that hangs once is not gone; it is reported once
        assert notes(effects) == expected
        effects = brain.handle(Tick(), brain.next_wake()) + feed(brain, nobody, at=10)
    assert notes(effects) == ["unreachable"]
    assert len(of(Notify, effects)) == 1


def test_what_only_a_door_told_of_is_looked_at_again_too():
    brain = engine()
    effects = feed(brain, TroubleReported("ses_1", T), Probed("ses_1", None, (), 0, failing=1))
    assert notes(effects) == ["unanswered"]
    assert effects[-1].fields["why"] == "OpenCode does not respond; ocwatchd tries again"
    assert brain.next_wake() == T + 0.2 + RECHECK
    assert brain.handle(Tick(), T + 4) == [Probe("ses_1", None)]


def test_at_rest_behind_one_door_it_may_run_behind_another():
    brain = engine()
    resting = retrying(state=SessionState.IDLE, attempt=None, next_at=None, answer_completed=False)
    elsewhere = replace(seen(resting), failing=1)
    effects = feed(brain, refused(), elsewhere)
    assert notes(effects) == ["limit", "unanswered"]
    assert brain.handle(Tick(), brain.next_wake()) == [Probe("ses_1", A)]
    assert len(of(Move, feed(brain, seen(retrying()), at=4))) == 1
    for settled in (replace(seen(replace(resting, answer_completed=True)), failing=1),):
        brain = engine()
        assert notes(feed(brain, refused(), settled)) in (["limit"], ["limit", "went_on"])
        assert brain.next_wake() is None
    brain = engine()
    feed(brain, refused(), elsewhere)
    for wait in (4, 8):
        feed(brain, Tick(), elsewhere, at=wait)
    assert brain.next_wake() is None  # no other plugin is at work after all


def test_a_door_that_fails_is_not_the_targets_fault():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    assert of(Move, feed(brain, end(move, MoveResult.FAILED))) == []
    brain.handle(Tick(), brain.next_wake())
    (again,) = of(Move, feed(brain, seen(retrying(4)), at=4))
    assert again.order.target.model == B


def test_what_went_on_by_itself_is_not_announced_as_moved():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    assert of(Notify, feed(brain, end(move, MoveResult.ALREADY))) == []


def test_a_door_that_tells_of_a_retry_is_as_good_as_the_log_and_one_limit_with_it():
    brain = engine()
    assert feed(brain, TroubleReported("ses_1", T)) == [Probe("ses_1", None)]
    (move,) = of(Move, feed(brain, seen(retrying())))
    assert move.order.target.model == B
    feed(brain, refused(0.0), at=0.9)  # the same limit from the log, later
    assert brain.cooldowns.cooling(A, T + 1).strikes == 1


def test_the_plugins_status_and_header_settle_what_words_cannot():
    brain = engine()
    limited = ErrorDetails(status=429, headers={"retry-after": "120"})
    effects = feed(brain, heard(facts=limited), seen(retrying(wait=120, message="今天就到这里吧")))
    assert len(of(Move, effects)) == 1
    entry = brain.cooldowns.cooling(A, T + 1)
    assert (entry.until, entry.reset_source) == (T + 120, ResetSource.RETRY_AFTER)


def test_the_plugins_400_keeps_a_quoted_limit_from_counting():
    brain = engine()
    words = "Rate limit exceeded, said the text that you sent"
    bad = ErrorDetails(status=400)
    assert of(Move, feed(brain, heard(facts=bad), seen(retrying(wait=2.2, message=words)))) == []


def test_a_fact_about_another_model_or_moment_is_not_used():
    limited = ErrorDetails(status=429, headers={"retry-after": "120"})
    for news in (heard(facts=limited, model="p/z"), heard(-60, facts=limited)):
        effects = feed(engine(), news, seen(retrying(wait=2.2, message="今天就到这里吧")))
        assert of(SaveBlacklist, effects) == []


def test_a_look_that_comes_late_does_not_take_the_second_attempts_backoff_for_a_retry_after():
    words = 'Failed to parse "429 Too Many Requests" as tool arguments'
    doubtful = refused(verdict=replace(SURE, certainty=Certainty.DOUBTFUL), reason=words)
    late = retrying(3, wait=7, attempt=2, message=words)
    assert of(SaveBlacklist, feed(engine(), doubtful, seen(late), at=3)) == []


def test_where_a_session_came_from_is_remembered_until_it_is_back():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying(wait=60))))
    landed = retrying(1, model=B, state=SessionState.BUSY)
    (there,) = of(Remember, feed(brain, end(move, MoveResult.MOVED, landed)))
    assert (there.session, there.origin.model, there.origin.agent, there.target.model) == ("ses_1", A, "build", B)
    (back,) = of(Move, feed(brain, refused(100, model=B), seen(retrying(100, wait=3700, model=B)), at=100.1))
    assert of(Remember, feed(brain, end(back, MoveResult.MOVED, landed), at=101)) == [Remember("ses_1")]
    stay = engine(replace(POLICY, return_to_primary=False))
    (move,) = of(Move, feed(stay, refused(), seen(retrying())))
    assert of(Remember, feed(stay, end(move, MoveResult.MOVED, landed))) == []


def test_a_prompt_that_prevention_sent_to_the_stand_in_goes_on_down_the_first_chain():
    brain = engine()
    feed(brain, refused(session="ses_other"))  # a is limited, so prevention sends prompts to b
    effects = feed(brain, refused(5, model=B), seen(retrying(5, wait=1800, model=B)), at=5.1)
    assert [move.order.target.model for move in of(Move, effects)] == [C]


def test_another_fallback_plugin_goes_first_and_what_it_does_not_move_is_moved():
    beside = replace(DOOR, rival="another fallback plugin is active: x")
    brain = engine()
    first = feed(brain, refused(), seen(retrying(endpoint=beside)))
    assert (of(Move, first), notes(first)) == ([], ["limit", "told", "left"])
    assert brain.next_wake() == T + 0.2 + 10
    assert of(Probe, brain.handle(Tick(), T + 10.2))
    (move,) = of(Move, feed(brain, seen(retrying(10.3, endpoint=beside)), at=10.3))
    assert move.order.target.model == B
    works = retrying(5, model=B, state=SessionState.BUSY, endpoint=beside)
    assert of(Move, feed(engine(), refused(), seen(retrying(endpoint=beside)), Tick(), seen(works), at=5)) == []
