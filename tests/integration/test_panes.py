"""Tests with a pane of a real tmux: the command for a restarted OpenCode is data there, never a format."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocwatchd.opencode.process.tmux import Again, Pane, TerminalFault
from tests.support.processes import wait_until

NAMES = (
    "repo#(touch PWNED)", "#{pid}#{E:pane_title}", "##[bg=red]", "#", "%H:%M %%", "$(touch PWNED)`touch PWNED`",
    "it's; touch PWNED", "-c", "é\n\"x",
)  # fmt: skip


class Server:
    """A private tmux with one window."""

    def __init__(self, shell: bool) -> None:
        # A socket's path may have about 100 characters; the paths of pytest's directories are too long.
        self.scratch = Path(tempfile.mkdtemp(prefix="ocw-tmux-"))
        self.socket = str(self.scratch / "s")
        first = "exec bash --norc --noprofile" if shell else "exec sleep 1000"
        self("new-session", "-d", "-x", "120", first)
        self("set-option", "-g", "remain-on-exit", "on")
        self.pane = Pane(self.socket, self("display-message", "-p", "#{pane_id}").strip(), "bash" if shell else None)

    def __call__(self, *words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "LC_ALL": "C.UTF-8"}
        command = ["tmux", "-S", self.socket, "-f", os.devnull, *words]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=20).stdout


in_panes = pytest.mark.parametrize(
    "server",
    [pytest.param(False, id="OpenCode is the pane's own process"), pytest.param(True, id="typed into a shell")],
    indirect=True,
)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)  # tmux runs a command inside a format in the directory of its caller
    server = Server(request.param)
    yield server
    server("kill-server")
    shutil.rmtree(server.scratch)


@in_panes
def test_a_directory_whose_name_is_a_format_is_only_a_directory(server: Server, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        directory, told = tmp_path / name, tmp_path / f"told{number}"
        directory.mkdir()
        script = "import os, sys; open(sys.argv[1], 'w').write(os.getcwd() + os.environ['PWD'] + sys.argv[2])"
        again = Again(
            Path("/usr/bin/env"), ["python3", "-c", script, str(told), name], str(directory), dict(os.environ)
        )
        server.pane.launch(again, tmp_path)
        wait_until(lambda told=told: told.exists() and told.read_text(), 30, why=f"{name!r} was started")
        assert told.read_text() == f"{directory}{directory}{name}"
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_path_with_a_line_break_is_never_typed(server: Server, tmp_path: Path) -> None:
    scratch = tmp_path / "state\ntouch PWNED\n"
    scratch.mkdir()
    with pytest.raises(TerminalFault, match="cannot be typed"):
        server.pane.launch(Again(Path("/bin/true"), [], "/", {}), scratch)
    assert not list(scratch.iterdir())
