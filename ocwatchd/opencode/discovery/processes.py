"""Inspect one OpenCode process (its program, arguments, environment and terminal) for `restart`, and end it.

All values are read from the process itself, because its successor is started with the same values.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ocwatchd.ownership import open_followed

if TYPE_CHECKING:
    import psutil

STOPS: tuple[tuple[signal.Signals, float], ...] = (
    # 1.18.33 finishes writing its message and exits within 0.1 to 1.6 s; 1.0 to 1.3 usually ignore SIGTERM
    (signal.SIGTERM, 2.0),
    (signal.SIGHUP, 1.5),  # the signal that a closed terminal sends; it ends the TUI of 1.3.2 within 0.1 s
    (signal.SIGINT, 1.0),
    (signal.SIGKILL, 5.0),  # this loses no data, because all important data is in the store
)
"""Signals in the order in which they are sent, each with the time, in seconds, that the process is given to end."""
POLL = 0.03
"""Interval, in seconds, between checks of whether the process has ended."""

_SUBCOMMANDS = frozenset(
    "serve web acp run attach auth agent mcp models upgrade uninstall stats export import github pr session debug"
    " generate completion db plugin plug account console login logout providers".split()
)
"""Subcommands of `opencode` that do not open a TUI (1.0 to 1.18). Any other first argument is a project directory."""

_WITH_VALUE = frozenset(
    "-m --model -s --session --prompt --agent --port --hostname --log-level --cors --mdns-domain".split()
)
PURE = "--pure"
_SESSION_OPTIONS = frozenset("-m --model -s --session --prompt --agent -c --continue --fork".split())
"""Options that choose a session, model or prompt. A restart drops them, because it chooses the session itself."""


@dataclass(frozen=True, slots=True)
class Relative:
    """An ancestor of a process."""

    pid: int
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A running OpenCode process. `environ` may contain keys, so it is only passed to the successor and never written
    to a file.
    """

    pid: int
    created: float
    """Start time reported by psutil, which may be up to a second early. Together with `pid`, it identifies the process.
    """
    exe: Path
    arguments: tuple[str, ...]
    """Command-line arguments, without the program's name."""
    environ: Mapping[str, str] = field(repr=False)
    directory: str = ""
    tty: str | None = None
    above: tuple[Relative, ...] = ()
    """Ancestors, the parent first."""
    exact_start: float | None = None
    """Start time in epoch seconds, accurate to a few ms, or None if only `created` is known."""

    @property
    def started(self) -> float:
        """The best known start time, in epoch seconds, for comparison with times that the process has written."""
        return self.created if self.exact_start is None else self.exact_start

    @property
    def subcommand(self) -> str | None:
        """The subcommand, such as `serve` or `run`, or None for a TUI."""
        word = next(_positional(self.arguments), None)
        return word if word in _SUBCOMMANDS else None

    @property
    def session(self) -> str | None:
        """The session id given on the command line, or None if no session was given."""
        return option(self.arguments, "-s", "--session")

    @property
    def pure(self) -> bool:
        """Whether plugins are disabled by `--pure` or the corresponding environment variable (1.14.41 to 1.18.34)."""
        wanted = (option(self.arguments, PURE) or "true").lower() if _given(self.arguments, PURE) else ""
        return wanted not in ("", "false") or self.environ.get("OPENCODE_PURE", "").lower() in ("1", "true")

    @property
    def port(self) -> bool:
        """Whether the process was started with `--port`."""
        return _given(self.arguments, "--port")

    def with_plugins(self) -> list[str]:
        """Return the arguments from `kept()`, without `--pure`."""
        return [word for word in self.kept() if word.partition("=")[0] != PURE]

    def kept(self) -> list[str]:
        """Return the arguments for the successor: all except those that choose a session, model or prompt."""
        return list(_kept(self.arguments))

    def alive(self) -> bool:
        """Return whether this process is still running. A new process with the same pid is not this process."""
        import psutil  # lazy import: not needed while no OpenCode is running

        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def end(self, stops: Sequence[tuple[signal.Signals, float]] = STOPS) -> signal.Signals | None:
        """End the process with increasingly strong signals, within 9.5 s.

        Return the signal that worked, or None if the process is still running.
        """
        for number, patience in stops:
            if not self.alive():
                return number
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if not self.alive():
                    return number
                time.sleep(POLL)
        return None


def inspect(pid: int) -> Running | None:
    """Return the process with this pid. Return None if it has ended, access is denied, or its program no longer exists
    on disk.
    """
    import psutil  # lazy import: not needed while no OpenCode is running

    try:
        return _read(psutil.Process(pid))
    except (psutil.Error, OSError):
        return None


def holds(running: Running, log_dir: Path, session: str) -> bool:
    """Return whether the process has its own log open and this log names the session.

    Up to 1.15, each process has its own log. The log that all processes share (1.17 and later) is ignored.
    """
    import psutil  # lazy import: not needed while no OpenCode is running

    try:
        paths = [Path(held.path) for held in psutil.Process(running.pid).open_files()]
    except (psutil.Error, OSError):
        return False
    own = [path for path in paths if path.parent == log_dir and path.name != "opencode.log"]
    return any(_contains(path, session.encode()) for path in own)


def _contains(path: Path, word: bytes) -> bool:
    with suppress(OSError), open(open_followed(path), "rb") as handle:  # noqa: PTH123 (a descriptor)
        return any(word in line for line in handle)
    return False


def _read(process: psutil.Process) -> Running | None:
    with process.oneshot():
        environ, created, arguments = process.environ(), process.create_time(), process.cmdline()
        exe = _program(process.exe(), environ)
        if exe is None:
            return None
        above = tuple(Relative(each.pid, each.name(), tuple(each.cmdline())) for each in process.parents())
        return Running(
            pid=process.pid,
            created=created,
            exe=exe,
            arguments=tuple(arguments[1:]),
            environ=environ,
            directory=process.cwd(),
            tty=process.terminal(),
            above=above,
            exact_start=_exact_start(process.pid),
        )


def _exact_start(pid: int) -> float | None:
    """Return the start time of a process in epoch seconds, or None if the system has no /proc.

    psutil adds the ticks since boot to the boot time in whole seconds, so its result is up to a second early. Such a
    result cannot distinguish two OpenCode processes that were started in quick succession.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        ticks = int(stat.rpartition(b")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # macOS has no /proc, but psutil's time is exact there
        return None


def _program(path: str, environ: Mapping[str, str]) -> Path | None:
    """Return the program to start again: the process's own program, or `opencode` from PATH if an upgrade has removed
    that program.
    """
    if path and os.access(path, os.X_OK):
        return Path(path)
    import shutil  # lazy import: rarely needed

    found = shutil.which("opencode", path=environ.get("PATH"))
    return Path(found) if found else None


def _positional(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments that are neither options nor their values."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            yield word


def _given(arguments: Sequence[str], name: str) -> bool:
    return any(word.partition("=")[0] == name for word in arguments)


def option(arguments: Sequence[str], *names: str) -> str | None:
    """Return the value of an option, given under any of its names. Return None if the arguments do not contain the
    option.
    """
    for at, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[at + 1 : at + 2]), None)
    return None


def _kept(arguments: Sequence[str]) -> Iterator[str]:
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        valued = name in _WITH_VALUE and not equals
        value = next(words, None) if valued else None
        # An argument that is not an option is the project directory. It is dropped, because it will be the successor's
        # working directory anyway.
        if name in _SESSION_OPTIONS or not word.startswith("-"):
            continue
        yield word
        if value is not None:
            yield value
