"""The figures of `ocwatch report` as a document of the JSON contract and in the Prometheus text format.

The text format is for node_exporter's textfile collector. All metrics are gauges: they cover a moving window, and the
journal drops its oldest lines, so a counter would decrease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ocwatchd.cli.output.escape import prometheus as escaped
from ocwatchd.cli.output.render import iso
from ocwatchd.core.forecast.plan_windows import PlanWindow
from ocwatchd.core.history.costs import Spending, Used
from ocwatchd.core.history.intervals import CooldownSpan
from ocwatchd.core.history.metrics import Cost, Fallback, Figures, ModelFigures
from ocwatchd.state.blacklist.format import Entry


def document(found: Figures, money: Spending, plan_windows: Sequence[Mapping[str, object]] = ()) -> dict[str, object]:
    """Return all figures of the HTML page as a document of the JSON contract."""
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
        "cooldowns": [_rest(rest, found.now) for rest in found.cooldown_spans],
        "money": _money(money),
        "days": [{"day": day or None, "model": model, **_used(used)} for day, model, used in money.days],
        "sessions": [
            {"session": one.session, "title": one.title or None, "directory": one.directory or None, **_used(one.used)}
            for one in money.sessions
        ],
        "plan_windows": list(plan_windows),
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


def _used(used: Used) -> dict[str, object]:
    return {
        "answers": used.answers,
        "input_tokens": used.input,
        "output_tokens": used.output,
        "cache_tokens": used.cached,
        "dollars": _dollars(used.dollars),
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
        "recoveries": len(one.recovery),
        "median_recovery_seconds": _rounded(one.median),
        "worst_recovery_seconds": _rounded(one.worst),
        "median_first_token_seconds": _rounded(one.median_first_token),
    }


def _rest(rest: CooldownSpan, now: float) -> dict[str, object]:
    over = rest.over(now)
    return {
        "model": rest.model,
        "kind": rest.kind,
        "reset_source": rest.reset_source,
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


Sample = tuple[Mapping[str, str], float]


def prometheus(
    found: Figures, money: Spending, up: bool, cooling: Mapping[str, Entry], plan_windows: Sequence[PlanWindow] = ()
) -> str:
    """Return the figures in the Prometheus text format.

    `cooling` contains the active cooldowns, and `plan_windows` contains the current plan windows.
    """
    lines = (*_lines(found, up, cooling), *_money_metrics(money), *_plan_metrics(plan_windows))
    return "".join(line + "\n" for line in lines)


def _lines(found: Figures, up: bool, cooling: Mapping[str, Entry]) -> Iterator[str]:
    yield from _metric("up", "Whether the daemon is running and reading logs.", [({}, float(up))])
    yield from _metric("report_timestamp_seconds", "When these figures were computed.", [({}, found.now)])
    yield from _metric("window_seconds", "Length of time that the figures cover.", [({}, found.now - found.since)])
    yield from _metric(
        "limits",
        "Refused requests in the window, by model and kind of limit.",
        [({"model": one.model, "kind": kind}, count) for one in found.models for kind, count in one.kinds],
    )
    yield from _metric(
        "turns",
        "Limited turns in the window, by how they ended.",
        [({"outcome": outcome}, count) for outcome, count in found.outcomes],
    )
    yield from _metric("lost_seconds", "Total waiting time of limited turns.", [({}, found.cost.lost)])
    yield from _metric(
        "saved_seconds",
        "Time that moved turns would have waited; only turns with a known reset time are counted.",
        [({}, found.cost.saved)],
    )
    yield from _metric(
        "cooling_seconds",
        "Time in the window during which the model was cooling down.",
        [({"model": one.model}, one.cooling) for one in found.models],
    )
    yield from _metric(
        "cooldown_end_timestamp_seconds",
        "When the model may be used again; +Inf if a user has to clear it. Absent unless the model is cooling down.",
        [({"model": key, "kind": entry.kind}, entry.end) for key, entry in cooling.items()],
    )
    yield from _fallbacks(found)


def _fallbacks(found: Figures) -> Iterator[str]:
    yield from _metric(
        "moves",
        "Moves to this target in the window, by result.",
        [
            ({"target": one.model, "result": result}, count)
            for one in found.fallbacks
            for result, count in (("moved", one.moved), ("target_limited", one.limited), ("failed", one.failed))
        ],
    )
    yield from _metric(
        "recovery_median_seconds",
        "Median time from a turn's first refused attempt until it continued with this target.",
        [({"target": one.model}, one.median) for one in found.fallbacks if one.median is not None],
    )
    yield from _metric(
        "recovery_worst_seconds",
        "Longest time from a turn's first refused attempt until it continued with this target.",
        [({"target": one.model}, one.worst) for one in found.fallbacks if one.worst is not None],
    )


def _money_metrics(money: Spending) -> Iterator[str]:
    yield from _metric("spent_dollars", "Total cost in the window, at OpenCode's prices.", [({}, money.total)])
    yield from _metric(
        "moved_dollars",
        "Cost of moved turns with this target.",
        [({"target": one.target}, one.dollars) for one in money.moved],
    )
    yield from _metric(
        "moved_saved_dollars_estimate",
        "Estimated cost of these turns with their first model, minus their cost with this target.",
        [({"target": one.target}, one.saved) for one in money.moved if one.saved is not None],
    )


def _plan_metrics(windows: Sequence[PlanWindow]) -> Iterator[str]:
    labelled = [({"provider": one.provider, "window": one.name}, one) for one in windows]
    yield from _metric(
        "plan_used_percent",
        "Percentage of a provider's plan window that is used, as last reported.",
        [(labels, one.used) for labels, one in labelled],
    )
    yield from _metric(
        "plan_reset_timestamp_seconds",
        "When a provider's plan window begins anew. Absent if unknown.",
        [(labels, one.resets) for labels, one in labelled if one.resets is not None],
    )


def _metric(name: str, help: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP ocwatchd_{name} {help}"
    yield f"# TYPE ocwatchd_{name} gauge"
    for labels, number in samples:
        inner = ",".join(f'{label}="{escaped(value)}"' for label, value in labels.items())
        yield f"ocwatchd_{name}{{{inner}}} {_number(number)}" if inner else f"ocwatchd_{name} {_number(number)}"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0")
