"""Detection of steps of the wall clock, and correction of times that were recorded before a step.

The wall clock may be wrong for a while: after a battery has run out, until the time is set from the network, or after a
virtual machine was resumed. A comparison with a clock that is never set (time since boot) distinguishes a step from the
passage of time. A forward step proves nothing, because a paused machine looks the same, so known reset times do not
change. When the clock is set back by the same amount, the times recorded in between are shifted by that amount.
"""

from __future__ import annotations

from dataclasses import dataclass

SKEW = 60.0
"""Largest difference between two clocks, or correction of one clock, that is ignored, in seconds."""
SETTLED = 60.0
"""Time, in seconds, for which the clock must have been read regularly before any entry is dropped because
of its age.
"""
MAX_GAP = 30.0
"""Maximum time, in seconds, between two readings of a clock that runs evenly. A longer gap means that the machine slept
or was stopped.
"""
LONGEST_SLEEP = 7 * 86_400.0
"""Maximum plausible sleep, in seconds, between two readings. A longer gap is treated as a step of both clocks."""
MAX_PERIODS = 16
"""Maximum number of past periods to keep. A period ends when the clock is stepped or the machine has slept."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the wall clock by `seconds`, forward (positive) or back (negative).

    `began` and `ended` are the first and last timestamps (epoch seconds) of the period before the step, as the clock
    showed them during that period. `undone`: whether this step reversed an earlier one. If so, every time recorded
    between the two steps is wrong by `seconds`.
    """

    seconds: float
    began: float
    ended: float
    undone: bool = False

    def noted(self, moment: float) -> float:
        """Return a corrected timestamp if it was recorded while the clock was wrong; otherwise, return it unchanged."""
        wrong = self.undone and self.began - 1.0 <= moment <= self.ended + 1.0
        return moment + self.seconds if wrong else moment

    def remembered(self, moment: float) -> float:
        """Adjust a stored timestamp to the current clock after this step, so that its age stays the same."""
        return self.due(moment) if self.seconds < 0 else self.noted(moment)

    def due(self, deadline: float) -> float:
        """Adjust a deadline that was set before the step to the current clock.

        After a step back, the deadline arrives when it would have arrived without the step. After a forward step, the
        deadline may already have passed, as after a sleep.
        """
        return deadline + self.seconds if self.seconds < 0 and deadline >= self.began else deadline

    def holds(self, now: float) -> bool:
        """Return whether timestamps from the time when the clock was wrong may still arrive, either in logs that are
        read late or in OpenCode's report of its next attempt.
        """
        return self.undone and (now < self.began - SKEW if self.seconds < 0 else now < self.ended + self.seconds + 600)


class Timeline:
    """Detects steps of the wall clock by comparing it with a clock that is never set."""

    def __init__(self) -> None:
        """Initialize the timeline; no clock has been read yet."""
        self._last_read: tuple[float, float] | None = None
        self._offset = self._began = 0.0
        self._earlier: list[tuple[float, float]] = []

    def read(self, wall: float, boot: float) -> Step | None:
        """Return the step since the last reading, if the clock was set by more than `SKEW`.

        `wall` is in epoch seconds; `boot` is the reading, in seconds, of a clock that only runs forward and continues
        while the machine sleeps.
        """
        if self._last_read is None:
            self._last_read, self._began = (wall, boot), wall
            return None
        (last, before), self._last_read = self._last_read, (wall, boot)
        passed = boot - before
        # no real boot clock runs backward, so both clocks are being changed, for example by `faketime`
        backwards = passed < -1.0
        passed = passed if 0 <= passed <= LONGEST_SLEEP else 0.0
        ended, seconds = last + passed, wall - last - passed
        offset = self._offset + seconds
        if abs(seconds) <= SKEW:
            self._offset = offset
            if passed > MAX_GAP:
                self._remember()
                self._began = wall
            return None
        homes = (offset, self._offset) if backwards else (offset,)
        known = next(
            (period for period in reversed(self._earlier) if any(abs(period[0] - home) <= SKEW for home in homes)), None
        )
        step = Step(seconds, self._began, ended, undone=known is not None)
        self._remember()
        if known is not None:
            self._offset, self._began = known
        else:  # after a step back, the stored timestamps were moved back too (see `Step.remembered`)
            self._offset, self._began = offset, wall if seconds > 0 else self._began + seconds
        return step

    def _remember(self) -> None:
        self._earlier = [*self._earlier[1 - MAX_PERIODS :], (self._offset, self._began)]


class ClockSteadiness:
    """Checks, by reading the clock regularly, whether it has been running evenly for a while."""

    def __init__(self) -> None:
        """Initialize the check; no reading has been taken yet."""
        self._since = self._last_read = float("-inf")

    def read(self, now: float) -> bool:
        """Take a reading. Return whether the readings of the last `SETTLED` seconds followed each other
        without a gap.
        """
        if not 0 <= now - self._last_read <= MAX_GAP:
            self._since = now
        self._last_read = now
        return now - self._since >= SETTLED
