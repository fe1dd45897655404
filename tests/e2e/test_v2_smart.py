"""Tests of `oc-smart run` with a real OpenCode 2: watched, moved, and with the exit code that scripts rely on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.opencode import NEWEST
from tests.support.opencode2 import Home2, Serve2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Provider, error, limited, ok
from tests.support.smart import Smart

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
QUOTA = {"error": {"message": "You exceeded your current quota, please check your plan", "code": "insufficient_quota"}}
ANSWER = "answer of mock2/fallback"


@pytest.fixture
def smart(home2: Home2) -> Smart:
    return Smart(home2, NEWEST)


@pytest.fixture
def service(home2: Home2, smart: Smart) -> Iterator[Service2]:
    with Service2(home2, smart.cwd) as running:
        yield running


def only_session(service: Service2 | Serve2) -> str:
    (found,) = service.request("GET", "/api/session?limit=10")["data"]
    return str(found["id"])


@pytest.mark.parametrize("answer", [limited(3600), limited(), error(429, QUOTA)], ids=["an hour", "no time", "quota"])
def test_a_limited_run_prints_the_answer_of_the_fallback(
    answer: object, smart: Smart, service: Service2, provider: Provider
) -> None:
    provider.script(PRIMARY, answer)
    done = smart.run("run", "What is six times seven?")
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
    assert f"moving to {FALLBACK}" in done.stderr
    assert len(service.user_messages(only_session(service))) == 1
    (asked,) = provider.requests(FALLBACK)
    assert asked.count("What is six times seven?") == 1
    assert {PRIMARY, "mock/*"} & smart.cooldowns().keys()
    assert service.pid  # no run may end the shared service


def test_a_second_run_of_the_same_prompt_has_its_own_session(
    smart: Smart, service: Service2, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    for number in (1, 2):
        smart.forget()
        done = smart.run("run", "Hello")
        assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
        assert [len(provider.requests(model)) for model in (PRIMARY, FALLBACK)] == [number, number]
    assert len({request.session for request in provider.requests(FALLBACK)}) == 2
    assert service.pid


def test_a_run_that_starts_the_service_leaves_it_running(home2: Home2, smart: Smart, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    done = smart.run("run", "Hello")
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
    service = Service2(home2, smart.cwd)
    service.adopt()
    try:
        # Its configuration is the user's: none of our settings became a default for all clients.
        provider.script(PRIMARY, ok())
        session = service.create_session()
        service.prompt(session, "Hello again")
        service.wait_answer(session, "answer of mock/primary")
    finally:
        service.stop()


def test_the_answer_is_one_of_json_lines(smart: Smart, service: Service2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    done = smart.run("run", "--format", "json", "Hello")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["part"]["text"] for event in events if event["type"] == "text"] == [ANSWER]
    assert {event["sessionID"] for event in events} == {only_session(service)}


def test_with_everything_limited_it_ends_with_75_and_asks_nobody_any_more(
    smart: Smart, service: Service2, provider: Provider
) -> None:
    for model in (PRIMARY, FALLBACK, THIRD):
        provider.script(model, limited(3600))
    done = smart.run("run", "Hello")
    assert (done.returncode, done.stdout) == (75, "")
    assert "every model is cooling down" in done.stderr
    session = only_session(service)
    wait_until(lambda: session not in service.active(), 20, why="the turn to be stopped")
    asked = len(provider.requests())
    assert smart.run("run", "Hello again").returncode == 75
    assert len(provider.requests()) == asked


def test_a_private_server_is_watched_as_well(smart: Smart, provider: Provider) -> None:
    provider.script(PRIMARY, limited())
    done = smart.run("run", "--standalone", "Hello")
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
    assert f"moving to {FALLBACK}" in done.stderr
    assert smart.left_behind() == []


def test_another_server_is_asked_with_the_password_of_the_environment(
    home2: Home2, smart: Smart, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    with Serve2(home2, smart.cwd) as serve:
        address = f"http://127.0.0.1:{serve.port}"
        environ = {"OPENCODE_PASSWORD": serve.password or ""}
        done = smart.run("run", "--server", address, "Hello", environ=environ)
        assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
        assert len(serve.user_messages(only_session(serve))) == 1


def test_beside_a_daemon_it_is_moved_once(home2: Home2, smart: Smart, service: Service2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Daemon(home2) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        done = smart.run("run", "Hello")
        assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
        assert [len(provider.requests(model)) for model in (PRIMARY, FALLBACK)] == [1, 1]
        assert len(service.user_messages(only_session(service))) == 1


def test_the_small_interface_gets_the_fallback_on_its_command_line(smart: Smart) -> None:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    smart.block(**{PRIMARY: {"until": until, "target": {"model": FALLBACK, "agent": None}}})
    shown = smart.run("mini", "--print-env")
    assert shown.stdout.split() == ["opencode", "mini", "--model", FALLBACK]
