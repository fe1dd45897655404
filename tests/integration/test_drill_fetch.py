"""Tests of getting an OpenCode for the drill from npm or the configured registry, with fakes on loopback."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ocwatchd.drill.fetch import FetchFailed, fetch, intact, package_name, registry_of
from ocwatchd.errors import UsageError


def package(version: str) -> bytes:
    files = {"package.json": json.dumps({"version": version}).encode(), "bin/opencode": b"#!/bin/sh\necho hello\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


class Registry(BaseHTTPRequestHandler):
    asked: list[str]
    damaged = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data, name = package("1.2.3"), package_name()
        if self.path in (f"/npm/{name}/latest", f"/npm/{name}/1.2.3"):
            sum_ = base64.b64encode(hashlib.sha512(b"else" if self.damaged else data).digest()).decode()
            dist = {"tarball": f"http://{self.headers['Host']}/tar", "integrity": f"sha512-{sum_}"}
            data = json.dumps({"dist": dist}).encode()
        elif self.path != "/tar":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def registry() -> Iterator[tuple[str, type[Registry]]]:
    kind = type("Kind", (Registry,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/npm/", kind
    server.shutdown()
    server.server_close()


def test_without_npm_from_the_configured_registry_once(registry: tuple[str, type[Registry]], tmp_path: Path) -> None:
    url, kind = registry
    environ = {"PATH": "", "npm_config_registry": url}
    found = fetch("latest", tmp_path / "cache", environ)
    assert found == tmp_path / "cache" / "opencode-1.2.3" / "opencode"
    assert found.stat().st_mode & 0o111
    asked = len(kind.asked)
    assert fetch("1.2.3", tmp_path / "cache", environ) == found
    assert len(kind.asked) == asked == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["opencode-1.2.3"]
    assert fetch("latest", tmp_path / "cache", environ) == found  # a tag may mean another version now


def test_damaged_or_missing_is_said_and_nothing_is_left(registry: tuple[str, type[Registry]], tmp_path: Path) -> None:
    url, kind = registry
    environ = {"PATH": "", "npm_config_registry": url}
    with pytest.raises(FetchFailed, match="404"):
        fetch("9.9.9", tmp_path, environ)
    kind.damaged = True
    with pytest.raises(FetchFailed, match="damaged"):
        fetch("1.2.3", tmp_path, environ)
    assert list(tmp_path.iterdir()) == []


def test_npm_is_asked_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "packed.tgz").write_bytes(package("1.2.3"))
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\n[ "$2" = {package_name()}@1.2.3 ] || {{ echo "E404 no match" >&2; exit 1; }}\n'
                   f"/bin/cp {tmp_path}/packed.tgz .\n")  # fmt: skip
    npm.chmod(0o755)
    assert fetch("1.2.3", tmp_path / "cache", {"PATH": str(tmp_path)}).exists()
    with pytest.raises(FetchFailed, match="E404 no match"):
        fetch("1.2.4", tmp_path / "cache", {"PATH": str(tmp_path)})


@pytest.mark.parametrize("version", ["", "../x", "1.2", "--tag", "1.2.3;x", "a/b"])
def test_what_is_no_version_goes_nowhere(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        fetch(version, tmp_path, {"PATH": ""})


def test_the_registry_is_npms_own_choice(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="npm_config_registry"):
        registry_of({"HOME": str(tmp_path)})
    (tmp_path / ".npmrc").write_text("; mine\nregistry = https://one.example/npm/\n")
    assert registry_of({"HOME": str(tmp_path)}) == "https://one.example/npm"
    assert registry_of({"HOME": str(tmp_path), "npm_config_registry": "http://two.example"}) == "http://two.example"
    with pytest.raises(FetchFailed):
        registry_of({"npm_config_registry": "file:///etc/passwd"})


def test_the_sum_has_to_be_the_one_that_was_named() -> None:
    good = base64.b64encode(hashlib.sha512(b"x").digest()).decode()
    assert intact(b"x", f"sha1-abc sha512-{good}")
    assert not any(intact(b"x", wrong) for wrong in ("", "sha1-abc", "sha512-!", f"sha256-{good}"))


@pytest.mark.parametrize(
    ("system", "machine", "cpu", "name"),
    [
        ("Linux", "x86_64", "flags: avx avx2", "opencode-linux-x64"),
        ("Linux", "x86_64", "flags: avx", "opencode-linux-x64-baseline"),
        ("Linux", "aarch64", "", "opencode-linux-arm64"),
        ("Darwin", "arm64", "", "opencode-darwin-arm64"),
    ],
)
def test_the_package_of_this_machine(system: str, machine: str, cpu: str, name: str) -> None:
    assert package_name(system, machine, cpu).removesuffix("-musl") == name
