"""Tests of refused attempts that OpenCode 2's retry hook asks about: move, hold or leave, and the effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.capability import Capacity, Needs
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ErrorDetails, Hint, ResetSource, Target
from ocwatchd.core.engine.messages import (
    Aborted,
    Acted,
    Answer,
    Asked,
    BlacklistChanged,
    Failure,
    FellSilent,
    Move,
    Note,
    Probe,
    Remember,
    SaveBlacklist,
    Tick,
    Verified,
    WhatNext,
)
from ocwatchd.core.policy import Mode, RetryPolicy, WhenExhausted
from tests.unit.brain import (
    LIMITED,
    POLICY,
    A,
    B,
    C,
    T,
    configured,
    end,
    engine,
    feed,
    notes,
    of,
    refused,
    retrying,
    seen,
)


def asked(number=1, at=0.0, wait=None, delay=2.0, model=A, attempt=1, session="ses_1", message=LIMITED, status=429):
    hint = Hint(T + at + wait, wait, ResetSource.STATUS, "OpenCode's next attempt") if wait else None
    facts = ErrorDetails(message=message, status=status, name="APIError")
    failure = Failure(session, model, "build", T + at, facts, hint, live=True, final=delay is None)
    return Asked(number, failure, attempt, delay, 7, "/p")


def answers(effects):
    return [(answer.number, answer.verdict, answer.target and answer.target.model) for answer in of(Answer, effects)]


def test_the_limit_is_entered_and_the_move_claimed_before_the_answer() -> None:
    effects = feed(engine(), asked(wait=3600.0))
    assert [type(effect) for effect in effects] == [Note, SaveBlacklist, Note, Answer]
    assert (effects[0].what, effects[2].what) == ("limit", "claim")


def test_a_fallback_that_cannot_take_the_session_is_passed_over() -> None:
    brain = engine()
    brain.context.offers = {"p/b": Capacity(8000), "p/c": Capacity(200_000)}
    effects = feed(brain, replace(asked(wait=3600.0), needs=Needs(50_000)))
    assert answers(effects) == [(1, WhatNext.MOVE, C)]


def test_a_move_counts_when_the_plugin_has_made_it_and_nothing_moves_it_a_second_time() -> None:
    brain = engine()
    feed(brain, asked(wait=3600.0))
    after = feed(brain, Acted(1, True))
    assert notes(after) == ["switched"]
    assert of(Remember, after) == [Remember("ses_1", Target(A, "build"), Target(B, "build"))]
    scheduled = asked(at=0.3).failure
    assert brain.questions.decided(scheduled, T + 0.3)
    assert not brain.questions.decided(scheduled, T + 3)
    assert of(Move, feed(brain, refused(0.3))) == []


def test_a_move_that_the_plugin_has_seen_to_answer_has_landed() -> None:
    brain = engine()
    feed(brain, asked(wait=3600.0))
    feed(brain, Acted(1, True))
    after = feed(brain, Verified(1, True), at=1)
    assert notes(after) == ["moved"]
    assert feed(brain, Verified(1, True), at=2) == []


def test_a_move_of_which_the_plugin_has_seen_no_answer_has_failed_and_is_looked_at() -> None:
    brain = engine()
    feed(brain, asked(wait=3600.0))
    feed(brain, Acted(1, True))
    after = feed(brain, Verified(1, False, "OpenCode went away"), at=1)
    assert [(note.what, note.fields["why"]) for note in of(Note, after)] == [("failed", "OpenCode went away")]
    assert brain.next_wake() is not None


def test_what_the_plugin_has_not_made_is_not_verified() -> None:
    brain = engine()
    feed(brain, asked(wait=3600.0))
    feed(brain, Acted(1, False, "the turn was stopped"))
    assert feed(brain, Verified(1, True), at=1) == []


@pytest.mark.parametrize("news", [Acted(1, False, "the session is on p/c"), Acted(1, False)])
def test_a_move_that_was_not_made_is_none(news: Acted) -> None:
    brain = engine()
    feed(brain, asked(wait=3600.0))
    assert notes(feed(brain, news)) == ["refused"]
    assert answers(feed(brain, asked(2, at=1, wait=3600.0), at=1)) == [(2, WhatNext.MOVE, B)]


def test_a_turn_that_opencode_would_end_is_moved_as_well() -> None:
    effects = feed(engine(), asked(delay=None, wait=3600.0))
    assert answers(effects) == [(1, WhatNext.MOVE, B)]


def test_where_nothing_is_free_and_no_end_is_known_the_turn_is_left_to_end_and_said_to_be_stuck() -> None:
    effects = feed(engine(), asked(delay=None, message="Insufficient balance", status=402))  # of the whole provider
    assert answers(effects) == [(1, WhatNext.UNTOUCHED, None)]
    assert "exhausted" in notes(effects)


@pytest.mark.parametrize("message", ["invalid request: no such field", "bad gateway 17"])
def test_what_is_no_limit_is_left_alone(message: str) -> None:
    effects = feed(engine(), asked(message=message, status=400))
    assert (answers(effects), len(effects)) == ([(1, WhatNext.UNTOUCHED, None)], 1)


def test_a_short_wait_without_a_known_end_is_left_to_opencode_as_long_as_it_retries() -> None:
    policy = replace(POLICY, retry=RetryPolicy(max_wait=10.0))
    assert answers(feed(engine(policy), asked(delay=2.0)))[-1][1] is WhatNext.UNTOUCHED
    assert answers(feed(engine(policy), asked(delay=None)))[-1][1] is WhatNext.MOVE


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.ASK, Mode.NOTIFY])
def test_in_no_other_mode_is_anything_moved(mode: Mode) -> None:
    effects = feed(engine(replace(POLICY, mode=mode)), asked(wait=3600.0))
    assert answers(effects) == [(1, WhatNext.UNTOUCHED, None)]
    assert notes(effects)[0] == "limit"


@pytest.mark.parametrize("mode", [Mode.ASK, Mode.AUTO])
def test_what_the_hook_did_not_move_is_looked_at_from_outside_and_is_no_second_strike(mode: Mode) -> None:
    brain = engine(replace(POLICY, mode=mode))
    feed(brain, asked(wait=3600.0), Acted(1, False, "the plugin disconnected without a report"))
    strikes = brain.cooldowns.cooling(A, T + 0.3).strikes
    feed(brain, refused(0.35, hint=asked(wait=3600.0).failure.hint), at=0.4)  # the same refused attempt as an event
    assert of(Probe, brain.handle(Tick(), T + 0.6)) == [Probe("ses_1", None)]
    effects = feed(brain, seen(retrying(0.6, switchable=True, honoured=True)), at=0.7)
    assert bool(of(Move, effects)) is (mode is Mode.AUTO)
    assert ("offered" in notes(effects)) is (mode is Mode.ASK)
    assert brain.cooldowns.cooling(A, T + 0.7).strikes == strikes


def waiting(at):
    return retrying(at=at, switchable=True)


def exhausted():
    brain = engine()
    feed(brain, refused(model=B, session="ses_b"), refused(model=C, session="ses_c"), at=0)
    return brain


def test_with_nothing_free_the_attempt_is_held_until_the_first_model_returns() -> None:
    brain = exhausted()
    effects = feed(brain, asked(wait=1200.0), at=0.1)
    ((_, verdict, _),) = answers(effects)
    assert verdict is WhatNext.HOLD
    (hold,) = of(Answer, effects)
    assert hold.until is not None
    assert brain.questions.decided(asked().failure, T + 10)
    assert answers(brain.handle(Tick(), hold.until - 5)) == []
    ended = brain.handle(Tick(), hold.until + 0.1)
    assert answers(ended)[0][1] in (WhatNext.MOVE, WhatNext.RETRY)
    assert feed(brain, Acted(1, True), at=hold.until - T + 0.2) is not None
    assert answers(brain.handle(Tick(), hold.until + 9)) == []


def test_nothing_is_held_for_a_user_who_wants_to_be_notified() -> None:
    brain = exhausted()
    feed(brain, configured(when_exhausted=WhenExhausted.NOTIFY))
    effects = feed(brain, asked(wait=1200.0), at=0.1)
    assert answers(effects) == [(1, WhatNext.UNTOUCHED, None)]
    assert "exhausted" in notes(effects)


def test_a_hold_ends_when_a_fallback_becomes_free() -> None:
    brain = exhausted()
    feed(brain, asked(wait=1200.0), at=0.1)
    entries = tuple(entry for entry in brain.cooldowns.entries() if entry.model != B)
    feed(brain, BlacklistChanged(entries, T + 5), at=5)
    assert answers(brain.handle(Tick(), T + 6)) == [(1, WhatNext.MOVE, B)]
    assert answers(brain.handle(Tick(), T + 7)) == []


def test_a_held_attempt_is_not_moved_while_the_session_is_moved_from_outside() -> None:
    """Before, two claims were open for one turn, and the result of the last one counted."""
    brain = exhausted()
    feed(brain, asked(wait=1200.0), at=0.1)
    kept = tuple(entry for entry in brain.cooldowns.entries() if entry.model != B)
    feed(brain, BlacklistChanged(kept, T + 5), at=5)
    (move,) = of(Move, feed(brain, seen(waiting(at=5.0)), at=5.1))
    assert answers(brain.handle(Tick(), T + 6)) == []
    feed(brain, end(move, MoveResult.REFUSED, waiting(at=6.0)), at=6.5)
    assert answers(brain.handle(Tick(), T + 7)) == [(1, WhatNext.MOVE, B)]


def test_a_hold_of_a_turn_that_was_stopped_is_forgotten() -> None:
    brain = exhausted()
    feed(brain, asked(wait=1200.0), at=0.1)
    feed(brain, Aborted("ses_1", T + 3, exact=True), Acted(1, False, "the turn was stopped"), at=3)
    assert answers(brain.handle(Tick(), T + 4000)) == []


def test_a_second_attempt_is_no_second_strike() -> None:
    brain = engine()
    feed(brain, asked(delay=2.0))
    before = brain.cooldowns.cooling(A, T + 0.2).strikes
    feed(brain, refused(0.4), at=0.5)  # OpenCode's event about the same refused attempt
    assert brain.cooldowns.cooling(A, T + 0.5).strikes == before


def test_moves_within_an_hour_are_counted() -> None:
    brain = engine(replace(POLICY, moves_per_hour=1))
    feed(brain, asked(wait=3600.0), Acted(1, True))
    assert answers(feed(brain, asked(2, at=5, wait=3600.0, model=B), at=5)) == [(2, WhatNext.UNTOUCHED, None)]


def silent(at, seconds):
    busy = retrying(at, state=SessionState.BUSY, attempt=None, next_at=None, message="", silence=seconds)
    return seen(replace(busy, switchable=True))


def test_a_held_attempt_has_not_stalled_and_its_silence_counts_from_the_end_of_the_hold() -> None:
    """While the hook waits, OpenCode sends no request and reports nothing: the session looks like a stalled answer."""
    brain, long = engine(), Hint(T + 9000, 9000, ResetSource.STATUS, "x")
    feed(brain, refused(model=B, session="ses_b", hint=long), refused(model=C, session="ses_c", hint=long), at=0)
    feed(brain, asked(wait=7200.0), at=0.1)
    for at in (2000.0, 2001.0):
        effects = feed(brain, FellSilent("ses_1"), silent(at, at), at=at)
        assert (of(Move, effects), "stalled" in notes(effects)) == ([], False)
    feed(brain, asked(2, at=2010.0, wait=5000.0), Acted(1, False, "the plugin disconnected without a report"), at=2010)
    for at in (2450.0, 2451.0):
        assert of(Move, feed(brain, FellSilent("ses_1"), silent(at, at), at=at)) == [], "the second query holds it"
    feed(brain, Acted(2, True), at=2500)
    for at in (2501.0, 2502.0):
        assert of(Move, feed(brain, FellSilent("ses_1"), silent(at, at), at=at)) == []
    late = [feed(brain, FellSilent("ses_1"), silent(at, at), at=at) for at in (3100.0, 3101.0)]
    assert "stalled" in notes(late[1])
