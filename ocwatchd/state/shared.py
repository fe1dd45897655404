"""The register as one of several writers keeps it: our changes are told from those of others by what we saw last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ModelRef, ToldBy
from ocwatchd.state import blacklist

Changes = Mapping[ModelRef, Cooldown | None]
"""Entries to write; None: to remove."""


class SharedRegister:
    """The file at `path`. Where another has changed an entry since our last look, theirs stays and ours is dropped.

    A person's clear or block would else be undone by a change that was made without knowing of it: the daemon looks
    twice a second, and refines an entry whenever a door or a late line of the log tells more. Only a new entry that
    nobody has counted yet (see `launcher.early`) gives way to the same limit counted, or a strike would be lost.
    """

    def __init__(self, path: Path) -> None:
        """Nothing was looked at yet: whatever stands there is news."""
        self._path = path
        self._seen: Mapping[ModelRef, Cooldown] = {}
        self._mark: tuple[int, int, int] | None = None

    def know(self, snapshot: blacklist.Snapshot) -> None:
        """This is what the file says; what others write from now on is news."""
        self._seen, self._mark = snapshot.cooldowns, snapshot.signature

    def forget(self) -> None:
        """The next look counts as news."""
        self._mark = None

    def news(self) -> blacklist.Snapshot | None:
        """What the file says, if somebody else wrote it since we last looked or wrote; a look is one stat."""
        if blacklist.signature(self._path) == self._mark:
            return None
        snapshot = blacklist.read(self._path)
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
        foreign, ours = False, changes

        def merge(entries: blacklist.Cooldowns) -> blacklist.Cooldowns:
            nonlocal foreign, ours  # looked at under the register's lock: nobody writes between this and our own write
            foreign = blacklist.signature(self._path) != self._mark
            if foreign:
                known = {m: e for m, e in changes.items() if _same(self._seen.get(m), entries.get(m))}
                ours = known | _counting(changes.keys() - self._seen.keys(), changes, entries)
            return _changed(entries, ours)

        snapshot = blacklist.update(self._path, merge, now, told, counted)
        self._seen = _changed(self._seen, ours)
        self._mark = None if foreign else snapshot.signature
        return snapshot


def _changed(entries: Mapping[ModelRef, Cooldown], changes: Changes) -> blacklist.Cooldowns:
    kept = {model: entry for model, entry in entries.items() if model not in changes}
    return kept | {model: entry for model, entry in changes.items() if entry is not None}


def _counting(new: Iterable[ModelRef], changes: Changes, entries: blacklist.Cooldowns) -> blacklist.Cooldowns:
    """Of these models, our entries where another has entered the limit uncounted; its end is better than a guess."""
    counted = {}
    for model in new:
        ours, theirs = changes[model], entries.get(model)
        if ours is not None and theirs is not None and theirs.uncounted:
            guessed = ours.told_by is ToldBy.BACKOFF
            counted[model] = replace(ours, until=theirs.until, told_by=theirs.told_by) if guessed else ours
    return counted


def _same(one: Cooldown | None, other: Cooldown | None) -> bool:
    """Whether the file would say the same of both (None: nothing): a time there is cut to the millisecond."""
    return one == other or (
        one is not None and other is not None and blacklist.to_json(one) == blacklist.to_json(other)
    )
