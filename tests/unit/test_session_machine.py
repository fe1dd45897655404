"""Tests with random histories of limits, probes, moves, users, clocks and restarts: invariants are never broken.

`tests/support/worlds.py` simulates OpenCode and checks each effect at once.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.engine import session
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Move, MoveEnded, Note, SaveBlacklist
from ocwatchd.core.engine.session import (
    TRANSITIONS,
    Doing,
    Event,
    Parking,
    Part,
    Probing,
    State,
    TrackedSession,
    UnexpectedEvent,
)
from ocwatchd.core.policy import Mode
from tests.support.rules import builtin
from tests.support.worlds import World, happen
from tests.unit.brain import POLICY, A, T, end, engine, of, refused, retrying, seen

NUMBERS = st.integers(0, 2)
ANY = st.integers(0, 99)
HISTORIES, STEPS = 60, 300


class Histories(RuleBasedStateMachine):
    """A world in which Hypothesis chooses the next event."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(number=NUMBERS, wait=st.sampled_from((5.0, 300.0, 7200.0)), known=st.booleans(), logged=st.booleans())
    def refuse(self, number: int, wait: float, known: bool, logged: bool) -> None:
        self.world.refuse(number, wait=wait, known=known, logged=logged)

    @rule(number=NUMBERS)
    def hear(self, number: int) -> None:
        self.world.hear(number)

    @rule(number=NUMBERS)
    def give_up(self, number: int) -> None:
        self.world.give_up(number)

    @rule(number=NUMBERS, tool=st.booleans(), question=st.booleans())
    def work(self, number: int, tool: bool, question: bool) -> None:
        self.world.work(number, tool=tool, question=question)

    @rule(number=NUMBERS)
    def hold_up(self, number: int) -> None:
        self.world.hold_up(number)

    @rule(number=NUMBERS)
    def finish(self, number: int) -> None:
        self.world.finish(number)

    @rule(number=NUMBERS)
    def stop(self, number: int) -> None:
        self.world.stop(number)

    @rule(number=NUMBERS)
    def prompt(self, number: int) -> None:
        self.world.prompt(number)

    @rule(number=NUMBERS)
    def move_by_hand(self, number: int) -> None:
        self.world.move_by_hand(number)

    @rule(models=st.sets(NUMBERS, min_size=1))
    def clear(self, models: set[int]) -> None:
        self.world.clear(*models)

    @rule(model=NUMBERS, seconds=st.sampled_from((60.0, 3600.0)))
    def block(self, model: int, seconds: float) -> None:
        self.world.block(model, seconds)

    @rule(mode=st.sampled_from(Mode), wait=st.booleans())
    def configure(self, mode: Mode, wait: bool) -> None:
        self.world.configure(mode, wait=wait)

    @rule(seconds=st.sampled_from((0.1, 3.0, 60.0, 3600.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(seconds=st.sampled_from((-3600.0, -5.0, 5.0, 3600.0)))
    def set_clock(self, seconds: float) -> None:
        self.world.set_clock(seconds)

    @rule(index=ANY, found=st.booleans(), failing=st.integers(0, 1))
    def answer(self, index: int, found: bool, failing: int) -> None:
        self.world.answer(index, found=found, failing=failing)

    @rule(again=st.booleans())
    def close(self, again: bool) -> None:
        self.world.close(again=again)

    @rule(index=ANY, result=st.sampled_from(MoveResult), stranded=st.booleans(), shows=st.booleans())
    def end_move(self, index: int, result: MoveResult, stranded: bool, shows: bool) -> None:
        self.world.end_move(index, result, stranded=stranded, shows=shows)

    @rule()
    def use_switched(self) -> None:
        self.world.use_switched(2)

    @rule(delay=st.sampled_from((None, 2.0, 30.0, 7200.0)))
    def ask(self, delay: float | None) -> None:
        self.world.ask(delay)

    @rule(index=ANY, done=st.booleans())
    def act(self, index: int, done: bool) -> None:
        self.world.act(index, done=done)

    @rule(index=ANY, answers=st.booleans())
    def report(self, index: int, answers: bool) -> None:
        self.world.report(index, answers=answers)

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self.world.restart(killed=killed)

    @invariant()
    def what_is_claimed_is_being_moved(self) -> None:
        moving = {tracked.session for tracked in self.world.engine.tracked_sessions.all() if tracked.moving}
        assert moving == set(self.world.claims.values())


Histories.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
test_whatever_happens_no_turn_is_moved_twice_or_against_a_guard = Histories.TestCase


class Recording(dict[tuple[Part, Event], Part]):
    """The table of transitions, which counts those that are made."""

    made: Counter[tuple[Part, Event]]

    def __getitem__(self, key: tuple[Part, Event]) -> Part:
        found = super().__getitem__(key)
        self.made[key] += 1
        return found


def test_every_state_and_every_event_of_the_table_comes_up_in_a_fixed_set_of_histories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table with unreachable states would claim more than the code does."""
    table = Recording(TRANSITIONS)
    table.made = Counter()
    monkeypatch.setattr(session, "TRANSITIONS", table)
    for seed in range(HISTORIES):
        world, draw = World(), random.Random(seed)
        for _ in range(STEPS):
            happen(world, draw)
    reached = {TRANSITIONS[key] for key in table.made}
    assert [part for kind in (State, Probing, Parking) for part in kind if part not in reached] == []
    assert [event for event in Event if not any(key[1] is event for key in table.made)] == []


def test_no_session_leaves_a_claimed_move_except_by_its_end() -> None:
    ends = {event for state, event in TRANSITIONS if state is State.MOVING}
    assert ends == {Event.VERIFIED, Event.MODEL_SWITCHED, Event.MOVE_FAILED, Event.TAKEN_OVER}


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_word_in_status(state: State) -> None:
    assert TrackedSession("ses_1", state).doing in Doing


def moved(brain: Engine) -> MoveEnded:
    """Move a session; return the end of its move."""
    brain.handle(refused(), T)
    (move,) = of(Move, brain.handle(seen(retrying()), T + 0.1))
    brain.handle(done := end(move, MoveResult.MOVED), T + 1)
    return done


def test_an_event_that_the_table_does_not_have_is_raised_in_tests_and_changes_nothing() -> None:
    brain = engine()
    again = moved(brain)
    (before,) = [dataclasses.replace(tracked) for tracked in brain.tracked_sessions.all()]
    with pytest.raises(UnexpectedEvent, match="ses_1 is moved: the fallback answers"):
        brain.handle(again, T + 2)
    assert brain.tracked_sessions.all() == (dataclasses.replace(before, touched=T + 2),)


def test_in_the_daemon_it_is_noted_and_what_is_known_is_saved() -> None:
    brain = Engine(POLICY, builtin(), Cooldowns(), lambda: "claim1", strict=False)
    again = moved(brain)
    save, note = brain.handle(again, T + 2)
    assert isinstance(save, SaveBlacklist) and [entry.model for entry in save.changed] == [A]
    assert isinstance(note, Note)
    assert (note.what, note.fields["session"], note.fields["state"]) == ("unexpected", "ses_1", "moved")
