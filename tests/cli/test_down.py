"""Tests of `ocwatch down` with the daemon in the foreground; with a service see tests/e2e."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.cli.conftest import Cli, resting
from tests.cli.test_up import USER, running


def tree(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


def test_down_ends_the_daemon_and_keeps_what_was_learnt(cli: Cli) -> None:
    cli.opencode(**USER)
    cli.register(**{"p/a": resting()})
    with running(cli) as process:
        would = cli.json("down", "--dry-run", "--purge")
        assert ("daemon", process.pid) in [(step["what"], step["pid"]) for step in would["steps"]]
        assert process.poll() is None
        done = cli("down")
        assert done.returncode == 0
        assert f"Ended the daemon (pid {process.pid})." in done.stdout
        assert process.wait(5) == 0
    assert cli("status").returncode == 3
    assert cli.json("plugin", "status")["state"] == "absent"
    assert cli.paths.config_file.exists()
    assert set(cli.registered()) == {"p/a"}
    again = cli.json("down")
    assert {step["did"] for step in again["steps"]} == {"kept"}


def test_a_daemon_that_hangs_is_ended_too(cli: Cli) -> None:
    with running(cli) as process:
        process.send_signal(signal.SIGSTOP)
        assert cli("down").returncode == 0
        assert process.wait(5) == -signal.SIGKILL


def test_purge_takes_the_state_and_a_configuration_that_nobody_touched(cli: Cli) -> None:
    cli.opencode(**USER)
    with running(cli):
        cli.opencode(model="other/model")  # the source of the starter may change: the starter is still ours
        done = cli("down", "--purge")
    assert "it had not changed since `ocwatch up` wrote it" in done.stdout
    assert tree(cli.paths.home) == {".config/opencode/opencode.json"}
    assert not cli.paths.state_dir.exists()


def test_purge_never_takes_a_configuration_of_the_users(cli: Cli) -> None:
    cli.opencode(**USER)
    with running(cli):
        cli.paths.config_file.write_text(cli.paths.config_file.read_text() + "\n")
        assert "Your configuration is kept" in cli("down", "--purge").stdout
    assert tree(cli.paths.home) == {".config/opencode/opencode.json", ".config/opencode/rate-limit-config.json"}
    assert cli("down", "--purge").returncode == 0
    assert cli.paths.config_file.exists()


def test_a_state_directory_that_is_a_link_is_not_emptied(cli: Cli) -> None:
    elsewhere = cli.paths.home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    cli.paths.state_dir.parent.mkdir(parents=True)
    cli.paths.state_dir.symlink_to(elsewhere)
    done = cli("down", "--purge")
    assert done.returncode == 1
    assert "is a symbolic link" in done.stderr
    assert (elsewhere / "mine").exists()
