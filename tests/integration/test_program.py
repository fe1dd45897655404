"""Tests of asking an OpenCode program for its version, in a HOME that is not the user's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.process.program import about_program, parse_version
from tests.support.processes import is_running, wait_until


def script(directory: Path, text: str) -> Path:
    path = directory / "opencode"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_its_version_and_nothing_of_the_users_reaches_it(tmp_path: Path) -> None:
    program = script(tmp_path, 'echo "$HOME $SECRET_API_KEY $OPENCODE_CONFIG"; touch "$HOME/mark"; echo 1.2.3-beta.1')
    environ = {**os.environ, "HOME": str(tmp_path), "SECRET_API_KEY": "9.9.9", "OPENCODE_CONFIG": "8.8.8"}
    assert about_program(program, environ).number == "1.2.3-beta.1"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'no libc' >&2; exit 3", "exited with code 3: no libc"),
        ("exit 0", "exited with code 0, without output"),
        ("echo hi", "hi"),
    ],
)
def test_what_tells_no_version_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(OpenCodeUnreachable, match=said):
        about_program(script(tmp_path, text), os.environ)


def test_it_cannot_hang_us_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()
    with pytest.raises(OpenCodeUnreachable, match="did not finish"):
        about_program(program, os.environ, limit=0.5)
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid), 60, why="the child's child to be gone")


def test_a_program_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "opencode").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "opencode").chmod(0o755)
    with pytest.raises(OpenCodeUnreachable, match="cannot be started"):
        about_program(tmp_path / "opencode", os.environ)


@pytest.mark.parametrize(
    ("said", "number", "generation"),
    [
        ("1.18.33", "1.18.33", 1),
        ("0.0.0-dev-202609212252", "0.0.0-dev-202609212252", 1),
        ("opencode2 v0.0.0-next-16350", "0.0.0-next-16350", 2),
        ("opencode v2.3.2", "2.3.2", 2),
        ("2.0.26", "2.0.26", 2),
        ("Warning: config 3.1 is old\n1.3.2\n", "1.3.2", 1),
    ],
)
def test_the_generation_is_in_the_version_s_shape(said: str, number: str, generation: int) -> None:
    found = parse_version(said)
    assert found is not None
    assert (found.number, found.generation) == (number, generation)
