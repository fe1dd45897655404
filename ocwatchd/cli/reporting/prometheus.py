"""The figures in Prometheus' text format, for node_exporter's textfile collector.

All are gauges: they count a window that moves on, and the journal forgets its oldest lines, so a counter would fall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ocwatchd.core.figures import Figures
from ocwatchd.core.spending import Spending
from ocwatchd.state.entries import Entry

Sample = tuple[Mapping[str, str], float]


def text(found: Figures, money: Spending, up: bool, cooling: Mapping[str, Entry]) -> str:
    """The exposition; `cooling` are the entries of the register that rest now."""
    return "".join(line + "\n" for line in (*_lines(found, up, cooling), *_money(money)))


def _lines(found: Figures, up: bool, cooling: Mapping[str, Entry]) -> Iterator[str]:
    yield from _metric("up", "Whether the daemon is up and hearing.", [({}, float(up))])
    yield from _metric("report_timestamp_seconds", "When these figures were made.", [({}, found.now)])
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
    yield from _metric("lost_seconds", "Time that limited turns waited.", [({}, found.cost.lost)])
    yield from _metric(
        "saved_seconds",
        "Time that moved turns would have waited, of the waits that were told.",
        [({}, found.cost.saved)],
    )
    yield from _metric(
        "cooling_seconds",
        "Time in the window for which a model rested.",
        [({"model": one.model}, one.cooling) for one in found.models],
    )
    yield from _metric(
        "cooldown_end_timestamp_seconds",
        "When the model may be used again; +Inf until a person clears it. Absent unless it rests now.",
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
        "Median time from a turn's first refusal until it went on with this target.",
        [({"target": one.model}, one.median) for one in found.fallbacks if one.median is not None],
    )
    yield from _metric(
        "recovery_worst_seconds",
        "Longest time from a turn's first refusal until it went on with this target.",
        [({"target": one.model}, one.worst) for one in found.fallbacks if one.worst is not None],
    )


def _money(money: Spending) -> Iterator[str]:
    yield from _metric("spent_dollars", "Spent in the window, by OpenCode's own prices.", [({}, money.total)])
    yield from _metric(
        "moved_dollars",
        "What moved turns cost with this target.",
        [({"target": one.target}, one.dollars) for one in money.moved],
    )
    yield from _metric(
        "moved_saved_dollars_estimate",
        "What they would have cost with their first model, less what they cost; an estimate.",
        [({"target": one.target}, one.saved) for one in money.moved if one.saved is not None],
    )


def _metric(name: str, help: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP ocwatchd_{name} {help}"
    yield f"# TYPE ocwatchd_{name} gauge"
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"ocwatchd_{name}{{{inner}}} {_number(value)}" if inner else f"ocwatchd_{name} {_number(value)}"


def _escaped(text: str) -> str:
    """As the format wants it; lone surrogates, which UTF-8 cannot hold, as question marks."""
    plain = text.encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0")
