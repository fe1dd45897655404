"""Tests of empty answers in a row, which an error in the body of a response with status 200 causes."""

from __future__ import annotations

from dataclasses import replace

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import WEB_PAGE, ErrorDetails, ResetSource
from ocwatchd.core.engine.guards import outcome, silent
from ocwatchd.core.engine.messages import AnsweredNothing, Move, Notify, Probe, Tick, TroubleReported
from ocwatchd.core.policy import Mode
from tests.unit.brain import POLICY, A, B, C, T, end, engine, feed, fields, heard, notes, of, retrying, seen

TOLD = AnsweredNothing("ses_1", T)
BODY = '{"error": {"message": "Rate limit reached. Please try again in 20m.", "code": "rate_limit_exceeded"}}'


def unanswered(steps=3, at=0.1, **more):
    return retrying(at, state=SessionState.BUSY, attempt=None, next_at=None, message="", empty_steps=steps, **more)


def instead(body=BODY, at=0.0, model="p/a", name=None):
    message = "" if name else "Rate limit reached. Please try again in 20m." if body is BODY else body
    return TroubleReported("ses_1", T + at, model, ErrorDetails(message, name, status=200, body="" if name else body))


def test_a_model_that_answers_nothing_again_and_again_is_left_for_the_next_one():
    brain = engine()
    assert feed(brain, TOLD) == [Probe("ses_1", None)]
    effects = feed(brain, seen(unanswered()))
    assert notes(effects) == ["rejected", "claim"]
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.looping, move.order.failing) == (B, True, True)
    assert brain.cooldowns.cooling(A, T + 1) is None, "nobody spoke of a limit"


def test_one_or_two_empty_answers_are_looked_at_again():
    for steps in (1, 2):
        brain = engine()
        assert of(Move, feed(brain, TOLD, seen(unanswered(steps)))) == []
        assert brain.next_wake() is not None
        assert feed(brain, Tick(), at=1.0) == [Probe("ses_1", None)]


def test_an_answer_that_holds_something_is_left_alone():
    for shown in (unanswered(answer_spoke=True, answer_began=True), unanswered(0)):
        brain = engine()
        assert of(Move, feed(brain, TOLD, instead(), seen(shown))) == []
        assert brain.cooldowns.cooling(A, T + 1) is None


def test_words_of_a_limit_that_came_instead_of_an_answer_are_a_limit():
    brain = engine()
    effects = feed(brain, instead(), seen(unanswered(1)))
    assert notes(effects) == ["limit", "claim"]
    entry = brain.cooldowns.cooling(A, T + 1)
    assert (entry.reset_source, entry.until, entry.strikes) == (ResetSource.TEXT, T + 0.1 + 1200, 1)
    (move,) = of(Move, effects)
    assert (move.order.target.model, move.order.looping, move.order.failing) == (B, True, False)
    feed(brain, end(move, MoveResult.ALREADY, unanswered(2)), instead(at=0.5), seen(unanswered(2, 0.6)), at=0.6)
    assert brain.cooldowns.cooling(A, T + 1).strikes == 1, "each step is refused again, and is one turn's refusal"


def test_another_error_that_came_instead_of_an_answer_is_told_and_no_limit():
    brain = engine()
    effects = feed(brain, instead('{"error": "no luck today"}'), seen(unanswered()))
    assert "no luck today" in fields("rejected", effects)["why"]
    assert [move.order.target.model for move in of(Move, effects)] == [B]
    assert brain.cooldowns.cooling(A, T + 1) is None


def test_a_web_page_in_place_of_the_provider_moves_nothing_and_is_told_once():
    brain = engine()
    for at in (0.2, 0.4):
        effects = feed(brain, instead(name=WEB_PAGE, at=at), seen(unanswered(at=at)), at=at)
        assert of(Move, effects) == []
        assert len(of(Notify, effects)) == (at == 0.2)
    assert brain.cooldowns.cooling(A, T + 1) is None


def test_what_was_seen_long_ago_or_of_another_model_is_not_this_answer():
    for fact in (instead(at=-31), instead(model="p/c")):
        brain = engine()
        feed(brain, fact, seen(unanswered()))
        assert brain.cooldowns.cooling(A, T + 1) is None


def test_a_person_who_wants_to_be_asked_is_told():
    brain = engine(replace(POLICY, mode=Mode.NOTIFY))
    effects = feed(brain, TOLD, seen(unanswered()))
    assert of(Move, effects) == []
    assert len(of(Notify, effects)) == 1
    assert engine(replace(POLICY, mode=Mode.OFF)).handle(seen(unanswered()), T) == []


def test_a_fallback_that_answers_nothing_either_has_failed():
    on_b = unanswered(model=B, answer="msg_5")
    assert outcome(replace(on_b, empty_steps=3), B, "msg_3").result is MoveResult.FAILED
    assert outcome(replace(on_b, empty_steps=1), B, "msg_3") is None
    assert outcome(replace(on_b, empty_steps=0), B, "msg_3").result is MoveResult.MOVED
    brain = engine()
    (move,) = of(Move, feed(brain, TOLD, seen(unanswered())))
    feed(brain, end(move, MoveResult.FAILED, on_b), at=0.5)
    (onwards,) = of(Move, feed(brain, Tick(), seen(on_b), at=1.0))
    assert onwards.order.target.model == C


def test_between_two_empty_answers_nothing_is_lost_by_a_stop():
    complete = unanswered(answer_began=True, answer_completed=True)
    assert silent(complete)
    assert not silent(replace(complete, answer_spoke=True))
    assert not silent(replace(complete, empty_steps=0))


def test_the_event_stream_and_the_plugin_may_both_tell_of_it():
    brain = engine()
    effects = feed(brain, instead(), TOLD, seen(unanswered(2)), heard(0.3))
    assert len(of(Move, effects)) == 1
