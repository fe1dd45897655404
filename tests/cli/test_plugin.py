"""Tests of `ocwatch plugin install | uninstall | status`."""

from __future__ import annotations

import json
from pathlib import Path

from ocwatchd.opencode.plugin.install import NAME, PARTS, shipped, version_of
from tests.cli.conftest import Cli

OLD = b"// ocwatchd companion plugin, version 0.9\n"
FOREIGN = b"export const Mine = async () => ({})\n"


def test_commands_say_what_they_did(cli: Cli) -> None:
    assert cli.json("plugin", "status")["state"] == "absent"
    done = cli.json("plugin", "install")
    assert (done["state"], done["changed"], done["installed_version"]) == ("current", True, done["shipped_version"])
    assert Path(done["path"]).read_bytes() == shipped()
    assert cli.json("plugin", "install")["changed"] is False
    Path(done["path"]).write_bytes(OLD)
    assert "0.9" in cli("plugin", "status").stdout
    assert cli.json("plugin", "install")["replaced_version"] == "0.9"
    parts = [str(Path(done["path"]).parent / part) for part in PARTS]
    assert cli.json("plugin", "uninstall")["removed"] == [done["path"], *parts]
    assert not Path(parts[0]).parent.exists()
    assert cli("plugin", "uninstall").stdout == "The companion plugin is not installed.\n"


def test_a_foreign_file_is_1_for_install_and_0_for_the_others(cli: Cli) -> None:
    path = cli.paths.opencode_config / "plugin" / NAME
    path.parent.mkdir()
    path.write_bytes(FOREIGN)
    done = cli("plugin", "install", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr
    assert cli.json("plugin", "status") == {
        "version": 1,
        "path": str(path),
        "state": "foreign",
        "installed": False,
        "installed_version": None,
        "shipped_version": version_of(shipped()),
    }
    assert cli("plugin", "uninstall").returncode == 0
    assert path.read_bytes() == FOREIGN


def test_the_plugin_goes_where_opencode_is_told_to_look(cli: Cli) -> None:
    elsewhere = cli.paths.home / "elsewhere"
    done = cli("plugin", "install", "--json", OPENCODE_CONFIG_DIR=str(elsewhere))
    assert json.loads(done.stdout)["path"] == str(elsewhere / "plugin" / NAME)
