"""A move as a value: what is ordered, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.views import SessionView


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be moved whereto. `view` is what the decision was made on.

    `child` is a subagent that is stuck while `view`, its parent, waits for it: then the parent is moved. `own_abort`:
    an earlier attempt of ours stopped the turn and got no further, so that abort is not the user's. `looping`: OpenCode
    asks the refusing model again without a pause, so that a look may as well find it asking as waiting. `limited` is
    the model that refuses, where it is not the view's own; `failing` says that it is no limit for which it does.
    """

    view: SessionView
    target: Target
    child: str | None = None
    own_abort: bool = False
    looping: bool = False
    limited: ModelRef | None = None
    failing: bool = False

    @property
    def session(self) -> str:
        """The session that is stuck, for whose sake the move is made."""
        return self.child or self.view.session

    @property
    def origin(self) -> ModelRef | None:
        """The model that the move leads away from."""
        return self.limited or self.view.model or self.view.prompt_model


@dataclass(frozen=True, slots=True)
class Claim:
    """A move that was claimed by this `name`: to `target`, in a session that was first moved away from `origin` (None:
    the journal does not say).
    """

    name: str
    target: Target
    origin: Target | None = None


class MoveResult(StrEnum):
    """How a move ended."""

    MOVED = "moved"  # the target's answer was seen to begin
    ALREADY = "already"  # the same message already runs elsewhere
    TARGET_LIMITED = "target_limited"  # the target refused as well
    REFUSED = "refused"  # a guard held: nothing was touched
    USER_TOOK_OVER = "user_took_over"  # a person aborted or sent something else: theirs is the say
    FAILED = "failed"  # tried, and could not be shown to have worked


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """What happened. `view` is the session as last seen; None if its door failed us, which is not the target's fault.

    FAILED without `stranded` touched nothing, or ended on the target in an error of its own (in `view`).
    `stranded`: we stopped the turn and nothing is known to run; the prompt is in the store, and a move with `own_abort`
    goes on. `posts` counts the attempts to start the new run, `seconds` from the call to the target's message (None
    without one), `first_token` from the start of the run to the beginning of its answer; of one that has not spoken
    yet, so far.
    """

    result: MoveResult
    why: str = ""
    view: SessionView | None = None
    posts: int = 0
    stranded: bool = False
    seconds: float | None = None
    first_token: float | None = None
