"""Tests of `oc-smart run`: its standard output, the cooldowns that it enters early, and which errors it handles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.config.names import Names
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.early_cooldowns import enter_early
from ocwatchd.launcher.launch import Launch
from ocwatchd.launcher.trouble_signs import TroubleSigns, below
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.query import CooldownTable

PROGRAM = """
import os, subprocess, sys, time
from ocwatchd.launcher.stdout import Output
empty, held, size = sys.argv[1] == "75", sys.argv[2] == "held", int(sys.argv[3])
sys.stdout.write("")
output = Output(held)
child = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=output.child)
output.started()
while child.poll() is None:
    output.take()
    time.sleep(0.01)
output.write("and elsewhere")
output.flush()
output.end(empty)
"""


def run(empty: bool, held: bool, size: int = 5, **streams: Any) -> bytes:
    words = ["75" if empty else "0", "held" if held else "live", str(size)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, timeout=60, **streams)
    return bytes(done.stdout or b"")


@pytest.mark.parametrize("size", [0, 5, 300_000, 3_000_000])
def test_a_pipe_gets_all_or_nothing(size: int) -> None:
    whole = b"\0" * size + b"and elsewhere"
    pipe = subprocess.PIPE
    assert run(empty=False, held=True, size=size, stdout=pipe) == whole
    assert run(empty=False, held=False, size=size, stdout=pipe) == whole
    kept = run(empty=True, held=True, size=size, stdout=pipe)
    assert kept == (b"" if size < 1 << 20 else whole), "more than a MiB is passed through"


def test_a_file_is_cut_back_to_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for empty, expected in ((True, b"before|after"), (False, b"before|\0\0\0\0\0and elsewhereafter")):
        with path.open("wb") as out:
            out.write(b"before|")
            out.flush()
            run(empty=empty, held=True, stdout=out)
            out.seek(0, os.SEEK_END)
            out.write(b"after")
        assert path.read_bytes() == expected
    path.write_bytes(b"others' ")
    with path.open("ab") as out:  # it is not known whose lines these are
        run(empty=True, held=True, stdout=out)
    assert path.read_bytes().startswith(b"others' \0\0")


def test_beside_errors_it_keeps_its_place() -> None:
    assert run(empty=True, held=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) == b"\0\0\0\0\0and elsewhere"


def said(status: int = 429, **more: object) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    known = {"time": at, "pid": 7, "session": "ses_1", "provider": "p", "model": "m", "status": status}
    return json.dumps({**known, **more}) + "\n"


def test_a_plain_refusal_is_entered_at_once_and_not_counted(tmp_path: Path) -> None:
    register = tmp_path / "blacklist.json"
    old = said(model="old", retry_after="3600")
    lines = [
        old, said(retry_after="3600"), said(model="unknown-end"), said(model="garbage", retry_after="soon"),
        said(529, model="other", retry_after="9"), said(model="over", retry_after="0"), "{", said(model="torn")[:-1],
    ]  # fmt: skip
    (tmp_path / "7.jsonl").write_text("".join(lines))
    enter_early(
        str(tmp_path), {"7.jsonl": len(old), "gone.jsonl": 0}, str(register), lambda _: ("q/n", "x"), time.time()
    )
    (entry,) = blacklist.read(register).entries()
    assert (str(entry.model), entry.strikes, entry.reset_source.value, entry.session) == (
        "p/m",
        0,
        "retry-after",
        "ses_1",
    )
    assert entry.target is not None and (str(entry.target.model), entry.target.agent) == ("q/n", "x")
    assert entry.until == pytest.approx(time.time() + 3600, abs=5)
    (tmp_path / "7.jsonl").write_text(said(retry_after="9000"))
    enter_early(str(tmp_path), {"7.jsonl": 0}, str(register), lambda _: ("q/n", "x"), time.time())
    assert blacklist.read(register).entries() == (entry,), "what is listed is the engine's to change"


def test_the_chains_of_agents_are_entered_with_an_early_cooldown(tmp_path: Path) -> None:
    """If no daemon has published them, the plugin would know only the target, which all agents share."""
    register = tmp_path / "blacklist.json"
    (tmp_path / "7.jsonl").write_text(said(retry_after="3600"))
    names = Names({"p/m": ("q/n",), "agent:plan": ("r/c",)}, {}, {"r/c": "helper"})
    places = (str(tmp_path / "log"), str(tmp_path), [str(tmp_path)], str(tmp_path / "programs"))
    launch = Launch("opencode", Arguments(["run", "hi"]), names, lambda: CooldownTable({}), places)
    enter_early(str(tmp_path), {"7.jsonl": 0}, str(register), launch.fallback, time.time(), launch.agent_chains)
    (entry,) = blacklist.read(register).entries()
    assert entry.target is not None and str(entry.target.model) == "q/n"
    row = {"model": "r/c", "agent": "helper", "pool": None}
    assert json.loads(register.read_text())["agent_chains"] == {"plan": {"*": [row]}}


def test_others_troubles_are_passed_over(tmp_path: Path) -> None:
    trouble_signs = TroubleSigns(str(tmp_path / "log"), str(tmp_path))
    trouble_signs.started(os.getpid())
    known = Path("/proc/self").is_dir()
    (tmp_path / "1.jsonl").write_text(said())
    assert trouble_signs.troubled() is not known
    assert list(trouble_signs.new_facts()) == ["1.jsonl"], "what they say counts for all"
    (tmp_path / f"{os.getpid()}.jsonl").write_text(said())
    assert trouble_signs.troubled()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert below(str(child.pid), os.getpid())
        assert below("1", os.getpid()) is not known
    finally:
        child.kill()
        child.wait()


def test_a_log_that_another_has_open_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    trouble_signs = TroubleSigns(str(tmp_path / "log"), str(tmp_path))
    trouble_signs.started(os.getpid())
    (tmp_path / "log" / "theirs.log").write_text("ERROR 2026 service=llm\n")
    with (tmp_path / "log" / "own.log").open("w") as own:
        assert trouble_signs.troubled() is not Path("/proc/self").is_dir()
        own.write("ERROR 2026 service=llm\n")
        own.flush()
        assert trouble_signs.troubled()
