"""`ocwatch statusline`: one line for bars, with the daemon up, deaf and down."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli, resting

TARGET = {"model": "zhipuai/glm-4.5", "agent": None}
KEYS = {"version", "time", "state", "daemon", "cooling", "model", "kind", "target", "until", "left_seconds", "sessions",
        "text"}  # fmt: skip


def line(cli: Cli, form: str | None = None, code: int = 0) -> str:
    done = cli("statusline", *(() if form is None else ("--format", form)))
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.count("\n") == 1
    return done.stdout.removesuffix("\n")


@pytest.fixture
def cooling(cli: Cli) -> Cli:
    cli.heartbeat(sessions=[{"session": "ses_1", "phrase": "waits"}])
    cli.register(**{"p/gpt-5": resting(200, target=TARGET), "p/other#": resting(7200)})
    return cli


@pytest.mark.parametrize(("form", "wanted"), [(None, "ok"), ("plain", "ok"), ("tmux", "ok"), ("starship", "")])
def test_all_is_well(cli: Cli, form: str | None, wanted: str) -> None:
    cli.heartbeat()
    assert line(cli, form) == wanted


@pytest.mark.parametrize(("age", "wanted"), [(0, "ok"), (60, "ocwatchd deaf")])
def test_a_deaf_daemon_is_none(cli: Cli, age: float, wanted: str) -> None:
    cli.heartbeat(age=age)
    assert line(cli, code=3 if age else 0) == wanted


@pytest.mark.parametrize("form", ["plain", "tmux", "starship", "{text}"])
def test_down_is_said_and_3(cli: Cli, form: str) -> None:
    cli.register(**{"p/gpt-5": resting()})
    assert "ocwatchd down" in line(cli, form, code=3)
    assert not cli.paths.heartbeat.exists()


def test_what_cools_with_the_soonest_return_first(cooling: Cli) -> None:
    assert line(cooling) == "gpt-5 3m 20s > glm-4.5 +1"
    assert line(cooling, "tmux") == "#[fg=yellow]gpt-5 3m 20s > glm-4.5 +1#[default]"


def test_waybar(cooling: Cli) -> None:
    bar = json.loads(line(cooling, "waybar"))
    assert set(bar) == {"text", "tooltip", "alt", "class"}
    assert (bar["text"], bar["alt"], bar["class"]) == ("gpt-5 3m 20s &gt; glm-4.5 +1", "cooling", "cooling")
    assert bar["tooltip"].count("\n") == 1


def test_json(cooling: Cli) -> None:
    document = json.loads(line(cooling, "json"))
    assert set(document) == KEYS
    assert (document["state"], document["cooling"], document["model"], document["sessions"]) == (
        "cooling", 2, "p/gpt-5", 1,
    )  # fmt: skip
    assert 190 < document["left_seconds"] <= 200
    assert document["until"].endswith("Z")


def test_json_of_nothing(cli: Cli) -> None:
    document = json.loads(line(cli, "json", code=3))
    assert set(document) == KEYS
    assert (document["state"], document["model"], document["left_seconds"]) == ("down", None, None)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [("{model} {left}", "p/gpt-5 3m 20s"), ("{cooling}/{sessions} {target}", "2/1 zhipuai/glm-4.5"),
     ("{{x}} {state}", "{x} cooling"),
     ("{name!r:>99}", None), ("{model.__class__}", None), ("{nonsense}", None)],
)  # fmt: skip
def test_a_template_names_fields_and_nothing_else(cooling: Cli, template: str, wanted: str | None) -> None:
    if wanted is not None:
        assert line(cooling, template) == wanted
        return
    done = cooling("statusline", "--format", template)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no field; there are state, " in done.stderr


def test_a_model_without_an_end(cli: Cli) -> None:
    cli.heartbeat()
    cli.register(**{"p/never": resting(None)})
    assert line(cli) == "never blocked"
    assert line(cli, "{until}") == "cleared"


def test_a_tmux_style_in_a_name_is_text(cli: Cli) -> None:
    cli.heartbeat()
    cli.register(**{"p/#[bg=red]#(reboot)": resting(60)})
    assert line(cli, "tmux").startswith("#[fg=yellow]##[bg=red]##(reboot) ")


@pytest.mark.parametrize("form", ["pdf", ""])
def test_no_such_format(cli: Cli, form: str) -> None:
    assert cli("statusline", "--format", form).returncode == 2
