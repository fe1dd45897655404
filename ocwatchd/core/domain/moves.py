"""The values that describe a move: the session, the target and the result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ocwatchd.core.domain.snapshot import SessionSnapshot
from ocwatchd.core.domain.types import Cause, ModelRef, Target


@dataclass(frozen=True, slots=True)
class Order:
    """An order to make a move. `snapshot` is the state of the session on which the decision was based.

    `child` is a subagent that is stuck while its parent (`snapshot`) is waiting for it; in that case the parent is
    moved. `own_abort`: whether the answer shown in `snapshot` was aborted not by the user, but by an earlier move that
    did not finish. `looping`: whether OpenCode repeats the request to the limited model without a pause, so that a
    snapshot may show the session as busy or as waiting. `limited` is the limited model, if it is not the snapshot's
    model. `failing`: whether that model failed for a reason other than a limit.
    """

    snapshot: SessionSnapshot
    target: Target
    child: str | None = None
    own_abort: bool = False
    looping: bool = False
    limited: ModelRef | None = None
    failing: bool = False
    chosen: bool = False
    """Whether the user chose the target while the session was waiting."""
    until: float | None = None
    """When the limited model is available again, in epoch seconds; None if unknown."""
    cause: Cause | None = None
    """The reason for the move, if it is not a limit."""
    silence: float | None = None
    """How long, in seconds, the stuck session had been silent when the move was decided; None if unknown. For a
    subagent, `snapshot` does not contain this.
    """

    @property
    def stalled(self) -> bool:
        """Whether the running answer has stalled. If it has, a snapshot shows the session as busy."""
        return self.cause is Cause.STALL

    @property
    def session(self) -> str:
        """The id of the session that is stuck."""
        return self.child or self.snapshot.session

    def stopped(self, now: SessionSnapshot) -> bool:
        """Return whether the aborted answer in the snapshot `now` is the one that this move stopped, rather than a
        later one.
        """
        return self.snapshot.answer is None or now.answer == self.snapshot.answer

    @property
    def origin(self) -> ModelRef | None:
        """The model from which the session is moved."""
        return self.limited or self.snapshot.model or self.snapshot.prompt_model


@dataclass(frozen=True, slots=True)
class Claim:
    """A move to `target` that was claimed, that is, recorded before it was made. `name` identifies the claim.

    `origin` is the model and agent from which the session was first moved. `answer` is the id of the answer that the
    move was meant to stop (None if the journal does not contain the id).
    """

    name: str
    target: Target
    origin: Target | None = None
    answer: str | None = None


class MoveResult(StrEnum):
    """How a move ended."""

    MOVED = "moved"  # the target has begun to answer
    ALREADY = "already"  # the same prompt is already running on another model
    TARGET_LIMITED = "target_limited"  # the target was also limited, or it failed
    REFUSED = "refused"  # a precondition was not met; nothing was changed
    USER_TOOK_OVER = "user_took_over"  # the user aborted the turn or sent another prompt, which takes precedence
    SWITCHED = "switched"  # the model was changed; OpenCode's next attempt is far off and will use the new model
    FAILED = "failed"  # the move was made, but it is not known to have worked


class ReturnResult(StrEnum):
    """The result of an attempt to return a session to the model from which it was moved."""

    DONE = "done"
    LATER = "later"  # the session is busy, or OpenCode does not respond
    CHOSEN = "chosen"  # another model was chosen for the session since the move
    UNKNOWN = "unknown"  # none of the endpoints has the session


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """The result of a move.

    `snapshot` is the last snapshot of the session, or None if its endpoint failed. A failed endpoint does not count
    against the target.

    A FAILED move without `stranded` changed nothing, or ended with an error from the target; `snapshot` then contains
    that error. `stranded`: whether the move stopped the turn and nothing is known to be running; the prompt is stored,
    and a move with `own_abort` continues it. `posts` is the number of attempts to start the new run. `seconds` is the
    time from the start of the move to the target's message (None if there is no message). `first_token` is the time
    from the start of the new run to the beginning of its answer (or the time elapsed so far, if the answer has not
    begun).
    """

    result: MoveResult
    why: str = ""
    snapshot: SessionSnapshot | None = None
    posts: int = 0
    stranded: bool = False
    seconds: float | None = None
    first_token: float | None = None
