"""Tests that a user's stop right after a move is respected: nothing is sent afterwards, whatever form the stop has."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.daemon import Daemon, ocwatch, settle
from tests.support.opencode import MIDDLE, NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited, ok, slow
from tests.support.tui import Tui

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
DELAYS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
"""Seconds from the fallback's request to the stop."""
MOVES = int(os.environ.get("MOVES", "12"))
"""Number of moves in the long version of the test with the clean-up; MOVES=200 takes ten minutes."""
POSTED_AGAIN = 5.0
"""Seconds after which a prompt that seemed lost would be posted again."""


def moved(provider: Provider, text: str) -> int:
    """Return how often the fallback got this prompt."""
    return sum(request.count(text) for request in provider.requests(FALLBACK))


@pytest.mark.parametrize("version", [NEWEST, "1.15.13", MIDDLE, "1.1.65"])
def test_an_abort_soon_after_a_move_holds(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, slow("never to be finished", 20))
    texts = [f"Stop me after {delay} seconds" for delay in DELAYS]
    with Daemon(home) as daemon, Serve(version, home) as serve:
        sessions = []
        for delay, text in zip(DELAYS, texts, strict=True):
            sessions.append(session := serve.create_session())
            serve.prompt_async(session, text, model=PRIMARY)
            provider.wait_for(lambda _, text=text: moved(provider, text))
            settle(delay)
            serve.abort(session)
            serve.wait_status(session, "idle")
        settle(POSTED_AGAIN)
        assert [moved(provider, text) for text in texts] == [1] * len(texts)
        assert serve.status() == {}
        assert [len(serve.user_messages(session)) for session in sessions] == [1] * len(texts)
        assert [claim["session"] for claim in daemon.journal("claim")] == sessions


@pytest.mark.parametrize("delay", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_escape_pressed_twice_soon_after_a_move_holds(
    version: str, delay: float, home: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, slow("never to be finished", 20))
    assert ocwatch(home, "plugin", "install").returncode == 0
    with Daemon(home) as daemon, Tui(version, home) as tui:
        tui.say("Stop me with the keyboard")
        provider.wait_requests(FALLBACK)
        settle(delay)
        # A terminal ignores the key until it has drawn that the session is busy, so press it until the answer ends.
        (answer,) = provider.requests(FALLBACK)
        wait_until(lambda: answer.client_left or tui.keys("Escape"), 60, 0.3, "the answer to be stopped")
        settle(POSTED_AGAIN)
        assert moved(provider, "Stop me with the keyboard") == 1
        assert len(daemon.journal("claim")) == 1


@pytest.mark.parametrize("version", [NEWEST, MIDDLE, "1.1.65"])
def test_no_move_is_lost_to_the_clean_up_of_the_run_before_it(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("moved"))
    texts = [f"Number {number} of {MOVES}" for number in range(MOVES)]
    with Daemon(home) as daemon, Serve(version, home) as serve:

        def run(text: str) -> str:
            session = serve.create_session()
            serve.prompt_async(session, text, model=PRIMARY)
            serve.wait_answer(session, "moved")
            return session

        with ThreadPoolExecutor(4) as pool:
            sessions = list(pool.map(run, texts))
        assert {len(serve.user_messages(session)) for session in sessions} == {1}
        assert [moved(provider, text) for text in texts] == [1] * len(texts)
        assert sorted(note["session"] for note in daemon.wait_journal("moved", len(texts))) == sorted(sessions)
