"""prices.json: what models cost, as OpenCode's provider list told it last; and budget.json, what is left of today's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from ocwatchd.clock import rfc3339
from ocwatchd.core.capability import Capacity
from ocwatchd.core.mind import Mind
from ocwatchd.core.money import Price, Purse
from ocwatchd.paths import Paths
from ocwatchd.state import budget
from ocwatchd.state.files import StateError, locked, read_plain, sweep_leftovers
from ocwatchd.state.plain import write_unsynced

VERSION = 1
DAY = 86_400.0
_PARTS = Price.__slots__


def read(path: Path) -> dict[str, Price]:
    """By `provider/model`; nothing if it cannot be read. Never raises."""
    try:
        raw = orjson.loads(read_plain(path))
        told = raw["prices"].items() if raw["version"] == VERSION else ()
        return {str(name): Price(*(float(own[part]) for part in _PARTS)) for name, own in told}
    except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def outdated(path: Path, now: float) -> bool:
    """Whether nobody has told prices within the last day."""
    try:
        return abs(now - path.stat().st_mtime) > DAY
    except OSError:
        return True


def remember(path: Path, told: Mapping[str, Price], now: float) -> None:
    """Keep what was told now; of models that were not told of, what was known.

    Raises:
        OSError, StateError: it could not be written.
    """
    if not told or (not outdated(path, now) and told.items() <= read(path).items()):
        return
    with locked(path):  # looks at several doors end in one moment, and `oc-smart` asks as well
        sweep_leftovers(path)
        known = read(path)
        prices = {name: _plain(price) for name, price in sorted((known | dict(told)).items())}
        write_unsynced(path, orjson.dumps({"version": VERSION, "time": rfc3339(now), "prices": prices}))


def keep(path: Path, offers: Mapping[str, Capacity] | None, now: float) -> None:
    """The same of what a door told. A file that cannot be written is no fault: prices are told again."""
    told = {name: offer.price for name, offer in (offers or {}).items() if offer.price is not None}
    with suppress(OSError, StateError):
        remember(path, told, now)


def purse(prices: Path, left: Path, limit: float | None, now: float) -> Purse:
    """What may be spent today, by the files; `limit` is the configured budget."""
    told = budget.read(left, now) if limit is not None else None
    return Purse(limit, told.spent if told else 0.0, read(prices) if limit is not None else {})


def recall(mind: Mind, paths: Paths, now: float) -> None:
    """Begin a life with what the one before it knew of today's budget, until it is counted anew."""
    left = budget.read(paths.budget, now)
    if left is not None:
        mind.spent, mind.prices, mind.told_over = left.spent, read(paths.prices), left.over


def write_budget(path: Path, money: Purse, until: float, now: float) -> None:
    """Say what is left of today's budget; without one there is no file.

    Raises:
        OSError: it could not be written.
    """
    if money.budget is None:
        path.unlink(missing_ok=True)
        return
    told = {"budget": money.budget, "spent": round(money.spent, 6), "until": rfc3339(until), "dear": money.dear}
    write_unsynced(path, orjson.dumps({"version": VERSION, "time": rfc3339(now), **told}))


def _plain(price: Price) -> dict[str, float]:
    return {part: getattr(price, part) for part in _PARTS}
