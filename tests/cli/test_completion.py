"""Tests of completion: the words that a Tab offers in a real bash, and the form of the other scripts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ocwatchd.cli.app import app
from ocwatchd.cli.commands.completion import Command, commands, fish, zsh
from tests.cli.conftest import Cli, resting


@pytest.fixture
def bash(cli: Cli, tmp_path: Path) -> Cli:
    """A home with names to complete, and an `ocwatch` on PATH."""
    cli.configure(fallbackChain={"p/a": ["q/b"]}, models={"big": "p/a"})
    cli.register(**{"or/qwen:free": resting(), "x/$(touch pwned)": resting(), "p/*": resting()})
    cli.heartbeat(sessions=[{"session": "ses_live", "phrase": "waits"}])
    line = {
        "version": 1,
        "id": "0001a203686c5abcdef12",
        "time": "2026-11-22T10:00:00Z",
        "what": "x",
        "session": "ses_old",
    }
    cli.paths.journal.write_text(json.dumps(line) + "\n")
    program = tmp_path / "bin" / "ocwatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(cli.command())} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    cli.env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    return cli


def offers(cli: Cli, *lines: str) -> list[list[str]]:
    """Return the words that bash offers at the end of each line."""
    tab = 'COMP_LINE=$line COMP_POINT=${#line}; _ocwatch; echo "${COMPREPLY[*]}"'
    command = ["bash", "-eu", "-c", f'eval "$(ocwatch completion bash)"; for line; do {tab}; done', "-", *lines]
    done = subprocess.run(command, env=cli.env, cwd=cli.paths.home, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_offers_commands_options_models_sessions_and_ids(bash: Cli) -> None:
    found = offers(
        bash, "ocwatch st", "ocwatch plugin ", "ocwatch pick ", "ocwatch clear --", "ocwatch redirect --to q",
        "ocwatch restart ", "ocwatch explain ", "ocwatch pick or/qwen:", "ocwatch completion ",
        "ocwatch block p/a --for ", "ocwatch statusline --format w", "ocwatch nonsense ",
    )  # fmt: skip
    assert found[:4] == [
        ["status", "statusline"],
        ["install", "status", "uninstall"],
        ["or/qwen:free", r"p/\*", "big", "p/a", "q/b"],
        ["--help", "--all", "--force", "--json"],
    ]
    assert found[4:] == [
        ["q/b"], ["ses_live", "ses_old"], ["abcdef", "ses_live", "ses_old"], ["free"], ["bash", "zsh", "fish"], [],
        ["waybar"], [],
    ]  # fmt: skip
    assert not (bash.paths.home / "pwned").exists()


def test_a_broken_configuration_is_no_noise_at_a_tab(cli: Cli) -> None:
    cli.paths.config_file.write_text("{")
    for kind in ("models", "sessions", "ids", "nonsense"):
        done = cli("__complete", kind)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_command_is_known_with_what_it_takes() -> None:
    known = {command.words: command for command in commands(app)}
    assert known["redirect"].kind == known["restart"].kind == "sessions"
    assert known["explain"].kind == "ids"
    assert known["classify"].kind == "files"
    assert {known[name].kind for name in ("pick", "block", "clear")} == {"models"}
    assert known["redirect"].options["--to"] == "models"
    assert known["history"].options["--session"] == "sessions"
    assert known["report"].options["--format"] == "html json prometheus"
    assert all(command.help for command in known.values() if command.words)


@pytest.mark.parametrize("script", [zsh, fish])
def test_quotes_of_a_help_text_end_no_string(script: Callable[[list[Command]], str]) -> None:
    known = [Command("", "All.", {"--help": ""}, "one"), Command("one", "A user's `x`: it's.", {}, "")]
    text = script(known)
    assert text.count("'") % 2 == 0
    assert "A users x" in text


def test_another_shell_is_a_usage_error(cli: Cli) -> None:
    done = cli("completion", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/ocwatch"),
        ("zsh", ".local/share/zsh/site-functions/_ocwatch"),
        ("fish", ".config/fish/completions/ocwatch.fish"),
    ],
)
def test_completion_is_installed_where_the_shell_looks_for_it(cli: Cli, shell: str, place: str) -> None:
    printed = cli("completion", shell).stdout
    done = cli("completion", "--install", SHELL=f"/usr/bin/{shell}")
    assert done.returncode == 0
    assert (cli.paths.home / place).read_text() == printed
    assert str(cli.paths.home / place) in done.stdout
    assert cli("completion", "--install", SHELL="/bin/tcsh").returncode == 2
