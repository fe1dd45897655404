"""Tests of a plain TUI without a port, in tmux: moves through the plugin's endpoint, and typing afterwards."""

from __future__ import annotations

import time

import pytest

from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.opencode import GENERATIONS, MIDDLE, NEWEST, Home
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, after_tool, bash, limited, slow
from tests.support.tui import Tui

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
TWO_THREADS = "1.14.41"
"""The TUI of this version also loads plugins in the main thread, after the worker thread in which the sessions run."""


def spoken(text: str) -> Answer:
    """An answer at a human pace, because 1.3.2's TUI does not draw one that comes at once, with or without ocwatchd."""
    return slow(text, 1.0)


@pytest.mark.parametrize("version", [*GENERATIONS, TWO_THREADS])
def test_moved_through_the_door_then_prevented_then_back(version: str, home: Home, provider: Provider) -> None:
    effect = home.root / "ran.txt"
    provider.script(PRIMARY, after_tool(bash(f"echo once >> {effect}"), limited(40)))
    provider.script(FALLBACK, spoken("first answered elsewhere"), spoken("second answered elsewhere"))
    assert ocwatch(home, "plugin", "install").returncode == 0
    with Daemon(home, maxDelay=2000) as daemon, Tui(version, home) as tui:
        tui.say("Name the first colour")
        screen = tui.wait_screen("first answered elsewhere", timeout=60)
        assert screen.count("Name the first colour") == 1, "the prompt is shown once, too"
        (refused,) = [r for r in provider.requests(PRIMARY) if r.status == 429]
        end = epoch(daemon.wait_reported(PRIMARY)["until"])
        (moved,) = daemon.wait_journal("moved")
        (asked,) = provider.requests(FALLBACK)
        # OpenCode reckons from its own clock, after the refusal and before the move. Old logs contain whole seconds.
        assert refused.wall - 1.1 < end - 40 < asked.wall + 0.1
        assert asked.count("Name the first colour") == 1
        assert asked.tool_results
        assert effect.read_text() == "once\n"

        before = len(provider.requests(PRIMARY))
        settle(1)  # 1.0.185 loses a prompt that arrives in the milliseconds in which its loop ends
        tui.say("Name the second colour")
        tui.wait_screen("second answered elsewhere")
        second = provider.requests(FALLBACK)[-1]
        assert second.wall < end, "too slow a machine for this test"
        assert second.count("Name the second colour") == 1
        assert len(provider.requests(PRIMARY)) == before, "the limited model was not asked"
        assert second.count("Name the first colour") == 1, "one user message, not two"

        provider.script(PRIMARY, spoken("the primary is back"))
        settle(max(end + 0.2 - time.time(), 1))
        tui.say("Name the third colour")
        tui.wait_screen("the primary is back")
        assert len(provider.requests(FALLBACK)) == 2
        assert moved["session"].startswith("ses_")


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_opened_again_it_goes_back_unless_the_stand_in_is_chosen_by_hand(
    version: str, home: Home, provider: Provider
) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    Daemon(home)  # writes the configuration only: prevention needs no daemon
    assert ocwatch(home, "block", PRIMARY, "--for", "1h").returncode == 0
    provider.script(FALLBACK, spoken("first answered elsewhere"), spoken("third answered elsewhere"))
    provider.script(PRIMARY, spoken("the primary is back"))
    with Tui(version, home) as tui:
        tui.say("Name the first colour")
        tui.wait_screen("first answered elsewhere")
    assert ocwatch(home, "clear", PRIMARY).returncode == 0
    with Tui(version, home, arguments=["--continue"]) as tui:
        tui.wait_screen("first answered elsewhere")
        tui.wait_screen("fallback mock2")  # the TUI adopted the fallback as the session's own model
        tui.say("Name the other colour")
        tui.wait_screen(f"{PRIMARY} is available again")  # the toast fades after 8 s, which the answer may take
        tui.wait_screen("the primary is back")

        tui.keys("C-x", "m")
        tui.wait_screen("Select model")
        tui.type("fallback")
        wait_until(lambda: "second" not in tui.screen().partition("Select")[2], 60, why="the list to be narrowed down")
        settle(0.5)
        tui.keys("Enter")
        wait_until(lambda: "Select model" not in tui.screen(), 60, why="the dialog to close")
        tui.say("Name the third colour")
        tui.wait_screen("third answered elsewhere")
    assert len(provider.requests(PRIMARY)) == 1


@pytest.mark.parametrize("version", GENERATIONS)
def test_a_toast_says_once_per_cooldown_what_runs(version: str, home: Home, provider: Provider) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    Daemon(home)  # writes the configuration only: prevention needs no daemon
    assert ocwatch(home, "block", PRIMARY, "--for", "1h").returncode == 0
    with Tui(version, home) as tui:
        tui.say("Say something")
        assert FALLBACK in tui.wait_screen(f"{PRIMARY} is limited", timeout=60)
        provider.wait_requests(FALLBACK, 1)
        wait_until(lambda: f"{PRIMARY} is limited" not in tui.screen(), 60, why="the toast to fade")
        tui.say("Say it again")
        provider.wait_requests(FALLBACK, 2)
        settle(1.5)
        assert f"{PRIMARY} is limited" not in tui.screen()
    assert provider.requests(PRIMARY) == []
    assert [r.model for r in provider.requests()] == [FALLBACK] * 2


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_the_door_is_found_anew_after_a_restart_and_stale_files_go(
    version: str, home: Home, provider: Provider
) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    with Daemon(home) as daemon:
        endpoints = daemon.state / "doors"
        with Tui(version, home) as tui:
            tui.say("Hello")
            provider.wait_requests(PRIMARY)
            wait_until(lambda: (endpoints / f"{tui.pid}.sock").exists(), 60, why="the endpoint")
            gone = tui.pid
        provider.script(PRIMARY, limited(3600))
        provider.script(FALLBACK, spoken("answered elsewhere"))
        with Tui(version, home) as tui:
            tui.say("Hello again")
            tui.wait_screen("answered elsewhere", timeout=60)
            assert len(daemon.wait_journal("moved")) == 1
            wait_until(lambda: not list(endpoints.glob(f"{gone}.*")), 60, why="stale files to be removed")
