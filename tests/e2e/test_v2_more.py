"""More tests of a limited real OpenCode 2: attachments, other SDKs, a restart, its TUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.homes import DEFAULT_PROVIDERS, GOOGLE, ProviderSpec
from tests.support.opencode2 import Home2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Provider, error, limited, midstream, ok
from tests.support.reaper import sweep
from tests.support.tui import Tui

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_attachments_go_along(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "What is this?", files=[{"uri": f"data:image/png;base64,{PIXEL}", "name": "a.png"}])
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        (asked,) = provider.requests(FALLBACK)
        assert json.dumps(asked.body).count(PIXEL) == 1
        (prompt,) = service.user_messages(session)
        assert [file["data"] for file in prompt["files"]] == [PIXEL]


def test_a_provider_through_the_ai_sdk_whose_turn_ends_at_once(tmp_path: Path, provider: Provider) -> None:
    google = ProviderSpec(("primary",), GOOGLE, f"{provider.url}/p/mock/v1beta")
    home = Home2(tmp_path / "home", provider.url, providers={**DEFAULT_PROVIDERS, "mock": google})
    quota = {
        "error": {
            "code": 429,
            "message": "Resource has been exhausted (e.g. check quota).",
            "status": "RESOURCE_EXHAUSTED",
        }
    }
    provider.script(PRIMARY, error(429, quota, {"Retry-After": "3600"}))
    try:
        with Service2(home) as service, Daemon(home) as daemon:
            session = service.create_session()
            service.prompt(session, "Hello")
            service.wait_answer(session, "answer of mock2/fallback")
            daemon.wait_journal("moved")
            assert provider.requests(FALLBACK)[0].count("Hello") == 1
    finally:
        sweep(home.root)


def test_a_service_that_is_restarted_in_the_wait(home2: Home2, provider: Provider) -> None:
    for model in (PRIMARY, FALLBACK, "mock3/third"):
        provider.script(model, limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        daemon.wait_journal("exhausted")
        before = service.pid
        service.stop()
        service.start()
        assert service.pid != before
        wait_until(
            lambda: [it["pid"] for it in daemon.heartbeat()["endpoints"]] == [service.pid], 60, why="the new service"
        )
        provider.script(FALLBACK, ok())
        assert daemon.ocwatch("clear", FALLBACK).returncode == 0
        service.wait_answer(session, "answer of mock2/fallback")
        assert len(service.user_messages(session)) == 1


def test_the_tui_shows_the_answer_and_names_the_model(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Daemon(home2) as daemon, Tui("2", home2, program=(str(home2.bin / "opencode"),)) as tui:
        tui.wait_screen("primary")
        tui.say("Hello from the screen")
        # The preview's TUI ignores a key that is pressed while it still connects.
        wait_until(lambda: provider.requests(PRIMARY) or tui.keys("Enter"), 60, 1.0, "the prompt to be sent")
        tui.wait_screen("answer of mock2/fallback", 90)
        daemon.wait_journal("moved")
        (asked,) = provider.requests(FALLBACK)
        assert asked.count("Hello from the screen") == 1


def test_an_answer_that_breaks_off_in_a_limit_is_begun_again(home2: Home2, provider: Provider) -> None:
    broken = {"error": {"message": "Rate limit reached for requests", "type": "rate_limit_error"}}
    provider.script(PRIMARY, midstream(broken, "Half an answ"))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        assert len(service.user_messages(session)) == 1


def test_a_bad_request_that_quotes_a_limit_is_none(home2: Home2, provider: Provider) -> None:
    quoted = {"error": {"message": "The prompt 'rate limit exceeded' is not allowed", "type": "invalid_request_error"}}
    provider.script(PRIMARY, error(400, quoted))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        wait_until(lambda: len(provider.requests(PRIMARY)) >= 2 or session not in service.active(), 30)
        service.interrupt(session)
        assert daemon.cooldown(PRIMARY) is None
        assert daemon.journal("claim") == []
        assert provider.requests(FALLBACK) == []
