"""Change cooldowns, and return the changes as effects. Cooldowns change because of limits, exact reset times, answers,
forecasts and new targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ocwatchd.core.domain.cooldowns import LONGEST_PAUSE, Cooldown
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import Cause, Hint, LimitEvent, LimitKind, ModelRef
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.messages import Effect, SaveBlacklist, Spent
from ocwatchd.core.engine.session import LOOP_REFUSALS, LOOP_WITHIN, EngineContext
from ocwatchd.core.fallback.choice import Chosen, fallback
from ocwatchd.core.fallback.considered import considered
from ocwatchd.core.fallback.targets import Targets
from ocwatchd.core.forecast.prevention import Threat

TARGETS_PER_SECOND = 500
"""Maximum average number of cooldowns, per second, for which targets are chosen again."""
MAX_SESSIONS = 500
"""Maximum number of sessions for which the latest refused attempts are stored."""


class CooldownChanges:
    """The only code that changes the engine's cooldowns."""

    def __init__(self, context: EngineContext) -> None:
        """Store the context, which contains the known cooldowns."""
        self._context = context
        self._foreseen: dict[ModelRef, float] = {}
        self._seen, self._next_end, self._kept = -1, 0.0, 0.0
        self._lately: dict[tuple[ModelRef | None, str | None], tuple[float, ...]] = {}

    def enter(self, event: LimitEvent, live: bool, now: float) -> list[Effect]:
        """Record a proven limit. An old limit whose cooldown is already over is not written to the blacklist. Of a
        rapid series of limits, only the first few are journaled.
        """
        if event.ref is None:
            return []
        entry = self._context.cooldowns.record(event, self._context.policy.cooldowns)
        if not live and not entry.active(now):
            return []
        entry = self._context.cooldowns.aim(entry.model, self._targets(now).of(event.ref)) or entry
        save = SaveBlacklist(changed=(entry,))
        return [save] if self._one_of_many(event) else [notes.limit(event, entry, live), save]

    def pause(self, snapshot: SessionSnapshot, cause: Cause, why: str, now: float) -> list[Effect]:
        """Keep new prompts away from the snapshot's model for a minute, because it failed for a reason other than a
        limit.
        """
        if snapshot.model is None:
            return []
        entry = self._context.cooldowns.pause(snapshot.model, LONGEST_PAUSE, now, cause.value, why, snapshot.session)
        if entry is None:
            return []
        entry = self._context.cooldowns.aim(entry.model, self._targets(now).of(snapshot.model)) or entry
        return [SaveBlacklist(changed=(entry,))]

    def _one_of_many(self, event: LimitEvent) -> bool:
        """Return whether this limit is part of a rapid series in its session, beyond the first few. The blacklist
        counts all limits of a series, but the journal contains only the first few.
        """
        key = event.ref, event.session
        times = self._lately.pop(key, ())
        if len(self._lately) >= MAX_SESSIONS:
            del self._lately[next(iter(self._lately))]
        self._lately[key] = (*times[1 - LOOP_REFUSALS :], event.time)
        return len(times) >= LOOP_REFUSALS - 1 and abs(event.time - self._lately[key][0]) < LOOP_WITHIN

    def aim_anew(self, now: float) -> list[Effect]:
        """Choose new targets for all cooldowns after the chains have been edited.

        The target of a provider's cooldown came from the chain of the limited model, but the cooldown does not record
        which model that was. If the provider itself has no chain, the target therefore does not change.
        """
        entries = self._targets(now).keep([entry.model for entry in self._context.cooldowns.entries()])
        return [SaveBlacklist(changed=tuple(entries))] if entries else []

    def keep_targets(self, now: float) -> list[Effect]:
        """Update the targets of cooldowns after a fallback was limited or has become available."""
        cooldowns = self._context.cooldowns
        if cooldowns.changes == self._seen and now < self._next_end:
            return []
        pause = len(cooldowns.entries()) / TARGETS_PER_SECOND
        if pause > 1.0 and 0 <= now - self._kept < pause:
            return []  # wait, because thousands of cooldowns may end in quick succession, each causing a new choice
        self._kept = now
        entries = self._targets(now).keep()
        self._seen, self._next_end = cooldowns.changes, cooldowns.next_end(now)
        return [SaveBlacklist(changed=tuple(entries))] if entries else []

    def take_over(self, entries: Iterable[Cooldown], at: float) -> list[Effect]:
        """Apply the changes that another program made to the blacklist at the time `at` (epoch seconds). A cooldown
        that was cleared is recorded again if an attempt on its model has been refused since then.
        """
        again = self._context.cooldowns.replace_all(entries, at)
        return [SaveBlacklist(changed=again)] if again else []

    def clock_set(self, step: Step) -> list[Effect]:
        """Correct the times of cooldowns that were recorded while the clock was wrong."""
        changed = self._context.cooldowns.clock_set(step)
        return [SaveBlacklist(changed=changed)] if changed else []

    def settle(self, now: float) -> list[Effect]:
        """Set cooldowns that begin in the future to begin now, because they were recorded while the clock was wrong."""
        changed = self._context.cooldowns.settle(now)
        return [SaveBlacklist(changed=changed)] if changed else []

    def refine(
        self, session: str, model: ModelRef, hint: Hint | None, now: float, kind: LimitKind | None = None
    ) -> list[Effect]:
        """Set the exact reset time of a limit that was already recorded. `kind` is the kind of the limit to which the
        reset time applies, if known.
        """
        entry = self._context.cooldowns.refine(model, hint.until, hint.reset_source, now, kind) if hint else None
        return [SaveBlacklist(changed=(entry,)), notes.refined(session, entry, hint.source)] if entry and hint else []

    def answered(self, snapshot: SessionSnapshot, began: float) -> list[Effect]:
        """End the cooldown of a model whose turn ended successfully, if the answer was requested at `began` (epoch
        seconds) or later.
        """
        if snapshot.state is not SessionState.IDLE or snapshot.model is None or not snapshot.answer_completed:
            return []
        if snapshot.answer_ended is None or snapshot.answer_ended < began:
            return []
        ended = self._context.cooldowns.answered(snapshot.model, began)
        return [notes.answered(snapshot, ended, began), SaveBlacklist(removed=(ended.model,))] if ended else []

    def foresee(self, threats: Mapping[str, Threat], now: float) -> list[Effect]:
        """Record forecasts, so that the next prompts go to another model if one is available.

        The cooldown of a model that is already cooling down does not change. No model in `threats` is used as a
        fallback for another model.
        """
        effects: list[Effect] = []
        threatened = [ModelRef.parse(name) for name in threats]
        for name, threat in threats.items():
            model = ModelRef.parse(name)
            if now < self._foreseen.get(model, 0.0) and self._context.cooldowns.avoided(model, now) is None:
                continue  # a user's `ocwatch clear`, or an answer after a limit, is more reliable than a forecast
            outlook = self._context.outlook(None, now)
            choice = fallback(
                self._context.policy, self._context.cooldowns, model, None, threatened, now, outlook, as_listed=False
            )
            if not isinstance(choice, Chosen) or self._context.cooldowns.avoided(choice.target.model, now):
                continue
            entry = self._context.cooldowns.foresee(model, threat.until, now, threat.why, choice.target)
            if entry is not None:
                self._foreseen[model] = threat.until
                tried = considered(choice, self._context.cooldowns, None, (), now, outlook, threatened)
                effects += [SaveBlacklist(changed=(entry,)), notes.foreseen(entry, threat, tried)]
        return effects

    def ease(self, models: Iterable[str], now: float) -> list[Effect]:
        """Remove the forecasts for these models."""
        effects: list[Effect] = []
        for name in models:
            entry = self._context.cooldowns.avoided(model := ModelRef.parse(name), now)
            if entry is not None and entry.foreseen and entry.model == model:
                self._context.cooldowns.clear(model)
                self._foreseen.pop(model, None)
                effects += [SaveBlacklist(removed=(model,)), notes.eased(model)]
        return effects

    def spend(self, news: Spent, now: float) -> list[Effect]:
        """Choose new fallbacks for models that are cooling down if the day's budget has been spent or a new day has
        begun.
        """
        self._context.spend(news.dollars, news.prices)
        day_budget = self._context.day_budget
        if day_budget.over == self._context.over_notified:
            return []
        self._context.note_over(day_budget.over)
        return notes.budget(day_budget, now) + self.aim_anew(now)

    def _targets(self, now: float) -> Targets:
        return Targets(self._context.policy, self._context.cooldowns, self._context.outlook(None, now), now)
