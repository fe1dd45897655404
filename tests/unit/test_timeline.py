"""Tests of how stored times are interpreted after the clock was set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import STRIKE_WINDOW
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult
from ocwatchd.core.domain.timeline import SETTLED, ClockSteadiness, Timeline
from ocwatchd.core.domain.types import Hint, ModelRef, ResetSource
from ocwatchd.core.engine.messages import BlacklistChanged, ClockSet, Move, SaveBlacklist, Tick, TroubleReported
from ocwatchd.core.engine.session import Doing
from tests.unit.brain import A, T, engine, of, refused, retrying, seen

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0
B = ModelRef("p", "b")


class World:
    """An engine, the wall clock and the clock since boot. `pass_` advances both clocks; only the wall clock is set."""

    def __init__(self, boot_is_set=False):
        self.brain, self.timeline = engine(), Timeline()
        self.wall, self.boot, self.boot_is_set = T, 1000.0, boot_is_set
        self.effects = []
        self.tick()

    def tick(self):
        step = self.timeline.read(self.wall, self.boot)
        self.effects += self.brain.handle(ClockSet(step), self.wall) if step else []
        self.effects += self.brain.handle(Tick(), self.wall)

    def pass_(self, seconds):
        while seconds > 0:
            part = min(seconds, 0.5)
            self.wall, self.boot, seconds = self.wall + part, self.boot + part, seconds - part
            self.tick()

    def set(self, seconds):
        self.wall += seconds
        self.boot += seconds if self.boot_is_set else 0
        self.tick()

    def limit(self, model=A, wait=None, at=None, session="ses_1"):
        at = (self.wall if at is None else at) - T
        hint = None if wait is None else Hint(T + at + wait, wait, ResetSource.RETRY_AFTER, "header")
        self.effects += self.brain.handle(refused(at, model=model, session=session, hint=hint), self.wall)

    def remaining(self, model=A):
        entry = self.brain.cooldowns.cooling(model, self.wall)
        return entry and entry.until and round(entry.until - self.wall, 3)


@pytest.mark.parametrize("boot_is_set", [False, True], ids=["wall only", "both clocks"])
@pytest.mark.parametrize("jump", [10 * YEAR, 30 * DAY, DAY, HOUR])
def test_ahead_for_a_moment(jump, boot_is_set):
    world = World(boot_is_set)
    world.limit(A, 7200)
    world.pass_(10)
    world.set(jump)
    world.limit(B, 60, session="ses_2")
    world.pass_(20)
    world.set(-jump)
    assert (world.remaining(A), world.remaining(B)) == (7170, 40)
    world.pass_(200)
    assert (world.remaining(A), world.remaining(B)) == (6970, None)


@pytest.mark.parametrize("jump", [10 * YEAR, 30 * DAY, DAY, HOUR])
def test_behind_for_a_moment(jump):
    world = World()
    world.limit(A, 7200)
    world.pass_(10)
    world.set(-jump)
    world.limit(B, 60, session="ses_2")
    world.pass_(20)
    world.set(jump)
    assert (world.remaining(A), world.remaining(B)) == (7170, 40)


def test_nothing_is_forgotten_while_the_clock_is_ahead_for_a_moment():
    world = World()
    world.limit(A, 60)
    world.pass_(100)
    world.set(10 * YEAR)
    world.pass_(50)
    world.set(-10 * YEAR)
    world.pass_(1)
    assert [entry.strikes for entry in world.brain.cooldowns.entries()] == [1]
    assert world.brain.tracked_sessions.known("ses_1") is not None
    world.pass_(STRIKE_WINDOW)
    assert world.brain.cooldowns.entries() == ()


def test_a_paused_machine_keeps_the_known_ends():
    """The clock is set forward, and time has really passed as well."""
    world = World()
    world.limit(A, 7200)
    world.set(HOUR)
    assert world.remaining(A) == 3600


def test_a_machine_that_slept_has_no_step():
    timeline = Timeline()
    timeline.read(T, 5.0)
    assert timeline.read(T + 2 * DAY, 5.0 + 2 * DAY) is None
    assert timeline.read(T + 2 * DAY + 50.0, 5.0 + 2 * DAY) is None, "an ordinary correction"


def test_a_clock_that_is_set_back_for_good_corrects_what_was_entered_by_the_wrong_one():
    """The clock was wrong when the daemon started at boot, until the network set it."""
    world = World()
    world.limit(A, 60)
    world.set(-10 * YEAR)
    world.pass_(SETTLED + 1)
    assert 0 < world.remaining(A) <= 60
    saved = of(SaveBlacklist, world.effects)[-1]
    assert saved.changed[0].since == pytest.approx(world.wall, abs=2)
    world.pass_(61)
    assert world.remaining(A) is None


def test_an_entry_from_the_future_that_another_process_made_is_corrected():
    world = World()
    world.pass_(SETTLED + 1)
    made = world.brain.cooldowns.block(A, world.wall + 10 * YEAR + 60, world.wall + 10 * YEAR)
    world.brain.cooldowns.clear(A)
    world.brain.handle(BlacklistChanged((made,), world.wall), world.wall)
    world.pass_(1)
    assert world.remaining(A) == pytest.approx(60, abs=1)


def test_a_clock_that_is_behind_at_the_start_corrects_nothing_before_the_network_has_set_it():
    world = World()
    known = world.brain.cooldowns.block(A, T + YEAR + 7200, T + YEAR)
    world.pass_(SETTLED - 5)
    world.set(YEAR + 10)
    world.pass_(SETTLED + 5)
    assert world.brain.cooldowns.entries() == (known,)


def test_a_limit_whose_time_lies_in_the_future_is_one_of_this_moment():
    """The clock was set back before the first observation."""
    world = World()
    world.limit(A, 60, at=world.wall + 10 * YEAR)
    assert world.remaining(A) == 60


def test_a_line_that_is_read_when_the_clock_is_right_again_is_corrected():
    for jump in (10 * YEAR, -10 * YEAR):
        world = World()
        world.pass_(5)
        world.set(jump)
        noted = world.wall
        world.pass_(2)
        world.set(-jump)
        world.pass_(1)
        world.limit(A, 600, at=noted)
        assert world.remaining(A) == 597


def test_a_next_attempt_that_was_noted_by_a_wrong_clock_blocks_nothing_for_years():
    world = World()
    world.set(10 * YEAR)
    noted = world.wall + 60
    world.pass_(5)
    world.set(-10 * YEAR)
    snapshot = replace(retrying(), seen=world.wall, next_at=noted)
    world.effects += world.brain.handle(TroubleReported("ses_1", world.wall), world.wall)
    world.effects += world.brain.handle(seen(snapshot), world.wall)
    assert world.remaining(A) == 55


def test_a_session_that_waits_is_looked_at_in_time_and_may_move_after_the_clock_was_set_back():
    world = World()
    world.set(10 * YEAR)
    world.limit(A, 20)
    world.effects += world.brain.handle(seen(replace(retrying(), seen=world.wall, next_at=world.wall + 20)), world.wall)
    case = world.brain.tracked_sessions.known("ses_1")
    assert case.doing is Doing.WAITING and case.wake > world.wall
    for _ in range(30):
        case.claim("moving", world.wall)
        case.move_ended(MoveOutcome(MoveResult.FAILED), None, world.wall)
    case.wait(world.wall + 20, 3.0, world.wall, "waits")
    world.set(-10 * YEAR)
    assert case.wake < world.wall + 30
    world.pass_(30)
    assert case.being_probed
    assert case.moves_within_hour(world.wall + 3601) == 0
    assert not of(Move, world.effects)


def test_the_clock_runs_evenly_when_looks_have_followed_each_other_for_a_minute():
    even = ClockSteadiness()
    assert not any(even.read(T + n) for n in range(60))
    assert even.read(T + 60)
    assert not even.read(T + 60 + 31)
    assert not any(even.read(T + n) for n in range(60))
    assert even.read(T + 60)
