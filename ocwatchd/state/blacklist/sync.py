"""Change the blacklist without undoing the changes of other writers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ocwatchd.core.domain.cooldowns import Cooldown, joined
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.state.blacklist import store as blacklist

Changes = Mapping[ModelRef, Cooldown | None]
"""Changes by model: the entry to write, or None to remove the model's entry."""


class SharedBlacklist:
    """The blacklist at `path`, together with the content that this object last read.

    If another writer has changed an entry since that read, this object's change of the entry is dropped. Otherwise, a
    change could undo a user's clear or block: the daemon reads the file only twice a second, and updates an entry
    whenever an endpoint or a late log line provides more details. Two changes that result from the same limit are
    merged. For example, ten runs that are refused simultaneously count as ten strikes, with the best known reset time.
    """

    def __init__(self, path: Path, known: blacklist.Snapshot | None = None) -> None:
        """Store the path. `known` is the content of the file if it has already been read; if not, the first call of
        `news` returns the content.
        """
        self._path = path
        self._seen: Mapping[ModelRef, Cooldown] = {}
        self._mark: blacklist.Signature | None = None
        self._missed: float | None = None
        """The time, in epoch seconds, of another program's change that this object's last write has preserved but
        `news` has not returned yet; None if there is no such change.
        """
        self.written = 0.0
        """The time, in epoch seconds, at which the content that `news` last returned was written."""
        if known is not None:
            self._know(known)

    def _know(self, snapshot: blacklist.Snapshot) -> None:
        self._seen, self._mark, self._missed = snapshot.cooldowns, snapshot.signature, None

    def forget(self) -> None:
        """Cause the next call of `news` to return the file's content even if the file has not changed."""
        self._mark = None

    def untouched(self, model: ModelRef, entries: Mapping[ModelRef, Cooldown], now: float) -> bool:
        """Return whether the model's entry in `entries` is the same as when this object last read the file."""
        return _same(_counting(self._seen, model, now), _counting(entries, model, now))

    def news(self, now: float) -> blacklist.Snapshot | None:
        """Return the file's content if another writer has changed it since this object's last read or write; otherwise,
        return None.

        If the file is unchanged, this takes a single stat call.
        """
        if self._missed is None and blacklist.signature(self._path) == self._mark:
            return None
        snapshot = blacklist.read(self._path)
        ours = self._missed is not None and snapshot.signature == self._mark
        self.written = self._missed if ours and self._missed is not None else _time(snapshot.signature, now)
        self._know(snapshot)
        return snapshot

    def write(
        self, changes: Changes, now: float, fields: Mapping[str, object], counted: Mapping[str, object] | None
    ) -> blacklist.Snapshot:
        """Write the changes, except to entries that another writer has changed, and return the file's content.

        `fields` and `counted` have the same meaning as for `blacklist.update`. The next call of `news` still returns
        the changes of other writers.

        Raises:
            StateError: The file cannot be read or written, and was not changed.
        """
        ours, missed = changes, self._missed

        def merge(entries: blacklist.Entries) -> blacklist.Entries:
            # This function runs under the blacklist's lock, so the file cannot change before the write.
            nonlocal ours, missed
            mark = blacklist.signature(self._path)
            if mark != self._mark:
                missed = _time(mark, now)
            if missed is not None:
                ours = self._merged(changes, entries, now)
            return _changed(entries, ours)

        snapshot = blacklist.update(self._path, merge, now, fields, counted)
        # Entries that were removed or rejected are not in the file.
        refused = ours.keys() - snapshot.cooldowns.keys()
        self._seen = _changed(self._seen, {**ours, **dict.fromkeys(refused)})
        self._mark, self._missed = snapshot.signature, missed
        return snapshot

    def _merged(self, changes: Changes, entries: Mapping[ModelRef, Cooldown], now: float) -> Changes:
        """Return the changes that may be written, merged with other writers' entries for the same limit."""
        merged: dict[ModelRef, Cooldown | None] = {}
        for model, ours in changes.items():
            theirs = _counting(entries, model, now)
            if self.untouched(model, entries, now):
                merged[model] = ours
            elif ours is not None and theirs is not None:
                merged[model] = joined(_counting(self._seen, model, now), ours, theirs)
        return merged


def _changed(entries: Mapping[ModelRef, Cooldown], changes: Changes) -> blacklist.Entries:
    kept = {model: entry for model, entry in entries.items() if model not in changes}
    return kept | {model: entry for model, entry in changes.items() if entry is not None}


def _counting(entries: Mapping[ModelRef, Cooldown], model: ModelRef, now: float) -> Cooldown | None:
    """Return the model's entry, or None if there is none or it is stale. Any writer may drop a stale entry, so a
    missing entry does not mean that a user has cleared it.
    """
    entry = entries.get(model)
    return None if entry is None or blacklist.stale(entry, now) else entry


def _time(mark: blacklist.Signature | None, now: float) -> float:
    """Return the modification time of the file in epoch seconds, or `now` if there is no file. The field `updated` is
    not used, because a text editor does not change it.
    """
    return mark[1] / 1e9 if mark else now


def _same(one: Cooldown | None, other: Cooldown | None) -> bool:
    """Return whether the two entries would be the same in the file, where times have a precision of milliseconds. None
    stands for a missing entry.
    """
    return one == other or (
        one is not None and other is not None and blacklist.to_json(one) == blacklist.to_json(other)
    )
