"""Tests of `ocwatch forecast`: a message store and a journal give these lines, without a daemon."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

from ocwatchd.core.forecast.model import Measure
from tests.cli.conftest import Cli, at
from tests.support.replay import history


def used(cli: Cli, uses: list[tuple[float, int]]) -> None:
    """Write a message store with answers of p/m that many seconds ago, with that many tokens each."""
    cli.paths.opencode_data.mkdir(parents=True, exist_ok=True)
    now = time.time()
    with closing(sqlite3.connect(cli.paths.opencode_data / "opencode.db")) as db, db:
        db.execute("CREATE TABLE session (id, directory, parent_id, version, time_updated)")
        db.execute("CREATE TABLE message (id, session_id, time_created, data)")
        db.execute("INSERT INTO session VALUES ('ses_1', '/p', NULL, '1.18.33', ?)", (int(now * 1000),))
        for number, (ago, tokens) in enumerate(uses):
            created = int((now - ago) * 1000)
            said = {"role": "assistant", "providerID": "p", "modelID": "m", "time": {"created": created}}
            said["tokens"] = {"input": tokens, "output": 0, "cache": {"read": 10**6}}
            db.execute("INSERT INTO message VALUES (?, 'ses_1', ?, ?)", (f"msg_{number}", created, json.dumps(said)))


def limited(cli: Cli, *ago: float, model: str = "p/m") -> None:
    lines = [
        {"version": 1, "id": f"{index:020}", "time": at(-seconds), "what": "limit", "session": "ses_1", "model": model,
         "kind": "rate_limit"}
        for index, seconds in enumerate(ago)
    ]  # fmt: skip
    cli.paths.state_dir.mkdir(parents=True, exist_ok=True)
    cli.paths.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_nothing_used_nothing_said(cli: Cli) -> None:
    assert cli("forecast").stdout == "No model was used within the last five hours.\n"
    assert cli.json("forecast")["forecasts"] == []


def test_use_without_a_limit_is_not_enough_data(cli: Cli) -> None:
    used(cli, [(100, 500), (50, 700)])
    (found,) = cli.json("forecast")["forecasts"]
    assert (found["label"], found["limit"], found["hits"]) == ("not enough data", None, None)
    assert [window["tokens"] for window in found["windows"]] == [700, 1200, 1200, 1200]
    assert "1,200 tokens in 1h" in cli("forecast").stdout


def test_a_single_limit_is_not_enough_data(cli: Cli) -> None:
    used(cli, [(60, 8)])
    limited(cli, 59.0)
    (found,) = cli.json("forecast")["forecasts"]
    assert (found["label"], found["limit"], found["hits"]) == ("not enough data", None, None)
    assert "fewer than two limits so far" in " ".join(cli("forecast").stdout.split())


def test_a_limit_is_learnt_from_what_had_been_used_when_it_came(cli: Cli) -> None:
    hours = (40_000.0, 80_000.0, 120_000.0)
    # An hour of work before each limit, little on other days, and much again in the last forty minutes.
    work = [(limit + second, 1000) for limit in hours for second in range(5, 3600, 36)]
    work += [(200_000.0 + second * 600, 1000) for second in range(100)] + [(float(s), 1000) for s in range(5, 2400, 36)]
    used(cli, work)
    limited(cli, *hours)
    (found,) = cli.json("forecast")["forecasts"]
    assert (found["label"], found["measure"], found["limits_seen"]) == ("learnt", "tokens", 3)
    assert found["window_seconds"] in (3600, 18000) and found["limit"] in (99_000, 100_000)
    assert 900 < found["hits_in_seconds"] < 1500
    text = cli("forecast").stdout
    assert "learnt from 3 limits" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_the_rule_is_judged_on_ones_own_history_beside_a_naive_one(cli: Cli) -> None:
    assert cli("forecast", "--replay").stdout == "No limit occurred within the last week.\n"
    now = time.time()
    uses, limits = history(3600.0, 300_000, Measure.TOKENS, seed=7)
    shift = now - max(at for at, _ in uses) - 60
    used(cli, [(now - at - shift, tokens) for at, tokens in uses])
    limited(cli, *(now - at - shift for at in reversed(limits)))
    (found,) = cli.json("forecast", "--replay")["replays"]
    assert found["model"] == "p/m" and found["limits"] > 4
    assert found["learnt"]["precision"] > found["naive"]["precision"]
    assert found["learnt"]["lead_seconds"] > 20
    text = cli("forecast", "--replay").stdout
    assert [line.split()[:2] for line in text.splitlines()[1:3]] == [["p/m", "learnt"], ["p/m", "naive"]]
    assert max(map(len, text.splitlines())) <= 80
    limited(cli, 500.0)
    assert cli.json("forecast", "--replay")["too_few_limits"] == {"p/m": 1}


def test_a_name_in_the_replay_moves_no_cursor(cli: Cli) -> None:
    limited(cli, 500.0, model="p/\x1b[2Jm\u202e")
    text = cli("forecast", "--replay").stdout
    assert r"p/\x1b[2Jm\u202e: 1 limit" in text and text.replace("\n", "").isprintable()
