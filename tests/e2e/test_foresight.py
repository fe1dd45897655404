"""Tests of prevention on real OpenCode: headers report the rest, the next prompt is redirected, none is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.support.answers import Answer, Request
from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Ok, Provider, limited

pytestmark = pytest.mark.e2e

PRIMARY, CONFIGURED, FALLBACK = "mock/primary", "mock/second", "mock2/fallback"
ALLOWED = 3


class Allowance:
    """A script that allows some requests within `seconds`, with headers that say so, and then sends 429."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.resets, self.left = seconds, 0.0, ALLOWED

    def __call__(self, request: Request) -> Answer:
        if time.time() >= self.resets:
            self.resets, self.left = time.time() + self.seconds, ALLOWED
        if self.left == 0:
            return limited(3600)
        self.left -= 1
        headers = {
            "anthropic-ratelimit-requests-limit": str(ALLOWED),
            "anthropic-ratelimit-requests-remaining": str(self.left),
            "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(self.resets, UTC).isoformat(),
        }
        # The last one is slow: it still runs while new prompts are already redirected.
        return Ok(f"answer with {self.left} left", seconds=8 if self.left == 0 else 0, pieces=16, headers=headers)


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_the_next_prompt_goes_elsewhere_before_the_limit_and_comes_back_after_it(
    version: str, home: Home, provider: Provider
) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    settings = {"prevent": True, "limits": {CONFIGURED: [{"requests": 1, "window": 90_000}]}}
    chain = {PRIMARY: FALLBACK, CONFIGURED: FALLBACK}
    with Daemon(home, chain, forecast=settings) as daemon, Serve(version, home) as serve:
        allowance = Allowance(80)
        provider.script(PRIMARY, allowance)
        session, other, told, later = (serve.create_session() for _ in range(4))
        serve.prompt_async(told, "The only one that the configuration allows within 90 s", model=CONFIGURED)
        for left in (2, 1):
            serve.prompt_async(session, f"One of those with {left} left", model=PRIMARY)
            serve.wait_answer(session, f"answer with {left} left")
            serve.wait_status(session, "idle")
        serve.prompt_async(session, "The last one that is allowed", model=PRIMARY)
        entry = daemon.wait_cooldown(PRIMARY)
        assert (entry["reset_source"], entry["strikes"], entry["target"]["model"]) == ("forecast", 0, FALLBACK)
        assert abs(epoch(entry["until"]) - allowance.resets) < 1.5
        # A running turn is left alone; a new prompt is redirected.
        serve.prompt_async(other, "In the meantime", model=PRIMARY)
        serve.wait_answer(other, "answer of mock2/fallback")
        serve.wait_answer(session, "answer with 0 left")
        serve.wait_status(session, "idle")
        serve.prompt_async(session, "And the next one", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
        # The same with a limit that only the configuration contains.
        serve.wait_answer(told, f"answer of {CONFIGURED}")
        limit = daemon.wait_cooldown(CONFIGURED)
        assert (limit["reset_source"], limit["target"]["model"]) == ("forecast", FALLBACK)
        serve.prompt_async(later, "The one after it", model=CONFIGURED)
        serve.wait_answer(later, "answer of mock2/fallback")
        assert len(provider.requests(CONFIGURED)) == 1
        # All commands report it.
        listed = daemon.ocwatch("status").stdout
        assert "about to be limited mock2/fallback" in " ".join(listed.split())
        assert "3 of 3 requests (exact)" in " ".join(listed.split())
        assert "new prompts go to a fallback until" in " ".join(daemon.ocwatch("forecast").stdout.split())
        assert "mock/primary is about to be limited" in daemon.ocwatch("history").stdout
        why = " ".join(daemon.ocwatch("explain", PRIMARY).stdout.split())
        assert "exact: 0 of 3 requests left; a prompt takes 1" in why
        assert "choice -> mock2/fallback: available" in why
        configured = " ".join(daemon.ocwatch("explain", CONFIGURED).stdout.split())
        assert "configured: 0 of 1 requests within 1m 30s left; a prompt takes 1" in configured
        assert daemon.ocwatch("pick", PRIMARY).stdout.strip() == FALLBACK
        print(listed, why, configured, sep="\n")
        # It ends at the reset, and the primary answers again.
        settle(max(allowance.resets + 0.5 - time.time(), 0))
        serve.wait_status(session, "idle")
        serve.prompt_async(session, "After the reset", model=PRIMARY)
        serve.wait_answer(session, "answer with 2 left")
        assert {request.status for request in provider.requests()} == {200}
        wait_until(lambda: daemon.ocwatch("status").stdout.count("No model is cooling"), 60, why="a free register")
        told_of = sorted((line["what"], line["model"]) for line in daemon.journal() if "model" in line)
        # A forecast lasts for at least 30 s; if there is room before that, it is withdrawn.
        assert [line for line in told_of if line != ("eased", CONFIGURED)] == [
            ("foreseen", PRIMARY),
            ("foreseen", CONFIGURED),
        ]
        assert not (daemon.state / "plugin-errors.log").exists()


class Plan:
    """A script that reports 96 % of a plan window in every answer until `resets`, and 4 % of the next one later."""

    def __init__(self, seconds: float) -> None:
        self.resets = float(int(time.time() + seconds))

    def __call__(self, request: Request) -> Answer:
        over = time.time() >= self.resets
        headers = {
            "anthropic-ratelimit-unified-5h-utilization": "0.04" if over else "0.96",
            "anthropic-ratelimit-unified-5h-reset": f"{self.resets + 18_000 * over:.0f}",
        }
        return Ok("answer of the next window" if over else "answer at 96 %", headers=headers)


def test_a_plan_is_left_at_95_percent_until_its_window_resets(home: Home, provider: Provider) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    with (
        Daemon(home, {PRIMARY: FALLBACK}, forecast={"prevent": True, "leaveAt": 95}) as daemon,
        Serve(NEWEST, home) as serve,
    ):
        plan = Plan(60)
        provider.script(PRIMARY, plan)
        session = serve.create_session()
        serve.prompt_async(session, "The one that fills the plan", model=PRIMARY)
        serve.wait_answer(session, "answer at 96 %")
        entry = daemon.wait_cooldown(PRIMARY)
        assert (entry["reset_source"], entry["strikes"], entry["target"]["model"]) == ("forecast", 0, FALLBACK)
        assert abs(epoch(entry["until"]) - plan.resets) < 1.5
        serve.wait_status(session, "idle")
        serve.prompt_async(session, "In the meantime", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
        assert "mock 5h 96 %" in " ".join(daemon.ocwatch("status").stdout.split())
        assert "5h 96%" in daemon.ocwatch("statusline").stdout
        why = " ".join(daemon.ocwatch("explain", PRIMARY).stdout.split())
        assert "plan: 96 % of the window 5h used, leaveAt is 95 %" in why
        settle(max(plan.resets + 0.5 - time.time(), 0))
        serve.wait_status(session, "idle")
        serve.prompt_async(session, "After the reset", model=PRIMARY)
        serve.wait_answer(session, "answer of the next window")
        assert {request.status for request in provider.requests()} == {200}
        assert not (daemon.state / "plugin-errors.log").exists()
