"""Tests of what commands report about OpenCode 2: its endpoints, and which of them cannot be served."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import WHOLE_CHAIN, Daemon, ocwatch
from tests.support.opencode import NEWEST, Serve
from tests.support.opencode2 import Home2, Serve2, Service2, SharedHome
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited
from tests.support.reaper import sweep
from tests.support.smart import Smart

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"


def document(home: Home2, *command: str) -> tuple[int, dict[str, Any]]:
    done = ocwatch(home, *command, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_service_is_named_with_its_generation_and_its_password_nowhere(home2: Home2) -> None:
    with Daemon(home2, WHOLE_CHAIN) as daemon, Service2(home2) as service:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        code, status = document(home2, "status")
        (endpoint,) = status["endpoints"]
        assert (code, status["serves_all"], endpoint["trouble"]) == (0, True, None)
        assert (endpoint["pid"], endpoint["generation"], endpoint["plugin"]) == (service.pid, 2, False)
        assert ocwatch(home2, "statusline").returncode == 0

        _, doctor = document(home2, "doctor")
        found = {(check["code"], check["severity"]): check for check in doctor["checks"]}
        assert "OpenCode 2" in found["opencode-program", "ok"]["seen"]
        assert "not installed" in found["plugin", "warning"]["seen"]
        assert doctor["endpoints"] == status["endpoints"]
        text = json.dumps(doctor)
        for untrue in ("reinstall", "before the plugin was installed", "OPENCODE_SERVER_PASSWORD", "older than 1.0"):
            assert untrue not in text
        bundle = home2.root / "report.tar.gz"
        ocwatch(home2, "doctor", "--bundle", str(bundle))
        assert service.password
        written = b"".join(path.read_bytes() for path in daemon.state.rglob("*") if path.is_file())
        archived = b"".join(content for _, content in members(bundle))
        assert (
            service.password.encode() not in written + archived + (text + json.dumps(status) + daemon.said()).encode()
        )

        restarted = ocwatch(home2, "restart")
        assert (restarted.returncode, "no session is limited" in restarted.stderr) == (1, True)


def members(archive: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        return [(it.name, content.read()) for it in opened if (content := opened.extractfile(it)) is not None]


def test_a_service_that_has_ended_is_not_held_against_anybody(home2: Home2) -> None:
    with Daemon(home2, WHOLE_CHAIN) as daemon:
        with Service2(home2):
            wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        assert ocwatch(home2, "status").returncode == 0
        wait_until(lambda: not daemon.heartbeat().get("endpoints"), 30, why="the daemon to see its end")


def test_a_serve_whose_password_nobody_knows_is_said_everywhere(home2: Home2) -> None:
    with Serve2(home2, password=None) as serve, Daemon(home2, WHOLE_CHAIN) as daemon:
        (endpoint,) = wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find it")
        assert (endpoint["pid"], endpoint["generation"]) == (serve.pid, 2)
        said = ocwatch(home2, "status")
        assert (said.returncode, "follows" in said.stdout) == (5, False)
        assert f"# OpenCode {serve.pid}: it uses a generated password" in said.stdout
        line = ocwatch(home2, "statusline")
        assert (line.returncode, line.stdout.strip()) == (5, "OpenCode not served")
        _, doctor = wait_until(lambda: (found := document(home2, "doctor"))[0] == 1 and found, 60, why="the doctor")
        assert "opencode-generation" in {check["code"] for check in doctor["checks"] if check["severity"] == "error"}
        for command in (("redirect",), ("redirect", "ses_x"), ("restart", "ses_x")):
            done = ocwatch(home2, *command)
            assert (done.returncode, "a generated password" in done.stderr) == (5, True), (command, done.stderr)


def test_opencode_1_beside_it_is_served_as_before(tmp_path: Path, provider: Provider) -> None:
    home = SharedHome(tmp_path / "home", provider.url)
    provider.script(PRIMARY, limited(3600))
    try:
        with Service2(home), Daemon(home) as daemon, Serve(NEWEST, home) as serve:
            wait_until(lambda: len(daemon.heartbeat().get("endpoints", ())) == 2, 30, why="both to be found")
            generations = {one["pid"]: one["generation"] for one in daemon.heartbeat()["endpoints"]}
            assert generations[serve.pid] == 1
            session = serve.create_session()
            serve.prompt_async(session, "Hello", model=PRIMARY)
            serve.wait_answer(session, "answer of mock2/fallback")
    finally:
        sweep(home.root)


def test_the_launcher_changes_the_command_line_alone(home2: Home2, provider: Provider) -> None:
    smart = Smart(home2, NEWEST)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    smart.block(**{PRIMARY: {"until": until, "target": {"model": FALLBACK, "agent": None}}})
    shown = smart.run("run", "Hello", "--print-env")
    assert "OPENCODE_CONFIG_CONTENT" not in shown.stdout
    assert shown.stdout.split()[:4] == ["opencode", "run", "--model", FALLBACK]
    done = smart.run("run", "Hello")
    assert (done.returncode, "answer of mock2/fallback" in done.stdout) == (0, True)
    assert provider.requests(PRIMARY) == []
    # The service that this run has started has the user's configuration: the primary is the default for all clients.
    service = Service2(home2)
    service.adopt()
    try:
        session = service.create_session()
        service.prompt(session, "Hello again")
        service.wait_answer(session, "answer of mock/primary")
    finally:
        service.stop()


def test_the_launcher_ends_at_once_when_everything_is_cooling(home2: Home2, provider: Provider) -> None:
    smart = Smart(home2, NEWEST)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    smart.block(**{model: {"until": until} for model in (PRIMARY, FALLBACK, "mock3/third")})
    done = smart.run("run", "Hello")
    assert (done.returncode, done.stdout) == (75, "")
    assert provider.requests() == []


def test_the_companion_plugin_counts_as_active_once_a_project_has_loaded_it(home2: Home2, provider: Provider) -> None:
    assert ocwatch(home2, "plugin", "install").returncode == 0
    with Daemon(home2, WHOLE_CHAIN), Service2(home2) as service:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock/primary")
        _, doctor = document(home2, "doctor")
        (endpoint,) = doctor["endpoints"]
        assert (endpoint["pid"], endpoint["plugin"], endpoint["trouble"]) == (service.pid, True, None)
        seen = [check["seen"] for check in doctor["checks"] if check["code"] == "plugin"]
        assert any("has not called the hooks" in text for text in seen)


def test_an_opencode_1_whose_database_was_migrated_is_named(tmp_path: Path, provider: Provider) -> None:
    """Channels other than the preview's use OpenCode 1's own database; a variable makes the preview do the same."""
    home = SharedHome(tmp_path / "home", provider.url, environment={"OPENCODE_DISABLE_CHANNEL_DB": "1"})
    try:
        with Serve(NEWEST, home) as serve:
            session = serve.create_session()
            serve.prompt_async(session, "Hello", model=PRIMARY)
            serve.wait_answer(session, "answer of mock/primary")
            _, before = document(home, "doctor")
            assert "opencode-database" not in {check["code"] for check in before["checks"]}
            with Service2(home) as service:
                service.prompt(service.create_session(), "Hello")
                _, after = document(home, "doctor")
            (found,) = [check for check in after["checks"] if check["code"] == "opencode-database"]
            assert found["severity"] == "error"
            assert f"process {serve.pid} finds no session" in found["seen"]
    finally:
        sweep(home.root)
