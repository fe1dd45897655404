"""A journal line in words, for `history`, `explain` and `watch`: what it was, in one short phrase. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ocwatchd.core.entries import Entry
from ocwatchd.core.money import dollars

Clock = Callable[[float], str]
"""How a moment (epoch seconds) is said."""

WORDS = {
    "limit": "limited",
    "told": "told",
    "wait": "waits",
    "doubtful": "doubtful",
    "claim": "moving",
    "moved": "moved",
    "already": "goes on",
    "target_limited": "limited",
    "refused": "not moved",
    "user_took_over": "yours",
    "failed": "failed",
    "answered": "answers",
    "went_on": "goes on",
    "stopped": "stopped",
    "freed": "freed",
    "rejected": "rejects",
    "prevented": "new prompt",
    "left": "left",
    "offered": "offered",
    "exhausted": "stuck",
    "unanswered": "no answer",
    "unreachable": "no door",
    "foreseen": "foreseen",
    "eased": "eased",
    "budget": "budget",
    "blocked": "blocked",
    "cleared": "cleared",
    "free": "free",
    "configured": "edited",
    "misconfigured": "bad edit",
    "started": "started",
    "ended": "ended",
}
"""What a line is called in the listing; another word than these stands as it is."""

NO_STORY = frozenset(("claim",))
"""Lines that say nothing by themselves once it is known how they ended."""


def word(entry: Entry) -> str:
    """One or two words for what the line tells."""
    return WORDS.get(entry.what, entry.what.replace("_", " "))


def phrase(entry: Entry, clock: Clock) -> str:
    """What happened, in one line."""
    model, why = entry.model or "an unknown model", entry.text("why") or ""
    match entry.what:
        case "limit":
            kind = (entry.text("kind") or "limit").replace("_", " ")
            return f"{entry.key or model} {until(entry, clock)}, {kind}{_strikes(entry)}{_aside(entry)}"
        case "told":
            return f"{model} {until(entry, clock)}, says {entry.text('source') or entry.text('told_by') or 'somebody'}"
        case "wait":
            return f"{model}: {why}, left to OpenCode"
        case "moved" | "claim" | "target_limited" | "failed":
            return _moving(entry, why)
        case "doubtful":
            return f"{model} retries, and the words prove nothing: {entry.text('reason') or ''}"
        case "answered":
            return f"{model} works again"
        case "went_on":
            return f"with {model}, after a wait"
        case "prevented":
            where = (
                f"goes to {entry.text('target')}" if entry.text("target") else "stays: nothing could take the session"
            )
            return f"{model} is limited: a prompt for it {where}"
        case "freed":
            return f"a subagent on {model}, for the session that waits for it"
        case "offered":
            return f"{model}: a person decides (mode {entry.text('mode') or '?'})"
        case "foreseen":
            to = entry.text("target") or "?"
            return f"{model} is about to be limited: new prompts go to {to} {until(entry, clock)}"
        case "eased":
            return f"{model} is not about to be limited any more"
        case "budget":
            of = f"{dollars(entry.number('spent') or 0)} of {dollars(entry.number('budget') or 0)}"
            return f"{of} spent today" + (": no paid stand-ins any more" if entry.flag("over") else "")
        case "blocked":
            return f"{model} by hand, {until(entry, clock)}"
        case "cleared":
            return f"{model} by hand"
        case "free":
            return f"{model} may be used again"
        case "configured":
            return "the configuration, taken over"
        case "misconfigured":
            return f"the configuration, not taken over: {why}"
        case "started":
            return f"ocwatchd {entry.text('release') or '?'}"
        case "ended":
            return "ocwatchd"
        case "exhausted":
            return f"{model}: {why} {until(entry, clock)}" if entry.moment("until") else f"{model}: {why}"
        case _:
            return ": ".join(part for part in (entry.model, why) if part) or "no more is known"


def until(entry: Entry, clock: Clock) -> str:
    """Until when."""
    end = entry.moment("until")
    return "until cleared" if end is None else f"until {clock(end)}"


def _moving(entry: Entry, why: str) -> str:
    way = f"{entry.model or '?'} -> {entry.text('target') or '?'}"
    seconds = entry.number("seconds")
    if entry.what == "moved":
        return f"{way}, {seconds:.1f}s" if seconds is not None else way
    return f"{way}: {why}" if why and entry.what != "claim" else way


def _strikes(entry: Entry) -> str:
    strikes = entry.number("strikes") or 1
    return f", strike {strikes:.0f}" if strikes > 1 else ""


def _aside(entry: Entry) -> str:
    if entry.flag("history"):
        return ", old news"
    return ", a title or summary" if entry.flag("small") else ""
