"""Tests of pipes, links, devices and directories in place of our files: nothing hangs, and faults are reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ocwatchd.launcher.trouble_signs import TroubleSigns
from ocwatchd.opencode.discovery.plugin_sockets import rival_in
from ocwatchd.opencode.discovery.unreachable import run_began
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.state.read_progress import unread_log
from tests.cli.conftest import Cli
from tests.support.processes import wait_until


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def file(path: Path) -> None:
    path.write_text("{}")


THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": fifo, "a device": device, "a link to itself": loop, "a directory": Path.mkdir, "a plain file": file,
}  # fmt: skip
FILES = (
    "blacklist.json", "cursors.json", "journal.jsonl", "journal.jsonl.1", "daemon.json", "moved.json", "forecasts.json",
    "prices.json", "budget.json", "starter.sha256", "ocwatchd.log", "plugin-errors.log", "facts", "allowances", "doors",
    "origins",
)  # fmt: skip
BELOW = ("facts/1.jsonl", "facts/1.jsonl.1", "allowances/x.json", "doors/1.json", "doors/1.sock", "doors/x.sock")
LOCKS = ("daemon.lock", "blacklist.json.lock", "journal.jsonl.lock", "moved.json.lock")


def planted(cli: Cli, thing: str, *names: str) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    for name in names:
        place = cli.paths.state_dir / name
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.lexists(place):
            THINGS[thing](place)


def log_of(cli: Cli) -> Path:
    path = cli.paths.log_dir / "opencode.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("thing", THINGS)
def test_the_daemon_starts_beside_whatever_lies_in_its_files_places(cli: Cli, thing: str) -> None:
    """All at once: `cursors.json` as a pipe blocked the start, and `facts` as a plain file ended the daemon."""
    planted(cli, thing, *FILES, *LOCKS[1:])
    log_of(cli).touch()
    fifo(cli.paths.log_dir / "2026-01-01T000000.log")
    err = cli.paths.home / "err"
    with err.open("wb") as sink:
        daemon = subprocess.Popen([sys.executable, "-m", "ocwatchd"], env=cli.env, cwd=cli.paths.home, stderr=sink)
    try:
        wait_until(lambda: b" follows " in err.read_bytes() or daemon.poll() is not None, 30, why="its start")
        cli.configure(fallbackChain={"p/a": "q/c"})  # an edit is only used by a running loop
        wait_until(lambda: b"configured" in err.read_bytes() or daemon.poll() is not None, 30, why="its loop")
        assert daemon.poll() is None, err.read_text()
        daemon.terminate()
        assert daemon.wait(10) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert "Traceback" not in err.read_text()
    assert "internal fault" not in err.read_text()


@pytest.mark.parametrize("thing", ["a pipe", "a device", "a link to itself", "a directory"])
def test_a_lock_that_is_no_file_is_refused_with_a_sentence(cli: Cli, thing: str) -> None:
    planted(cli, thing, "daemon.lock")
    done = subprocess.run(
        [sys.executable, "-m", "ocwatchd"], env=cli.env, cwd=cli.paths.home, capture_output=True, timeout=30
    )
    assert done.returncode == 1
    assert b"daemon.lock is " in done.stderr
    assert b"Traceback" not in done.stderr
    down = cli("down")
    assert "Traceback" not in down.stderr


COMMANDS = (
    ("pick", "p/a"), ("status",), ("cooldowns",), ("statusline",), ("history",), ("explain",), ("report", "--out", "-"),
    ("forecast",), ("doctor",), ("redirect",), ("restart",), ("plugin", "status"), ("service", "status"),
    ("__complete", "sessions"), ("__complete", "models"), ("block", "p/x"), ("clear", "--all"), ("down", "--purge"),
)  # fmt: skip


@pytest.mark.parametrize("names", [FILES, BELOW], ids=["files", "below"])
@pytest.mark.parametrize("thing", THINGS)
def test_every_command_comes_to_its_end(cli: Cli, thing: str, names: tuple[str, ...]) -> None:
    for command in COMMANDS:
        planted(cli, thing, *names)
        done = cli(*command)  # within a minute, and without a traceback
        assert done.returncode in (0, 1, 3, 5), (command, done.stderr)


def test_the_launcher_reads_no_pipe(tmp_path: Path) -> None:
    """Logs and files of facts that grow are read; neither may be a file whose read never ends."""
    logs, facts = tmp_path / "log", tmp_path / "facts"
    logs.mkdir()
    facts.mkdir()
    trouble_signs = TroubleSigns(str(logs), str(facts))
    fifo(logs / "a.log")
    device(logs / "b.log")
    fifo(facts / "1.jsonl")
    assert not trouble_signs.troubled()
    (logs / "c.log").write_text("ERROR\n")
    (logs / "d.log").symlink_to(logs / "a.log")
    assert trouble_signs.troubled()


def test_opencodes_own_files_are_read_if_they_are_files(tmp_path: Path) -> None:
    session = tmp_path / "storage/session/p/ses_1.json"
    session.parent.mkdir(parents=True)
    fifo(session)
    messages = tmp_path / "storage/message/ses_1"
    messages.mkdir(parents=True)
    device(messages / "msg_1.json")
    assert SessionStore(tmp_path).session("ses_1") is None
    assert SessionStore(tmp_path).messages("ses_1") == []
    (tmp_path / "log").mkdir()
    fifo(tmp_path / "log/opencode.log")
    assert run_began(tmp_path / "log", "ses_1") is None
    cursors = tmp_path / "cursors.json"
    fifo(cursors)
    assert unread_log(str(tmp_path / "log"), str(cursors), 0.0, time.time()) is None


def test_a_process_that_tells_about_itself_by_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "doors").mkdir(mode=0o700)
    fifo(tmp_path / "doors/7.json")
    assert rival_in(tmp_path / "doors", 7) is None


def test_a_status_of_pipes_names_them(cli: Cli) -> None:
    planted(cli, "a pipe", "blacklist.json")
    cli.heartbeat()
    done = cli("cooldowns")
    assert "blacklist.json is not a plain file" in done.stderr
    assert cli("block", "p/c").returncode == 0, "it is moved aside"
    assert list(cli.registered()) == ["p/c"]
    assert json.loads(cli("cooldowns", "--json").stdout)["problems"] == []
