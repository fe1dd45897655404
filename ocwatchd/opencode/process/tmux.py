"""Find the tmux pane in which an OpenCode process is running, and start the successor there.

OpenCode can be relaunched in two cases. If OpenCode (or its launcher) is the pane's own process, the pane is respawned.
If OpenCode was typed into an interactive shell, the start command is typed into the same shell. In all other cases (a
script, an editor's terminal, a pane inside a pane), no pane is returned, because it is unknown what would happen after
OpenCode exits.
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
from ocwatchd.opencode.discovery.processes import Relative, Running

TMUX_LIMIT = 5.0
"""Timeout, in seconds, for a tmux command, which takes 3 to 10 ms."""
PROMPT_LIMIT = 5.0
"""Timeout, in seconds, for the shell to regain control of the terminal after OpenCode exits."""
PICKUP_LIMIT = 15.0
"""Timeout, in seconds, for the shell in the terminal to begin reading the start script. A shell's profile may be
slow.
"""
POLL = 0.05
"""Interval, in seconds, between checks of the terminal."""

_FORMAT = "#{pane_id} #{pane_pid} #{pane_tty}"
_SHELLS = frozenset(
    ("sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "ash", "tcsh", "csh", "nu", "xonsh", "elvish", "pwsh")
)


class TerminalFault(OcwatchError):
    """Raised if the program could not be started in the terminal. The message contains the reason."""


Run = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output. Raises OSError or subprocess.SubprocessError."""


def run(command: Sequence[str]) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TMUX_LIMIT)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Again:
    """The command that starts OpenCode again.

    `plugin` is the companion plugin's file if it is loaded only for this process; otherwise, it is None.
    """

    program: Path
    words: list[str]
    directory: str
    environ: Mapping[str, str] = field(repr=False)
    plugin: Path | None = None

    @property
    def script(self) -> str:
        """The shell script that runs the program."""
        environ = {**self.environ, "PWD": self.directory}
        return script_of(self.directory, environ, [str(self.program), *self.words])


@dataclass(frozen=True, slots=True)
class Pane:
    """A tmux pane. `shell` is the shell into which OpenCode was typed, or None if OpenCode is the pane's own
    process.
    """

    server: str
    ident: str
    shell: str | None
    run: Run = run

    def __str__(self) -> str:
        return f"tmux pane {self.ident}"

    @contextmanager
    def kept_open(self, _: object = None, /) -> Iterator[None]:
        """Keep the pane open during the block even if its process ends.

        Raises:
            TerminalFault: tmux does not support this (before 3.0); nothing was changed.
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
        """Do nothing, because `kept_open` restores the pane at the end of its block."""

    def launch(self, again: Again, scratch: Path) -> None:
        """Start the program. `scratch` is a private directory for the start script.

        Raises:
            TerminalFault: The program cannot be started.
            OSError: The start script cannot be passed.
        """
        with handover(scratch) as path:
            self.start(again.directory, path)
            deliver(again.script, path)

    def start(self, directory: str, script: Path) -> None:
        """Run `sh SCRIPT` in the pane, in this directory. The script itself also changes to the directory.

        tmux expands the argument of `respawn-pane -c` as a format. It would execute `#(…)` in a directory's name (tmux
        3.3a), and no way of escaping works for all names (for example, `##[` is not unescaped). If the name contains
        `#`, only the script changes the directory.

        Raises:
            TerminalFault: The script cannot be run.
        """
        line = f"sh {shlex.quote(str(script))}"
        if self.shell is None:
            where = () if "#" in directory else ("-c", directory)
            self._tmux("respawn-pane", "-k", *where, "-t", self.ident, f"exec {line}")
            return
        if not line.isprintable():  # a line break in the command would act as Enter
            raise TerminalFault(f"{self}: {line!a} cannot be typed")
        self._wait_for_shell()
        # Reset terminal modes that a killed TUI has not restored.
        self._tmux("send-keys", "-R", "-t", self.ident)
        # Discard input that was typed while OpenCode was exiting.
        self._tmux("send-keys", "-t", self.ident, "C-c")
        # The leading space keeps the line out of the history of most shells.
        self._tmux("send-keys", "-t", self.ident, "-l", f" {line}")
        self._tmux("send-keys", "-t", self.ident, "Enter")

    def runs(self, running: Running) -> bool:
        """Return whether a process descends from the pane's process.

        The tty cannot be used for this, because a respawned pane has a different tty.
        """
        with suppress(TerminalFault):
            root = self._tmux("display-message", "-p", "-t", self.ident, "#{pane_pid}").strip()
            return root in (str(running.pid), *(str(relative.pid) for relative in running.above))
        return False

    def _wait_for_shell(self) -> None:
        deadline = time.monotonic() + PROMPT_LIMIT
        while self._tmux("display-message", "-p", "-t", self.ident, "#{pane_current_command}").strip() != self.shell:
            if time.monotonic() > deadline:
                raise TerminalFault(f"{self}: {self.shell} did not regain control of the terminal")
            time.sleep(POLL)

    def _tmux(self, *words: str) -> str:
        try:
            return self.run(["tmux", "-S", self.server, *words])
        except (OSError, subprocess.SubprocessError) as fault:
            raise TerminalFault(f"{self}: tmux {words[0]}: {fault}") from fault


def find_pane(running: Running, run: Run = run) -> Pane | None:
    """Return the tmux pane in which a process is running. Return None if its successor cannot be started there."""
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
    """Return the pane if OpenCode can be relaunched in it. The processes between the pane's own process and OpenCode
    decide this.
    """
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
    """Return whether a process is an interactive shell, without a script or `-c`."""
    options = relative.arguments[1:]
    return _is_shell(relative) and all(word.startswith("-") and word != "-c" for word in options)


# ---- start scripts


def script_of(directory: str, environ: Mapping[str, str], command: Sequence[str]) -> str:
    """Return a shell script that executes `command` in a directory, with this environment."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environ.items() if _is_name(name)]
    return "\n".join([*exports, f"cd {shlex.quote(directory)} || exit 1", f"exec {shlex.join(command)}", ""])


@contextmanager
def handover(directory: Path) -> Iterator[Path]:
    """Create a named pipe during the block, and yield its path. `deliver` passes a script through the pipe to one
    reader.

    With a regular file, the script's environment, which may contain keys, would be written to disk. `directory` must be
    private.
    """
    path = directory / f"restart-{secrets.token_hex(6)}"
    os.mkfifo(path, 0o600)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def deliver(script: str, path: Path, limit: float = PICKUP_LIMIT) -> None:
    """Pass the script to the process that reads from the named pipe `path`.

    Raises:
        TerminalFault: No process began to read within `limit` seconds, or it stopped reading.
    """
    deadline = time.monotonic() + limit
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening fails while there is no reader
            break
        except OSError as fault:
            if time.monotonic() > deadline:
                raise TerminalFault("the terminal did not run the start command") from fault
            time.sleep(POLL)
    os.set_blocking(fd, True)
    try:
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(script.encode("utf-8", "surrogateescape"))
    except BrokenPipeError as fault:
        raise TerminalFault("the terminal stopped reading the start command") from fault


def _is_name(word: str) -> bool:
    return word.isascii() and word.isidentifier()  # `sh` cannot export other names, such as bash's exported functions
