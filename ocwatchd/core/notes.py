"""What is written down and said about a decision: the wording of journal lines and notices, apart from the deciding."""

from __future__ import annotations

from ocwatchd.core.fallback import Exhausted
from ocwatchd.core.foresight import Threat
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import LimitEvent, ModelRef, Target
from ocwatchd.core.messages import Effect, MoveEnded, Note, Prevented, Tell
from ocwatchd.core.money import Purse, dollars
from ocwatchd.core.moves import Claim, MoveResult, Order
from ocwatchd.core.policy import Mode
from ocwatchd.core.views import SessionState, SessionView

WORDS = 200
"""Characters kept of OpenCode's words for a retry or an error."""


def limit(event: LimitEvent, entry: Cooldown, live: bool) -> Note:
    """A refused attempt was entered in the register."""
    fields: dict[str, object] = {
        "model": str(event.ref),
        "session": event.session,
        "kind": entry.kind.value,
        "scope": entry.scope.value,
        "until": entry.until,
        "told_by": entry.told_by.value,
        "strikes": entry.strikes,
        "rule": event.verdict.rule,
        "reason": event.reason,
        "small": event.small,
        "history": not live,
        "file": event.file,
        "offset": event.offset,
        "evidence": _evidence(event, entry),
    }
    return Note("limit", fields)


def _evidence(event: LimitEvent, entry: Cooldown) -> dict[str, object]:
    """What the limit rests on; never more of the provider's words than the reason."""
    hint = event.hint
    told = hint and {
        "source": hint.source,
        "until": hint.until,
        "told_by": hint.told_by.value,
        "estimated": hint.estimated,
        "tamed": hint.tamed,
    }
    return {
        "at": event.time,
        "entry": str(entry.model),
        "agent": event.agent,
        "status": event.status,
        "because": event.verdict.why,
        "hint": told,
        "target": str(entry.target.model) if entry.target else None,
    }


def told(session: str, entry: Cooldown, source: str) -> Note:
    """The end of a cooldown that is known already was told more exactly."""
    fields: dict[str, object] = {
        "session": session,
        "model": str(entry.model),
        "until": entry.until,
        "told_by": entry.told_by.value,
        "source": source,
    }
    return Note("told", fields)


def foreseen(entry: Cooldown, threat: Threat, considered: list[dict[str, object]]) -> Note:
    """New prompts go elsewhere, because the model is about to be limited."""
    found = threat.forecast
    fields: dict[str, object] = {
        "model": str(entry.model),
        "until": entry.until,
        "told_by": entry.told_by.value,
        "why": threat.why,
        "target": str(entry.target.model) if entry.target else None,
        "agent": entry.target.agent if entry.target else None,
        "forecast": {
            "label": found.label.value,
            "measure": found.measure and found.measure.value,
            "window_seconds": found.window,
            "used": found.used,
            "limit": found.limit,
            "left": found.left,
            "takes": threat.takes,
            "hits": found.hits,
        },
        "considered": considered,
    }
    return Note("foreseen", fields)


def eased(model: ModelRef) -> Note:
    """A forecast is taken back before its time: there is room again, or nobody wants it any more."""
    return Note("eased", {"model": str(model)})


def budget(purse: Purse, now: float) -> list[Effect]:
    """The day's budget is spent, or there is room in it again."""
    fields: dict[str, object] = {"budget": purse.budget, "spent": round(purse.spent, 6), "over": purse.over}
    if not purse.over:
        return [Note("budget", fields)]
    text = f"{dollars(purse.spent)} of {dollars(purse.budget or 0)}: no paid model is chosen as a stand-in any more"
    return [Note("budget", fields), Tell(f"budget:{now:.0f}", "Today's budget is spent", text)]


def answered(view: SessionView, entry: Cooldown, began: float) -> Note:
    """A model that was cooling has answered; `began` is when it was asked at the earliest, epoch seconds."""
    return Note("answered", _about(view) | {"model": str(entry.model), "began": began})


def went_on(view: SessionView, began: float) -> Note:
    """A session that waited goes on with the model it had, whose cooldown was over already."""
    return Note("went_on", _about(view) | {"began": began})


def stopped(session: str) -> Note:
    """A limited turn was stopped by its user."""
    return Note("stopped", {"session": session, "why": "by its user"})


def wait(view: SessionView, why: str) -> Note:
    """The turn is left to OpenCode's own retry."""
    return Note("wait", _about(view) | {"attempt": view.attempt, "why": why})


def doubtful(view: SessionView, words: str) -> Note:
    """A retry whose words prove nothing; kept so that a rule can be made."""
    return Note("doubtful", _about(view) | {"attempt": view.attempt, "reason": words})


def left(view: SessionView, why: str) -> Note:
    """A limited session is left as it is."""
    return Note("left", _about(view) | {"why": why})


def prevented(news: Prevented) -> Note:
    """A new prompt did not go to the stand-in that the register names."""
    chosen = [{"model": news.target, "why": "free", "chosen": True}] if news.target else []
    fields: dict[str, object] = {
        "session": news.session,
        "model": news.model,
        "target": news.target,
        "at": news.time,
        "considered": [*({"model": model, "why": why} for model, why in news.passed), *chosen],
    }
    return Note("prevented", fields)


def rejected(view: SessionView, words: str) -> Note:
    """A stand-in fails the session that it was given."""
    return Note("rejected", _about(view) | {"why": words})


def freed(view: SessionView) -> Note:
    """A limited subagent is stopped for the sake of its parent."""
    return Note("freed", _about(view) | {"parent": view.parent})


def blocked(entry: Cooldown) -> Note:
    """A person blocks a model."""
    return Note("blocked", {"model": str(entry.model), "kind": entry.kind.value, "until": entry.until})


def cleared(model: ModelRef) -> Note:
    """A person lets a model be used again."""
    return Note("cleared", {"model": str(model)})


def claim(
    ident: str,
    order: Order,
    stuck: SessionView,
    why: str,
    rests: Cooldown | None = None,
    considered: list[dict[str, object]] | None = None,
    origin: Target | None = None,
) -> Note:
    """A move is about to begin; on disk before it does, so that a killed daemon's successor can finish it.

    `why` says why the `stuck` session is moved instead of left to wait, `rests` is the cooldown that it gets out of the
    way of, `considered` tells which targets were looked at, `origin` to what the session is given back.
    """
    fields: dict[str, object] = {
        "session": order.session,
        "model": str(order.origin),
        "shown": _shown(stuck),
        "claim": ident,
        "moved": order.view.session,
        "message": order.view.user_message,
        "target": str(order.target.model),
        "agent": order.target.agent,
        "origin": origin and {"model": str(origin.model), "agent": origin.agent},
        "directory": order.view.directory,
        "why": why,
        "rests": rests and {"until": rests.until, "told_by": rests.told_by.value, "kind": rests.kind.value},
        "considered": considered,
    }
    return Note("claim", fields, durable=True)


def found_after(view: SessionView, claim: Claim) -> Note:
    """A move that an earlier life began, and of whose end it wrote nothing, is over: this is what a door shows now."""
    landed = (
        view.model == claim.target.model and view.state in (SessionState.BUSY, SessionState.IDLE) and not view.aborted
    )
    result = MoveResult.MOVED if landed else MoveResult.FAILED
    why = f"ocwatchd ended in the middle of it; now the session is on {view.model}: {view.state.value}"
    fields: dict[str, object] = {
        "session": view.session,
        "claim": claim.name,
        "target": str(claim.target.model),
        "why": why,
    }
    return Note(result.value, fields | {"shown": _shown(view)})


def ended(end: MoveEnded) -> Note:
    """How a move ended."""
    order, outcome = end.order, end.outcome
    fields: dict[str, object] = {
        "claim": end.claim,
        "session": order.session,
        "model": str(order.origin) if order.origin else None,
        "target": str(order.target.model),
        "agent": order.target.agent,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
        "first_token_seconds": None if outcome.first_token is None else round(outcome.first_token, 3),
        "why": outcome.why,
    }
    return Note(outcome.result.value, fields, durable=True)


def offer(view: SessionView, entry: Cooldown, mode: Mode) -> list[Effect]:
    """A person decides."""
    text = f"move it with: ocwatch redirect {view.session}" if mode is Mode.ASK else "it is left as it is"
    matter = f"offer:{view.session}:{view.user_message}:{entry.since}"
    return [Note("offered", _about(view) | {"mode": mode.value}), _tell(view, matter, f"{view.model} is limited", text)]


def too_many_moves(view: SessionView, why: str) -> list[Effect]:
    """The backstop against loops."""
    return [left(view, why), _tell(view, f"cap:{view.session}", "Too many moves", why)]


def exhausted(
    view: SessionView, choice: Exhausted, why: str, now: float, considered: list[dict[str, object]] | None = None
) -> list[Effect]:
    """Nothing is free: the one notice names the soonest return."""
    at = choice.soonest[1] if choice.soonest else None
    # A matter of its own each time: whether it was told already is the engine's to know, per chain.
    notice = _tell(view, f"exhausted:{view.session}:{now}", "Every model is limited", why, at)
    return [Note("exhausted", _about(view) | {"why": why, "until": at, "considered": considered}), notice]


def moved(end: MoveEnded) -> Tell:
    """Said only after the target was seen to work."""
    order = end.order
    trouble = "fails the session" if order.failing else "is limited"
    title, text = "Moved to another model", f"{order.origin} {trouble}: {order.target.model} goes on"
    if end.outcome.view is None:
        return Tell(f"moved:{end.claim}", title, text, order.session)
    return _tell(end.outcome.view, f"moved:{end.claim}", title, text)


def _about(view: SessionView) -> dict[str, object]:
    return {"session": view.session, "model": str(view.model), "shown": _shown(view)}


def _shown(view: SessionView) -> dict[str, object]:
    """What the door showed when this was decided."""
    return {
        "at": view.seen,
        "state": view.state.value,
        "attempt": view.attempt,
        "next": view.next_at,
        "words": (view.message or (view.last_error.message if view.last_error else ""))[:WORDS],
        "agent": view.agent,
        "door": str(view.door),
        "version": view.version,
    }


def _tell(view: SessionView, matter: str, title: str, text: str, at: float | None = None) -> Tell:
    return Tell(matter, title, text, view.session, view.door, view.directory, at)
