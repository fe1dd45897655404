"""Combine time spans that may overlap, and find the cooldowns of each model over time. Pure functions and classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ocwatchd.core.history.journal_entries import Entry

Span = tuple[float, float]
"""Beginning and end of a time span, in epoch seconds."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the union of the spans as a sorted list of spans that neither overlap nor touch. Empty spans
    are dropped.
    """
    out: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the parts of `spans` that no span in `others` covers."""
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
    """Return the parts of `spans` that are between `begin` and `end`."""
    return merged((max(span[0], begin), min(span[1], end)) for span in spans)


def length(spans: Iterable[Span]) -> float:
    """Return the total length in seconds. Overlapping parts are counted only once."""
    return sum(end - begin for begin, end in merged(spans))


@dataclass(slots=True)
class CooldownSpan:
    """One cooldown of a model, or of `provider/*`, as recorded in the journal. Times are epoch seconds; `until` is None
    if it lasts until a user clears it.

    `ended` and `why` (`answered`, `cleared`) are set if it ended early. `limits` contains the times at which limits
    were hit.
    """

    model: str
    since: float
    until: float | None
    kind: str
    reset_source: str
    reason: str
    decision: str
    limits: list[float]
    ended: float | None = None
    why: str | None = None

    def end(self, now: float) -> float:
        """Return when the cooldown ended, in epoch seconds, or `now` for a cooldown that lasts until a user
        clears it.
        """
        if self.ended is not None:
            return self.ended
        return now if self.until is None else self.until

    def over(self, now: float) -> str | None:
        """Return how the cooldown ended: `answered`, `cleared` or `time`, or None if it has not ended at `now`."""
        if self.why is not None:
            return self.why
        return "time" if self.until is not None and self.until <= now else None

    def lasts(self, at: float) -> bool:
        """Return whether the cooldown is still active at `at`, according to the lines read so far."""
        return self.ended is None and (self.until is None or at < self.until)


def cooldown_spans(entries: Iterable[Entry]) -> list[CooldownSpan]:
    """Return every cooldown in the journal, in the order in which they began."""
    found: list[CooldownSpan] = []
    latest: dict[str, CooldownSpan] = {}
    for entry in entries:
        key = entry.key
        if key is None:
            continue
        known = latest.get(key)
        current = known if known is not None and known.lasts(entry.time) else None
        if current is not None:
            _continue(current, entry)
        elif entry.what in ("limit", "blocked"):
            latest[key] = _begin(entry, key)
            found.append(latest[key])
    return found


def _begin(entry: Entry, key: str) -> CooldownSpan:
    manual = entry.what == "blocked"
    since = entry.time if manual else entry.refused_at
    end = entry.moment("until")
    return CooldownSpan(
        model=key,
        since=since,
        until=None if end is None else max(end, since),
        kind=entry.text("kind") or "rate_limit",
        reset_source="manual" if manual else entry.text("reset_source") or "estimate",
        reason="blocked by hand" if manual else entry.text("reason") or "",
        decision=entry.short,
        limits=[] if manual else [since],
    )


def _continue(cooldown: CooldownSpan, entry: Entry) -> None:
    match entry.what:
        case "limit":
            cooldown.limits.append(entry.refused_at)
            _set_end(cooldown, entry)
        case "blocked" | "told":
            _set_end(cooldown, entry)
        case "answered" | "cleared":
            cooldown.ended, cooldown.why = max(entry.time, cooldown.since), entry.what


def _set_end(cooldown: CooldownSpan, entry: Entry) -> None:
    end = entry.moment("until")
    cooldown.until = None if end is None else max(end, cooldown.since)
    cooldown.reset_source = "manual" if entry.what == "blocked" else entry.text("reset_source") or cooldown.reset_source
