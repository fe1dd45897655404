"""Tests of the daemon's forecasts: a message store and providers' headers give these messages and files."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.clock import rfc3339
from ocwatchd.core.domain.budget import Price
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Foreseen, Message, Spent
from ocwatchd.core.policy import Policy, PreventionPolicy
from ocwatchd.daemon.forecaster import RENEW, Forecaster, today
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import prices
from tests.support.rules import builtin


class Life:
    """The forecasts of one daemon with its clock, whose work is done at once."""

    def __init__(self, home: Path, **policy: Any) -> None:
        self.paths = Paths(home, home / "config", home / "data", home / "state", home / "cache")
        self.paths.allowances.mkdir(parents=True)
        self.paths.opencode_data.mkdir()
        self.time = time.time()
        self.said: list[Message] = []
        self.context = Engine(Policy(**policy), builtin(), Cooldowns(), lambda: "claim").context
        self.eye = Forecaster(self.work, SessionStore(self.paths.opencode_data), self.paths, self)

    def now(self) -> float:
        return self.time

    def work(self, work: Callable[[], Message]) -> None:
        self.said.append(work())

    def step(self, later: float = 0.0) -> list[Message]:
        self.time += later
        self.said = []
        self.eye.step(self.context)
        return self.said

    def used(self, *ago: float, cost: float = 0.0) -> None:
        with closing(sqlite3.connect(self.paths.opencode_data / "opencode.db")) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS session (id, directory, parent_id, version, time_updated)")
            db.execute("CREATE TABLE IF NOT EXISTS message (id, session_id, time_created, data)")
            db.execute("INSERT INTO session VALUES ('ses_1', '/p', NULL, '1.18.33', ?)", (int(self.time * 1000),))
            for seconds in ago:
                created = int((self.time - seconds) * 1000)
                said: dict[str, Any] = {
                    "role": "assistant",
                    "providerID": "p",
                    "modelID": "m",
                    "time": {"created": created},
                }
                said |= {"time": {"created": created}, "parentID": f"msg_{seconds}"}
                said |= {"tokens": {"input": 100}, "cost": cost}
                row = (f"msg_a{created}", "ses_1", created, json.dumps(said))
                db.execute("INSERT INTO message VALUES (?, ?, ?, ?)", row)

    def told(self, remaining: int) -> None:
        headers = {"x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": str(remaining)}
        about = {"version": 1, "time": rfc3339(self.time), "model": "p/m", "headers": headers}
        path = self.paths.allowances / "p%2Fm.json"
        path.write_text(json.dumps(about))
        os.utime(path, (self.time, self.time))

    def planned(self, utilization: float, resets: float, model: str = "p/m") -> None:
        prefix = "anthropic-ratelimit-unified-5h"
        headers = {f"{prefix}-utilization": str(utilization), f"{prefix}-reset": f"{self.time + resets:.0f}"}
        about = {"version": 1, "time": rfc3339(self.time), "model": model, "headers": headers}
        path = self.paths.allowances / f"{model.replace('/', '%2F')}.json"
        path.write_text(json.dumps(about))
        os.utime(path, (self.time, self.time))

    def forecasts(self) -> list[dict[str, Any]]:
        found = json.loads(self.paths.forecasts.read_text())["forecasts"]
        assert isinstance(found, list)
        return found


def test_without_anything_used_nothing_is_read_or_written(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.step() == [] and not life.paths.forecasts.exists()
    life.used(20_000)
    assert life.step(20_000) == []


def test_it_looks_when_there_is_news_and_says_what_it_sees(tmp_path: Path) -> None:
    life = Life(tmp_path, prevention=PreventionPolicy(prevent=True))
    life.used(60, 30)
    life.told(30)
    assert life.step() == [Foreseen({}, ("p/m",))]
    assert [(one["model"], one["label"], one["used"]) for one in life.forecasts()] == [("p/m", "exact", 20)]
    assert life.step(3) == []
    life.told(0)
    (seen,) = life.step(3)
    assert isinstance(seen, Foreseen) and list(seen.threats) == ["p/m"] and seen.calm == ()
    assert life.step(3) == []
    assert len(life.step(RENEW)) == 1  # old use leaves the window although nothing is written


def test_a_plan_window_at_leave_at_threatens_used_and_configured_models(tmp_path: Path) -> None:
    chains = {"p/unused": ("q/n",), "q/n": ("p/m",)}
    life = Life(tmp_path, chains=chains, prevention=PreventionPolicy(prevent=True, leave_at=95.0))
    life.used(60)
    life.planned(0.94, 7200)
    assert life.step() == [Foreseen({}, ())]  # within twice the margin: neither near nor calm
    life.time += 3
    life.planned(0.96, 7200)
    (seen,) = life.step()
    assert isinstance(seen, Foreseen) and seen.calm == ()
    assert sorted(seen.threats) == ["p/m", "p/unused"]
    assert {round(one.until - life.time) for one in seen.threats.values()} <= {7199, 7200, 7201}
    life.time += 3
    life.planned(0.05, 7200)
    assert life.step() == [Foreseen({}, ("p/m", "p/unused"))]


@pytest.mark.parametrize("policy", [PreventionPolicy(prevent=True), PreventionPolicy(leave_at=95.0)])
def test_a_plan_window_is_only_shown_without_leave_at_or_prevent(tmp_path: Path, policy: PreventionPolicy) -> None:
    life = Life(tmp_path, prevention=policy)
    life.used(60)
    life.planned(1.0, 7200)
    (seen,) = life.step()
    assert isinstance(seen, Foreseen) and seen.threats == {}


def test_only_for_the_eye_it_moves_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.used(60)
    life.told(0)
    assert life.step() == [Foreseen({})]
    assert life.forecasts()[0]["left"] == 0


def test_what_was_spent_today_and_what_is_too_dear_for_the_rest_of_it(tmp_path: Path) -> None:
    life = Life(tmp_path, budget=1.0)
    since = life.time - today(life.time)
    life.used(since / 4, since / 2, since + 60, cost=0.6)
    life.step()
    assert json.loads(life.paths.budget.read_text())["over_budget"] == []
    prices.remember(life.paths.prices, {"p/m": Price(3, 15), "q/free": Price()}, life.time)
    life.time += 3  # no waiting until more is spent
    *_, spent = sorted(life.step(), key=lambda message: isinstance(message, Spent))
    assert isinstance(spent, Spent) and spent.dollars == pytest.approx(1.2)
    told = json.loads(life.paths.budget.read_text())
    assert (told["over_budget"], told["until"]) == (["p/m"], rfc3339(today(life.time, 1)))
    life.context.policy = Policy()
    life.step(60)
    assert not life.paths.budget.exists()
