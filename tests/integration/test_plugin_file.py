"""Tests of the companion plugin's file: ours is installed, upgraded and removed; a foreign one is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocwatchd.opencode.plugin.install import (
    NAME,
    PARTS,
    PluginFault,
    PluginState,
    find_plugin,
    install,
    is_installed,
    shipped,
    shipped_path,
    uninstall,
    version_of,
)
from ocwatchd.paths import Paths

OLD = b"// ocwatchd companion plugin, version 0.9\nexport const RateLimitFallback = async () => ({})\n"
FOREIGN = b"export const Mine = async () => ({})\n// ocwatchd companion plugin, version 1\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    config = tmp_path / ".config" / "opencode"
    return Paths(tmp_path, config, tmp_path / "data", tmp_path / "state", tmp_path / "cache")


def put(paths: Paths, content: bytes, directory: str = "plugin") -> Path:
    path = paths.opencode_config / directory / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("directory", ["plugin", "plugins"])
@pytest.mark.parametrize(("content", "installed"), [(OLD, True), (FOREIGN, False), (b"", False)])
def test_any_version_counts_as_installed_but_not_a_foreign_file(
    paths: Paths, directory: str, content: bytes, installed: bool
) -> None:
    assert not is_installed(paths)
    path = put(paths, content, directory)
    assert is_installed(paths) is installed
    path.unlink()
    os.mkfifo(path)  # must not block
    assert not is_installed(paths)


def test_an_installed_plugin_is_found_and_a_removed_one_is_not(paths: Paths) -> None:
    install(paths)
    assert is_installed(paths)
    uninstall(paths)
    assert not is_installed(paths)


def test_what_is_shipped_says_its_version_in_its_first_line_and_in_its_code() -> None:
    version = version_of(shipped())
    assert version
    assert f'const VERSION = "{version}"' in shipped().decode()
    # OpenCode 1.0 calls every export as a plugin.
    assert shipped().count(b"\nexport ") == 1
    directory = shipped_path().parent
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*.js")) == sorted((NAME, *PARTS))
    assert {version_of(shipped(part)) for part in PARTS} == {version}


def test_installed_from_nothing_and_then_left_as_it_is(paths: Paths) -> None:
    assert find_plugin(paths).state is PluginState.ABSENT
    before, after = install(paths)
    assert (before.state, after.state) == (PluginState.ABSENT, PluginState.CURRENT)
    assert after.path == paths.opencode_config / "plugin" / NAME
    assert after.path.read_bytes() == shipped()
    directory = after.path.parent
    assert {str(path.relative_to(directory)) for path in directory.rglob("*.*")} == {NAME, *PARTS}
    assert [path.name for path in directory.glob("*.js")] == [NAME]
    mark = after.path.stat()
    install(paths)
    assert (after.path.stat().st_ino, after.path.stat().st_mtime_ns) == (mark.st_ino, mark.st_mtime_ns)


@pytest.mark.parametrize("content", [OLD, shipped() + b"// changed by hand\n", shipped()[:100]])
def test_another_version_or_a_damaged_one_is_replaced(paths: Paths, content: bytes) -> None:
    path = put(paths, content)
    assert find_plugin(paths).state is PluginState.OUTDATED
    before, after = install(paths)
    assert before.installed == version_of(content)
    assert (after.state, path.read_bytes()) == (PluginState.CURRENT, shipped())


@pytest.mark.parametrize("content", [FOREIGN, b"", b"//", b"\xff\xfe\x00"])
def test_a_file_that_is_not_ours_is_neither_replaced_nor_removed(paths: Paths, content: bytes) -> None:
    path = put(paths, content)
    assert find_plugin(paths).state is PluginState.FOREIGN
    with pytest.raises(PluginFault, match="not installed by ocwatchd"):
        install(paths)
    assert uninstall(paths) == []
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to nowhere", "link in a circle"])
def test_nor_is_anything_else_of_that_name(paths: Paths, kind: str) -> None:
    path = paths.opencode_config / "plugin" / NAME
    path.parent.mkdir(parents=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if "circle" in kind else paths.home / "nowhere")
    with pytest.raises(PluginFault):
        install(paths)
    assert uninstall(paths) == []
    assert os.path.lexists(path)


@pytest.mark.parametrize("damage", ["missing", "old"])
def test_a_part_that_is_missing_or_old_is_put_right(paths: Paths, damage: str) -> None:
    path = install(paths)[1].path
    part = path.parent / PARTS[-1]
    part.unlink() if damage == "missing" else part.write_bytes(OLD)
    found = find_plugin(paths)
    assert (found.state, found.path) == (PluginState.OUTDATED, path)
    assert install(paths)[1].state is PluginState.CURRENT
    assert part.read_bytes() == shipped(PARTS[-1])


def test_a_part_that_is_not_ours_is_named_and_nothing_is_installed_around_it(paths: Paths) -> None:
    part = paths.opencode_config / "plugin" / PARTS[0]
    part.parent.mkdir(parents=True)
    part.write_bytes(FOREIGN)
    with pytest.raises(PluginFault, match=PARTS[0]):
        install(paths)
    assert not (paths.opencode_config / "plugin" / NAME).exists()
    part.unlink()
    install(paths)
    part.write_bytes(FOREIGN)
    removed = uninstall(paths)
    assert list(paths.opencode_config.rglob("*.js")) == [part]
    assert len(removed) == len(PARTS)


def test_a_link_to_ours_is_fine_until_it_is_out_of_date(paths: Paths) -> None:
    kept = paths.home / "dotfiles.js"
    for name in PARTS:
        (paths.home / name).parent.mkdir(exist_ok=True)
        (paths.home / name).write_bytes(shipped(name))
    kept.write_bytes(shipped())
    path = paths.opencode_config / "plugin" / NAME
    path.parent.mkdir(parents=True)
    path.symlink_to(kept)
    assert install(paths)[1].state is PluginState.CURRENT
    kept.write_bytes(OLD)
    with pytest.raises(PluginFault, match="link"):
        install(paths)
    assert kept.read_bytes() == OLD
    assert uninstall(paths)[0] == path
    assert kept.exists()


def test_removed_from_both_directories_that_opencode_loads(paths: Paths) -> None:
    first, second = put(paths, OLD), put(paths, shipped(), "plugins")
    neighbour = first.with_name("notify.js")
    neighbour.write_text("")
    assert uninstall(paths) == [first, second]
    assert find_plugin(paths).state is PluginState.ABSENT
    assert neighbour.exists()
    assert uninstall(paths) == []


def test_a_directory_that_cannot_be_written_is_said(paths: Paths) -> None:
    paths.opencode_config.mkdir(parents=True)
    (paths.opencode_config / "plugin").write_text("not a directory")
    with pytest.raises(PluginFault, match="cannot be written"):
        install(paths)


def test_its_empty_directory_goes_with_it_and_a_used_one_stays(paths: Paths) -> None:
    install(paths)
    uninstall(paths)
    assert not (paths.opencode_config / "plugin").exists()
    mine = put(paths, FOREIGN).rename(paths.opencode_config / "plugin" / "mine.js")
    install(paths)
    uninstall(paths)
    assert list(mine.parent.iterdir()) == [mine]
