"""When parked turns are run again: in which order, how often in a row, and what a lost file or process changes.

Long because all histories of parked turns begin in the same way, those with kills included.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import Endpoint, SessionState, TcpAddress
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import ErrorDetails, Hint, ModelRef, ResetSource
from ocwatchd.core.engine.messages import (
    BlacklistChanged,
    ClockSet,
    Move,
    Note,
    Notify,
    Probe,
    Probed,
    SaveBlacklist,
    Tick,
)
from ocwatchd.core.engine.parking import HELD_RECHECK, MAX_JITTER, run_at, share_of
from ocwatchd.core.engine.session import Doing, LimitedTurn, ParkedTurn
from ocwatchd.core.policy import Policy, WhenExhausted
from ocwatchd.daemon.recovery import previous_run
from ocwatchd.state.journal import Journal
from tests.unit.brain import (
    DOOR,
    LIMITED,
    A,
    B,
    T,
    configured,
    end,
    engine,
    failed,
    feed,
    fields,
    heard,
    notes,
    of,
    refused,
    retrying,
    seen,
)

ALONE = Policy(chains={})
HOURS = 5 * 3600.0
GAVE_UP = ErrorDetails(message=LIMITED, status=429, name="APIError")


def hint(at):
    return Hint(T + at, at, ResetSource.TEXT, "in words")


def gave_up(session="ses_1", **more):
    return failed(70, GAVE_UP, session=session, **more)


def parked(*sessions, policy=ALONE, wait=HOURS):
    """An engine whose sessions wait for A."""
    brain = engine(policy)
    for session in sessions or ("ses_1",):
        feed(brain, refused(session=session, hint=hint(wait)), seen(gave_up(session), session), at=70)
    return brain


def due(brain):
    """Let time pass until a check is due; return that time and the sessions that are asked for."""
    at = brain.next_wake()
    return at, [probe.session for probe in of(Probe, brain.handle(Tick(), at))]


def works(move, at):
    return end(move, MoveResult.MOVED, retrying(at - T, state=SessionState.BUSY, answer="msg_3", model=A,
                                                session=move.order.session, answer_began=True))  # fmt: skip


def resume(brain, session="ses_1", **more):
    """The move by which a parked session is run again, and when."""
    at, asked = due(brain)
    assert asked == [session]
    (move,) = of(Move, brain.handle(seen(gave_up(session, **more), session), at))
    return at, move


# ---- the order


@given(wait=st.floats(0, 1e6), session=st.text(max_size=40))
def test_a_session_is_never_run_before_its_time_and_at_the_same_time_after_every_restart(wait, session):
    at = run_at(session, T + wait, T)
    assert T + wait < at <= T + wait + 1.05 + min(MAX_JITTER, wait / 100) + 1e-6
    assert at == run_at(session, T + wait, T)
    assert 0 <= share_of(session) < 1


def test_sessions_of_one_model_have_different_times():
    times = sorted(run_at(f"ses_{number}", T + HOURS, T) for number in range(100))
    assert times[-1] - times[0] > 0.8 * MAX_JITTER
    assert max(later - sooner for sooner, later in pairwise(times)) < MAX_JITTER / 5


def names(number):
    return [f"ses_{each}" for each in range(number)]


def test_one_session_is_run_first_and_the_others_after_it_is_answered():
    brain = parked(*names(9))
    at, (first,) = due(brain)
    (move,) = of(Move, brain.handle(seen(gave_up(first), first), at))
    later = at + MAX_JITTER + 1
    assert of(Probe, brain.handle(Tick(), later)) == [], "nobody is asked about the others meanwhile"
    brain.handle(works(move, later), later)
    run, moments = [], []
    while (wake := brain.next_wake()) is not None:
        moments.append(wake)
        for probe in of(Probe, brain.handle(Tick(), wake)):
            for one in of(Move, brain.handle(seen(gave_up(probe.session), probe.session), wake)):
                run.append(one.order.session)
                brain.handle(works(one, wake + 1), wake + 1)
    assert sorted([first, *run]) == names(9)
    assert len(set(moments)) > 4, "not all at one moment"
    assert moments[-1] - later < 9


def test_a_session_that_something_else_shows_waits_for_the_first_one_too():
    brain = parked("ses_1", "ses_2")
    at, (first,) = due(brain)
    assert of(Move, brain.handle(seen(gave_up(first), first), at))
    (other,) = {"ses_1", "ses_2"} - {first}
    at += MAX_JITTER
    brain.handle(configured(chains={}), at)
    assert of(Move, brain.handle(seen(gave_up(other), other), at)) == []
    tracked = brain.tracked_sessions.known(other)
    assert (tracked.doing, tracked.wake) == (Doing.STUCK, at + HELD_RECHECK)
    assert "another session" in tracked.phrase


def test_if_the_first_is_refused_again_the_others_wait_for_the_new_time_and_are_not_run():
    brain = parked(*names(5))
    at, (first,) = due(brain)
    (move,) = of(Move, brain.handle(seen(gave_up(first), first), at))
    brain.handle(Tick(), at + MAX_JITTER)
    again = retrying(at - T, wait=at - T + 7200, answer="msg_3", session=first)
    brain.handle(end(move, MoveResult.TARGET_LIMITED, again), at + MAX_JITTER)
    wakes = [tracked.wake for tracked in brain.tracked_sessions.all()]
    assert all(7200 <= wake - at < 7200 + 3 * MAX_JITTER for wake in wakes)
    reset, asked = due(brain)
    assert len(asked) == 1
    assert reset - at >= 7200


@pytest.mark.parametrize("result", [MoveResult.REFUSED, MoveResult.USER_TOOK_OVER, MoveResult.FAILED])
def test_if_the_first_ends_in_any_other_way_the_next_one_is_the_first(result):
    brain = parked("ses_1", "ses_2")
    at, (first,) = due(brain)
    (move,) = of(Move, brain.handle(seen(gave_up(first), first), at))
    brain.handle(Tick(), at + MAX_JITTER)
    brain.handle(end(move, result), at + MAX_JITTER)
    moved = []
    while not moved:
        wake = brain.next_wake()
        for probe in of(Probe, brain.handle(Tick(), wake)):
            moved += of(Move, brain.handle(seen(gave_up(probe.session), probe.session), wake))
    assert [move.order.session for move in moved] == [({"ses_1", "ses_2"} - {first}).pop()]


def test_a_first_session_whose_opencode_never_answers_does_not_hold_the_others_for_ever():
    brain = parked("ses_1", "ses_2")
    at, (first,) = due(brain)
    asked = []
    while not asked:
        wake, asked = due(brain)
        assert wake - at < 200
    assert first not in asked


# ---- how often


def window(brain, number):
    """Let the parked turn be run again for the `number`th time, and be limited again; return what followed."""
    at, move = resume(brain, answer=f"msg_{number + 1}")
    brain.handle(works(move, at), at)
    again = refused(at - T + 1, hint=Hint(at + 3600, 3600, ResetSource.TEXT, "in words"))
    return feed(brain, again, seen(failed(at - T + 1, GAVE_UP, answer=f"msg_{number + 2}")), at=at - T + 1)


def test_after_so_many_windows_in_a_row_the_turn_is_left_to_its_user():
    brain = parked(policy=replace(ALONE, max_resumes=2))
    assert fields("parked", window(brain, 1))["resumes"] == 1
    given_up = window(brain, 2)
    assert "parked" not in notes(given_up)
    assert [tell.title for tell in of(Notify, given_up)] == ["p/a is limited"]
    assert "2 times in a row" in of(Notify, given_up)[0].text
    assert brain.next_wake() is None
    assert brain.tracked_sessions.known("ses_1").doing is Doing.LEFT


def test_a_refusal_of_the_new_run_that_only_an_endpoint_shows_is_another_limit():
    """It has the same model, prompt and number as the one that the turn was parked for."""
    brain = engine(ALONE)
    feed(
        brain,
        heard(0),
        seen(failed(1, ErrorDetails("Rate limit reached. Please try again in 300 s", status=429))),
        at=1,
    )
    at, move = resume(brain)
    brain.handle(works(move, at), at)
    again = failed(
        at - T + 1, ErrorDetails("Rate limit reached. Please try again in 600 s", status=429), answer="msg_3"
    )
    again = replace(again, answer_ended=at + 1)
    effects = feed(brain, heard(at - T + 1), seen(again), at=at - T + 1)
    assert notes(effects)[:2] == ["limit", "parked"]
    assert 599 < brain.next_wake() - at < 620


def test_a_run_that_fails_at_once_with_a_limit_waits_for_the_new_time():
    brain = engine(ALONE)
    words = ErrorDetails("Rate limit reached. Please try again in 300 s", status=429)
    feed(brain, heard(0), seen(failed(1, words)), at=1)
    at, move = resume(brain)
    again = replace(failed(at - T + 1, words, answer="msg_3"), answer_ended=at + 1)
    effects = brain.handle(end(move, MoveResult.FAILED, again), at + 1)
    assert [what for what in notes(effects) if what in ("limit", "parked")] == ["limit", "parked"]
    assert 300 <= brain.next_wake() - at < 306


def test_a_prompt_of_the_user_or_a_clear_begins_anew():
    brain = parked(policy=replace(ALONE, max_resumes=1))
    window(brain, 1)
    tracked = brain.tracked_sessions.known("ses_1")
    assert (tracked.doing, tracked.resumed("msg_1"), tracked.resumed("msg_9")) == (Doing.LEFT, 1, 0)
    at = T + 2 * HOURS
    brain.handle(BlacklistChanged((), at), at)
    assert of(Move, brain.handle(seen(failed(70, GAVE_UP, answer="msg_3", seen=at)), at + 1)), "the model was cleared"


def test_with_none_allowed_the_turn_is_left_to_its_user_at_once():
    brain = engine(replace(ALONE, max_resumes=0))
    effects = feed(brain, refused(hint=hint(HOURS)), seen(gave_up()), at=70)
    assert ("left" in notes(effects), "parked" in notes(effects), brain.next_wake()) == (True, False, None)


def test_what_an_earlier_run_of_the_daemon_ran_again_counts():
    brain = engine(replace(ALONE, max_resumes=3))
    brain.remember_resumes({"ses_1": ("msg_1", 3), "ses_2": ("msg_0", 3)})
    for session, what in (("ses_1", "left"), ("ses_2", "parked")):
        effects = feed(brain, refused(session=session, hint=hint(HOURS)), seen(gave_up(session), session), at=70)
        assert what in notes(effects)


# ---- a notice instead


NOTIFY = replace(ALONE, when_exhausted=WhenExhausted.NOTIFY)


def test_a_user_who_wants_to_be_notified_is_notified_at_the_time_and_nothing_is_run():
    brain = parked(policy=NOTIFY)
    at, asked = due(brain)
    assert asked == ["ses_1"]
    told = brain.handle(seen(gave_up()), at)
    assert (of(Move, told), notes(told)) == ([], ["unparked", "offered"])
    (tell,) = of(Notify, told)
    assert (tell.title, "prompt" in tell.text) == ("p/a is available again", True)
    assert brain.next_wake() is None
    assert brain.handle(seen(gave_up()), at + 1) == [], "once"
    brain.handle(configured(chains={}), at + 2)
    assert of(Move, brain.handle(seen(gave_up()), at + 3)), "the configuration was edited"


def test_the_notice_names_the_command_if_a_fallback_returns_first():
    brain = engine(replace(NOTIFY, chains={"p/a": ("p/b",)}))
    feed(brain, refused(model=B, session="ses_2", hint=hint(600)))
    feed(brain, refused(hint=hint(HOURS)), seen(gave_up()), at=70)
    at, asked = due(brain)
    assert (asked, at - T < 700) == (["ses_1"], True)
    (tell,) = of(Notify, brain.handle(seen(gave_up()), at))
    assert "ocwatch redirect ses_1" in tell.text
    assert brain.tracked_sessions.known("ses_1").phrase.endswith(": ocwatch redirect ses_1")


# ---- files, processes and clocks


def test_without_its_cooldown_a_turn_waits_for_its_time_all_the_same():
    """The journal is written before the blacklist in a storm, and a kill comes between the two."""
    brain = engine(ALONE, Cooldowns())
    turn = LimitedTurn(A, "msg_2", 1)
    assert brain.recall_parked("ses_1", ParkedTurn(turn, T + HOURS, T, T + HOURS + 2), T + 60) == []
    assert brain.next_wake() == T + HOURS + 2
    early = brain.handle(configured(chains={}), T + 100)
    assert of(Move, early + brain.handle(seen(gave_up()), T + 101)) == []
    assert brain.next_wake() == T + HOURS + 2
    resume(brain)


def test_the_words_of_a_parked_turn_are_not_counted_again_from_the_moment_at_which_it_is_run_again():
    """A run that begins within a minute of the refusal does not know which refusals the last one has counted."""
    words = ErrorDetails(message="Rate limit reached. Please try again in 30 s", status=429, name="APIError")
    turn = LimitedTurn(A, "msg_2", 1)
    brain = engine(ALONE)
    brain.recall_parked("ses_1", ParkedTurn(turn, T + 30, T + 1, T + 30.1), T + 20)
    at, asked = due(brain)
    assert asked == ["ses_1"]
    effects = brain.handle(seen(failed(at - T, words)), at)
    assert (notes(effects), of(SaveBlacklist, effects)) == (["claim"], [])


def test_words_in_an_error_count_from_the_moment_of_the_error():
    words = ErrorDetails(message="Rate limit reached. Please try again in 300 s", status=429, name="APIError")
    brain = engine(ALONE)
    feed(brain, heard(20), seen(failed(20, words)), at=20)
    assert brain.cooldowns.cooling(A, T + 20).until == T + 300


def server(pid, **more):
    return Endpoint(TcpAddress("127.0.0.1", 4096), pid, **more)


@pytest.mark.parametrize(
    ("again", "runs"),
    [({"many": True}, True), ({"opened": "ses_1"}, True), ({"opened": "ses_2"}, False), ({}, False)],
    ids=["a server", "a terminal on it", "a terminal on another one", "a terminal"],
)
@pytest.mark.parametrize("waited", [False, True], ids=["given up", "in retry"])
def test_it_is_run_in_the_opencode_that_took_the_place_of_its_own(again, runs, waited):
    brain = engine(ALONE)
    shown = retrying(70, wait=HOURS + 900) if waited else gave_up()
    feed(brain, refused(hint=hint(HOURS)), seen(shown), at=70)
    at, _ = due(brain)
    if waited:
        shown = replace(shown, state=SessionState.IDLE, attempt=None, next_at=None, message="")
    shown = replace(shown, endpoint=server(2, **again), seen=at)
    moves = []
    for _ in range(3):  # an idle session may be at work behind an endpoint that is not open yet
        moves += of(Move, brain.handle(seen(shown), at))
        at = brain.next_wake() or at
        brain.handle(Tick(), at)
    assert [move.order.target.model for move in moves] == ([A] if runs else [])
    assert [move.order.own_abort for move in moves] == [waited] * runs


def test_an_opencode_that_is_restarted_when_the_model_returns_is_waited_for():
    brain = parked()
    at, _ = due(brain)
    for _ in range(4):
        assert "unparked" not in notes(brain.handle(Probed("ses_1", None, (), 0), at))
        at, asked = due(brain)
        assert asked == ["ses_1"]
    assert of(Move, brain.handle(seen(gave_up(endpoint=server(2, many=True))), at))


def test_a_clock_that_is_set_back_while_it_waits_changes_nothing():
    brain = parked()
    before = brain.next_wake()
    now = T + 3600
    brain.handle(ClockSet(Step(-1800.0, T - 7200, now)), now - 1800)
    assert brain.next_wake() == pytest.approx(before - 1800)


def test_a_clock_that_was_wrong_for_a_while_lets_nothing_run_before_its_time():
    brain = parked()
    now = T + 3600
    brain.handle(ClockSet(Step(-1800.0, T - 7200, now)), now - 1800)
    brain.handle(ClockSet(Step(1800.0, now - 1800, now - 1700, undone=True)), now + 100)
    at, _ = due(brain)
    assert of(Move, brain.handle(seen(gave_up()), at)) == [] or at >= T + HOURS
    if at < T + HOURS:
        at, _ = due(brain)
        assert at >= T + HOURS
        assert of(Move, brain.handle(seen(gave_up()), at))


def test_a_clock_that_was_ahead_when_the_turn_was_parked_does_not_delay_it():
    """The blacklist is corrected when the clock is set back; the journal keeps the time that was written."""
    brain = engine(ALONE)
    feed(brain, refused(hint=hint(HOURS)))
    turn = ParkedTurn(LimitedTurn(A, "msg_2", 1), T + HOURS + 3600, T + 3600, T + HOURS + 3602, A)
    assert brain.recall_parked("ses_1", turn, T + 60) == []
    assert HOURS < brain.next_wake() - T < HOURS + 1 + MAX_JITTER


# ---- kills


class Killed(Exception):
    """The daemon ends between two effects."""


class Parked:
    """Parked sessions of several models in an OpenCode that outlives the daemon. Each run is counted with its time."""

    def __init__(self, count, draw):
        self.draw, self.time, self.lines, self.blacklist = draw, T, [], {}
        self.models = [ModelRef("p", f"m{number}") for number in range(5)]
        self.resets = {model: T + draw.uniform(600, 7200) for model in self.models}
        self.sessions = {f"ses_{number}": draw.choice(self.models) for number in range(count)}
        self.runs = {session: [] for session in self.sessions}
        self.todo, self.moves = [], []
        self.brain = engine(ALONE)

    def now(self):
        return self.time

    def show(self, session):
        model, runs = self.sessions[session], self.runs[session]
        shown = failed(0, GAVE_UP, session=session, model=model, user_message=f"prompt {session}", answer="msg_2")
        if runs:
            answered = self.time - runs[-1] > 5
            state = SessionState.IDLE if answered else SessionState.BUSY
            shown = replace(shown, state=state, answer="msg_3", last_error=None, answer_ended=None,
                            answer_began=True, answer_completed=answered)  # fmt: skip
        return replace(shown, seen=self.time, endpoint=DOOR)

    def tell(self, message):
        self.take(self.brain.handle(message, self.time))

    def take(self, effects):
        for effect in effects:
            if self.draw.random() < self.kills:
                raise Killed
            match effect:
                case Note():
                    self.lines.append(
                        json.loads(Journal(Path("/none"), self).line({"what": effect.what, **effect.fields}))
                    )
                case SaveBlacklist():
                    if self.draw.random() < 0.7:  # a storm of changes is written a little later
                        self.blacklist |= {entry.model: entry for entry in effect.changed}
                        for model in effect.removed:
                            self.blacklist.pop(model, None)
                case Probe(session, model) if session:
                    self.todo.append(lambda s=session, m=model: self.tell(Probed(s, m, (self.show(s),), 1)))
                case Move():
                    self.todo.append(lambda move=effect: self.run(move))

    def run(self, move):
        """OpenCode makes one run of two, and none of an answered prompt."""
        session = move.order.session
        self.runs[session].append(self.time)
        self.todo.append(lambda: self.tell(end(move, MoveResult.MOVED, self.show(session))))

    def begin(self):
        """The daemon is started again."""
        self.todo = []
        self.brain = engine(ALONE, Cooldowns(self.blacklist.values()))
        last = previous_run(self.lines, self.time - 3600, {}, self.time)
        self.brain.remember_origins(last.origins)
        self.brain.remember_resumes(last.resumes)
        for session, turn in last.parked.items():
            self.take(self.brain.recall_parked(session, turn, self.time))
        for session, claims in last.unfinished.items():
            self.take(self.brain.resume(session, claims, self.time))

    def live(self, seconds, kills):
        """Let time pass; the daemon is killed before this part of its effects, and started again."""
        self.kills, deadline = kills, self.time + seconds
        while self.time < deadline:
            try:
                if self.todo:
                    self.time += 0.01
                    self.todo.pop(self.draw.randrange(len(self.todo)))()
                else:
                    wake = self.brain.next_wake()
                    self.time = deadline if wake is None else min(max(wake, self.time), deadline)
                    self.tell(Tick())
            except Killed:
                self.begin_again()

    def begin_again(self):
        while True:
            self.time += self.draw.choice((0.1, 1.0, 30.0))
            try:
                self.begin()
                return
            except Killed:
                continue


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_moment_each_parked_turn_is_run_again_once_and_none_before_its_time(seed):
    world = Parked(40, random.Random(seed))
    world.kills = 0.0
    for session, model in world.sessions.items():
        until = world.resets[model]
        world.tell(refused(model=model, session=session, hint=Hint(until, until - T, ResetSource.TEXT, "in words")))
    while world.todo:
        world.todo.pop(0)()
    assert {line["session"] for line in world.lines if line["what"] == "parked"} == set(world.sessions)
    world.live(9000, kills=0.03)
    world.live(2000, kills=0.0)
    assert {session: len(runs) for session, runs in world.runs.items() if len(runs) != 1} == {}
    early = {s: runs[0] - world.resets[world.sessions[s]] for s, runs in world.runs.items()}
    assert {session: by for session, by in early.items() if by < 0} == {}
