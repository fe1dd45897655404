"""Describe a journal line with a word and a short phrase, for `history`, `explain` and `watch`. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

from ocwatchd.core.domain.budget import dollars
from ocwatchd.core.history.decisions import is_again
from ocwatchd.core.history.journal_entries import Entry
from ocwatchd.core.text.amounts import exactly

Clock = Callable[[float], str]
"""A function that formats a time (epoch seconds) as text."""

WORDS = {
    "limit": "limited",
    "told": "reset",
    "wait": "waiting",
    "doubtful": "doubtful",
    "claim": "moving",
    "moved": "moved",
    "switched": "will move",
    "returned": "returned",
    "already": "continues",
    "target_limited": "limited",
    "refused": "not moved",
    "user_took_over": "new turn",
    "failed": "failed",
    "answered": "works",
    "went_on": "continues",
    "stalled": "stalled",
    "frozen": "frozen",
    "stopped": "stopped",
    "freed": "freed",
    "rejected": "rejected",
    "prevented": "new prompt",
    "left": "not moved",
    "offered": "offered",
    "exhausted": "no model",
    "unanswered": "no answer",
    "unreachable": "no access",
    "unexpected": "skipped",
    "foreseen": "forecast",
    "eased": "cancelled",
    "budget": "budget",
    "blocked": "blocked",
    "cleared": "cleared",
    "free": "free",
    "configured": "edited",
    "misconfigured": "bad edit",
    "started": "started",
    "ended": "ended",
}
"""The word that a listing shows for each event. Any other event is shown by its name."""

NO_STORY = frozenset(("claim",))
"""Events that are removed from a listing once their outcome is known."""


def word(entry: Entry) -> str:
    """Return one or two words that describe the event."""
    if entry.what == "moved" and is_again(entry):
        return "runs again"
    return WORDS.get(entry.what, entry.what.replace("_", " "))


def phrase(entry: Entry, clock: Clock) -> str:
    """Return a description of the event in one line."""
    model, why = entry.model or "an unknown model", entry.text("why") or ""
    match entry.what:
        case "limit":
            kind = (entry.text("kind") or "limit").replace("_", " ")
            return f"{entry.key or model} {until(entry, clock)}, {kind}{_strikes(entry)}{_aside(entry)}"
        case "told":
            source = entry.text("source") or entry.text("reset_source") or "an unknown source"
            return f"{model} {until(entry, clock)}, according to {source}"
        case "wait":
            return f"{model}: {why}; left to OpenCode's own retry"
        case "returned":
            return f"{entry.text('from') or 'the fallback'} -> {model}, which is available again"
        case "moved" | "claim" | "target_limited" | "failed" | "switched":
            return _moving(entry, why)
        case "doubtful":
            return f"{model} is being retried, but the message might not be about a limit: {entry.text('reason') or ''}"
        case "answered":
            return f"{model} has answered again"
        case "went_on":
            return f"with {model} after the wait"
        case "prevented":
            where = (
                f"goes to {entry.text('target')}"
                if entry.text("target")
                else "is sent to it anyway: no available model can run the session"
            )
            return f"{model} is limited: a new prompt {where}"
        case "stalled" | "frozen":
            return why
        case "freed":
            return f"a limited subagent on {model} was stopped, so that its parent session can continue"
        case "offered":
            return f"{model}: {why or 'you decide'} (mode {entry.text('mode') or '?'})"
        case "foreseen":
            to = entry.text("target") or "?"
            return f"{model} is about to be limited: new prompts go to {to} {until(entry, clock)}"
        case "eased":
            return f"{model} is no longer expected to hit a limit"
        case "budget":
            of = f"{dollars(entry.number('spent') or 0)} of {dollars(entry.number('budget') or 0)}"
            return f"{of} spent today" + (": paid fallbacks are no longer used" if entry.flag("over") else "")
        case "blocked":
            return f"{model} by you, {until(entry, clock)}"
        case "cleared":
            return f"{model} by you"
        case "free":
            return f"{model} can be used again"
        case "configured":
            return "the configuration; the new values are now in force"
        case "misconfigured":
            return f"the configuration cannot be used; the former values remain in force: {why}"
        case "started":
            return f"ocwatchd {entry.text('release') or '?'}"
        case "ended":
            return "ocwatchd"
        case "parked":
            return _parked(entry, model, clock)
        case "exhausted":
            return f"{model}: {why} {until(entry, clock)}" if entry.moment("until") else f"{model}: {why}"
        case _:
            return ": ".join(part for part in (entry.model, why) if part) or "no details are known"


def _parked(entry: Entry, model: str, clock: Clock) -> str:
    """Return the phrase for a parked turn. Journals of earlier releases do not name the model for which it waits."""
    first, number = entry.text("waits_for"), entry.number("resumes") or 0
    if first is None:
        return f"the turn waits for {model} {until(entry, clock)}, or until a fallback is available"
    then = "you are notified" if entry.text("then") == "notify" else "it is run again"
    return f"the turn waits for {first} {until(entry, clock)}; then {then}" + (
        f", run {number + 1:.0f}" if number else ""
    )


def until(entry: Entry, clock: Clock) -> str:
    """Return a phrase such as `until 14:20`, or `until cleared` if the cooldown has no end."""
    end = entry.moment("until")
    return "until cleared" if end is None else f"until {clock(end)}"


def _moving(entry: Entry, why: str) -> str:
    way = f"{entry.model or '?'} -> {entry.text('target') or '?'}" if not is_again(entry) else entry.model or "?"
    seconds = entry.number("seconds")
    if entry.what == "moved":
        return f"{way}, {exactly(seconds)}" if seconds is not None else way
    return f"{way}: {why}" if why and entry.what != "claim" else way


def _strikes(entry: Entry) -> str:
    strikes = entry.number("strikes") or 1
    return f", strike {strikes:.0f}" if strikes > 1 else ""


def _aside(entry: Entry) -> str:
    if entry.flag("history"):
        return ", read later"
    return ", request for a title or summary" if entry.flag("small") else ""
