"""Tests of `ocwatch drill` with the user's own OpenCode on PATH and HOME, in which nothing may change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.binaries import preview
from tests.support.opencode import NEWEST, VERSIONS, binary
from tests.support.reaper import below

pytestmark = pytest.mark.e2e

PREVIEW = "0.0.0-next-16350"
STEPS = ["opencode", "start", "endpoint", "detection", "log", "cooldown", "move", "prevention", "return"]


class User:
    """A user with files, among them a configuration and a blacklist that a careless drill would change."""

    def __init__(self, root: Path) -> None:
        self.home, self.bin, self.temporary = root / "home", root / "bin", root / "tmp"
        for directory in (self.home, self.bin, self.temporary):
            directory.mkdir()
        for name in (".config/opencode/opencode.json", ".local/state/ocwatchd/blacklist.json", ".local/share/x.db"):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text('{"model": "his/own"}')

    def install(self, version: str) -> None:
        (self.bin / "opencode").symlink_to(preview() if version == PREVIEW else binary(version))

    def install_script(self, text: str) -> None:
        (self.bin / "opencode").write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / "opencode").chmod(0o755)

    def drill(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {
            "HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "TMPDIR": str(self.temporary),
            # None of these may reach the drill's OpenCode.
            "OPENCODE_CONFIG_CONTENT": '{"model": "his/own"}', "XDG_CONFIG_HOME": str(self.home / ".config"), **environ,
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "ocwatchd.cli", "drill", *arguments],
            env={**env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=self.home, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    def sums(self) -> dict[str, str]:
        files = [path for path in self.home.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def user() -> Iterator[User]:
    # A short path, because the drill uses /tmp otherwise, for its sockets.
    with tempfile.TemporaryDirectory(prefix="u", dir="/tmp") as root:
        yield User(Path(root))


# 1.1.65 hides its password from its own plugins, which the drill found out.
@pytest.mark.parametrize("version", [*VERSIONS, "1.1.65", PREVIEW])
def test_every_step_passes_and_nothing_of_the_users_is_touched(version: str, user: User) -> None:
    user.install(version)
    before = user.sums()
    done = user.drill("--json")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["version"], document["opencode_version"], document["passed"]) == (1, version, True)
    assert [step["code"] for step in document["steps"]] == STEPS
    assert all(step["passed"] and step["seen"] and step["remedy"] is None for step in document["steps"])
    assert (document["refused_outside"], document["kept"]) == ([], None)
    assert user.sums() == before
    assert list(user.temporary.iterdir()) == []
    assert below(user.temporary) == []
    if version == PREVIEW:
        shown = {step["code"]: step["seen"] for step in document["steps"]}
        assert "rule rate-limit" in shown["log"]
        assert "refused the prompt once" in shown["prevention"]
    print(version, document["seconds"], {step["code"]: step["seconds"] for step in document["steps"]})


def test_an_opencode_that_serves_nothing_is_said_with_its_own_words_and_kept(user: User) -> None:
    user.install_script(f'[ "$1" = --version ] && echo {NEWEST} && exit; echo "no such table: session" >&2; exit 1')
    done = user.drill("--keep")
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert f"version {NEWEST}" in text
    assert "✗" in text
    assert "expected: a response from `opencode serve`" in text
    assert "no such table: session" in text
    assert "do: start `opencode serve` yourself" in text
    assert "1 of 2 steps failed" in text
    (kept,) = user.temporary.iterdir()
    assert f"The drill's directory is kept: {kept}" in done.stdout
    assert (kept / "opencode.out").read_text().startswith("no such table")


def test_a_broken_opencode_is_said_and_ends_with_1(user: User) -> None:
    user.install_script('echo "cannot load libfoo" >&2; exit 1')
    done = user.drill()
    assert done.returncode == 1
    assert "cannot load libfoo" in " ".join(done.stdout.split())
    assert list(user.temporary.iterdir()) == []


def test_an_opencode_that_cannot_work_offline_is_not_tried(user: User) -> None:
    user.install_script("echo 1.0.61")
    done = user.drill()
    assert done.returncode == 1
    assert "1.0.61, which downloads its providers' libraries" in " ".join(done.stdout.split())
    assert "1 of 1 steps failed" in done.stdout


def test_no_opencode_at_all_is_one_sentence_with_the_remedy(user: User) -> None:
    done = user.drill()
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    assert "not on PATH" in done.stderr
    assert "ocwatch drill --fetch" in done.stderr
