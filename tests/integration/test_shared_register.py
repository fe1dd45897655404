"""Two writers of the register: what a person has cleared or blocked is not undone by what the daemon knew before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitKind, ModelRef, Scope, Target, ToldBy
from ocwatchd.state import blacklist
from ocwatchd.state.shared import SharedRegister

NOW = 1_795_341_600.1234567  # finer than the file's milliseconds
A, B = ModelRef("p", "a"), ModelRef("q", "b")
GUESS = Cooldown(A, LimitKind.RATE_LIMIT, Scope.MODEL, NOW, NOW + 60.1234567, 1, ToldBy.BACKOFF)
EXACT = replace(GUESS, until=NOW + 3600, told_by=ToldBy.STATUS)


@pytest.fixture
def register(tmp_path: Path) -> SharedRegister:
    """The daemon's, with one model in it."""
    shared = SharedRegister(tmp_path / "blacklist.json")
    shared.write({A: GUESS}, NOW, {}, None)
    shared.news(NOW)
    return shared


def other_writes(path: Path, *entries: Cooldown) -> None:
    blacklist.update(path, lambda _: {entry.model: entry for entry in entries}, NOW + 1)


def found(path: Path) -> dict[ModelRef, ToldBy]:
    return {entry.model: entry.told_by for entry in blacklist.read(path).entries()}


@pytest.mark.parametrize("change", [EXACT, replace(GUESS, target=Target(B))])
def test_a_change_made_before_the_clear_was_seen_does_not_undo_it(
    register: SharedRegister, tmp_path: Path, change: Cooldown
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path)
    register.write({A: change}, NOW + 1.1, {}, None)
    register.write({A: change, B: replace(EXACT, model=B)}, NOW + 1.2, {}, None)
    assert found(path) == {B: ToldBy.STATUS}
    news = register.news(NOW)
    assert news is not None and [entry.model for entry in news.entries()] == [B]
    register.write({A: change}, NOW + 2, {}, None)  # entered after the clear was seen
    assert set(found(path)) == {A, B}


@pytest.mark.parametrize("change", [EXACT, None])
def test_nor_is_a_persons_block_overwritten_or_taken_out(
    register: SharedRegister, tmp_path: Path, change: Cooldown | None
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path, Ledger().block(A, None, NOW + 1))
    register.write({A: change}, NOW + 1.1, {}, None)
    assert found(path) == {A: ToldBy.MANUAL}


def test_what_others_wrote_about_other_models_hinders_nothing(register: SharedRegister, tmp_path: Path) -> None:
    path = tmp_path / "blacklist.json"
    read = blacklist.read(path).entries()
    other_writes(path, *read, Ledger().block(B, None, NOW + 1))
    register.write({A: EXACT}, NOW + 1.1, {}, None)
    assert found(path) == {A: ToldBy.STATUS, B: ToldBy.MANUAL}
    assert register.news(NOW) is not None
    assert register.news(NOW) is None


@pytest.mark.parametrize("change", [replace(GUESS, model=B), replace(EXACT, model=B)])
def test_a_limit_that_another_entered_uncounted_a_moment_before_is_counted_all_the_same(
    register: SharedRegister, tmp_path: Path, change: Cooldown
) -> None:
    path = tmp_path / "blacklist.json"
    early = replace(EXACT, model=B, told_by=ToldBy.RETRY_AFTER, strikes=0, until=NOW + 3599)
    other_writes(path, *blacklist.read(path).entries(), early)
    register.write({B: change}, NOW + 1.1, {}, None)
    entry = blacklist.read(path).cooldowns[B]
    told = early if change.told_by is ToldBy.BACKOFF else change
    assert entry.strikes == 1
    assert (entry.until, entry.told_by) == (pytest.approx(told.until, abs=0.002), told.told_by)


def test_what_was_cleared_and_entered_anew_since_is_not_counted_from_before(
    register: SharedRegister, tmp_path: Path
) -> None:
    path = tmp_path / "blacklist.json"
    other_writes(path)
    other_writes(path, replace(EXACT, told_by=ToldBy.RETRY_AFTER, strikes=0))
    register.write({A: replace(EXACT, strikes=2)}, NOW + 1.1, {}, None)
    assert blacklist.read(path).cooldowns[A].strikes == 0
