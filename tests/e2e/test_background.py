"""Tests that a background subagent survives whatever happens to the session that started it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from ocwatchd.opencode.sessions.message_store import SessionStore
from tests.support.daemon import Daemon, epoch, ocwatch
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, Script, limited, ok, slow, tool
from tests.support.smart import Smart
from tests.support.tui import Tui

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
TASK = tool("task", description="Look", prompt="SUBTASK: look", subagent_type="general", background=True)
RESULT = "found by the subagent"
LASTS = 30.0
"""Seconds that the subagent works."""


LONG = 40.0
"""The same for tests in which ocwatchd first starts an OpenCode."""


@pytest.fixture
def home(home: Home, provider: Provider) -> Home:
    """A home whose OpenCode has background subagents; a session is limited as soon as it has started one."""
    home.environment = {"OPENCODE_EXPERIMENTAL_BACKGROUND_SUBAGENTS": "1"}
    provider.script(PRIMARY, primary(LASTS))
    provider.script(FALLBACK, ok("answered elsewhere"))
    return home


def primary(seconds: float) -> Script:
    """Return the answers of the model that both use; the subagent works for this long."""

    def script(request: Request) -> Answer:
        if request.prompt.startswith("SUBTASK"):
            return slow(RESULT, seconds)
        return limited(3600) if request.tool_results else TASK

    return script


def subtask(provider: Provider) -> Request:
    """Return the subagent's only request, once it is made."""

    def asked() -> list[Request]:
        return [request for request in provider.requests(PRIMARY) if request.prompt.startswith("SUBTASK")]

    found: Request
    (found,) = wait_until(asked, why="the subagent's request")
    return found


def wait_limited(serve: Serve) -> str:
    """Start a session that is limited while its subagent works; return its id."""
    session = serve.create_session()
    serve.prompt_async(session, "Send the scout", model=PRIMARY)
    serve.wait_status(session, "retry")
    return session


def wait_result(provider: Provider) -> float:
    """Wait until the subagent has finished undisturbed; return when it did (epoch seconds)."""
    wait_until(lambda: subtask(provider).finished, why="the subagent to end")
    assert not subtask(provider).client_left
    return float(subtask(provider).finished or 0.0)


@pytest.mark.parametrize("watched", [True, False], ids=["with the daemon", "without it"])
@pytest.mark.parametrize("version", [NEWEST, "1.15.13"])
def test_the_session_is_moved_when_its_subagent_has_ended(
    version: str, watched: bool, home: Home, provider: Provider
) -> None:
    daemon = Daemon(home)
    with daemon if watched else nullcontext(), Serve(version, home) as serve:
        session = wait_limited(serve)
        (child,) = serve.request("GET", f"/session/{session}/children")
        if watched:
            (left,) = daemon.wait_journal("left")
            assert "subagent is working in the background" in left["why"]
            wait_until(lambda: "in the background" in daemon.ocwatch("status").stdout, LASTS, why="status to say so")
        ended = wait_result(provider)
        serve.wait_answer(child["id"], RESULT)
        if not watched:
            assert serve.status()[session]["type"] == "retry"
            return
        serve.wait_answer(session, "answered elsewhere")
        asked = provider.requests(FALLBACK)[-1]
        assert (asked.count("Send the scout"), asked.count(RESULT)) == (1, 1), "and its result came along"
        assert all(epoch(claim["time"]) > ended for claim in daemon.wait_journal("claim"))
        assert len(daemon.journal("left")) == 1


def test_by_hand_it_is_not_moved_before_either(home: Home, provider: Provider) -> None:
    with Daemon(home, mode="ask") as daemon, Serve(NEWEST, home) as serve:
        session = wait_limited(serve)
        refused = daemon.ocwatch("redirect", session)
        assert (refused.returncode, "in the background" in refused.stdout) == (1, True), refused
        wait_result(provider)
        wait_until(lambda: len(serve.user_messages(session)) == 2, why="the result in the session")
        assert daemon.ocwatch("redirect", session).returncode == 0
        serve.wait_answer(session, "answered elsewhere")


def test_its_process_is_not_restarted_before_either(home: Home, provider: Provider) -> None:
    Daemon(home)  # writes the configuration only
    provider.script(PRIMARY, primary(LONG))
    with Tui(NEWEST, home) as tui:
        tui.say("Send the scout")
        provider.wait_for(lambda seen: sum(request.status == 429 for request in seen) > 0)
        session = next(one for one in SessionStore(home.data_dir).recent(0) if one.parent is None)
        refused = ocwatch(home, "restart", session.id, "--yes")
        assert (refused.returncode, "in the background" in refused.stdout) == (1, True), refused
        assert tui.alive
        wait_result(provider)


def test_oc_smart_does_not_end_its_opencode_before_either(home: Home, provider: Provider) -> None:
    done = Smart(home, NEWEST).run("run", "Send the scout")
    wait_result(provider)
    assert (done.returncode, done.stdout) == (0, "answered elsewhere\n"), done
    asked = provider.requests(FALLBACK)[-1]
    assert (asked.count("Send the scout"), asked.count(RESULT)) == (1, 1)
