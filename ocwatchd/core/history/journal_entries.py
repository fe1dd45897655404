"""A journal line as a checked value: whatever stands in the file, what comes out has the right types. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

SHORT = 6
"""Characters of an id that are shown: of 30,000 lines, one in five hundred shares them with another one."""
STAMP = 13
"""Characters of an id before its random part: the milliseconds, in hexadecimal."""
SAME_REFUSAL = 2.5
"""Seconds within which the daemon and oc-smart tell of one refusal: old logs have a clock of whole seconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `time` in epoch seconds; `raw` is all that stands there."""

    id: str
    time: float
    what: str
    session: str | None
    model: str | None
    raw: Mapping[str, object] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """What a person types for `id`."""
        return short(self.id)

    def text(self, *path: str) -> str | None:
        """The text at this path; None if there is none."""
        value = self._at(path)
        return value if isinstance(value, str) and value else None

    def moment(self, *path: str) -> float | None:
        """The time at this path in epoch seconds; None if there is none."""
        return moment(self._at(path))

    def number(self, *path: str) -> float | None:
        """The finite number at this path; None if there is none."""
        value = self._at(path)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
            return None
        return float(value)

    def flag(self, name: str) -> bool:
        """Whether this field is true."""
        return self.raw.get(name) is True

    def rows(self, name: str) -> tuple[Mapping[str, object], ...]:
        """The objects of a list."""
        value = self.raw.get(name)
        return tuple(row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()

    def _at(self, path: tuple[str, ...]) -> object:
        value: object = self.raw
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def refused_at(self) -> float:
        """When the refusal that this line tells of happened: the log may be a second late, catching up hours."""
        at = self.moment("evidence", "at")
        return self.time if at is None or at > self.time else at

    @property
    def key(self) -> str | None:
        """The name under which the register lists what is limited: the model, or its provider and `*`."""
        if self.text("scope") == "provider" and self.model and self.what == "limit":
            return self.text("evidence", "entry") or f"{self.model.partition('/')[0]}/*"
        return self.model

    @property
    def told_until(self) -> float | None:
        """The end that somebody else than we told, in epoch seconds; None for our own guess, or if nobody knows."""
        return None if self.text("told_by") in (None, "backoff") else self.moment("until")

    @property
    def counts(self) -> bool:
        """Whether this limit stopped somebody's turn: neither a title or summary request, nor old news."""
        return self.session is not None and not self.flag("small") and not self.flag("history")


def read(raw: Iterable[Mapping[str, object]]) -> tuple[Entry, ...]:
    """The lines that can be used, oldest first; each refusal once, also where two processes tell of it."""
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
    """What a person types for an id: the beginning of its random part, as its end does not tell what came when."""
    return ident[STAMP : STAMP + SHORT] or ident


def moment(value: object) -> float | None:
    """Epoch seconds of an RFC 3339 time, UTC if it has no zone; None if it is none."""
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
