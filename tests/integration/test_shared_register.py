"""Tests of two writers of the blacklist: older state of the daemon does not undo a user's clear or block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.sync import SharedBlacklist

NOW = 1_795_341_600.1234567  # with more digits than the file's milliseconds
A, B = ModelRef("p", "a"), ModelRef("q", "b")
GUESS = Cooldown(A, LimitKind.RATE_LIMIT, Scope.MODEL, NOW, NOW + 60.1234567, 1, ResetSource.ESTIMATE)
EXACT = replace(GUESS, until=NOW + 3600, reset_source=ResetSource.STATUS)


@pytest.fixture
def register(tmp_path: Path) -> SharedBlacklist:
    """Return the daemon's writer, with one model in the blacklist."""
    shared = SharedBlacklist(tmp_path / "blacklist.json")
    shared.write({A: GUESS}, NOW, {}, None)
    shared.news(NOW)
    return shared


def other_writes(path: Path, *entries: Cooldown) -> None:
    blacklist.update(path, lambda _: {entry.model: entry for entry in entries}, NOW + 1)


def found(path: Path) -> dict[ModelRef, ResetSource]:
    return {entry.model: entry.reset_source for entry in blacklist.read(path).entries()}


@pytest.mark.parametrize("change", [EXACT, replace(GUESS, target=Target(B))])
def test_a_change_made_before_the_clear_was_seen_does_not_undo_it(
    register: SharedBlacklist, tmp_path: Path, change: Cooldown
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path)
    register.write({A: change}, NOW + 1.1, {}, None)
    register.write({A: change, B: replace(EXACT, model=B)}, NOW + 1.2, {}, None)
    assert found(path) == {B: ResetSource.STATUS}
    news = register.news(NOW)
    assert news is not None and [entry.model for entry in news.entries()] == [B]
    register.write({A: change}, NOW + 2, {}, None)  # entered after the clear was seen
    assert set(found(path)) == {A, B}


@pytest.mark.parametrize("change", [EXACT, None])
def test_nor_is_a_persons_block_overwritten_or_taken_out(
    register: SharedBlacklist, tmp_path: Path, change: Cooldown | None
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path, Cooldowns().block(A, None, NOW + 1))
    register.write({A: change}, NOW + 1.1, {}, None)
    assert found(path) == {A: ResetSource.MANUAL}


def test_what_others_wrote_about_other_models_hinders_nothing(register: SharedBlacklist, tmp_path: Path) -> None:
    path = tmp_path / "blacklist.json"
    read = blacklist.read(path).entries()
    other_writes(path, *read, Cooldowns().block(B, None, NOW + 1))
    register.write({A: EXACT}, NOW + 1.1, {}, None)
    assert found(path) == {A: ResetSource.STATUS, B: ResetSource.MANUAL}
    assert register.news(NOW) is not None
    assert register.news(NOW) is None


@pytest.mark.parametrize("change", [replace(GUESS, model=B), replace(EXACT, model=B)])
def test_a_limit_that_another_entered_uncounted_a_moment_before_is_counted_all_the_same(
    register: SharedBlacklist, tmp_path: Path, change: Cooldown
) -> None:
    path = tmp_path / "blacklist.json"
    early = replace(EXACT, model=B, reset_source=ResetSource.RETRY_AFTER, strikes=0, until=NOW + 3599)
    other_writes(path, *blacklist.read(path).entries(), early)
    register.write({B: change}, NOW + 1.1, {}, None)
    entry = blacklist.read(path).cooldowns[B]
    told = early if change.reset_source is ResetSource.ESTIMATE else change
    assert entry.strikes == 1
    assert (entry.until, entry.reset_source) == (pytest.approx(told.until, abs=0.002), told.reset_source)


def test_what_was_cleared_and_entered_anew_since_is_not_counted_from_before(
    register: SharedBlacklist, tmp_path: Path
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path)
    other_writes(path, replace(EXACT, reset_source=ResetSource.RETRY_AFTER, strikes=0))
    register.write({A: replace(EXACT, strikes=2)}, NOW + 1.1, {}, None)
    assert blacklist.read(path).cooldowns[A].strikes == 0


def test_of_two_limits_of_two_writers_the_one_that_ends_later_is_shown(
    register: SharedBlacklist, tmp_path: Path
) -> None:
    path = tmp_path / "blacklist.json"
    billing = replace(EXACT, kind=LimitKind.BILLING, until=None, reset_source=ResetSource.ESTIMATE, reason="top up")
    other_writes(path, billing)
    register.write({A: replace(EXACT, kind=LimitKind.QUOTA, strikes=2, reason="quota")}, NOW + 1.1, {}, None)
    entry = blacklist.read(path).cooldowns[A]
    assert (entry.kind, entry.until, entry.reason) == (LimitKind.BILLING, None, "top up")
