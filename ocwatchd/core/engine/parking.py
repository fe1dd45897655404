"""Schedule the runs of parked sessions. One session runs first, and the others follow, spread over a few seconds. Pure
functions and classes.

A plan window ends for all sessions of its model simultaneously. If all of them sent a request immediately, they would
reach the next limit together. They might also all be refused, because the window has not quite ended.
"""

from __future__ import annotations

from zlib import crc32

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.session import Doing, State, TrackedSession, TrackedSessions

AFTER_RETURN = 0.05
"""Time, in seconds, between a model's reset time and the check of a stuck session. It ensures that the check is never
too early.
"""
WHOLE_SECOND = 1.0
"""Maximum error, in seconds, of a reset time in whole seconds. Such a time comes from the log format before 1.17, which
has timestamps in whole seconds, and may be too early by this much.
"""
JITTER, MAX_JITTER = 0.01, 5.0
"""Maximum delay of a parked session's run, as a fraction of its wait and in seconds; the smaller of the two applies."""
SPACING, MAX_SPREAD = 0.2, 30.0
"""Average time, in seconds, between the starts of two runs after the first session has received an answer, and the
maximum time over which all runs are spread.
"""
HELD_RECHECK = 30.0
"""Time, in seconds, after which a session that is held back for the first session is checked again, whatever the result
of the first session.
"""
FIRST_TIMEOUT = 120.0
"""Timeout, in seconds, after which the session that runs first no longer delays the other sessions, even if its result
is not known.
"""


def after_return(until: float) -> float:
    """Return when to check a session that is waiting for the reset time `until`. Both times are epoch seconds."""
    return until + AFTER_RETURN + (WHOLE_SECOND if until == int(until) else 0.0)


def share_of(session: str) -> float:
    """Return a number in [0, 1) that depends only on the session's id and is therefore the same after a restart of the
    daemon.
    """
    return crc32(session.encode()) / 2**32


def run_at(session: str, until: float, now: float) -> float:
    """Return when to run a session again. The session starts to wait at `now`, and the cooldown ends at `until`. All
    times are epoch seconds.
    """
    return after_return(until) + share_of(session) * min(JITTER * max(until - now, 0.0), MAX_JITTER)


class FirstRuns:
    """Runs one parked session of each model first, and the other sessions after the model has answered it.

    If an attempt of the first session is refused again, the other sessions wait for the new reset time. If the first
    session ends in any other way, the next session becomes the first.
    """

    def __init__(self, sessions: TrackedSessions) -> None:
        """Store the collection of all tracked sessions."""
        self._sessions = sessions
        self._first: dict[ModelRef, tuple[str, float]] = {}
        """The session that runs first and its start time, by model."""
        self._answered: dict[ModelRef, float] = {}
        """The time at which a model last answered the session that runs first, by model."""
        self._held: dict[ModelRef, dict[str, None]] = {}

    def holds(self, tracked: TrackedSession, model: ModelRef, now: float) -> bool:
        """Return whether a parked session must wait until `model` has answered another session."""
        if not tracked.parked or self._answered.get(model, 0.0) >= tracked.waits_since:
            return False
        first = self._first.get(model)
        if first is None or first[0] == tracked.session or not self._runs(*first, now):
            return False
        self._held.setdefault(model, {})[tracked.session] = None
        return True

    def begins(self, tracked: TrackedSession, model: ModelRef, now: float) -> None:
        """Record that a parked session is about to run on `model`. It becomes the first session of this model unless
        there already is one.
        """
        first = self._first.get(model)
        if tracked.parked and (first is None or not self._runs(*first, now)):
            self._first[model] = tracked.session, now

    def may_probe(self, tracked: TrackedSession, now: float) -> bool:
        """Return whether a session whose check is due may be checked now. If it may not, schedule its next check."""
        model = tracked.waits_for
        if model is None or not tracked.parked or tracked.doing is not Doing.STUCK:
            return True
        if self.holds(tracked, model, now):
            tracked.wake_at(now + HELD_RECHECK)
            return False
        self.begins(tracked, model, now)
        return True

    def settle(self, cooldowns: Cooldowns, now: float) -> None:
        """If the session that runs first on a model is no longer in progress, schedule the sessions that were waiting
        for it.
        """
        for model, (session, at) in list(self._first.items()):
            tracked = self._sessions.known(session)
            if tracked is not None and tracked.state is State.MOVED and tracked.landed == model:
                self._answered[model] = now
            elif self._runs(session, at, now):
                continue
            del self._first[model]
            self._release(model, cooldowns, now)

    def _runs(self, session: str, since: float, now: float) -> bool:
        """Return whether the session that runs first is still in progress, that is, whether it is being probed or
        moved, or has an open claim. It counts as in progress for at most FIRST_TIMEOUT seconds after `since`.
        """
        tracked = self._sessions.known(session)
        if tracked is None or not 0 <= now - since < FIRST_TIMEOUT:
            return False
        return tracked.being_probed or tracked.state in (State.MOVING, State.SWITCHED) or bool(tracked.open_claims)

    def _release(self, model: ModelRef, cooldowns: Cooldowns, now: float) -> None:
        held = [self._sessions.known(session) for session in self._held.pop(model, ())]
        waiting = [tracked for tracked in held if tracked is not None and tracked.parked and not tracked.busy]
        entry, spread = cooldowns.cooling(model, now), min(SPACING * len(waiting), MAX_SPREAD)
        for tracked in waiting:
            if entry is None:
                tracked.wake_at(now + share_of(tracked.session) * spread)
            else:
                tracked.wait_until(None if entry.until is None else run_at(tracked.session, entry.until, now))

    def clock_set(self, step: Step) -> None:
        """Adjust times that were recorded before the clock was set."""
        self._answered = {model: step.remembered(at) for model, at in self._answered.items()}
        self._first = {model: (session, step.remembered(at)) for model, (session, at) in self._first.items()}
