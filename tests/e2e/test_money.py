"""Tests of OpenCode's own prices, and of the day's budget, on real OpenCode."""

from __future__ import annotations

import json

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited

pytestmark = pytest.mark.e2e

PRIMARY, SECOND, PAID, FREE = "mock/primary", "mock/second", "mock2/fallback", "mock3/third"
PRICES = {("mock", "primary"): (300, 1500), ("mock2", "fallback"): (100, 100)}
"""Dollars per million tokens. Every answer of the fake provider takes 100 tokens and gives 10."""


def priced(home: Home) -> None:
    """Write the prices into OpenCode's configuration."""
    providers = home.config()["provider"]
    for (name, model), (taken, given) in PRICES.items():
        providers[name]["models"][model]["cost"] = {"input": taken, "output": given}
    home.settings = {"provider": providers}
    home.write_config()


def test_above_the_budget_a_free_model_stands_in_and_the_report_says_what_it_cost(
    home: Home, provider: Provider
) -> None:
    priced(home)
    for model in (PRIMARY, SECOND):
        provider.script(model, limited(3600))
    chain = {PRIMARY: [PAID, FREE], SECOND: [PAID, FREE]}
    with Daemon(home, chain, budget=0.01) as daemon, Serve(NEWEST, home) as serve:
        first, second = serve.create_session(), serve.create_session()
        serve.prompt_async(first, "While there is money", model=PRIMARY)
        serve.wait_answer(first, f"answer of {PAID}")
        left = daemon.state / "budget.json"
        wait_until(
            lambda: left.exists() and json.loads(left.read_text())["over_budget"], 60, why="the budget to be spent"
        )
        told = json.loads(left.read_text())
        assert (told["budget"], told["spent"], told["over_budget"]) == (0.01, pytest.approx(0.011), [PRIMARY, PAID])
        # New prompts use the free model, and so does the next limited session.
        wait_until(lambda: (daemon.cooldown(PRIMARY) or {})["target"]["model"] == FREE, 60, why="another stand-in")
        assert daemon.ocwatch("pick", PRIMARY).stdout.strip() == FREE
        serve.prompt_async(second, "And when it is spent", model=SECOND)
        serve.wait_answer(second, f"answer of {FREE}")
        wait_until(lambda: len(daemon.journal("moved")) == 2, 60, why="both moves")
        said = " ".join(daemon.ocwatch("explain", second).stdout.split())
        assert f"{PAID}: paid, and today's budget is spent ($0.0110 of $0.0100)" in said
        assert len(provider.requests(PAID)) == 1
        money = json.loads(daemon.ocwatch("report", "--json").stdout)["money"]
        assert money["moved_dollars"] == pytest.approx(0.011)
        (paid, free) = money["targets"]
        assert (paid["model"], paid["instead_dollars_estimate"]) == (PAID, pytest.approx(0.045))
        assert paid["saved_dollars_estimate"] == pytest.approx(0.034)
        assert (free["model"], free["moved_dollars"], free["unpriced_turns"]) == (FREE, 0, 0)
        assert daemon.ocwatch("report", "--out", str(home.root / "page.html")).returncode == 0
        assert "$0.0340" in (home.root / "page.html").read_text()
        print(said, money, sep="\n")


@pytest.mark.parametrize("version", [MIDDLE, "1.1.65"])
def test_older_ones_tell_prices_and_costs_alike(version: str, home: Home, provider: Provider) -> None:
    """1.3 keeps its messages in SQLite, 1.1 in files."""
    priced(home)
    with Daemon(home, budget=0.01) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "What does it cost?", model=PAID)
        serve.wait_answer(session, f"answer of {PAID}")
        left = daemon.state / "budget.json"
        wait_until(
            lambda: left.exists() and json.loads(left.read_text())["over_budget"], 60, why="the budget to be spent"
        )
        told = json.loads(left.read_text())
        assert (told["spent"], told["over_budget"]) == (pytest.approx(0.011), [PRIMARY, PAID])
        known = json.loads((daemon.state / "prices.json").read_text())["prices"]
        assert known[PRIMARY] == {"input": 300, "output": 1500, "cache_read": 0, "cache_write": 0}
        money = json.loads(daemon.ocwatch("report", "--json").stdout)["money"]
        assert money["spent_dollars"] == pytest.approx(0.011)


def test_above_the_budget_a_pool_gives_its_paid_members_to_nobody_new(home: Home, provider: Provider) -> None:
    """The companion plugin continues after the daemon has ended, and obeys midnight without it."""
    priced(home)
    assert ocwatch(home, "plugin", "install").returncode == 0
    pool = {"pool": {"members": [PRIMARY, PAID, FREE], "strategy": "round-robin", "weights": {PRIMARY: 100}}}
    with Daemon(home, {SECOND: "pool"}, pools=pool, budget=0.01) as daemon, Serve(NEWEST, home) as serve:

        def answered(session: str, asked: str = PRIMARY) -> str:
            before = len(serve.messages(session))
            serve.prompt_async(session, "A prompt", model=asked)
            wait_until(lambda: len(serve.messages(session)) == before + 2, 60, why="an answer")
            serve.wait_status(session, "idle")
            last = serve.messages(session)[-1]["info"]
            return f"{last['providerID']}/{last['modelID']}"

        def new(asked: str = PRIMARY) -> str:
            return answered(serve.create_session(), asked)

        register, left = daemon.state / "blacklist.json", daemon.state / "budget.json"
        wait_until(lambda: register.exists() and "pools" in json.loads(register.read_text()), 60, why="the pool")
        resident, named = serve.create_session(), serve.create_session()
        assert answered(resident) == PRIMARY  # $0.045
        wait_until(lambda: left.exists() and PAID in json.loads(left.read_text())["over_budget"], 60, why="the budget")
        # A new session gets the member without a price; one that has a member or names one keeps it.
        assert [new() for _ in range(3)] == [FREE] * 3
        assert (answered(resident), answered(named, PAID), answered(named, PAID)) == (PRIMARY, PAID, PAID)
        assert daemon.ocwatch("pick", "pool").stdout.strip() == FREE
        assert daemon.ocwatch("block", SECOND, "--for", "1h").returncode == 0
        assert (new(SECOND), answered(resident, SECOND)) == (FREE, FREE)
        # In the next run the budget is in force at once and is not reported again; without a daemon it lasts until
        # midnight.
        (told,) = daemon.wait_journal("budget")
        daemon.stop()
        before = json.loads(left.read_text())["time"]
        daemon.start()
        assert new() == FREE
        wait_until(lambda: json.loads(left.read_text())["time"] > before, 60, why="another look at what was spent")
        daemon.stop()
        assert daemon.journal("budget") == [told]
        assert new() == FREE
        left.write_text(json.dumps({**json.loads(left.read_text()), "until": told["time"]}))  # midnight
        assert new() == PRIMARY
        assert not (daemon.state / "plugin-errors.log").exists()
