"""The register as one of several writers keeps it: our changes are told from those of others by what we saw last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ocwatchd.core.joining import joined
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ModelRef
from ocwatchd.state import blacklist

Changes = Mapping[ModelRef, Cooldown | None]
"""Entries to write; None: to remove."""


class SharedRegister:
    """The file at `path`. Where another has changed an entry since our last look, theirs stays and ours is dropped.

    A person's clear or block would else be undone by a change that was made without knowing of it: the daemon looks
    twice a second, and refines an entry whenever a door or a late line of the log tells more. Only where both tell of
    one limit, both hold: ten runs that are refused at once are ten strikes, and the best known end is everybody's.
    """

    def __init__(self, path: Path) -> None:
        """Nothing was looked at yet: whatever stands there is news."""
        self._path = path
        self._seen: Mapping[ModelRef, Cooldown] = {}
        self._mark: blacklist.Signature | None = None
        self._missed: float | None = None
        """When others wrote what we have written over unseen; None if they did not."""
        self.written = 0.0
        """When others wrote what `news` has told last, epoch seconds."""

    def know(self, snapshot: blacklist.Snapshot) -> None:
        """This is what the file says; what others write from now on is news."""
        self._seen, self._mark, self._missed = snapshot.cooldowns, snapshot.signature, None

    def forget(self) -> None:
        """The next look counts as news."""
        self._mark = None

    def untouched(self, model: ModelRef, entries: Mapping[ModelRef, Cooldown], now: float) -> bool:
        """Whether `entries` of the file say of the model what they said when we last looked."""
        return _same(_counting(self._seen, model, now), _counting(entries, model, now))

    def news(self, now: float) -> blacklist.Snapshot | None:
        """What the file says, if somebody else wrote it since we last looked or wrote; a look is one stat."""
        if self._missed is None and blacklist.signature(self._path) == self._mark:
            return None
        snapshot = blacklist.read(self._path)
        ours = self._missed is not None and snapshot.signature == self._mark
        self.written = self._missed if ours and self._missed is not None else _time(snapshot.signature, now)
        self.know(snapshot)
        return snapshot

    def write(
        self, changes: Changes, now: float, told: Mapping[str, object], counted: Mapping[str, object] | None
    ) -> blacklist.Snapshot:
        """Write our changes to entries that nobody else has changed; `told` and `counted` as for `blacklist.update`.

        What others wrote is still news afterwards.

        Raises:
            StateError: the file cannot be read or written; nothing was changed.
        """
        ours, missed = changes, self._missed

        def merge(entries: blacklist.Cooldowns) -> blacklist.Cooldowns:
            nonlocal ours, missed  # looked at under the register's lock: nobody writes between this and our own write
            mark = blacklist.signature(self._path)
            if mark != self._mark:
                missed = _time(mark, now)
            if missed is not None:
                ours = self._merged(changes, entries, now)
            return _changed(entries, ours)

        snapshot = blacklist.update(self._path, merge, now, told, counted)
        self._seen = _changed(self._seen, ours)
        self._mark, self._missed = snapshot.signature, missed
        return snapshot

    def _merged(self, changes: Changes, entries: Mapping[ModelRef, Cooldown], now: float) -> Changes:
        """Of these the ones that may be written, joined with what others tell of the same limit."""
        merged: dict[ModelRef, Cooldown | None] = {}
        for model, ours in changes.items():
            theirs = _counting(entries, model, now)
            if self.untouched(model, entries, now):
                merged[model] = ours
            elif ours is not None and theirs is not None:
                merged[model] = joined(_counting(self._seen, model, now), ours, theirs)
        return merged


def _changed(entries: Mapping[ModelRef, Cooldown], changes: Changes) -> blacklist.Cooldowns:
    kept = {model: entry for model, entry in entries.items() if model not in changes}
    return kept | {model: entry for model, entry in changes.items() if entry is not None}


def _counting(entries: Mapping[ModelRef, Cooldown], model: ModelRef, now: float) -> Cooldown | None:
    """The model's entry, unless it ended so long ago that whoever writes drops it: that is no person's clear."""
    entry = entries.get(model)
    return None if entry is None or blacklist.stale(entry, now) else entry


def _time(mark: blacklist.Signature | None, now: float) -> float:
    """The file's own time, not `updated`, which a person's editor leaves as it was; without a file it is `now`."""
    return mark[1] / 1e9 if mark else now


def _same(one: Cooldown | None, other: Cooldown | None) -> bool:
    """Whether the file would say the same of both (None: nothing): a time there is cut to the millisecond."""
    return one == other or (
        one is not None and other is not None and blacklist.to_json(one) == blacklist.to_json(other)
    )
