"""Tests of OpenCode 2's log: a turn that failed for good, in a file that OpenCode shortens in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.daemon import WHOLE_CHAIN, Daemon, ocwatch
from tests.support.opencode2 import Home2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Provider, error
from tests.support.shortening import all_of, trim

pytestmark = pytest.mark.e2e
PRIMARY, ANSWER = "mock/primary", "answer of mock2/fallback"
LIMIT = {"error": {"message": "You have hit your usage limit. Try again later.", "code": "usage_not_included"}}
DRAINED = "Failed to drain Session"


def lines(log: Path) -> int:
    return log.read_text(errors="replace").count(DRAINED)


def test_a_failed_turn_is_read_counts_once_and_the_log_may_be_trimmed(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, error(429, LIMIT))
    log = home2.log_dir / "opencode.log"
    with Service2(home2) as service, Daemon(home2, WHOLE_CHAIN) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        for number in (1, 2):
            session = service.create_session()
            service.prompt(session, f"Hello {number}")
            service.wait_answer(session, ANSWER)
            daemon.wait_journal("moved", number)
            wait_until(lambda number=number: lines(log) >= 1, 30, why="the failed turn in the log")
            told = [json.loads(line) for line in ocwatch(home2, "classify", str(log), "--json").stdout.splitlines()]
            (found,) = [event for event in told if event["session"] == session]
            assert (found["status"], found["model"], found["certainty"]) == (429, None, "sure")
            all_of(trim(log, 200))  # as OpenCode 2 does above 50 MiB, but keeping less
            assert lines(log) == 0
        limits = daemon.journal("limit")
        assert [entry["session"] for entry in limits] == [entry["session"] for entry in daemon.journal("moved")]
        status = ocwatch(home2, "status")
        assert status.returncode == 0, status.stdout
        assert "internal fault" not in daemon.said()
