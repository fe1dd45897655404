"""Tests of `oc-smart` with a stand-in for OpenCode: streams, signals, exit codes, decisions before the start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
FAKE = """#!/bin/sh
[ "$1" = --version ] && echo 1.18.33 && exit
echo started >> "$HOME/started"
printf '%s|' "$@"; printf '%s' "$OPENCODE_CONFIG_CONTENT" > "$HOME/content"; printf '%s' "$PWD" > "$HOME/pwd"
{work}
"""


class Place:
    """A HOME with a stand-in for OpenCode."""

    def __init__(self, root: Path, work: str = "cat; exit 7") -> None:
        self.root = root
        self.config = root / ".config" / "opencode"
        self.config.mkdir(parents=True)
        program = root / "bin" / "opencode"
        program.parent.mkdir()
        program.write_text(FAKE.replace("{work}", work))
        program.chmod(0o755)
        self.write("opencode.json", {"model": "a/main"})
        self.write("rate-limit-config.json", {"rateLimit": {"fallbackChain": {"a/main": "b/second"}}})
        self.env = {"HOME": str(root), "PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}

    def write(self, name: str, value: Any) -> None:
        (self.config / name).write_text(value if isinstance(value, str) else json.dumps(value))

    def block(self, until: float | None = 4e9, *models: str) -> None:
        path = self.root / ".local" / "state" / "ocwatchd" / "blacklist.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        end = None if until is None else datetime.fromtimestamp(until, UTC).isoformat()
        path.write_text(json.dumps({"version": 1, "models": {model: {"until": end} for model in models}}))

    def start(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ocwatchd.cli.commands.run", *words]
        pipe = subprocess.PIPE
        env = {**self.env, **(environ or {})}
        return subprocess.Popen(command, env=env, cwd=self.root, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        process = self.start(*words, environ=environ)
        out, err = process.communicate("typed", timeout=30)
        return process.returncode, out, err

    @property
    def started(self) -> int:
        path = self.root / "started"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def content(self) -> dict[str, Any]:
        text = (self.root / "content").read_text()
        found: dict[str, Any] = json.loads(text) if text else {}
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "home")


@pytest.mark.parametrize(
    "words", [("run", "two words", ""), ("stats",), ("--port", "1"), ("run", "--attach", "http://x")]
)
def test_arguments_streams_and_exit_code_pass_through(place: Place, words: tuple[str, ...]) -> None:
    assert place.run(*words) == (7, "".join(f"{word}|" for word in words) + "typed", "")


def test_our_flags_are_ours(place: Place) -> None:
    assert place.run("run", "--wait", "--no-fallback", "hi", "--", "--wait") == (7, "run|hi|--|--wait|typed", "")


@pytest.mark.parametrize(
    "name", ["rate-limit-config.json", "opencode.json", "../../.local/state/ocwatchd/blacklist.json"]
)
def test_a_broken_file_of_ours_or_theirs_never_keeps_opencode_from_starting(place: Place, name: str) -> None:
    place.block(4e9, "a/main")
    place.write(name, "{ broken")
    code, out, _ = place.run("run", "hi")
    assert (code, out) == (7, "run|hi|typed")


def test_without_configuration_it_simply_runs(place: Place) -> None:
    (place.config / "rate-limit-config.json").unlink()
    place.block(4e9, "a/main", "b/second")
    assert place.run("run", "hi") == (7, "run|hi|typed", "")
    assert place.content() == {}


def test_a_cooling_model_is_replaced_through_the_environment_alone(place: Place) -> None:
    place.block(4e9, "a/main")
    before = {path.name: path.read_bytes() for path in place.config.iterdir()}
    code, out, err = place.run("run", "hi", environ={"OPENCODE_CONFIG_CONTENT": '{"theme": "mine"}'})
    assert (code, out, err) == (7, "run|hi|typed", "")
    content = place.content()
    assert (content["model"], content["theme"]) == ("b/second", "mine")
    assert content["plugin"][0].startswith("file:///")
    assert {path.name: path.read_bytes() for path in place.config.iterdir()} == before
    code, out, err = place.run("run", "-m", "a/main", "hi")
    assert out == "run|-m|b/second|hi|typed"
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", ["run -m big hi", "run --model=big hi", "-m big", "run --no-fallback -mbig hi"])
def test_an_alias_names_a_model_on_the_command_line_too(place: Place, words: str) -> None:
    models = {"big": "a/main", "small": "b/second"}
    chain: dict[str, Any] = {"rateLimit": {"models": models, "fallbackChain": {"big": "small"}}}
    place.write("rate-limit-config.json", chain)
    plain = words.replace("--no-fallback ", "").replace(" ", "|")
    assert place.run(*words.split())[1] == plain.replace("big", "a/main") + "|typed"
    if "--no-fallback" not in words:
        place.block(4e9, "a/main")
        assert place.run(*words.split())[1] == plain.replace("big", "b/second") + "|typed"


def test_an_installed_plugin_is_not_loaded_twice(place: Place) -> None:
    (place.config / "plugin").mkdir()
    (place.config / "plugin" / "rate-limit-fallback.js").write_text("// ocwatchd companion plugin, version 1\n")
    place.run("run", "hi")
    assert place.content() == {}


def test_print_env_shows_and_starts_nothing(place: Place) -> None:
    place.block(4e9, "a/main")
    code, out, _ = place.run("run", "-m", "a/main", "it's", "--print-env")
    assert code == 0
    assert """opencode run -m b/second 'it'"'"'s'""" in out
    assert "OPENCODE_CONFIG_CONTENT=" in out
    assert place.started == 0
    for option, why in (("--attach", "not on this machine"), ("-i", "cannot be continued")):
        assert why in place.run("run", option, "http://192.0.2.1:1", "--print-env")[2]
    assert "not watched" not in place.run("run", "--attach", "http://127.0.0.1:1", "--print-env")[2]


def test_everything_cooling_asks_nobody(place: Place) -> None:
    place.block(4e9, "a/main", "b/second")
    code, out, err = place.run("run", "hi")
    assert (code, out, place.started) == (75, "", 0)
    assert "until 2096" in err
    assert place.run("--port", "1")[0] == 7, "a terminal starts all the same"
    place.block(None, "a/main", "b/second")
    code, out, err = place.run("run", "--wait", "hi")
    assert (code, out) == (75, "")
    assert "until you clear them" in err


def test_a_cooldown_that_ends_soon_is_waited_for(place: Place) -> None:
    end = time.time() + 1.5
    place.block(end, "a/main", "b/second")
    code, out, err = place.run("run", "hi")
    assert (code, out) == (7, "run|hi|typed")
    assert "waiting for a/main" in err
    assert time.time() >= end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_and_is_told_on(tmp_path: Path, number: signal.Signals) -> None:
    place = Place(tmp_path / "home", 'echo $$ > "$HOME/pid"; exec sleep 60')
    process = place.start("run", "hi")
    wait_until(lambda: (place.root / "pid").exists() and (place.root / "pid").read_text().strip(), 20)
    pid = int((place.root / "pid").read_text())
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_dies_of_a_signal_is_told_as_one(tmp_path: Path) -> None:
    place = Place(tmp_path / "home", "kill -9 $$")
    assert place.run("run", "hi")[0] == -signal.SIGKILL


def test_a_closed_pipe_ends_it_as_it_ends_opencode(tmp_path: Path) -> None:
    place = Place(tmp_path / "home", "exec yes")
    process = place.start("run", "hi")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == -signal.SIGPIPE


def test_the_directory_is_the_callers(place: Place) -> None:
    place.run("run", "hi", environ={"PWD": "/somewhere/linked"})
    assert (place.root / "pwd").read_text()
    process = subprocess.run(
        [sys.executable, "-m", "ocwatchd.cli", "run", "--", "stats", "--json"],
        env=place.env, cwd=place.root, input="typed", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (7, "stats|--json|typed")


def test_the_program_can_be_configured(place: Place) -> None:
    other = place.root / "other opencode"
    other.write_text('#!/bin/sh\nprintf "%s|" other "$@"; exit 3\n')
    other.chmod(0o755)
    place.write("rate-limit-config.json", {"rateLimit": {"launcher": {"opencode": "~/other opencode"}}})
    assert place.run("run", "hi")[:2] == (3, "other|run|hi|")
