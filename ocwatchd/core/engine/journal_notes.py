"""Create the journal lines and notices about the engine's decisions: their fields and their wording."""

from __future__ import annotations

from shlex import quote

from ocwatchd.core.domain.budget import DayBudget, dollars
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.moves import Claim, MoveResult, Order
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.types import LimitEvent, ModelRef, Target
from ocwatchd.core.engine.messages import Effect, MoveEnded, Note, Notify, Prevented
from ocwatchd.core.engine.session import ParkedTurn, UnexpectedEvent
from ocwatchd.core.fallback.choice import Exhausted
from ocwatchd.core.forecast.prevention import Threat
from ocwatchd.core.policy import Mode, WhenExhausted
from ocwatchd.core.text.redact import reason_of

WORDS = 200
"""Maximum length, in characters, of a stored message from OpenCode about a retry or an error."""


def limit(event: LimitEvent, entry: Cooldown, live: bool) -> Note:
    """Return a note saying that a limit was written to the blacklist."""
    fields: dict[str, object] = {
        "model": str(event.ref),
        "session": event.session,
        "kind": (event.verdict.kind or entry.kind).value,
        "scope": (event.verdict.scope or entry.scope).value,
        "until": entry.until,
        "reset_source": entry.reset_source.value,
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
    """Return the evidence for the limit: how it was recognized, and the source of its reset time."""
    hint = event.hint
    reported = hint and {
        "source": hint.source,
        "until": hint.until,
        "reset_source": hint.reset_source.value,
        "estimated": hint.estimated,
        "tamed": hint.tamed,
    }
    return {
        "at": event.time,
        "entry": str(entry.model),
        "agent": event.agent,
        "status": event.status,
        "because": event.verdict.why,
        "hint": reported,
        "target": str(entry.target.model) if entry.target else None,
    }


def refined(session: str, entry: Cooldown, source: str) -> Note:
    """Return a note saying that the reset time of a known cooldown is now known more precisely."""
    fields: dict[str, object] = {
        "session": session,
        "model": str(entry.model),
        "until": entry.until,
        "reset_source": entry.reset_source.value,
        "source": source,
    }
    return Note("told", fields)


def foreseen(entry: Cooldown, threat: Threat, considered: list[dict[str, object]]) -> Note:
    """Return a note saying that new prompts go to a fallback because the model is about to be limited."""
    found = threat.forecast
    fields: dict[str, object] = {
        "model": str(entry.model),
        "until": entry.until,
        "reset_source": entry.reset_source.value,
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
    """Return a note saying that a forecast was removed, because the model is no longer close to a limit or forecasts
    were disabled.
    """
    return Note("eased", {"model": str(model)})


def budget(day_budget: DayBudget, now: float) -> list[Effect]:
    """Return the effects for a day's budget that has been spent, or that is available again."""
    fields: dict[str, object] = {
        "budget": day_budget.budget,
        "spent": round(day_budget.spent, 6),
        "over": day_budget.over,
    }
    if not day_budget.over:
        return [Note("budget", fields)]
    text = f"{dollars(day_budget.spent)} of {dollars(day_budget.budget or 0)}: paid fallbacks are no longer used"
    return [Note("budget", fields), Notify(f"budget:{now:.0f}", "Today's budget is spent", text)]


def answered(snapshot: SessionSnapshot, entry: Cooldown, began: float) -> Note:
    """Return a note saying that a model answered although it was cooling down. `began` is the earliest possible start
    of the request (epoch seconds).
    """
    return Note("answered", _about(snapshot) | {"model": str(entry.model), "began": began})


def went_on(snapshot: SessionSnapshot, began: float) -> Note:
    """Return a note saying that a waiting session continues with its own model, whose cooldown has ended."""
    return Note("went_on", _about(snapshot) | {"began": began})


def stopped(session: str) -> Note:
    """Return a note saying that the user stopped a limited turn."""
    return Note("stopped", {"session": session, "why": "by its user"})


def unexpected(fault: UnexpectedEvent) -> Note:
    """Return the note about an event that the table of transitions does not contain. The event was ignored. It
    indicates a bug.
    """
    why = f"{fault.event.value}; this event was ignored"
    return Note("unexpected", {"session": fault.session, "state": fault.state.value, "why": why})


def wait(snapshot: SessionSnapshot, why: str) -> Note:
    """Return a note saying that the turn is waiting for OpenCode's own retry."""
    return Note("wait", _about(snapshot) | {"attempt": snapshot.attempt, "why": why})


def doubtful(snapshot: SessionSnapshot, words: str) -> Note:
    """Return the note about a retry whose message does not prove a limit. The message is kept so that a rule can be
    written for it.
    """
    return Note("doubtful", _about(snapshot) | {"attempt": snapshot.attempt, "reason": words})


def frozen(snapshot: SessionSnapshot, why: str) -> list[Effect]:
    """Return the effects for a session in which OpenCode's own retries will not end soon, although no limit
    is known.
    """
    text = f"{why}. To move the session: ocwatch redirect {quote(snapshot.session)}"
    note = Note("frozen", _about(snapshot) | {"attempt": snapshot.attempt, "why": why})
    return [note, _notice(snapshot, f"frozen:{snapshot.session}:{snapshot.answer}", "A session is frozen", text)]


def left(snapshot: SessionSnapshot, why: str) -> Note:
    """Return a note saying that a limited session is not moved."""
    return Note("left", _about(snapshot) | {"why": why})


def prevented(news: Prevented) -> Note:
    """Return a note saying that a new prompt did not go to the fallback named in the blacklist."""
    chosen = [{"model": news.target, "why": "available", "chosen": True}] if news.target else []
    fields: dict[str, object] = {
        "session": news.session,
        "model": news.model,
        "target": news.target,
        "at": news.time,
        "considered": [*({"model": model, "why": why} for model, why in news.passed), *chosen],
    }
    return Note("prevented", fields)


def rejected(snapshot: SessionSnapshot, words: str) -> Note:
    """Return a note saying that a session was moved to a fallback and that the fallback has failed."""
    return Note("rejected", _about(snapshot) | {"why": words})


def freed(snapshot: SessionSnapshot) -> list[Effect]:
    """Return the effects of stopping a limited subagent. Its parent receives a canceled task."""
    text = "a subagent on this model was stopped; the session that was waiting for it continues without the result"
    matter = f"freed:{snapshot.session}:{snapshot.user_message}"
    note = Note("freed", _about(snapshot) | {"parent": snapshot.parent})
    return [note, _notice(snapshot, matter, f"{snapshot.model} is limited", text)]


def claim(
    ident: str,
    order: Order,
    stuck: SessionSnapshot,
    why: str,
    cooldown: Cooldown | None = None,
    considered: list[dict[str, object]] | None = None,
    origin: Target | None = None,
    resumes: int | None = None,
) -> Note:
    """Return the claim of a move. The claim is on disk before the move begins, so that the next run of the daemon can
    finish the move.

    `why`: the reason for moving the `stuck` session instead of letting it wait. `cooldown`: the cooldown that causes
    the move. `considered`: the targets that were considered. `origin`: the primary to which the session returns.
    `resumes`: the number of times that the prompt has been run again after being parked, including this run.
    """
    fields: dict[str, object] = {
        "session": order.session,
        "model": str(order.origin),
        "shown": _shown(stuck),
        "claim": ident,
        "moved": order.snapshot.session,
        "message": order.snapshot.user_message,
        "answer": order.snapshot.answer,
        "target": str(order.target.model),
        "agent": order.target.agent,
        "origin": origin and {"model": str(origin.model), "agent": origin.agent},
        "directory": order.snapshot.directory,
        "why": why,
        "rests": cooldown
        and {"until": cooldown.until, "reset_source": cooldown.reset_source.value, "kind": cooldown.kind.value},
        "considered": considered,
        **({} if resumes is None else {"resumes": resumes}),
    }
    return Note("claim", fields, durable=True)


def found_after(snapshot: SessionSnapshot, claim: Claim) -> Note:
    """Return the note about a move that an earlier run of the daemon did not finish. The result is derived from what
    OpenCode shows now.
    """
    landed = (
        snapshot.model == claim.target.model
        and snapshot.state in (SessionState.BUSY, SessionState.IDLE)
        and not snapshot.aborted
    )
    result = MoveResult.MOVED if landed else MoveResult.FAILED
    why = f"ocwatchd ended during the move; the session is now on {snapshot.model} ({snapshot.state.value})"
    fields: dict[str, object] = {
        "session": snapshot.session,
        "claim": claim.name,
        "target": str(claim.target.model),
        "why": why,
    }
    return Note(result.value, fields | {"shown": _shown(snapshot)})


def ended(end: MoveEnded) -> Note:
    """Return the note about the result of a move."""
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


def offer(snapshot: SessionSnapshot, entry: Cooldown, mode: Mode) -> list[Effect]:
    """Return the effects of leaving the decision about a limited turn to the user."""
    text = (
        f"To move the session: ocwatch redirect {quote(snapshot.session)}"
        if mode is Mode.ASK
        else "The session is not moved"
    )
    matter = f"offer:{snapshot.session}:{snapshot.user_message}:{entry.since}"
    return [
        Note("offered", _about(snapshot) | {"mode": mode.value}),
        _notice(snapshot, matter, f"{snapshot.model} is limited", text),
    ]


def stalled(snapshot: SessionSnapshot, why: str) -> Note:
    """Return a note saying that a model has stopped sending in the middle of a turn."""
    return Note("stalled", _about(snapshot) | {"seconds": round(snapshot.silence or 0.0, 1), "why": why})


def stalled_offer(snapshot: SessionSnapshot, why: str, mode: Mode) -> list[Effect]:
    """Return the effects of leaving a stalled turn to the user."""
    text = f"{why}. Stop the turn and send the prompt again" + (" to another model" if mode is Mode.ASK else "")
    matter = f"stalled:{snapshot.session}:{snapshot.answer}"
    return [stalled(snapshot, why), _notice(snapshot, matter, f"{snapshot.model} has stalled", text)]


def too_many_moves(snapshot: SessionSnapshot, why: str) -> list[Effect]:
    """Return the effects for a session that is not moved, because it has already been moved too often."""
    return [left(snapshot, why), _notice(snapshot, f"cap:{snapshot.session}", "Too many moves", why)]


def answers_nothing(snapshot: SessionSnapshot, why: str) -> list[Effect]:
    """Return the notice about a turn that receives no answer and would continue indefinitely."""
    matter = f"nothing:{snapshot.session}:{snapshot.user_message}"
    return [_notice(snapshot, matter, f"{snapshot.model} does not answer", why)]


def parked(snapshot: SessionSnapshot, parked: ParkedTurn, resumes: int, then: WhenExhausted) -> Note:
    """Return a note saying that the session is waiting because all its models are cooling down.

    `resumes`: the number of times that its prompt has already been run again after being parked. The note is durable,
    so that a later run of the daemon can run the turn again.
    """
    fields = parked_fields(parked)
    fields |= {"message": snapshot.user_message, "resumes": resumes, "then": then.value}
    return Note("parked", _about(snapshot) | fields, durable=True)


def parked_fields(parked: ParkedTurn) -> dict[str, object]:
    """Return the fields of a journal line from which a later run of the daemon restores the turn."""
    turn = parked.turn
    return {
        "model": str(turn.model),
        "answer": turn.answer,
        "pid": turn.pid,
        "origin": turn.origin and {"model": str(turn.origin.model), "agent": turn.origin.agent},
        "until": parked.until,
        "resumes_at": parked.resumes_at,
        "waits_for": str(parked.waits_for) if parked.waits_for else None,
    }


def unparked(snapshot: SessionSnapshot, why: str = "its turn has ended or was replaced by another one") -> Note:
    """Return a note saying that a parked session will not be run again."""
    return Note("unparked", _about(snapshot) | {"why": why})


def free_again(snapshot: SessionSnapshot, model: ModelRef) -> list[Effect]:
    """Return the effects of leaving a parked turn to its user after `model` has become available again."""
    if model == snapshot.model:
        text = "The turn that was waiting for it is not run automatically. To continue the turn, send a prompt"
    else:
        text = f"To continue the turn that was waiting: ocwatch redirect {quote(snapshot.session)}"
    fields = {
        "model": str(model),
        "mode": WhenExhausted.NOTIFY.value,
        "why": "it is available again, and you were notified",
    }
    matter = f"free:{snapshot.session}:{snapshot.answer}:{model}"
    return [Note("offered", _about(snapshot) | fields), _notice(snapshot, matter, f"{model} is available again", text)]


def resumed_too_often(snapshot: SessionSnapshot, times: int) -> list[Effect]:
    """Return a notice saying that a turn will not be run again, because it has already been run again the given number
    of `times`.
    """
    text = (
        f"The turn was run again {times} times in a row and is limited again. "
        "ocwatchd will not run it again (maxResumes)"
    )
    matter = f"resumes:{snapshot.session}:{snapshot.user_message}"
    return [_notice(snapshot, matter, f"{snapshot.model} is limited", text)]


def held_by_background(snapshot: SessionSnapshot, why: str, trouble: str = "is limited") -> list[Effect]:
    """Return a notice saying that a session with this trouble will be moved after its subagents have ended."""
    matter = f"background:{snapshot.session}:{snapshot.user_message}"
    return [_notice(snapshot, matter, f"{snapshot.model} {trouble}", why.partition(", but ")[2])]


def exhausted(
    snapshot: SessionSnapshot,
    choice: Exhausted,
    why: str,
    now: float,
    considered: list[dict[str, object]] | None = None,
) -> list[Effect]:
    """Return the effects for a chain without an available model. The notice contains the earliest reset time."""
    at = choice.soonest[1] if choice.soonest else None
    # The id differs each time, because the engine itself records the chains about which it has notified the user.
    notice = _notice(snapshot, f"exhausted:{snapshot.session}:{now}", "Every model is limited", why, at)
    return [Note("exhausted", _about(snapshot) | {"why": why, "until": at, "considered": considered}), notice]


def moved(end: MoveEnded) -> Notify:
    """Return the notice about a move. It must be sent only after the target has started to answer."""
    order = end.order
    trouble = "has stalled" if order.stalled else "has failed in this session" if order.failing else "is limited"
    title, text = "Moved to another model", f"{order.origin} {trouble}: {order.target.model} continues"
    if order.origin == order.target.model and order.cause is not None:
        trouble = "had stopped sending" if order.stalled else "had failed"
        title, text = "Running again", f"{order.origin} {trouble}, and the turn was run again on it"
    elif order.origin == order.target.model:
        title, text = (
            "Running again",
            f"{order.origin} is available again, and the turn that was waiting for it continues",
        )
    if end.outcome.snapshot is None:
        return Notify(f"moved:{end.claim}", title, text, order.session)
    return _notice(end.outcome.snapshot, f"moved:{end.claim}", title, text)


def _about(snapshot: SessionSnapshot) -> dict[str, object]:
    return {"session": snapshot.session, "model": str(snapshot.model), "shown": _shown(snapshot)}


def _shown(snapshot: SessionSnapshot) -> dict[str, object]:
    """Return, for the journal, what OpenCode showed at the time of the decision."""
    return {
        "at": snapshot.seen,
        "state": snapshot.state.value,
        "aborted": snapshot.aborted,
        "attempt": snapshot.attempt,
        "next": snapshot.next_at,
        "words": reason_of(snapshot.message or (snapshot.last_error.message if snapshot.last_error else ""), WORDS),
        "agent": snapshot.agent,
        "door": str(snapshot.endpoint),
        "version": snapshot.version,
    }


def _notice(snapshot: SessionSnapshot, matter: str, title: str, text: str, at: float | None = None) -> Notify:
    return Notify(matter, title, text, snapshot.session, snapshot.endpoint, snapshot.directory, at)
