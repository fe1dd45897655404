"""Tests of what is shipped: wheel and source archive, manual pages, and the recipes for packages."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ocwatchd import DOCUMENTATION, __version__
from scripts.man_pages import pages

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
IGNORED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "dist", ".hypothesis")


def run(*command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build wheel and source archive twice each, in checkouts in different directories with other file times."""
    found = []
    for name in ("one", "two"):
        tree = tmp_path_factory.mktemp("build") / name
        shutil.copytree(ROOT, tree, ignore=IGNORED)
        if name == "two":
            for path in tree.rglob("*.py"):
                os.utime(path, (1_000_000_000, 1_000_000_000))
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), cwd=tree)
        found += sorted((tree / "dist").iterdir())
    return found


def test_two_builds_are_the_same_to_the_byte(built: list[Path]) -> None:
    by_name: dict[str, set[str]] = {}
    for path in built:
        by_name.setdefault(path.name, set()).add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert sorted(by_name) == [f"ocwatchd-{__version__}-py3-none-any.whl", f"ocwatchd-{__version__}.tar.gz"]
    assert {len(hashes) for hashes in by_name.values()} == {1}


def test_the_archives_are_whole_and_their_description_is_accepted(built: list[Path]) -> None:
    wheel = next(path for path in built if path.suffix == ".whl")
    source = next(path for path in built if path.name.endswith(".tar.gz"))
    in_wheel = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    services = ("ocwatchd.service", "ocwatchd-share.service", "dev.ocwatchd.plist", "dev.ocwatchd.share.plist")
    for template in (*services, "sandbox.conf"):
        assert f"ocwatchd/templates/{template}" in in_wheel
    assert "ocwatchd/share/merge.lua" in in_wheel
    assert {"systemd/ocwatchd.service", "systemd/sandbox.conf", "launchd/dev.ocwatchd.plist"} <= in_source
    assert {"LICENSE", "README.md", "man/ocwatch.1", "packaging/deb/build"} <= in_source
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    assert any(name.endswith("share/man/man1/ocwatch.1") for name in in_wheel)
    metadata = next(name for name in in_wheel if name.endswith("METADATA"))
    assert "Project-URL: Homepage" in zipfile.ZipFile(wheel).read(metadata).decode()
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(source))


def test_the_manual_pages_are_those_of_the_commands() -> None:
    assert {path.name: path.read_text() for path in (ROOT / "man").iterdir()} == pages(), "python -m scripts.man_pages"


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_manual_page_is_valid_roff(name: str) -> None:
    done = run("groff", "-man", "-ww", "-Tutf8", "-z", str(ROOT / "man" / name))
    assert done.stderr == ""


def test_the_debian_package_runs(tmp_path: Path) -> None:
    package = run(str(PACKAGING / "deb/build"), str(tmp_path), PYTHON=sys.executable).stdout.strip()
    run("dpkg-deb", "-x", package, str(tmp_path / "root"))
    assert f"Version: {__version__}\n" in run("dpkg-deb", "-f", package).stdout
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    for program, argument in (("ocwatch", "--version"), ("ocwatchd", "--version"), ("ocwatch", "cooldowns")):
        command = [sys.executable, "-I", str(tmp_path / "root/usr/bin" / program), argument]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert __version__ in done.stdout or "No model is cooling down." in done.stdout
    assert (tmp_path / "root/usr/share/man/man1/ocwatch.1.gz").is_file()


def dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[<>=~! ]", line)[0] for line in project["dependencies"]}


def test_recipes_have_our_version_and_dependencies() -> None:
    formula, pkgbuild, flake = (
        (PACKAGING / name).read_text() for name in ("homebrew/ocwatchd.rb", "aur/PKGBUILD", "nix/flake.nix")
    )
    assert f"/v{__version__}.tar.gz" in formula
    assert f"pkgver={__version__}\n" in pkgbuild
    assert f'version = "{__version__}"' in flake
    listed = re.search(r"^depends=\(python (.*)\)$", pkgbuild, re.MULTILINE)
    assert listed is not None
    assert {name.removeprefix("python-") for name in listed[1].split()} == dependencies()
    listed = re.search(r"python3Packages; \[ (.*) \]", flake)
    assert listed is not None
    assert set(listed[1].split()) == dependencies()
    run("bash", "-n", str(PACKAGING / "aur/PKGBUILD"))


def test_the_container_copies_what_is_there() -> None:
    text = (PACKAGING / "container/Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert len(copied) > 5
    assert [name for name in copied if not (ROOT / name).exists()] == []
    run("sh", "-n", str(PACKAGING / "container/start"))


def test_the_moving_picture_is_small_and_names_no_private_place() -> None:
    picture = (ROOT / "docs/move.svg").read_text()
    frames = ElementTree.fromstring(picture).findall(".//{http://www.w3.org/2000/svg}g[@id]")
    assert len(frames) > 5
    assert "fallback" in "".join(frames[-1].itertext())
    assert len(picture) < 60_000
    assert "/tmp/" not in picture
    assert "docs/move.svg" in (ROOT / "README.md").read_text()


def test_messages_name_the_documentation_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION
    relative = re.compile(r"""(?<!")"(?!")[^"\n]*\bdocs/[a-z0-9-]+\.md""")
    found = {(path.name, line) for path in (ROOT / "ocwatchd").rglob("*.py") for line in path.read_text().splitlines()}
    assert {(name, line) for name, line in found if relative.search(line)} == set()
