"""One machine's knowledge of shared accounts. It converts the machine's own blacklist to records, and other machines'
records to blacklist entries.

`observe` compares the blacklist with its previous state. `plan` returns the changes to the blacklist for limits that
other machines have hit. Both functions take and return values; the caller reads and writes the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ocwatchd.core.domain.cooldowns import STRIKE_WINDOW, Cooldown
from ocwatchd.core.domain.types import ModelRef, ResetSource, Scope
from ocwatchd.core.sharing.merge import Records
from ocwatchd.core.sharing.record import (
    FREE,
    LARGEST,
    MAX_AHEAD,
    MAX_SKEW,
    SOURCES,
    Incident,
    Key,
    Record,
    incident_bytes,
    newest,
    sharable,
)

BELIEVED = 3_600_000
"""Time, in milliseconds, for which a limit reported by another machine applies if the provider did not report its end.
"""
GRAIN = 0.002
"""Maximum rounding error, in seconds, of a time that was written to a file and read again."""
OFFSET_GRAIN = 0.25
"""Difference, in seconds, up to which a cooldown's recorded end and its recomputed end count as equal. A new
measurement of the server's clock may change the computed end by that much.
"""
NODE_FIELD = "node"
"""The field of a blacklist entry that contains the label of the machine that reported the limit."""
_NAMED_BY_PROVIDER = (ResetSource.RETRY_AFTER, ResetSource.STATUS, ResetSource.TEXT)


@dataclass(frozen=True, slots=True)
class Seen:
    """The blacklist's entry for a model, as it was when the blacklist was last read. Times are in epoch seconds on this
    machine's clock.
    """

    since: float
    until: float | None
    strikes: int
    reset_source: ResetSource

    @classmethod
    def of(cls, entry: Cooldown) -> Seen:
        """Return the state to store for this entry."""
        return cls(entry.since, entry.until, entry.strikes, entry.reset_source)

    def counts(self, now: float) -> bool:
        """Return whether the entry would still be in the blacklist if no program had removed it."""
        return self.until is None or now < self.until + STRIKE_WINDOW


@dataclass(frozen=True, slots=True)
class ServerTime:
    """The server's clock as measured by this machine: `offset` is the number of seconds to add to this
    machine's clock.
    """

    offset: float = 0.0

    @property
    def trusted(self) -> bool:
        """Return whether the two clocks are close enough for other machines' records to be used."""
        return abs(self.offset) * 1000 <= MAX_SKEW

    def of(self, local: float) -> int:
        """Convert a time on this machine's clock, in epoch seconds, to the server's time in milliseconds."""
        return max(round((local + self.offset) * 1000), 0)

    def local(self, server: int) -> float:
        """Convert a time on the server's clock, in milliseconds, to this machine's time in epoch seconds."""
        return server / 1000 - self.offset


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to the blacklist: the entries to write, and the models to remove."""

    put: tuple[Cooldown, ...] = ()
    removed: tuple[ModelRef, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there are any changes to write."""
        return bool(self.put or self.removed)

    def applied(self, entries: Mapping[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
        """Return the blacklist with these changes."""
        kept = {ref: entry for ref, entry in entries.items() if ref not in self.removed}
        return kept | {entry.model: entry for entry in self.put}


@dataclass(slots=True)
class Knowledge:
    """The shared cooldowns known to one machine.

    `node` is the machine's label, and `accounts` maps each shared provider to the name of its account.
    """

    node: str
    accounts: Mapping[str, str]
    records: Records = field(default_factory=Records)
    seen: dict[ModelRef, Seen] = field(default_factory=dict)
    cleared_until: float = 0.0
    """The time, in epoch seconds, up to which cooldowns cleared by the user have been processed."""

    def key_of(self, model: ModelRef) -> Key | None:
        """Return the key under which the model is shared, or None if it is not shared."""
        account = self.accounts.get(model.provider)
        return (account, model.model) if account is not None and sharable(account, model.model) else None

    def models_of(self, record: Record) -> list[ModelRef]:
        """Return the models on this machine to which the record applies: one for each provider of the account."""
        return [ModelRef(provider, record.model) for provider, own in self.accounts.items() if own == record.account]

    # ---- from the blacklist to records

    def observe(self, entries: Mapping[ModelRef, Cooldown], now: float, clock: ServerTime) -> list[Record]:
        """Process the blacklist as it is at `now` (epoch seconds). Return the records that changed."""
        changed: list[Record] = []
        for ref, entry in entries.items():
            key = self.key_of(ref)
            if key is not None and not _private(entry):
                changed += self._met(key, entry, self.seen.get(ref), now, clock)
        for ref, seen in self.seen.items():
            key = self.key_of(ref)
            if ref not in entries and key is not None and seen.counts(now):
                changed += self._freed(key, now, clock, ResetSource.STATUS)
        self.remember(entries)
        return changed

    def remember(self, entries: Mapping[ModelRef, Cooldown]) -> None:
        """Store the state of the blacklist that was just read or written."""
        shared = (entry for ref, entry in entries.items() if self.key_of(ref) is not None)
        self.seen = {entry.model: Seen.of(entry) for entry in shared if entry.hearsay or not _private(entry)}

    def answered(self, model: ModelRef, now: float, clock: ServerTime) -> list[Record]:
        """Process an answer from a model that only other machines have reported as limited. Return the records that
        changed.
        """
        key = self.key_of(model)
        return self._freed(key, now, clock, ResetSource.STATUS) if key is not None else []

    def reported(self) -> dict[ModelRef, float]:
        """Return the models that are in the blacklist only because other machines reported them, each with the time at
        which its entry began (epoch seconds).
        """
        return {ref: seen.since for ref, seen in self.seen.items() if seen.reset_source is ResetSource.SHARED}

    def clear(self, cleared: Iterable[tuple[str, float]], now: float, clock: ServerTime) -> list[Record]:
        """Process the cooldowns that a user has cleared. `cleared` contains each model (`*`: all models) with the time
        of the clear in epoch seconds.

        Return the records that changed. A limit that was reported after the clear is kept.
        """
        changed: list[Record] = []
        fresh = [(name, at) for name, at in cleared if at > self.cleared_until]
        for name, at in fresh:
            for record in self.records:
                named = name == "*" or any(str(model) == name for model in self.models_of(record))
                if named and self.models_of(record) and record.since <= clock.of(at) + 1000:
                    changed += self._freed(record.key, now, clock, ResetSource.MANUAL)
        self.cleared_until = max((at for _, at in fresh), default=self.cleared_until)
        return changed

    def _met(self, key: Key, entry: Cooldown, seen: Seen | None, now: float, clock: ServerTime) -> list[Record]:
        old, until = self.records.get(key), None if entry.until is None else clock.of(entry.until)
        # A clear, or an answer on another machine, may have ended the shared cooldown although it is older than this
        # limit. The limit is then recorded again.
        lost = old is not None and not old.active(clock.of(now)) and clock.of(entry.since) > old.since
        lost = lost and entry.active(now)
        if (seen == Seen.of(entry) and not lost) or (not entry.active(now) and seen is None):
            return []
        if until is not None and until > clock.of(now) + MAX_AHEAD:
            return []
        was_met = seen is not None and seen.reset_source is not ResetSource.SHARED
        more = seen is not None and (entry.strikes > seen.strikes or entry.since > seen.since + GRAIN)
        again = lost or not was_met or more
        since = clock.of(entry.since if seen is None else now)
        incidents, epoch = (old.incidents, old.epoch) if old is not None else ((), 0)
        if again:
            counter = min(max((one.counter for one in incidents), default=0) + 1, LARGEST)
            incidents = newest({*incidents, Incident(counter, self.node)}, incident_bytes(*key))
        elif seen is not None and old is not None and _reported_sooner(seen, entry, old, until):
            epoch = min(epoch + 1, LARGEST)  # otherwise, the merge would keep the estimate, which is later
        elif old is not None:
            since = old.since
        return self._changed(
            Record(*key, epoch, until, incidents, entry.kind, entry.scope, entry.reset_source, since)
        )  # fmt: skip

    def _freed(self, key: Key, now: float, clock: ServerTime, how: ResetSource) -> list[Record]:
        old = self.records.get(key)
        if old is None or not old.active(clock.of(now)):
            return []
        since = max(clock.of(now), old.since)
        return self._changed(
            Record(*key, min(old.epoch + 1, LARGEST), FREE, (), old.kind, old.scope, how, since)
        )  # fmt: skip

    def _changed(self, record: Record) -> list[Record]:
        if record.reset_source not in SOURCES or not self.records.merge(record):
            return []
        kept = self.records.get(record.key)
        return [] if kept is None else [kept]

    # ---- from records to the blacklist

    def plan(self, entries: Mapping[ModelRef, Cooldown], now: float, clock: ServerTime) -> Changes:
        """Return the changes to `entries` that result from other machines' limits.

        An active limit that this machine has hit does not change, and neither does a user's block. Another machine can
        end a limit that this machine has hit only if a user clears the cooldown there.
        """
        if not clock.trusted:
            return Changes()
        put: list[Cooldown] = []
        removed: list[ModelRef] = []
        for record in self.records:
            end = believed_until(record)
            for ref in self.models_of(record):
                entry = entries.get(ref)
                resting = entry is not None and entry.active(now)
                if end <= clock.of(now):
                    if entry is not None and resting and self._ended(record, entry):
                        removed.append(ref)
                elif entry is None or not resting or entry.foreseen:
                    put.append(self._entry(ref, record, clock.local(end), entry, now, clock))
                elif entry.hearsay:
                    wanted = self._entry(ref, record, clock.local(end), entry, now, clock)
                    put += [wanted] if _differs(wanted, entry) else []
        return Changes(tuple(put), tuple(removed))

    def next_change(self, entries: Mapping[ModelRef, Cooldown], now: float) -> float | None:
        """Return when the result of `plan` may change without a new report, in epoch seconds, or None if it will not
        change.

        The result may change when a limit that this machine has hit ends, because another machine may have reported a
        later end.
        """
        own = (entry.until for ref, entry in entries.items() if self.key_of(ref) and not entry.hearsay)
        return min((until for until in own if until is not None and until > now), default=None)

    def _ended(self, record: Record, entry: Cooldown) -> bool:
        if entry.hearsay:
            return True
        cleared = record.until == FREE and record.reset_source is ResetSource.MANUAL
        return cleared and not _private(entry)

    def _entry(
        self, ref: ModelRef, record: Record, until: float, old: Cooldown | None, now: float, clock: ServerTime
    ) -> Cooldown:
        node = reporter(record, self.node)
        counted = old is not None and not old.foreseen and Seen.of(old).counts(now)
        return Cooldown(
            model=ref,
            kind=record.kind,
            scope=Scope.PROVIDER if ref.model == "*" else record.scope,
            since=min(clock.local(record.since), now),
            until=until,
            strikes=old.strikes if old is not None and counted else 0,
            reset_source=ResetSource.SHARED,
            reason=f"reported by {node}" if node else "reported by another machine",
            target=old.target if old is not None and old.hearsay else None,
            targets=old.targets if old is not None and old.hearsay else {},
            doublings=old.doublings if old is not None and counted else 0,
            extra={**(old.extra if old is not None else {}), NODE_FIELD: node},
        )


def believed_until(record: Record) -> int:
    """Return the assumed end of a limit that another machine reported, in milliseconds of the server's clock.

    If the provider did not report the end, the limit applies for at most an hour after it was last hit.
    """
    if record.until is not None and record.reset_source in _NAMED_BY_PROVIDER:
        return record.until
    hour = record.since + BELIEVED
    return hour if record.until is None else min(record.until, hour)


def reporter(record: Record, own: str) -> str:
    """Return the label of the machine, other than this one (`own`), that hit a limit most recently. If only this
    machine hit a limit, return its label. If the record contains no incidents, return an empty string.
    """
    labels = [incident.node for incident in record.incidents]
    return next((label for label in labels if label != own), labels[0] if labels else "")


def _private(entry: Cooldown) -> bool:
    """Return whether an entry must not be shared, because it is a user's block, a forecast, or a limit that other
    machines reported.
    """
    return entry.unmet or entry.reset_source is ResetSource.MANUAL


def _reported_sooner(seen: Seen, entry: Cooldown, old: Record, until: int | None) -> bool:
    """Return whether the provider has reported an end that is earlier than the estimated end and replaces it."""
    guessed = seen.reset_source is ResetSource.ESTIMATE and entry.reset_source is not ResetSource.ESTIMATE
    return guessed and until is not None and (old.until is None or until < old.until)


def _differs(wanted: Cooldown, entry: Cooldown) -> bool:
    """Return whether the entry in the file must be replaced by `wanted`. Small differences between the ends are
    ignored.
    """
    if wanted.until is None or entry.until is None:
        ends = wanted.until == entry.until
    else:
        ends = abs(wanted.until - entry.until) <= OFFSET_GRAIN
    same = replace(wanted, until=entry.until, since=entry.since, reason=entry.reason) == entry
    return not (same and ends)
