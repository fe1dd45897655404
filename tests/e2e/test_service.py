"""Tests of the daemon as a service of a real `systemd --user`, from install to uninstall."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocwatchd.state import heartbeat
from ocwatchd.state.files import locked
from tests.integration.logtext import refusal
from tests.support.processes import wait_until
from tests.support.usermanager import UserManager

pytestmark = pytest.mark.e2e


@pytest.fixture
def user(tmp_path: Path) -> Iterator[UserManager]:
    """A user with other state and configuration directories, with characters in their names that units quote."""
    home = tmp_path / "home"
    program = home / "bin" / "notify-send"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" NOTIFY_SOCKET=$NOTIFY_SOCKET >> {home}/notices\n')
    program.chmod(0o755)
    places = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(home / 'st "%te'),
        "OPENCODE_CONFIG_DIR": str(home / "conf $HOME \\d"),
    }
    with UserManager(home, **places) as manager:
        yield manager


def state(user: UserManager) -> Path:
    return Path(user.env["XDG_STATE_HOME"]) / "ocwatchd"


def units(user: UserManager) -> Path:
    return user.home / ".config" / "systemd" / "user"


def service_pid(user: UserManager, other_than: int = 0) -> int:
    """Wait for a daemon that serves and is not this one; return its pid."""

    def beating() -> int:
        pid = int(user.systemctl("show", "ocwatchd.service", "--property=MainPID", "--value").stdout or 0)
        return pid if pid not in (0, other_than) and heartbeat.read(beat).pid == pid else 0

    beat = state(user) / "daemon.json"
    pid: int = wait_until(beating, 60, 0.1, "the service's heartbeat")
    return pid


def tree(*roots: Path) -> dict[str, bytes]:
    """Return every file below and its content, except the daemon's own heartbeat."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if path.name not in ("daemon.json", "ocwatchd.log")}


def test_installed_restarted_whatever_ends_it_and_gone_without_a_trace(user: UserManager) -> None:
    done = user.json("service", "install")
    assert (done["manager"], done["state"], done["enabled"], done["running"]) == ("systemd", "current", True, True)
    unit = Path(done["file"])
    assert unit == units(user) / "ocwatchd.service"
    verified = user.run("systemd-analyze", "verify", "--user", str(unit))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert user.ocwatch("status").returncode == 0, "started means that it hears"
    pid = service_pid(user)
    assert pid == done["pid"]
    assert user.ocwatch("service", "install").stdout.startswith("Up to date")

    log = user.home / ".local" / "share" / "opencode" / "log" / "opencode.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(refusal(1, time.time()))

    # The user's settings were copied, and variables for the daemon alone are not passed on to its children.
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"OPENCODE_CONFIG_DIR={user.env['OPENCODE_CONFIG_DIR']}".encode() in environ
    assert f"PATH={user.env['PATH']}".encode() in environ
    confined = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in confined
    assert "Seccomp:\t2" in confined

    second = user.run(sys.executable, "-m", "ocwatchd")
    assert second.returncode == 1
    assert f"already running (pid {pid})" in second.stderr

    # Confined as it is, it reads logs, searches for OpenCode, and starts the notifier.
    notices = user.home / "notices"
    wait_until(lambda: notices.exists() and "NOTIFY_SOCKET" in notices.read_text(), 60, why="a desktop notification")
    said = notices.read_text().splitlines()
    assert any("mock/primary" in line for line in said)
    assert said[-1] == "NOTIFY_SOCKET=", "which cannot speak for the daemon"

    os.kill(pid, signal.SIGKILL)
    after_crash = service_pid(user, other_than=pid)
    assert user.json("service", "status")["restarts"] == 1

    # A loop that hangs, with ten seconds instead of thirty, by a drop-in as a user would write it.
    own = units(user) / "ocwatchd.service.d" / "override.conf"
    own.parent.mkdir()
    own.write_text("[Service]\nWatchdogSec=10\n")
    assert user.systemctl("daemon-reload").returncode == 0
    assert user.systemctl("restart", "ocwatchd.service").returncode == 0
    fed = service_pid(user, other_than=after_crash)
    os.kill(fed, signal.SIGSTOP)
    stopped = service_pid(user, other_than=fed)
    # A daemon with other threads alive: its loop waits for a lock to write what it has just read.
    with locked(state(user) / "blacklist.json"):
        with log.open("ab") as file:
            file.write(refusal(2, time.time()))
        wait_until(lambda: not Path(f"/proc/{stopped}").exists(), 60, why="the watchdog to end it")
    revived = service_pid(user, other_than=stopped)
    # The log contains every thread's stack: more lines than `service logs` shows by default.
    lines = user.json("service", "logs", "-n", "1000")["lines"]
    assert "Fatal Python error: Aborted" in lines, "the log shows where it hung"
    assert any("in _wait_for_lock" in line for line in lines)
    last = ("service", "logs", "-n", "1")
    wait_until(lambda: "session=ses_2" in user.ocwatch(*last).stdout, 60, why="what it had read to be read again")
    assert (state(user) / "ocwatchd.log").stat().st_mode & 0o777 == 0o600
    assert revived == service_pid(user), "and one that does not hang is fed"

    assert user.json("service", "stop")["running"] is False
    assert user.ocwatch("service", "status").returncode == 3
    assert user.ocwatch("status").returncode == 3
    assert user.json("service", "start")["running"] is True
    assert user.json("service", "start")["running"] is True

    own.unlink()
    assert set(user.json("service", "uninstall")["removed"]) >= {str(unit)}
    assert not (user.home / ".config" / "systemd").exists()
    assert "ocwatchd" not in user.systemctl("list-units", "--all", "--no-legend").stdout
    assert user.ocwatch("service", "status").returncode == 3
    assert user.ocwatch("service", "uninstall").stdout == "The service is not installed.\n"


def test_up_and_down(user: UserManager) -> None:
    before = tree(user.home)
    would = user.json("up", "--dry-run")
    assert [step["did"] for step in would["steps"]] == ["wrote", "installed", "installed", "started"]
    assert tree(user.home) == before

    done = user.ocwatch("up")
    assert done.returncode == 0
    for said in ("rate-limit-config.json", "companion plugin", "ocwatchd.service", "is up"):
        assert said in done.stdout
    pid = service_pid(user)
    made = tree(user.home)
    again = user.ocwatch("up", PATH=f"/somewhere/else:{user.env['PATH']}")
    assert (again.returncode, tree(user.home)) == (0, made)
    assert "The daemon is already running as a systemd service" in again.stdout
    assert service_pid(user) == pid, "another PATH is no reason for a restart"

    # A variable that determines what is served is one of them.
    assert user.ocwatch("up", TZ="Asia/Tokyo").returncode == 0
    assert b"TZ=Asia/Tokyo" in Path(f"/proc/{service_pid(user, other_than=pid)}/environ").read_bytes().split(b"\0")

    would = user.json("down", "--dry-run", "--purge")
    done_steps = {(step["what"], step["did"]) for step in would["steps"]}
    assert {("daemon", "ended"), ("service", "removed"), ("plugin", "removed"), ("state", "removed")} <= done_steps
    assert user.ocwatch("status").returncode == 0
    user.json("down")
    assert user.ocwatch("status").returncode == 3
    assert not (user.home / ".config" / "systemd").exists()
    left = {Path(path).name for path in tree(user.home)}
    assert "rate-limit-config.json" in left
    assert "rate-limit-fallback.js" not in left

    # `up` leaves a daemon in the foreground alone, and `down` ends it.
    foreground = subprocess.Popen(
        [sys.executable, "-m", "ocwatchd.cli", "up", "--foreground"], env=user.env, cwd=user.home,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: user.ocwatch("status").returncode == 0, 60, why="the daemon in the foreground")
        assert "but not as a service" in user.ocwatch("up").stdout
        refused = user.ocwatch("service", "install")
        assert f"pid {foreground.pid}" in refused.stdout
        assert user.ocwatch("service", "start").returncode == 1
        user.json("down", "--purge")
        assert foreground.wait(10) == 0
    finally:
        foreground.kill()
        foreground.wait(10)
    assert tree(user.home) == before
    assert not state(user).exists()


def test_the_service_that_shares_from_install_to_the_daemons_end(user: UserManager) -> None:
    folder = user.home / "folder"
    folder.mkdir()
    config = Path(user.env["OPENCODE_CONFIG_DIR"]) / "rate-limit-config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    assert user.ocwatch("share", "install").returncode == 4, "nobody asked for it"
    share = {"folder": str(folder), "accounts": {"anthropic": "team-max-1"}, "node": "laptop"}
    config.write_text(json.dumps({"rateLimit": {"share": share}}))
    done = user.json("share", "install")
    unit = units(user) / "ocwatchd-share.service"
    assert (done["changed"], done["running"]) == ([str(unit)], True)
    verified = user.run("systemd-analyze", "verify", "--user", str(unit))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    wait_until(lambda: (folder / "laptop.cooldowns").exists(), 60, why="the machine's file")
    wait_until(lambda: user.ocwatch("share", "status").returncode == 0, 60, why="a connected helper")
    pid = int(user.systemctl("show", unit.name, "--property=MainPID", "--value").stdout)
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: int(user.systemctl("show", unit.name, "--property=MainPID", "--value").stdout) not in (0, pid),
        60,
        why="a helper that was started again",
    )
    user.json("service", "install")
    gone = user.json("service", "uninstall")["removed"]
    assert str(unit) in gone
    assert not units(user).exists()
