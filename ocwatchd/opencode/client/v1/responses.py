"""What OpenCode's API answers, as values: sessions, retries, places, what a model takes; the same on 1.0 - 1.18."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocwatchd.core.capability import Capacity
from ocwatchd.core.money import Price
from ocwatchd.opencode.records import Json, amount, mapping, seconds, text

_LIMITS = ("context", "output")


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """One entry of `/session/status`. `next_at` is epoch seconds."""

    type: str
    attempt: int | None = None
    next_at: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the API or a store tells it. Times are epoch seconds."""

    id: str
    directory: str
    parent: str | None = None
    version: str | None = None
    updated: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What `/path` tells of the process behind a door."""

    home: str | None
    directory: str | None


def session_of(info: Json) -> Session | None:
    """A session from the API, or from a file of a store."""
    found, directory = text(info.get("id")), text(info.get("directory"))
    if not found or not directory:
        return None
    updated = seconds(mapping(info.get("time")).get("updated"))
    return Session(found, directory, text(info.get("parentID")), text(info.get("version")), updated)


def status_of(entry: Json) -> RetryStatus:
    """One entry of `/session/status`."""
    attempt = entry.get("attempt")
    return RetryStatus(
        type=text(entry.get("type")) or "",
        attempt=attempt if isinstance(attempt, int) else None,
        next_at=seconds(entry.get("next")),
        message=text(entry.get("message")) or "",
    )


def capacity_of(model: Json) -> Capacity:
    """The same fields on 1.0.185 and 1.18.33; a model without a known window has 0 there."""
    limit, able = mapping(model.get("limit")), mapping(model.get("capabilities"))
    context, output = (int(n) if isinstance(n, int | float) and 0 < n < 1e12 else 0 for n in map(limit.get, _LIMITS))
    inputs = frozenset(kind for kind, taken in mapping(able.get("input")).items() if taken is True)
    return Capacity(context, output, inputs, able.get("toolcall") is not False, price_of(model.get("cost")))


def price_of(told: object) -> Price | None:
    """What a model costs (1.0 - 1.18); None if nothing is told. Of a plan some versions tell zeros (docs/cost.md)."""
    if not isinstance(told, Mapping):
        return None
    cache = mapping(told.get("cache"))
    return Price(
        amount(told.get("input")), amount(told.get("output")), amount(cache.get("read")), amount(cache.get("write"))
    )


def version_of(version: str | None) -> tuple[int, ...]:
    """`1.18.33` as numbers; () for what is no such version."""
    parts = (version or "").split("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
