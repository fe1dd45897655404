"""Tests of a real OpenCode 2: use, money, capabilities, and the configuration in its new format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.homes import DEFAULT_PROVIDERS, ProviderSpec
from tests.support.opencode2 import Home2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Ok, Provider, limited
from tests.support.reaper import sweep

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
PRICES = {"mock": {"primary": (300, 1500)}, "mock2": {"fallback": (100, 100)}}
"""Dollars per million tokens. Every answer of the fake provider takes 100 tokens and gives 10."""


def priced(spec: ProviderSpec, prices: dict[str, tuple[int, int]], **limits: int) -> ProviderSpec:
    cost = {
        model: {"cost": [{"input": taken, "output": given, "cache": {"read": 0, "write": 0}}]}
        for model, (taken, given) in prices.items()
    }
    return ProviderSpec(spec.models, about=cost)


@pytest.fixture
def paid(tmp_path: Path, provider: Provider) -> Iterator[Home2]:
    providers = {name: priced(spec, PRICES.get(name, {})) for name, spec in DEFAULT_PROVIDERS.items()}
    home = Home2(tmp_path / "home", provider.url, providers=providers)
    yield home
    sweep(home.root)


def document(home: Home2, *command: str) -> dict[str, Any]:
    done = ocwatch(home, *command, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_money_is_counted_and_a_spent_budget_prefers_the_free_model(paid: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(paid) as service, Daemon(paid, {PRIMARY: [FALLBACK, THIRD]}, budget=0.01) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        first, second = service.create_session(), service.create_session()
        service.prompt(first, "While there is money")
        service.wait_answer(first, f"answer of {FALLBACK}")
        left = daemon.state / "budget.json"
        wait_until(lambda: left.exists() and json.loads(left.read_text())["over_budget"], 60, why="the budget's end")
        told = json.loads(left.read_text())
        assert (told["spent"], FALLBACK in told["over_budget"]) == (pytest.approx(0.011), True)
        service.prompt(second, "And when it is spent")
        service.wait_answer(second, f"answer of {THIRD}")
        wait_until(lambda: len(daemon.journal("moved")) == 2, 60, why="both moves")
        assert document(paid, "report")["money"]["moved_dollars"] == pytest.approx(0.011)


def test_use_is_read_from_its_message_store(home2: Home2, provider: Provider) -> None:
    members = [PRIMARY, FALLBACK]
    pools = {"both": {"members": members, "strategy": "least-used"}}
    provider.script(PRIMARY, Ok("the primary", used=30_000))
    with Service2(home2) as service, Daemon(home2, {}, pools=pools) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "the primary")
        service.wait_idle(session)

        def loads() -> dict[str, float]:
            path = daemon.state / "blacklist.json"
            found = json.loads(path.read_text()).get("pools", {}) if path.exists() else {}
            return {entry["model"]: entry["load"] for entry in found.get("both", {}).get("members", [])}

        found = wait_until(lambda: loads().get(PRIMARY) and loads(), 60, why="the use to be published")
        assert found[PRIMARY] > found[FALLBACK]
        assert daemon.ocwatch("pick", "both").stdout.strip() == FALLBACK
    assert ocwatch(home2, "forecast").returncode == 0


def test_a_fallback_that_is_too_small_for_the_session_is_passed_over(tmp_path: Path, provider: Provider) -> None:
    small = ProviderSpec(("fallback",), about={"fallback": {"limit": {"context": 3000, "output": 1000}}})
    home = Home2(tmp_path / "home", provider.url, providers={**DEFAULT_PROVIDERS, "mock2": small})
    provider.script(PRIMARY, Ok("the primary", used=50_000), limited(3600))
    try:
        with Service2(home) as service, Daemon(home) as daemon:
            wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
            session = service.create_session()
            service.prompt(session, "Hello")
            service.wait_answer(session, "the primary")
            service.wait_idle(session)
            service.prompt(session, "And on")
            service.wait_answer(session, f"answer of {THIRD}")
            (moved,) = daemon.wait_journal("moved")
            assert moved["target"] == THIRD
            assert provider.requests(FALLBACK) == []
            said = daemon.ocwatch("explain", session).stdout
            assert FALLBACK in said
            assert THIRD in daemon.ocwatch("history").stdout
    finally:
        sweep(home.root)


def test_a_starter_configuration_is_made_from_the_new_shape(home2: Home2) -> None:
    assert ocwatch(home2, "config", "init", "--write").returncode == 0
    shown = document(home2, "config", "show")
    assert FALLBACK in json.dumps(shown)
    written = (home2.config_dir / "rate-limit-config.json").read_text()
    assert PRIMARY in written
    assert FALLBACK in written
