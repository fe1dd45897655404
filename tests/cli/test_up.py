"""Tests of `ocwatch up` on a new machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.conftest import Cli
from tests.support.processes import wait_until
from tests.support.pty import Pty

USER = {
    "model": "p/a",
    "provider": {"q": {"options": {"apiKey": "sk-SECRET", "baseURL": "https://example.org"}, "models": {"b": {}}}},
    "agent": {"claude-fallback": {"model": "r/c"}},
}


@contextmanager
def running(cli: Cli) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        cli.command("up"), env=cli.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: cli("status").returncode == 0, 60, why="the daemon to be up")
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_up_writes_a_configuration_shows_it_and_serves(cli: Cli) -> None:
    cli.opencode(**USER)
    with running(cli) as process:
        written = cli.paths.config_file.read_text()
        assert json.loads(written)["rateLimit"]["fallbackChain"]["p/a"] == ["r/c", "q/b"]
        assert cli.paths.config_file.stat().st_mode & 0o777 == 0o600
        again = cli("up")
        assert again.returncode == 0
        assert "The daemon is already running" in again.stdout
        assert f"pid {process.pid}" in again.stdout
        assert cli.json("status")["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout is not None
        shown = process.stdout.read().decode()
    assert written in shown
    assert str(cli.paths.opencode_config / "plugin" / "rate-limit-fallback.js") in shown
    assert cli.json("plugin", "status")["state"] == "current"
    assert "SECRET" not in written + shown
    assert cli("status").returncode == 3


def test_up_leaves_a_configuration_alone_and_without_a_model_says_so(cli: Cli) -> None:
    cli.paths.config_file.write_text("// mine\n")
    with running(cli) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
    assert cli.paths.config_file.read_text() == "// mine\n"
    cli.paths.config_file.unlink()
    with running(cli) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout is not None
        said = " ".join(process.stdout.read().decode().split())
        assert "contains no model" in said
        assert f"let ocwatch write {cli.paths.config_file}: ocwatch config init --write --force" in said
    assert "fallbackChain" not in json.loads(cli.paths.config_file.read_text())["rateLimit"]


@pytest.mark.parametrize("place", ["missing", "broken"])
def test_an_opencode_that_cannot_be_read_does_not_keep_it_from_serving(cli: Cli, place: str) -> None:
    if place == "missing":
        cli.paths.opencode_config.rmdir()
    else:
        (cli.paths.opencode_config / "opencode.json").write_text("{")
    with running(cli):
        assert json.loads(cli.paths.config_file.read_text())["rateLimit"]


def test_dry_run_shows_it_and_does_nothing(cli: Cli) -> None:
    cli.opencode(**USER)
    done = cli("up", "--dry-run")
    assert done.returncode == 0
    assert '"p/a"' in done.stdout
    assert "Would start the daemon in the foreground of this terminal" in done.stdout
    assert "because systemd is " in done.stdout or "because launchctl is " in done.stdout
    assert done.stdout.rstrip().endswith("To run it in the background instead: ocwatch up --detach")
    asked = cli("up", "--dry-run", "--foreground").stdout.rstrip()
    assert asked.endswith("because you asked for --foreground.")
    assert [path for path in cli.paths.home.rglob("*") if path.is_file()] == [
        cli.paths.opencode_config / "opencode.json"
    ]
    would = cli.json("up", "--dry-run")
    assert [(step["what"], step["did"]) for step in would["steps"]] == [
        ("configuration", "wrote"),
        ("plugin", "installed"),
        ("daemon", "started"),
    ]


def test_a_broken_configuration_of_ours_is_4_before_anything_starts(cli: Cli) -> None:
    cli.paths.config_file.write_text('{"rateLimit": {"mode": "fast"}}')
    done = cli("up")
    assert done.returncode == 4
    assert "'fast'" in done.stderr
    assert not os.path.lexists(cli.paths.heartbeat)


def test_up_asks_once_on_a_terminal_and_takes_the_answer(cli: Cli) -> None:
    cli.opencode(**USER)
    with Pty(cli.command("up", "--detach"), cli.env, cli.paths.home, size=(80, 24)) as terminal:
        seen = terminal.wait("in this order: ").decode()
        terminal.type("2\n")
        assert terminal.end() == 0
        shown = seen + terminal.shown.decode()
    try:
        assert re.search(r"1  r/c\s+2  q/b", shown)
        assert json.loads(cli.paths.config_file.read_text())["rateLimit"]["fallbackChain"]["p/a"] == ["q/b"]
        written = cli.paths.config_file.read_text().replace("\n", "\r\n")
        assert written in shown, "it can be copied: no line is broken to fit the terminal"
        assert "Fall back from" not in cli("up").stdout
        assert cli("logs", "-n", "5").stdout
        again = cli.json("up")
        assert [step["did"] for step in again["steps"] if step["what"] == "daemon"] == ["kept"]
    finally:
        assert cli("down").returncode == 0
    assert cli("status").returncode == 3


def test_up_goes_on_without_an_answer(cli: Cli) -> None:
    cli.opencode(**USER)
    with Pty(cli.command("up", "--detach"), cli.env, cli.paths.home, size=(80, 24)) as terminal:
        terminal.wait("in this order: ")
        assert terminal.end() == 0
    try:
        chain = json.loads(cli.paths.config_file.read_text())["rateLimit"]["fallbackChain"]
        assert chain["p/a"] == ["r/c", "q/b"]
    finally:
        assert cli("down").returncode == 0


@pytest.mark.parametrize("redirection", ["</dev/null", "| cat", "--yes"])
def test_up_asks_nothing_without_a_terminal_on_both_sides_or_with_yes(cli: Cli, redirection: str) -> None:
    cli.opencode(**USER)
    line = f"{shlex.join(cli.command('up', '--detach'))} {redirection}"
    with Pty(["sh", "-c", line], cli.env, cli.paths.home) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    try:
        assert "in this order: " not in shown
        chain = json.loads(cli.paths.config_file.read_text())["rateLimit"]["fallbackChain"]
        assert chain["p/a"] == ["r/c", "q/b"]
    finally:
        assert cli("down").returncode == 0


def test_up_restarts_a_daemon_of_another_version(cli: Cli) -> None:
    cli.opencode(**USER)
    assert cli("up", "--detach").returncode == 0
    try:
        first = cli.json("status")["pid"]
        os.kill(first, signal.SIGSTOP)  # so that it writes no heartbeat meanwhile
        beat = json.loads(cli.paths.heartbeat.read_text())
        cli.paths.heartbeat.write_text(json.dumps({**beat, "code": "of-another-version"}))
        done = cli("up")
        assert done.returncode == 0
        assert "another version" in done.stdout
        assert cli.json("status")["pid"] != first
    finally:
        assert cli("down").returncode == 0
