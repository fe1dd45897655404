"""Tests of `oc-smart` around a terminal: job control, sizes, modes, every kind of end, and relaunches."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from ocwatchd.errors import OcwatchError
from ocwatchd.state.relaunch_requests import Asking, awaited, path_for
from tests.support.processes import wait_until
from tests.support.pty import Pty

ROOT = Path(__file__).resolve().parents[2]
TUI = f"""#!{sys.executable}
import os, signal, sys, termios, time, tty
before = termios.tcgetattr(0)
def say(text):
    os.write(1, f"<{{text}}>\\n".encode())
def size():
    columns, rows = os.get_terminal_size(0)
    return f"{{columns}}x{{rows}}"
def draw():
    tty.setraw(0)
    os.write(1, b"\\x1b[?1049h\\x1b[?1000h\\x1b[?2004h\\x1b[?25l")
def leave():
    os.write(1, b"\\x1b[?1049l\\x1b[?1000l\\x1b[?2004l\\x1b[?25h")
    termios.tcsetattr(0, termios.TCSADRAIN, before)
signal.signal(signal.SIGWINCH, lambda *_: say(f"size {{size()}}"))
signal.signal(signal.SIGUSR1, lambda *_: say("usr1"))
draw()
say(f"ready {{os.getpid()}} {{size()}} {{' '.join(sys.argv[1:])}} in {{os.getcwd()}} {{os.environ.get('MINE')}}")
while True:
    key = os.read(0, 1)
    if key == b"z":
        leave()
        os.kill(0, signal.SIGTSTP)
        draw()
        say("resumed")
    elif key == b"q":
        leave()
        sys.exit(7)
"""


class Place:
    """A HOME with a stand-in for OpenCode's terminal."""

    def __init__(self, root: Path, program: str = TUI) -> None:
        self.root = root
        for name in (".config/opencode", "bin", "real", "work"):
            (root / name).mkdir(parents=True)
        chain = {"rateLimit": {"fallbackChain": {"a/main": "b/second"}}}
        (root / ".config/opencode/rate-limit-config.json").write_text(json.dumps(chain))
        for name, text in (("real/opencode", TUI), ("bin/opencode", program)):
            (root / name).write_text(text.replace("REAL", str(root / "real/opencode")))
            (root / name).chmod(0o755)
        self.env = {"HOME": str(root), "PATH": f"{root}/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        self.env |= {"MINE": "kept", "LC_ALL": "C"}
        self.smart = [sys.executable, "-m", "ocwatchd.cli.commands.run"]

    def start(self, *words: str) -> Pty:
        return Pty([*self.smart, *words], self.env, self.root)

    def alive(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.root) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def request(self, launcher: int) -> str:
        state = self.root / ".local/state/ocwatchd"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path_for(str(state), launcher)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "home")


def ready(pty: Pty) -> int:
    """Return the pid of the OpenCode that has drawn its screen."""
    pty.wait("<ready ")
    return int(pty.wait(" "))


def test_a_shell_sees_opencode_and_nothing_else(place: Place) -> None:
    with Pty(["bash", "--norc", "--noprofile", "-i"], {**place.env, "PS1": "$ ", "HISTFILE": ""}, place.root) as pty:
        pty.type(" ".join([*place.smart, "--port", "1", "\n"]))
        ready(pty)
        pty.wait("80x24 --port 1 in")
        pty.resize(100, 30)
        pty.wait("<size 100x30>")
        for _ in range(2):
            pty.type("z")
            pty.wait("Stopped")
            pty.type("echo still $((40 + 2))\n")
            pty.wait("still 42")
            pty.type("fg\n")
            pty.wait("<resumed>")
        pty.type("q")
        pty.wait("$ ")
        pty.type("echo code=$?\n")
        pty.wait("code=7")
        pty.type("exit\n")
        pty.end()
    assert place.alive() == []


def test_what_is_sent_to_us_reaches_it_and_its_end_is_ours(place: Place) -> None:
    with place.start() as pty:
        ready(pty)
        pty.process.send_signal(signal.SIGUSR1)
        pty.wait("<usr1>")
        pty.process.send_signal(signal.SIGTERM)
        assert pty.end() == -signal.SIGTERM
        assert pty.modes() == pty.before[:4], "the modes that it could not put back"
        assert b"\x1b[?1049l" in pty.shown and b"\x1b[?25h" in pty.shown and b"\x1b[?2004l" in pty.shown
    assert place.alive() == []
    with place.start() as pty:
        os.kill(ready(pty), signal.SIGKILL)
        assert (pty.end(), pty.modes()) == (-signal.SIGKILL, pty.before[:4])
    with place.start() as pty:
        ready(pty)
        pty.type("q")
        assert pty.end() == 7
        assert pty.shown.count(b"\x1b[?1049l") == 1, "it left in good order"


@pytest.mark.parametrize("wrapped", [False, True], ids=["program", "wrapper"])
@pytest.mark.parametrize("words", [(), ("run", "hi")], ids=["terminal", "run"])
def test_killed_outright_we_leave_nothing_behind(tmp_path: Path, words: tuple[str, ...], wrapped: bool) -> None:
    place = Place(tmp_path / "home", '#!/bin/sh\nREAL "$@"\nexit $?\n' if wrapped else TUI)
    with place.start(*words) as pty:
        ready(pty)
        pty.process.kill()
        pty.end()
        wait_until(lambda: not place.alive(), 60, why="the end of everything")


def test_it_is_started_again_in_the_same_terminal(place: Place) -> None:
    with place.start("--port", "1") as pty:
        first = ready(pty)
        path = place.request(pty.process.pid)
        asking = Asking(path, {"words": ["-s", "ses_1"], "directory": str(place.root / "work"), "plugin": False})
        with pytest.raises(OcwatchError, match="under way"):
            Asking(path, {})
        os.kill(first, signal.SIGKILL)
        pty.wait("restarting")
        assert pty.modes() == pty.before[:4]
        pty.resize(90, 20)
        assert asking.go(20)
        assert ready(pty) != first
        pty.wait(f"90x20 -s ses_1 in {place.root / 'work'} kept")

        withdrawn = Asking(path, {"words": ["-s", "ses_2"]})
        withdrawn.withdraw()
        Asking(path, {"words": ["-s", "ses_2"]}).close()  # as if its author had ended before it ended any process
        pty.type("q")
        assert pty.end() == 7
        assert not Path(path).exists()
    assert place.alive() == []


def test_a_request_whose_author_dies_leaves_no_empty_terminal(place: Place) -> None:
    with place.start() as pty:
        first = ready(pty)
        asking = Asking(place.request(pty.process.pid), {"words": ["-s", "ses_1"]})
        os.kill(first, signal.SIGKILL)
        pty.wait("restarting")
        asking.close()
        second = ready(pty)
        pty.wait("-s ses_1")

        asking = Asking(place.request(pty.process.pid), {"words": ["-s", "ses_1"]})
        os.kill(second, signal.SIGKILL)
        pty.wait("restarting")
        pty.type("\x03")  # the test need not wait for it
        assert pty.end() == -signal.SIGKILL
        asking.close()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state": "hold"}'])
def test_no_request_of_ours_is_no_request(tmp_path: Path, content: str) -> None:
    path = tmp_path / "relaunch-1"
    path.write_text(content)
    assert awaited(str(path), lambda: None, lambda: False) is None
    path.unlink(missing_ok=True)
    (tmp_path / "real").write_text('{"state": "go"}')
    path.symlink_to(tmp_path / "real")
    assert awaited(str(path), lambda: None, lambda: False) is None
    path.unlink()
    path.mkdir()
    assert awaited(str(path), lambda: None, lambda: False) is None


def test_a_circle_of_launchers_ends(tmp_path: Path) -> None:
    place = Place(tmp_path / "home", f'#!/bin/sh\nexec {sys.executable} -m ocwatchd.cli.commands.run "$@"\n')
    for words in ((), ("run", "hi"), ("stats",)):
        with place.start(*words) as pty:
            began = time.monotonic()
            pty.wait("is oc-smart itself")
            assert pty.end() == 5
            assert time.monotonic() - began < 30
