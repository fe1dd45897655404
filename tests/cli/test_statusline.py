"""Tests of `ocwatch statusline`: one line for bars, with the daemon up, stalled and down."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, resting
from tests.support.pty import Pty

TARGET = {"model": "zhipuai/glm-4.5", "agent": None}
KEYS = {"version", "time", "state", "daemon", "cooling", "model", "kind", "target", "until", "left_seconds", "sessions",
        "text", "plan_windows"}  # fmt: skip


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


@pytest.mark.parametrize(("age", "wanted"), [(0, "ok"), (60, "ocwatchd stalled")])
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


def test_the_tip_of_a_template_is_one_line(cooling: Cli) -> None:
    tip = line(cooling, "{tip}")
    assert (tip.count("; "), "?n" in tip) == (1, False)
    assert "plan_used, plan_resets, plan\n" in cooling("statusline", "-f", "{x}").stderr
    assert ", tip, " in cooling("statusline", "-f", "{x}").stderr


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
    assert "is not a field; the fields are state, " in done.stderr


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


MARKUP = (
    "#(touch X)", "#[bg=red]", "#{pid}", "%{A1:touch X:}", "%{F#f00}", "^ca(1,touch X)", "<b>&lt;", "|bash=touch",
    "$(touch X)", "`touch X`", "\\[\\033", "{name}",
)  # fmt: skip
"""Characters that tmux, polybar, lemonbar, dzen2, Pango, argos, xbar, a prompt or our own templates could interpret."""


@pytest.mark.parametrize("form", ["plain", "starship", "{model} {name} {target} {text}"])
def test_no_bar_finds_markup_in_a_name(cli: Cli, form: str) -> None:
    cli.heartbeat()
    for markup in MARKUP:
        cli.register(**{f"p/{markup}": resting(60, target={"model": f"q/{markup}", "agent": None})})
        shown = line(cli, form)
        assert "touch" in shown or "touch" not in markup, "what is no markup stays readable"
        assert not set(shown) & set("#%^$&<{}|\\`")


def test_a_template_may_hold_markup_of_its_own(cli: Cli) -> None:
    cli.heartbeat()
    cli.register(**{"p/%{F#f00}x": resting(60)})
    assert line(cli, "%{{F#fff}}{name}%{{F-}} <b>{state}</b>") == "%{F#fff}??F?f00?x%{F-} <b>cooling</b>"


def test_waybar_shows_a_name_as_it_is(cli: Cli) -> None:
    cli.heartbeat()
    cli.register(**{"p/<b>&#65;</b>": resting(60, target={"model": "q/<i>", "agent": None})})
    bar = json.loads(line(cli, "waybar"))
    assert bar["text"].startswith("&lt;b&gt;&amp;#65;&lt;/b&gt; ")
    assert "p/&lt;b&gt;&amp;#65;&lt;/b&gt; until" in bar["tooltip"] and "q/&lt;i&gt;" in bar["tooltip"]


@pytest.mark.parametrize("form", ["tmux", "plain", "{name} {left}"])
def test_a_real_tmux_shows_a_name_and_runs_nothing(cli: Cli, form: str, tmp_path: Path) -> None:
    cli.heartbeat()
    name = "#(touch X)#{pid}#[dim]"
    cli.register(**{f"p/{name}": resting(3600)})
    scratch = Path(tempfile.mkdtemp(prefix="ocw-tmux-"))  # a socket's path may have about 100 characters
    program = scratch / "ocwatch"
    program.write_text(f'#!/bin/sh\nexec {" ".join(cli.command())} "$@"\n')
    program.chmod(0o755)
    (scratch / "tmux.conf").write_text(
        f"set -g status-interval 1\nset -g status-left ''\nset -g status-right-length 90\n"
        f"set -g status-right '<#({program} statusline --format \"{form}\")>'\n"
    )
    command = ["tmux", "-S", str(scratch / "s"), "-f", str(scratch / "tmux.conf")]
    env = {**cli.env, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    try:
        with Pty([*command, "new-session", "sleep", "1000"], env, tmp_path, (200, 24)) as pty:
            wanted = name if form == "tmux" else "?(touch X)??pid??[dim]"
            pty.wait(f"{wanted} ")
    finally:
        subprocess.run([*command, "kill-server"], env=env, check=True, capture_output=True)
        shutil.rmtree(scratch)
    assert not list(tmp_path.rglob("X"))
