"""Tests of whether the logs are read: these logs and this cursor file, with these times, give this result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ocwatchd.state.read_progress import unread_log

NOW = 1_800_000_000.0
LINE = b"level=INFO message=hello\n"


class Disk:
    def __init__(self, root: Path) -> None:
        self.logs, self.cursors = root / "log", root / "cursors.json"
        self.logs.mkdir()

    def log(self, content: bytes, age: float, name: str = "opencode.log") -> Path:
        path = self.logs / name
        path.write_bytes(content)
        os.utime(path, (NOW - age, NOW - age))
        return path

    def read(self, offsets: dict[Path, int], age: float) -> None:
        files = {str(path): {"offset": offset} for path, offset in offsets.items()}
        self.cursors.write_text(json.dumps({"version": 1, "files": files}))
        os.utime(self.cursors, (NOW - age, NOW - age))

    def said(self, started: float = NOW - 600) -> str | None:
        return unread_log(str(self.logs), str(self.cursors), started, NOW)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_lines_that_nobody_reads_are_said(disk: Disk) -> None:
    path = disk.log(LINE * 9, age=1)
    disk.read({path: len(LINE)}, age=60)
    assert disk.said() == f"OpenCode is writing to {path}, but the daemon has not read any of it for 59s"


def test_a_log_of_which_the_daemon_knows_nothing(disk: Disk) -> None:
    disk.log(LINE, age=1)
    assert "not read any of it for 9m 59s" in (disk.said() or "")


@pytest.mark.parametrize(
    ("content", "offset", "log_age", "read_age"),
    [
        (LINE, len(LINE), 1, 60),  # all is read
        (LINE * 2, len(LINE), 1, 4),  # read a moment ago: the daemon is still reading
        (LINE + b"an unfinished line", len(LINE), 1, 60),
        (LINE * 2, len(LINE), 300, 60),  # read after it was written: the rest is not relevant
        (LINE * 2, len(LINE), 3 * 86400, 4 * 86400),  # old lines
    ],
)
def test_nothing_to_complain_of(disk: Disk, content: bytes, offset: int, log_age: float, read_age: float) -> None:
    path = disk.log(content, log_age)
    disk.read({path: offset}, read_age)
    assert disk.said() is None


def test_what_was_written_before_it_began_is_no_fault_of_its(disk: Disk) -> None:
    disk.log(LINE, age=30)
    assert disk.said(started=NOW - 25) is None


def test_what_is_no_log_or_cannot_be_understood(disk: Disk) -> None:
    disk.log(LINE, age=1, name="notes.txt")
    (disk.logs / "directory.log").mkdir()
    os.mkfifo(disk.logs / "pipe.log")
    disk.cursors.write_text("{")
    assert disk.said() is None
    assert unread_log("/nowhere", "/nowhere", None, NOW) is None
