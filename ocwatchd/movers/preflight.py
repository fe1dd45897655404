"""The checks shared by all movers: a session has only one move at a time, and the target must exist.

`core.engine.guards` contains the rules by which a snapshot allows or forbids a move. The movers of both generations
apply them to a new snapshot just before they change anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.guards import Ruling
from ocwatchd.opencode.client.request import EndpointError, Trouble

T = TypeVar("T")


class Mover(Protocol):
    """A way to move a session. `name` is the mover's name in the journal."""

    name: str

    def move(self, order: Order) -> MoveOutcome:
        """Check a new snapshot, move the session and return the outcome. This may block for several seconds. It is safe
        to call it twice.
        """
        ...


class Offers(Protocol):
    """An endpoint that reports its models and agents."""

    def knows(self, model: ModelRef, directory: str | None) -> bool:
        """Return whether OpenCode offers the model."""
        ...

    def has_agent(self, agent: str, directory: str | None) -> bool:
        """Return whether the agent exists."""
        ...


def unknown_target(offers: Offers, target: Target, directory: str | None) -> Ruling | None:
    """Return the reason why the target cannot be used, or None if it can be used.

    OpenCode 1 accepts a prompt that names an unknown model or agent, but never runs the prompt. In OpenCode 2, such a
    turn fails.
    """
    if not offers.knows(target.model, directory):
        return Ruling(MoveResult.FAILED, f"OpenCode does not know the model {target.model}")
    if target.agent and not offers.has_agent(target.agent, directory):
        return Ruling(MoveResult.FAILED, f"OpenCode does not know the agent {target.agent}")
    return None


@dataclass(frozen=True, slots=True)
class MoveTime:
    """The clock and the sleep function that a move uses; tests replace them."""

    clock: Clock
    elapsed: Callable[[], float]
    sleep: Callable[[float], None]

    @classmethod
    def of(
        cls,
        clock: Clock | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> MoveTime:
        """Return a `MoveTime` with the given functions. The defaults are the machine's clock and `time.sleep`."""
        return cls(clock or SystemClock(), elapsed, sleep)


def repeated(
    call: Callable[[], T], pauses: Sequence[float], sleep: Callable[[float], None], *, twice: bool = True
) -> T:
    """Return the result of a call to an endpoint. If the call times out, the server reports an internal error, or there
    is no server, repeat the call after each of the `pauses` (seconds).

    `twice` must be False for a call that does harm if it takes effect twice. It is then repeated only if the first one
    was not sent, or was answered with an error. An OpenCode process that was busy or suspended carries out all calls
    that it has received meanwhile, including those that timed out.

    Raises:
        EndpointError: OpenCode refused the request (in this case, the call is not repeated), or the last call failed.
    """
    for pause in pauses:
        try:
            return call()
        except EndpointError as fault:
            lost = fault.trouble in (Trouble.UNREACHABLE, Trouble.TIMEOUT)
            again = (fault.unsent or twice) if lost else (fault.status or 0) >= 500
            if not again:
                raise
        sleep(pause)
    return call()


class OneAtATime:
    """Allows only one move of a session at a time. Thread-safe."""

    def __init__(self) -> None:
        """Initially, no move is in progress."""
        self._moving: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def alone(self, session: str) -> Iterator[bool]:
        """Yield True if this thread may move the session during the block, or False if another thread is moving it."""
        with self._lock:
            free = session not in self._moving
            self._moving.add(session)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._moving.discard(session)

    def move(self, order: Order, attempt: Callable[[], MoveOutcome]) -> MoveOutcome:
        """Run `attempt` and return its outcome. If another thread is moving the session, return a refusal instead."""
        with self.alone(order.snapshot.session) as free:
            if not free:
                return MoveOutcome(MoveResult.REFUSED, "another move of this session is under way", order.snapshot)
            return attempt()
