"""Tests of turns with every model limited: each is run again when its model is free or cleared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support.daemon import Daemon, epoch, settle
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, error, limited, ok

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
CHAIN = {PRIMARY: [FALLBACK]}
OLD = 61.0
"""Seconds after which a failed turn is old."""


def spent(words: str) -> Answer:
    """A limit of the whole provider that OpenCode does not retry: the turn ends with an error."""
    return error(403, json.dumps({"error": {"message": f"Usage limit reached, resets {words}", "code": "usage"}}))


class Until:
    """A script that refuses for `seconds`, with the remaining time in its words, and then answers."""

    def __init__(self, seconds: float, refusal: Callable[[str], Answer], then: str) -> None:
        self.reset, self._seconds, self._refusal, self._then = 0.0, seconds, refusal, then

    def __call__(self, request: Request) -> Answer:
        self.reset = self.reset or time.time() + self._seconds
        left = self.reset - time.time()
        return self._refusal(f"in {left:.0f} seconds") if left > 0 else ok(self._then)


def status_of(daemon: Daemon) -> str:
    """Return what `ocwatch status` prints, as if the terminal were wide enough for one line."""
    return " ".join(daemon.ocwatch("status").stdout.split())


def wait_failed(serve: Serve, session: str) -> None:
    """Wait until OpenCode has given up."""

    def failed() -> bool:
        last = [message["info"] for message in serve.messages(session)][-1:]
        return any(info.get("error") for info in last) and session not in serve.status()

    wait_until(failed, 200, why="OpenCode to give up")


def test_what_opencode_gives_up_before_the_reset_is_run_again_at_the_reset(home: Home, provider: Provider) -> None:
    """With a single model and no chain, 1.18.17 and later give up after 70 s."""
    until = Until(130, lambda words: limited(message=f"Rate limit reached. Please try again {words}"), "on time")
    provider.script(PRIMARY, until)
    with Daemon(home, chain={}) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Wait for me", model=PRIMARY)
        wait_failed(serve, session)
        assert time.time() < until.reset, "too slow a machine for this test"
        asked = len(provider.requests(PRIMARY))
        serve.wait_answer(session, "on time", timeout=120)
        late = provider.requests(PRIMARY)[asked:]
        assert [request.count("Wait for me") for request in late] == [1]
        assert -1 < late[0].wall - until.reset < 20
        assert len(serve.user_messages(session)) == 1
        settle(2)
        assert len(provider.requests(PRIMARY)) == asked + 1
        assert daemon.wait_journal("parked")[-1]["session"] == session


@pytest.mark.parametrize("chain", [CHAIN, {}], ids=["with a chain", "without one"])
@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_it_is_run_again_through_a_kill_of_the_daemon(
    version: str, chain: dict[str, list[str]], home: Home, provider: Provider
) -> None:
    until = Until(25, spent, "on time")
    provider.script(PRIMARY, until)
    provider.script(FALLBACK, spent("in 2 hours"))
    with Daemon(home, chain=chain) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Wait for me", model=PRIMARY)
        daemon.wait_journal("parked")
        daemon.kill()
        settle(max(until.reset - 8 - time.time(), 0))
        daemon.start()
        serve.wait_answer(session, "on time", timeout=60)
        (late,) = [request for request in provider.requests() if request.wall > until.reset - 1]
        assert (late.model, late.count("Wait for me")) == (PRIMARY, 1)
        assert len(serve.user_messages(session)) == 1


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_one_of_several_sessions_is_run_first_and_the_others_after_its_answer_has_begun(
    version: str, home: Home, provider: Provider
) -> None:
    names = [f"Prompt number {number}" for number in range(4)]
    until = Until(40, spent, "on time")

    provider.script(PRIMARY, until)
    with Daemon(home, chain={}) as daemon, Serve(version, home) as serve:
        sessions = [serve.create_session() for _ in names]
        for session, name in zip(sessions, names, strict=True):
            serve.prompt_async(session, name, model=PRIMARY)
        daemon.wait_journal("parked", len(names))
        wait_until(lambda: "runs again at" in status_of(daemon), 15, 0.5, "status to count down")
        for session in sessions:
            serve.wait_answer(session, "on time", timeout=90)
        asked = [request for request in provider.requests(PRIMARY) if request.wall > until.reset - 1]
        assert sorted(name for name in names for request in asked if request.count(name)) == names, "each once"
        assert min(request.wall for request in asked) >= until.reset - 0.5  # the words name whole seconds
        moved = sorted(daemon.wait_journal("moved", len(names)), key=lambda entry: entry["time"])
        claims = sorted(epoch(entry["time"]) for entry in daemon.journal("claim"))
        assert claims[1] >= epoch(moved[0]["time"]), "the second one after the first has been answered"


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_it_is_run_again_in_the_server_that_was_started_again_meanwhile(
    version: str, home: Home, provider: Provider
) -> None:
    until = Until(30, spent, "on time")
    provider.script(PRIMARY, until)
    with Daemon(home, chain={}) as daemon:
        with Serve(version, home) as serve:
            session = serve.create_session()
            serve.prompt_async(session, "Wait for me", model=PRIMARY)
            daemon.wait_journal("parked")
        settle(2)
        with Serve(version, home, serve.project) as again:
            assert again.pid != serve.pid
            again.wait_answer(session, "on time", timeout=60)
            (late,) = [request for request in provider.requests(PRIMARY) if request.wall > until.reset - 1]
            assert late.count("Wait for me") == 1
            assert len(again.user_messages(session)) == 1


def test_a_user_who_wants_to_be_notified_is_notified_at_the_reset_and_nothing_is_run(
    home: Home, provider: Provider
) -> None:
    until = Until(20, spent, "too much")
    provider.script(PRIMARY, until)
    notices = home.root / "notices"
    command = ["/bin/sh", "-c", f"cat >> {notices}; echo >> {notices}"]
    settings = {"whenExhausted": "notify", "notifications": {"command": command, "desktop": False}}
    with Daemon(home, chain={}, **settings) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Ask me first", model=PRIMARY)
        daemon.wait_journal("parked")
        wait_until(lambda: "you are notified at" in status_of(daemon), 15, 0.5, "status to say so")
        (offered,) = daemon.wait_journal("offered")
        assert epoch(offered["time"]) >= until.reset - 1
        wait_until(lambda: "is available again" in notices.read_text(), 10, 0.2, "the notice")
        settle(3)
        assert [request for request in provider.requests(PRIMARY) if request.wall > until.reset - 1] == []
        assert "available again" in status_of(daemon)
        serve.prompt_async(session, "Go on", model=PRIMARY)
        serve.wait_answer(session, "too much")


def test_it_is_run_again_so_often_in_a_row_and_then_left_to_its_user(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, spent("in 4 seconds"))
    with Daemon(home, chain={}, maxResumes=2) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Again and again", model=PRIMARY)
        wait_until(lambda: "maxResumes" in status_of(daemon), 60, 0.5, "status to say so")
        settle(8)
        times = [request.wall for request in provider.requests(PRIMARY)]
        assert len(times) == 3, "once, and two more times"
        assert all(later - sooner >= 3.5 for sooner, later in pairwise(times))
        assert [claim["resumes"] for claim in daemon.journal("claim")] == [1, 2]


@pytest.mark.parametrize("what", ["sent something else", "stopped it"])
def test_it_is_not_run_again_if_its_user_went_on(what: str, home: Home, provider: Provider) -> None:
    waits = what == "stopped it"  # in OpenCode's own retry: a failed turn cannot be stopped
    until = Until(40, (lambda _: limited(40)) if waits else spent, "too much")
    provider.script(PRIMARY, until)
    with Daemon(home, chain={}) as daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Forget about me", model=PRIMARY)
        daemon.wait_journal("parked")
        if waits:
            serve.abort(session)
        else:
            serve.prompt_async(session, "Something else", model=FALLBACK)
            serve.wait_answer(session, "answer of mock2/fallback")
        settle(max(until.reset - time.time(), 0) + 5)
        assert [request for request in provider.requests(PRIMARY) if request.wall > until.reset - 1] == []
        assert session not in serve.status()


@pytest.mark.parametrize("cleared", ["it", "--all"])
@pytest.mark.parametrize("gave_up", [True, False], ids=["given up", "in retry"])
@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_what_is_stuck_on_a_cleared_model_is_run_again(
    version: str, gave_up: bool, cleared: str, home: Home, provider: Provider
) -> None:
    refusal = spent("in 2 hours") if gave_up else limited(7200)
    provider.script(PRIMARY, refusal)
    provider.script(FALLBACK, refusal)
    with Daemon(home, chain=CHAIN) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Set me free", model=PRIMARY)
        daemon.wait_journal("parked")
        wait_until(lambda: "every model is cooling" in daemon.ocwatch("status").stdout, 30, 0.5, "status to say so")
        on = serve.messages(session)[-1]["info"]
        sits_on = f"{on['providerID']}/{on['modelID']}"
        settle(OLD if gave_up else 0)
        provider.script(sits_on, ok("free again"))
        asked = len(provider.requests(sits_on))
        listed = f"{on['providerID']}/*" if gave_up else sits_on
        assert daemon.ocwatch("clear", listed if cleared == "it" else cleared).returncode == 0
        serve.wait_answer(session, "free again")
        assert [request.count("Set me free") for request in provider.requests(sits_on)[asked:]] == [1]
        assert len(serve.user_messages(session)) == 1
        wait_until(lambda: session not in serve.status(), why="the answer to end")
