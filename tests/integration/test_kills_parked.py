"""Tests of SIGKILL at random moments of a daemon with parked turns: each is run again once, and none before its time.

`PARKED=1000 python -m pytest tests/integration/test_kills_parked.py -s` is the full run; a suite parks fewer.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.conftest import Count
from tests.integration.logtext import refusal
from tests.integration.test_kills import LIFE, Told, whole
from tests.support.daemon import Daemon
from tests.support.fakeopencode import FakeOpenCode
from tests.support.homes import Home
from tests.support.processes import start, wait_until

PARKED = int(os.environ.get("PARKED", "30"))
MODELS = 10
"""Models that the sessions use; each returns at a time of its own."""
FIRST = 8.0 + 0.1 * PARKED
"""Seconds until the first model returns; by then all sessions are parked."""
ALL = 8.0 + 0.2 * PARKED
"""Seconds from the return of the first model to that of the last one."""
ANSWER = "Too Many Requests, try again in {}s"


@pytest.mark.timeout(400 + 3 * PARKED)
def test_each_parked_turn_is_run_again_once_and_none_before_its_time(tmp_path: Path, counted: Count) -> None:
    draw = random.Random(os.environ.get("SEED", "20261201"))
    with FakeOpenCode(str(tmp_path)) as opencode:
        home = Home(tmp_path, opencode.url)
        daemon = Daemon(home, chain={}, endpoints=[opencode.url])
        home.log_dir.mkdir(parents=True)
        log, told, kills = home.log_dir / "opencode.log", Told(daemon.state), 0
        log.touch()
        resets: dict[str, float] = {}
        with daemon:
            waits = {f"mock/m{number}": round(FIRST + ALL * number / (MODELS - 1)) for number in range(MODELS)}
            for number in range(PARKED):
                model = draw.choice(list(waits))
                resets[f"ses_{number}"] = limit(opencode, log, number, model, waits[model])
            wait_until(lambda: parked(told) == set(resets), 60 + PARKED, pause=0.5, why="all are parked")
            daemon.kill()
            while time.time() < max(resets.values()) + 2:
                daemon.process = start(daemon.command, home, home.root, daemon.output)
                if draw.random() < 0.7:
                    wait_until(lambda: daemon.heartbeat().get("pid") == daemon.pid, 60, pause=0.01, why="a heartbeat")
                time.sleep(draw.uniform(0.0, draw.choice((LIFE, 5 * LIFE))))
                daemon.kill()
                whole(daemon.state)
                told.entries("")
                counted("kills of a daemon with parked turns", 1)
                kills += 1
            before = sum(bool(session.ran) for session in opencode.sessions.values())
            daemon.start()
            wait_until(
                lambda: all(s.answered for s in opencode.sessions.values()), 90 + PARKED, why="all are run again"
            )
            time.sleep(1.0)  # a second run of one of them would follow at once
        late = [session.ran[0][0] - resets[session.id] for session in opencode.sessions.values()]
        print(
            f"{PARKED} parked turns, {kills} kills, {before} run again between them; {min(late):.2f} s after the reset"
        )
        assert kills > 4
        assert before > 0, "some were run again by daemons that were killed"
        assert {session.id: session.ran for session in opencode.sessions.values() if session.runs != 1} == {}
        assert min(late) >= 0, "none before its time"
        assert [session.id for session in opencode.sessions.values() if session.spoilt] == []


def parked(told: Told) -> set[str]:
    """Return the sessions that the journal says are parked."""
    return {entry["session"] for entry in told.entries("parked")}


def limit(opencode: FakeOpenCode, log: Path, number: int, model: str, wait: int) -> float:
    """Let the prompt of a new session be refused; return when its model returns, by the provider's words."""
    now = time.time()
    words = ANSWER.format(wait)
    opencode.given_up(f"ses_{number}", model, words)
    line = refusal(number, now).replace(b"Too Many Requests", words.encode())
    with log.open("ab", buffering=0) as file:
        file.write(line.replace(b"modelID=primary", b"modelID=" + model.partition("/")[2].encode()))
    return now + wait - 0.01  # OpenCode's times have whole milliseconds
