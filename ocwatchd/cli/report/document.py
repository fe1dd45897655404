"""The figures as the JSON contract."""

from __future__ import annotations

from ocwatchd.cli.render import iso
from ocwatchd.core.figures import Cost, Fallback, Figures, ModelFigures
from ocwatchd.core.spans import Rest
from ocwatchd.core.spending import Spending


def document(found: Figures, money: Spending) -> dict[str, object]:
    """Everything that the page shows, under names of its own."""
    return {
        "time": iso(found.now),
        "since": iso(found.since),
        "journal_begins": iso(found.begins),
        "limits": found.limits,
        "turns": found.turns,
        "outcomes": dict(found.outcomes),
        **_cost(found.cost),
        "models": [_model(model) for model in found.models],
        "fallbacks": [_fallback(fallback) for fallback in found.fallbacks],
        "limits_by_hour": [
            {"hour": iso(hour), "model": model, "limits": number} for hour, model, number in found.hours
        ],
        "cooldowns": [_rest(rest, found.now) for rest in found.rests],
        "money": _money(money),
    }


def _money(money: Spending) -> dict[str, object]:
    return {
        "spent_dollars": _dollars(money.total),
        "moved_dollars": _dollars(money.dollars),
        "instead_dollars_estimate": _dollars(money.instead),
        "saved_dollars_estimate": _dollars(money.saved),
        "targets": [
            {
                "model": one.target,
                "turns": one.turns,
                "moved_dollars": _dollars(one.dollars),
                "instead_dollars_estimate": _dollars(one.instead),
                "saved_dollars_estimate": _dollars(one.saved),
                "unpriced_turns": one.unpriced,
            }
            for one in money.moved
        ],
    }


def _dollars(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 6)


def _cost(cost: Cost) -> dict[str, object]:
    return {
        "lost_seconds": round(cost.lost, 3),
        "saved_seconds": round(cost.saved, 3),
        "to_come_seconds": round(cost.to_come, 3),
        "uncounted_turns": cost.uncounted,
    }


def _model(one: ModelFigures) -> dict[str, object]:
    return {
        "model": one.model,
        "limits": one.limits,
        "kinds": dict(one.kinds),
        "cooling_seconds": round(one.cooling, 3),
        **_cost(one.cost),
    }


def _fallback(one: Fallback) -> dict[str, object]:
    return {
        "model": one.model,
        "tried": one.tried,
        "moved": one.moved,
        "limited": one.limited,
        "failed": one.failed,
        "success_rate": None if one.rate is None else round(one.rate, 4),
        "median_recovery_seconds": _rounded(one.median),
        "worst_recovery_seconds": _rounded(one.worst),
        "median_first_token_seconds": _rounded(one.median_first_token),
    }


def _rest(rest: Rest, now: float) -> dict[str, object]:
    over = rest.over(now)
    return {
        "model": rest.model,
        "kind": rest.kind,
        "told_by": rest.told_by,
        "since": iso(rest.since),
        "until": iso(rest.until),
        "ended": iso(rest.end(now)) if over else None,
        "ended_by": over,
        "duration_seconds": round(rest.end(now) - rest.since, 3) if over else None,
        "limits": len(rest.limits),
        "decision": rest.decision,
        "reason": rest.reason,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
