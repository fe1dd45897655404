"""Decide from snapshots whether a session may be moved and whether a move has worked. Pure functions.

A fallback can break the session that was moved to it, because it may reject what other models produced: Anthropic's
thinking mode requires a thinking block before each tool call in the running turn, and Gemini 3 requires a signature on
each call. Some models do not accept images, or have a smaller context window than they report. OpenCode 1.0 to 1.18
then ends the turn, which would remain unfinished.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.choice import named
from ocwatchd.core.policy import Policy
from ocwatchd.core.text.redact import reason_of


@dataclass(frozen=True, slots=True)
class Ruling:
    """The result of a move, with the reason for it."""

    result: MoveResult
    why: str


def forbidden(
    order: Order, now: SessionSnapshot, retrying: frozenset[str] = frozenset(), busy: frozenset[str] = frozenset()
) -> Ruling | None:
    """Return why the session in the snapshot `now` must not be moved, or None if it may be moved. `retrying` and `busy`
    contain the ids of those sessions in its directory that are waiting for a retry or are busy.
    """
    if now.endpoint.run:
        return Ruling(MoveResult.REFUSED, "`opencode run` would end without an answer")
    if now.aborted and not (order.own_abort and order.stopped(now)):
        return Ruling(MoveResult.USER_TOOK_OVER, "the turn was stopped")
    if now.user_message is None:
        return Ruling(MoveResult.REFUSED, "the session has no prompt")
    # A prompt that is queued behind the stuck prompt is moved with it. A prompt that replaced the stuck prompt is the
    # user's decision.
    if now.user_message != order.snapshot.user_message and not now.queued:
        return Ruling(MoveResult.USER_TOOK_OVER, "there is a new prompt")
    if now.parent in busy:  # if the subagent were aborted, its parent would see a canceled task
        return Ruling(MoveResult.REFUSED, "its parent is waiting for it, so the parent must be moved")
    if now.asking:
        return Ruling(MoveResult.REFUSED, "OpenCode is waiting for the user to answer a question")
    if order.child is not None and now.state is SessionState.BUSY:
        return _parent_forbidden(order.child, now, retrying | {order.child} if order.stalled else retrying)
    if order.stalled and now.state is SessionState.BUSY:
        return _stalled_forbidden(order, now)
    return _state_forbidden(order, now)


def _parent_forbidden(child: str, now: SessionSnapshot, retrying: frozenset[str]) -> Ruling | None:
    if child not in retrying:
        return Ruling(MoveResult.ALREADY, "the subagent is working again")
    if _one_unnamed_call(now):
        return _background_forbidden(waiting_for(child, now))
    if any(tool.child not in retrying for tool in now.running):
        return Ruling(MoveResult.REFUSED, "another tool is running alongside the subagent")
    return _background_forbidden(now)


def _one_unnamed_call(now: SessionSnapshot) -> bool:
    """Return whether the only running tool call belongs to a subagent that it does not name.

    In an `opencode run`, OpenCode 1.3.2 sometimes does not name the subagent in the task call, and neither does the
    preview of OpenCode 2.
    """
    return [(tool.tool, tool.child) for tool in now.running] in ([("task", None)], [("subagent", None)])


def waiting_for(child: str, parent: SessionSnapshot) -> SessionSnapshot:
    """Return the parent's snapshot without `child` in the list of subagents that work in the background, if the only
    running tool call names no subagent. It is then this subagent's call.
    """
    if not _one_unnamed_call(parent):
        return parent
    return replace(parent, background=tuple(other for other in parent.background if other != child))


def _background_forbidden(now: SessionSnapshot) -> Ruling | None:
    """Return why a session with subagents in the background must not be moved. If the turn has failed, return None,
    because the turn is not aborted but only run again.
    """
    if loses_background(now):
        return Ruling(MoveResult.REFUSED, in_background(now.background))
    return None


def loses_background(snapshot: SessionSnapshot) -> bool:
    """Return whether a move would stop subagents that are working in the background."""
    return bool(snapshot.background) and snapshot.state in (SessionState.RETRY, SessionState.BUSY)


def work_in_progress(snapshot: SessionSnapshot) -> bool:
    """Return whether a tool is running or a question is waiting for the user's answer. A move would destroy that work,
    unless it only switches the model.
    """
    return (snapshot.tool_running or snapshot.asking) and not snapshot.switchable


def in_background(children: Collection[str]) -> str:
    """Return a phrase with the number of subagents that are working in the background."""
    many = len(children) > 1
    return (
        f"{len(children)} subagents are working in the background"
        if many
        else "a subagent is working in the background"
    )


def _state_forbidden(order: Order, now: SessionSnapshot) -> Ruling | None:
    if now.state is SessionState.BUSY and not (order.looping and silent(now)):
        return Ruling(MoveResult.ALREADY, f"{now.model} is working on it")
    if now.state is SessionState.IDLE and order.own_abort and (now.queued or not now.answer_completed):
        return None  # ocwatchd has stopped the process, so the answer is unfinished or missing
    if now.state is SessionState.IDLE:
        why = (
            "the prompt is answered" if now.answer_completed and not now.queued else "no turn is waiting or has failed"
        )
        return Ruling(MoveResult.ALREADY if now.answer_completed else MoveResult.REFUSED, why)
    if now.tool_running:
        return Ruling(MoveResult.REFUSED, f"tool {now.running[0].tool} is running")
    if now.model == order.target.model != order.snapshot.model:
        return Ruling(MoveResult.ALREADY, f"it is already on {now.model}")
    return _background_forbidden(now)


def _stalled_forbidden(order: Order, now: SessionSnapshot) -> Ruling | None:
    """Return why a session whose answer has stalled must not be moved now.

    Return None if it may be moved. The caller checks that the answer is still silent. While the model is still writing
    a tool call, no tool is running.
    """
    if now.tool_executing:
        return Ruling(MoveResult.REFUSED, f"tool {now.running[0].tool} is running")
    if now.compacting or (now.answer != order.snapshot.answer and now.cut_steps < CUT_STEPS):
        return Ruling(MoveResult.ALREADY, f"{now.model} is working on it")
    return _background_forbidden(now)


CUT_STEPS = 3
"""Number of consecutive cut-off answers that are treated as a stall."""


def may_have_stalled(snapshot: SessionSnapshot) -> bool:
    """Return whether this busy session can only be waiting for its model.

    A busy session may also be waiting for a tool, a question, a subagent or a summary of the session.
    """
    waits = snapshot.tool_executing or snapshot.asking or snapshot.compacting or bool(snapshot.background)
    return snapshot.state is SessionState.BUSY and not waits


EMPTY_STEPS = 3
"""Number of consecutive empty answers that count as a failure. Without this maximum, OpenCode would repeat the request
indefinitely.
"""


def silent(snapshot: SessionSnapshot) -> bool:
    """Return whether the running answer is empty and no tool is running for it, so that nothing is lost if it is
    stopped.
    """
    holds = snapshot.answer_spoke if snapshot.empty_steps else snapshot.answer_began
    return not holds and not snapshot.tool_running


def failure(now: SessionSnapshot, answer: str) -> Ruling | None:
    """Return the result of a move whose target was limited, stopped or failed; otherwise, return None. `answer` is what
    the text calls the target's answer.
    """
    if now.state is SessionState.RETRY:
        return Ruling(MoveResult.TARGET_LIMITED, reason_of(now.message))
    if now.aborted:
        return Ruling(MoveResult.USER_TOOK_OVER, f"{answer} was stopped")
    if now.last_error is not None:
        return Ruling(MoveResult.FAILED, reason_of(now.last_error.message))
    return None


def outcome(now: SessionSnapshot, target: ModelRef, answer: str) -> Ruling | None:
    """Return the result of a move whose first message is `answer` (an id), or None while the result is unknown."""
    if now.empty_steps:
        why = f"{now.model} has sent {now.empty_steps} empty answers in a row"
        return Ruling(MoveResult.FAILED, why) if now.empty_steps >= EMPTY_STEPS else None
    if now.answer not in (None, answer):
        return Ruling(MoveResult.MOVED, f"{now.model} is working on it")  # this is a later step of the same run
    if (failed := failure(now, "the new run")) is not None:
        return failed
    if now.answer_began or now.answer_completed:
        # The companion plugin, or another plugin, may have chosen a different model for this prompt, so the text names
        # the model that answers.
        return Ruling(MoveResult.MOVED, f"{now.model} answers" + ("" if now.model == target else f", not {target}"))
    return None


OF_THE_MODEL = frozenset(("APIError", "ContextOverflowError", "ProviderAuthError"))
"""OpenCode's names for the errors of a model's provider (1.0 to 1.18). An answer that was stopped or became too long,
or an error in a tool itself, does not count against a model.
"""


def rejected(snapshot: SessionSnapshot, now: float, fresh: float) -> str | None:
    """Return the error message if a failure of the model ended the turn within the last `fresh` seconds; otherwise,
    None.
    """
    error = snapshot.last_error
    if snapshot.state is not SessionState.ERROR or error is None or error.name not in OF_THE_MODEL:
        return None
    if now - (snapshot.answer_ended or snapshot.seen) > fresh:
        return None
    return reason_of(error.message) or error.name


def replaced_model(snapshot: SessionSnapshot, policy: Policy, cooldowns: Cooldowns, now: float) -> ModelRef | None:
    """Return the limited model that the session used before its current model, which must be a fallback of the limited
    model. Return None if there is no such model.

    Usually prevention has replaced the model. The user may have chosen the fallback instead, but that choice has just
    failed.
    """
    for model in snapshot.before:
        limited = cooldowns.limited(model, now) is not None
        if limited and snapshot.model and named(snapshot.model, model, policy, agent=snapshot.agent):
            return model
    return None
