"""Tests of the recipes in docs/recipes.md on real OpenCode. They use the page's own text, so that it cannot differ.

Only names of models and of a program are replaced by those of the test, and the two minutes of a stall by seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_foresight import Plan
from tests.e2e.test_parked import Until, spent
from tests.support.daemon import Daemon, ocwatch, settle
from tests.support.homes import DEFAULT_PROVIDERS, ProviderSpec
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, Shape, Stall, error, in_turn, limited, ok, tool

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
PRIMARY, SECOND, FALLBACK, THIRD, LOCAL = "mock/primary", "mock/second", "mock2/fallback", "mock3/third", "local/coder"
WORK, PRIVATE = "work/sonnet", "private/sonnet"
NAMES = {
    "anthropic/claude-sonnet-4-5": PRIMARY,
    "anthropic/claude-haiku-4-5": SECOND,
    "openai/gpt-5": FALLBACK,
    "zhipuai/glm-4.6": THIRD,
    "ollama/qwen3-coder:30b": LOCAL,
    "work/claude-sonnet-4-5": WORK,
    "home/claude-sonnet-4-5": PRIVATE,
}
"""The models of the fake provider that replace those of the page."""
PROGRAM = "/home/me/bin/tell-my-phone"


def recipes() -> dict[str, str]:
    """Return the blocks of the page by their headings."""
    sections = PAGE.read_text().split("\n## ")[1:]
    blocks = {
        section.partition("\n")[0]: re.findall(r"```json\n(.*?)\n```", section, re.DOTALL) for section in sections
    }
    assert {len(found) for found in blocks.values()} == {1}
    return {heading: found[0] for heading, found in blocks.items()}


RECIPES = recipes()


@pytest.fixture
def armed(home: Home) -> Home:
    """A home with all models of the recipes and the companion plugin."""
    one = ProviderSpec(("sonnet",))
    home.providers = {**DEFAULT_PROVIDERS, "local": ProviderSpec(("coder",)), "work": one, "private": one}
    home.write_config()
    assert ocwatch(home, "plugin", "install").returncode == 0
    return home


def settings_of(heading: str, home: Home) -> dict[str, Any]:
    """Return the settings of a recipe with the names of the test."""
    text = RECIPES[heading].replace(PROGRAM, str(home.root / "program"))
    for name, ours in NAMES.items():
        text = text.replace(f'{name}"', f'{ours}"')
    settings: dict[str, Any] = json.loads(text)["rateLimit"]
    return settings


@contextmanager
def running(heading: str, home: Home, *, warm: bool = False, **replaced: Any) -> Iterator[tuple[Daemon, Serve]]:
    """Run a daemon with a recipe, and OpenCode. The values in `replaced` replace those of the recipe.

    If `warm` is true, OpenCode has answered a prompt before the daemon starts. On a busy machine, its very first
    request may leave later than a stall is recognized.
    """
    settings = settings_of(heading, home)
    for name, value in replaced.items():
        assert settings[name].keys() >= value.keys()
        settings[name] |= value
    daemon = Daemon(home, settings.pop("fallbackChain", {}), **settings)
    with Serve(NEWEST, home) as serve:
        if warm:
            ask(serve, "Get ready", PRIMARY, f"answer of {PRIMARY}")
        with daemon:
            wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
            yield daemon, serve


def ask(serve: Serve, text: str, model: str, answer: str, **more: str) -> str:
    """Send a prompt in a new session, wait for the answer, and return the session."""
    session = serve.create_session()
    serve.prompt_async(session, text, model=model, **more)
    serve.wait_answer(session, answer)
    assert len(serve.user_messages(session)) == 1
    return session


def asked(provider: Provider, text: str) -> list[str]:
    """Return the models that were asked with this text, in this order."""
    return [request.model for request in provider.requests() if request.count(text)]


def test_there_are_ten_of_at_most_five_lines_and_each_is_valid(armed: Home) -> None:
    assert len(RECIPES) == 10
    assert max(len(text.splitlines()) for text in RECIPES.values()) <= 5
    file = armed.root / "recipe.json"
    for heading, text in RECIPES.items():
        named = set(re.findall(r'["@]([a-z]+/[^"@/]+)"', text))
        assert named <= NAMES.keys(), heading
        file.write_text(json.dumps({"rateLimit": settings_of(heading, armed)}))
        found = json.loads(ocwatch(armed, "config", "check", str(file), "--json").stdout)["findings"]
        assert [one for one in found if "no fallback" not in one["message"]] == [], heading
        covered = not {"whenExhausted", "mode"} & json.loads(text)["rateLimit"].keys() and "pools" not in text
        assert not found if covered else True


def test_one_fallback_for_every_model(armed: Home, provider: Provider) -> None:
    for model in (PRIMARY, THIRD):
        provider.script(model, limited(3600))
    with running("One fallback for every model", armed) as (_, serve):
        ask(serve, "The first", PRIMARY, f"answer of {FALLBACK}")
        ask(serve, "The second", THIRD, f"answer of {FALLBACK}")
    assert asked(provider, "The first") == [PRIMARY, FALLBACK]
    assert asked(provider, "The second") == [THIRD, FALLBACK]


def test_a_local_model_as_the_last_resort(armed: Home, provider: Provider) -> None:
    for model in (PRIMARY, FALLBACK, THIRD):
        provider.script(model, limited(3600))
    with running("A local model as the last resort", armed) as (_, serve):
        ask(serve, "The first", PRIMARY, f"answer of {LOCAL}")
        ask(serve, "The second", THIRD, f"answer of {LOCAL}")
    assert asked(provider, "The first") == [PRIMARY, FALLBACK, LOCAL]
    assert asked(provider, "The second") == [THIRD, LOCAL]


def test_two_accounts_of_one_provider(armed: Home, provider: Provider) -> None:
    with running("Two accounts of one provider", armed) as (daemon, serve):
        published = daemon.state / "blacklist.json"
        wait_until(lambda: published.exists() and json.loads(published.read_text()).get("pools"), why="the pool")
        sessions = [ask(serve, f"Number {number}", WORK, "answer of ") for number in range(2)]
        accounts = [asked(provider, f"Number {number}")[0] for number in range(2)]
        assert sorted(accounts) == [PRIVATE, WORK]
        provider.script(WORK, limited(3600))
        session = sessions[accounts.index(WORK)]
        serve.wait_status(session, "idle")
        serve.prompt_async(session, "Once more", model=WORK)
        serve.wait_answer(session, f"answer of {PRIVATE}")
    assert asked(provider, "Once more") == [WORK, PRIVATE]


def test_wait_for_the_reset_instead_of_switching(armed: Home, provider: Provider) -> None:
    until = Until(12, spent, "on time")
    provider.script(PRIMARY, until)
    with running("Wait for the reset instead of switching", armed) as (daemon, serve):
        ask(serve, "Wait for me", PRIMARY, "on time")
        daemon.wait_journal("parked")
    late = [request for request in provider.requests() if request.wall > until.reset - 1]
    assert [(request.model, request.count("Wait for me")) for request in late] == [(PRIMARY, 1)]


def test_a_chain_for_one_agent_and_one_for_a_subagent(armed: Home, provider: Provider) -> None:
    armed.agents = {**armed.agents, "explore": {"model": SECOND, "mode": "subagent", "description": "helps"}}
    armed.write_config()
    call = tool("task", description="help", prompt="Count the files", subagent_type="explore")
    for model in (PRIMARY, SECOND):
        provider.script(model, limited(3600))
    parents = in_turn(call, call, ok("the parent is done"))  # after its limit, the parent calls the subagent again
    provider.script(FALLBACK, lambda request: parents(request) if request.count("Let a helper count") else ok())
    with running("A chain for one agent, and one for a subagent", armed) as (_, serve):
        ask(serve, "Let a helper count", FALLBACK, "the parent is done")
        ask(serve, "Plan this", PRIMARY, f"answer of {FALLBACK}", agent="plan")
        ask(serve, "Plan that", SECOND, f"answer of {THIRD}", agent="plan")
        ask(serve, "Build it", PRIMARY, f"answer of {THIRD}", agent="build")
    assert asked(provider, "Count the files") == [SECOND, LOCAL]
    assert asked(provider, "Plan this") == [PRIMARY, FALLBACK]
    assert asked(provider, "Plan that")[-1] == asked(provider, "Build it")[-1] == THIRD
    assert len(provider.requests(PRIMARY)) == 1


def test_server_errors_the_same_model_first_then_the_fallback(armed: Home, provider: Provider) -> None:
    provider.script(PRIMARY, error(500, {"error": {"message": "Internal server error", "type": "server_error"}}))
    with running("Server errors: the same model first, then the fallback", armed) as (daemon, serve):
        settle(2)  # in which the daemon begins to follow the events
        ask(serve, "Try it three times", PRIMARY, f"answer of {FALLBACK}")
        assert daemon.wait_cooldown(PRIMARY)["strikes"] == 0
    # OpenCode's own fourth attempt comes 8 s after the third one, on a busy machine before the move.
    assert asked(provider, "Try it three times") in [[PRIMARY] * times + [FALLBACK] for times in (3, 4)]


def test_an_answer_that_stalls(armed: Home, provider: Provider) -> None:
    with running("An answer that stalls for two minutes", armed, warm=True, stall={"after": 4000}) as (_, serve):
        settle(2)  # in which the daemon begins to follow the events
        provider.script(PRIMARY, Stall(Shape.TEXT))
        ask(serve, "Say something that lasts", PRIMARY, f"answer of {FALLBACK}")
    assert asked(provider, "Say something that lasts") == [PRIMARY, PRIMARY, FALLBACK]


def test_leave_a_plan_at_95_percent(armed: Home, provider: Provider) -> None:
    provider.script(PRIMARY, Plan(3600))
    with running("Leave a plan at 95 %", armed) as (daemon, serve):
        ask(serve, "The one that fills the plan", PRIMARY, "answer at 96 %")
        assert daemon.wait_cooldown(PRIMARY)["reset_source"] == "forecast"
        ask(serve, "In the meantime", PRIMARY, f"answer of {FALLBACK}")
    assert asked(provider, "In the meantime") == [FALLBACK]
    assert {request.status for request in provider.requests()} == {200}


def test_a_budget_for_the_day_and_a_free_model_after_it(armed: Home, provider: Provider) -> None:
    providers = armed.config()["provider"]
    providers["mock2"]["models"]["fallback"]["cost"] = {"input": 60_000, "output": 0}  # an answer takes 100 tokens
    armed.settings = {"provider": providers}
    armed.write_config()
    for model in (PRIMARY, THIRD):
        provider.script(model, limited(3600))
    with running("A budget for the day, and a free model after it", armed) as (daemon, serve):
        ask(serve, "While there is money", PRIMARY, f"answer of {FALLBACK}")
        left = daemon.state / "budget.json"
        wait_until(lambda: left.exists() and json.loads(left.read_text())["over_budget"], why="the budget to be spent")
        assert json.loads(left.read_text())["spent"] == pytest.approx(6.0)
        ask(serve, "And when it is spent", THIRD, f"answer of {LOCAL}")
    assert asked(provider, "While there is money") == [PRIMARY, FALLBACK]
    assert asked(provider, "And when it is spent") == [THIRD, LOCAL]


def test_only_be_notified(armed: Home, provider: Provider) -> None:
    program, notices = armed.root / "program", armed.root / "notices"
    program.write_text(f"#!/bin/sh\ncat >> {notices}\n")
    program.chmod(0o755)
    provider.script(PRIMARY, limited(3600))
    with running("Only be notified", armed) as (daemon, serve):
        session = serve.create_session()
        serve.prompt_async(session, "Stay here", model=PRIMARY)
        wait_until(lambda: notices.exists() and notices.read_text(), why="the notice")
        assert f"{PRIMARY} is limited" in notices.read_text()
        settle(2)
        assert serve.status()[session]["type"] == "retry"
        assert daemon.journal("claim") == []
    assert asked(provider, "Stay here") == [PRIMARY]
