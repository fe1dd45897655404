"""Tests of plan windows in `forecast`, `status` and `report`: the plugin's records give these tables."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from ocwatchd.state import forecasts
from ocwatchd.state.plugin_reports import read_plan_windows
from tests.cli.conftest import Cli, at

HOUR, DAY = 3600, 86_400


def recorded(cli: Cli, model: str, ago: float = 0, **headers: str) -> None:
    cli.paths.allowances.mkdir(parents=True, exist_ok=True)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    about = {"version": 1, "time": at(-ago), "model": model, "headers": named}
    (cli.paths.allowances / f"{model.replace('/', '%2F')}.json").write_text(json.dumps(about))


def claude(used: str, resets: float) -> dict[str, str]:
    end = f"{time.time() + resets:.0f}"
    return {"anthropic_ratelimit_unified_5h_utilization": used, "anthropic_ratelimit_unified_5h_reset": end}


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("PLAN WINDOW", 1)[1].splitlines()[1:] if line.strip()]


def test_percent_used_reset_and_when_it_is_used_up(cli: Cli) -> None:
    recorded(cli, "anthropic/opus", ago=60, **claude("0.1", 3 * HOUR))
    recorded(cli, "anthropic/sonnet", **claude("0.62", 3 * HOUR))  # the same account, reported later
    week = {"x_codex_secondary_used_percent": "18", "x_codex_secondary_window_minutes": "10080"}
    recorded(cli, "openai/gpt", **week, x_codex_secondary_reset_after_seconds=str(3 * DAY))
    found = cli.json("forecast")["plan_windows"]
    assert [(one["provider"], one["window"], one["used_percent"]) for one in found] == [
        ("anthropic", "5h", 62),
        ("openai", "7d", 18),
    ]
    assert found[0]["window_seconds"] == 5 * HOUR and found[0]["used_up"] < found[0]["resets"]
    assert found[1]["used_up"] is None
    first, second = (" ".join(row) for row in rows(cli("forecast").stdout))
    assert re.fullmatch(r"anthropic 5h 62 % .+ \(in (2h 59m|3h)\) .+ \(in 1h 1[34]m\)", first), first
    assert re.fullmatch(r"openai 7d 18 % .+ \(in (2d 23h|3d)\) -", second), second


def test_a_window_that_has_begun_anew_is_not_shown(cli: Cli) -> None:
    recorded(cli, "anthropic/opus", ago=600, **claude("0.9", -1))
    assert cli.json("forecast")["plan_windows"] == []
    assert "PLAN WINDOW" not in cli("forecast").stdout


def test_the_report_has_the_plans_in_every_form(cli: Cli) -> None:
    recorded(cli, "anthropic/opus", **claude("0.62", 3 * HOUR))
    assert [one["used_percent"] for one in cli.json("report")["plan_windows"]] == [62]
    page = cli("report", "--out", "-").stdout
    assert "<h2>Plan windows</h2>" in page and "<td>62 %</td>" in page


def test_status_shows_what_the_daemon_published(cli: Cli) -> None:
    recorded(cli, "anthropic/opus", **claude("0.62", 3 * HOUR))
    now = time.time()
    windows = [forecasts.window_as_json(one) for one in read_plan_windows(cli.paths.allowances, now)]
    ended: dict[str, Any] = {**windows[0], "window": "7d", "resets": at(-5)}
    for broken in ({**windows[0], "resets": "soon"}, {"window": "5h"}):
        forecasts.write(cli.paths.forecasts, [], now, [broken])
        assert cli.json("status", code=3)["plan_windows"] == []
    forecasts.write(cli.paths.forecasts, [], now, [*windows, ended])
    assert cli.json("status", code=3)["plan_windows"] == windows
    (row,) = [row for row in rows(cli("status").stdout) if row[0] == "anthropic"]
    assert row[:4] == ["anthropic", "5h", "62", "%"]
    forecasts.write(cli.paths.forecasts, [], now - 600, windows)
    assert cli.json("status", code=3)["plan_windows"] == []


def published(cli: Cli, used: float, **changes: Any) -> None:
    """Write what a running daemon publishes: one window of five hours that resets in three hours, and a week's."""
    cli.heartbeat()
    row = {
        "provider": "anthropic", "window": "5h", "window_seconds": 5 * HOUR, "used_percent": used,
        "resets": at(3 * HOUR), "used_up": None, "reported": at(0),
    }  # fmt: skip
    week = {**row, "window": "7d", "used_percent": 12.0, "resets": None}
    forecasts.write(cli.paths.forecasts, [], time.time(), [week, {**row, **changes}])


@pytest.mark.parametrize(
    ("form", "far", "near"),
    [
        ("plain", "ok", "ok 5h 87%"),
        ("tmux", "ok", "ok 5h 87%"),
        ("starship", "", "5h 87%"),
        ("{text}", "ok", "ok 5h 87%"),
        ("<{plan}>", "<>", "<5h 87%>"),
        ("{plan_provider} {plan_window} {plan_used}", "anthropic 5h 79", "anthropic 5h 87"),
    ],
)
def test_the_status_line_has_the_fullest_window_from_80_percent_on(cli: Cli, form: str, far: str, near: str) -> None:
    for used, wanted in ((79.4, far), (86.9, near)):
        published(cli, used)
        done = cli("statusline", "--format", form)
        assert (done.returncode, done.stdout) == (0, wanted + "\n")


def test_the_status_line_for_waybar_and_programs_has_the_reset_too(cli: Cli) -> None:
    published(cli, 86.9)
    bar = json.loads(cli("statusline", "--format", "waybar").stdout)
    assert (bar["text"], bar["alt"]) == ("ok 5h 87%", "ok")
    assert re.fullmatch(r"No model is cooling down\.\nanthropic 5h 87% used, resets (\w+ )?\d\d:\d\d", bar["tooltip"])
    document = json.loads(cli("statusline", "--format", "json").stdout)
    assert document["text"] == "ok 5h 87%"
    assert [(one["window"], one["used_percent"]) for one in document["plan_windows"]] == [("7d", 12.0), ("5h", 86.9)]


def test_the_status_line_keeps_names_of_windows_apart_from_markup(cli: Cli) -> None:
    published(cli, 90, window="#(touch X)%{A1:x:}")
    assert cli("statusline").stdout == "ok ?(touch X)??A1:x:? 90%\n"
    assert cli("statusline", "--format", "tmux").stdout == "ok ##(touch X)%{A1:x:} 90%\n"


@pytest.mark.parametrize("changes", [{"window": 5}, {"used_percent": float("nan")}, {"resets": at(-5)}])
def test_the_status_line_ignores_a_row_that_is_not_a_current_window(cli: Cli, changes: dict[str, Any]) -> None:
    published(cli, 90, **changes)
    assert cli("statusline").stdout == "ok\n"


def test_a_daemon_that_is_down_has_no_windows_in_the_status_line(cli: Cli) -> None:
    published(cli, 90)
    cli.paths.heartbeat.unlink()
    assert cli("statusline").stdout == "ocwatchd down\n"


def test_prometheus_gets_percent_and_reset_time_with_escaped_labels(cli: Cli) -> None:
    recorded(cli, "anthropic/opus", **claude("0.625", 3 * HOUR))
    recorded(cli, 'o"a\\b/gpt', x_codex_secondary_used_percent="18", x_codex_secondary_window_minutes="10080")
    samples = dict(
        line.rsplit(" ", 1)
        for line in cli("report", "--format", "prometheus").stdout.splitlines()
        if line.startswith("ocwatchd_plan_")
    )
    assert samples.pop('ocwatchd_plan_used_percent{provider="anthropic",window="5h"}') == "62.5"
    assert samples.pop('ocwatchd_plan_used_percent{provider="o\\"a\\\\b",window="7d"}') == "18"
    reset = samples.pop('ocwatchd_plan_reset_timestamp_seconds{provider="anthropic",window="5h"}')
    assert abs(float(reset) - time.time() - 3 * HOUR) < 60
    assert samples == {}
