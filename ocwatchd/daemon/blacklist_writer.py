"""Write cooldowns to the blacklist: immediately for the first few limits of a burst, then at a limited rate.

The journal is written before the blacklist, so that a killed daemon does not count a strike twice. If the blacklist
cannot be written, the fault is reported once, and the cooldowns are kept in memory until a write succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ocwatchd.clock import Clock
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.messages import BlacklistChanged, SaveBlacklist, Shown
from ocwatchd.daemon.faults import FileHealth
from ocwatchd.state.blacklist.counted import Counted
from ocwatchd.state.blacklist.sync import SharedBlacklist
from ocwatchd.state.files import StateError


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate limit for a costly action: at most `burst` + t / `every` actions in any period of t seconds."""

    every: float
    """Minimum time, in seconds, from the end of one action to the next, once the burst is used up."""
    burst: int
    _full_again: float = float("-inf")
    """The time, in epoch seconds, from which a full burst of actions is allowed again."""

    def due(self, now: float) -> float:
        """Return the time at which the next action may begin, in epoch seconds. If this time is not later than `now`,
        the action may begin immediately.
        """
        due = self._full_again - (self.burst - 1) * self.every
        return due if due - now <= self.every else now  # a larger difference means that the clock was set back

    def taken(self, begun: float, ended: float) -> Pace:
        """Return the state of the rate limit after one more action. An action that began too early also counts."""
        full_again = max(self._full_again, begun) + max(ended - begun, 0.0) + self.every
        return replace(self, _full_again=min(full_again, ended + self.burst * self.every))


SAVES = Pace(every=1 / 16, burst=4)
"""Rate limit for writing the blacklist: at most 20 writes in any second.

Each write includes an fsync, which took up to 10 ms in measurements. A negative Retry-After made OpenCode 1.1.65 send
371 requests in 1.5 s. A new limit needs two writes: one for the entry, and one for its fallbacks.
"""


class BlacklistWriter:
    """The only writer of the blacklist inside the daemon. Not thread-safe; only the main thread uses it."""

    def __init__(
        self,
        shared: SharedBlacklist,
        clock: Clock,
        health: FileHealth,
        counted: Counted | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the arguments. `shared` is the blacklist to write. `counted` is stored in the same file as the entries.
        `before`, which flushes the journal, is called before each write.
        """
        self._shared, self._clock, self._health = shared, clock, health
        self._counted, self._before = counted, before
        self._unsaved: dict[ModelRef, Cooldown | None] = {}
        self._unsaved_fields: dict[str, object] = {}
        self._pace = SAVES

    @property
    def unsaved(self) -> Mapping[ModelRef, Cooldown | None]:
        """Return the changes that have not been written to the file yet, by model. A value of None means that the entry
        is removed.
        """
        return self._unsaved

    def add(self, effect: SaveBlacklist) -> None:
        """Queue these changes for the next `save`."""
        self._unsaved |= {entry.model: entry for entry in effect.changed} | dict.fromkeys(effect.removed)

    def drop(self, models: Iterable[ModelRef]) -> None:
        """Discard the unwritten changes to the entries of these models."""
        for model in list(models):
            self._unsaved.pop(model, None)

    def show(self, effect: Shown) -> None:
        """Record that an endpoint has confirmed this refused attempt."""
        if self._counted is not None:
            self._counted.show(effect, self._clock.now())

    def publish(self, fields: Mapping[str, object]) -> None:
        """Write fields of the blacklist other than the entries."""
        self._unsaved_fields |= fields
        self.save()

    def save(self, at_once: bool = False) -> None:
        """Write the unsaved changes, and preserve the changes that other programs have made in the meantime.

        During a burst of limits, the rate limit can leave changes unwritten. In that case, call this method again at
        the time that `due` returns.
        """
        if at_once:
            self._before()
        idle, begun = not self._unsaved and not self._unsaved_fields, self._clock.now()
        if idle or (not at_once and begun < self._pace.due(begun)):
            return
        try:
            self._save()
        finally:  # also count failed writes, so that refused attempts do not each cause a write to a full disk
            self._pace = self._pace.taken(begun, self._clock.now())

    def _save(self) -> None:
        self._before()
        counted = self._counted.as_json() if self._counted is not None else None
        try:
            snapshot = self._shared.write(self._unsaved, self._clock.now(), self._unsaved_fields, counted)
        except StateError as fault:
            self._health.fail("blacklist", str(fault))
            return
        self._health.recover("blacklist")
        for problem in snapshot.problems:
            self._health.say(problem)
        self._unsaved.clear()
        self._unsaved_fields.clear()

    @property
    def due(self) -> float | None:
        """Return the time at which the unsaved changes may be written, in epoch seconds, or None if there are no such
        changes.
        """
        return self._pace.due(self._clock.now()) if self._unsaved or self._unsaved_fields else None

    def news(self) -> BlacklistChanged | None:
        """Return the blacklist if another program has changed it since the last write or check; otherwise, return
        None.
        """
        snapshot = None if self._unsaved or self._unsaved_fields else self._shared.news(self._clock.now())
        if snapshot is None:
            return None
        for problem in snapshot.problems:
            self._health.say(problem)
        return BlacklistChanged(snapshot.entries(), self._shared.written)
