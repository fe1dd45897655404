"""OpenCode's published binaries: fetched once from npm into a cache, shared by all tests and workers."""

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
    """An OpenCode binary can be neither found nor fetched. Always a failure, never a skip."""


def cache_dir() -> Path:
    """Where unpacked binaries are kept: `OCWATCHD_TEST_CACHE`, else `~/.cache/ocwatchd-tests`."""
    override = os.environ.get("OCWATCHD_TEST_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "ocwatchd-tests"


def package_name(system: str | None = None, machine: str | None = None) -> str:
    """The npm package that holds OpenCode's binary for this kind of machine."""
    system = (system or platform.system()).lower()
    machine = (machine or platform.machine()).lower()
    architecture = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)
    return f"opencode-{system}-{architecture}"


def binary(version: str) -> Path:
    """The OpenCode executable of `version`, fetched with `npm pack` if the cache lacks it.

    Safe under parallel test workers: one fetches under a lock, and the directory appears by rename.

    Raises:
        BinaryMissing: npm is absent, or has no such version.
    """
    cache = cache_dir()
    wanted = cache / f"opencode-{version}" / "opencode"
    if wanted.exists():
        return wanted
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"opencode-{version}.lock"):
        if not wanted.exists():
            _fetch(version, wanted.parent)
    return wanted


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(version: str, directory: Path) -> None:
    spec = f"{package_name()}@{version}"
    npm = shutil.which("npm")
    if npm is None:
        raise BinaryMissing(f"{spec} is not in {directory.parent} and there is no npm to fetch it: install Node.js")
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
        (unpacked / "package" / "bin" / "opencode").rename(ready / "opencode")
        (ready / "opencode").chmod(0o755)
        ready.rename(directory)
