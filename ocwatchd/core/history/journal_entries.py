"""Convert journal lines to validated values. The fields have the correct types even if the file is damaged. Pure
functions and classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

SHORT = 6
"""Number of characters in the short form of an id. In a journal of 30,000 lines, one line in five hundred has the same
short id as another line.
"""
STAMP = 13
"""Length of the first part of an id, which contains the time in milliseconds as hex digits."""
SAME_REFUSAL = 2.5
"""Maximum difference, in seconds, between the times that the daemon and `oc-smart` record for one limit. The log format
before 1.17 has timestamps in whole seconds.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal. `time` is in epoch seconds. `raw` is the entire line as parsed JSON."""

    id: str
    time: float
    what: str
    session: str | None
    model: str | None
    raw: Mapping[str, object] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The short form of `id`, which users type."""
        return short(self.id)

    def text(self, *path: str) -> str | None:
        """Return the text at this path of keys, or None if there is no text."""
        value = self._at(path)
        return value if isinstance(value, str) and value else None

    def moment(self, *path: str) -> float | None:
        """Return the time at this path of keys, in epoch seconds, or None if there is no time."""
        return moment(self._at(path))

    def number(self, *path: str) -> float | None:
        """Return the finite number at this path of keys, or None if there is no such number."""
        value = self._at(path)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
            return None
        return float(value)

    def flag(self, name: str) -> bool:
        """Return whether this field is true."""
        return self.raw.get(name) is True

    def rows(self, name: str) -> tuple[Mapping[str, object], ...]:
        """Return the objects in the entry's list `name`. Items that are not objects are skipped."""
        value = self.raw.get(name)
        return tuple(row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()

    def _at(self, path: tuple[str, ...]) -> object:
        value: object = self.raw
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def refused_at(self) -> float:
        """When the limit in this line was hit, in epoch seconds. The line itself may have been written a second later,
        or hours later if a log was read late.
        """
        at = self.moment("evidence", "at")
        return self.time if at is None or at > self.time else at

    @property
    def key(self) -> str | None:
        """The name under which the blacklist lists this limit: the model or `provider/*`. None if it is unknown."""
        if self.text("scope") == "provider" and self.model and self.what == "limit":
            return self.text("evidence", "entry") or f"{self.model.partition('/')[0]}/*"
        return self.model

    @property
    def reported_until(self) -> float | None:
        """The reported reset time in epoch seconds; None if it is ocwatchd's own estimate or unknown."""
        return None if self.text("reset_source") in (None, "estimate") else self.moment("until")

    @property
    def counts(self) -> bool:
        """Whether this limit stopped a turn. A request for a title or summary stops no turn, and neither does a limit
        that was read late from a log.
        """
        return self.session is not None and not self.flag("small") and not self.flag("history")


def read(raw: Iterable[Mapping[str, object]]) -> tuple[Entry, ...]:
    """Return the usable lines, oldest first. A limit that two processes recorded is returned once."""
    found = sorted((entry for line in raw if (entry := _entry(line))), key=lambda entry: entry.time)
    kept: list[Entry] = []
    limits: dict[tuple[str | None, str | None], Entry] = {}
    for entry in found:
        if entry.what == "limit" and entry.session is not None:
            known = limits.get((entry.session, entry.model))
            if known is not None and _same(known, entry):
                continue
            limits[entry.session, entry.model] = entry
        kept.append(entry)
    return tuple(kept)


def short(ident: str) -> str:
    """Return the short form of an id. It is taken from the id's random part, because ids created at the same time have
    the same first part.
    """
    return ident[STAMP : STAMP + SHORT] or ident


def moment(value: object) -> float | None:
    """Return an RFC 3339 time in epoch seconds, or None if the value is not such a time. A time without a time zone is
    interpreted as UTC.
    """
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        found = datetime.fromisoformat(value)
        epoch = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return epoch if 0 <= epoch < 250_000_000_000 else None


def _entry(raw: Mapping[str, object]) -> Entry | None:
    time, ident, what = moment(raw.get("time")), raw.get("id"), raw.get("what")
    if time is None or not isinstance(ident, str) or not isinstance(what, str):
        return None
    return Entry(ident, time, what, _name(raw.get("session")), _name(raw.get("model")), raw)


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value and value != "None" else None


def _same(known: Entry, entry: Entry) -> bool:
    return known.text("by") != entry.text("by") and abs(known.refused_at - entry.refused_at) < SAME_REFUSAL
