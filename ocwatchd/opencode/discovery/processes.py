"""One OpenCode process in full: how it was started, where it sits, and its end. For `restart`, which brings it back.

What stands here comes from the process itself (executable, arguments, environment), never from a guess: the process
that takes its place is started with the same.
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

if TYPE_CHECKING:
    import psutil

STOPS: tuple[tuple[signal.Signals, float], ...] = (
    (signal.SIGTERM, 2.0),  # 1.18.33 leaves in 0.1 - 1.6 s and closes its message; 1.0 - 1.3 mostly do not react
    (signal.SIGHUP, 1.5),  # as when its terminal is closed: ends the TUI of 1.3.2 within 0.1 s
    (signal.SIGINT, 1.0),
    (signal.SIGKILL, 5.0),  # nothing is lost by it: what counts is in the store
)
"""Signals in this order, each with the seconds it is given."""
POLL = 0.03

_SUBCOMMANDS = frozenset(
    "serve web acp run attach auth agent mcp models upgrade uninstall stats export import github pr session debug"
    " generate completion db plugin plug account console login logout providers".split()
)
"""Words that make an `opencode WORD` something else than a TUI (1.0 - 1.18); any other word is a project directory."""

_WITH_VALUE = frozenset(
    "-m --model -s --session --prompt --agent --port --hostname --log-level --cors --mdns-domain".split()
)
_ABOUT_THE_TURN = frozenset("-m --model -s --session --prompt --agent -c --continue --fork".split())
"""Options that say what to begin with: after the restart that is the session itself."""


@dataclass(frozen=True, slots=True)
class Relative:
    """A process further up in the tree."""

    pid: int
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A running OpenCode. `environ` may hold keys: it is handed on to the successor and written nowhere."""

    pid: int
    created: float
    exe: Path
    arguments: tuple[str, ...]
    """Without the program's own name."""
    environ: Mapping[str, str] = field(repr=False)
    directory: str = ""
    tty: str | None = None
    above: tuple[Relative, ...] = ()
    """Parent first."""

    @property
    def subcommand(self) -> str | None:
        """`serve`, `run`, …; None for a TUI."""
        word = next(_positional(self.arguments), None)
        return word if word in _SUBCOMMANDS else None

    @property
    def session(self) -> str | None:
        """The session that it was started with."""
        return _value(self.arguments, "-s", "--session")

    def kept(self) -> list[str]:
        """Its arguments that its successor gets as well: ports, log level, …; not the ones about session and model."""
        return list(_kept(self.arguments))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def end(self, stops: Sequence[tuple[signal.Signals, float]] = STOPS) -> signal.Signals | None:
        """End it, more and more firmly; the signal that did it, None if it runs on. Blocks for 9.5 s at most."""
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
    """The process in full; None if it has ended, or does not let us look, or its program is gone from the disk."""
    import psutil

    try:
        return _read(psutil.Process(pid))
    except (psutil.Error, OSError):
        return None


def holds(running: Running, log_dir: Path, session: str) -> bool:
    """Whether the process's own log names the session. Up to 1.15 each process has a log of its own; a log that all
    share (1.17 and later) says nothing here."""
    import psutil

    try:
        paths = [Path(held.path) for held in psutil.Process(running.pid).open_files()]
    except (psutil.Error, OSError):
        return False
    own = [path for path in paths if path.parent == log_dir and path.name != "opencode.log"]
    return any(_contains(path, session.encode()) for path in own)


def _contains(path: Path, word: bytes) -> bool:
    with suppress(OSError), path.open("rb") as handle:
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
        )


def _program(path: str, environ: Mapping[str, str]) -> Path | None:
    """The program to start again. An upgrade may have replaced the file under the running process: then PATH's."""
    if path and os.access(path, os.X_OK):
        return Path(path)
    import shutil

    found = shutil.which("opencode", path=environ.get("PATH"))
    return Path(found) if found else None


def _positional(arguments: Sequence[str]) -> Iterator[str]:
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            yield word


def _value(arguments: Sequence[str], *names: str) -> str | None:
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
        if name in _ABOUT_THE_TURN or not word.startswith("-"):  # a bare word is the project: we start there anyway
            continue
        yield word
        if value is not None:
            yield value
