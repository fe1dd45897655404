"""Fetch OpenCode for the drill from the npm registry into our cache directory. Nothing is installed."""

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

from ocwatchd.core.text.amounts import span
from ocwatchd.errors import OcwatchError, UsageError
from ocwatchd.ownership import give_tree, make_directories
from ocwatchd.paths import home

LATEST = "latest"
PACK_LIMIT, CALL_LIMIT = 600.0, 60.0
"""Timeouts, in seconds, for a download by npm, and for each wait for data in a download without npm. A package is 40 to
60 MB in size.
"""
SIZE_CAP = 400 << 20
"""Maximum size, in bytes, of the OpenCode package."""
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[\w.]+)?|[a-z][a-z-]*")


class FetchFailed(OcwatchError):
    """Raised if OpenCode cannot be fetched. The message contains the reason and the next step."""


def package_name(system: str | None = None, machine: str | None = None, cpu: str | None = None) -> str:
    """Return the name of the npm package that contains OpenCode's program for this kind of machine.

    `cpu` is the text of /proc/cpuinfo: on a CPU without AVX2, the ordinary x64 build crashes with an illegal
    instruction.
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
    """Return the path of the program of this version or tag (such as `latest`). A version in the cache is not fetched
    again.

    Raises:
        UsageError: The text is not a version.
        FetchFailed: OpenCode cannot be fetched.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"{version!r} is not a valid OpenCode version. Use a number such as 1.18.33, or latest")
    wanted = cache / f"opencode-{version}" / "opencode"
    if wanted.exists():  # a tag never matches an existing file, because programs are stored under their version
        return wanted
    try:
        make_directories(cache, 0o777)  # the mode is left to the umask, because the program is not secret
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
        raise FetchFailed(f"`npm pack {spec}` did not finish within {span(PACK_LIMIT)}; try again later") from None
    found = list(scratch.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-300:]
        raise FetchFailed(f"`npm pack {spec}` failed with code {done.returncode}: {said or 'no output'}")
    return found[0]


def registry_of(environ: Mapping[str, str]) -> str:
    """Return the registry configured for npm, from npm's environment variable or the user's `.npmrc`.

    Raises:
        FetchFailed: No registry is configured.
    """
    named = environ.get("npm_config_registry") or environ.get("NPM_CONFIG_REGISTRY")
    if not named:
        file = Path(environ.get("npm_config_userconfig") or Path(home(environ)) / ".npmrc")
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        pairs = [line.partition("=")[::2] for line in lines]
        named = next((value.strip() for key, value in pairs if key.strip() == "registry"), "")
    if urlsplit(named).scheme not in ("https", "http"):
        raise FetchFailed(
            "npm is not installed, and no registry is configured. Install npm, or set "
            "npm_config_registry to the registry's address"
        )
    return named.rstrip("/")


def _by_http(spec: str, scratch: Path, registry: str) -> Path:
    name, _, version = spec.rpartition("@")
    about = json.loads(_get(f"{registry}/{quote(name, safe='')}/{quote(version, safe='')}", spec))
    dist = about.get("dist") if isinstance(about, dict) else None
    if not isinstance(dist, dict) or not isinstance(dist.get("tarball"), str):
        raise FetchFailed(f"{registry} has no download address for {spec}")
    if urlsplit(dist["tarball"]).scheme not in ("https", "http"):
        raise FetchFailed(f"{registry} has a download address for {spec} that is not http or https")
    data = _get(dist["tarball"], spec)
    if not intact(data, str(dist.get("integrity") or "")):
        raise FetchFailed(
            f"{spec} was damaged in transit: its sha512 does not match the one that {registry} reports. Try again"
        )
    packed = scratch / "package.tgz"
    packed.write_bytes(data)
    return packed


def _get(url: str, spec: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=CALL_LIMIT) as answer:  # noqa: S310 (http and https only, see callers)
            data: bytes = answer.read(SIZE_CAP)
    except urllib.error.HTTPError as fault:
        raise FetchFailed(f"{spec} cannot be fetched: {url} returned {fault.code} {fault.reason}") from fault
    except OSError as fault:
        raise FetchFailed(f"{spec} cannot be fetched: {url}: {fault}") from fault
    return data


def intact(data: bytes, integrity: str) -> bool:
    """Return whether the sha512 of `data` is in `integrity`, in the registry's format (`sha512-BASE64 …`)."""
    wanted = [part.removeprefix("sha512-") for part in integrity.split() if part.startswith("sha512-")]
    try:
        return hashlib.sha512(data).digest() in [base64.b64decode(part) for part in wanted]
    except binascii.Error:
        return False


def _unpack(packed: Path, cache: Path, scratch: Path) -> Path:
    """Unpack the program into the cache, under the version in the package. An existing program is kept."""
    with tarfile.open(packed) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    package = scratch / "unpacked" / "package"
    about = json.loads((package / "package.json").read_bytes())
    version = str(about["version"])
    if not _VERSION.fullmatch(version):
        raise FetchFailed(f"the package has the invalid version {version!r}")
    program = package / "bin" / "opencode"
    program.chmod(0o755)
    give_tree(program.parent, cache)
    directory = cache / f"opencode-{version}"
    if not (directory / "opencode").exists():
        os.replace(program.parent, directory)  # noqa: PTH105 (over an empty directory, at once)
    return directory / "opencode"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")[:20_000]
    except OSError:
        return ""
