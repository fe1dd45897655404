"""What may never be moved."""

from __future__ import annotations

from ocwatchd.core.guards import forbidden
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.moves import MoveResult, Order
from ocwatchd.core.views import Door, SessionState, SessionView, UnixAddress

A, B = ModelRef("mock", "a"), Target(ModelRef("mock2", "b"))


def stuck(run: bool) -> SessionView:
    door = Door(UnixAddress("/state/doors/7.sock"), 7, "/project", run=run)
    return SessionView("ses_1", "/project", door, SessionState.RETRY, model=A, user_message="msg_1")


def test_an_opencode_run_is_never_stopped_by_whoever_asks() -> None:
    for run, wanted in ((False, None), (True, MoveResult.REFUSED)):
        ruling = forbidden(Order(stuck(run), B), stuck(run))
        assert (ruling.result if ruling else None) == wanted
