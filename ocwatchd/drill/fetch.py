"""An OpenCode for the drill from the npm registry, kept in our cache directory; nothing is installed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from ocwatchd.errors import OcwatchError, UsageError

LATEST = "latest"
PACK_LIMIT, CALL_LIMIT = 600.0, 60.0
"""Seconds for a download by npm, and for each silence of the registry; a package has 40 - 60 MB."""
SIZE_CAP = 400 << 20
"""Bytes of a packed OpenCode."""
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[\w.]+)?|[a-z][a-z-]*")


class FetchFailed(OcwatchError):
    """There is no such OpenCode to be had; the message says why and what to do."""


def package_name(system: str | None = None, machine: str | None = None, cpu: str | None = None) -> str:
    """The npm package that holds OpenCode's program for this kind of machine.

    `cpu`: /proc/cpuinfo's text; without AVX2 in it the ordinary x64 build ends with an illegal instruction.
    """
    system = (system or platform.system()).lower()
    machine = (machine or platform.machine()).lower()
    kind = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(machine, machine)
    name = f"opencode-{system}-{kind}"
    if system == "linux" and kind == "x64":
        text = _cpuinfo() if cpu is None else cpu
        name += "-baseline" if text and "avx2" not in text else ""
    musl = system == "linux" and Path(f"/lib/ld-musl-{machine}.so.1").exists()
    return f"{name}-musl" if musl else name


def fetch(version: str, cache: Path, environ: Mapping[str, str]) -> Path:
    """The program of this version (or tag, as `latest`), from the cache if it is there.

    Raises:
        UsageError: that is no version.
        FetchFailed: it cannot be had.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"{version!r} is no version of OpenCode; write it as 1.18.33, or latest")
    wanted = cache / f"opencode-{version}" / "opencode"
    if wanted.exists():  # a tag never is: it is kept under the version it stood for
        return wanted
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
            return _unpack(_packed(version, Path(scratch), environ), cache, Path(scratch))
    except (OSError, tarfile.TarError, KeyError) as fault:
        raise FetchFailed(f"OpenCode {version} cannot be unpacked in {cache}: {fault}") from fault


def _packed(version: str, scratch: Path, environ: Mapping[str, str]) -> Path:
    spec = f"{package_name()}@{version}"
    npm = shutil.which("npm", path=environ.get("PATH"))
    return _by_npm(npm, spec, scratch, environ) if npm else _by_http(spec, scratch, registry_of(environ))


def _by_npm(npm: str, spec: str, scratch: Path, environ: Mapping[str, str]) -> Path:
    command = [npm, "pack", spec, "--silent"]
    try:
        done = subprocess.run(
            command, cwd=scratch, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=PACK_LIMIT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"`npm pack {spec}` did not end within {PACK_LIMIT:.0f} s; try again later") from None
    found = list(scratch.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-300:]
        raise FetchFailed(f"`npm pack {spec}` failed with code {done.returncode}: {said or 'it said nothing'}")
    return found[0]


def registry_of(environ: Mapping[str, str]) -> str:
    """npm's configured registry, as npm finds it: its variable, then the user's `.npmrc`.

    Raises:
        FetchFailed: none is configured.
    """
    named = environ.get("npm_config_registry") or environ.get("NPM_CONFIG_REGISTRY")
    if not named:
        file = Path(environ.get("npm_config_userconfig") or Path(environ.get("HOME", "~")).expanduser() / ".npmrc")
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        pairs = [line.partition("=")[::2] for line in lines]
        named = next((value.strip() for key, value in pairs if key.strip() == "registry"), "")
    if urlsplit(named).scheme not in ("https", "http"):
        raise FetchFailed(
            "there is no npm to fetch OpenCode with, and no registry is configured: install npm, or set "
            "npm_config_registry to the registry's address"
        )
    return named.rstrip("/")


def _by_http(spec: str, scratch: Path, registry: str) -> Path:
    name, _, version = spec.rpartition("@")
    about = json.loads(_get(f"{registry}/{quote(name, safe='')}/{quote(version, safe='')}", spec))
    dist = about.get("dist") if isinstance(about, dict) else None
    if not isinstance(dist, dict) or not isinstance(dist.get("tarball"), str):
        raise FetchFailed(f"{registry} tells no place for {spec}")
    if urlsplit(dist["tarball"]).scheme not in ("https", "http"):
        raise FetchFailed(f"{registry} names a place for {spec} that is no web address")
    data = _get(dist["tarball"], spec)
    if not intact(data, str(dist.get("integrity") or "")):
        raise FetchFailed(f"{spec} arrived damaged: its sha512 is not the one that {registry} names")
    packed = scratch / "package.tgz"
    packed.write_bytes(data)
    return packed


def _get(url: str, spec: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=CALL_LIMIT) as answer:  # noqa: S310 (http and https only, see callers)
            data: bytes = answer.read(SIZE_CAP)
    except urllib.error.HTTPError as fault:
        raise FetchFailed(f"{spec} is not to be had: {url} answers {fault.code} {fault.reason}") from fault
    except OSError as fault:
        raise FetchFailed(f"{spec} is not to be had: {url}: {fault}") from fault
    return data


def intact(data: bytes, integrity: str) -> bool:
    """Whether `data` has one of the sha512 sums that a registry names (`sha512-BASE64 …`)."""
    wanted = [part.removeprefix("sha512-") for part in integrity.split() if part.startswith("sha512-")]
    try:
        return hashlib.sha512(data).digest() in [base64.b64decode(part) for part in wanted]
    except binascii.Error:
        return False


def _unpack(packed: Path, cache: Path, scratch: Path) -> Path:
    """Put the program under the version that the package itself names; whoever comes second leaves what is there."""
    with tarfile.open(packed) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    package = scratch / "unpacked" / "package"
    about = json.loads((package / "package.json").read_bytes())
    version = str(about["version"])
    if not _VERSION.fullmatch(version):
        raise FetchFailed(f"the package names the odd version {version!r}")
    program = package / "bin" / "opencode"
    program.chmod(0o755)
    directory = cache / f"opencode-{version}"
    if not (directory / "opencode").exists():
        os.replace(program.parent, directory)  # noqa: PTH105 (over an empty directory, at once)
    return directory / "opencode"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")[:20_000]
    except OSError:
        return ""
