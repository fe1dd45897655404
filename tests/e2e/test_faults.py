"""Tests of faults during a move with a real OpenCode: many sessions at once, and OpenCode killed at any step."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.conftest import Count
from tests.support.daemon import Daemon, settle
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.processes import signal_group, wait_until
from tests.support.provider import Provider, limited, ok

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
SESSIONS = int(os.environ.get("SESSIONS", "16"))
"""`SESSIONS=50` is the full run: half a minute on an idle machine."""


def test_many_sessions_limited_at_once(home: Home, provider: Provider, counted: Count) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("the fallback's answer"))
    with Serve(NEWEST, home) as serve, Daemon(home) as daemon:
        sessions = [serve.create_session() for _ in range(SESSIONS)]
        memory = psutil.Process(daemon.pid).memory_info().rss
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: serve.prompt_async(one, f"Prompt of {one}.", model=PRIMARY), sessions))
        wait_until(lambda: len(daemon.journal("moved")) >= SESSIONS, 150, why="all are moved")
        grown = psutil.Process(daemon.pid).memory_info().rss - memory
        for session in sessions:
            serve.wait_answer(session, "the fallback's answer", timeout=60)
            assert len(serve.user_messages(session)) == 1
        refused, asked = provider.requests(PRIMARY), provider.requests(FALLBACK)
        assert sorted(Counter(entry["session"] for entry in daemon.journal("moved")).values()) == [1] * SESSIONS
        assert [sum(request.count(f"Prompt of {one}.") for request in asked) for one in sessions] == [1] * SESSIONS
        assert len(asked) == len(refused) == SESSIONS
        wait_until(
            lambda: daemon.wait_cooldown(PRIMARY)["strikes"] >= SESSIONS, why="all strikes, written at their pace"
        )
        entry = daemon.wait_cooldown(PRIMARY)
        assert (entry["strikes"], entry.get("doublings", 0)) == (SESSIONS, 0)
        assert grown < 100 << 20
        span = max(request.wall for request in refused) - min(request.wall for request in refused)
        took = max(request.wall for request in asked) - min(request.wall for request in refused)
        print(f"{SESSIONS} refused within {span:.1f} s, all moved after {took:.1f} s, {grown >> 20} MiB more")
        counted("faults survived", SESSIONS)


@pytest.mark.parametrize("delay", [0.3])
def test_opencode_killed_in_the_middle_of_a_move(home: Home, provider: Provider, delay: float, counted: Count) -> None:
    """Its prompt is run once or not at all, and the reported result is true."""
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("the fallback's answer"))
    with Daemon(home) as daemon:
        with Serve(NEWEST, home) as serve:
            session = serve.create_session()
            serve.prompt_async(session, "Count the lines.", model=PRIMARY)
            wait_until(lambda: daemon.journal("claim"), 60, pause=0.005, why="a move")
            time.sleep(delay)
            signal_group(serve.pid, signal.SIGKILL)
        ends = ("moved", "failed", "already", "unreachable")
        ended = wait_until(lambda: [entry["what"] for what in ends for entry in daemon.journal(what)], 60, why="an end")
        with Serve(NEWEST, home) as serve:
            settle(5.0)  # time for a move that continues where the killed one stopped
            assert len(serve.user_messages(session)) == 1
        asked = provider.requests(FALLBACK)
        assert sum(request.count("Count the lines.") for request in asked) == len(asked) <= 1
        assert ("moved" in ended) <= bool(asked)
        assert daemon.ocwatch("status").returncode == 0
        print(f"killed after {delay} s: {ended}, then {[entry['what'] for entry in daemon.journal()]}")
        counted("kills", 1)
