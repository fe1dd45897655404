"""Tests of sessions that must not be moved."""

from __future__ import annotations

from dataclasses import replace

from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.snapshot import ABORTED, Endpoint, RunningTool, SessionSnapshot, SessionState, UnixAddress
from ocwatchd.core.domain.types import ErrorDetails, ModelRef, Target
from ocwatchd.core.engine.guards import forbidden, outcome

A, B = ModelRef("mock", "a"), Target(ModelRef("mock2", "b"))


def test_only_the_answer_that_we_stopped_ourselves_may_be_gone_on_from() -> None:
    """The user may stop the turn between two targets of a move down a chain by hand."""
    at_first = replace(stuck(False), answer="msg_2")
    aborted = replace(at_first, state=SessionState.ERROR, last_error=ErrorDetails(name=ABORTED))
    for answer, wanted in (("msg_2", None), ("msg_3", MoveResult.USER_TOOK_OVER)):
        ruling = forbidden(Order(at_first, B, own_abort=True), replace(aborted, answer=answer))
        assert (ruling.result if ruling else None) == wanted


def test_an_abort_never_ends_a_subagent_in_the_background() -> None:
    held = replace(stuck(False), background=("ses_child",))
    failed = replace(held, state=SessionState.ERROR, last_error=ErrorDetails(name="APIError"))
    parent = replace(held, state=SessionState.BUSY, running=(RunningTool("task", "ses_stuck"),))
    unnamed = replace(parent, running=(RunningTool("task"),), background=("ses_stuck",))  # 1.3.2 does this at times
    limited = frozenset(("ses_stuck",))
    for order, now, wanted in (
        (Order(held, B), held, MoveResult.REFUSED),
        (Order(failed, B), failed, None),
        (Order(parent, B, child="ses_stuck"), parent, MoveResult.REFUSED),
        (Order(unnamed, B, child="ses_stuck"), unnamed, None),
    ):
        ruling = forbidden(order, now, retrying=limited)
        assert (ruling.result if ruling else None) == wanted


def stuck(run: bool) -> SessionSnapshot:
    endpoint = Endpoint(UnixAddress("/state/doors/7.sock"), 7, "/project", run=run)
    return SessionSnapshot("ses_1", "/project", endpoint, SessionState.RETRY, model=A, user_message="msg_1")


def test_an_opencode_run_is_never_stopped_by_whoever_asks() -> None:
    for run, wanted in ((False, None), (True, MoveResult.REFUSED)):
        ruling = forbidden(Order(stuck(run), B), stuck(run))
        assert (ruling.result if ruling else None) == wanted


def test_an_answer_that_has_begun_is_a_move_that_worked_and_names_another_model() -> None:
    for model, why in ((B.model, "mock2/b answers"), (A, "mock/a answers, not mock2/b")):
        now = replace(stuck(False), state=SessionState.BUSY, model=model, answer="msg_3", answer_began=True)
        ruling = outcome(now, B.model, "msg_3")
        assert ruling is not None
        assert (ruling.result, ruling.why) == (MoveResult.MOVED, why)
