"""Tests of `ocwatch service` without a manager, and with stand-ins for the journal; the real ones are in tests/e2e."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ocwatchd.cli.commands.service import readable
from ocwatchd.state import daemon_lock
from ocwatchd.state.blacklist.format import moment
from ocwatchd.time_words import stamp
from tests.cli.conftest import Cli
from tests.support.pty import Pty

SYSTEMCTL = """#!/bin/sh
case "$*" in
  *UnitPath*) echo "UnitPath=$UNITS" ;;
  *"show ocwatchd.service"*) printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nMainPID=1\\n' ;;
esac
"""
JOURNALCTL = """#!/bin/sh
printf 'asked: %s\\n\\033]0;title\\007said\\n' "$*"
"""
LOGINCTL = """#!/bin/sh
echo no
"""


def programs(cli: Cli, **scripts: str) -> dict[str, str]:
    """Return a PATH with these programs first."""
    directory = cli.paths.home / "bin"
    directory.mkdir()
    for name, text in scripts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{cli.env['PATH']}"}


@pytest.mark.parametrize("command", ["install", "start", "stop", "logs"])
def test_without_a_manager_1_and_what_to_do(cli: Cli, command: str) -> None:
    done = cli("service", command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "systemd" in done.stderr
    assert ("ocwatch down" if command == "stop" else "ocwatch up --detach\n") in done.stderr


def test_a_daemon_that_runs_without_a_manager_is_named(cli: Cli) -> None:
    cli.heartbeat()
    with daemon_lock.hold(cli.paths.daemon_lock):
        advice = f"The daemon is running without a service (pid {os.getpid()}). To stop it: ocwatch down\n"
        for command in ("install", "start", "stop"):
            done = cli("service", command)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.endswith(advice)
        assert cli("service", "status").stdout.endswith(advice)
    assert cli("service", "status").stdout.endswith("ocwatch up --detach\n")


def test_without_a_manager_nothing_is_installed_and_that_is_no_fault(cli: Cli) -> None:
    assert cli("service", "uninstall").stdout == "The service is not installed.\n"
    seen = cli.json("service", "status", code=3)
    assert (seen["manager"], seen["state"], seen["running"], seen["file"]) == ("none", "absent", False, None)
    assert cli("service", "status").returncode == 3


def test_a_manager_of_another_home_is_left_alone(cli: Cli) -> None:
    """A private HOME with the user's real runtime directory, in which installed services must not be touched."""
    env = programs(cli, systemctl=SYSTEMCTL)
    done = cli("service", "install", UNITS="/home/other/.config/systemd/user", **env)
    assert done.returncode == 1
    assert "does not use this home directory" in done.stderr
    assert not (cli.paths.home / ".config" / "systemd").exists()


def test_the_journal_is_asked_and_its_lines_are_harmless(cli: Cli) -> None:
    env = programs(cli, systemctl=SYSTEMCTL, journalctl=JOURNALCTL, loginctl=LOGINCTL)
    env["UNITS"] = str(cli.paths.home / ".config/systemd/user")
    assert "not installed" in cli("service", "logs", **env).stderr
    unit = Path(env["UNITS"]) / "ocwatchd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("# Installed by `ocwatch`\n")
    done = cli("service", "logs", "-n", "7", **env)
    assert "--user-unit=ocwatchd.service --lines=7" in done.stdout
    assert "\\x1b]0;title\\x07said" in done.stdout
    assert "--follow" in cli("service", "logs", "-f", **env).stdout
    assert cli("service", "logs", "-f", "--json", **env).returncode == 2
    (Path(env["PATH"].partition(":")[0]) / "journalctl").write_text("#!/bin/sh\necho No journal files >&2; exit 1\n")
    done = cli("service", "logs", **env)
    assert done.returncode == 1
    assert "No journal files" in done.stderr
    assert "journal.jsonl" in done.stderr


def test_lingering_is_explained_where_it_is_off(cli: Cli) -> None:
    env = programs(cli, systemctl=SYSTEMCTL, loginctl=LOGINCTL)
    env["UNITS"] = str(cli.paths.home / ".config/systemd/user")
    remark = "# The service stops when you log out. To keep it running: loginctl enable-linger\n"
    assert remark in cli("service", "install", **env).stdout
    assert remark in cli("service", "status", **env).stdout
    (Path(env["PATH"].partition(":")[0]) / "loginctl").write_text("#!/bin/sh\necho yes\n")
    assert "linger" not in cli("service", "status", **env).stdout


LINES = """2026-12-01T10:52:30.678Z started: pid=7907 release=0.1.0
2026-12-01T10:54:00.209Z limit: model=mock/primary session=ses_dcec2aa1cffeHfRyIJGChDg6is kind=rate_limit scope=model \
until=2026-12-01T11:53:59.927Z reset_source=retry-after reason=Rate limit reached small=False history=True
2026-12-01T10:54:02.044Z moved: model=mock/primary seconds=0.568 first_token_seconds=75 why=it is 10:54:02, not False
Traceback: seconds
"""


def test_the_log_has_human_times_and_no_values_of_python() -> None:
    now = moment("2026-12-01T12:00:00Z", "time")
    begin, limit, moved, other = (readable(line, now) for line in LINES.splitlines())
    assert begin == (stamp(now - 4049.322, now), "started: pid=7907 release=0.1.0")
    ends = f"until={stamp(now - 360.073, now)} reset_source=retry-after reason=Rate limit reached small=no history=yes"
    assert limit[1].endswith(ends)
    assert moved[1] == "moved: model=mock/primary seconds=0.6s first_token_seconds=1m 15s why=it is 10:54:02, not False"
    assert other == ("", "Traceback: seconds")
    odd = "2026-13-01T00:00:00Z until=2026-02-30T25:00:00Z"
    assert readable(odd, now) == ("", odd)


def test_the_log_is_wrapped_between_words_on_a_terminal_and_one_line_for_each_event_in_a_pipe(cli: Cli) -> None:
    cli.paths.state_dir.mkdir(parents=True)
    cli.paths.service_log.write_text(LINES)
    empty = cli.paths.home / "empty"
    empty.mkdir()
    lines = cli("logs", PATH=str(empty)).stdout.splitlines()
    assert len(lines) == 4
    env = {**cli.env, "PATH": str(empty), "TERM": "dumb"}
    with Pty(cli.command("logs"), env, cli.paths.home) as terminal:
        assert terminal.end() == 0
    shown = terminal.shown.decode().splitlines()
    words = [line.split() for line in shown]
    assert [word for line in words for word in line] == " ".join(lines).split()
    assert max(map(len, shown)) <= 80
    beginning = len(lines[0]) - len("started: pid=7907 release=0.1.0")
    assert all(line[:beginning].strip() == "" for line in shown if line.startswith(" "))
    assert len(shown) > 4


def test_the_program_that_follows_a_log_may_take_its_time_to_exit(cli: Cli) -> None:
    cli.paths.state_dir.mkdir(parents=True)
    cli.paths.service_log.write_text("2026-12-01T10:52:30.678Z limit: small=False\n")
    env = {**programs(cli), "TERM": "dumb"}
    tail = cli.paths.home / "bin/tail"
    tail.write_text("#!/bin/sh\necho 2026-12-01T10:52:30.678Z the end\nexec >&- 2>&-\nsleep 0.5\n")
    tail.chmod(0o755)
    with Pty(cli.command("logs", "-f"), {**cli.env, "PATH": env["PATH"]}, cli.paths.home) as terminal:
        assert terminal.end() == 0
    assert "the end" in terminal.shown.decode()


def test_a_log_that_is_followed_on_a_terminal_reads_like_the_others(cli: Cli) -> None:
    cli.paths.state_dir.mkdir(parents=True)
    cli.paths.service_log.write_text("2026-12-01T10:52:30.678Z limit: small=False\n")
    env = {**programs(cli), "TERM": "dumb"}
    (cli.paths.home / "bin/tail").symlink_to(str(shutil.which("tail")))
    with Pty(cli.command("logs", "-f"), {**cli.env, "PATH": env["PATH"].partition(":")[0]}, cli.paths.home) as terminal:
        terminal.wait(":30 limit: small=no")
        with cli.paths.service_log.open("a") as log:
            log.write("2026-12-01T10:54:00.209Z moved: seconds=75\n")
        terminal.wait(":00 moved: seconds=1m 15s")
        terminal.type("\x03")
        assert terminal.end() == 130
