"""Tests of the launcher's movers whose server is slow to give its first response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.launcher.service_run import ClientMover
from ocwatchd.launcher.session_host import RunMover
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v1.responses import Session

SERVER = Endpoint(TcpAddress("127.0.0.1", 4096))
ORDER = Order(
    SessionSnapshot("ses_1", "/p", SERVER, SessionState.RETRY, model=ModelRef("p", "a")), Target(ModelRef("q", "b"))
)


class Ended:
    """A child that has ended."""

    def poll(self) -> int:
        return 1

    def end(self, *_: object) -> None:
        pass


class Host:
    @contextmanager
    def server(self, directory: str) -> Iterator[Endpoint]:
        yield SERVER

    def order(self, order: Order) -> Order:
        return order


@pytest.mark.parametrize("generation", [1, 2])
def test_nothing_is_run_before_its_answer_can_be_printed(generation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request to a server that has just started may time out. Without a printer, `oc-smart run` would wait
    for ever.
    """
    seen: list[str] = []

    def opened(endpoint: Endpoint, session: Session) -> None:
        seen.append("opened")
        if len(seen) == 1:
            raise EndpointError(endpoint, "GET /session/ID/message", Trouble.TIMEOUT, "no complete response in time")

    def run(_: object, order: Order) -> MoveOutcome:
        seen.append("run")
        return MoveOutcome(MoveResult.MOVED, "", order.snapshot)

    monkeypatch.setattr(RerunOverApi, "move", run)
    monkeypatch.setattr(SwitchModel, "move", run)
    child = cast("Any", Ended())
    mover: RunMover | ClientMover = (
        RunMover(child, cast("Any", Host()), SystemClock(), opened)
        if generation == 1
        else ClientMover(child, cast("Any", None), opened)
    )
    first, second = mover.move(ORDER), mover.move(ORDER)
    mover.close()
    assert (first.result, first.stranded) == (MoveResult.FAILED, True)
    assert second.result is MoveResult.MOVED
    assert seen == ["opened", "opened", "run"]
