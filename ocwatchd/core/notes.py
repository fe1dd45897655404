"""What is written down and said about a decision: the wording of journal lines and notices, apart from the deciding."""

from __future__ import annotations

from ocwatchd.core.fallback import Exhausted
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import LimitEvent, ModelRef
from ocwatchd.core.messages import Effect, MoveEnded, Note, Tell
from ocwatchd.core.moves import Order
from ocwatchd.core.policy import Mode
from ocwatchd.core.views import SessionView


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
    }
    return Note("limit", fields)


def answered(view: SessionView, entry: Cooldown) -> Note:
    """A model that was cooling has answered."""
    return Note("answered", _about(view) | {"model": str(entry.model)})


def wait(view: SessionView, why: str) -> Note:
    """The turn is left to OpenCode's own retry."""
    return Note("wait", _about(view) | {"attempt": view.attempt, "why": why})


def doubtful(view: SessionView, words: str) -> Note:
    """A retry whose words prove nothing; kept so that a rule can be made."""
    return Note("doubtful", _about(view) | {"attempt": view.attempt, "reason": words})


def left(view: SessionView, why: str) -> Note:
    """A limited session is left as it is."""
    return Note("left", _about(view) | {"why": why})


def freed(view: SessionView) -> Note:
    """A limited subagent is stopped for the sake of its parent."""
    return Note("freed", _about(view) | {"parent": view.parent})


def claim(ident: str, order: Order) -> Note:
    """A move is about to begin; on disk before it does, so that a killed daemon's successor can finish it."""
    fields: dict[str, object] = {
        "session": order.session,
        "model": str(order.origin),
        "claim": ident,
        "moved": order.view.session,
        "message": order.view.user_message,
        "target": str(order.target.model),
        "agent": order.target.agent,
        "directory": order.view.directory,
    }
    return Note("claim", fields, durable=True)


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
        "why": outcome.why,
    }
    return Note(outcome.result.value, fields, durable=True)


def unreachable(session: str, model: ModelRef | None, why: str) -> list[Effect]:
    """No door leads to a limited session."""
    text = f"{why}: switch the model by hand, or start OpenCode with --port"
    return [
        Note("unreachable", {"session": session, "model": str(model), "why": why}),
        Tell(f"unreachable:{session}", f"{model} is limited", text, session),
    ]


def offer(view: SessionView, entry: Cooldown, mode: Mode) -> list[Effect]:
    """A person decides."""
    text = f"move it with: ocwatch redirect {view.session}" if mode is Mode.ASK else "it is left as it is"
    matter = f"offer:{view.session}:{view.user_message}:{entry.since}"
    return [Note("offered", _about(view) | {"mode": mode.value}), _tell(view, matter, f"{view.model} is limited", text)]


def too_many_moves(view: SessionView, why: str) -> list[Effect]:
    """The backstop against loops."""
    return [left(view, why), _tell(view, f"cap:{view.session}", "Too many moves", why)]


def exhausted(view: SessionView, choice: Exhausted, why: str, now: float) -> list[Effect]:
    """Nothing is free: the one notice names the soonest return."""
    at = choice.soonest[1] if choice.soonest else None
    # A matter of its own each time: whether it was told already is the engine's to know, per chain.
    notice = _tell(view, f"exhausted:{view.session}:{now}", "Every model is limited", why, at)
    return [Note("exhausted", _about(view) | {"why": why, "until": at}), notice]


def moved(end: MoveEnded) -> Tell:
    """Said only after the target was seen to work."""
    order = end.order
    title, text = "Moved to another model", f"{order.origin} is limited: {order.target.model} goes on"
    if end.outcome.view is None:
        return Tell(f"moved:{end.claim}", title, text, order.session)
    return _tell(end.outcome.view, f"moved:{end.claim}", title, text)


def _about(view: SessionView) -> dict[str, object]:
    return {"session": view.session, "model": str(view.model)}


def _tell(view: SessionView, matter: str, title: str, text: str, at: float | None = None) -> Tell:
    return Tell(matter, title, text, view.session, view.door, view.directory, at)
