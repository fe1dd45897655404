"""`ocwatch doctor` beside a real OpenCode: what only a running one can tell."""

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
        serve.create_session()  # opens the project, and with it the plugin's door
        wait_until(lambda: found(home)[1]["opencode-running"][0]["seen"].endswith(NEWEST), why="the plugin's word")
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
        assert "says a running OpenCode" in errors["chain-model"]
        assert "nobody" in errors["chain-agent"]
        assert "log-lines" not in checks

        # Stopped, it is alive and hears nothing: that shows within the ten seconds that a beat may be old.
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: daemon.ocwatch("status").returncode == 3, 40, pause=1.0, why="status to say deaf")
            assert daemon.ocwatch("status").stdout.splitlines()[-1] == "# what to do about it: ocwatch doctor"
            assert found(home)[1]["daemon"][0]["severity"] == "error"
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        wait_until(lambda: daemon.ocwatch("status").returncode == 0, 60, pause=0.5, why="it to hear again")
