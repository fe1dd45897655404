"""Several processes and threads write our files in one moment: nothing is lost, counted twice, or comes back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitKind, ModelRef, Scope, ToldBy
from ocwatchd.core.messages import SaveRegister
from ocwatchd.core.money import Price
from ocwatchd.hands import Hands
from ocwatchd.launcher.hands import LaunchHands
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Surveyor
from ocwatchd.paths import Paths
from ocwatchd.redirect import RerunOverApi
from ocwatchd.state import blacklist, heartbeat, prices

A, B = ModelRef("p", "a"), ModelRef("q", "b")


class Clock:
    """Time as the test sets it."""

    time = 1_795_341_600.5

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "state").mkdir(mode=0o700)
    return Paths(tmp_path, tmp_path, tmp_path, tmp_path / "state", tmp_path)


def hands(kind: type[Hands], paths: Paths, clock: Clock) -> Iterator[Hands]:
    finder = DoorFinder(paths.opencode_data, environ={}, processes=tuple)
    surveyor = Surveyor(finder, SessionStore(paths.opencode_data), clock=clock)
    made = kind(paths, clock, finder, surveyor, RerunOverApi(), lambda _: None, lambda _: None)
    made.register.know(blacklist.read(paths.blacklist))
    yield made
    made.close()


@pytest.fixture
def launcher(paths: Paths, clock: Clock) -> Iterator[Hands]:
    yield from hands(LaunchHands, paths, clock)


@pytest.fixture
def daemon(paths: Paths, clock: Clock) -> Iterator[Hands]:
    yield from hands(Hands, paths, clock)


def refused(model: ModelRef, at: float, **more: object) -> Cooldown:
    return replace(
        Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, at, at + 3600, 1, ToldBy.STATUS, session="ses_1"), **more
    )


def beat(paths: Paths, clock: Clock) -> None:
    heartbeat.write(paths.heartbeat, os.getpid(), clock.time, clock.time, [])


def clear(paths: Paths, clock: Clock, model: ModelRef) -> None:
    blacklist.update(paths.blacklist, lambda found: {m: e for m, e in found.items() if m != model}, clock.time)


def test_what_the_daemon_entered_and_a_person_cleared_is_not_brought_back_by_the_launcher(
    launcher: Hands, daemon: Hands, paths: Paths, clock: Clock
) -> None:
    beat(paths, clock)
    entry = refused(A, clock.time)
    launcher.do([SaveRegister(changed=(entry,))])
    daemon.do([SaveRegister(changed=(entry,))])
    clock.time += 0.5
    launcher.save()
    clear(paths, clock, A)
    clock.time += 2.5
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}


def test_nor_what_rested_before_and_was_cleared_meanwhile(
    launcher: Hands, daemon: Hands, paths: Paths, clock: Clock
) -> None:
    daemon.do([SaveRegister(changed=(refused(A, clock.time),))])
    launcher.register_news()
    beat(paths, clock)
    launcher.do([SaveRegister(changed=(refused(A, clock.time, strikes=2),))])
    clear(paths, clock, A)
    clock.time += 2.6
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}


def test_what_the_daemon_does_not_enter_the_launcher_does(launcher: Hands, paths: Paths, clock: Clock) -> None:
    beat(paths, clock)
    launcher.do([SaveRegister(changed=(refused(A, clock.time),))])
    clock.time += 2.4
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}
    clock.time += 0.2
    launcher.save()
    assert set(blacklist.read(paths.blacklist).cooldowns) == {A}


def test_two_launchers_that_enter_one_limit_in_one_moment_lose_neither_strike_nor_end(
    paths: Paths, clock: Clock
) -> None:
    (one,), (other,) = (list(hands(LaunchHands, paths, clock)) for _ in range(2))
    guess = refused(A, clock.time, until=clock.time + 60, told_by=ToldBy.BACKOFF)
    one.do([SaveRegister(changed=(guess,))])
    other.do([SaveRegister(changed=(refused(A, clock.time + 0.1, session="ses_2"),))])
    entry = blacklist.read(paths.blacklist).cooldowns[A]
    assert entry.strikes == 2
    assert (entry.until, entry.told_by) == (pytest.approx(clock.time + 3600.1, abs=0.01), ToldBy.STATUS)


def test_what_refuses_after_a_clear_and_before_it_was_seen_is_entered_whatever_else_is_written(
    daemon: Hands, paths: Paths, clock: Clock
) -> None:
    """The time of a clear is the time of the file, which we write ourselves before we look."""
    ledger = Ledger([refused(A, clock.time)])
    daemon.do([SaveRegister(changed=ledger.entries())])
    daemon.register_news()
    clear(paths, clock, A)
    cleared = paths.blacklist.stat().st_mtime
    os.utime(paths.blacklist, (cleared - 1, cleared - 1))
    daemon.publish({"stand_ins": {"p/a": []}})
    news = daemon.register_news()
    assert news is not None
    assert news.at == pytest.approx(cleared - 1, abs=0.01)


def test_threads_that_keep_prices_at_once_keep_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    told = [{f"p{n}/m{i}": Price(n, i) for i in range(20 + n)} for n in range(40)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda own: prices.remember(path, own, 1e9), told))
    assert json.loads(path.read_bytes())["version"] == 1
    assert set(prices.read(path)) == {name for own in told for name in own}


def test_ten_launchers_that_all_know_of_an_uncounted_entry_count_ten(paths: Paths, clock: Clock) -> None:
    """As `launcher.early` enters it, before any of their brains is awake."""
    early = refused(A, clock.time, strikes=0, told_by=ToldBy.RETRY_AFTER)
    blacklist.update(paths.blacklist, lambda _: {A: early}, clock.time)
    runs = [run for _ in range(10) for run in hands(LaunchHands, paths, clock)]
    for number, run in enumerate(runs):
        run.do([SaveRegister(changed=(replace(early, strikes=1, session=f"ses_{number}"),))])
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 10


def test_an_exact_end_is_not_lost_because_another_has_just_counted(
    launcher: Hands, daemon: Hands, paths: Paths, clock: Clock
) -> None:
    guess = refused(A, clock.time, until=clock.time + 60, told_by=ToldBy.BACKOFF)
    launcher.do([SaveRegister(changed=(guess,))])
    daemon.register_news()
    launcher.do([SaveRegister(changed=(replace(guess, strikes=2, session="ses_2"),))])
    daemon.do([SaveRegister(changed=(replace(guess, until=clock.time + 3600, told_by=ToldBy.STATUS),))])
    entry = blacklist.read(paths.blacklist).cooldowns[A]
    assert (entry.strikes, entry.told_by) == (2, ToldBy.STATUS)
    assert entry.until == pytest.approx(clock.time + 3600, abs=0.01)


def test_one_refusal_that_two_saw_is_one_strike(launcher: Hands, daemon: Hands, paths: Paths, clock: Clock) -> None:
    launcher.do([SaveRegister(changed=(refused(A, clock.time),))])
    daemon.do([SaveRegister(changed=(refused(A, clock.time + 0.2),))])
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 1


@pytest.mark.parametrize("theirs", [0, 1])
def test_what_no_longer_counts_is_as_if_it_had_not_been_there(
    daemon: Hands, paths: Paths, clock: Clock, theirs: int
) -> None:
    """Whoever writes drops it: that is no person's clear."""
    daemon.do([SaveRegister(changed=(refused(A, clock.time, until=clock.time + 60),))])
    clock.time += 3600
    new = {B: refused(B, clock.time), A: refused(A, clock.time, session="ses_2")}
    others = {model: new[model] for model in list(new)[: theirs + 1]}
    blacklist.update(paths.blacklist, lambda found: found | others, clock.time)
    daemon.do([SaveRegister(changed=(refused(A, clock.time + 0.1),))])
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 1 + theirs


def test_a_gap_is_also_where_something_stands_that_no_longer_counts(
    launcher: Hands, daemon: Hands, paths: Paths, clock: Clock
) -> None:
    daemon.do([SaveRegister(changed=(refused(A, clock.time, until=clock.time + 60),))])
    launcher.register_news()
    clock.time += 3600
    beat(paths, clock)
    launcher.do([SaveRegister(changed=(refused(A, clock.time),))])
    clock.time += 2.6
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns[A].active(clock.time)
