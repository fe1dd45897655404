"""Every cooldown transition, in one file: a model is limited, told more exactly, refused again, answers, is cleared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ocwatchd.core.limits import LimitEvent, LimitKind, ModelRef, Scope, Target, ToldBy
from ocwatchd.core.policy import RestPolicy

STRIKE_WINDOW = 600.0
"""Seconds after a cooldown's end within which a new limit counts as a repeat."""
BURST = 1.5
"""Seconds: refusals closer together than this double nothing. OpenCode's own retries are at least 2 s apart, and a
clock of whole seconds makes 1 s out of a moment."""
SAME_TIME = 2.5
"""Seconds by which two tellings of one moment may differ: old logs have a clock of whole seconds."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A model (or `provider/*`) may not be used until `until` (epoch seconds; None: until a person clears it).

    `strikes` counts refused attempts since the model last worked. `doublings` says how often the rest was doubled.
    `extra` keeps fields of other writers.
    """

    model: ModelRef
    kind: LimitKind
    scope: Scope
    since: float
    until: float | None
    strikes: int
    told_by: ToldBy
    rule: str | None = None
    reason: str = ""
    session: str | None = None
    target: Target | None = None
    doublings: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)

    def active(self, now: float) -> bool:
        """Whether the model still rests. The end itself is free: a known time is obeyed to the second."""
        return self.until is None or now < self.until

    @property
    def foreseen(self) -> bool:
        """The limit is expected and nobody has met it: it keeps new prompts away, and says nothing of running turns."""
        return self.told_by is ToldBy.FORECAST

    def covers(self, model: ModelRef) -> bool:
        """Whether this entry blocks `model`: itself, its whole provider, or its provider's free models."""
        if self.model == model or self.model == model.whole_provider:
            return True
        same_provider = self.model.provider == model.provider
        return self.scope is Scope.FREE_TIER and same_provider and is_free(self.model) and is_free(model)


def is_free(model: ModelRef) -> bool:
    """Whether the name says that this is a provider's free variant (`…:free` at OpenRouter, `…-free` at Zen)."""
    return model.model.endswith((":free", "-free"))


class Ledger:
    """The register of cooldowns. Decides nothing about sessions; knows no clock and no file."""

    def __init__(self, entries: Iterable[Cooldown] = ()) -> None:
        """Start from what is already known."""
        self._entries: dict[ModelRef, Cooldown] = {entry.model: entry for entry in entries}
        self._refused: dict[ModelRef, dict[str, float]] = {}
        self._lifted: dict[ModelRef, float] = {}

    def entries(self) -> tuple[Cooldown, ...]:
        """All entries, ended ones included while they still matter for strikes."""
        return tuple(self._entries.values())

    def replace_all(self, entries: Iterable[Cooldown], at: float) -> tuple[Cooldown, ...]:
        """Somebody else wrote the register, `at` that time: theirs is the truth.

        Returns what holds beyond that: models that they cleared and that have refused since, as first strikes.
        """
        before, self._entries = self._entries, {entry.model: entry for entry in entries}
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
        """A person cleared these at these times, before this ledger was made: no older refusal enters them again."""
        self._lifted |= cleared

    def lifted_since(self, event: LimitEvent) -> bool:
        """Whether a person has cleared its model since this refusal: logs tell up to 1 s late (1.17 and later).

        A whole second is an old log's time, and may mean any moment within it: it counts as later.
        """
        if event.ref is None:
            return False
        lifted = self._lifted.get(_key_of(event, event.ref), 0.0)
        return event.time + (1.0 if event.time == int(event.time) else 0.0) <= lifted

    def cooling(self, model: ModelRef, now: float) -> Cooldown | None:
        """The entry that blocks this model now; of several the one that ends last. A forecast is no limit yet."""
        return max((entry for entry in self._blocking(model, now) if not entry.foreseen), key=_end, default=None)

    def avoided(self, model: ModelRef, now: float) -> Cooldown | None:
        """The same, forecasts included: where there is a choice, nobody is sent where a limit is about to come."""
        return max(self._blocking(model, now), key=_end, default=None)

    def _blocking(self, model: ModelRef, now: float) -> list[Cooldown]:
        return [entry for entry in self._entries.values() if entry.active(now) and entry.covers(model)]

    def record(self, event: LimitEvent, rests: RestPolicy, target: Target | None = None) -> Cooldown:
        """One refused attempt, at the event's own time.

        Raises:
            ValueError: the event names no model, or is no sure limit.
        """
        ref, kind, scope = event.ref, event.verdict.kind, event.verdict.scope
        if ref is None or kind is None or scope is None:
            raise ValueError("only a sure limit of a known model can be recorded")
        key = _key_of(event, ref)
        old = self._entries.get(key)
        if old is not None and old.foreseen:
            target, old = target or old.target, _before(old)
        if old is not None and event.time >= (old.until or event.time) + STRIKE_WINDOW:
            old = None
        doublings = self._doublings(key, old, event)
        until, told_by = _end_of(event, kind, rests, doublings)
        if old is not None and old.active(event.time):
            until, told_by = later(old, until, told_by)
        entry = Cooldown(
            model=key,
            kind=kind,
            scope=scope,
            since=old.since if old is not None and old.active(event.time) else event.time,
            until=until,
            strikes=1 if old is None else old.strikes + 1,
            told_by=told_by,
            rule=event.verdict.rule,
            reason=event.reason,
            session=event.session or (old.session if old else None),
            target=target or (old.target if old else None),
            doublings=doublings,
            extra=old.extra if old else {},
        )
        self._entries[key] = entry
        return entry

    def refine(self, model: ModelRef, until: float, told_by: ToldBy, now: float) -> Cooldown | None:
        """The exact end of a limit already recorded. Replaces a guess; among known times the later one holds."""
        own = self._entries.get(model)
        sure = own is not None and own.active(now) and not own.foreseen
        entry = own if sure else self.cooling(model, now)
        if entry is None or entry.until is None or entry.told_by is ToldBy.MANUAL:
            return None
        if ToldBy.RETRY_AFTER in (entry.told_by, told_by) and abs(entry.until - until) <= SAME_TIME:
            # The same moment: the status has the finer clock, the header is the better source.
            until, told_by = (entry.until if entry.told_by is ToldBy.STATUS else until), ToldBy.RETRY_AFTER
        elif entry.told_by in (ToldBy.RETRY_AFTER, ToldBy.STATUS) and until <= entry.until:
            return None
        if (entry.until, entry.told_by) == (until, told_by):
            return None
        self._entries[entry.model] = replace(entry, until=until, told_by=told_by)
        return self._entries[entry.model]

    def aim(self, model: ModelRef, target: Target | None) -> Cooldown | None:
        """Write down where prompts for a cooling model go; None if nothing changes."""
        entry = self._entries.get(model)
        if entry is None or entry.target == target:
            return None
        self._entries[model] = replace(entry, target=target)
        return self._entries[model]

    def answered(self, model: ModelRef, started: float) -> Cooldown | None:
        """A request that began at `started` was answered: the model works again. Returns the entry that ends.

        A request from before the last refusal proves nothing, and a person's block stays.
        """
        entry = self._entries.get(model) or self._entries.get(model.whole_provider)
        if entry is None or entry.told_by is ToldBy.MANUAL or entry.foreseen:
            return None  # that a running turn goes on says nothing against a forecast
        last = max(self._refused.get(entry.model, {}).values(), default=entry.since)
        return self.clear(entry.model) if started > last else None

    def block(self, model: ModelRef, until: float | None, now: float, target: Target | None = None) -> Cooldown:
        """A person blocks a model."""
        entry = Cooldown(
            model,
            LimitKind.QUOTA,
            _scope_of(model),
            now,
            until,
            0,
            ToldBy.MANUAL,
            None,
            "blocked by hand",
            target=target,
        )
        self._entries[model] = entry
        return entry

    def foresee(self, model: ModelRef, until: float, now: float, why: str, target: Target) -> Cooldown | None:
        """A limit is about to be reached; None if the model rests or is foreseen already."""
        if self.avoided(model, now) is not None:
            return None
        old = self._entries.get(model)
        strikes, doublings = (old.strikes, old.doublings) if old else (0, 0)
        kind, scope, told_by = LimitKind.RATE_LIMIT, Scope.MODEL, ToldBy.FORECAST
        entry = Cooldown(
            model, kind, scope, now, until, strikes, told_by, reason=why, target=target, doublings=doublings
        )
        self._entries[model] = entry
        return entry

    def clear(self, model: ModelRef) -> Cooldown | None:
        """Forget this entry."""
        self._refused.pop(model, None)
        return self._entries.pop(model, None)

    def prune(self, now: float) -> bool:
        """Drop entries that ended so long ago that they no longer count as a strike."""
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
        """How often the rest is doubled: when a model that was waited for refuses again.

        Refusals of other sessions that were under way when the cooldown began do not double: ten sessions at once are
        one overload, not ten.
        """
        refused = self._refused.setdefault(key, {})
        session = event.session or ""
        previous = refused.get(session)
        refused[session] = max(event.time, previous or event.time)
        if len(refused) > 256:  # a storm over countless sessions must not grow memory
            del refused[min(refused, key=lambda name: refused[name])]
        if old is None:
            return 0
        if not old.active(event.time) or (previous is not None and event.time - previous >= BURST):
            return old.doublings + 1
        return old.doublings


def _key_of(event: LimitEvent, ref: ModelRef) -> ModelRef:
    return ref.whole_provider if event.verdict.scope is Scope.PROVIDER else ref


def _before(forecast: Cooldown) -> Cooldown | None:
    """What a forecast keeps of the limits before it: they count as strikes, it does not."""
    return replace(forecast, until=forecast.since, told_by=ToldBy.BACKOFF) if forecast.strikes else None


def _scope_of(model: ModelRef) -> Scope:
    return Scope.PROVIDER if model.model == "*" else Scope.MODEL


def _end(entry: Cooldown) -> float:
    return float("inf") if entry.until is None else entry.until


def _end_of(event: LimitEvent, kind: LimitKind, rests: RestPolicy, doublings: int) -> tuple[float | None, ToldBy]:
    if event.hint is not None:
        return event.hint.until, event.hint.told_by
    base = rests.base(kind)
    if base is None:
        return None, ToldBy.BACKOFF
    return event.time + min(rests.maximum, base * 2.0 ** min(doublings, 64)), ToldBy.BACKOFF


def later(old: Cooldown, until: float | None, told_by: ToldBy) -> tuple[float | None, ToldBy]:
    """Later news only extends; but what the provider says replaces our own guess, and a guess replaces nothing told."""
    guessed, told_before = told_by is ToldBy.BACKOFF, old.told_by is not ToldBy.BACKOFF
    if guessed and until is not None and told_before:
        return old.until, old.told_by
    if not guessed and not told_before and old.until is not None:
        return until, told_by
    if old.until is None or (until is not None and until <= old.until):
        return old.until, old.told_by
    return until, told_by
