"""Tests of turns with subagents, queued messages or a running tool, and of a daemon that is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemon, ocwatch, settle
from tests.support.opencode import MIDDLE, NEWEST, OLDEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, Request, after_tool, bash, limited, ok, slow, tool

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK, THIRD, SECOND = "mock/primary", "mock2/fallback", "mock3/third", "mock/second"
TASK = tool("task", description="Look around", prompt="SUBTASK: find the callers", subagent_type="general")


@pytest.fixture
def newest(home: Home) -> Iterator[Serve]:
    with Serve(NEWEST, home) as serve:
        yield serve


def subtask(sub: object, main: object) -> Callable[[Request], object]:
    """Return answers for a model that both a subagent and its parent use."""
    return lambda request: sub if request.prompt.startswith("SUBTASK") else main


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_limited_subagent_moves_its_parent_once(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, subtask(limited(3600), TASK))
    provider.script(FALLBACK, ok("done without help"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Find out who calls parse()", model=PRIMARY)
        serve.wait_answer(session, "done without help", timeout=60)
        assert len(serve.user_messages(session)) == 1
        assert [r.count("Find out who calls parse()") for r in provider.requests(FALLBACK)] == [1]
        (moved,) = daemon.wait_journal("moved")
        assert moved["model"] == PRIMARY


def test_a_limited_subagent_with_a_model_of_its_own_is_freed(home: Home, provider: Provider) -> None:
    agents = {"scout": {"model": SECOND, "mode": "subagent", "description": "looks around"}}
    home.agents = {**home.agents, **agents}
    home.write_config()
    call = tool("task", description="Look", prompt="SUBTASK: look", subagent_type="scout")
    provider.script(SECOND, limited(3600))
    provider.script(PRIMARY, after_tool(call, ok("then without the scout")))
    with Daemon(home) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Send the scout", model=PRIMARY)
        serve.wait_answer(session, "then without the scout", timeout=60)
        assert len(daemon.wait_journal("freed")) == 1
        assert daemon.journal("claim") == []
        assert provider.requests(FALLBACK) == []


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_where_the_plugin_prevents_another_subagent_is_sent_to_the_fallback(
    version: str, home: Home, provider: Provider
) -> None:
    home.agents = {**home.agents, "scout": {"model": SECOND, "mode": "subagent", "description": "looks around"}}
    home.write_config()
    assert ocwatch(home, "plugin", "install").returncode == 0
    call = tool("task", description="Look", prompt="SUBTASK: look", subagent_type="scout")
    found = "the scout has found it"
    provider.script(SECOND, limited(3600))
    provider.script(FALLBACK, ok(found))
    provider.script(PRIMARY, lambda request: ok("thanks") if any(found in r for r in request.tool_results) else call)
    with Daemon(home, chain={SECOND: [FALLBACK]}) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Send the scout", model=PRIMARY)
        serve.wait_answer(session, "thanks", timeout=90)
        assert len(serve.user_messages(session)) == 1
        assert len(provider.requests(SECOND)) == 1
        assert daemon.journal("freed") == []


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_messages_queued_behind_the_retry_come_along(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("all of it"))
    with Daemon(home, mode="ask") as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "First things first", model=PRIMARY)
        serve.wait_status(session, "retry")
        serve.prompt_async(session, "And then another thing", model=PRIMARY)
        wait_until(lambda: len(serve.user_messages(session)) == 2, why="the second message to be queued")
        done = daemon.ocwatch("redirect", session)
        assert done.returncode == 0, done
        serve.wait_answer(session, "all of it")
        assert len(serve.user_messages(session)) == 2
        last = provider.requests(FALLBACK)[-1]
        assert [last.count(text) for text in ("First things first", "And then another thing")] == [1, 1]


def test_a_running_tool_is_never_disturbed(newest: Serve, home: Home, provider: Provider) -> None:
    """The session is working: another session's limit on the same model does not affect it."""
    done = home.root / "tool-done"

    def primary(request: Request) -> object:
        if not request.count("Run the long tool"):
            return limited(3600)
        return ok("the tool has run") if request.tool_results else bash(f"sleep 6; echo done > {done}")

    provider.script(PRIMARY, primary)
    provider.script(FALLBACK, ok("moved"))
    with Daemon(home) as daemon:
        working, hit = newest.create_session(), newest.create_session()
        newest.prompt_async(working, "Run the long tool", model=PRIMARY)
        provider.wait_requests(PRIMARY, 1)
        newest.prompt_async(hit, "Be limited", model=PRIMARY)
        newest.wait_answer(hit, "moved")
        newest.wait_answer(working, "the tool has run", timeout=40)
        assert done.exists()
        assert [claim["session"] for claim in daemon.journal("claim")] == [hit]


def test_another_limit_in_the_same_turn_moves_on(newest: Serve, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, after_tool(bash("echo half way"), limited(1800)))
    provider.script(THIRD, ok("finished elsewhere"))
    with Daemon(home) as daemon:
        session = newest.create_session()
        newest.prompt_async(session, "Two limits in one turn", model=PRIMARY)
        newest.wait_answer(session, "finished elsewhere", timeout=60)
        (asked,) = provider.requests(THIRD)
        assert asked.tool_results
        assert len(newest.user_messages(session)) == 1
        assert len(daemon.wait_journal("moved", 2)) == 2


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_a_daemon_killed_in_mid_move_finishes_it_in_its_next_life(
    pause: float, newest: Serve, home: Home, provider: Provider
) -> None:
    """Without a pause the next run reads the line of the abort, which OpenCode writes late."""
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, slow("survived", 3))
    with Daemon(home) as daemon:
        session = newest.create_session()
        newest.prompt_async(session, "Kill the daemon now", model=PRIMARY)
        daemon.wait_journal("claim")
        daemon.kill()
        settle(pause)
        daemon.start()
        newest.wait_answer(session, "survived", timeout=60)
        settle(3)
        assert len(newest.user_messages(session)) == 1
        assert sum(r.count("Kill the daemon now") for r in provider.requests(FALLBACK)) == 1


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_move_is_told_when_the_answer_begins_not_when_it_ends(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, slow("a long answer that streams word by word", 20, pieces=20))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Take your time", model=PRIMARY)
        (moved,) = daemon.wait_journal("moved")
        (asked,) = provider.requests(FALLBACK)
        assert asked.finished is None
        assert moved["why"] == f"{FALLBACK} answers"
        assert moved["first_token_seconds"] < 10
        serve.wait_answer(session, "a long answer that streams word by word")


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_limited_compaction_does_not_lose_the_session(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, ok("first answer"), limited(3600))
    provider.script(FALLBACK, ok("a summary of it all"), ok("and on it goes"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Something to sum up", model=PRIMARY)
        serve.wait_answer(session, "first answer")
        serve.wait_status(session, "idle")
        compaction = {"providerID": "mock", "modelID": "primary"}
        serve.request("POST", f"/session/{session}/summarize", compaction, timeout=60)
        serve.wait_answer(session, "a summary of it all")
        daemon.wait_journal("moved")
        serve.prompt_async(session, "Go on", model=FALLBACK)
        serve.wait_answer(session, "and on it goes")
        last = provider.requests(FALLBACK)[-1]
        assert last.count("Go on") == 1
        assert [r.status for r in provider.requests(PRIMARY)] == [200, 429]
