"""Tests of answers that never begin or stop in the middle: run again on the same model, then on the fallback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ocwatchd.core.domain.streams import StreamGaps
from ocwatchd.launcher.trouble_signs import LONG_RUN
from ocwatchd.state import cursors
from tests.support.answers import Answer
from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Cut, Hang, Ok, Provider, Request, Shape, Stall, after_tool, bash, ok, slow, tool
from tests.support.smart import Smart

pytestmark = pytest.mark.e2e

PRIMARY, SECOND, FALLBACK = "mock/primary", "mock/second", "mock2/fallback"
AFTER = 4.0
"""Seconds of silence after which an answer has stalled in these tests."""
SETTINGS = {"after": AFTER * 1000}
PROMPT = "Say something that lasts"


@contextmanager
def watched(version: str, home: Home, **stall: object) -> Iterator[tuple[Serve, Daemon]]:
    """Yield an OpenCode and a daemon that follows its events. OpenCode has answered a prompt before the daemon started,
    because on a busy machine the very first request of an OpenCode may leave later than a stall is recognized.
    """
    daemon = Daemon(home, stall={**SETTINGS, **stall})
    with Serve(version, home) as serve:
        first = serve.create_session()
        serve.prompt_async(first, "Get ready", model=PRIMARY)
        serve.wait_answer(first, "answer of mock/primary")
        serve.wait_status(first, "idle")
        with daemon:
            wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
            settle(2)  # in which it begins to follow the events
            yield serve, daemon


def asked(provider: Provider, model: str | None = None) -> list[Request]:
    """Return the requests of the session under test."""
    return [request for request in provider.requests(model) if request.count(PROMPT)]


def wait_rescued(provider: Provider, model: str, number: int, since: float) -> Request:
    """Wait for a request, and print how long it took."""
    provider.wait_for(lambda seen: sum(r.model == model and r.count(PROMPT) > 0 for r in seen) >= number, timeout=60)
    request = asked(provider, model)[number - 1]
    print(f"{model} was asked {request.wall - since:.2f} s after the request that stalled")
    return request


@pytest.mark.parametrize(
    ("version", "shape"),
    [*((NEWEST, shape) for shape in Shape), *((MIDDLE, shape) for shape in (Shape.NO_HEADERS, Shape.TEXT, Shape.CALL))],
)
def test_a_stalled_answer_is_asked_for_again_and_then_elsewhere(
    version: str, shape: Shape, home: Home, provider: Provider
) -> None:
    with watched(version, home) as (serve, daemon):
        provider.script(PRIMARY, Stall(shape))
        provider.script(FALLBACK, ok("answered elsewhere"))
        before = len(provider.requests())
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        provider.wait_for(lambda _: asked(provider, PRIMARY))
        first = asked(provider, PRIMARY)[0]
        second = wait_rescued(provider, PRIMARY, 2, first.wall)
        third = wait_rescued(provider, FALLBACK, 1, second.wall)
        serve.wait_answer(session, "answered elsewhere")
        assert [r.count(PROMPT) for r in (first, second, third)] == [1, 1, 1]
        assert len(serve.user_messages(session)) == 1
        assert third.body["messages"][-1]["role"] == "user", "half an answer is not continued"
        wait_until(lambda: len(daemon.journal("moved")) == 2, why="the end of the second move")
        entry = daemon.wait_cooldown(PRIMARY)
        assert (entry["strikes"], epoch(entry["until"]) - epoch(entry["since"])) == (0, 60.0)
        settle(AFTER * 1.5)
        assert len(provider.requests()) == before + 3, "nothing more is asked"
        assert "has sent nothing for" in daemon.ocwatch("explain").stdout


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_second_try_that_answers_ends_it(version: str, home: Home, provider: Provider) -> None:
    with watched(version, home) as (serve, daemon):
        provider.script(PRIMARY, Stall(Shape.TEXT), ok("the second time"))
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "the second time", timeout=60)
        assert len(serve.user_messages(session)) == 1
        assert provider.requests(FALLBACK) == []
        assert daemon.cooldown(PRIMARY) is None
        daemon.wait_journal("moved")


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_tool_that_takes_longer_than_that_is_no_stall_and_survives_one(
    version: str, home: Home, provider: Provider
) -> None:
    done = home.root / "runs"
    with watched(version, home, retrySame=0) as (serve, daemon):
        provider.script(PRIMARY, after_tool(bash(f"sleep {2.5 * AFTER:.0f}; echo run >> {done}"), Stall(Shape.TEXT)))
        provider.script(FALLBACK, ok("went on elsewhere"))
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "went on elsewhere", timeout=60)
        assert done.read_text() == "run\n", "the finished call is not run again"
        (moved,) = provider.requests(FALLBACK)
        assert moved.tool_results
        assert moved.count(PROMPT) == 1
        assert len(daemon.journal("claim")) == 1


def test_a_slow_answer_is_left_alone(home: Home, provider: Provider) -> None:
    with watched(NEWEST, home) as (serve, daemon):
        provider.script(PRIMARY, slow("word after word after word ", 4 * AFTER, pieces=8))
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "word after word after word ", timeout=60)
        serve.wait_status(session, "idle")
        assert daemon.journal("stalled") == []


def test_it_can_be_switched_off(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, Hang())
    with Daemon(home, stall={"after": False}) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        provider.wait_for(lambda seen: len(seen) == 1)
        settle(2 * AFTER)
        assert serve.status()[session]["type"] == "busy"
        assert daemon.journal("stalled") == []


def test_an_answer_that_stalled_before_the_daemon_began_is_rescued(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, Stall(Shape.TEXT), ok("after all"))
    with Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        provider.wait_for(lambda seen: len(seen) == 1)
        settle(1)
        with Daemon(home, stall=SETTINGS):
            serve.wait_answer(session, "after all", timeout=40)


def test_keep_alives_are_signs_of_life_as_long_as_the_time_is_learnt(home: Home, provider: Provider) -> None:
    """Both models have earned a minute. The first one thinks for longer, unseen, and the second one has stalled."""
    assert ocwatch(home, "plugin", "install").returncode == 0
    thought = Ok("after long thought", keep_alive=80.0)
    provider.script(PRIMARY, lambda request: thought if request.count(PROMPT) else ok("ready"))
    provider.script(SECOND, Stall(Shape.NO_BODY), ok("the second time"))
    with Serve(NEWEST, home) as serve:
        gaps = StreamGaps({PRIMARY: [1.0], SECOND: [1.0]})
        daemon = Daemon(home)
        cursors.save_gaps(daemon.state / "stream-gaps.json", gaps, time.time())
        with daemon:
            # On a busy machine, the daemon may open the event stream later than OpenCode begins to answer. It then does
            # not know the model, and gives the answer five minutes.
            wait_until(lambda: answer_is_measured(serve, daemon), why="an answer that the daemon has measured")
            thinks, stalls = serve.create_session(), serve.create_session()
            serve.prompt_async(thinks, PROMPT, model=PRIMARY)
            serve.prompt_async(stalls, PROMPT, model=SECOND)
            serve.wait_answer(stalls, "the second time", timeout=120)
            serve.wait_answer(thinks, "after long thought", timeout=120)
            assert [entry["session"] for entry in daemon.journal("stalled")] == [stalls]
            assert [request.count(PROMPT) for request in provider.requests(PRIMARY)].count(1) == 1
            assert not (daemon.state / "plugin-errors.log").exists()


def answer_is_measured(serve: Serve, daemon: Daemon) -> bool:
    """Have a short prompt answered. Return whether the daemon has measured an answer of the primary model."""
    session = serve.create_session()
    serve.prompt_async(session, "Get ready", model=PRIMARY)
    serve.wait_answer(session, "ready")
    settle(1)
    return len(cursors.load_gaps(daemon.state / "stream-gaps.json").all().get(PRIMARY, ())) > 1


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_stalled_subagent_has_the_session_that_waits_for_it_run_again(
    version: str, home: Home, provider: Provider
) -> None:
    call = tool("task", description="Look around", prompt="SUBTASK: find the callers", subagent_type="general")

    def primary(request: Request) -> Answer:
        return Stall(Shape.TEXT) if request.prompt.startswith("SUBTASK") else call

    with watched(version, home, retrySame=0) as (serve, daemon):
        provider.script(PRIMARY, primary)
        provider.script(FALLBACK, ok("done without help"))
        session = serve.create_session()
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "done without help", timeout=60)
        assert [r.count(PROMPT) for r in provider.requests(FALLBACK)] == [1]
        assert len(serve.user_messages(session)) == 1
        assert len(daemon.wait_journal("moved")) == 1


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
@pytest.mark.parametrize("reset", [False, True], ids=["no finish reason", "connection reset"])
def test_answers_that_are_cut_off_again_and_again_are_left_for_the_fallback(
    reset: bool, version: str, home: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, ok("ready"), Cut(reset=reset))
    provider.script(FALLBACK, ok("answered elsewhere"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Get ready", model=PRIMARY)
        serve.wait_answer(session, "ready")
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        settle(2)  # in which it begins to follow the events
        serve.prompt_async(session, PROMPT, model=PRIMARY)
        serve.wait_answer(session, "answered elsewhere", timeout=90)
        print(f"{PRIMARY} was asked {len(provider.requests(PRIMARY)) - 1} times")
        (moved,) = provider.requests(FALLBACK)
        assert moved.count(PROMPT) == 1
        assert "It is half" not in str(moved.body["messages"])
        assert len(serve.user_messages(session)) == 2
        assert daemon.wait_cooldown(PRIMARY)["strikes"] == 0


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_stalled_run_of_oc_smart_is_run_again_and_then_on_the_fallback(
    version: str, home: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, Stall(Shape.TEXT))
    provider.script(FALLBACK, ok("answered elsewhere"))
    smart = Smart(home, version, stall={"after": 3 * AFTER * 1000})
    done = smart.run("run", PROMPT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "answered elsewhere")
    (last,) = provider.requests(FALLBACK)
    assert [request.count(PROMPT) for request in provider.requests()] == [1, 1, 1]
    assert last.body["messages"][-1]["role"] == "user", "half an answer is not continued"
    assert not smart.left_behind()


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_stalled_subagent_of_oc_smart_has_its_run_continued_on_the_fallback(
    version: str, home: Home, provider: Provider
) -> None:
    call = tool("task", description="Look around", prompt="SUBTASK: find the callers", subagent_type="general")

    def primary(request: Request) -> Answer:
        return Stall(Shape.TEXT) if request.prompt.startswith("SUBTASK") else call

    provider.script(PRIMARY, primary)
    provider.script(FALLBACK, ok("done without help"))
    smart = Smart(home, version, stall={"after": 3 * AFTER * 1000})
    done = smart.run("run", PROMPT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "done without help")
    assert [request.count(PROMPT) for request in provider.requests(FALLBACK)] == [1]
    stalled = [request for request in provider.requests(PRIMARY) if request.prompt.startswith("SUBTASK")]
    assert len(stalled) == 2, "once more on the same model"
    assert not smart.left_behind()


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_stalled_client_of_another_server_is_run_again_and_then_on_the_fallback(
    version: str, home: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, Stall(Shape.TEXT))
    provider.script(FALLBACK, ok("answered elsewhere"))
    smart = Smart(home, version, stall={"after": 3 * AFTER * 1000})
    with Serve(version, home, home.project("elsewhere", git=True)) as serve:
        done = smart.run("run", "--attach", serve.url, PROMPT)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "answered elsewhere")
        assert [request.count(PROMPT) for request in provider.requests()] == [1, 1, 1]
        (last,) = provider.requests(FALLBACK)
        assert last.body["messages"][-1]["role"] == "user", "half an answer is not continued"
    assert not smart.left_behind()


def test_a_long_run_of_oc_smart_that_answers_is_only_watched(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, slow("word after word after word ", LONG_RUN + 10, pieces=20))
    done = Smart(home, NEWEST).run("run", PROMPT)
    assert (done.returncode, done.stdout) == (0, "word after word after word\n")
    assert "oc-smart" not in done.stderr
    assert len(provider.requests()) == 1
