"""Tests of prices.json and budget.json: reported data is kept, and a broken file counts as missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.policy import Policy
from ocwatchd.opencode.client.v1.responses import price_of
from ocwatchd.paths import Paths
from ocwatchd.state import budget, prices
from tests.support.rules import builtin

NOW = 1_800_000_000.0


def test_what_is_told_is_kept_beside_what_was(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    assert prices.read(path) == {} and prices.outdated(path, NOW)
    prices.remember(path, {}, NOW)
    assert not path.exists()
    prices.remember(path, {"p/a": Price(3, 15, 0.3, 3.75)}, NOW)
    (tmp_path / ".prices.json.1234.tmp").write_bytes(b"{")  # left behind by a killed writer
    prices.remember(path, {"q/b": Price(), "p/a": Price(4)}, NOW)
    assert {each.name for each in tmp_path.iterdir()} == {"prices.json", "prices.json.lock"}
    assert prices.read(path) == {"p/a": Price(4), "q/b": Price()}
    mark = path.stat().st_mtime_ns
    prices.remember(path, {"p/a": Price(4)}, path.stat().st_mtime)
    assert path.stat().st_mtime_ns == mark
    os.utime(path, (NOW, NOW))
    assert prices.outdated(path, NOW + 2 * 86400) and not prices.outdated(path, NOW + 60)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "prices": {}}', '{"version": 1, "prices": {"p/a": {}}}']
)
def test_what_is_broken_tells_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    assert prices.read(path) == {}
    assert budget.read(path, NOW) is None


def test_a_budget_is_of_today_and_gone_without_one(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    prices.write_budget(path, DayBudget(5.0, 6.0, {"p/a": Price(1), "q/b": Price()}), NOW + 3600, NOW)
    left = budget.read(path, NOW)
    assert left is not None
    assert (left.budget, left.spent, list(left.over_budget)) == (5.0, 6.0, ["p/a"])
    assert budget.read(path, NOW + 3600) is None
    assert prices.day_budget(tmp_path / "none", path, 7.0, NOW) == DayBudget(7.0, 6.0, {})
    assert prices.day_budget(tmp_path / "none", path, None, NOW) == DayBudget()
    prices.write_budget(path, DayBudget(), NOW + 3600, NOW)
    assert not path.exists()


@pytest.mark.parametrize(
    ("spent", "later", "wanted"),
    [(6.0, 0, (6.0, True)), (5.0, 0, (5.0, True)), (4.0, 0, (4.0, False)), (6.0, 3600, (0.0, False))],
)
def test_the_next_life_knows_what_was_spent_today_and_said(
    tmp_path: Path, spent: float, later: float, wanted: tuple[float, bool]
) -> None:
    paths = Paths(*(tmp_path for _ in range(5)))
    context = Engine(Policy(budget=5.0), builtin(), Cooldowns(), lambda: "claim").context
    prices.remember(paths.prices, {"p/a": Price(1)}, NOW)
    prices.write_budget(paths.budget, DayBudget(5.0, spent, {"p/a": Price(1)}), NOW + 3600, NOW)
    prices.recall(context, paths, NOW + later)
    assert (context.spent, context.over_notified) == wanted
    assert context.day_budget.over_budget == (["p/a"] if wanted[1] else [])


@pytest.mark.parametrize(
    ("told", "price"),
    [
        (None, None),
        ({}, Price()),
        ({"input": 3, "output": 15, "cache": {"read": 0.3, "write": 3.75}}, Price(3, 15, 0.3, 3.75)),
        ({"input": "3", "output": True, "cache": [], "other": 1}, Price()),
        ({"input": -3, "output": 1e300}, Price()),
    ],
)
def test_prices_as_opencode_tells_them(told: object, price: Price | None) -> None:
    assert price_of(told) == price
