"""Tests of several processes and threads that write our files at once: nothing is lost, counted twice or restored."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from ocwatchd.core.domain.budget import Price
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope
from ocwatchd.core.engine.messages import BlacklistChanged, SaveBlacklist
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.faults import FileHealth
from ocwatchd.launcher.effects import YieldingWriter
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat, prices
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.sync import SharedBlacklist

A, B = ModelRef("p", "a"), ModelRef("q", "b")


class Clock:
    """A clock that the test sets."""

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


class Writer(Protocol):
    """A writer of the blacklist, as the daemon and the launcher use it."""

    def add(self, effect: SaveBlacklist) -> None: ...

    def save(self, at_once: bool = False) -> None: ...

    def news(self) -> BlacklistChanged | None: ...


def of_the_daemon(paths: Paths, clock: Clock) -> BlacklistWriter:
    shared = SharedBlacklist(paths.blacklist, blacklist.read(paths.blacklist))
    return BlacklistWriter(shared, clock, FileHealth(print))


def of_a_launcher(paths: Paths, clock: Clock) -> YieldingWriter:
    shared = SharedBlacklist(paths.blacklist, blacklist.read(paths.blacklist))
    return YieldingWriter(BlacklistWriter(shared, clock, FileHealth(print)), shared, paths, clock)


@pytest.fixture
def launcher(paths: Paths, clock: Clock) -> YieldingWriter:
    return of_a_launcher(paths, clock)


@pytest.fixture
def daemon(paths: Paths, clock: Clock) -> BlacklistWriter:
    return of_the_daemon(paths, clock)


def write(writer: Writer, *entries: Cooldown) -> None:
    """Save the blacklist as the handler of `SaveBlacklist` does."""
    writer.add(SaveBlacklist(changed=entries))
    writer.save()


def refused(model: ModelRef, at: float, **more: object) -> Cooldown:
    return replace(
        Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, at, at + 3600, 1, ResetSource.STATUS, session="ses_1"),
        **more,
    )


def beat(paths: Paths, clock: Clock) -> None:
    heartbeat.write(paths.heartbeat, os.getpid(), clock.time, clock.time, [])


def clear(paths: Paths, clock: Clock, model: ModelRef) -> None:
    blacklist.update(paths.blacklist, lambda found: {m: e for m, e in found.items() if m != model}, clock.time)


def test_what_the_daemon_entered_and_a_person_cleared_is_not_brought_back_by_the_launcher(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    beat(paths, clock)
    entry = refused(A, clock.time)
    write(launcher, entry)
    write(daemon, entry)
    clock.time += 0.5
    launcher.save()
    clear(paths, clock, A)
    clock.time += 2.5
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}


def test_nor_what_rested_before_and_was_cleared_meanwhile(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    write(daemon, refused(A, clock.time))
    launcher.news()
    beat(paths, clock)
    write(launcher, refused(A, clock.time, strikes=2))
    clear(paths, clock, A)
    clock.time += 2.6
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}


def test_what_the_daemon_does_not_enter_the_launcher_does(launcher: YieldingWriter, paths: Paths, clock: Clock) -> None:
    beat(paths, clock)
    write(launcher, refused(A, clock.time))
    clock.time += 2.4
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns == {}
    clock.time += 0.2
    launcher.save()
    assert set(blacklist.read(paths.blacklist).cooldowns) == {A}


@pytest.mark.parametrize("cleared", [False, True])
def test_a_known_end_goes_before_the_daemons_estimate(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock, cleared: bool
) -> None:
    """The launcher had moved its run before the daemon read the limit: the file kept 60 s instead of 3,600."""
    beat(paths, clock)
    write(launcher, refused(A, clock.time))
    guess = refused(A, clock.time, until=clock.time + 60, reset_source=ResetSource.ESTIMATE, strikes=2)
    write(daemon, guess)
    clock.time += 0.5
    launcher.save()
    if cleared:
        clear(paths, clock, A)
    clock.time += 2.5
    launcher.save()
    found = blacklist.read(paths.blacklist).cooldowns
    if cleared:
        assert found == {}
    else:
        assert found[A] == replace(guess, until=guess.since + 3600, reset_source=ResetSource.STATUS)


def test_two_launchers_that_enter_one_limit_in_one_moment_lose_neither_strike_nor_end(
    paths: Paths, clock: Clock
) -> None:
    one, other = of_a_launcher(paths, clock), of_a_launcher(paths, clock)
    guess = refused(A, clock.time, until=clock.time + 60, reset_source=ResetSource.ESTIMATE)
    write(one, guess)
    write(other, refused(A, clock.time + 0.1, session="ses_2"))
    entry = blacklist.read(paths.blacklist).cooldowns[A]
    assert entry.strikes == 2
    assert (entry.until, entry.reset_source) == (pytest.approx(clock.time + 3600.1, abs=0.01), ResetSource.STATUS)


def test_what_refuses_after_a_clear_and_before_it_was_seen_is_entered_whatever_else_is_written(
    daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    """The time of a clear is the time of the file, which we change ourselves before the check."""
    cooldowns = Cooldowns([refused(A, clock.time)])
    write(daemon, *cooldowns.entries())
    daemon.news()
    clear(paths, clock, A)
    cleared = paths.blacklist.stat().st_mtime
    os.utime(paths.blacklist, (cleared - 1, cleared - 1))
    daemon.publish({"fallbacks": {"p/a": []}})
    news = daemon.news()
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
    """Enter a limit as `launcher.early` does, before any engine is imported."""
    early = refused(A, clock.time, strikes=0, reset_source=ResetSource.RETRY_AFTER)
    blacklist.update(paths.blacklist, lambda _: {A: early}, clock.time)
    runs = [of_a_launcher(paths, clock) for _ in range(10)]
    for number, run in enumerate(runs):
        write(run, replace(early, strikes=1, session=f"ses_{number}"))
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 10


def test_an_exact_end_is_not_lost_because_another_has_just_counted(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    guess = refused(A, clock.time, until=clock.time + 60, reset_source=ResetSource.ESTIMATE)
    write(launcher, guess)
    daemon.news()
    write(launcher, replace(guess, strikes=2, session="ses_2"))
    write(daemon, replace(guess, until=clock.time + 3600, reset_source=ResetSource.STATUS))
    entry = blacklist.read(paths.blacklist).cooldowns[A]
    assert (entry.strikes, entry.reset_source) == (2, ResetSource.STATUS)
    assert entry.until == pytest.approx(clock.time + 3600, abs=0.01)


def test_one_refusal_that_two_saw_is_one_strike(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    write(launcher, refused(A, clock.time))
    write(daemon, refused(A, clock.time + 0.2))
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 1


@pytest.mark.parametrize("theirs", [0, 1])
def test_what_no_longer_counts_is_as_if_it_had_not_been_there(
    daemon: BlacklistWriter, paths: Paths, clock: Clock, theirs: int
) -> None:
    """An entry that a writer drops is not a user's clear."""
    write(daemon, refused(A, clock.time, until=clock.time + 60))
    clock.time += 3600
    new = {B: refused(B, clock.time), A: refused(A, clock.time, session="ses_2")}
    others = {model: new[model] for model in list(new)[: theirs + 1]}
    blacklist.update(paths.blacklist, lambda found: found | others, clock.time)
    write(daemon, refused(A, clock.time + 0.1))
    assert blacklist.read(paths.blacklist).cooldowns[A].strikes == 1 + theirs


def test_a_gap_is_also_where_something_stands_that_no_longer_counts(
    launcher: YieldingWriter, daemon: BlacklistWriter, paths: Paths, clock: Clock
) -> None:
    write(daemon, refused(A, clock.time, until=clock.time + 60))
    launcher.news()
    clock.time += 3600
    beat(paths, clock)
    write(launcher, refused(A, clock.time))
    clock.time += 2.6
    launcher.save()
    assert blacklist.read(paths.blacklist).cooldowns[A].active(clock.time)
