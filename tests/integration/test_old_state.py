"""Tests that this release reads the state of every release: nothing is lost, moved aside or reported twice.

`python -m scripts.keep_state` adds the state of the present release.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Count
from tests.integration.logtext import refusal
from tests.support.daemon import Daemon, epoch
from tests.support.homes import Home
from tests.support.processes import free_port, wait_until

STATES = sorted((Path(__file__).parent / "data" / "state").iterdir())
ROOT = Path(__file__).resolve().parents[2]
OURS = ("kind", "scope", "since", "until", "strikes", "reset_source", "rule", "reason", "session", "target")


@pytest.mark.parametrize("kept", STATES, ids=lambda path: path.name)
def test_what_a_release_left_is_read(kept: Path, tmp_path: Path, counted: Count) -> None:
    home = Home(tmp_path, f"http://127.0.0.1:{free_port()}", environment={"PYTHONPATH": str(ROOT)})
    home.log_dir.mkdir(parents=True)
    daemon, offset = Daemon(home, chain={"*": "mock2/fallback"}), tmp_path / "offset"
    shutil.copytree(kept, daemon.state)
    before = json.loads((kept / "blacklist.json").read_text())
    journal = (kept / "journal.jsonl").read_text()
    left = max(epoch(json.loads(line)["time"]) for line in journal.splitlines())
    offset.write_text(str(left + 5 - time.time()))  # as if the daemon had just ended
    daemon.command = (sys.executable, "-m", "tests.support.stepped", str(offset))
    log = home.log_dir / "opencode.log"
    with daemon:
        log.write_bytes(refusal(99, left + 6).replace(b"modelID=primary", b"modelID=newcomer"))
        daemon.wait_cooldown("mock/newcomer")
        wait_until(lambda: (daemon.state / "cursors.json").read_text().count("opencode.log"), why="cursors")
    after = json.loads((daemon.state / "blacklist.json").read_text())
    assert set(after["models"]) == {*before["models"], "mock/newcomer"}
    for model, entry in before["models"].items():
        assert {key: after["models"][model][key] for key in OURS} == {key: entry[key] for key in OURS}, model
    assert (daemon.state / "journal.jsonl").read_text().startswith(journal)
    assert not list(daemon.state.glob("*corrupt*"))
    assert not [line for line in daemon.said().splitlines() if "damaged" in line or "read again" in line]
    history = json.loads(daemon.ocwatch("history", "--json", "--since", "2026-01-01").stdout)
    assert "plan/model" in json.dumps(history)
    listed = json.loads(daemon.ocwatch("cooldowns", "--json").stdout)["cooldowns"]
    assert "broke/*" in [entry["model"] for entry in listed], "until a user clears it"
    counted("bad inputs", len(STATES))
