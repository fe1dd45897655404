"""All transitions of a cooldown: it is recorded, repeated, given a more exact end, ended by an answer, or cleared.

The module is long because no other module may contain transitions of a cooldown. It also merges the two entries that
result when two processes record the same limit simultaneously.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ocwatchd.core.domain.timeline import SKEW, Step
from ocwatchd.core.domain.types import LimitEvent, LimitKind, ModelRef, ResetSource, Scope, Target


@dataclass(frozen=True, slots=True)
class CooldownPolicy:
    """The length of a cooldown without a known reset time, in seconds. It doubles with every strike, up to
    `maximum`.
    """

    rate_limit: float = 60.0
    overloaded: float = 30.0
    quota: float = 3600.0
    maximum: float = 21600.0

    def base(self, kind: LimitKind) -> float | None:
        """Return the length of the first cooldown for this kind, in seconds; None if it lasts until a user acts."""
        return {
            LimitKind.RATE_LIMIT: self.rate_limit,
            LimitKind.OVERLOADED: self.overloaded,
            LimitKind.QUOTA: self.quota,
        }.get(kind)


PAUSE_RULE = "move-on:"
"""Prefix of `Cooldown.rule` for a cooldown that was not caused by a limit. The cause follows the prefix."""
LONGEST_PAUSE = 60.0
"""Maximum length, in seconds, of a cooldown that was not caused by a limit."""
STRIKE_WINDOW = 600.0
"""Period, in seconds, after the end of a cooldown. A new limit within this period counts as a repetition."""
BURST = 1.5
"""Limits less than this many seconds apart do not double the cooldown. OpenCode's own retries are at least 2 s apart,
and timestamps in whole seconds can make simultaneous limits appear 1 s apart.
"""
SAME_TIME = 2.5
"""Maximum difference, in seconds, between two reported reset times that are treated as equal: the log format before
1.17 has timestamps in whole seconds.
"""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The period in which a model (or `provider/*`) must not be used. It lasts until `until` (epoch seconds; None:
    until a user clears it).

    `strikes` counts refused attempts since the model last worked. `doublings` is the number of times the cooldown was
    doubled. `extra` contains the fields that other programs wrote.
    """

    model: ModelRef
    kind: LimitKind
    scope: Scope
    since: float
    until: float | None
    strikes: int
    reset_source: ResetSource
    rule: str | None = None
    reason: str = ""
    session: str | None = None
    target: Target | None = None
    doublings: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)
    targets: Mapping[ModelRef, Target] = field(default_factory=dict)
    """Separate targets for models that this entry covers, if their own chains lead to a target other than `target`."""

    def target_for(self, model: ModelRef) -> Target | None:
        """Return the target of prompts for `model`, which must be covered by this entry; None if there is no target."""
        return self.targets.get(model, self.target)

    def active(self, now: float) -> bool:
        """Return whether the model is still cooling down at `now`. The cooldown ends at the reset time itself."""
        return self.until is None or now < self.until

    @property
    def foreseen(self) -> bool:
        """Whether the limit is only forecast. A forecast keeps new prompts away, but does not affect running turns."""
        return self.reset_source is ResetSource.FORECAST

    @property
    def hearsay(self) -> bool:
        """Whether only another machine has reported the limit."""
        return self.reset_source is ResetSource.SHARED

    @property
    def unmet(self) -> bool:
        """Whether this machine has not hit the limit itself. If so, new prompts avoid the model, but running turns stay
        on it.
        """
        return self.foreseen or self.hearsay

    @property
    def paused(self) -> bool:
        """Whether the cooldown was caused by a failure that is not a limit."""
        return (self.rule or "").startswith(PAUSE_RULE)

    def covers(self, model: ModelRef) -> bool:
        """Return whether this entry covers `model`. An entry may cover one model, a whole provider, or a provider's
        free models.
        """
        if self.model == model or self.model == model.whole_provider:
            return True
        same_provider = self.model.provider == model.provider
        return self.scope is Scope.FREE_TIER and same_provider and is_free(self.model) and is_free(model)


def is_free(model: ModelRef) -> bool:
    """Return whether the model's name marks it as a provider's free variant (`…:free` at OpenRouter,
    `…-free` at Zen).
    """
    return model.model.endswith((":free", "-free"))


class _Entries(dict[ModelRef, Cooldown]):
    """Cooldown entries by key, indexed so that the entries covering a model are found without a full scan.

    `tiers` contains, by provider, the keys of entries that also cover the provider's other free models. `changes`
    counts the changes that may affect which models are cooling down.
    """

    def __init__(self, entries: Iterable[Cooldown], changes: int = 0) -> None:
        super().__init__()
        self.tiers: dict[str, dict[ModelRef, None]] = {}
        self.changes = changes
        for entry in entries:
            self[entry.model] = entry

    def __setitem__(self, key: ModelRef, entry: Cooldown) -> None:
        old = self.get(key)
        super().__setitem__(key, entry)
        kept = old is not None and (old.until is None or old.until > entry.since)
        self.changes += not (kept and old and (old.scope, old.unmet) == (entry.scope, entry.unmet))
        tier = self.tiers.setdefault(key.provider, {})
        if entry.scope is Scope.FREE_TIER and is_free(key):
            tier[key] = None
        else:
            tier.pop(key, None)

    def remove(self, key: ModelRef) -> Cooldown | None:
        """Remove and return an entry; return None if there is no such entry."""
        self.changes += key in self
        self.tiers.get(key.provider, {}).pop(key, None)
        return self.pop(key, None)

    def covering(self, model: ModelRef) -> list[Cooldown]:
        """Return the entries that cover this model."""
        keys = dict.fromkeys(
            (model, model.whole_provider, *(self.tiers.get(model.provider, ()) if is_free(model) else ()))
        )
        return [self[key] for key in keys if key in self]


class Cooldowns:
    """All cooldowns. This class makes no decisions about sessions, and uses neither a clock nor files."""

    def __init__(self, entries: Iterable[Cooldown] = ()) -> None:
        """Initialize the object with known entries."""
        self._entries = _Entries(entries)
        self._refused: dict[ModelRef, dict[str, float]] = {}
        self._lifted: dict[ModelRef, float] = {}

    def entries(self) -> tuple[Cooldown, ...]:
        """Return all entries, including ended entries that still affect the count of strikes."""
        return tuple(self._entries.values())

    def replace_all(self, entries: Iterable[Cooldown], at: float) -> tuple[Cooldown, ...]:
        """Adopt the blacklist that another process wrote at `at` (epoch seconds).

        Return the entries that must be written again, each with one strike. Their models have refused attempts since
        the other process cleared the cooldowns.
        """
        before, self._entries = self._entries, _Entries(entries, self._entries.changes + 1)
        again = []
        for key in before.keys() - self._entries.keys():
            refused = {session: time for session, time in self._refused.pop(key, {}).items() if time > at}
            self._lifted[key] = at
            if refused:
                self._refused[key] = refused
                self._entries[key] = replace(before[key], since=min(refused.values()), strikes=1, doublings=0)
                again.append(self._entries[key])
        return tuple(again)

    def lift(self, cleared: Mapping[ModelRef, float]) -> None:
        """Store the models whose cooldowns a user cleared before this object was created, each with the time of that
        clear, in epoch seconds.

        Limits older than that time are not recorded again.
        """
        self._lifted |= cleared

    def cleared_at(self, model: ModelRef) -> float:
        """Return when a user last cleared the cooldown of the model or of its whole provider, in epoch seconds. Return
        0.0 if no recent clear is known.
        """
        return max(self._lifted.get(model, 0.0), self._lifted.get(model.whole_provider, 0.0))

    def lifted_since(self, event: LimitEvent) -> bool:
        """Return whether a user has cleared the cooldown of the event's model since this limit.

        Log records are up to 1 s late (1.17 and later). A timestamp in whole seconds comes from the log format before
        1.17 and may stand for any moment within that second, so it is treated as the end of the second.
        """
        if event.ref is None:
            return False
        lifted = self._lifted.get(_key_of(event, event.ref), 0.0)
        return event.time + (1.0 if event.time == int(event.time) else 0.0) <= lifted

    def cooling(self, model: ModelRef, now: float) -> Cooldown | None:
        """Return the entry that causes this model's current cooldown, or None if the model is not cooling down. If
        several entries apply, return the one with the latest end.

        Only limits that this machine has hit are considered, because other entries prove nothing about running turns.
        """
        return max((entry for entry in self._blocking(model, now) if not entry.unmet), key=_end, default=None)

    def limited(self, model: ModelRef, now: float) -> Cooldown | None:
        """Return the entry that keeps new prompts away from this model, or None if there is no such entry.

        Unlike `cooling`, this method includes limits that other machines reported.
        """
        return max((entry for entry in self._blocking(model, now) if not entry.foreseen), key=_end, default=None)

    def avoided(self, model: ModelRef, now: float) -> Cooldown | None:
        """Return the entry that rules this model out as a fallback, or None if there is no such entry.

        Unlike `limited`, this method includes forecasts.
        """
        return max(self._blocking(model, now), key=_end, default=None)

    def _blocking(self, model: ModelRef, now: float) -> list[Cooldown]:
        return [entry for entry in self._entries.covering(model) if entry.active(now)]

    def record(self, event: LimitEvent, policy: CooldownPolicy, target: Target | None = None) -> Cooldown:
        """Record one refused attempt with the event's timestamp, and return the entry.

        Raises:
            ValueError: The event names no model, or its verdict is not SURE.
        """
        ref, kind, scope = event.ref, event.verdict.kind, event.verdict.scope
        if ref is None or kind is None or scope is None:
            raise ValueError("only a definite limit of a known model can be recorded")
        key = _key_of(event, ref)
        old = self._entries.get(key)
        if old is not None and old.unmet:
            target, old = target or old.target, _before(old)
        if old is not None and event.time >= (old.until or event.time) + STRIKE_WINDOW:
            old = None
        doublings = self._doublings(key, old, event)
        until, reset_source = _end_of(event, kind, policy, doublings)
        entry = Cooldown(
            model=key,
            kind=kind,
            scope=scope,
            since=event.time,
            until=until,
            strikes=1 if old is None else old.strikes + 1,
            reset_source=reset_source,
            rule=event.verdict.rule,
            reason=event.reason,
            session=event.session or (old.session if old else None),
            target=target or (old.target if old else None),
            doublings=doublings,
            extra=old.extra if old else {},
            targets=old.targets if old else {},
        )
        if old is not None and old.active(event.time):
            entry = replace(stronger(old, entry), since=old.since)
        self._entries[key] = entry
        return entry

    def refine(
        self, model: ModelRef, until: float, reset_source: ResetSource, now: float, kind: LimitKind | None = None
    ) -> Cooldown | None:
        """Set the exact end of a limit that was already recorded. Return its entry, or None if nothing changes.

        The exact end replaces an estimate; if two ends are known, the later one applies. `kind` is the kind of the
        limit to which this end applies, if known. The end of a weaker limit does not shorten the estimate for a
        stronger one.
        """
        own = self._entries.get(model)
        sure = own is not None and own.active(now) and not own.unmet
        entry = own if sure else self.cooling(model, now)
        if entry is None or entry.until is None or entry.reset_source is ResetSource.MANUAL:
            return None
        if ResetSource.RETRY_AFTER in (entry.reset_source, reset_source) and abs(entry.until - until) <= SAME_TIME:
            # Both sources report the same reset time. The status is more precise, but the header is more reliable, so
            # the entry combines the time from the status with the header as its source.
            until, reset_source = (
                (entry.until if entry.reset_source is ResetSource.STATUS else until),
                ResetSource.RETRY_AFTER,
            )
        elif until <= entry.until and (
            entry.reset_source in (ResetSource.RETRY_AFTER, ResetSource.STATUS)
            or (kind is not None and weaker(kind, entry.kind))
        ):
            return None
        if (entry.until, entry.reset_source) == (until, reset_source):
            return None
        self._entries[entry.model] = replace(entry, until=until, reset_source=reset_source)
        return self._entries[entry.model]

    def aim(
        self, model: ModelRef, target: Target | None, targets: Mapping[ModelRef, Target] | None = None
    ) -> Cooldown | None:
        """Set the target of prompts for a model that is cooling down, and the separate targets (`targets`) of other
        models that its entry covers.

        Return the entry, or None if nothing changes.
        """
        entry = self._entries.get(model)
        if entry is None or (entry.target == target and (targets is None or entry.targets == targets)):
            return None
        self._entries[model] = replace(entry, target=target, targets=entry.targets if targets is None else targets)
        return self._entries[model]

    def targets(self, model: ModelRef, now: float) -> list[Target]:
        """Return the targets of prompts for a model that is cooling down. The target of the entry with the latest end
        comes first.
        """
        blocking = sorted(self._blocking(model, now), key=_end, reverse=True)
        return [target for entry in blocking if (target := entry.target_for(model)) is not None]

    @property
    def changes(self) -> int:
        """The number of changes that may affect which models are cooling down. The end of a cooldown at its reset time
        does not count as a change.
        """
        return self._entries.changes

    def next_end(self, now: float) -> float:
        """Return the time at which the next cooldown ends, in epoch seconds, or infinity if no cooldown has an end."""
        return min((e.until for e in self._entries.values() if e.until is not None and e.until > now), default=math.inf)

    def answered(self, model: ModelRef, started: float) -> Cooldown | None:
        """End the cooldown of a model that answered a request begun at `started`; return the removed entry, or None.

        An answer to a request from before the last limit proves nothing. A user's block always remains.
        """
        entry = self._entries.get(model) or self._entries.get(model.whole_provider)
        if entry is None or entry.reset_source is ResetSource.MANUAL or entry.foreseen:
            return None  # an answer in a running turn does not disprove a forecast
        last = max(self._refused.get(entry.model, {}).values(), default=entry.since)
        if entry.hearsay:
            last = max(last, entry.since)
        return self.clear(entry.model) if started > last else None

    def block(self, model: ModelRef, until: float | None, now: float, target: Target | None = None) -> Cooldown:
        """Record a user's block of a model, and return the entry."""
        entry = Cooldown(
            model,
            LimitKind.QUOTA,
            _scope_of(model),
            now,
            until,
            0,
            ResetSource.MANUAL,
            None,
            "blocked by hand",
            target=target,
        )
        self._entries[model] = entry
        return entry

    def foresee(self, model: ModelRef, until: float, now: float, why: str, target: Target) -> Cooldown | None:
        """Record that a limit is about to be reached. Return None if the model is already cooling down or already has a
        forecast.
        """
        if self.avoided(model, now) is not None:
            return None
        old = self._entries.get(model)
        strikes, doublings = (old.strikes, old.doublings) if old else (0, 0)
        kind, scope, reset_source = LimitKind.RATE_LIMIT, Scope.MODEL, ResetSource.FORECAST
        entry = Cooldown(
            model, kind, scope, now, until, strikes, reset_source, reason=why, target=target, doublings=doublings
        )
        self._entries[model] = entry
        return entry

    def pause(self, model: ModelRef, seconds: float, now: float, cause: str, why: str, session: str) -> Cooldown | None:
        """Record that the model failed for a reason other than a limit. Return None if the model is already cooling
        down.

        The cooldown does not count as a strike, and lasts for at most a minute.
        """
        if self.cooling(model, now) is not None:
            return None
        old = self._entries.get(model)
        strikes, doublings = (old.strikes, old.doublings) if old and not old.unmet else (0, 0)
        entry = Cooldown(
            model, LimitKind.OVERLOADED, Scope.MODEL, now, now + min(seconds, LONGEST_PAUSE), strikes,
            ResetSource.ESTIMATE, f"{PAUSE_RULE}{cause}", why, session, old.target if old else None, doublings,
        )  # fmt: skip
        self._entries[model] = entry
        return entry

    def clear(self, model: ModelRef) -> Cooldown | None:
        """Remove and return the model's entry."""
        self._refused.pop(model, None)
        return self._entries.remove(model)

    def clock_set(self, step: Step) -> tuple[Cooldown, ...]:
        """Correct the times that were recorded while the clock was wrong; return the entries that changed."""
        self._lifted = {ref: step.remembered(at) for ref, at in self._lifted.items()}
        for refused in self._refused.values():
            refused.update({session: step.remembered(at) for session, at in refused.items()})
        return self._begin({ref: step.noted(entry.since) for ref, entry in self._entries.items()})

    def settle(self, now: float) -> tuple[Cooldown, ...]:
        """Set entries that begin in the future to begin now, with the same length. Return the entries that changed.

        Such entries were made while the clock of this machine or of another writer was ahead. Call this method only
        when the clock has been running evenly for a while, because otherwise this machine's clock may be wrong.
        """
        return self._begin({ref: now for ref, entry in self._entries.items() if entry.since > now + SKEW})

    def _begin(self, begun: Mapping[ModelRef, float]) -> tuple[Cooldown, ...]:
        """Set the times at which these entries begin, without changing their length. An entry without an end is not
        changed.
        """
        changed = []
        for ref, since in begun.items():
            entry = self._entries[ref]
            lasting = None if entry.until is None else entry.until - entry.since
            if since != entry.since and (lasting is None or lasting > 0):
                self._entries[ref] = replace(entry, since=since, until=None if lasting is None else since + lasting)
                changed.append(self._entries[ref])
        return tuple(changed)

    def prune(self, now: float) -> bool:
        """Discard entries that ended so long ago that they no longer count as strikes. Return whether any were
        discarded.
        """
        self._lifted = {ref: at for ref, at in self._lifted.items() if now < at + STRIKE_WINDOW}
        stale = [
            ref
            for ref, entry in self._entries.items()
            if entry.until is not None and now >= entry.until + STRIKE_WINDOW
        ]
        for ref in stale:
            self.clear(ref)
        return bool(stale)

    def _doublings(self, key: ModelRef, old: Cooldown | None, event: LimitEvent) -> int:
        """Return the new number of doublings. It increases by one if an attempt is refused after the cooldown, or if
        another attempt of the same session is refused.

        Limits of other sessions whose requests were running when the cooldown began do not increase it: if attempts of
        ten sessions are refused simultaneously, the cause is one overload.
        """
        refused = self._refused.setdefault(key, {})
        session = event.session or ""
        previous = refused.get(session)
        refused[session] = max(event.time, previous or event.time)
        if len(refused) > 256:  # limit the memory use during a burst of limits in many sessions
            del refused[min(refused, key=lambda name: refused[name])]
        if old is None:
            return 0
        if not old.active(event.time) or (previous is not None and event.time - previous >= BURST):
            return old.doublings + 1
        return old.doublings


def _key_of(event: LimitEvent, ref: ModelRef) -> ModelRef:
    return ref.whole_provider if event.verdict.scope is Scope.PROVIDER else ref


def _before(unmet: Cooldown) -> Cooldown | None:
    """Return the strikes from earlier limits that this entry (a forecast or another machine's limit) has kept. They are
    returned as an entry that has ended. Return None if there are no strikes.
    """
    return replace(unmet, until=unmet.since, reset_source=ResetSource.ESTIMATE) if unmet.strikes else None


def _scope_of(model: ModelRef) -> Scope:
    return Scope.PROVIDER if model.model == "*" else Scope.MODEL


def _end(entry: Cooldown) -> float:
    return float("inf") if entry.until is None else entry.until


def _end_of(
    event: LimitEvent, kind: LimitKind, policy: CooldownPolicy, doublings: int
) -> tuple[float | None, ResetSource]:
    if event.hint is not None:
        return event.hint.until, event.hint.reset_source
    base = policy.base(kind)
    if base is None:
        return None, ResetSource.ESTIMATE
    return event.time + min(policy.maximum, base * 2.0 ** min(doublings, 64)), ResetSource.ESTIMATE


def stronger(old: Cooldown, new: Cooldown) -> Cooldown:
    """Return `new` merged with `old`, which is still active.

    The entry with the later known end also determines kind, scope, rule and reason. A billing limit that lasts until a
    user acts is not replaced by a later quota limit. For two limits of the same kind, the newest rule and reason are
    kept, but a user's block keeps its own. A forecast or another machine's report never hides a limit that this machine
    has hit.
    """
    if old.unmet or not outlasts(old, new):
        return new
    shown = new if new.kind is old.kind and old.reset_source is not ResetSource.MANUAL else old
    return replace(
        new,
        until=old.until,
        reset_source=old.reset_source,
        kind=old.kind,
        scope=old.scope,
        rule=shown.rule,
        reason=shown.reason,
    )


def outlasts(old: Cooldown, new: Cooldown) -> bool:
    """Return whether the reset time of `old` still applies after `new` was reported.

    If both ends are reported, or both are estimates, the later one applies. A reported end replaces an estimate, unless
    the estimate is for a stronger kind of limit: a rate limit that ends in 10 s proves nothing about a quota. An
    estimate never replaces a reported end.
    """
    guessed, was_guessed = new.reset_source is ResetSource.ESTIMATE, old.reset_source is ResetSource.ESTIMATE
    if old.until is None:
        return True
    if guessed and new.until is not None and not was_guessed:
        return True
    if was_guessed and not guessed and not weaker(new.kind, old.kind):
        return False
    return new.until is not None and new.until <= old.until


_STRENGTH = (LimitKind.OVERLOADED, LimitKind.RATE_LIMIT, LimitKind.QUOTA, LimitKind.BILLING)


def weaker(one: LimitKind, other: LimitKind) -> bool:
    """Return whether limits of the kind `one` usually end sooner than limits of the kind `other`."""
    return _STRENGTH.index(one) < _STRENGTH.index(other)


GRAIN = 0.001
"""Maximum rounding error, in seconds, of a time that was written to a file and read again."""


def joined(before: Cooldown | None, ours: Cooldown, theirs: Cooldown) -> Cooldown:
    """Merge the entries that two writers made for one model. Return `theirs` unchanged if it is about another limit.

    `before` is the entry from which both writers started. `theirs` may be a user's block, or an entry made after a user
    had cleared the cooldown, which the writer of `ours` had not noticed.
    """
    known, since = (before.strikes, before.since) if before else (0, theirs.since)
    if theirs.unmet and not ours.unmet:
        return ours
    anew = theirs.strikes < known or (theirs.strikes == known and theirs.since > since + GRAIN)
    if anew or ours.unmet or ResetSource.MANUAL in (ours.reset_source, theirs.reset_source):
        return theirs
    same_refusal = before is None and theirs.strikes > 0 and theirs.session == ours.session
    return replace(
        stronger(theirs, ours),
        since=min(ours.since, theirs.since),
        strikes=max(ours.strikes, theirs.strikes) if same_refusal else theirs.strikes + max(ours.strikes - known, 0),
        target=ours.target or theirs.target,
        doublings=max(ours.doublings, theirs.doublings),
        extra={**ours.extra, **theirs.extra},
    )


def blocked_line(entry: Cooldown) -> dict[str, object]:
    """Return the journal line for a block by the user. The line is built here because importing the engine would take
    40 ms of CPU time.
    """
    return {"what": "blocked", "model": str(entry.model), "kind": entry.kind.value, "until": entry.until}


def cleared_line(model: ModelRef) -> dict[str, object]:
    """Return the journal line for a cooldown that the user cleared."""
    return {"what": "cleared", "model": str(model)}
