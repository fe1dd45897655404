"""Tests of the rows by which other tools were compared, in each client of a real OpenCode 2.

The clients are its terminal (in tmux), a plain `run`, and `oc-smart run`, each beside a daemon. `test_v2_table.py` has
the same rows in the service, and the first two in a terminal and in `run`; `test_v2_smart.py` has those of `oc-smart
run` without a daemon. All are judged by the provider's record.

What a plain `run` cannot show:

* It is moved only at OpenCode's own next attempt, because an interrupt would end it with code 0 and no answer. A
  provider that names its time in a Retry-After header postpones this attempt to that time. Here it names the time only
  in words, which OpenCode ignores and ocwatchd reads. OpenCode asks again after 2 s, and on a busy machine its model is
  switched later than that: each limited model gets at most one request more.
* If every model is limited, it is neither stopped nor continued: it waits for OpenCode's own next attempt.

What the preview cannot show:

* No request at all to a limited model from a second session, or from the next prompt of a terminal: a terminal names
  its own model with every prompt, and the preview calls no plugin before a prompt. Such a prompt meets the limit once.
  `oc-smart run` and `run -s` send none.
* The name of the fallback at the prompt of a terminal, because a terminal shows there the model that its user has
  chosen. The session and the label of each answer name the model that was used.

Three rows have no cell here: the time until the move (`bench/recovery.py`), OpenCode 1.3.2, which is OpenCode 1, and a
notice on the screen, because OpenCode 2 has no toasts. Notices are counted where they are sent.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack

import pytest

from tests.support.clients2 import RUN, SMART, TERMINAL, WAYS, Terminal, client, watched
from tests.support.daemon import epoch
from tests.support.opencode2 import Home2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, Script, after_tool, error, limited, ok, tool

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
ANSWER, LAST, BACK = "answer of mock2/fallback", "answer of mock3/third", "the primary again"
UNKNOWN = {"error": {"message": "该模型当前访问人数过多, 请您稍后再试", "type": "x", "code": "1234"}}
QUOTED = {"error": {"message": "The prompt 'rate limit exceeded' is not allowed", "type": "invalid_request_error"}}


def limit(way: str, seconds: float = 3600) -> Answer:
    """Return a 429 after which this client can be moved at once."""
    left = math.ceil(seconds)
    return limited(message=f"Rate limit reached, try again in {left} seconds") if way == RUN else limited(left)


class Until:
    """Refuses requests for `seconds` from the first one on, and then answers `text`."""

    def __init__(self, way: str, seconds: float, text: str) -> None:
        self.way, self.seconds, self.text = way, seconds, text
        self.reset = 0.0

    def __call__(self, _: Request) -> Answer:
        self.reset = self.reset or time.time() + self.seconds
        left = self.reset - time.time()
        return limit(self.way, left) if left > 0 else ok(self.text)


def most(way: str) -> int:
    """Return the number of requests that a limited model may get until this client is moved."""
    return 2 if way == RUN else 1


def asked(provider: Provider, model: str, text: str, session: str | None = None) -> list[int]:
    """Return how often each request to a model contains a prompt, for the requests that contain it at all."""
    found = [it for it in provider.requests(model) if session in (None, it.session)]
    return [it.count(text) for it in found if it.count(text)]


def said(service: Service2, session: str) -> list[str]:
    """Return the user's messages of a session. `run` quotes a prompt that contains spaces."""
    return [str(it["text"]).strip('"') for it in service.user_messages(session)]


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_in_unknown_words_is_known_to_later_prompts_sessions_and_daemons(
    way: str, home2: Home2, provider: Provider
) -> None:
    provider.script(PRIMARY, error(429, UNKNOWN, {} if way == RUN else {"Retry-After": "3600"}))
    with watched(home2, retry={"enabled": False}) as (service, daemon), client(way, home2, provider, service) as user:
        user.ask("The first prompt", ANSWER)
        first = user.session()
        (moved,) = daemon.wait_journal("moved")
        assert (moved["session"], moved["target"]) == (first, FALLBACK)
        refused = len(provider.requests(PRIMARY))
        assert 1 <= refused <= most(way)
        until = daemon.wait_cooldown(PRIMARY)["until"]
        if isinstance(user, Terminal):
            user.tui.wait_screen("Build · fallback")
            assert "Build · primary ·" not in user.tui.screen()

        daemon.stop()
        daemon.start()
        assert abs(epoch(daemon.wait_cooldown(PRIMARY)["until"]) - epoch(until)) < 1
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")

        user.ask("The second prompt", ANSWER)
        assert user.session() == first
        assert len(provider.requests(PRIMARY)) - refused <= (1 if way == TERMINAL else 0)
        before = len(provider.requests(PRIMARY))
        user.ask("The third prompt", ANSWER, new=True)
        second = user.session()
        assert second != first
        assert len(provider.requests(PRIMARY)) - before <= (0 if way == SMART else most(way))

        for text in user.said:
            assert set(asked(provider, FALLBACK, text)) == {1}
        assert said(service, first) == ["The first prompt", "The second prompt"]
        assert said(service, second) == ["The third prompt"]


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_request_stays_two_limits_in_a_row_are_moved_and_a_known_time_is_obeyed(
    way: str, home2: Home2, provider: Provider
) -> None:
    until = Until(way, 15, BACK)
    answers: list[Script] = [lambda _: error(400, QUOTED), lambda _: ok("the healthy primary")]
    provider.script(PRIMARY, lambda request: (answers.pop(0) if answers else until)(request))
    provider.script(FALLBACK, limit(way))
    settings = {"retry": {"enabled": False}, "maxDelay": 1000}
    with watched(home2, **settings) as (service, daemon), client(way, home2, provider, service) as user:
        user.ask("A quoted limit", "the healthy primary")
        assert len(provider.requests(PRIMARY)) == 2
        assert (daemon.cooldown(PRIMARY), daemon.journal("claim"), provider.requests(FALLBACK)) == (None, [], [])

        user.ask("Two limits", LAST)
        refused = len(provider.requests(FALLBACK))
        assert 1 <= refused <= most(way)
        assert asked(provider, THIRD, "Two limits") == [1]
        daemon.wait_cooldown(FALLBACK)
        reported = next(it for it in daemon.journal("limit") if it["model"] == PRIMARY)
        # OpenCode reckons from the moment at which it has read the refusal: after it was sent, before the move.
        moved = provider.requests(FALLBACK)[0].wall
        first = next(it for it in provider.requests(PRIMARY)[2:] if it.status == 429).wall
        assert -1 < epoch(reported["until"]) - until.reset < 1 + moved - first

        # On a slow machine the next prompt may come after the reset.
        user.ask("Within the cooldown", LAST, BACK, new=True)
        assert len(provider.requests(FALLBACK)) == refused

        wait_until(lambda: time.time() > until.reset + 1, 60, why="the end of the cooldown")
        user.ask("After the cooldown", BACK, new=True)
        answered = [it for it in provider.requests(PRIMARY)[2:] if it.status == 200]
        assert all(it.wall >= until.reset - 0.5 for it in answered)


@pytest.mark.parametrize("way", [TERMINAL, RUN])
def test_with_every_model_limited_there_is_one_notice_and_the_answer_comes_by_itself(
    way: str, home2: Home2, provider: Provider
) -> None:
    """For `oc-smart run`, which ends with 75, see `test_v2_smart.py`."""
    notices = home2.root / "notices"
    command = ["/bin/sh", "-c", f"cat >> {notices}; echo >> {notices}"]
    # OpenCode asks a `run`'s models after 2, 6, 14 and 30 s. At 14 s at the latest, the third one is limited as well.
    until = Until(way, 20 if way == RUN else 12, BACK)
    provider.script(PRIMARY, until)
    for model in (FALLBACK, THIRD):
        provider.script(model, limit(way))
    settings = {"retry": {"enabled": False}, "maxDelay": 1000, "notifications": {"command": command, "desktop": False}}
    with watched(home2, **settings) as (service, daemon), client(way, home2, provider, service) as user:
        user.ask("Hello to all", BACK)
        assert len(daemon.journal("exhausted")) == 1
        titles = [json.loads(line)["title"] for line in notices.read_text().splitlines() if line]
        assert titles.count("Every model is limited") == 1
        assert 1 <= len(provider.requests(FALLBACK)) <= most(way)
        # A `run` goes on asking: at 6 and 14 s, and at 30 s if it has not yet been given its model again.
        assert 1 <= len(provider.requests(THIRD)) <= (3 if way == RUN else 1)
        assert len(service.user_messages(user.session())) == 1
        assert provider.requests(PRIMARY)[-1].wall >= until.reset - 0.5


def test_clients_that_are_hit_after_another_one(home2: Home2, provider: Provider) -> None:
    """Three clients run a tool while a fourth is limited. They are hit when the tool has ended.

    A session that is created while a `run` works in the same directory could be that of the `run`, and is therefore not
    interrupted. The terminal has its own directory.
    """
    marks = {way: home2.root / f"ran-{number}" for number, way in enumerate(WAYS)}
    gate = home2.root / "gate"

    def script(request: Request) -> Answer:
        way = next((way for way in WAYS if request.count(f"Tool of {way}.")), None)
        if way is None:
            return limit(RUN)
        command = f"echo ran >> {marks[way]}; while [ ! -e {gate} ]; do sleep 0.2; done"
        return after_tool(tool("shell", command=command, description="Waits"), limit(way))(request)

    provider.script(PRIMARY, script)
    with watched(home2, retry={"enabled": False}) as (service, daemon), ExitStack() as stack:
        places = {TERMINAL: home2.project("another"), RUN: None, SMART: None}
        users = {way: stack.enter_context(client(way, home2, provider, service, places[way])) for way in WAYS}
        for way, user in users.items():
            user.start(f"Tool of {way}.")
        wait_until(lambda: all(mark.exists() for mark in marks.values()), 60, why="the tools to run")
        with client(RUN, home2, provider, service) as early:
            early.ask("Hit at once", ANSWER)
        daemon.wait_journal("moved")
        gate.touch()
        for way, user in users.items():
            user.finish(ANSWER)
            (request,) = [it for it in provider.requests(FALLBACK) if it.count(f"Tool of {way}.")]
            assert request.tool_results
            assert marks[way].read_text() == "ran\n"
            assert len(service.user_messages(user.session())) == 1
        assert len(daemon.wait_journal("moved", 4)) == 4


@pytest.mark.parametrize("way", WAYS)
def test_four_clients_at_once(way: str, home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limit(way))
    with watched(home2, retry={"enabled": False}) as (service, _daemon), ExitStack() as stack:
        users = [stack.enter_context(client(way, home2, provider, service)) for _ in range(4)]
        for number, user in enumerate(users):
            user.start(f"Prompt {number} of four")
        for number, user in enumerate(users):
            user.finish(ANSWER)
            assert asked(provider, FALLBACK, f"Prompt {number} of four") == [1]
            assert asked(provider, PRIMARY, f"Prompt {number} of four") in [
                [1] * times for times in range(most(way) + 1)
            ]
            assert len(service.user_messages(user.session())) == 1
        assert len({user.session() for user in users}) == 4
        assert len(provider.requests(PRIMARY)) <= 4 * most(way)
