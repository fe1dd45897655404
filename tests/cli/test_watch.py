"""Tests of `ocwatch watch`: the frame as a value, and the real command in a pseudo-terminal."""

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

from ocwatchd.cli.commands.watch import FOOT, HELP, Item, Line, command, frame, keys_in, moved, terminal_size
from ocwatchd.cli.commands.watch import Screen as SecondScreen
from ocwatchd.cli.output.render import columns
from ocwatchd.cli.output.views import StatusView, cooldown_views, status_view
from ocwatchd.core.history.journal_entries import Entry
from ocwatchd.state.blacklist.format import Contents, check_entry
from ocwatchd.state.heartbeat import Heartbeat
from tests.cli.conftest import Cli, at, resting
from tests.support.pty import Pty

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
        screen.shows("blocked    x/y by you")
        up.paths.heartbeat.unlink()
        screen.shows("not running")
        os.write(screen.master, b"q")
        assert screen.ends() == 0
    assert "\x1b[2J" not in screen.said.partition("moved")[2], "nothing is cleared between two frames"
    assert screen.said.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in screen.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_gives_the_terminal_back(up: Cli, number: int) -> None:
    with Screen(up) as screen:
        screen.shows("q quit")
        screen.process.send_signal(number)
        assert screen.ends() == 0
    assert "\x1b[?1049l" in screen.said


def test_a_frame_sends_only_the_lines_that_changed(up: Cli) -> None:
    with Screen(up) as screen:
        screen.shows("q quit")
        sent = len(screen.said)
        up("block", "x/y", "--for", "1h")
        screen.shows("blocked    x/y by you")
        assert "\x1b[1;1H" not in screen.said[sent:], "the headline is the same"
        os.write(screen.master, b"q")
        assert screen.ends() == 0


def test_another_size_draws_everything_again(up: Cli) -> None:
    with Screen(up) as screen:
        screen.shows("\x1b[24;1H")
        sent = len(screen.said)
        fcntl.ioctl(screen.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        screen.until(lambda: "moved from p/a to q/b" in screen.said[sent:] and "\x1b[30;1H" in screen.said[sent:])
        os.write(screen.master, b"q")
        assert screen.ends() == 0


@pytest.mark.parametrize(("env", "size"), [({"COLUMNS": "60", "LINES": "12"}, (60, 12)), ({"COLUMNS": "x"}, (80, 24))])
def test_columns_and_lines_win_over_the_terminal(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], size: tuple[int, int]
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert terminal_size() == size


def test_a_line_that_fills_its_row_is_not_erased(capsys: pytest.CaptureFixture[str]) -> None:
    """An erase at the last column would remove the last character."""
    screen = SecondScreen()
    screen.draw([Line("x" * 10, "bold red"), Line("short"), Line("限" * 5)], (10, 3))
    assert capsys.readouterr().out == (
        "\x1b[1;1H\x1b[1;31m" + "x" * 10 + "\x1b[0m\x1b[2;1Hshort\x1b[K\x1b[3;1H" + "限" * 5
    )
    screen.draw([Line("x" * 10, "bold red")], (10, 3))
    assert capsys.readouterr().out == "\x1b[2;1H\x1b[K\x1b[3;1H\x1b[K"


def test_without_colour(up: Cli) -> None:
    with Screen(up, NO_COLOR="1") as screen:
        screen.shows("q quit")
        os.write(screen.master, b"q")
        assert screen.ends() == 0
    assert not [part for part in screen.said.split("\x1b[")[1:] if part.startswith(("3", "4", "9")) and part[2:3] == "m"
                and part[:2] not in ("39", "49")]  # fmt: skip


def test_a_dumb_terminal_scrolls(up: Cli) -> None:
    with Screen(up, TERM="dumb") as screen:
        screen.shows("Ctrl-C ends")
        up("block", "x/y", "--for", "1h")
        screen.shows("blocked    x/y by you")
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


def test_keys_select_and_run_commands(up: Cli) -> None:
    up.register(**{"p/a": resting(), "q/b": resting()})
    up.heartbeat(sessions=[{"session": "ses_1", "phrase": "limited on p/a"}])
    with Pty(up.command("watch"), {**up.env, "TERM": "xterm"}, up.paths.home, size=(80, 24)) as terminal:
        terminal.wait("? help")
        terminal.type("j\x1b[B")
        terminal.wait("\x1b[7mq/b")
        terminal.type("c")
        terminal.wait("$ ocwatch clear q/b")
        terminal.wait("Press Enter")
        terminal.type("\n")
        terminal.wait("? help")
        terminal.type("?")
        terminal.wait("Keys of ocwatch watch")
        for leaving in ("\n", "q", "\x1b"):
            terminal.wait("Press Enter")
            terminal.type(leaving)
            terminal.wait("? help")
            if leaving != "\x1b":
                terminal.type("?")
        terminal.type("q")
        assert terminal.end() == 0
    assert list(up.registered()) == ["p/a"]


@pytest.mark.parametrize(
    ("key", "item", "words"),
    [
        ("r", Item("p/a", "ses_1"), ["redirect", "ses_1"]),
        ("R", Item("p/a", "ses_1"), ["restart", "ses_1"]),
        ("b", Item("p/a"), ["block", "p/a", "--for", "1h"]),
        ("c", Item("p/a", "ses_1"), ["clear", "p/a"]),
        ("e", Item("p/a", "ses_1"), ["explain", "ses_1"]),
        ("e", Item("p/a"), ["explain", "p/a"]),
        ("e", None, ["explain"]),
        ("r", None, ["redirect"]),
        ("b", None, None),
        ("c", Item(None, "ses_1"), None),
        ("x", Item("p/a"), None),
    ],
)
def test_what_a_key_runs(key: str, item: Item | None, words: list[str] | None) -> None:
    assert command(key, item) == words


def test_arrows_are_keys_and_other_sequences_are_none() -> None:
    assert list(keys_in("j\x1b[A\x1bOBq")) == ["j", "k", "j", "q"]
    assert list(keys_in("\x1b[5~")) == []
    assert [moved(None, "j", 3), moved(None, "k", 3), moved(2, "j", 3), moved(0, "k", 3), moved(0, "j", 0)] == [
        0, 2, 2, 0, None,
    ]  # fmt: skip
    assert len(FOOT) + len(" 12:34:56") <= 80


def test_the_help_of_the_keys_fits_80_columns() -> None:
    assert [line for line in HELP.splitlines() if len(line) > 80] == []
