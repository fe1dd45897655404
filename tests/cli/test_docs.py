"""Tests that every command line in the documentation works, and that every named command, option and file exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from ocwatchd.cli.app import app
from ocwatchd.core.history.wording import WORDS
from scripts import first_hour
from tests.cli.conftest import ROOT, Cli, resting
from tests.support.lives import Life

FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    # The one describes the past; the other is a recording, with mistakes on purpose.
    if path.name not in ("CHANGELOG.md", "first-hour.md")
)
PROGRAMS = ("ocwatch", "ocwatchd", "oc-smart", "python", "python3", ".venv/bin/python", "pip", "pipx", "uv", "eval")

NOT_RUN = {
    r"python3 -m (pip|venv) .*": "changes the environment that the test runs in; CI does just this, `.ci/run`",
    r"(\.venv/bin/)?python -m pytest .*": "this is pytest",
    r"python bench/.*": "minutes long, and drives OpenCode",
    r"ocwatch drill": "drives OpenCode: tests/e2e/test_drill.py",
    r"ocwatch down && ocwatch up": "the daemon in the foreground does not end: tests/cli/test_up.py",
    r"ocwatch service logs": "needs a service manager: tests/e2e/test_service.py",
    r'eval "\$\(ocwatch completion zsh\)".*': "zsh may be missing: tests/cli/test_completion.py",
}
"""Expressions for lines that cannot run here, with the reasons.

Their commands and options have to exist all the same.
"""

ENDS_WITH = {"ocwatch redirect": 5, "ocwatch redirect --dry-run": 5, "ocwatch restart --dry-run": 1}
"""Exit codes other than 0, because no OpenCode runs in the prepared home."""

_OWN = ("--no-fallback", "--wait", "--print-env")


def code_of(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, fenced or indented; of a `console` block only the typed lines, not the output."""
    fence = ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence != "```console" and (fence or line.startswith("    ")):
            yield line if fence else line[4:]
        elif fence and line.startswith("$ "):
            yield line[2:]


def commands_of(file: str) -> list[str]:
    """Return the command lines of a file."""
    return [line for line in code_of((ROOT / file).read_text()) if line.split(" ")[0] in PROGRAMS]


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


@pytest.fixture
def lived_in(cli: Cli) -> Cli:
    """A home with a history: a configuration, limits, moves, a daemon with a heartbeat, a log."""
    chain = {"mock/primary": ["mock2/fallback"]}
    models = {"mock": ["primary"], "mock2": ["fallback"], "mock3": ["third"]}
    cli.opencode(
        model="mock/primary",
        provider={name: {"models": {model: {} for model in names}} for name, names in models.items()},
        enabled_providers=list(models),
    )
    cli.configure(fallbackChain=chain)
    cli.register(**{"mock/primary": resting(target={"model": "mock2/fallback", "agent": None})})
    life = Life(cli.paths.journal, chain, time.time() - 900)
    life.refuse("mock/primary", "ses_dfb72d884ffeTc5fF4NVLpDSBd", wait=3600)
    life.pass_time(60)
    cli.heartbeat()
    cli.paths.log_dir.mkdir(parents=True)
    (cli.paths.log_dir / "opencode.log").write_text("")
    (cli.paths.home / ".config/fish/completions").mkdir(parents=True)
    return cli


def run(cli: Cli, command: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash as a user types it; paths and ids of decisions are replaced by those of this home."""
    cli.heartbeat()  # so that the heartbeat is never old
    here = command.replace("/var/lib/node_exporter", str(cli.paths.home))
    if "1229dc" in command:
        here = command.replace("1229dc", cli.json("history")["events"][0]["decision"])
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", here], cwd=cli.paths.home, env={**cli.env, "PATH": programs}, capture_output=True, text=True,
        timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def exit_codes() -> dict[str, set[int]]:
    """Return the exit codes of each command by the table of commands."""
    table = (ROOT / "docs/commands.md").read_text()
    rows = re.findall(r"^\| `(ocwatch [a-z]+)[^\n]*\| ([^|\n]*) \|$", table, re.MULTILINE)
    return {name: {int(code) for code in re.findall(r"\b\d+\b", codes)} for name, codes in rows}


@pytest.mark.parametrize("file", [file for file in FILES if commands_of(file)])
def test_every_command_line_does_what_it_should(file: str, lived_in: Cli) -> None:
    documented = exit_codes()
    for command in dict.fromkeys(commands_of(file)):
        if reason_not_to_run(command):
            continue
        done = run(lived_in, command)
        shown = f"{file}: {command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, shown
        assert done.returncode == ENDS_WITH.get(command, 0), shown
        name = " ".join(command.split()[:2])
        assert done.returncode in documented.get(name, {0}), f"docs/commands.md does not list this exit code: {shown}"


def test_no_reason_is_left_over() -> None:
    lines = [command for file in FILES for command in commands_of(file)]
    assert len(lines) > 40
    assert not [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in lines)]
    assert not ENDS_WITH.keys() - set(lines)


# ---- lines that only name a command


def named_in(file: str) -> Iterator[str]:
    """Yield everything in code that begins with `ocwatch ` or `oc-smart `, also inside a line."""
    text = (ROOT / file).read_text()
    spans = re.findall(r"`((?:ocwatch|oc-smart) [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    for code in (*spans, *code_of(text)):
        for part in re.split(r"&&|;|\$\(|`", code):
            yield from re.findall(r"(?:^|\s|\()((?:ocwatch|oc-smart) [a-z-].*)", part)


def fault_in(written: str) -> str | None:
    """Return the fault of a command line, which may contain brackets, bars and placeholders; None if it has none."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group) or hasattr(root, "commands")
    words = re.sub(r"[\[\]|\\()…,]", " ", written).replace('"', " ").split()
    if words[0] == "oc-smart" or words[1] == "run":
        return None  # arguments that it does not know are OpenCode's
    command = root.commands.get(words[1])
    if command is None:
        return None if words[1].startswith("-") else f"no command {words[1]}"
    candidates = [command]
    if inner := getattr(command, "commands", None):
        named = [*words[2:3], *re.findall(r"\| *([a-z]+)", written)]
        if unknown := [word for word in named if word not in inner]:
            return f"no command {words[1]} {unknown[0]}"
        candidates = [inner[word] for word in named] or list(inner.values())
    options = {name for one in candidates for param in one.params for name in (*param.opts, *param.secondary_opts)}
    wrong = [word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word) and word not in options | {"--help"}]
    return f"no option {wrong[0]}" if wrong else None


@pytest.mark.parametrize("file", FILES)
def test_every_command_and_option_that_is_named_exists(file: str) -> None:
    assert not [f"{written}: {fault}" for written in named_in(file) if (fault := fault_in(written))]


@pytest.mark.parametrize(
    "written",
    ["ocwatch fly", "ocwatch status --jsn", "ocwatch service install \\| vanish", "ocwatch config [--nope]"],
)
def test_what_does_not_exist_is_found(written: str) -> None:
    assert fault_in(written)


@pytest.mark.parametrize("written", dict.fromkeys(first_hour.COMMANDS))
def test_every_command_of_the_recorded_first_hour_exists(written: str) -> None:
    assert fault_in(written) is None


def test_the_recorded_first_hour_contains_every_command() -> None:
    typed = re.findall(r"^\$ (ocwatch .*)$", (ROOT / "docs/first-hour.md").read_text(), re.MULTILINE)
    assert set(first_hour.COMMANDS) <= set(typed), "python -m scripts.first_hour"


def test_the_table_of_commands_is_complete() -> None:
    table = (ROOT / "docs/commands.md").read_text()
    missing = [name for name in typer.main.get_command(app).commands if f"`ocwatch {name}" not in table]
    assert not missing


def test_every_word_of_the_history_is_explained() -> None:
    explained = re.findall(r"^\| ([a-z ,]+) \|", (ROOT / "docs/history.md").read_text(), re.MULTILINE)
    assert set(WORDS.values()) <= {word for row in explained for word in row.split(", ")}


@pytest.mark.parametrize("file", FILES)
def test_every_link_leads_somewhere(file: str) -> None:
    text = (ROOT / file).read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        place = (ROOT / file).parent / target if target else ROOT / file
        assert place.exists(), f"{file} links to {target}"
        if anchor:
            assert anchor in headings(place), f"{file} links to {target}#{anchor}"


def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_lines_are_split_as_a_shell_does() -> None:
    for file in FILES:
        for command in commands_of(file):
            assert shlex.split(command, comments=True), command
