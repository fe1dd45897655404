"""Everything cools: which model returns first, and how long to wait for it. Pure but for the register it is given."""

from __future__ import annotations

from collections.abc import Iterable

from ocwatchd.core.backoff import delay
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitKind, ModelRef, Scope, ToldBy
from ocwatchd.core.policy import Policy


def soonest(ledger: Ledger, models: Iterable[ModelRef], now: float) -> Cooldown | None:
    """The cooldown that ends first among these models; a free model counts as one that has just ended.

    None if a person has to end all of them. Named is the model itself, also where its whole provider rests.
    """
    entries = [(model, ledger.cooling(model, now)) for model in models]
    known = [(now if entry is None else entry.until, model, entry) for model, entry in entries]
    ends = [(end, index) for index, (end, _, _) in enumerate(known) if end is not None]
    if not ends:
        return None
    end, index = min(ends)
    _, model, entry = known[index]
    told_by = entry.told_by if entry else ToldBy.RETRY_AFTER
    return Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, now, end, 0, told_by)


def spread(entry: Cooldown, policy: Policy, attempt: int, draw: float) -> float:
    """Seconds to add to the end of a cooldown: none where the provider named it, a backoff where it was guessed.

    Those who wait for one model must not all ask it at once, nor again and again. `attempt` counts from 1, `draw` is a
    uniform number in [0, 1).
    """
    if entry.told_by is not ToldBy.BACKOFF:
        return 0.0
    retry = policy.retry_for(entry.model)
    return delay(attempt, retry.base_delay, retry.max_delay, retry.jitter_range, draw)


def model_named(name: str | None) -> ModelRef | None:
    """The model of this name; None if it is none."""
    try:
        return ModelRef.parse(name) if name else None
    except ValueError:
        return None
