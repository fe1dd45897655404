"""OpenCode's published binaries, fetched once from npm into a cache that all tests and workers share."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BinaryMissing(Exception):
    """An OpenCode binary can neither be found nor fetched. This is always a failure, never a skip."""


def cache_dir() -> Path:
    """Return the directory of unpacked binaries: `OCWATCHD_TEST_CACHE`, or `~/.cache/ocwatchd-tests`."""
    override = os.environ.get("OCWATCHD_TEST_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "ocwatchd-tests"


def package_name(system: str | None = None, machine: str | None = None) -> str:
    """Return the npm package that contains OpenCode's binary for this kind of machine."""
    system = (system or platform.system()).lower()
    machine = (machine or platform.machine()).lower()
    architecture = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)
    return f"opencode-{system}-{architecture}"


PREVIEW = "0.0.0-next-16350"
"""The preview of OpenCode 2 that the tests run."""


def preview_package(system: str | None = None, machine: str | None = None) -> str:
    """Return the npm package that contains the preview of OpenCode 2 for this kind of machine."""
    baseline = "-baseline" if package_name(system, machine).endswith("-x64") else ""
    return f"@opencode-ai/cli-{package_name(system, machine).removeprefix('opencode-')}{baseline}"


def binary(version: str) -> Path:
    """Return the OpenCode executable of `version`, fetched with `npm pack` if it is not in the cache.

    Safe with parallel test workers: one of them fetches under a lock, and the directory appears by a rename.

    Raises:
        BinaryMissing: npm is not installed, or has no such version.
    """
    return _cached(f"opencode-{version}", f"{package_name()}@{version}", "opencode")


def preview() -> Path:
    """Return the executable of OpenCode 2's preview, fetched in the same way.

    Raises:
        BinaryMissing: npm is not installed, or has no such version.
    """
    return _cached(f"opencode2-{PREVIEW}", f"{preview_package()}@{PREVIEW}", "opencode2")


def _cached(directory: str, spec: str, name: str) -> Path:
    cache = cache_dir()
    wanted = cache / directory / name
    if wanted.exists():
        return wanted
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{directory}.lock"):
        if not wanted.exists():
            _fetch(spec, name, wanted.parent)
    return wanted


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(spec: str, name: str, directory: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise BinaryMissing(f"{spec} is not in {directory.parent}, and npm is not installed: install Node.js")
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
        command = [npm, "pack", spec, "--silent"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600, check=False)
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise BinaryMissing(f"`npm pack {spec}` failed with {done.returncode}: {said}")
        unpacked = Path(scratch) / "unpacked"
        with tarfile.open(packed[0]) as archive:
            archive.extractall(unpacked, filter="data")
        ready = Path(scratch) / "ready"
        ready.mkdir()
        (unpacked / "package" / "bin" / name).rename(ready / name)
        (ready / name).chmod(0o755)
        ready.rename(directory)
