"""OpenCode's TUI in a private tmux.

with Tui("1.18.33", home) as tui:
    tui.say("Hello")
    tui.wait_screen("answer of mock/primary")
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.binaries import binary
from tests.support.homes import Home
from tests.support.opencode import START_TIMEOUT
from tests.support.processes import free_port, is_running, wait_until

LISTENS_BY_ITSELF = ("1.0.",)
"""Versions whose TUI listens on port 4096. Two at the same time would collide, so each is given another port."""


class TmuxMissing(Exception):
    """tmux is not installed. This is always a failure, never a skip."""


class Tui:
    """`opencode` in a tmux window. A context manager; the user's own tmux is not touched."""

    def __init__(
        self,
        version: str,
        home: Home,
        project: Path | None = None,
        *,
        size: tuple[int, int] = (120, 40),
        arguments: Sequence[str] = (),
        shell: bool = False,
        program: Sequence[str] = (),
    ) -> None:
        """Prepare the terminal; nothing is started before `__enter__`.

        `size` is the number of columns and rows. With `shell`, the command is typed into a bash. `program` is started
        instead of OpenCode's own binary.
        """
        self.shell, self.program = shell, program or (str(binary(version)),)
        self.version, self.home, self.size = version, home, size
        self.project = project or home.project()
        own_port = version.startswith(LISTENS_BY_ITSELF) and "--port" not in arguments
        self.arguments = [*arguments, *(["--port", str(free_port())] if own_port else [])]
        # A socket's path may have about 100 characters; the paths of pytest's directories are too long.
        self._scratch = Path(tempfile.mkdtemp(prefix="ocw-tmux-"))
        self.pid = 0

    def __enter__(self) -> Self:
        """Start OpenCode and wait until it shows its prompt."""
        if shutil.which("tmux") is None:
            raise TmuxMissing("the tests of OpenCode's TUI need tmux: install it")
        columns, rows = self.size
        command = shlex.join([*self.program, *self.arguments])
        shape = ("-x", str(columns), "-y", str(rows))
        first = "exec bash --norc --noprofile" if self.shell else f"exec {command}"
        self._tmux("new-session", "-d", *shape, "-c", str(self.project), first)
        try:
            self._tmux("set-option", "-g", "remain-on-exit", "on")
            self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
            if self.shell:
                self._tmux("send-keys", "-l", command)
                self.keys("Enter")
                self.pid = wait_until(self._typed, START_TIMEOUT, 0.1, "the shell to start it")
            wait_until(self._ready, START_TIMEOUT, 0.1, f"the TUI of {self.version}:\n{self.screen()}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """End OpenCode and its terminal."""
        if kind is not None:
            with suppress(subprocess.CalledProcessError):
                print(self.screen())
        self.stop()

    def _typed(self) -> int:
        """Return the pid of the process that the shell has started; 0 if there is none yet."""
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(children[-1]) if children else 0

    def _ready(self) -> bool:
        # In all versions, the first screen ends with the version number, or with the key bindings below a prompt.
        shown = self.screen()
        return "ctrl+p" in shown or "Ask anything" in shown

    def _tmux(self, *args: str) -> str:
        command = ["tmux", "-S", str(self._scratch / "s"), "-f", os.devnull, *args]
        env = {**self.home.env(self.project), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=20)
        return done.stdout

    # ---- actions of a user

    def screen(self) -> str:
        """Return the text on the screen."""
        return self._tmux("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        """Press keys, by tmux's names: `Enter`, `Escape`, `Tab`, `C-c`."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the window, as a user does by dragging it."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def type(self, text: str) -> None:
        """Type text."""
        self._tmux("send-keys", "-l", text)

    def say(self, text: str) -> None:
        """Type a prompt and send it."""
        self.type(text)
        wait_until(lambda: text[-20:] in self.screen(), 20, why="the typed prompt to show")
        self.keys("Enter")

    def wait_screen(self, text: str, timeout: float = 60.0) -> str:
        """Wait until `text` is on the screen, and return the screen."""

        def shown() -> str | None:
            screen = self.screen()
            return screen if text in screen else None

        try:
            found: str = wait_until(shown, timeout, 0.1)
        except TimeoutError:
            raise TimeoutError(f"{text!r} was not on the screen within {timeout:g} s:\n{self.screen()}") from None
        return found

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Keep tmux commands from reaching this terminal within the block, so that other programs cannot find it in
        tmux.
        """
        socket = self._scratch / "s"
        socket.rename(self._scratch / "hidden")
        try:
            yield
        finally:
            (self._scratch / "hidden").rename(socket)

    # ---- the end

    @property
    def alive(self) -> bool:
        """Return whether OpenCode is running."""
        return bool(self.pid) and is_running(self.pid)

    def quit(self, timeout: float = 20.0) -> None:
        """Leave OpenCode as a user does, with Ctrl-C on an empty prompt."""
        self.keys("C-c")
        wait_until(lambda: not self.alive, timeout, why="OpenCode to end")

    def stop(self) -> None:
        """End OpenCode, then the terminal; may be called more than once."""
        if not self._scratch.exists():
            return
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + 3
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.alive:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")
        shutil.rmtree(self._scratch, ignore_errors=True)
