"""Given these messages, at these times, then these effects."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from ocwatchd.core.cases import MOST_CASES
from ocwatchd.core.decider import RECHECK
from ocwatchd.core.engine import Engine
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import (
    Certainty,
    ErrorFacts,
    Hint,
    LimitEvent,
    LimitKind,
    ModelRef,
    Scope,
    Target,
    ToldBy,
    Verdict,
)
from ocwatchd.core.messages import (
    Aborted,
    Configured,
    Free,
    Heard,
    LookUp,
    Move,
    MoveEnded,
    Note,
    Refused,
    RegisterChanged,
    Remember,
    SaveRegister,
    Shown,
    Surveyed,
    TakenOver,
    Tell,
    Tick,
)
from ocwatchd.core.moves import Claim, MoveOutcome, MoveResult
from ocwatchd.core.policy import Mode, Policy, RetryPolicy
from ocwatchd.core.views import Door, SessionState, SessionView, TcpAddress
from tests.support.rules import builtin

T = 1_800_000_000.5  # a millisecond clock: not a whole second
A, B, C = (ModelRef("p", name) for name in "abc")
POLICY = Policy(chains={"p/a": ("p/b", "p/c")})
DOOR = Door(TcpAddress("127.0.0.1", 4096), 1)
LIMITED = "Rate limit reached for requests"
SURE = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")


def engine(policy=POLICY, ledger=None):
    numbers = count(1)
    return Engine(policy, builtin(), ledger or Ledger(), lambda: f"claim{next(numbers)}")


def refused(at=0.0, model=A, session="ses_1", verdict=SURE, hint=None, small=False, live=True, reason=LIMITED):
    event = LimitEvent(T + at, model.provider, model.model, session, "build", small, None, verdict, hint, reason)
    return Refused(event, live)


def retrying(at=0.1, wait=3600.0, model=A, attempt=1, session="ses_1", message=LIMITED, **more):
    view = SessionView(
        session=session,
        directory="/p",
        door=DOOR,
        state=SessionState.RETRY,
        seen=T + at,
        attempt=attempt,
        next_at=T + wait,
        message=message,
        model=model,
        agent="build",
        user_message="msg_1",
        prompt_model=model,
        answer="msg_2",
    )
    return replace(view, **more)


def failed(at=0.1, error=None, **more):
    facts = error or ErrorFacts(message=LIMITED, status=429, name="APIError")
    return retrying(at, state=SessionState.ERROR, attempt=None, next_at=None, last_error=facts, answer_ended=T, **more)


def seen(view, session="ses_1"):
    return Surveyed(session, view.model, (view,), 1)


def of(kind, effects):
    return [effect for effect in effects if isinstance(effect, kind)]


def notes(effects):
    return [note.what for note in of(Note, effects)]


def feed(brain, *messages, at=0.2):
    return [effect for message in messages for effect in brain.handle(message, T + at)]


def end(move, result, view=None, **more):
    return MoveEnded(move.claim, move.order, MoveOutcome(result, view=view, **more))


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


def test_everything_exhausted_is_told_once_and_looked_at_when_the_first_returns():
    ledger = Ledger()
    ledger.block(B, T + 100, T)
    ledger.block(C, None, T)
    brain = engine(ledger=ledger)
    effects = feed(brain, refused(), seen(retrying()))
    assert len(of(Tell, effects)) == 1
    assert of(Tell, effects)[0].at == T + 100
    assert of(Move, effects) == []
    again = feed(brain, refused(1, session="ses_2"), seen(retrying(1.1, session="ses_2"), "ses_2"), at=1.2)
    assert of(Tell, again) == []
    assert T + 100 <= brain.next_wake() < T + 101
    look = of(LookUp, brain.handle(Tick(), T + 100.1))
    assert {effect.session for effect in look} == {"ses_1", "ses_2"}
    back = brain.handle(seen(retrying(100.2)), T + 100.2)
    assert [move.order.target.model for move in of(Move, back)] == [B]


def test_without_a_chain_it_says_so_once_and_leaves_it():
    effects = feed(engine(Policy()), refused(), seen(retrying()))
    assert "no fallback is configured" in of(Tell, effects)[0].text
    assert of(Move, effects) == []


def test_a_person_who_clears_a_model_wakes_what_was_stuck():
    ledger = Ledger()
    for model in (B, C):
        ledger.block(model, None, T)
    brain = engine(ledger=ledger)
    feed(brain, refused(), seen(retrying()))
    kept = [entry for entry in brain.ledger.entries() if entry.model != B]
    assert of(LookUp, feed(brain, RegisterChanged(tuple(kept), T + 1), at=1))
    assert [move.order.target.model for move in of(Move, feed(brain, seen(retrying(1.1)), at=1.2))] == [B]


@pytest.mark.parametrize("early", [0.0, 0.2])
def test_what_was_refused_before_a_person_cleared_the_model_does_not_block_it_again(early):
    brain = engine()
    feed(brain, refused(session="ses_2"))
    feed(brain, RegisterChanged((), T + 1), at=1.2)
    # The log is late, a door was asked before: both mean a refusal from before the clear.
    late = feed(brain, refused(early), seen(retrying(0.9)), at=1.3)
    assert of(SaveRegister, late) == of(Move, late) == []
    late = feed(brain, refused(early, session="ses_3"), seen(failed(0.9, session="ses_3"), "ses_3"), at=1.3)
    assert of(SaveRegister, late) == of(Move, late) == []
    assert brain.ledger.cooling(A, T + 1.3) is None
    # OpenCode's own next attempt is refused after it.
    again = feed(brain, refused(1.4), seen(retrying(1.5, attempt=2)), at=1.5)
    assert of(SaveRegister, again)[0].changed[0].strikes == 1
    assert [move.order.target.model for move in of(Move, again)] == [B]


def test_an_old_logs_whole_second_may_lie_behind_the_clear_and_counts():
    brain = engine()
    feed(brain, refused())
    feed(brain, RegisterChanged((), T + 1), at=1.2)
    assert of(SaveRegister, feed(brain, refused(0.5), at=1.3))  # logged as the second in which it was cleared
    assert brain.ledger.cooling(A, T + 1.3) is not None


def test_what_is_refused_before_the_daemon_knows_of_the_clear_is_a_first_strike_of_its_own():
    brain = engine()
    feed(brain, refused(), refused(2.1))
    (saved,) = of(SaveRegister, feed(brain, RegisterChanged((), T + 2), at=2.3))
    assert [(entry.model, entry.since, entry.strikes) for entry in saved.changed] == [(A, T + 2.1, 1)]
    assert of(SaveRegister, feed(brain, RegisterChanged((), T + 3), at=3.3)) == []
    assert brain.ledger.cooling(A, T + 3.3) is None


@pytest.mark.parametrize("what", [{"running": ("bash",)}, {"asking": True}])
def test_a_running_tool_or_an_open_question_is_never_disturbed(what):
    effects = feed(engine(), refused(), seen(retrying(**what)))
    assert notes(effects)[-1] == "left"
    assert of(Move, effects) == []


def test_a_users_abort_ends_it():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=20)))
    feed(brain, Aborted("ses_1", T + 5), at=5)
    assert brain.next_wake() is None
    stopped = failed(error=ErrorFacts(name="MessageAbortedError"))
    assert notes(feed(engine(), refused(), seen(stopped))[3:]) == ["stopped"]


def test_an_abort_by_a_move_that_is_not_ours_is_not_taken_for_the_users():
    brain = engine(policy=Policy(chains={"p/a": ("p/b",)}, mode=Mode.ASK))
    feed(brain, refused(), seen(retrying()))
    assert feed(brain, TakenOver("ses_1"), TakenOver("ses_2")) == []
    assert brain.cases.known("ses_1").phrase == "moved by hand"
    assert brain.cases.known("ses_2") is None


def test_our_own_abort_is_not_taken_for_the_users():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, Aborted("ses_1", T + 0.3))
    assert notes(feed(brain, end(move, MoveResult.MOVED), at=0.8)) == ["moved"]
    feed(brain, Aborted("ses_1", T + 0.3), at=1.3)  # 1.18 logs it up to a second late
    assert brain.cases.known("ses_1").phrase == "moved from p/a to p/b"
    feed(brain, Aborted("ses_1", T + 9), at=9)
    assert brain.cases.known("ses_1").phrase == "stopped by its user"


@pytest.mark.parametrize(("mode", "offers"), [(Mode.ASK, 1), (Mode.NOTIFY, 1), (Mode.OFF, 0)])
def test_modes_that_do_not_act(mode, offers):
    brain = engine(replace(POLICY, mode=mode))
    effects = feed(brain, refused(), seen(retrying()), refused(1), seen(retrying(1.1)))
    assert of(Move, effects) == []
    assert len(of(Tell, effects)) == offers


def test_moves_are_capped_per_session_and_hour():
    brain = engine(replace(POLICY, moves_per_hour=2))
    effects = []
    for n in range(4):
        moves = feed(brain, refused(n * 10), seen(retrying(n * 10, user_message=f"msg_{n}")), at=n * 10)
        effects += moves
        for move in of(Move, moves):
            feed(brain, end(move, MoveResult.MOVED), at=n * 10 + 1)
    assert len(of(Move, effects)) == 2
    assert "Too many moves" in [tell.title for tell in of(Tell, effects)]


def test_a_target_that_fails_is_not_tried_again_for_this_message():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    broken = failed(model=B, error=ErrorFacts(message="invalid x-api-key", status=401))
    (onwards,) = of(Move, feed(brain, end(move, MoveResult.FAILED, broken)))
    assert onwards.order.target.model == C


def test_of_a_limited_run_that_has_ended_nothing_is_said_any_more():
    brain = engine()
    run = retrying(door=replace(DOOR, run=True))
    effects = feed(brain, refused(), seen(run))
    assert "left" in notes(effects)
    assert not of(Move, effects)
    assert "opencode run" in brain.cases.of("ses_1", T).phrase
    look = brain.handle(Tick(), brain.next_wake())
    assert of(LookUp, look)
    assert notes(feed(brain, seen(run), at=31)) == []
    assert brain.cases.of("ses_1", T).phrase
    brain.handle(Tick(), brain.next_wake())
    assert feed(brain, Surveyed("ses_1", A, (), 1), at=62) == []
    assert brain.cases.of("ses_1", T).phrase == ""
    assert brain.next_wake() is None


def test_a_turn_that_we_stopped_and_could_not_start_again_is_started_until_it_runs():
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(retrying())))
    feed(brain, end(move, MoveResult.FAILED, None, stranded=True))
    assert of(LookUp, brain.handle(Tick(), brain.next_wake()))
    stopped = failed(5, error=ErrorFacts(name="MessageAbortedError"))
    (again,) = of(Move, feed(brain, seen(stopped), at=5))
    assert again.order.own_abort
    assert again.order.target.model == B


def test_a_move_left_unfinished_by_a_killed_daemon_is_finished():
    brain = engine()
    assert brain.resume("ses_1", (Claim("c1", Target(B)),), T) == [LookUp("ses_1", None)]
    stopped = failed(error=ErrorFacts(name="MessageAbortedError"))
    (move,) = of(Move, feed(brain, seen(stopped)))
    assert move.order.own_abort
    answered = retrying(state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    done = engine()
    done.resume("ses_1", (Claim("c1", Target(B)), Claim("c2", Target(A))), T)
    ended = feed(done, seen(answered))
    assert of(Move, ended) == []
    told = [(note.what, note.fields["claim"]) for note in of(Note, ended) if "claim" in note.fields]
    assert told == [("failed", "c1"), ("moved", "c2")], "it is on A, where it answered"
    assert not [note for note in of(Note, feed(done, seen(answered))) if "claim" in note.fields]


def test_a_move_left_unfinished_is_finished_however_many_sessions_are_limited_meanwhile():
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    brain.resume("ses_1", (Claim("c1", Target(B)),), T)
    for number in range(MOST_CASES):
        brain.cases.of(f"other_{number}", T)
    assert len(brain.cases.all()) == MOST_CASES
    (move,) = of(Move, feed(brain, seen(failed(error=ErrorFacts(name="MessageAbortedError")))))
    assert move.order.session == "ses_1"


def test_what_an_earlier_life_has_counted_is_no_second_strike_however_many_sessions_it_was():
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    brain.remember({f"ses_{number}": A for number in range(2 * MOST_CASES)}, (), T)
    for number in range(2 * MOST_CASES):
        brain.cases.of(f"other_{number}", T)
    feed(brain, Surveyed("ses_0", None, (retrying(session="ses_0"),), 1))
    assert ledger.cooling(A, T).strikes == 0, "counted before"
    feed(brain, Surveyed("other_0", None, (retrying(session="other_0"),), 1))
    assert ledger.cooling(A, T).strikes == 1, "nobody knew of this one"


def test_a_move_that_landed_while_the_daemon_was_killed_is_given_back_like_any_other():
    """Its second move: A was the first model, and it is to A that the session goes back."""
    (ledger := Ledger()).block(A, None, T)
    brain = engine(ledger=ledger)
    claim = Claim("c1", Target(C, "helper"), Target(A, "build"))
    brain.resume("ses_1", (claim,), T)
    there = retrying(model=C, state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    assert of(Remember, feed(brain, seen(there))) == [Remember("ses_1", Target(A, "build"), Target(C, "helper"))]
    assert of(Remember, feed(brain, seen(there))) == []
    # Limited there, it goes down the chain of its first model.
    again = feed(brain, refused(5, model=C), seen(retrying(5, model=C)), at=5)
    assert [move.order.target.model for move in of(Move, again)] == [B]
    (claimed,) = [note for note in of(Note, again) if note.what == "claim"]
    assert claimed.fields["origin"] == {"model": "p/a", "agent": "build"}


@pytest.mark.parametrize(
    ("claim", "model", "policy", "told"),
    [
        (Claim("c1", Target(A), Target(A, "build")), A, POLICY, [Remember("ses_1")]),  # that was the way back
        (Claim("c1", Target(B), Target(A)), A, POLICY, []),  # it has not landed
        (Claim("c1", Target(B)), B, POLICY, []),  # an older version's claim does not say where it came from
        (Claim("c1", Target(B), Target(A)), B, replace(POLICY, come_back=False), []),
    ],
)
def test_what_is_remembered_of_a_move_that_an_earlier_life_began(claim, model, policy, told):
    brain = engine(policy)
    brain.resume("ses_1", (claim,), T)
    there = retrying(model=model, state=SessionState.IDLE, attempt=None, answer_completed=True, answer_started=T)
    assert of(Remember, feed(brain, seen(there))) == told


def test_what_an_earlier_life_has_counted_is_acted_on_and_no_second_strike():
    before = engine()
    feed(before, refused())
    brain = engine(ledger=Ledger(before.ledger.entries()))
    again = replace(refused(), counted=True)
    assert of(Move, feed(brain, again, seen(retrying())))
    assert brain.ledger.cooling(A, T).strikes == 1


def test_what_an_earlier_life_was_told_is_no_second_strike_when_a_door_shows_it():
    before = engine()
    feed(before, refused())
    for refusals, shown in (({"ses_1": A}, []), ({}, [Shown("ses_1", A, "msg_1", 1, T)])):
        brain = engine(ledger=Ledger(before.ledger.entries()))
        brain.remember(refusals, shown, T)
        brain.resume("ses_1", (), T)
        assert of(Move, feed(brain, seen(retrying())))
        assert brain.ledger.cooling(A, T).strikes == 1
    unsaved = engine()
    unsaved.remember({"ses_1": A}, [], T)
    feed(unsaved, seen(retrying()))
    assert unsaved.ledger.cooling(A, T).strikes == 1


def test_a_door_that_is_slow_at_first_does_not_lose_what_an_earlier_life_left_open():
    before = engine()
    feed(before, refused())
    brain = engine(ledger=Ledger(before.ledger.entries()))
    brain.remember({"ses_1": A}, [], T)
    brain.look_at("ses_1", T)
    effects = feed(brain, Surveyed("ses_1", None, (), 0, failing=1))
    assert notes(effects) == ["unanswered"]
    assert brain.next_wake() is not None
    assert of(LookUp, brain.handle(Tick(), brain.next_wake()))
    assert of(Move, feed(brain, seen(retrying())))


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


def heard(at=0.0, facts=None, model="p/a"):
    return Heard("ses_1", T + at, model, facts)


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


# ---- the configuration is edited


def configured(**changes):
    return Configured(replace(POLICY, **changes), builtin())


def test_an_edit_moves_who_waited_to_the_new_stand_in_and_keeps_the_cooldown():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=3)))
    until = brain.ledger.cooling(A, T + 1).until
    saved, look = brain.handle(configured(wait=False, chains={"p/a": ("p/c",)}), T + 1)
    assert (look, [entry.target.model for entry in saved.changed]) == (LookUp("ses_1", None), [C])
    (move,) = of(Move, brain.handle(seen(retrying(1.1, wait=3)), T + 1.2))
    assert move.order.target.model == C
    assert brain.ledger.cooling(A, T + 1.2).until == until


@pytest.mark.parametrize(
    ("before", "change", "moves"),
    [
        ({"chains": {}}, {"chains": {"p/a": ("p/b",)}}, 1),
        ({"mode": Mode.ASK}, {"mode": Mode.AUTO}, 1),
        ({"moves_per_hour": 0}, {"moves_per_hour": 20}, 1),
        ({"mode": Mode.ASK}, {"mode": Mode.NOTIFY}, 0),
    ],
)
def test_an_edit_frees_who_was_stuck_offered_or_left(before, change, moves):
    brain = engine(replace(POLICY, **before))
    assert of(Move, feed(brain, refused(), seen(retrying()))) == []
    effects = brain.handle(Configured(replace(POLICY, **{**before, **change}), builtin()), T + 1)
    assert of(LookUp, effects) == [LookUp("ses_1", None)]
    assert len(of(Move, brain.handle(seen(retrying(1.1)), T + 1.2))) == moves


def test_an_edit_touches_no_cooldown_but_its_stand_in():
    brain = engine()
    whole = replace(SURE, scope=Scope.PROVIDER)
    feed(brain, refused(), refused(model=ModelRef("q", "x"), session="ses_2", verdict=whole))
    before = {entry.model: entry for entry in brain.ledger.entries()}
    assert brain.handle(configured(), T + 1) == []
    (saved,) = brain.handle(configured(chains={}), T + 1)
    assert [(entry.model, entry.target) for entry in saved.changed] == [(A, None)]
    assert {
        entry.model: replace(entry, target=before[entry.model].target) for entry in brain.ledger.entries()
    } == before


def test_a_whole_providers_stand_in_stays_where_no_chain_names_the_provider():
    brain = engine(replace(POLICY, chains={"q/x": ("p/b",)}))
    feed(brain, refused(model=ModelRef("q", "x"), verdict=replace(SURE, scope=Scope.PROVIDER)))
    assert brain.handle(configured(chains={"q/x": ("p/c",)}), T + 1) == []
    (saved,) = brain.handle(configured(chains={"q/*": ("p/c",)}), T + 1)
    assert [entry.target.model for entry in saved.changed] == [C]


def fields(what, effects):
    (note,) = [note for note in of(Note, effects) if note.what == what]
    return note.fields


def test_the_journal_tells_what_a_move_was_decided_on():
    ledger = Ledger()
    ledger.block(B, T + 60, T)
    hint = Hint(T + 3600, 3600.0, ToldBy.RETRY_AFTER, "Retry-After")
    effects = feed(engine(ledger=ledger), refused(hint=hint), seen(retrying()))
    evidence = fields("limit", effects)["evidence"]
    assert (evidence["at"], evidence["agent"], evidence["target"]) == (T, "build", "p/c")
    assert evidence["hint"]["source"] == "Retry-After"
    claim = fields("claim", effects)
    assert claim["why"] == "3600 s to wait, maxDelay is 30 s"
    assert claim["rests"] == {"until": T + 3600, "told_by": "retry-after", "kind": "rate_limit"}
    assert [(row["model"], row["why"], row.get("until")) for row in claim["considered"]] == [
        ("p/b", "rests (quota)", T + 60),
        ("p/c", "free", None),
    ]
    assert (claim["shown"]["state"], claim["shown"]["attempt"], claim["shown"]["next"]) == ("retry", 1, T + 3600)


def test_the_journal_tells_why_nothing_was_chosen():
    ledger = Ledger()
    ledger.block(B, T + 60, T)
    ledger.block(ModelRef("p", "*"), None, T)
    effects = feed(engine(ledger=ledger), refused(), seen(retrying()))
    rows = fields("exhausted", effects)["considered"]
    assert [(row["model"], row["why"]) for row in rows] == [
        ("p/b", "its provider rests"),
        ("p/c", "its provider rests"),
    ]


def test_every_session_that_waited_is_said_to_go_on():
    """The first answer ends the cooldown; the second session's return is no less one."""
    brain = engine()
    for session in ("ses_1", "ses_2"):
        feed(brain, refused(session=session), seen(retrying(wait=3, session=session), session))
    done = {"state": SessionState.IDLE, "answer_started": T - 1, "answer_ended": T + 5, "answer_completed": True}
    told = [notes(feed(brain, seen(retrying(6, session=s, **done), s), at=6)) for s in ("ses_1", "ses_2", "ses_2")]
    assert told == [["answered"], ["went_on"], []]


def test_a_stop_is_noted_once_and_only_of_a_limited_turn():
    brain = engine()
    feed(brain, refused(), seen(retrying(wait=20)))
    assert notes(feed(brain, Aborted("ses_1", T + 5), at=5)) == ["stopped"]
    assert notes(feed(brain, Aborted("ses_1", T + 6), at=6)) == []
