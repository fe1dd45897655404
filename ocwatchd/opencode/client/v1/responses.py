"""Parse responses of OpenCode 1's API: sessions, retries, model capacities. The format is the same from 1.0 to 1.18."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocwatchd.core.domain.budget import Price
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.opencode.sessions.messages import Json, amount, mapping, seconds, text

_LIMITS = ("context", "output")


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """An entry of `/session/status`. `next_at` is the time of the next attempt in epoch seconds."""

    type: str
    attempt: int | None = None
    next_at: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as described by the API or a message store. Times are epoch seconds."""

    id: str
    directory: str
    parent: str | None = None
    version: str | None = None
    updated: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The home and the project directory of the process behind an endpoint, as reported by `/path`."""

    home: str | None
    directory: str | None


def session_of(info: Json) -> Session | None:
    """Parse a session from the API or a message store. Return None if the id or the directory is missing."""
    found, directory = text(info.get("id")), text(info.get("directory"))
    if not found or not directory:
        return None
    updated = seconds(mapping(info.get("time")).get("updated"))
    return Session(found, directory, text(info.get("parentID")), text(info.get("version")), updated)


def status_of(entry: Json) -> RetryStatus:
    """Parse an entry of `/session/status`."""
    attempt = entry.get("attempt")
    return RetryStatus(
        type=text(entry.get("type")) or "",
        attempt=attempt if isinstance(attempt, int) else None,
        next_at=seconds(entry.get("next")),
        message=text(entry.get("message")) or "",
    )


def capacity_of(model: Json) -> Capacity:
    """Parse the capacity of a model. OpenCode 1.0.185 and 1.18.33 use the same fields, and report an unknown context
    window as 0.
    """
    limit, able = mapping(model.get("limit")), mapping(model.get("capabilities"))
    context, output = (int(n) if isinstance(n, int | float) and 0 < n < 1e12 else 0 for n in map(limit.get, _LIMITS))
    inputs = frozenset(kind for kind, taken in mapping(able.get("input")).items() if taken is True)
    return Capacity(context, output, inputs, able.get("toolcall") is not False, price_of(model.get("cost")))


def price_of(raw: object) -> Price | None:
    """Parse the price of a model. Return None if the price is unknown. For models that are included in a plan, some
    versions report a price of zero (docs/cost.md).
    """
    if not isinstance(raw, Mapping):
        return None
    cache = mapping(raw.get("cache"))
    return Price(
        amount(raw.get("input")), amount(raw.get("output")), amount(cache.get("read")), amount(cache.get("write"))
    )


def version_of(version: str | None) -> tuple[int, ...]:
    """Parse a version such as `1.18.33` into its numbers. Return () if the text is not such a version."""
    parts = (version or "").split("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
