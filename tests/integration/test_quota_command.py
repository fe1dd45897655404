"""Tests of `forecast.command`: what its output gives, what its failures do, and how often it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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
    assert result.problem == "sleep was stopped after 0 s"


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
