"""Tests of findings of `ocwatch doctor` that need a running OpenCode."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e


def found(home: Home) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = ocwatch(home, "doctor", "--json")
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        checks.setdefault(check["code"], []).append(check)
    return done.returncode, checks


def test_beside_a_running_opencode(home: Home) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    chain = {"mock/primary": ["mock2/fallback", "mock/no-such-model"]}
    daemon = Daemon(home, chain, agents={"mock2/fallback": "claude-fallback", "mock/primary": "nobody"})
    with daemon, Serve(NEWEST, home) as serve:
        serve.create_session()  # opens the project, and so the plugin's endpoint
        wait_until(
            lambda: found(home)[1]["opencode-running"][0]["seen"].endswith(f"(version {NEWEST})"),
            why="the plugin's word",
        )
        code, checks = found(home)
        assert code == 1
        assert (
            checks["doors"][0]["severity"] == checks["plugin"][0]["severity"] == checks["daemon"][0]["severity"] == "ok"
        )
        errors = {
            check["code"]: check["seen"] for many in checks.values() for check in many if check["severity"] == "error"
        }
        assert set(errors) == {"chain-model", "chain-agent"}
        assert "mock/no-such-model" in errors["chain-model"]
        assert "according to a running OpenCode" in errors["chain-model"]
        assert "nobody" in errors["chain-agent"]
        assert "log-lines" not in checks

        # A stopped daemon is alive and reads nothing, which shows after the ten seconds that a heartbeat may be old.
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: daemon.ocwatch("status").returncode == 3, 40, pause=1.0, why="status to say deaf")
            assert daemon.ocwatch("status").stdout.splitlines()[-1] == "next: ocwatch doctor (see what to do)"
            assert found(home)[1]["daemon"][0]["severity"] == "error"
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        # 4, because the chain names a model that OpenCode does not offer
        wait_until(lambda: daemon.ocwatch("status").returncode == 4, 60, pause=0.5, why="it to read again")
