"""May this session be moved, and has the move worked? Both read from views alone."""

from __future__ import annotations

from dataclasses import dataclass

from ocwatchd.core.limits import ModelRef
from ocwatchd.core.moves import MoveResult, Order
from ocwatchd.core.reason import reason_of
from ocwatchd.core.views import SessionState, SessionView


@dataclass(frozen=True, slots=True)
class Ruling:
    """A result and why."""

    result: MoveResult
    why: str


def forbidden(
    order: Order, now: SessionView, retrying: frozenset[str] = frozenset(), busy: frozenset[str] = frozenset()
) -> Ruling | None:
    """Why the session may not be moved now; None if it may. `retrying` and `busy`: sessions of its directory."""
    if now.door.run:
        return Ruling(MoveResult.REFUSED, "`opencode run` would end without an answer")
    if now.aborted and not order.own_abort:
        return Ruling(MoveResult.USER_TOOK_OVER, "the turn was stopped")
    if now.user_message is None:
        return Ruling(MoveResult.REFUSED, "the session holds no prompt")
    # A prompt queued behind the stuck one comes along; a prompt that replaced it is the user's own affair.
    if now.user_message != order.view.user_message and not now.queued:
        return Ruling(MoveResult.USER_TOOK_OVER, "there is a new prompt")
    if now.parent in busy:  # an abort here would tell the parent that its task was cancelled
        return Ruling(MoveResult.REFUSED, "its parent waits for it: the parent is to be moved")
    if now.asking:
        return Ruling(MoveResult.REFUSED, "a question to the user is open")
    if order.child is not None and now.state is SessionState.BUSY:
        return _parent_forbidden(order.child, now, retrying)
    return _state_forbidden(order, now)


def _parent_forbidden(child: str, now: SessionView, retrying: frozenset[str]) -> Ruling | None:
    if child not in retrying:
        return Ruling(MoveResult.ALREADY, "the subagent works again")
    # 1.3.2 now and then does not name the subagent in its call (seen in `run`): a single such call is this one's.
    if [(tool.tool, tool.child) for tool in now.running] == [("task", None)]:
        return None
    if any(tool.child not in retrying for tool in now.running):
        return Ruling(MoveResult.REFUSED, "another tool is running beside the subagent")
    return None


def _state_forbidden(order: Order, now: SessionView) -> Ruling | None:
    if now.state is SessionState.BUSY and not (order.looping and silent(now)):
        return Ruling(MoveResult.ALREADY, f"{now.model} works on it")
    if now.state is SessionState.IDLE and order.own_abort and (now.queued or not now.answer_completed):
        return None  # the process was ended by us: it has left an answer that nobody will finish, or none at all
    if now.state is SessionState.IDLE:
        why = "the prompt is answered" if now.answer_completed and not now.queued else "nothing waits or has failed"
        return Ruling(MoveResult.ALREADY if now.answer_completed else MoveResult.REFUSED, why)
    if now.tool_running:
        return Ruling(MoveResult.REFUSED, f"tool {now.running[0].tool} is running")
    if now.model == order.target.model != order.view.model:
        return Ruling(MoveResult.ALREADY, f"it is on {now.model}")
    return None


def silent(view: SessionView) -> bool:
    """Whether the running answer holds nothing yet and nothing runs for it: to stop it loses nothing."""
    return not view.answer_began and not view.tool_running


def outcome(now: SessionView, target: ModelRef, answer: str) -> Ruling | None:
    """What a look says of a move whose first message is `answer`; None while it is undecided."""
    if now.answer not in (None, answer):
        return Ruling(MoveResult.MOVED, f"{now.model} works on it")  # a later step of the same run
    if now.state is SessionState.RETRY:
        return Ruling(MoveResult.TARGET_LIMITED, reason_of(now.message))
    if now.aborted:
        return Ruling(MoveResult.USER_TOOK_OVER, "the new run was stopped")
    if now.last_error is not None:
        return Ruling(MoveResult.FAILED, reason_of(now.last_error.message))
    if now.answer_began or now.answer_completed:
        # The companion plugin, or another one, may have chosen another model for this prompt.
        return Ruling(MoveResult.MOVED, f"{now.model} answers" + ("" if now.model == target else f", not {target}"))
    return None
