"""The tmux pane in which an OpenCode runs, and how to start its successor there.

Two cases are understood: OpenCode (or its launcher) is the pane's own process, then the pane is respawned; or it was
typed into an interactive shell, then the shell is typed into again. In every other (a script, an editor's terminal, a
pane inside a pane) nobody knows what would happen after OpenCode's end, and there is no pane.
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.opencode.processes import Relative, Running

TMUX_LIMIT = 5.0
"""Seconds for one tmux command; they take 3 - 10 ms."""
PROMPT_LIMIT = 5.0
"""Seconds within which the shell has the terminal back after OpenCode's end."""
PICKUP_LIMIT = 15.0
"""Seconds within which the terminal begins to read what is to be started; a slow profile of the shell counts too."""
POLL = 0.05

_FORMAT = "#{pane_id} #{pane_pid} #{pane_tty}"
_SHELLS = frozenset(
    ("sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "ash", "tcsh", "csh", "nu", "xonsh", "elvish", "pwsh")
)


class TerminalFault(OcwatchError):
    """The terminal did not do what was asked; the message says what is to be typed by hand."""


Run = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output; raises OSError or subprocess.SubprocessError."""


def run(command: Sequence[str]) -> str:
    """Run a command to its end."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TMUX_LIMIT)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Again:
    """What is to run in a terminal next. `plugin`: the companion plugin's file, where it is for this process alone."""

    program: Path
    words: list[str]
    directory: str
    environ: Mapping[str, str] = field(repr=False)
    plugin: Path | None = None

    @property
    def script(self) -> str:
        """As a shell runs it."""
        environ = {**self.environ, "PWD": self.directory}
        return script_of(self.directory, environ, [str(self.program), *self.words])


@dataclass(frozen=True, slots=True)
class Pane:
    """A tmux pane. `shell`: the interactive shell that OpenCode was typed into, None if the pane is OpenCode's own."""

    server: str
    ident: str
    shell: str | None
    run: Run = run

    def __str__(self) -> str:
        return f"tmux pane {self.ident}"

    @contextmanager
    def kept_open(self, _: object = None, /) -> Iterator[None]:
        """Within the block the pane outlives the end of what runs in it.

        Raises:
            TerminalFault: tmux does not do that (before 3.0); nothing was changed.
        """
        if self.shell is not None:
            yield
            return
        before = self._tmux("show-options", "-p", "-v", "-t", self.ident, "remain-on-exit").strip()
        self._tmux("set-option", "-p", "-t", self.ident, "remain-on-exit", "on")
        try:
            yield
        finally:
            back = (before,) if before else ()
            unset = () if before else ("-u",)
            with suppress(TerminalFault):
                self._tmux("set-option", "-p", *unset, "-t", self.ident, "remain-on-exit", *back)

    def withdraw(self) -> None:
        """Nothing was ended; the end of `kept_open` puts everything back."""

    def launch(self, again: Again, scratch: Path) -> None:
        """Start it. `scratch` is a directory of ours alone.

        Raises:
            TerminalFault: it cannot be done.
            OSError: likewise.
        """
        with handover(scratch) as path:
            self.start(again.directory, path)
            deliver(again.script, path)

    def start(self, directory: str, script: Path) -> None:
        """Have the pane run `sh SCRIPT` in a directory.

        Raises:
            TerminalFault: it cannot be done.
        """
        line = f"sh {shlex.quote(str(script))}"
        if self.shell is None:
            self._tmux("respawn-pane", "-k", "-c", directory, "-t", self.ident, f"exec {line}")
            return
        self._wait_for_shell()
        self._tmux("send-keys", "-R", "-t", self.ident)  # whatever modes a killed TUI left behind
        self._tmux("send-keys", "-t", self.ident, "C-c")  # and what was typed while it ended
        self._tmux("send-keys", "-t", self.ident, "-l", f" {line}")  # a space keeps it out of most shells' history
        self._tmux("send-keys", "-t", self.ident, "Enter")

    def runs(self, running: Running) -> bool:
        """Whether a process runs in this pane. By descent: a respawned pane has another tty."""
        with suppress(TerminalFault):
            root = self._tmux("display-message", "-p", "-t", self.ident, "#{pane_pid}").strip()
            return root in (str(running.pid), *(str(relative.pid) for relative in running.above))
        return False

    def _wait_for_shell(self) -> None:
        deadline = time.monotonic() + PROMPT_LIMIT
        while self._tmux("display-message", "-p", "-t", self.ident, "#{pane_current_command}").strip() != self.shell:
            if time.monotonic() > deadline:
                raise TerminalFault(f"{self}: {self.shell} did not come back")
            time.sleep(POLL)

    def _tmux(self, *words: str) -> str:
        try:
            return self.run(["tmux", "-S", self.server, *words])
        except (OSError, subprocess.SubprocessError) as fault:
            raise TerminalFault(f"{self}: tmux {words[0]}: {fault}") from fault


def find_pane(running: Running, run: Run = run) -> Pane | None:
    """The tmux pane whose terminal the process has, if its successor can be started there."""
    server = running.environ.get("TMUX", "").partition(",")[0]
    if not server or running.tty is None:
        return None
    try:
        listed = run(["tmux", "-S", server, "list-panes", "-a", "-F", _FORMAT])
    except (OSError, subprocess.SubprocessError):
        return None
    for line in listed.splitlines():
        ident, pid, tty = (*line.split(), "", "", "")[:3]
        if tty == running.tty and pid.isdecimal():
            return _pane(server, ident, int(pid), running, run)
    return None


def _pane(server: str, ident: str, root: int, running: Running, run: Run) -> Pane | None:
    """What lies between the pane's own process and OpenCode decides."""
    between: list[Relative] = []
    for relative in running.above if running.pid != root else ():
        between.append(relative)
        if relative.pid == root:
            break
    else:
        if running.pid != root:
            return None
    if not any(_is_shell(relative) for relative in between):
        return Pane(server, ident, None, run)
    if _is_prompt(between[-1]) and not any(_is_shell(relative) for relative in between[:-1]):
        return Pane(server, ident, between[-1].name, run)
    return None


def _is_shell(relative: Relative) -> bool:
    return relative.name in _SHELLS


def _is_prompt(relative: Relative) -> bool:
    """A shell that was given nothing to do but to ask: no script, no `-c`."""
    options = relative.arguments[1:]
    return _is_shell(relative) and all(word.startswith("-") and word != "-c" for word in options)


# ---- what is started


def script_of(directory: str, environ: Mapping[str, str], command: Sequence[str]) -> str:
    """A shell script that becomes `command` in a directory with this environment."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environ.items() if _is_name(name)]
    return "\n".join([*exports, f"cd {shlex.quote(directory)} || exit 1", f"exec {shlex.join(command)}", ""])


@contextmanager
def handover(directory: Path) -> Iterator[Path]:
    """A path at which `deliver` gives a script to one reader, within the block.

    A pipe and no file: the environment in the script may hold keys, and no disk sees them. `directory` is ours alone.
    """
    path = directory / f"restart-{secrets.token_hex(6)}"
    os.mkfifo(path, 0o600)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def deliver(script: str, path: Path, limit: float = PICKUP_LIMIT) -> None:
    """Give the script to whoever reads at `path`.

    Raises:
        TerminalFault: nobody did within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # fails while nobody reads
            break
        except OSError as fault:
            if time.monotonic() > deadline:
                raise TerminalFault("the terminal did not start anything") from fault
            time.sleep(POLL)
    os.set_blocking(fd, True)
    try:
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(script.encode("utf-8", "surrogateescape"))
    except BrokenPipeError as fault:
        raise TerminalFault("the terminal gave up on what it was to start") from fault


def _is_name(word: str) -> bool:
    return word.isascii() and word.isidentifier()  # others, such as bash's exported functions, no `sh` can set
