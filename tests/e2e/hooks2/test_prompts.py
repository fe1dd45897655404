"""Tests of the plugin's `prompt` hook in a stand-in for the released OpenCode 2 (by contract only)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bun import pooled, rests
from tests.support.host2 import SEEN, Host2, prompt, session


@pytest.fixture
def host(tmp_path: Path) -> Host2:
    return Host2(tmp_path / "home")


def models(seen: dict[str, Any]) -> list[str]:
    return [request["model"] for request in seen["requests"]]


@pytest.mark.parametrize("model", ["mock/a", None], ids=["its own model", "the configured model"])
def test_a_prompt_for_a_cooling_model_makes_no_request_there(host: Host2, model: str | None) -> None:
    host.register({"mock/a": rests("mock2/b")})
    *_, end, seen = host.play(session(model), prompt(), SEEN)
    assert (end, models(seen)) == ("succeeded", ["mock2/b"])
    assert host.errors() == ""


def test_a_subagent_keeps_its_agent(host: Host2) -> None:
    host.register({"mock/a": rests("mock2/b", "claude-fallback")})
    *_, seen = host.play(session(), session(name="ses_2", parent="ses_1"), prompt(), prompt("ses_2"), SEEN)
    assert models(seen) == ["mock2/b", "mock2/b"]
    assert [seen["sessions"][name]["agent"] for name in ("ses_1", "ses_2")] == ["claude-fallback", "build"]


def test_nothing_is_done_for_a_free_model(host: Host2) -> None:
    host.register({"mock2/b": rests("mock/a")})
    *_, seen = host.play(session(), prompt(), SEEN)
    assert models(seen) == ["mock/a"]
    assert "session.model.selected" not in [event["type"] for event in seen["events"]]


def test_a_prompt_goes_back_when_its_own_model_is_free(host: Host2) -> None:
    host.register({"mock/a": rests("mock2/b")})
    free = {"act": "write", "path": str(host.state / "blacklist.json"), "text": '{"version": 1, "models": {}}'}
    *_, seen = host.play(session(), prompt(), free, prompt(), SEEN)
    assert models(seen) == ["mock2/b", "mock/a"]


def test_the_users_own_choice_of_the_fallback_stays(host: Host2) -> None:
    host.register({"mock/a": rests("mock2/b")})
    free = {"act": "write", "path": str(host.state / "blacklist.json"), "text": '{"version": 1, "models": {}}'}
    chosen = [{"act": "select", "session": "ses_1", "model": name} for name in ("mock/a", "mock2/b")]
    breathe = {"act": "breathe"}
    *_, seen = host.play(
        session(), prompt(), breathe, chosen[0], breathe, free, chosen[1], breathe, prompt(), prompt(), SEEN
    )
    assert models(seen) == ["mock2/b", "mock2/b", "mock2/b"]


def test_a_terminal_that_names_its_own_model_before_each_prompt_is_prevented_each_time(host: Host2) -> None:
    host.register({"mock/a": rests("mock2/b")})
    named = {"act": "select", "session": "ses_1", "model": "mock/a"}
    *_, seen = host.play(session(), prompt(), named, {"act": "breathe"}, prompt(), SEEN)
    assert models(seen) == ["mock2/b", "mock2/b"]


def test_new_sessions_are_spread_over_a_pool(host: Host2) -> None:
    host.state.mkdir(parents=True, mode=0o700)
    (host.state / "blacklist.json").write_text(json.dumps({"version": 1, "models": {}, "pools": pooled(a=9, b=9)}))
    *_, seen = host.play(session(), {"act": "breathe"}, prompt(), SEEN)
    assert models(seen) == ["mock3/c"]
