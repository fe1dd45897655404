"""Tests of pools at the command line: a configuration and a blacklist give this member, these entries, these errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocwatchd.cli.commands.redirect import Job, MoveOptions, choose_target
from ocwatchd.config import Config
from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.pools import FIRST_HEALTHY, Pool
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.policy import Policy
from tests.cli.conftest import Cli, at, resting

POOL: dict[str, Any] = {"sonnet": {"members": ["work/m", "home/m"], "strategy": "first-healthy"}}


@pytest.mark.parametrize(
    ("register", "asked", "picked"),
    [
        ({}, "sonnet", "work/m"),
        ({}, "alias", "work/m"),
        ({"work/m": resting()}, "sonnet", "home/m"),
        ({"work/m": resting()}, "work/m", "home/m"),
        ({"work/m": resting(), "home/m": resting()}, "sonnet", "local/m"),
        ({"work/m": resting(), "home/m": resting(), "local/m": resting()}, "sonnet", None),
        ({"x/y": resting(target={"model": "work/m", "pool": "sonnet"}), "work/m": resting()}, "x/y", "home/m"),
    ],
)
def test_pick(cli: Cli, register: dict[str, Any], asked: str, picked: str | None) -> None:
    cli.configure(pools=POOL, models={"alias": "sonnet"}, fallbackChain={"sonnet": "local/m"})
    cli.register(**register)
    done = cli("pick", asked)
    assert (done.returncode, done.stdout) == ((0, f"{picked}\n") if picked else (75, "")), done.stderr


@pytest.mark.parametrize(
    ("over_budget", "register", "picked", "cooling"),
    [
        (["work/m"], {}, "home/m", False),
        (["work/m", "home/m"], {}, "work/m", False),  # only users use the pool's name
        (["work/m", "home/m"], {"work/m": resting()}, "home/m", False),
        (["work/m"], {"home/m": resting()}, "work/m", False),
        (["work/m"], {"work/m": resting(), "home/m": resting()}, "local/m", True),
        (["work/m", "local/m"], {"work/m": resting(), "home/m": resting()}, None, True),
    ],
)
def test_above_the_budget_the_members_without_a_price_come_first(
    cli: Cli, over_budget: list[str], register: dict[str, Any], picked: str | None, cooling: bool
) -> None:
    program = cli.paths.home / "opencode"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    cli.configure(
        pools=POOL, fallbackChain={"sonnet": "local/m"}, budget=1, launcher={"opencode": str(program)}, maxDelay=0
    )
    cli.register(**register)
    left = {"version": 1, "until": at(3600), "budget": 1, "spent": 2, "over_budget": over_budget}
    cli.paths.budget.write_text(json.dumps(left))
    told = cli.json("pick", "sonnet", code=0 if picked else 75)
    assert (told["model"], told["cooling"]) == (picked, cooling)
    launched = cli("run", "--", "--print-env", "run", "-m", "sonnet", "hi")
    assert f"opencode run -m {picked or 'work/m'} hi" in launched.stdout, launched


@pytest.mark.parametrize(
    ("spent", "prices", "wanted"),
    [
        (0.5, {"work/m": Price(1)}, "work/m"),
        (2.0, {"work/m": Price(1)}, "home/m"),
        (2.0, {"work/m": Price(1), "home/m": Price(1)}, "work/m"),
    ],
)
def test_redirected_to_a_pool_above_the_budget(spent: float, prices: dict[str, Price], wanted: str) -> None:
    view = SessionSnapshot(
        "ses_1", "/a", Endpoint(TcpAddress("127.0.0.1", 1)), SessionState.RETRY, model=ModelRef("x", "y")
    )
    policy = Policy(pools={"sonnet": Pool("sonnet", POOL["sonnet"]["members"], FIRST_HEALTHY)}, budget=1.0)
    job = Job(view, view, day_budget=DayBudget(1.0, spent, prices))
    assert str(choose_target(MoveOptions(to="sonnet"), job, Config(policy), Cooldowns(()), ()).model) == wanted


def test_the_loads_that_the_daemon_wrote_count(cli: Cli) -> None:
    cli.configure(pools={"sonnet": {"members": ["work/m", "home/m"]}})
    members = [{"model": "work/m", "load": 7}, {"model": "home/m", "load": 0.5}, {"load": "x"}, 3]
    cli.register()
    path = cli.paths.blacklist
    path.write_text(json.dumps({**json.loads(path.read_text()), "pools": {"sonnet": {"members": members}, "odd": 1}}))
    assert {cli("pick", "sonnet").stdout for _ in range(3)} == {"home/m\n"}
    cli("block", "home/m", "--for", "1h")
    assert json.loads(path.read_text())["pools"]["odd"] == 1  # any other value stays
    assert cli("pick", "sonnet").stdout == "work/m\n"


def test_a_pool_is_blocked_and_cleared_as_one(cli: Cli) -> None:
    cli.configure(pools=POOL, fallbackChain={"*": "local/m"})
    blocked = cli.json("block", "sonnet", "--for", "1h")
    assert [entry["model"] for entry in blocked["members"]] == ["work/m", "home/m"]
    assert blocked["blocked"]["target"] == {"model": "local/m", "agent": None}
    assert cli("pick", "sonnet").stdout == "local/m\n"
    assert cli.json("clear", "sonnet")["cleared"] == ["work/m", "home/m"]
    assert cli("clear", "sonnet").stdout == "sonnet was not cooling down.\n"
    cli("block", "sonnet")
    assert cli("clear", "sonnet").stdout == "sonnet is cleared: work/m, home/m.\n"
    assert "did you mean 'sonnet'?" in cli("block", "sonet").stderr


@pytest.mark.parametrize(
    ("pools", "fault"),
    [
        ({"a/b": {"members": ["p/m"]}}, "a pool's name must not contain a slash"),
        ({"alias": {"members": ["p/m"]}}, "is also an alias"),
        ({"s": ["p/m"]}, "must be an object"),
        ({"s": {}}, "rateLimit.pools.s.members: must be a list of at least one model"),
        ({"s": {"members": ["p/*"]}}, "rateLimit.pools.s.members[0]: 'p/*' is neither"),
        ({"s": {"members": ["p/m", "alias"]}}, "alias is already in the pool"),
        ({"s": {"members": ["p/m"], "strategy": "random"}}, "'random' is not one of"),
        ({"s": {"members": ["p/m"], "weights": {"q/m": 1}}}, "q/m is not a member"),
        ({"s": {"members": ["p/m"], "weights": {"alias": 0}}}, "0 is not valid: use a number greater than 0"),
        ({"s": {"members": ["p/m"], "wieghts": {}}}, "did you mean 'weights'?"),
    ],
)
def test_what_is_wrong_with_a_pool_is_said(cli: Cli, pools: dict[str, Any], fault: str) -> None:
    cli.configure(pools=pools, models={"alias": "p/m"}, fallbackChain={"x/y": list(pools)})
    done = cli("config", "check")
    assert fault in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("rateLimit.") == 1  # one error, reported once
