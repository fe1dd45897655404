"""Read and write prices.json, which contains the prices that OpenCode last reported, and write budget.json."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ocwatchd.clock import rfc3339
from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.state import budget
from ocwatchd.state.files import StateError, locked, read_plain, sweep_leftovers
from ocwatchd.state.safe_read import write_unsynced

if TYPE_CHECKING:
    from ocwatchd.core.engine.session import EngineContext  # for type checkers only: the import takes 30 ms of CPU time
    from ocwatchd.paths import Paths

VERSION = 1
DAY = 86_400.0
_PARTS = Price.__slots__


def read(path: Path) -> dict[str, Price]:
    """Return the prices by `provider/model`, or an empty dict if the file cannot be read. Never raises."""
    try:
        raw = orjson.loads(read_plain(path))
        reported = raw["prices"].items() if raw["version"] == VERSION else ()
        return {str(name): Price(*(float(own[part]) for part in _PARTS)) for name, own in reported}
    except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def outdated(path: Path, now: float) -> bool:
    """Return whether no prices were recorded in the last day."""
    try:
        return abs(now - path.stat().st_mtime) > DAY
    except OSError:
        return True


def remember(path: Path, reported: Mapping[str, Price], now: float) -> None:
    """Record the reported prices. The prices of other models are kept."""
    if not reported or (not outdated(path, now) and reported.items() <= read(path).items()):
        return
    with locked(path):  # several probes can end simultaneously, and `oc-smart` writes too
        sweep_leftovers(path)
        known = read(path)
        prices = {name: _plain(price) for name, price in sorted((known | dict(reported)).items())}
        write_unsynced(path, orjson.dumps({"version": VERSION, "time": rfc3339(now), "prices": prices}))


def keep(path: Path, offers: Mapping[str, Capacity] | None, now: float) -> None:
    """Record the prices from the model list of an endpoint. Errors are ignored, because prices are reported again."""
    reported = {name: offer.price for name, offer in (offers or {}).items() if offer.price is not None}
    with suppress(OSError, StateError):
        remember(path, reported, now)


def day_budget(prices: Path, left: Path, limit: float | None, now: float) -> DayBudget:
    """Return today's budget. It consists of the configured `limit` in US dollars (None means no budget), the amount
    spent (from the file `left`), and the prices (from the file `prices`).
    """
    reported = budget.read(left, now) if limit is not None else None
    return DayBudget(limit, reported.spent if reported else 0.0, read(prices) if limit is not None else {})


def recall(context: EngineContext, paths: Paths, now: float) -> None:
    """Initialize a new engine with the amount spent today, as recorded in the files. The engine uses this amount until
    it has calculated the spending itself.
    """
    left = budget.read(paths.budget, now)
    if left is not None:
        context.spend(left.spent, read(paths.prices))
        context.note_over(left.over)


def write_budget(path: Path, money: DayBudget, until: float, now: float) -> None:
    """Write today's budget and spending. If there is no budget, remove the file.

    Raises:
        OSError: The file could not be written.
    """
    if money.budget is None:
        path.unlink(missing_ok=True)
        return
    reported = {
        "budget": money.budget,
        "spent": round(money.spent, 6),
        "until": rfc3339(until),
        "over_budget": money.over_budget,
    }
    write_unsynced(path, orjson.dumps({"version": budget.VERSION, "time": rfc3339(now), **reported}))


def _plain(price: Price) -> dict[str, float]:
    return {part: getattr(price, part) for part in _PARTS}
