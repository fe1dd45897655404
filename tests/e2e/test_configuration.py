"""Tests of edits of the configuration and of `retry.…` beside a real OpenCode, judged by the provider's record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.opencode import NEWEST, OLDEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, error, limited, ok

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"


def edit(daemon: Daemon, home: Home, **settings: Any) -> None:
    """Edit the configuration and wait until the daemon uses it."""
    before = len(daemon.journal("configured"))
    (home.config_dir / "rate-limit-config.json").write_text(json.dumps({"rateLimit": settings}))
    daemon.wait_journal("configured", before + 1)


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_with_delegation_no_wait_is_sat_through_and_edits_hold_at_once(
    version: str, home: Home, provider: Provider
) -> None:
    no_words = error(418, body=json.dumps({"error": {"message": "my gateway says no"}}))
    provider.script(PRIMARY, limited(2), limited(25), no_words, ok("the primary answers"))
    provider.script(FALLBACK, ok("delegated"))
    provider.script(THIRD, ok("never waits"), ok("by my own words"))
    names = {"claude-primary": PRIMARY, "claude-fallback": FALLBACK, "third": THIRD}
    with Daemon(home, {"claude-primary": "claude-fallback"}, models=names) as daemon, Serve(version, home) as serve:

        def prompt(text: str, answer: str) -> None:
            daemon.ocwatch("clear", "--all")
            session = serve.create_session()
            serve.prompt_async(session, text, model=PRIMARY)
            serve.wait_answer(session, answer, timeout=60)
            serve.wait_status(session, "idle")
            assert len(serve.user_messages(session)) == 1

        def asked(text: str, model: str) -> int:
            return sum(request.count(text) > 0 for request in provider.requests(model))

        chain: dict[str, Any] = {"fallbackChain": {"claude-primary": "claude-fallback"}, "models": names}
        edit(daemon, home, **chain, retry={"delegate_to_plugin": True})
        prompt("Two seconds are too long", "delegated")
        assert [asked("Two seconds are too long", model) for model in (PRIMARY, FALLBACK)] == [1, 1]

        (home.config_dir / "rate-limit-config.json").write_text('{"rateLimit": {"mode": "of"}}')
        wait_until(lambda: "the last valid configuration is used" in daemon.ocwatch("status").stdout, 60)
        chain["fallbackChain"] = {"claude-primary": "third", "claude-fallback": "third"}
        edit(daemon, home, **chain, retry={"enabled": False}, errorPatterns=["my gateway says no"])
        wait_until(lambda: "# " not in daemon.ocwatch("status").stdout, 60, why="nothing to complain of")
        prompt("Nor are twenty-five waited for", "never waits")
        prompt("Limited in words of my own", "by my own words")
        assert asked("Limited in words of my own", PRIMARY) == 1
        assert daemon.journal("wait") == []
        assert [moved["target"] for moved in daemon.wait_journal("moved", 3)] == [FALLBACK, THIRD, THIRD]
