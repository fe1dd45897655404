"""Tests that both generations of OpenCode load the same installed plugin without a complaint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.daemon import ocwatch
from tests.support.opencode import GENERATIONS, LATER, Home, Serve, ServeError
from tests.support.opencode2 import Home2, Service2, quoted
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e


def logged(home: Home) -> str:
    return "".join(path.read_text(errors="replace") for path in home.log_dir.glob("*.log"))


def about(home: Home) -> dict[str, Any]:
    """Return what the plugin has written about the only process that has loaded it."""
    found = list((home.root / ".local/state/ocwatchd/doors").glob("*.json"))
    return dict(json.loads(found[0].read_text())) if len(found) == 1 else {}


def plain_routes(document: dict[str, Any]) -> list[str]:
    """Return the routes that answer a bare GET: without a parameter in the path, and without waiting for an event."""
    waits = ("event", "tui/control")
    plain = [path for path, verbs in document["paths"].items() if "get" in verbs and not set("{:*") & set(path)]
    return [path for path in plain if not any(part in path for part in waits)]


@pytest.mark.parametrize("version", [*GENERATIONS, *LATER])
def test_opencode_1_loads_the_function(version: str, home: Home) -> None:
    assert ocwatch(home, "plugin", "install").returncode == 0
    with Serve(version, home) as serve:
        for route in ("/session", "/config", "/agent", "/provider", "/command", "/path"):
            serve.request("GET", route)
        routes = plain_routes(serve.request("GET", "/doc", timeout=90))
        assert len(routes) > 10
        failing = []
        for route in routes:
            try:
                serve.request("GET", route, timeout=60)
            except TimeoutError:
                failing.append(f"{route} does not answer")
            except ServeError as fault:  # a missing parameter is not a fault of the server
                failing += [str(fault)] if ": 5" in str(fault) else []
        assert failing == []
        session = serve.create_session()
        serve.prompt_async(session, "Hello", model="mock/primary")
        serve.wait_answer(session, "answer of mock/primary", timeout=60)
        assert about(home)["door"] is True
        assert "generation" not in about(home)  # 1.18 contains an OpenCode 2
    complaints = [line for line in logged(home).splitlines() if "WARN" in line or "ERROR" in line]
    assert [line for line in complaints if "rate-limit-fallback" in line or "failed to load plugin" in line] == []
    assert not (home.root / ".local/state/ocwatchd/plugin-errors.log").exists()


def test_opencode_2_loads_the_object(home2: Home2) -> None:
    assert ocwatch(home2, "plugin", "install").returncode == 0
    with Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock/primary")
        for route in ("session", "model", "agent", "command", "skill", "provider"):
            service.request("GET", f"/api/{route}?location[directory]={quoted(service.project)}")
        listed = service.request("GET", f"/api/plugin?location[directory]={quoted(service.project)}")["data"]
        (ours,) = [entry for entry in listed if "ocwatchd" in json.dumps(entry)]
        print(ours)
        assert "fail" not in json.dumps(ours)
        told = wait_until(lambda: about(home2), 10, why="the plugin to tell of itself")
        assert (told["pid"], told["generation"], told["door"]) == (service.pid, 2, False)
        # The preview calls neither `prompt` nor `retry`, which the releases call by contract.
        assert told["hooks"] == ["context"]
    text = logged(home2)
    assert "loading plugin" in text
    assert "failed to load plugin" not in text
    assert not (home2.root / ".local/state/ocwatchd/plugin-errors.log").exists()
