"""Given these messages, at these times, then these effects: from a refusal to its move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.limits import Certainty, ErrorFacts, Hint, LimitKind, Scope, ToldBy, Verdict
from ocwatchd.core.messages import Heard, LookUp, Move, Note, SaveRegister, Surveyed, Tick
from ocwatchd.core.moves import MoveResult
from ocwatchd.core.policy import RetryPolicy
from ocwatchd.core.views import SessionState
from tests.core.brain import (
    POLICY,
    SURE,
    A,
    B,
    C,
    T,
    end,
    engine,
    failed,
    feed,
    heard,
    notes,
    of,
    refused,
    retrying,
    seen,
)


def test_a_long_wait_is_saved_asked_about_and_moved_in_this_order():
    brain = engine()
    first = brain.handle(refused(), T)
    assert [type(effect) for effect in first] == [Note, SaveRegister, LookUp]
    assert first[2] == LookUp("ses_1", A)
    second = brain.handle(seen(retrying()), T + 0.1)
    assert [type(effect) for effect in second] == [SaveRegister, Note, Note, Move]
    (entry,) = second[0].changed
    assert (entry.until, entry.told_by, entry.target.model) == (T + 3600, ToldBy.STATUS, B)
    assert [note.what for note in second[1:3]] == ["told", "claim"]
    assert (second[1].fields["until"], second[1].fields["told_by"]) == (T + 3600, "status")
    assert second[2].durable
    assert second[3].order.target.model == B


def test_the_register_names_the_target_before_anything_is_asked():
    (_, saved, _) = engine().handle(refused(), T)
    assert saved.changed[0].target.model == B


def test_a_short_known_wait_is_left_to_opencode_and_its_outcome_is_looked_at():
    brain = engine()
    effects = feed(brain, refused(), seen(retrying(wait=3)))
    assert of(Move, effects) == []
    assert notes(effects) == ["limit", "told", "wait"]
    assert T + 3 < brain.next_wake() < T + 10
    assert of(LookUp, brain.handle(Tick(), brain.next_wake())) == [LookUp("ses_1", None)]


def test_an_answer_after_the_wait_frees_the_model():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=2.2)))
    # The answer was begun with the first attempt, the refused one: it is its end that tells.
    well = retrying(5, state=SessionState.IDLE, answer_started=T - 1, answer_ended=T + 4, answer_completed=True)
    effects = feed(brain, seen(well), at=5)
    assert of(SaveRegister, effects) == [SaveRegister(removed=(A,))]
    assert brain.ledger.cooling(A, T + 5.1) is None


def test_an_answer_from_before_the_refusal_frees_nothing():
    brain = engine()
    feed(brain, refused())
    well = retrying(5, state=SessionState.IDLE, answer_started=T - 9, answer_ended=T - 1, answer_completed=True)
    assert of(SaveRegister, feed(brain, seen(well), at=5)) == []


def test_a_retry_that_was_faster_than_our_look_is_followed_to_its_answer():
    brain = engine()
    feed(brain, refused(), seen(retrying(1, state=SessionState.BUSY, attempt=None)), at=1)
    assert brain.next_wake() is not None
    well = retrying(9, state=SessionState.IDLE, answer_started=T - 1, answer_ended=T + 3, answer_completed=True)
    assert of(SaveRegister, feed(brain, seen(well), at=9)) == [SaveRegister(removed=(A,))]


def test_native_retries_are_counted_and_the_fourth_failure_moves():
    brain = engine()
    moves = []
    for attempt, at in enumerate((0, 2.2, 6.8, 15.5), start=1):
        wait = at + 2 * 2 ** (attempt - 1) * 1.1
        effects = feed(brain, refused(at), seen(retrying(at + 0.1, wait=wait, attempt=attempt)), at=at + 0.1)
        moves.append(len(of(Move, effects)))
    assert moves == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "policy",
    [replace(POLICY, wait=False), replace(POLICY, per_model={"p/a": RetryPolicy(max_retries=0)})],
    ids=["never wait", "per model"],
)
def test_configured_not_to_wait_it_moves_at_once(policy):
    assert of(Move, feed(engine(policy), refused(), seen(retrying(wait=3))))


def test_a_quota_without_a_known_end_is_not_waited_for():
    quota = Verdict(Certainty.SURE, LimitKind.QUOTA, Scope.MODEL, "rule")
    assert of(Move, feed(engine(), refused(verdict=quota), seen(retrying(wait=2.2))))


def test_a_told_end_beyond_the_patience_moves_although_opencode_retries_at_once():
    hint = Hint(T + 180, 180, ToldBy.TEXT, "try again in 3m")
    assert of(Move, feed(engine(), refused(hint=hint), seen(retrying(wait=2.2))))


def test_old_news_enters_the_register_and_asks_nobody():
    hint = Hint(T + 600, 600, ToldBy.RETRY_AFTER, "retry-after")
    effects = engine().handle(refused(hint=hint, live=False), T + 100)
    assert [type(effect) for effect in effects] == [Note, SaveRegister]
    assert engine().handle(refused(live=False), T + 3600) == []


def test_a_title_request_enters_the_register_and_moves_nothing():
    effects = engine().handle(refused(small=True), T)
    assert [type(effect) for effect in effects] == [Note, SaveRegister]


def test_a_limit_without_a_session_finds_it_among_those_in_trouble():
    brain = engine()
    (*_, look) = brain.handle(refused(session=None), T)
    assert look == LookUp(None, A)
    other = retrying(session="ses_2", model=C)
    effects = brain.handle(Surveyed(None, A, (retrying(), other), 1), T + 0.1)
    assert [move.order.view.session for move in of(Move, effects)] == ["ses_1"]


def test_one_question_at_a_time_however_many_lines():
    brain = engine()
    looks = of(LookUp, feed(brain, *(refused(n / 100) for n in range(50))))
    assert len(looks) == 1


@pytest.mark.parametrize("verdict", [Verdict(Certainty.UNKNOWN), replace(SURE, certainty=Certainty.DOUBTFUL)])
def test_doubtful_words_alone_block_and_move_nothing(verdict):
    words = 'Failed to parse "429 Too Many Requests: rate limit exceeded" as tool arguments'
    brain = engine()
    effects = feed(brain, refused(verdict=verdict, reason=words), seen(retrying(wait=2.2, message=words)))
    assert notes(effects) == ["doubtful"]
    assert of(Move, effects) == of(SaveRegister, effects) == []


def test_unknown_words_with_a_retry_after_that_opencode_honours_are_a_limit():
    brain = engine()
    unknown = refused(verdict=Verdict(Certainty.UNKNOWN), reason="…")
    effects = feed(brain, unknown, seen(retrying(message="今天就到这里吧")))
    assert [move.order.target.model for move in of(Move, effects)] == [B]
    assert brain.ledger.cooling(A, T + 3599).told_by is ToldBy.STATUS


def test_a_turn_that_ended_with_a_limit_is_moved_without_a_wait():
    effects = feed(engine(), refused(verdict=Verdict(Certainty.UNKNOWN), reason=""), seen(failed()))
    assert [move.order.target.model for move in of(Move, effects)] == [B]


def test_a_turn_that_failed_otherwise_is_left_even_if_its_model_cools():
    brain = engine()
    feed(brain, refused(session="ses_other"))
    other = failed(error=ErrorFacts(message="invalid x-api-key", status=401))
    assert of(Move, feed(brain, Surveyed(None, A, (other,), 1))) == []


def test_an_old_failure_is_old_news():
    assert of(Move, feed(engine(), Surveyed(None, A, (failed(),), 1), at=3600)) == []


def test_a_session_stuck_on_a_model_that_already_cools_is_moved_again_seconds_later():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.MOVED))
    effects = feed(brain, refused(4), seen(retrying(4.1, user_message="msg_3")), at=4.2)
    assert [move.order.target.model for move in of(Move, effects)] == [B]


def test_the_logs_late_line_about_what_a_door_showed_is_no_second_strike():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    on_b = retrying(1, wait=1800, model=B)
    effects = feed(brain, end(move, MoveResult.TARGET_LIMITED, on_b), at=1.1)
    assert [move.order.target.model for move in of(Move, effects)] == [C]
    feed(brain, refused(0.9, model=B), at=1.8)
    assert brain.ledger.cooling(B, T + 2).strikes == 1
    feed(brain, refused(5, model=B), at=5)
    assert brain.ledger.cooling(B, T + 6).strikes == 2


def test_the_log_may_be_late_about_two_refusals_at_once():
    brain = engine()
    (move,) = of(Move, feed(brain, Heard("ses_1", T), seen(retrying())))
    feed(brain, end(move, MoveResult.TARGET_LIMITED, retrying(0.6, wait=1800, model=B)), at=0.6)
    feed(brain, refused(0.0), refused(0.5, model=B), at=1.0)
    assert [brain.ledger.cooling(model, T + 2).strikes for model in (A, B)] == [1, 1]


@pytest.mark.parametrize("door_first", [False, True])
def test_two_witnesses_are_one_strike_though_the_log_was_read_late(door_first):
    brain = engine()
    shown, told = (Heard("ses_1", T + 10), seen(retrying())), refused(live=False)
    feed(brain, *((*shown, told) if door_first else (told, *shown)), at=12)
    assert brain.ledger.cooling(A, T + 13).strikes == 1
    feed(brain, refused(20), at=20)
    assert brain.ledger.cooling(A, T + 21).strikes == 2


@pytest.mark.parametrize("door_first", [False, True])
def test_a_loop_without_pause_is_known_as_one_whoever_tells_of_it_first(door_first):
    brain = engine()
    for turn in range(12):
        at = turn * 0.4
        shown = seen(retrying(at + 0.1, wait=at + 0.15, attempt=turn + 1))
        told = refused(at)
        moves = of(Move, feed(brain, *((heard(at), shown, told) if door_first else (told, shown)), at=at + 0.2))
        if moves:
            feed(brain, end(moves[0], MoveResult.ALREADY, retrying(at + 0.3, state=SessionState.BUSY)), at=at + 0.3)
    assert brain.cases.known("ses_1").looping(T + 11 * 0.4 + 0.2)
