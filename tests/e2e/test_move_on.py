"""Failures that are no limits move a turn only if the configuration names them, and only after a repeat."""

from __future__ import annotations

import pytest

from tests.support.daemon import Daemon, settle
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, error, ok

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
PROMPT = "Say it once"
ALL = ["limit", "overload", "server-error", "not-found", "auth", "stall"]
SERVER = error(500, {"error": {"message": "Internal server error", "type": "server_error"}})
LOGIN = error(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
MISSING = error(404, {"error": {"message": "The model does not exist", "code": "model_not_found"}})


@pytest.mark.parametrize("answer", [SERVER, LOGIN, MISSING], ids=["server-error", "auth", "not-found"])
@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_what_fails_twice_is_moved(version: str, answer: Answer, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, ok("ready"), answer)
    provider.script(FALLBACK, ok("answered elsewhere"))
    with Daemon(home, moveOn=ALL) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Get ready", model=PRIMARY)
        serve.wait_answer(session, "ready")
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        settle(2)  # in which it begins to follow the events
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "answered elsewhere", timeout=60)
        # Of these, OpenCode tries only a server error again by itself: 4 s after the second one, on a busy machine
        # before the move.
        third = answer is SERVER and len(provider.requests(PRIMARY)) == 4
        assert [r.model for r in provider.requests()] == [PRIMARY] * (4 if third else 3) + [FALLBACK]
        assert [r.count(PROMPT) for r in provider.requests()] == [0, 1, 1, 1, *([1] if third else [])]
        assert len(serve.user_messages(session)) == 2
        assert daemon.wait_cooldown(PRIMARY)["strikes"] == 0


def test_by_default_it_stays(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, LOGIN)
    with Daemon(home) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        provider.wait_requests(PRIMARY)
        settle(4)
        assert len(provider.requests()) == 1
        assert daemon.journal("claim") == []
        assert daemon.cooldown(PRIMARY) is None


WEEKS = error(502, "Bad Gateway", {"Retry-After": "1814400"})


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_session_that_opencode_has_frozen_is_shown_with_the_command_that_moves_it(
    version: str, home: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, WEEKS)
    provider.script(FALLBACK, ok("answered elsewhere"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        settle(2)  # in which it begins to follow the events
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        daemon.wait_journal("frozen")
        command = f"ocwatch redirect {session}"
        wait_until(lambda: command in daemon.ocwatch("status").stdout, 30, why="status to name the command")
        assert command in daemon.ocwatch("doctor").stdout
        assert daemon.cooldown(PRIMARY) is None
        assert provider.requests(FALLBACK) == []
        assert daemon.ocwatch("redirect", session).returncode == 0
        serve.wait_answer(session, "answered elsewhere")
        assert len(serve.user_messages(session)) == 1


def test_where_move_on_names_it_a_frozen_session_is_moved(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, WEEKS)
    provider.script(FALLBACK, ok("answered elsewhere"))
    with Daemon(home, moveOn=ALL) as daemon, Serve(NEWEST, home) as serve:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        settle(2)  # in which it begins to follow the events
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "answered elsewhere")
        assert len(provider.requests(PRIMARY)) == 1
        assert daemon.wait_cooldown(PRIMARY)["strikes"] == 0
