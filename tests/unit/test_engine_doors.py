"""Who else is involved: other doors and movers, parents, the plugin and its facts, the stand-in that is left again."""

from __future__ import annotations

from dataclasses import replace

from ocwatchd.core.decider import RECHECK
from ocwatchd.core.limits import Certainty, ErrorFacts, ToldBy
from ocwatchd.core.messages import Free, Heard, LookUp, Move, Remember, SaveRegister, Surveyed, Tell, Tick
from ocwatchd.core.moves import MoveResult
from ocwatchd.core.views import SessionState
from tests.core.brain import (
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


def test_a_subagent_is_freed_by_moving_its_parent():
    brain = engine()
    brain.handle(refused(), T)
    child = retrying(parent="ses_0")
    parent = retrying(session="ses_0", state=SessionState.BUSY, attempt=None, next_at=None)
    effects = brain.handle(Surveyed("ses_1", A, (child,), 1, (parent,)), T + 0.1)
    (move,) = of(Move, effects)
    assert (move.order.view.session, move.order.child) == ("ses_0", "ses_1")
    own_model = replace(parent, model=C)
    brain = engine()
    brain.handle(refused(), T)
    effects = brain.handle(Surveyed("ses_1", A, (child,), 1, (own_model,)), T + 0.1)
    assert of(Free, effects) == [Free(child)]
    assert of(Move, effects) == []


def test_a_session_that_no_door_leads_to_is_told_of():
    brain = engine()
    nobody = Surveyed("ses_1", A, (), 0)
    effects = feed(brain, refused(), nobody)
    for expected in (["limit", "unanswered"], []):  # a door that hangs once is not gone; it is told once
        assert notes(effects) == expected
        effects = brain.handle(Tick(), brain.next_wake()) + feed(brain, nobody, at=10)
    assert notes(effects) == ["unreachable"]
    assert len(of(Tell, effects)) == 1


def test_what_only_a_door_told_of_is_looked_at_again_too():
    brain = engine()
    effects = feed(brain, Heard("ses_1", T), Surveyed("ses_1", None, (), 0, failing=1))
    assert notes(effects) == ["unanswered"]
    assert effects[-1].fields["why"] == "OpenCode does not answer, looking again"
    assert brain.next_wake() == T + 0.2 + RECHECK
    assert brain.handle(Tick(), T + 4) == [LookUp("ses_1", None)]


def test_at_rest_behind_one_door_it_may_run_behind_another():
    brain = engine()
    resting = retrying(state=SessionState.IDLE, attempt=None, next_at=None, answer_completed=False)
    elsewhere = replace(seen(resting), failing=1)
    effects = feed(brain, refused(), elsewhere)
    assert notes(effects) == ["limit", "unanswered"]
    assert brain.handle(Tick(), brain.next_wake()) == [LookUp("ses_1", A)]
    assert len(of(Move, feed(brain, seen(retrying()), at=4))) == 1
    for settled in (replace(seen(replace(resting, answer_completed=True)), failing=1),):
        brain = engine()
        assert notes(feed(brain, refused(), settled)) in (["limit"], ["limit", "went_on"])
        assert brain.next_wake() is None
    brain = engine()
    feed(brain, refused(), elsewhere)
    for wait in (4, 8):
        feed(brain, Tick(), elsewhere, at=wait)
    assert brain.next_wake() is None  # nobody works on it, after all


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
    assert of(Tell, feed(brain, end(move, MoveResult.ALREADY))) == []


def test_a_door_that_tells_of_a_retry_is_as_good_as_the_log_and_one_limit_with_it():
    brain = engine()
    assert feed(brain, Heard("ses_1", T)) == [LookUp("ses_1", None)]
    (move,) = of(Move, feed(brain, seen(retrying())))
    assert move.order.target.model == B
    feed(brain, refused(0.0), at=0.9)  # the log, late
    assert brain.ledger.cooling(A, T + 1).strikes == 1


def test_the_plugins_status_and_header_settle_what_words_cannot():
    brain = engine()
    limited = ErrorFacts(status=429, headers={"retry-after": "120"})
    effects = feed(brain, heard(facts=limited), seen(retrying(wait=120, message="今天就到这里吧")))
    assert len(of(Move, effects)) == 1
    entry = brain.ledger.cooling(A, T + 1)
    assert (entry.until, entry.told_by) == (T + 120, ToldBy.RETRY_AFTER)


def test_the_plugins_400_keeps_a_quoted_limit_from_counting():
    brain = engine()
    words = "Rate limit exceeded, said the text that you sent"
    bad = ErrorFacts(status=400)
    assert of(Move, feed(brain, heard(facts=bad), seen(retrying(wait=2.2, message=words)))) == []


def test_a_fact_about_another_model_or_moment_is_not_used():
    limited = ErrorFacts(status=429, headers={"retry-after": "120"})
    for news in (heard(facts=limited, model="p/z"), heard(-60, facts=limited)):
        effects = feed(engine(), news, seen(retrying(wait=2.2, message="今天就到这里吧")))
        assert of(SaveRegister, effects) == []


def test_a_look_that_comes_late_does_not_take_the_second_attempts_backoff_for_a_retry_after():
    words = 'Failed to parse "429 Too Many Requests" as tool arguments'
    doubtful = refused(verdict=replace(SURE, certainty=Certainty.DOUBTFUL), reason=words)
    late = retrying(3, wait=7, attempt=2, message=words)
    assert of(SaveRegister, feed(engine(), doubtful, seen(late), at=3)) == []


def test_where_a_session_came_from_is_remembered_until_it_is_back():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying(wait=60))))
    landed = retrying(1, model=B, state=SessionState.BUSY)
    (there,) = of(Remember, feed(brain, end(move, MoveResult.MOVED, landed)))
    assert (there.session, there.origin.model, there.origin.agent, there.target.model) == ("ses_1", A, "build", B)
    (back,) = of(Move, feed(brain, refused(100, model=B), seen(retrying(100, wait=3700, model=B)), at=100.1))
    assert of(Remember, feed(brain, end(back, MoveResult.MOVED, landed), at=101)) == [Remember("ses_1")]
    stay = engine(replace(POLICY, come_back=False))
    (move,) = of(Move, feed(stay, refused(), seen(retrying())))
    assert of(Remember, feed(stay, end(move, MoveResult.MOVED, landed))) == []


def test_a_prompt_that_prevention_sent_to_the_stand_in_goes_on_down_the_first_chain():
    brain = engine()
    feed(brain, refused(session="ses_other"))  # a is limited: prevention sends prompts to b
    effects = feed(brain, refused(5, model=B), seen(retrying(5, wait=1800, model=B)), at=5.1)
    assert [move.order.target.model for move in of(Move, effects)] == [C]


def test_another_fallback_plugin_goes_first_and_what_it_does_not_move_is_moved():
    beside = replace(DOOR, rival="another fallback plugin is active: x")
    brain = engine()
    first = feed(brain, refused(), seen(retrying(door=beside)))
    assert (of(Move, first), notes(first)) == ([], ["limit", "told", "left"])
    assert brain.next_wake() == T + 0.2 + 10
    assert of(LookUp, brain.handle(Tick(), T + 10.2))
    (move,) = of(Move, feed(brain, seen(retrying(10.3, door=beside)), at=10.3))
    assert move.order.target.model == B
    works = retrying(5, model=B, state=SessionState.BUSY, door=beside)
    assert of(Move, feed(engine(), refused(), seen(retrying(door=beside)), Tick(), seen(works), at=5)) == []
