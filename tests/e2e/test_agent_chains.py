"""Tests of a chain for one agent on real OpenCode, judged by the provider's record of requests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.provider import Provider, limited, ok, tool

pytestmark = pytest.mark.e2e

PRIMARY, SECOND, FALLBACK, THIRD = "mock/primary", "mock/second", "mock2/fallback", "mock3/third"


@pytest.fixture
def armed(home: Home) -> Home:
    assert ocwatch(home, "plugin", "install").returncode == 0
    return home


@pytest.mark.parametrize("own", ["agent:plan", f"agent:plan@{PRIMARY}", None])
def test_a_limited_agent_moves_to_its_own_chain_and_others_to_the_models(
    own: str | None, armed: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    chain: dict[str, Any] = {PRIMARY: FALLBACK} | ({own: THIRD} if own else {})
    plans, others = (THIRD, FALLBACK) if own else (FALLBACK, FALLBACK)
    with Daemon(armed, chain) as daemon, Serve(NEWEST, armed) as serve:
        running, later, other = (serve.create_session() for _ in range(3))
        serve.prompt_async(running, "Plan the running turn", model=PRIMARY, agent="plan")
        serve.wait_answer(running, f"answer of {plans}")
        (moved,) = daemon.wait_journal("moved")
        assert moved["target"] == plans
        serve.wait_status(running, "idle")
        serve.prompt_async(later, "Plan the next prompt", model=PRIMARY, agent="plan")
        serve.wait_answer(later, f"answer of {plans}")
        serve.prompt_async(other, "Build something", model=PRIMARY, agent="build")
        serve.wait_answer(other, f"answer of {others}")
        assert daemon.ocwatch("pick", PRIMARY, "--agent", "plan").stdout == f"{plans}\n"
        assert daemon.ocwatch("pick", PRIMARY).stdout == f"{others}\n"
        assert {m["info"]["agent"] for m in serve.user_messages(later)} == {"plan"}

    def asked(text: str) -> list[str]:
        models = (PRIMARY, FALLBACK, THIRD)
        return [model for model in models for request in provider.requests(model) if request.count(text)]

    assert asked("Plan the running turn") == [PRIMARY, plans]
    assert asked("Plan the next prompt") == [plans]
    assert asked("Build something") == [others]


@pytest.mark.parametrize("own", [True, False])
def test_a_limited_subagent_goes_on_by_its_own_chain(own: bool, armed: Home, provider: Provider) -> None:
    armed.agents = {**armed.agents, "helper": {"model": SECOND, "mode": "subagent", "description": "helps"}}
    armed.write_config()
    call = tool("task", description="help", prompt="Count the files", subagent_type="helper")
    provider.script(PRIMARY, call, call, ok("the parent is done"))
    provider.script(SECOND, limited(3600))
    target, other = (THIRD, FALLBACK) if own else (FALLBACK, THIRD)
    # First without the agent's chain, for comparison. Then the model has no chain itself: the agent's is enough.
    chain = {"agent:helper": THIRD} if own else {SECOND: FALLBACK}
    with Daemon(armed, chain), Serve(NEWEST, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Let somebody count", model=PRIMARY)
        serve.wait_answer(session, "the parent is done", timeout=90)
    assert [request.count("Count the files") > 0 for request in provider.requests(target)] == [True]
    assert provider.requests(other) == []
    assert len(provider.requests(SECOND)) == 1
