"""Tests of `forecast.command`: what its output gives, what its failures do, and how often it runs."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ocwatchd.core.policy import Policy, PreventionPolicy
from ocwatchd.daemon.forecaster import Forecaster
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.state import quota_command
from ocwatchd.state.plugin_reports import read_plan_windows
from tests.cli.conftest import Cli
from tests.integration.test_foresight import Life

NOW = 1_800_000_000.0
ROW = {"provider": "anthropic", "window": "5h", "percent": 62.5, "reset": NOW + 7200}


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., list[str]]:
    """Make a program that prints `text`, counts its runs in a file beside it, and exits with `code`."""

    def make(text: str, code: int = 0, name: str = "quota") -> list[str]:
        path = tmp_path / name
        (tmp_path / "text").write_text(text)
        path.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {tmp_path}/runs\ncat {tmp_path}/text\nexit {code}\n')
        path.chmod(0o755)
        return [str(path), "$HOME; true"]

    return make


@pytest.mark.parametrize(
    ("row", "resets"),
    [
        (ROW, 7200),
        ({**ROW, "reset": "2027-01-15T08:10:00Z"}, 600),
        ({**ROW, "reset": None}, None),
        ({key: ROW[key] for key in ("provider", "window", "percent")}, None),
        ({**ROW, "more": 1}, 7200),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_what_a_program_prints(row: dict[str, object], resets: float | None, listed: bool) -> None:
    (found,) = quota_command.parse(json.dumps([row] if listed else {"windows": [row]}).encode(), NOW)
    assert (found.provider, found.name, found.used, found.length, found.at) == ("anthropic", "5h", 62.5, 18_000, NOW)
    assert found.resets == (None if resets is None else NOW + resets)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "neither a list"),
        ('{"windows": {}}', "neither a list"),
        (json.dumps([ROW] * 51), "51 windows"),
        ("[1]", "window 1 is not an object"),
        *(
            (json.dumps([ROW, {**ROW, "provider": name}]), "`provider` of window 2")
            for name in (None, "", "a\n", "a" * 61)
        ),
        *((json.dumps([{**ROW, "percent": used}]), "`percent`") for used in (None, True, "62", -1, 1e9, float("nan"))),
        *((json.dumps([{**ROW, "reset": at}]), "`reset`") for at in ("soon", True, -1, 1e18, [])),
    ],
)
def test_an_output_of_another_shape_is_refused_and_not_quoted(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        quota_command.parse(text.encode(), NOW)


def test_a_success_stays_when_the_next_run_fails(program: Callable[..., list[str]], tmp_path: Path) -> None:
    state = tmp_path / "allowances"
    command = program(json.dumps([ROW]))
    assert quota_command.run(command, state, NOW).problem is None
    assert [one.used for one in read_plan_windows(state, NOW + 1)] == [62.5]
    for text, code, problem in (
        ("secret", 3, "exited with code 3"),
        ("secret", 0, "not JSON"),
        ("x" * (quota_command.MAX_OUTPUT + 1), 0, "larger than 256 KiB"),
        (None, 0, "No such file"),
    ):
        broken = [str(tmp_path / "absent")] if text is None else program(text, code)
        result = quota_command.run(broken, state, NOW + 300)
        assert result.problem is not None and problem in result.problem and "secret" not in result.problem
        assert quota_command.read(state) == result and result.succeeded == NOW
        assert [one.used for one in read_plan_windows(state, NOW + 301)] == [62.5]
    assert read_plan_windows(state, NOW + 7201) == (), "it has reset"
    assert (tmp_path / "runs").read_text().startswith("$HOME; true|"), "arguments, never a shell"


def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_command, "TIMEOUT", 0.2)
    result = quota_command.run(["sleep", "600"], tmp_path, NOW)
    assert result.problem == "sleep was stopped after 1s"


def test_the_daemon_runs_it_every_five_minutes_also_after_a_restart(
    program: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = tuple(program(json.dumps([{**ROW, "provider": "p", "percent": 97, "reset": time.time() + 7200}])))
    policy = PreventionPolicy(prevent=True, leave_at=95.0, command=command)
    life = Life(tmp_path / "home", prevention=policy, chains={"p/m": ("q/n",)})

    def runs() -> int:
        return (tmp_path / "runs").read_text().count("|")

    seen = life.step()
    assert runs() == 1 and [list(getattr(one, "threats", ())) for one in seen][-1] == ["p/m"]
    life.step(200)
    assert runs() == 1
    life.step(101)
    assert runs() == 2
    life.eye = Forecaster(life.work, SessionStore(life.paths.opencode_data), life.paths, life)
    life.step(60)
    assert runs() == 2
    life.step(250)
    assert runs() == 3
    life.context.policy = Policy()
    life.step(20)
    assert quota_command.read(life.paths.allowances) is None, "removed from the configuration"


def test_forecast_and_doctor_say_why_it_failed(program: Callable[..., list[str]], tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    cli.configure(forecast={"command": program("", 3)})
    assert cli.json("forecast")["plan_command"] is None
    result = quota_command.run(program("", 3), cli.paths.allowances, time.time())
    assert f"{result.problem}" in cli("forecast").stdout
    about = cli.json("forecast")["plan_command"]
    assert (about["problem"], about["succeeded"]) == (result.problem, None)
    done = cli("doctor", "--json")
    (check,) = [one for one in json.loads(done.stdout)["checks"] if one["code"] == "plan-command"]
    assert check["severity"] == "warning" and "exited with code 3" in check["seen"]


PAGE = Path(__file__).parents[2] / "docs" / "forecast.md"
USAGE = {
    "rolling": {"status": "ok", "percent": 62, "resetsAt": "2027-01-15T10:00:00.287Z"},
    "weekly": {"status": "ok", "percent": 18, "resetsAt": "2027-01-18T00:00:00.287Z"},
    "monthly": {"status": "rate-limited", "percent": 100, "resetsAt": "2027-02-01T06:06:01.287Z"},
}


class UsageService:
    """A stand-in for OpenCode's service. `keys` contains the Authorization header of each request."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        self.retry_after: str | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.keys.append(self.headers.get("Authorization"))
                limited = service.retry_after is not None
                body = b"{}" if limited else json.dumps({"workspaceID": "w", "usage": USAGE}).encode()
                self.send_response(429 if limited else 200)
                if service.retry_after is not None:
                    self.send_header("Retry-After", service.retry_after)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def service() -> Iterator[UsageService]:
    made = UsageService()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("retry_after", ["600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_the_program_for_opencode_go_in_the_documentation(
    retry_after: str, service: UsageService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program = tmp_path / "opencode-go-usage"
    program.write_text(text)
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "opencode-go.key").write_text("not-a-key\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENCODE_GO_USAGE_URL", f"http://127.0.0.1:{service.server.server_port}/zen/go/v1/usage")
    command, allowances = (sys.executable, str(program)), tmp_path / "allowances"
    first = quota_command.run(command, allowances, NOW)
    assert first.problem is None
    assert [(row.provider, row.name, row.used) for row in first.windows] == [
        ("opencode-go", "5h", 62.0), ("opencode-go", "7d", 18.0), ("opencode-go", "monthly", 100.0),
    ]  # fmt: skip
    assert first.windows[0].resets is not None
    assert service.keys == ["Bearer not-a-key"]
    service.retry_after = retry_after
    limited = quota_command.run(command, allowances, NOW + 300)
    assert limited.problem is not None
    assert len(service.keys) == 2
    service.retry_after = None
    later = quota_command.run(command, allowances, NOW + 600)
    assert (later.problem is not None, len(service.keys)) == (True, 2), "Retry-After is obeyed"
    assert len(later.windows) == 3, "the last windows are kept"
