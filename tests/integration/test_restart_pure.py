"""Tests of an OpenCode with `--pure`, which loads no plugins: the messages about it, and when it is restarted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocwatchd.cli.commands.redirect import restart_instead
from ocwatchd.cli.commands.restart import _check_comes_back
from ocwatchd.errors import OcwatchError
from ocwatchd.movers.restart import StrandedSession
from ocwatchd.opencode.discovery.earlier import earlier_processes
from ocwatchd.opencode.discovery.endpoints import OpenCodeProcess
from ocwatchd.opencode.plugin.install import install
from ocwatchd.opencode.process.tmux import Pane
from ocwatchd.paths import Paths
from tests.integration.test_restart import NOW, VIEW, running


@pytest.mark.parametrize(
    ("arguments", "environ", "pure"),
    [
        ("--pure", {}, True),
        ("--pure --log-level DEBUG", {}, True),
        ("--pure=true", {}, True),
        ("", {"OPENCODE_PURE": "1"}, True),
        ("--pure=false", {}, False),
        ("--no-pure", {}, False),
        ("", {"OPENCODE_PURE": "0"}, False),
    ],
)
def test_a_pure_opencode_is_known_by_arguments_and_environment(
    arguments: str, environ: dict[str, str], pure: bool
) -> None:
    assert running(*arguments.split(), environ=environ).pure is pure


@pytest.mark.parametrize(
    ("arguments", "terminal", "again", "lost"),
    [
        ("--pure", True, "opencode -s ses_1", True),
        ("--pure --port 1", True, "opencode --pure --port 1 -s ses_1", False),
        ("--pure", False, "opencode -s ses_1", False),
        ("--log-level DEBUG", True, "opencode --log-level DEBUG -s ses_1", False),
    ],
)
def test_a_pure_opencode_is_restarted_only_where_it_can_be_reached_again(
    arguments: str, terminal: bool, again: str, lost: bool
) -> None:
    pane = Pane("/t/s", "%2", None) if terminal else None
    stranded = StrandedSession(VIEW, running(*arguments.split()), pane)
    assert stranded.by_hand() == f"cd /a && {again}"
    if not lost:
        _check_comes_back(stranded)
        return
    with pytest.raises(OcwatchError, match="runs with --pure, which loads no plugins") as refused:
        _check_comes_back(stranded)
    assert str(refused.value).endswith(f"start it without --pure, and send the prompt again:\n    cd /a && {again}")


def test_who_runs_a_pure_opencode_is_told_to_start_it_without(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
    process = replace(running("--pure"), directory=str(tmp_path))
    table = [OpenCodeProcess(50, NOW - 100, str(tmp_path), tmp_path, None, serves_many=False)]
    install(paths)
    (one,) = earlier_processes(paths, lambda: table, lambda _: process)
    assert one.why == "runs with --pure, which loads no plugins"
    assert one.place == f"OpenCode 50 (pts/7, {tmp_path})"
    assert (
        replace(one, terminal=None, title="A title").place
        == f"OpenCode 50 (no terminal, {tmp_path}, session “A title”)"
    )
    assert one.remedy == f"quit it, then start it without --pure: cd {tmp_path} && opencode"
    stranded = replace(VIEW, directory=str(tmp_path))
    said = str(restart_instead(OcwatchError("none"), [stranded], [one]))
    assert f"process 50 {one.why}: {one.remedy}" in said
    assert "ocwatch restart" not in said
    older = replace(one, pure=False)
    assert older.why == "was started before the companion plugin was installed"
    assert "ocwatch restart ses_1" in str(restart_instead(OcwatchError("none"), [stranded], [older]))
    found = earlier_processes(paths, lambda: table, lambda _: replace(process, arguments=()))
    assert [each.pure for each in found] == [False]


def test_a_plugin_that_was_never_installed_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
    process = replace(running(), directory=str(tmp_path))
    older = OpenCodeProcess(50, NOW - 100, str(tmp_path), tmp_path, None, serves_many=False)
    newer = replace(older, pid=51, generation=2)  # its sessions are moved without the plugin

    def found(**changes: object) -> list[tuple[int, str, str]]:
        seen = earlier_processes(paths, lambda: [older, newer], lambda pid: replace(process, pid=pid, **changes))
        return [(one.pid, one.why, one.remedy) for one in seen]

    install_first, again = "run `ocwatch plugin install`, quit it, then", f"cd {tmp_path} && opencode"
    assert found() == [
        (50, "runs without the companion plugin, which is not installed", f"{install_first} type: {again}")
    ]
    assert found(arguments=("--pure",)) == [
        (50, "runs with --pure, which loads no plugins", f"{install_first} start it without --pure: {again}")
    ]
    install(paths)
    assert found() == [(50, "was started before the companion plugin was installed", f"quit it, then type: {again}")]
