"""Wait or move, and whereto: pure functions of what is known."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ocwatchd.core.fallback import Choice, Chosen, choose
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitKind, ModelRef, Target, ToldBy
from ocwatchd.core.outlook import UNKNOWN, Outlook
from ocwatchd.core.policy import Policy
from ocwatchd.core.views import SessionState, SessionView


def worth_waiting(policy: Policy, view: SessionView, entry: Cooldown, now: float) -> tuple[bool, str]:
    """Whether OpenCode's own retry is left alone, and why, or why not.

    A known wait up to `maxDelay` is, at most `maxRetries` times a turn. Of a quota without a known end nobody believes
    that the next retry helps.
    """
    if view.state is not SessionState.RETRY or view.model is None:
        return False, "OpenCode has given up"
    if not policy.wait:
        return False, "configured never to wait"
    if entry.until is None:
        return False, "nobody knows until when"
    retry = policy.retry_for(view.model)
    if (view.attempt or 0) > retry.max_retries:
        return False, f"refused {view.attempt} times, maxRetries is {retry.max_retries}"
    told = entry.told_by is not ToldBy.BACKOFF
    if not told and entry.kind is LimitKind.QUOTA:
        return False, "a quota whose end nobody told"
    remaining = max((entry.until if told else (view.next_at or now)) - now, 0.0)
    if remaining > retry.max_delay:
        return False, f"{remaining:.0f} s to wait, maxDelay is {retry.max_delay:.0f} s"
    return True, f"{remaining:.0f} s to wait"


def where_to(
    policy: Policy,
    ledger: Ledger,
    view: SessionView,
    origin: ModelRef,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
) -> Choice:
    """Back to `origin`, where the session came from, if that is free; else down its chain, then down the present one's.

    `view.model` refuses; `failed` are targets that this message could not be moved to.
    """
    refusing = {view.model} if view.model else set()
    free = origin not in refusing and origin not in failed and ledger.avoided(origin, now) is None
    if free and outlook.unfit(origin) is None:
        return Chosen(Target(origin, view.agent))
    choice = stand_in(policy, ledger, origin, view.agent, refusing | set(failed), now, outlook)
    if isinstance(choice, Chosen) or view.model is None or view.model == origin:
        return choice
    onwards = stand_in(policy, ledger, view.model, view.agent, refusing | set(failed), now, outlook)
    return onwards if isinstance(onwards, Chosen) else choice


def stand_in(
    policy: Policy,
    ledger: Ledger,
    model: ModelRef,
    agent: str | None,
    tried: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
) -> Choice:
    """The nearest free model of this model's chain; one that is about to be limited only if nothing else is."""

    def ends(ref: ModelRef) -> float | None:
        entry = ledger.cooling(ref, now)
        return entry.until if entry else None

    for blocking in (ledger.avoided, ledger.cooling):
        choice = choose(model, agent, policy, _blocked(blocking, now), tried, ends, outlook)
        if isinstance(choice, Chosen):
            break
    return choice


def _blocked(blocking: Callable[[ModelRef, float], Cooldown | None], now: float) -> Callable[[ModelRef], bool]:
    return lambda ref: blocking(ref, now) is not None
