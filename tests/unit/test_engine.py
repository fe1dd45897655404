"""Tests of the engine from a refused attempt to its move: these messages, at these times, give these effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import Certainty, ErrorDetails, Hint, LimitKind, ResetSource, Scope, Target, Verdict
from ocwatchd.core.engine.messages import Move, Note, Probe, Probed, SaveBlacklist, Tick, TroubleReported
from ocwatchd.core.policy import RetryPolicy
from tests.unit.brain import (
    POLICY,
    SURE,
    A,
    B,
    C,
    T,
    configured,
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
    assert [type(effect) for effect in first] == [Note, SaveBlacklist, Probe]
    assert first[2] == Probe("ses_1", A)
    second = brain.handle(seen(retrying()), T + 0.1)
    assert [type(effect) for effect in second] == [SaveBlacklist, Note, Note, Move]
    (entry,) = second[0].changed
    assert (entry.until, entry.reset_source, entry.target.model) == (T + 3600, ResetSource.STATUS, B)
    assert [note.what for note in second[1:3]] == ["told", "claim"]
    assert (second[1].fields["until"], second[1].fields["reset_source"]) == (T + 3600, "status")
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
    assert of(Probe, brain.handle(Tick(), brain.next_wake())) == [Probe("ses_1", None)]


def test_an_answer_after_the_wait_frees_the_model():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=2.2)))
    # The answer began with the first, refused attempt, so its end counts.
    well = retrying(5, state=SessionState.IDLE, answer_started=T - 1, answer_ended=T + 4, answer_completed=True)
    effects = feed(brain, seen(well), at=5)
    assert of(SaveBlacklist, effects) == [SaveBlacklist(removed=(A,))]
    assert brain.cooldowns.cooling(A, T + 5.1) is None


def test_an_answer_from_before_the_refusal_frees_nothing():
    brain = engine()
    feed(brain, refused())
    well = retrying(5, state=SessionState.IDLE, answer_started=T - 9, answer_ended=T - 1, answer_completed=True)
    assert of(SaveBlacklist, feed(brain, seen(well), at=5)) == []


def test_a_retry_that_was_faster_than_our_look_is_followed_to_its_answer():
    brain = engine()
    feed(brain, refused(), seen(retrying(1, state=SessionState.BUSY, attempt=None)), at=1)
    assert brain.next_wake() is not None
    well = retrying(9, state=SessionState.IDLE, answer_started=T - 1, answer_ended=T + 3, answer_completed=True)
    assert of(SaveBlacklist, feed(brain, seen(well), at=9)) == [SaveBlacklist(removed=(A,))]


def moves_while_opencode_retries(policy):
    """Return how many moves follow each of four refused attempts at OpenCode's own intervals (2, 4, 8, 16 s)."""
    brain = engine(policy)
    moves = []
    for attempt, at in enumerate((0, 2.2, 6.8, 15.5), start=1):
        wait = at + 2 * 2 ** (attempt - 1) * 1.1
        effects = feed(brain, refused(at), seen(retrying(at + 0.1, wait=wait, attempt=attempt)), at=at + 0.1)
        moves.append(len(of(Move, effects)))
    return moves


@pytest.mark.parametrize(
    ("retry", "moves"),
    [
        (RetryPolicy(max_wait=60), [0, 0, 0, 1]),
        (RetryPolicy(max_wait=60, max_retries=1), [0, 1, 0, 0]),
        (RetryPolicy(), [0, 1, 0, 0]),
        (RetryPolicy(max_wait=9), [0, 0, 1, 0]),
        (RetryPolicy(max_wait=1), [1, 0, 0, 0]),
    ],
    ids=["maxRetries", "one retry", "maxWait", "a longer maxWait", "a shorter maxWait"],
)
def test_without_a_reset_time_retries_are_counted_and_their_waits_added_up(retry, moves):
    assert moves_while_opencode_retries(replace(POLICY, retry=retry)) == moves
    assert moves_while_opencode_retries(replace(POLICY, per_model={"p/a": retry})) == moves


def test_a_known_reset_time_is_waited_for_however_short_max_wait_is():
    brain = engine(replace(POLICY, retry=RetryPolicy(max_wait=1)))
    known = Hint(T + 20, 20, ResetSource.RETRY_AFTER, "retry-after")
    assert not of(Move, feed(brain, refused(hint=known), seen(retrying(wait=20))))


def test_the_next_prompt_has_all_of_max_wait_again():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=2.2)))
    effects = feed(brain, refused(8), seen(retrying(8.1, wait=10.3, user_message="msg_3", answer="msg_4")), at=8.1)
    assert not of(Move, effects)


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
    hint = Hint(T + 180, 180, ResetSource.TEXT, "try again in 3m")
    assert of(Move, feed(engine(), refused(hint=hint), seen(retrying(wait=2.2))))


def test_old_news_enters_the_register_and_asks_nobody():
    hint = Hint(T + 600, 600, ResetSource.RETRY_AFTER, "retry-after")
    effects = engine().handle(refused(hint=hint, live=False), T + 100)
    assert [type(effect) for effect in effects] == [Note, SaveBlacklist]
    assert engine().handle(refused(live=False), T + 3600) == []


def test_a_title_request_enters_the_register_and_moves_nothing():
    effects = engine().handle(refused(small=True), T)
    assert [type(effect) for effect in effects] == [Note, SaveBlacklist]


def test_a_limit_without_a_session_finds_it_among_those_in_trouble():
    brain = engine()
    (*_, look) = brain.handle(refused(session=None), T)
    assert look == Probe(None, A)
    other = retrying(session="ses_2", model=C)
    effects = brain.handle(Probed(None, A, (retrying(), other), 1), T + 0.1)
    assert [move.order.snapshot.session for move in of(Move, effects)] == ["ses_1"]


def test_one_question_at_a_time_however_many_lines():
    brain = engine()
    looks = of(Probe, feed(brain, *(refused(n / 100) for n in range(50))))
    assert len(looks) == 1


@pytest.mark.parametrize("verdict", [Verdict(Certainty.UNKNOWN), replace(SURE, certainty=Certainty.DOUBTFUL)])
def test_doubtful_words_alone_block_and_move_nothing(verdict):
    words = 'Failed to parse "429 Too Many Requests: rate limit exceeded" as tool arguments'
    brain = engine()
    effects = feed(brain, refused(verdict=verdict, reason=words), seen(retrying(wait=2.2, message=words)))
    assert notes(effects) == ["doubtful"]
    assert of(Move, effects) == of(SaveBlacklist, effects) == []


def test_unknown_words_with_a_retry_after_that_opencode_honours_are_a_limit():
    brain = engine()
    unknown = refused(verdict=Verdict(Certainty.UNKNOWN), reason="…")
    effects = feed(brain, unknown, seen(retrying(message="今天就到这里吧")))
    assert [move.order.target.model for move in of(Move, effects)] == [B]
    assert brain.cooldowns.cooling(A, T + 3599).reset_source is ResetSource.STATUS


def test_a_turn_that_ended_with_a_limit_is_moved_without_a_wait():
    effects = feed(engine(), refused(verdict=Verdict(Certainty.UNKNOWN), reason=""), seen(failed()))
    assert [move.order.target.model for move in of(Move, effects)] == [B]


def test_a_turn_that_failed_otherwise_is_left_even_if_its_model_cools():
    brain = engine()
    feed(brain, refused(session="ses_other"))
    other = failed(error=ErrorDetails(message="invalid x-api-key", status=401))
    assert of(Move, feed(brain, Probed(None, A, (other,), 1))) == []


def test_an_old_failure_is_old_news():
    assert of(Move, feed(engine(), Probed(None, A, (failed(),), 1), at=3600)) == []


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
    assert brain.cooldowns.cooling(B, T + 2).strikes == 1
    feed(brain, refused(5, model=B), at=5)
    assert brain.cooldowns.cooling(B, T + 6).strikes == 2


def test_a_session_keeps_the_chain_of_its_own_agent_while_the_fallbacks_agent_carries_it():
    brain = engine()
    chains = {str(A): (str(B),), "agent:plan": (str(B), str(C))}
    feed(brain, configured(chains=chains, agents={str(B): "helper"}))
    (move,) = of(Move, feed(brain, refused(), seen(retrying(agent="plan"))))
    assert move.order.target == Target(B, "helper")
    effects = feed(brain, end(move, MoveResult.TARGET_LIMITED, retrying(1, model=B, agent="helper")), at=1.1)
    assert [move.order.target.model for move in of(Move, effects)] == [C]


def test_a_session_whose_user_chose_another_agent_gets_that_agents_chain():
    brain = engine()
    feed(brain, configured(chains={str(A): (str(B),), "agent:plan": (str(C),)}))
    (move,) = of(Move, feed(brain, refused(), seen(retrying(agent="build"))))
    assert move.order.target.model == B
    feed(brain, end(move, MoveResult.MOVED))
    effects = feed(brain, refused(4), seen(retrying(4.1, user_message="msg_3", agent="plan")), at=4.2)
    assert [move.order.target.model for move in of(Move, effects)] == [C]


def test_the_log_may_be_late_about_two_refusals_at_once():
    brain = engine()
    (move,) = of(Move, feed(brain, TroubleReported("ses_1", T), seen(retrying())))
    feed(brain, end(move, MoveResult.TARGET_LIMITED, retrying(0.6, wait=1800, model=B)), at=0.6)
    feed(brain, refused(0.0), refused(0.5, model=B), at=1.0)
    assert [brain.cooldowns.cooling(model, T + 2).strikes for model in (A, B)] == [1, 1]


@pytest.mark.parametrize("endpoint_first", [False, True])
def test_two_witnesses_are_one_strike_though_the_log_was_read_late(endpoint_first):
    brain = engine()
    shown, told = (TroubleReported("ses_1", T + 10), seen(retrying())), refused(live=False)
    feed(brain, *((*shown, told) if endpoint_first else (told, *shown)), at=12)
    assert brain.cooldowns.cooling(A, T + 13).strikes == 1
    feed(brain, refused(20), at=20)
    assert brain.cooldowns.cooling(A, T + 21).strikes == 2


@pytest.mark.parametrize("endpoint_first", [False, True])
def test_a_loop_without_pause_is_known_as_one_whoever_tells_of_it_first(endpoint_first):
    brain = engine()
    for turn in range(12):
        at = turn * 0.4
        shown = seen(retrying(at + 0.1, wait=at + 0.15, attempt=turn + 1))
        told = refused(at)
        moves = of(Move, feed(brain, *((heard(at), shown, told) if endpoint_first else (told, shown)), at=at + 0.2))
        if moves:
            feed(brain, end(moves[0], MoveResult.ALREADY, retrying(at + 0.3, state=SessionState.BUSY)), at=at + 0.3)
    assert brain.tracked_sessions.known("ses_1").looping(T + 11 * 0.4 + 0.2)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "x" * 4096, "*", " "])
def test_a_model_whose_name_readers_refuse_is_never_entered(name):
    brain = engine()
    effects = feed(brain, refused(model=replace(A, model=name)), refused(1.0, model=replace(A, model=name)))
    assert brain.cooldowns.entries() == ()
    assert of(SaveBlacklist, effects) == []
