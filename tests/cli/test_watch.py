"""`ocwatch watch`: the frame as a value, and the real thing on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pytest

from ocwatchd.cli.render import columns
from ocwatchd.cli.screen import frame
from ocwatchd.cli.views import StatusView, cooldown_views, status_view
from ocwatchd.core.entries import Entry
from ocwatchd.state.entries import Contents, check_entry
from ocwatchd.state.heartbeat import Heartbeat
from tests.cli.conftest import Cli, at, resting

NOW = 1_795_341_600.0


def view(cooling: int = 0, sessions: int = 0, health: tuple[str, ...] = (), up: bool = True) -> StatusView:
    found = Contents()
    for number in range(cooling):
        entry = resting(None, reason="x" * 200)
        found.entries[f"provider{number}/a-model-with-a-long-name-{number}"] = check_entry("p/a", entry)
    beat = {"pid": os.getpid() if up else 0, "beat": "2026-11-22T10:00:00Z", "started": "2026-11-22T09:00:00Z",
            "sessions": [{"session": f"ses_{n}", "phrase": "waits " * 30} for n in range(sessions)],
            "health": list(health)}  # fmt: skip
    assert cooldown_views(found, NOW) or not cooling
    return status_view(Heartbeat(beat), found, (), NOW)


def events(count: int) -> list[Entry]:
    raw = {"why": "the words are long " * 9}
    return [Entry(f"{n:021x}", NOW - count + n, "left", "ses_1", f"p/m{n}", raw) for n in range(count)]


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60), (20, 5)])
@pytest.mark.parametrize("busy", [(0, 0, 0), (1, 1, 1), (30, 30, 300), (0, 40, 2)])
def test_a_frame_fits_its_screen(size: tuple[int, int], busy: tuple[int, int, int]) -> None:
    width, height = size
    lines = frame(view(busy[0], busy[1], ("ill",)), events(busy[2]), width, height)
    assert len(lines) == height
    assert max(columns(line.text) for line in lines) <= width
    assert not [char for line in lines for char in line.text if not char.isprintable()]


def test_a_full_screen_keeps_something_of_everything() -> None:
    text = [line.text for line in frame(view(30, 30), events(300), 80, 24)]
    assert sum(line.startswith("provider") for line in text) >= 3
    assert sum(line.startswith("ses_") for line in text) >= 3
    assert sum("p/m" in line for line in text) >= 3
    assert any("p/m299" in line for line in text)
    assert [line for line in text if line.startswith("… and ")]


class Screen:
    """`ocwatch watch` on a terminal of 80 by 24."""

    def __init__(self, cli: Cli, *arguments: str, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        environ = {**cli.env, "TERM": "xterm-256color", **env}
        command = cli.command("watch", "--every", "0.2", *arguments)
        self.process = subprocess.Popen(
            command, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.set_blocking(self.master, False)
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)

    def read(self) -> str:
        try:
            self.said += os.read(self.master, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.05)
        return self.said

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, self.said
            self.read()

    def shows(self, text: str) -> None:
        self.until(lambda: text in self.said)

    def ends(self) -> int:
        self.until(lambda: self.process.poll() is not None)
        self.read()
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        return int(self.process.returncode)


@pytest.fixture
def up(cli: Cli) -> Cli:
    cli.heartbeat(sessions=[{"session": "ses_1", "phrase": "moved from p/a to q/b"}])
    cli.register(**{"p/a": resting(90)})
    return cli


def test_it_is_live_and_q_ends_it(up: Cli) -> None:
    with Screen(up) as screen:
        screen.shows("moved from p/a to q/b")
        up.register(**{"p/a": resting(90), "p/new": resting(3000)})
        screen.shows("p/new")
        up("block", "x/y", "--for", "1h")
        screen.shows("blocked    x/y by hand")
        up.paths.heartbeat.unlink()
        screen.shows("not running")
        os.write(screen.master, b"q")
        assert screen.ends() == 0
    assert "\x1b[2J" not in screen.said.partition("moved")[2], "nothing is cleared between two frames"
    assert screen.said.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in screen.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_gives_the_terminal_back(up: Cli, number: int) -> None:
    with Screen(up) as screen:
        screen.shows("q ends")
        screen.process.send_signal(number)
        assert screen.ends() == 0
    assert "\x1b[?1049l" in screen.said


def test_without_colour(up: Cli) -> None:
    with Screen(up, NO_COLOR="1") as screen:
        screen.shows("q ends")
        os.write(screen.master, b"q")
        assert screen.ends() == 0
    assert not [part for part in screen.said.split("\x1b[")[1:] if part.startswith(("3", "4", "9")) and part[2:3] == "m"
                and part[:2] not in ("39", "49")]  # fmt: skip


def test_a_dumb_terminal_scrolls(up: Cli) -> None:
    with Screen(up, TERM="dumb") as screen:
        screen.shows("Ctrl-C ends")
        up("block", "x/y", "--for", "1h")
        screen.shows("blocked    x/y by hand")
        screen.process.send_signal(signal.SIGINT)
        assert screen.ends() == 0
    assert "\x1b" not in screen.said


def test_no_terminal_is_one_frame(up: Cli) -> None:
    done = up("watch")
    assert done.returncode == 0
    assert "one frame" in done.stderr
    assert "p/a" in done.stdout and "ses_1" in done.stdout
    assert "\x1b" not in done.stdout


def test_down_is_shown_and_not_fatal(cli: Cli) -> None:
    cli.register(**{"p/a": resting(90, since=at(-10))})
    done = cli("watch")
    assert done.returncode == 0
    assert "not running" in done.stdout and "p/a" in done.stdout
    assert cli("watch", "--every", "0").returncode == 2
