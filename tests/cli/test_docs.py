"""Every command line in the documentation is run as it stands; every command, option and file it names exists."""

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
from ocwatchd.core.wording import WORDS
from tests.cli.conftest import ROOT, Cli, resting
from tests.support.lives import Life

FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    if path.name != "CHANGELOG.md"  # tells of what was
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
"""Lines that cannot run here, as expressions, and why. Their commands and options are looked up all the same."""

ENDS_WITH = {"ocwatch redirect": 5, "ocwatch redirect --dry-run": 5, "ocwatch restart --dry-run": 1}
"""Where it is not 0: no OpenCode runs in the prepared home."""

_OWN = ("--no-fallback", "--wait", "--print-env")


def code_of(text: str) -> Iterator[str]:
    """The lines of code blocks, fenced or indented; of a `console` only what is typed there, not its output."""
    fence = ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence != "```console" and (fence or line.startswith("    ")):
            yield line if fence else line[4:]
        elif fence and line.startswith("$ "):
            yield line[2:]


def commands_of(file: str) -> list[str]:
    """The command lines of a file."""
    return [line for line in code_of((ROOT / file).read_text()) if line.split(" ")[0] in PROGRAMS]


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


@pytest.fixture
def lived_in(cli: Cli) -> Cli:
    """A home with a past: a configuration, limits, moves, a daemon that beats, a log."""
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
    """As a person types it, in bash; what only names a place or a decision is put into this home."""
    cli.heartbeat()  # a pumping daemon's is never old
    here = command.replace("/var/lib/node_exporter", str(cli.paths.home))
    if "1229dc" in command:
        here = command.replace("1229dc", cli.json("history")["events"][0]["decision"])
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", here], cwd=cli.paths.home, env={**cli.env, "PATH": programs}, capture_output=True, text=True,
        timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def exit_codes() -> dict[str, set[int]]:
    """What the README's table says of each command's exit code."""
    rows = re.findall(r"^\| `(ocwatch [a-z]+)[^\n]*\| ([^|\n]*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
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
        assert done.returncode in documented.get(name, {0}), f"the README does not know this exit code: {shown}"


def test_no_reason_is_left_over() -> None:
    lines = [command for file in FILES for command in commands_of(file)]
    assert len(lines) > 40
    assert not [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in lines)]
    assert not ENDS_WITH.keys() - set(lines)


# ---- what is only named


def named_in(file: str) -> Iterator[str]:
    """Everything that begins with `ocwatch ` or `oc-smart ` in code, also inside a line."""
    text = (ROOT / file).read_text()
    spans = re.findall(r"`((?:ocwatch|oc-smart) [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    for code in (*spans, *code_of(text)):
        for part in re.split(r"&&|;|\$\(|`", code):
            yield from re.findall(r"(?:^|\s|\()((?:ocwatch|oc-smart) [a-z-].*)", part)


def fault_in(written: str) -> str | None:
    """What is wrong with a command line that may hold brackets, bars and placeholders; None if nothing is."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group) or hasattr(root, "commands")
    words = re.sub(r"[\[\]|\\()…,]", " ", written).replace('"', " ").split()
    if words[0] == "oc-smart" or words[1] == "run":
        return None  # whatever it does not know is OpenCode's
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


def test_the_table_of_commands_is_complete() -> None:
    table = (ROOT / "README.md").read_text()
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
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_lines_are_split_as_a_shell_does() -> None:
    for file in FILES:
        for command in commands_of(file):
            assert shlex.split(command, comments=True), command
