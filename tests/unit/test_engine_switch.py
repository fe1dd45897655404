"""Tests of sessions whose model can be changed while they wait: moves without a stop, subagents, returns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.moves import Claim, MoveResult, ReturnResult
from ocwatchd.core.domain.snapshot import RunClient, RunningTool, SessionState
from ocwatchd.core.domain.types import ErrorDetails, Hint, LimitKind, ModelRef, ResetSource, Target
from ocwatchd.core.engine.assess import refusal_of
from ocwatchd.core.engine.messages import Aborted, Failure, Move, Probe, Remember, ReturnSession, SessionReturned, Tick
from ocwatchd.core.policy import Mode
from tests.support.rules import builtin
from tests.unit.brain import POLICY, A, B, C, T, end, engine, failed, feed, fields, notes, of, refused, retrying, seen

QUIET = replace(POLICY, return_to_primary=False)


def waiting(**more):
    return retrying(switchable=True, honoured=True, **{"prompt_model": None, **more})


def test_a_subagent_is_moved_by_itself_and_only_while_it_waits() -> None:
    (move,) = of(Move, feed(engine(), refused(), seen(waiting(parent="ses_0"))))
    assert (move.order.snapshot.session, move.order.child, move.order.target.model) == ("ses_1", None, B)
    over = failed(switchable=True, parent="ses_0")
    assert notes(feed(engine(), refused(), seen(over)))[-1] == "left"


def test_a_running_tool_or_a_question_elsewhere_does_not_hold_it() -> None:
    for more in ({"running": (RunningTool("shell"),)}, {"asking": True}):
        assert of(Move, feed(engine(), refused(), seen(waiting(**more))))
        assert not of(Move, feed(engine(), refused(), seen(retrying(**more))))


def test_the_turn_of_a_run_that_has_failed_is_left() -> None:
    assert of(Move, feed(engine(), refused(), seen(waiting(belongs_to_run=True))))
    assert notes(feed(engine(), refused(), seen(failed(switchable=True, belongs_to_run=True))))[-1] == "left"


def test_a_switched_model_has_moved_when_it_is_asked() -> None:
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(waiting())))
    told = feed(brain, end(move, MoveResult.SWITCHED, waiting(wait=60.0, prompt_model=B), why="later"), at=1)
    assert notes(told) == ["switched"]
    assert of(Remember, told) == [Remember("ses_1", Target(A, "build"), Target(B, "build"))]
    assert notes(feed(brain, seen(waiting(wait=60.0, prompt_model=B)), at=2)) == ["wait"], "it is done already"
    on = retrying(61, state=SessionState.BUSY, attempt=None, next_at=None, model=B, prompt_model=B, answer_began=True)
    effects = feed(brain, seen(on), at=61.5)
    assert notes(effects) == ["moved"], "it is written down once"


def test_what_the_user_has_chosen_meanwhile_goes_before_the_chain_and_is_kept() -> None:
    brain = engine()
    (move,) = of(Move, feed(brain, refused(), seen(waiting(prompt_model=C))))
    assert (move.order.target.model, move.order.chosen) == (C, True)
    on = retrying(2, state=SessionState.BUSY, attempt=None, next_at=None, model=C, prompt_model=C, answer_began=True)
    assert of(Remember, feed(brain, end(move, MoveResult.MOVED, on), at=2)) == [Remember("ses_1")]


def moved(brain):
    (move,) = of(Move, feed(brain, refused(hint=Hint(T + 60, 60, ResetSource.STATUS, "x")), seen(waiting(wait=60.0))))
    on = retrying(2, state=SessionState.BUSY, attempt=None, next_at=None, model=B, prompt_model=B, answer_began=True)
    feed(brain, end(move, MoveResult.MOVED, on), at=2)


def back(effects):
    return of(ReturnSession, effects)


def test_it_is_given_back_when_the_first_model_is_free_and_not_before() -> None:
    brain = engine()
    moved(brain)
    assert back(feed(brain, Tick(), at=59)) == []
    (asked,) = back(feed(brain, Tick(), at=61))
    assert (asked.session, asked.origin.model, asked.target.model) == ("ses_1", A, B)
    assert back(feed(brain, Tick(), at=62)) == [], "once is enough"
    done = feed(brain, SessionReturned("ses_1", asked.target, ReturnResult.DONE), at=62)
    assert (of(Remember, done), fields("returned", done)["model"]) == ([Remember("ses_1")], "p/a")
    assert back(feed(brain, Tick(), at=100)) == []


def test_a_session_at_work_is_given_back_later_and_one_with_another_choice_never() -> None:
    brain = engine()
    moved(brain)
    (asked,) = back(feed(brain, Tick(), at=61))
    assert feed(brain, SessionReturned("ses_1", asked.target, ReturnResult.LATER), at=61) == []
    assert back(feed(brain, Tick(), at=62)) == []
    assert back(feed(brain, Tick(), at=64))
    assert feed(brain, SessionReturned("ses_1", asked.target, ReturnResult.CHOSEN), at=65) == [Remember("ses_1")]
    assert back(feed(brain, Tick(), at=400)) == []


@pytest.mark.parametrize("policy", [QUIET, replace(POLICY, mode=Mode.NOTIFY)])
def test_nothing_is_given_back_where_that_is_not_wanted(policy) -> None:
    brain = engine(policy)
    brain.returns.note([Remember("ses_1", Target(A), Target(B))])
    assert back(feed(brain, Tick(), at=61)) == []


@pytest.mark.parametrize(("exact", "told"), [(True, ["stopped"]), (False, [])])
def test_an_interrupt_with_an_exact_time_right_after_a_move_is_the_user_s(exact, told) -> None:
    brain = engine(replace(POLICY, chains={"p/a": ("p/b",)}))
    (move,) = of(Move, feed(brain, refused(), seen(waiting())))
    feed(brain, end(move, MoveResult.TARGET_LIMITED, waiting(model=B)), at=2)
    assert notes(feed(brain, Aborted("ses_1", T + 1, exact=exact), at=2)) == [], "our own"
    assert notes(feed(brain, Aborted("ses_1", T + 2.1, exact=exact), at=2.2)) == told


def test_a_fallback_that_is_limited_after_a_restart_has_the_chain_of_the_first_model() -> None:
    brain = engine()
    brain.remember_origins({"ses_1": Claim("claim1", Target(B, "build"), Target(A, "build"))})
    brain.handle(refused(), T)
    (move,) = of(Move, feed(brain, refused(model=B), seen(waiting(model=B))))
    assert move.order.target.model == C


def test_a_run_s_session_is_told_by_directory_and_time() -> None:
    run = RunClient("/p", 100.0, anew=True)
    assert run.may_own("/p", 100.5)
    assert not run.may_own("/p", 90.0)
    assert not run.may_own("/q", 100.5)
    assert RunClient("/p", 100.0, anew=False).may_own("/p", 90.0)
    named = RunClient("/p", 100.0, anew=False, session="ses_1")
    assert named.may_own("/q", 90.0, "ses_1")
    assert named.may_own("/p", 101.0, "ses_3", "ses_1")
    assert not named.may_own("/p", 101.0, "ses_2")
    gone = replace(run, ended=110.0)
    assert gone.may_own("/p", 109.0)
    assert not gone.may_own("/p", 120.0)


def failure(message: str, status: int | None = None, typed: LimitKind | None = None, hint: Hint | None = None):
    facts = ErrorDetails(message=message, status=status, name="APIError", typed=typed)
    return refusal_of(
        Failure("ses_1", ModelRef("p", "a"), "build", T, facts, hint, live=True, final=False, number=7), builtin()
    )


def test_opencode_s_own_type_counts_only_where_nothing_else_is_known() -> None:
    assert failure("zzz", None, LimitKind.RATE_LIMIT).verdict.certainty == "sure"
    assert failure("zzz", None, None).verdict.certainty == "unknown"
    assert failure("zzz", 400, LimitKind.RATE_LIMIT).verdict.certainty == "no"
    assert failure("The word 'rate limit' is not allowed here", 400, LimitKind.RATE_LIMIT).verdict.certainty != "sure"
    honoured = Hint(T + 600, 600, ResetSource.STATUS, "OpenCode's next attempt")
    assert failure("zzz", None, None, honoured).verdict.certainty == "sure"


def test_the_recorded_times_of_a_run_may_be_two_seconds_late() -> None:
    run = RunClient("/p", 100.0, anew=True, ended=110.0)
    assert [run.may_own("/p", created) for created in (97.9, 98.0, 112.0, 112.1)] == [False, True, True, False]


def test_a_log_line_without_a_model_about_a_known_refusal_is_none() -> None:
    """OpenCode 2 logs a failed turn up to half a second after its events."""
    brain = engine()
    feed(brain, refused())
    nameless = replace(refused().event, time=T + 0.4, provider=None, model=None)
    assert feed(brain, replace(refused(), event=nameless), at=0.5) == []
    assert [type(effect) for effect in feed(engine(), replace(refused(), event=nameless), at=0.5)] == [Probe]
