"""Tests of files that a user names: a regular file is replaced as a whole, any other is written into and stays."""

from __future__ import annotations

import io
import json
import os
import pty
import stat
import subprocess
import tarfile
import termios
import threading
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def archive(data: bytes) -> bool:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return "ocwatchd-report/doctor.json" in found.getnames()


def configuration(data: bytes) -> bool:
    return "rateLimit" in json.loads(data)


WRITERS: dict[str, tuple[Callable[[str], list[str]], Callable[[bytes], bool]]] = {
    "page": (lambda file: ["report", "--out", file], lambda data: data.rstrip().endswith(b"</html>")),
    "json": (lambda file: ["report", "--format", "json", "--out", file], lambda data: json.loads(data)["version"] == 1),
    "prometheus": (
        lambda file: ["report", "--format", "prometheus", "--out", file],
        lambda data: b"ocwatchd_up" in data,
    ),
    "bundle": (lambda file: ["doctor", "--bundle", file], archive),
}
written = pytest.mark.parametrize("writer", WRITERS)


class Reader:
    """Reads the output of a FIFO or a terminal to its end."""

    def __init__(self, path: Path) -> None:
        self.data = b""
        self._thread = threading.Thread(target=self._read, args=(path,))
        self._thread.start()

    def _read(self, path: Path) -> None:
        self.data = path.read_bytes()

    def end(self) -> bytes:
        self._thread.join(60)
        assert not self._thread.is_alive(), "nobody wrote"
        return self.data


@written
@pytest.mark.parametrize("linked", [False, True])
def test_a_fifo_is_written_into(cli: Cli, writer: str, linked: bool) -> None:
    command, holds = WRITERS[writer]
    fifo = named = cli.paths.home / "fifo"
    os.mkfifo(fifo)
    if linked:
        named = cli.paths.home / "link"
        named.symlink_to(fifo)
    reader = Reader(fifo)
    done = cli(*command(str(named)))
    if not stat.S_ISFIFO(fifo.lstat().st_mode) or named.is_symlink() != linked:
        fifo.unlink()
        raise AssertionError("it was replaced")
    assert f"Wrote {named}" in done.stdout
    assert holds(reader.end())
    assert {entry.name for entry in cli.paths.home.iterdir()} <= {"fifo", "link", ".config", ".local", ".cache"}


@written
def test_a_link_to_a_device_stays_one(cli: Cli, writer: str) -> None:
    named = cli.paths.home / "null"
    named.symlink_to(os.devnull)
    done = cli(*WRITERS[writer][0](str(named)))
    assert f"Wrote {named}" in done.stdout
    assert named.readlink() == Path(os.devnull)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_terminal_is_written_into(cli: Cli) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    termios.tcflush(slave, termios.TCIOFLUSH)
    assert cli("report", "--format", "prometheus", "--out", os.ttyname(slave)).returncode == 0
    assert os.read(master, 65536).startswith(b"# HELP ocwatchd_")
    os.close(master)
    os.close(slave)


@written
def test_standard_output_gets_the_document_and_nothing_else(cli: Cli, writer: str, tmp_path: Path) -> None:
    command, holds = WRITERS[writer]
    # The target of /dev/stdout: a test that fails as root must not replace that file.
    (cli.paths.home / "stdout").symlink_to("/proc/self/fd/1")
    for name in ("stdout", "/dev/fd/1", "/proc/self/fd/1"):
        piped = subprocess.run(cli.command(*command(name)), env=cli.env, cwd=cli.paths.home, capture_output=True)
        assert holds(piped.stdout)
        file = tmp_path / "file"
        file.write_bytes(b"before\n")
        inode = file.stat().st_ino
        with file.open("ab") as sink:
            subprocess.run(cli.command(*command(name)), env=cli.env, cwd=cli.paths.home, stdout=sink, check=False)
        assert file.stat().st_ino == inode, "what the shell has opened is written, not put in its place"
        assert file.read_bytes().startswith(b"before\n") and holds(file.read_bytes().removeprefix(b"before\n"))


@written
@pytest.mark.parametrize("linked", [False, True])
def test_a_regular_file_is_replaced_whole(cli: Cli, writer: str, linked: bool, tmp_path: Path) -> None:
    command, holds = WRITERS[writer]
    target, named = tmp_path / "there" / "target", tmp_path / "named"
    target.parent.mkdir()
    (target if linked else named).write_text("old")
    if linked:
        named.symlink_to(target)
    before = named.open()
    assert cli(*command(str(named))).returncode in (0, 1)
    assert before.read() == "old", "a reader of the old one is not disturbed"
    assert holds(named.read_bytes()) and not named.is_symlink()
    assert not linked or target.read_text() == "old", "a link that another user has put there leads nowhere"
    mode = 0o600 if writer == "bundle" else 0o644
    assert stat.S_IMODE(named.stat().st_mode) == mode
    assert {entry.name for entry in tmp_path.iterdir()} <= {"there", "named", "home"}


@written
def test_a_directory_is_said_to_be_none_to_write_to(cli: Cli, writer: str) -> None:
    done = cli(*WRITERS[writer][0](str(cli.paths.home)))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{cli.paths.home} cannot be written: Is a directory" in done.stderr


def test_a_configuration_that_is_no_regular_file_is_written_into(cli: Cli) -> None:
    fifo = cli.paths.config_file
    os.mkfifo(fifo)
    reader = Reader(fifo)
    done = cli("config", "init", "--write", "--force")
    if not stat.S_ISFIFO(fifo.lstat().st_mode):
        for kept in fifo.parent.glob("*.old"):
            kept.write_text("")
        raise AssertionError("it was moved away")
    assert done.returncode == 0
    assert configuration(reader.end())
    fifo.unlink()
    fifo.symlink_to(os.devnull)
    assert cli("config", "init", "--write", "--force").returncode == 0
    assert fifo.readlink() == Path(os.devnull)
