"""Tests of `ocwatch service` without a manager, and with stand-ins for the journal; the real ones are in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

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
    assert "ocwatch up" in done.stderr


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
