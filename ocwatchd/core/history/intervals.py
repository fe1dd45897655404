"""Lengths of time that may overlap, added up once; and the cooldowns of each model over time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ocwatchd.core.entries import Entry

Span = tuple[float, float]
"""From and to, epoch seconds."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time as spans that neither overlap nor touch, in order; empty ones are dropped."""
    out: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The time in `spans` that is in none of `others`."""
    left = merged(spans)
    for begin, end in merged(others):
        left = [
            part
            for span in left
            for part in ((span[0], min(span[1], begin)), (max(span[0], end), span[1]))
            if part[0] < part[1]
        ]
    return left


def clipped(spans: Iterable[Span], begin: float, end: float) -> list[Span]:
    """The time in `spans` from `begin` to `end`."""
    return merged((max(span[0], begin), min(span[1], end)) for span in spans)


def length(spans: Iterable[Span]) -> float:
    """Seconds in all, what overlaps counted once."""
    return sum(end - begin for begin, end in merged(spans))


@dataclass(slots=True)
class Rest:
    """One cooldown of a model, or of `provider/*`. Epoch seconds; `until` None: until a person clears it.

    `ended` and `why` (`answered`, `cleared`) are set if it was over before its time. `limits` are the refusals' times.
    """

    model: str
    since: float
    until: float | None
    kind: str
    told_by: str
    reason: str
    decision: str
    limits: list[float]
    ended: float | None = None
    why: str | None = None

    def end(self, now: float) -> float:
        """When it was over; `now` for one that lasts until a person clears it."""
        if self.ended is not None:
            return self.ended
        return now if self.until is None else self.until

    def over(self, now: float) -> str | None:
        """How it ended: `answered`, `cleared`, `time`; None if it lasts."""
        if self.why is not None:
            return self.why
        return "time" if self.until is not None and self.until <= now else None

    def lasts(self, at: float) -> bool:
        """Whether it is open at this time, by what was known then."""
        return self.ended is None and (self.until is None or at < self.until)


def rests(entries: Iterable[Entry]) -> list[Rest]:
    """Every cooldown that the journal tells of, in the order in which they began."""
    found: list[Rest] = []
    latest: dict[str, Rest] = {}
    for entry in entries:
        key = entry.key
        if key is None:
            continue
        known = latest.get(key)
        current = known if known is not None and known.lasts(entry.time) else None
        if current is not None:
            _goes_on(current, entry)
        elif entry.what in ("limit", "blocked"):
            latest[key] = _begun(entry, key)
            found.append(latest[key])
    return found


def _begun(entry: Entry, key: str) -> Rest:
    manual = entry.what == "blocked"
    since = entry.time if manual else entry.refused_at
    end = entry.moment("until")
    return Rest(
        model=key,
        since=since,
        until=None if end is None else max(end, since),
        kind=entry.text("kind") or "rate_limit",
        told_by="manual" if manual else entry.text("told_by") or "backoff",
        reason="blocked by hand" if manual else entry.text("reason") or "",
        decision=entry.short,
        limits=[] if manual else [since],
    )


def _goes_on(rest: Rest, entry: Entry) -> None:
    match entry.what:
        case "limit":
            rest.limits.append(entry.refused_at)
            _retold(rest, entry)
        case "blocked" | "told":
            _retold(rest, entry)
        case "answered" | "cleared":
            rest.ended, rest.why = max(entry.time, rest.since), entry.what


def _retold(rest: Rest, entry: Entry) -> None:
    end = entry.moment("until")
    rest.until = None if end is None else max(end, rest.since)
    rest.told_by = "manual" if entry.what == "blocked" else entry.text("told_by") or rest.told_by
