"""Tests of stalled answers of a real OpenCode 2: run again on the same model, then on the fallback, with one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.daemon import Daemon, epoch, settle
from tests.support.opencode2 import Home2, Service2, run2
from tests.support.processes import stop, wait_until
from tests.support.provider import Provider, Request, Shape, Stall, after_tool, error, ok, slow, tool

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
AFTER = 10.0
"""Seconds of silence after which an answer has stalled in these tests. OpenCode's own work before a request is also
silent, and may take seconds on a busy machine.
"""
PROMPT = "Say something that lasts"


@contextmanager
def watched(home: Home2, **stall: object) -> Iterator[tuple[Service2, Daemon]]:
    """Yield a service and a daemon that follows its events. The service has answered a prompt before the daemon
    started, so that its slow first preparations are over and were no stall.
    """
    with Service2(home) as service:
        first = service.create_session()
        service.prompt(first, "Get ready")
        service.wait_answer(first, "answer of mock/primary")
        service.wait_idle(first)
        with Daemon(home, stall={"after": AFTER * 1000, **stall}) as daemon:
            wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the service")
            settle(2)  # in which it begins to follow the events
            yield service, daemon


def asked(provider: Provider, model: str) -> list[Request]:
    """Return the requests of the session under test."""
    return [request for request in provider.requests(model) if request.count(PROMPT)]


def stalled(daemon: Daemon, session: str) -> list[dict[str, object]]:
    return [entry for entry in daemon.journal("stalled") if entry["session"] == session]


@pytest.mark.parametrize("shape", [Shape.NO_HEADERS, Shape.FIRST_CHUNK, Shape.THOUGHT, Shape.TEXT, Shape.CALL])
def test_a_stalled_answer_is_asked_for_again_and_then_elsewhere(shape: Shape, home2: Home2, provider: Provider) -> None:
    with watched(home2) as (service, daemon):
        provider.script(PRIMARY, Stall(shape))
        provider.script(FALLBACK, ok("answered elsewhere"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        service.wait_answer(session, "answered elsewhere", timeout=120)
        service.wait_idle(session)
        first, second = asked(provider, PRIMARY)
        (third,) = asked(provider, FALLBACK)
        print(f"{second.wall - first.wall:.2f} s to the second request, {third.wall - second.wall:.2f} s to the third")
        assert [request.count(PROMPT) for request in (first, second, third)] == [1, 1, 1]
        assert "It is half" not in str(third.body["messages"]), "the partial answer is dropped"
        assert len(service.user_messages(session)) == 1
        wait_until(lambda: len(daemon.journal("moved")) == 2, why="the end of the second move")
        entry = daemon.wait_cooldown(PRIMARY)
        assert (entry["strikes"], epoch(entry["until"]) - epoch(entry["since"])) == (0, 60.0)
        settle(AFTER * 1.5)
        assert (len(asked(provider, PRIMARY)), len(asked(provider, FALLBACK))) == (2, 1), "nothing more is asked"
        assert "has sent nothing for" in daemon.ocwatch("explain").stdout


def test_a_second_try_that_answers_ends_it_and_the_model_is_not_avoided(home2: Home2, provider: Provider) -> None:
    with watched(home2) as (service, daemon):
        provider.script(PRIMARY, Stall(Shape.NO_HEADERS), ok("the second time"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        service.wait_answer(session, "the second time", timeout=90)
        daemon.wait_journal("moved")
        assert len(service.user_messages(session)) == 1
        assert provider.requests(FALLBACK) == []
        assert daemon.cooldown(PRIMARY) is None


def test_a_user_who_stops_the_second_try_before_its_first_word_is_obeyed(home2: Home2, provider: Provider) -> None:
    with watched(home2) as (service, daemon):
        provider.script(PRIMARY, Stall(Shape.NO_HEADERS))
        session = service.create_session()
        service.prompt(session, PROMPT)
        wait_until(lambda: len(asked(provider, PRIMARY)) == 2, 60, why="the second request")
        service.interrupt(session)
        service.wait_idle(session)
        settle(AFTER * 2)
        assert (len(asked(provider, PRIMARY)), len(asked(provider, FALLBACK))) == (2, 0)
        assert daemon.journal("moved") == []
        assert len(service.user_messages(session)) == 1


def test_an_attempt_of_opencode_itself_that_stalls_is_rescued(home2: Home2, provider: Provider) -> None:
    with watched(home2) as (service, _):
        provider.script(PRIMARY, error(500, {"error": {"message": "trouble"}}), Stall(Shape.NO_HEADERS), ok("at last"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        service.wait_answer(session, "at last", timeout=120)
        assert [request.count(PROMPT) for request in provider.requests(PRIMARY)[-3:]] == [1, 1, 1]
        assert len(service.user_messages(session)) == 1


def test_a_tool_that_takes_longer_than_that_is_no_stall_and_survives_one(home2: Home2, provider: Provider) -> None:
    done = home2.root / "runs"
    long = tool("shell", command=f"sleep {2.5 * AFTER:.0f}; echo run >> {done}", description="Runs long")
    with watched(home2, retrySame=0) as (service, daemon):
        provider.script(PRIMARY, after_tool(long, Stall(Shape.TEXT)))
        provider.script(FALLBACK, ok("went on elsewhere"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        service.wait_answer(session, "went on elsewhere", timeout=150)
        assert done.read_text() == "run\n", "the finished call is not run again"
        (request,) = asked(provider, FALLBACK)
        assert request.tool_results
        assert request.count(PROMPT) == 1
        assert "It is half" not in str(request.body["messages"]), "the partial answer is dropped"
        assert len(service.user_messages(session)) == 1
        assert len(stalled(daemon, session)) == 1


def test_an_open_question_and_a_slow_answer_are_left_alone(home2: Home2, provider: Provider) -> None:
    ask = {"question": "Which?", "header": "H", "options": [{"label": "A", "description": "a"}]}
    with watched(home2) as (service, daemon):
        questions = tool("question", questions=[ask])
        provider.script(
            PRIMARY, lambda request: questions if request.count("Ask me") else slow("word " * 12, 3 * AFTER, 12)
        )
        asks, speaks = service.create_session(), service.create_session()
        service.prompt(asks, "Ask me")
        service.prompt(speaks, PROMPT)
        wait_until(lambda: service.request("GET", f"/api/session/{asks}/form")["data"], 30, why="the question")
        wait_until(lambda: service.answered(speaks), 60, why="the first word")
        before = len(daemon.journal("stalled"))
        service.wait_idle(speaks, timeout=120)
        assert service.answer(speaks) == "word " * 12
        settle(AFTER)
        assert service.request("GET", f"/api/session/{asks}/form")["data"]
        assert len(daemon.journal("stalled")) == before


def test_an_open_permission_is_left_alone(home2: Home2, provider: Provider) -> None:
    home2.settings["permissions"] = [{"action": "*", "resource": "*", "effect": "ask"}]
    home2.write_config()
    with watched(home2) as (service, daemon):
        provider.script(PRIMARY, tool("shell", command="true", description="Does nothing"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        wait_until(lambda: service.request("GET", f"/api/session/{session}/permission")["data"], 30, why="the request")
        before = len(daemon.journal("stalled"))
        settle(2.5 * AFTER)
        assert service.request("GET", f"/api/session/{session}/permission")["data"]
        assert len(daemon.journal("stalled")) == before


def test_an_answer_that_stalled_before_the_daemon_began_is_rescued(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, Stall(Shape.TEXT), ok("after all"))
    with Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, PROMPT)
        provider.wait_requests(PRIMARY)
        with Daemon(home2, stall={"after": AFTER * 1000}):
            service.wait_answer(session, "after all", timeout=120)
            assert len(service.user_messages(session)) == 1


def test_a_stalled_subagent_has_the_session_that_waits_for_it_run_again(home2: Home2, provider: Provider) -> None:
    call = tool("subagent", description="Look around", prompt="SUBTASK: find the callers", agent="general")
    with watched(home2, retrySame=0) as (service, daemon):
        provider.script(PRIMARY, lambda request: Stall(Shape.TEXT) if request.count("SUBTASK") else call)
        provider.script(FALLBACK, ok("done without help"))
        session = service.create_session()
        service.prompt(session, PROMPT)
        service.wait_answer(session, "done without help", timeout=120)
        assert [request.count(PROMPT) for request in asked(provider, FALLBACK)] == [1]
        assert len(service.user_messages(session)) == 1
        assert len(daemon.wait_journal("moved")) == 1


def test_a_run_is_not_interrupted_and_its_user_is_told(home2: Home2, provider: Provider) -> None:
    with watched(home2) as (_, daemon):
        provider.script(PRIMARY, Stall(Shape.TEXT))
        process = run2(home2, PROMPT)
        try:
            (entry,) = daemon.wait_journal("left")
            settle(AFTER)
            assert process.poll() is None
            assert "opencode run" in entry["why"]
            assert len(asked(provider, PRIMARY)) == 1
        finally:
            stop(process)
