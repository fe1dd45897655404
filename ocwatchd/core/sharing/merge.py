"""Merge records. The operation is commutative, associative and idempotent, so lost, repeated, late and reordered
messages are harmless.

`ocwatchd/share/merge.lua` implements the same function for the server. Tests compare the two byte by byte on a real
server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ocwatchd.core.sharing.record import (
    KINDS,
    MAX_AHEAD,
    SCOPES,
    SOURCES,
    Key,
    Record,
    incident_bytes,
    newest,
)

RETENTION = MAX_AHEAD + 86_400_000
"""Time, in milliseconds, after which the record of a model that is available again is deleted. It is longer than any
accepted cooldown, because a machine that reconnects after weeks must not revive a cooldown that was cleared in the
meantime.
"""
MAX_RECORDS = 2000
"""Maximum number of records to keep, which take at most 600 kB. A team has a few dozen records."""


def merged(one: Record, other: Record) -> Record:
    """Merge two records of one model.

    The record with the higher epoch is used. If both have the same epoch, the later end is used, with its kind, scope
    and reset source. The incidents of both are combined, and the later `since` is used.

    Raises:
        ValueError: The records are about different models.
    """
    if one.key != other.key:
        raise ValueError("records of different models")
    if one.epoch != other.epoch:
        return one if one.epoch > other.epoch else other
    holds = max(one, other, key=_weight)
    return Record(
        one.account, one.model, one.epoch, holds.until,
        newest({*one.incidents, *other.incidents}, incident_bytes(*one.key)),
        holds.kind, holds.scope, holds.reset_source, max(one.since, other.since),
    )  # fmt: skip


def _weight(record: Record) -> tuple[float, int, int, int]:
    until = float("inf") if record.until is None else record.until
    return until, KINDS.index(record.kind), SCOPES.index(record.scope), SOURCES.index(record.reset_source)


class Records:
    """All records that a machine has, including those of other machines. With these records, any machine can refill an
    empty server.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """Initialize the collection with the stored records."""
        self._records: dict[Key, Record] = {}
        for record in records:
            self.merge(record)

    def __iter__(self) -> Iterator[Record]:
        """Iterate over all records."""
        return iter(tuple(self._records.values()))

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def get(self, key: Key) -> Record | None:
        """Return the record of this model, or None if there is no record."""
        return self._records.get(key)

    def merge(self, record: Record) -> bool:
        """Merge a record. Return whether it contained new information."""
        old = self._records.get(record.key)
        new = record if old is None else merged(old, record)
        if new == old or (old is None and len(self._records) >= MAX_RECORDS):
            return False
        self._records[record.key] = new
        return True

    def stale(self, now: int) -> list[Record]:
        """Return the records that can be deleted at `now`, in milliseconds of the server's clock."""
        return [record for record in self if is_stale(record, now)]

    def forget(self, record: Record) -> None:
        """Delete this record unless the collection contains a different version of it."""
        if self._records.get(record.key) == record:
            del self._records[record.key]


def is_stale(record: Record, now: int) -> bool:
    """Return whether the record can be deleted because both its end and its retention time have passed."""
    last = max(record.since, record.until or 0)
    return now - last > RETENTION
