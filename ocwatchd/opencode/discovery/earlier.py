"""Find OpenCode processes that run without the companion plugin, and describe how to restart each of them with the
plugin.

OpenCode loads plugins only when it starts, and loads none with `--pure`. The sessions of a process without the plugin
cannot be moved in place.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ocwatchd.clock import rfc3339
from ocwatchd.opencode.discovery.endpoints import OpenCodeProcess, ProcessTable, generations
from ocwatchd.opencode.discovery.processes import Relative, Running, inspect
from ocwatchd.opencode.plugin.install import is_installed
from ocwatchd.opencode.sessions.names import SessionName, session_names
from ocwatchd.paths import Paths

PURE_WHY = "runs with --pure, which loads no plugins"
NOT_INSTALLED_WHY = "runs without the companion plugin, which is not installed"
STARTED_BEFORE_WHY = "was started before the companion plugin was installed"
SLACK = 2.0
"""Tolerance, in seconds, when the last change of a session is compared with the start of a process."""


@dataclass(frozen=True, slots=True)
class EarlierProcess:
    """An OpenCode process that runs without the companion plugin. `session` and `title` are empty if the session is
    unknown.
    """

    pid: int
    terminal: str | None
    directory: str
    session: str
    title: str
    subcommand: str | None
    again: str
    """The command that starts the process again with its session and with plugins."""
    pure: bool = False
    """Whether the process runs with `--pure`."""
    started: float = 0.0
    """Start time, in epoch seconds."""
    installed: bool = True
    """Whether the companion plugin is installed, so that a new process would load it."""

    @property
    def place(self) -> str:
        """A phrase with the process's pid, terminal, directory and session."""
        where = self.terminal.removeprefix("/dev/") if self.terminal else "no terminal"
        titled = f", session “{self.title}”" if self.title else f", session {self.session}" if self.session else ""
        return f"OpenCode {self.pid} ({where}, {self.directory}{titled})"

    @property
    def why(self) -> str:
        """The reason why the companion plugin is not loaded, phrased as the predicate of a sentence whose subject is
        the process.
        """
        if self.pure:
            return PURE_WHY
        return STARTED_BEFORE_WHY if self.installed else NOT_INSTALLED_WHY

    @property
    def way(self) -> str:
        """Instructions for restarting the process with the plugin, without the command `again`, which must follow."""
        install = "" if self.installed else "run `ocwatch plugin install`, "
        stop = f"stop it (kill {self.pid})" if self.subcommand else "quit it"
        return f"{install}{stop}, then {'start it without --pure' if self.pure else 'type'}"

    @property
    def remedy(self) -> str:
        """The complete instruction for restarting the process."""
        return f"{self.way}: {self.again}"

    def as_json(self) -> dict[str, object]:
        """Return this process as an object in the form of the JSON contract."""
        return {
            "pid": self.pid,
            "terminal": self.terminal,
            "directory": self.directory,
            "session": self.session or None,
            "title": self.title or None,
            "restart": self.again,
        }

    def for_heartbeat(self) -> dict[str, object]:
        """Return this process as an object for the heartbeat, with the sentence that `status` prints about it."""
        kind = {"pure": self.pure, "started": rfc3339(self.started)}
        return {**self.as_json(), **kind, "place": self.place, "why": self.why, "way": self.way}


def earlier_processes(
    paths: Paths,
    processes: Callable[[], Iterable[OpenCodeProcess]] | None = None,
    inspect_process: Callable[[int], Running | None] = inspect,
) -> list[EarlierProcess]:
    """Return the OpenCode 1 processes that use this data directory and run without the companion plugin."""
    own = os.path.realpath(paths.opencode_data)
    earlier = []
    names: list[SessionName] | None = None
    installed: bool | None = None
    for process in generations(
        found for found in (processes or ProcessTable())() if found.data and os.path.realpath(found.data) == own
    ):
        if process.generation != 1 or process.runs_once or (paths.endpoints / f"{process.pid}.json").exists():
            continue
        running = inspect_process(process.pid)
        if running is None or running.subcommand not in (None, "serve", "web", "attach"):
            continue
        names = session_names(str(paths.opencode_data)) if names is None else names
        installed = is_installed(paths) if installed is None else installed
        earlier.append(_earlier(running, names, installed))
    launchers = {relative.pid for _, above in earlier for relative in above}
    # npm's wrapper, which is also called opencode, is omitted.
    return [process for process, _ in earlier if process.pid not in launchers]


def _earlier(running: Running, names: list[SessionName], installed: bool) -> tuple[EarlierProcess, list[Relative]]:
    """Return the description of a process and the list of its ancestors."""
    session = _session(running, names) if running.subcommand is None else None
    words = ["opencode", *([running.subcommand] if running.subcommand else []), *running.with_plugins()]
    if session is not None:
        words += ["-s", session.id]
    again = f"cd {shlex.quote(running.directory)} && {shlex.join(words)}"
    process = EarlierProcess(
        running.pid, running.tty, running.directory, session.id if session else "", session.title if session else "",
        running.subcommand, again, running.pure, running.started, installed,
    )  # fmt: skip
    return process, list(running.above)


def _session(running: Running, names: list[SessionName]) -> SessionName | None:
    """Return the session that the process was started with. If none was given, return the session that was most
    recently used in the process's directory since the process was started.
    """
    here = os.path.realpath(running.directory)
    for name in names:
        if running.session is not None:
            if name.id == running.session:
                return name
        elif (
            name.parent is None
            and name.updated is not None
            and name.updated + SLACK >= running.started
            and os.path.realpath(name.directory) == here
        ):
            return name
    return None
