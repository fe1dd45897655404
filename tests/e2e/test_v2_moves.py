"""Tests of sessions of a real OpenCode 2 that are limited, moved and returned, judged by the provider's record."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.daemon import WHOLE_CHAIN, Daemon, settle
from tests.support.opencode import NEWEST, Serve
from tests.support.opencode2 import Home2, Service2, SharedHome, run2
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, after_tool, error, limited, ok, tool
from tests.support.reaper import sweep

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
QUOTA = {"error": {"message": "You exceeded your current quota, please check your plan", "code": "insufficient_quota"}}


def test_a_limit_is_seen_and_the_session_moved_with_its_prompt_once(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service, Daemon(home2, WHOLE_CHAIN) as daemon:
        session = service.create_session()
        service.prompt(session, "What is six times seven?")
        service.wait_answer(session, "answer of mock2/fallback")
        cooldown = daemon.wait_reported(PRIMARY)
        assert cooldown["reset_source"] == "status"
        (moved,) = daemon.wait_journal("moved")
        assert (moved["session"], moved["target"]) == (session, FALLBACK)
        (refused,), (asked,) = provider.requests(PRIMARY), provider.requests(FALLBACK)
        assert asked.count("What is six times seven?") == 1
        assert len(service.user_messages(session)) == 1
        print(f"429 to the fallback's request: {asked.wall - refused.wall:.3f} s")
        assert daemon.ocwatch("status").returncode == 0


def test_a_finished_tool_is_kept_and_never_run_again(home2: Home2, provider: Provider) -> None:
    mark = home2.root / "ran"
    call = tool("shell", command=f"echo ran >> {mark}", description="Leaves a mark")
    provider.script(PRIMARY, after_tool(call, limited(3600)))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Use the tool")
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        assert mark.read_text() == "ran\n"
        (asked,) = provider.requests(FALLBACK)
        assert asked.tool_results
        assert len(service.user_messages(session)) == 1


def test_prompts_that_wait_are_not_lost(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, "The first prompt")
        service.wait_retry(session)
        service.prompt(session, "The second prompt")
        with Daemon(home2) as daemon:
            daemon.wait_journal("moved")
            service.wait_idle(session)
            said = " ".join(text for request in provider.requests(FALLBACK) for text in request.user_texts)
            assert "The first prompt" in said
            assert "The second prompt" in said
            assert [m["text"] for m in service.user_messages(session)] == ["The first prompt", "The second prompt"]


def test_a_turn_that_failed_for_good_goes_on(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, error(429, QUOTA))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        assert len(provider.requests(PRIMARY)) == 1
        assert len(service.user_messages(session)) == 1
        assert provider.requests(FALLBACK)[0].count("Hello") == 1


def test_a_turn_that_a_quota_ended_is_run_again_at_the_reset_through_a_kill_of_the_daemon(
    home2: Home2, provider: Provider
) -> None:
    """The provider names the time only in words, so OpenCode does not ask again."""
    resets: list[float] = []

    def until(_: Request) -> Answer:
        if not resets:
            resets.append(time.time() + 30)
        left = resets[0] - time.time()
        words = f"{QUOTA['error']['message']}. It resets in {left:.0f} seconds"
        return error(429, {"error": {**QUOTA["error"], "message": words}}) if left > 0 else ok("on time")

    provider.script(PRIMARY, until)
    with Service2(home2) as service, Daemon(home2, {}) as daemon:
        session = service.create_session()
        service.prompt(session, "Wait for me")
        daemon.wait_journal("parked")
        daemon.kill()
        settle(2)
        daemon.start()
        service.wait_answer(session, "on time", timeout=90)
        asked = provider.requests(PRIMARY)
        assert [request.count("Wait for me") for request in asked] == [1, 1]
        assert asked[1].wall >= resets[0] - 0.5  # the words name whole seconds
        assert len(service.user_messages(session)) == 1


def test_the_primary_has_the_session_again_after_its_cooldown(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(6), ok("the primary again"))
    with Service2(home2) as service, Daemon(home2, maxDelay=1000) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        daemon.wait_journal("returned")
        assert service.session(session)["model"]["id"] == "primary"
        service.prompt(session, "Once more")
        service.wait_answer(session, "the primary again")
        assert len(provider.requests(PRIMARY)) == 2


def test_a_user_s_interrupt_and_choice_of_model_are_respected(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, limited(3600))
    provider.script("mock3/third", limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        daemon.wait_journal("exhausted")
        service.interrupt(session)
        daemon.wait_journal("stopped")
        provider.script(FALLBACK, ok())
        assert daemon.ocwatch("clear", FALLBACK).returncode == 0
        settle(3)
        assert session not in service.active()
        assert service.answer(session) == ""


def test_everything_limited_is_said_once_and_goes_on_by_itself(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, limited(8), ok("back"))
    provider.script("mock3/third", limited(3600))
    with Service2(home2) as service, Daemon(home2, maxDelay=1000) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        daemon.wait_journal("exhausted")
        service.wait_answer(session, "back")
        assert len(provider.requests(PRIMARY)) == 1
        assert len(service.user_messages(session)) == 1


def test_a_daemon_that_was_down_finds_the_session_that_waits(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_retry(session)
        with Daemon(home2) as daemon:
            service.wait_answer(session, "answer of mock2/fallback")
            daemon.wait_journal("moved")
            assert daemon.cooldown(PRIMARY)["strikes"] == 1
        assert len(provider.requests(PRIMARY)) == 1


def test_a_daemon_killed_in_the_wait_counts_nothing_twice(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    for model in (FALLBACK, "mock3/third"):
        provider.script(model, limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        daemon.wait_journal("exhausted")
        before = {model: daemon.cooldown(model)["strikes"] for model in (PRIMARY, FALLBACK, "mock3/third")}
        daemon.kill()
        daemon.start()
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        settle(3)
        after = {model: daemon.cooldown(model)["strikes"] for model in before}
        assert after == before


def test_short_waits_are_moved_by_the_model_alone(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited())
    with Service2(home2) as service, Daemon(home2, retry={"enabled": False}) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock2/fallback")
        daemon.wait_journal("moved")
        refused, (asked,) = provider.requests(PRIMARY), provider.requests(FALLBACK)
        print(f"{asked.wall - refused[0].wall:.2f} s from the refusal to the fallback's request")
        # OpenCode's own next attempt comes after 2 s, on a busy machine before the model is switched.
        assert [request.count("Hello") for request in refused] in ([1], [1, 1])
        assert asked.count("Hello") == 1
        assert len(service.user_messages(session)) == 1
        types = [message["type"] for message in service.messages(session)]
        assert types.count("assistant") == 1, "the same step goes on"


def test_an_open_question_stays_open(home2: Home2, provider: Provider) -> None:
    ask = {"question": "Which?", "header": "H", "options": [{"label": "A", "description": "a"}]}
    provider.script(PRIMARY, after_tool(tool("question", questions=[ask]), ok()))
    with Service2(home2) as service, Daemon(home2) as daemon:
        session = service.create_session()
        service.prompt(session, "Ask me")
        wait_until(lambda: service.request("GET", f"/api/session/{session}/form")["data"], 30, why="the question")
        assert daemon.ocwatch("block", PRIMARY, "--for", "1h").returncode == 0
        settle(2)
        assert service.request("GET", f"/api/session/{session}/form")["data"]
        assert session in service.active()


def test_a_choice_of_the_user_s_goes_before_the_chain(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_retry(session)
        service.switch_model(session, "mock3/third")
        with Daemon(home2) as daemon:
            service.wait_answer(session, "answer of mock3/third")
            daemon.wait_journal("moved")
            assert provider.requests(FALLBACK) == []
            assert (
                not (daemon.state / "moved.json").exists() or session not in (daemon.state / "moved.json").read_text()
            )


def test_a_run_is_moved_by_its_model_alone_and_has_its_answer(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited())
    with Service2(home2) as service, Daemon(home2, retry={"enabled": False}) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        run = run2(home2, "Hello from a run")
        out, err = run.communicate(timeout=120)
        assert (run.returncode, "answer of mock2/fallback" in out) == (0, True), err
        daemon.wait_journal("moved")
        events = [m["type"] for m in service.messages(daemon.journal("moved")[0]["session"])]
        assert events.count("assistant") == 1


def test_a_run_that_waits_long_is_not_interrupted(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        run = run2(home2, "Hello from a run")
        try:
            (refused,) = daemon.wait_journal("refused")
            assert "opencode run" in refused["why"]
            settle(2)
            assert run.poll() is None
            assert refused["session"] in service.active()
        finally:
            run.kill()
            run.communicate()


def test_a_run_that_continues_a_session_does_not_keep_others_from_being_moved(home2: Home2, provider: Provider) -> None:
    with Service2(home2) as service, Daemon(home2) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        continued, other = service.create_session(), service.create_session()
        run = run2(home2, "Hello", "-s", continued)
        out, err = run.communicate(timeout=120)
        assert (run.returncode, "answer of mock/primary" in out) == (0, True), err
        provider.script(PRIMARY, limited(3600))
        service.prompt(other, "Hello from another")
        service.wait_answer(other, "answer of mock2/fallback")
        assert [entry["session"] for entry in daemon.wait_journal("moved")] == [other]


def test_a_run_that_has_failed_is_not_taken_up_behind_its_back(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, error(429, QUOTA))
    with Service2(home2), Daemon(home2) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        run = run2(home2, "Hello from a run")
        run.communicate(timeout=120)
        assert run.returncode == 1
        daemon.wait_cooldown("mock/*")
        settle(3)
        assert daemon.journal("claim") == []
        assert provider.requests(FALLBACK) == []


def test_a_subagent_is_moved_and_its_parent_hears_nothing(home2: Home2, provider: Provider) -> None:
    def script(request: Request) -> Answer:
        if "Do the part" in request.prompt:
            return limited()
        return ok("whole") if request.ends_with_tool_result else call

    call = tool("subagent", description="a part", prompt="Do the part", agent="general")
    provider.script(PRIMARY, script)
    with Service2(home2) as service, Daemon(home2, retry={"enabled": False}) as daemon:
        session = service.create_session()
        service.prompt(session, "Do the whole")
        service.wait_answer(session, "whole")
        (moved,) = daemon.wait_journal("moved")
        assert moved["session"] != session
        asked = provider.requests(FALLBACK)
        assert [request.prompt.endswith("Do the part") for request in asked] == [True]
        (result,) = provider.requests(PRIMARY)[-1].tool_results
        assert "answer of mock2/fallback" in result


def test_a_session_is_moved_by_hand_and_the_daemon_takes_that_for_no_stop(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service, Daemon(home2, mode="notify") as daemon:
        session = service.create_session()
        service.prompt(session, "Hello")
        daemon.wait_journal("offered")
        done = daemon.ocwatch("redirect", session, "--to", "mock3/third")
        assert (done.returncode, "Moved" in done.stdout) == (0, True), done.stderr
        service.wait_answer(session, "answer of mock3/third")
        assert len(service.user_messages(session)) == 1
        assert daemon.journal("stopped") == []


def test_a_private_server_is_found_and_its_run_moved(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited())
    with Daemon(home2, retry={"enabled": False}) as daemon:
        run = run2(home2, "Hello from a run", "--standalone")
        out, err = run.communicate(timeout=120)
        assert (run.returncode, "answer of mock2/fallback" in out) == (0, True), err
        daemon.wait_journal("claim")  # its end may not be visible any more, because the server ends with its client
        assert [r.count("Hello from a run") for r in provider.requests(FALLBACK)] == [1]


def test_eight_sessions_at_once_are_all_moved(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Service2(home2) as service, Daemon(home2) as daemon:
        sessions = [service.create_session() for _ in range(8)]
        for number, session in enumerate(sessions):
            service.prompt(session, f"Prompt {number} of eight")
        daemon.wait_journal("moved", 8)
        for number, session in enumerate(sessions):
            service.wait_answer(session, "answer of mock2/fallback")
            asked = [r for r in provider.requests(FALLBACK) if r.session == session]
            assert [r.count(f"Prompt {number} of eight") for r in asked] == [1]
        assert len(provider.requests(PRIMARY)) == 8


def test_two_generations_in_one_home_are_both_served(tmp_path: Path, provider: Provider) -> None:
    home = SharedHome(tmp_path / "home", provider.url)
    provider.script(PRIMARY, limited(3600))
    try:
        with Service2(home) as service, Serve(NEWEST, home) as serve, Daemon(home) as daemon:
            wait_until(lambda: len(daemon.heartbeat().get("endpoints", ())) == 2, 30, why="both to be found")
            new, old = service.create_session(), serve.create_session()
            service.prompt(new, "Hello new")
            serve.prompt_async(old, "Hello old", model=PRIMARY)
            service.wait_answer(new, "answer of mock2/fallback")
            serve.wait_answer(old, "answer of mock2/fallback")
            daemon.wait_journal("moved", 2)
            assert {entry["session"] for entry in daemon.journal("moved")} == {new, old}
    finally:
        sweep(home.root)
