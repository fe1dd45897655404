"""The data types of `ocwatch doctor`: the facts about an installation, and the findings of the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.config.offered_models import Offered
from ocwatchd.core.domain.chains import Chains


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    INFO = "info"  # no action is necessary
    WARNING = "warning"  # a function is limited or at risk
    ERROR = "error"  # a function does not work


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: the observation and the remedy. `remedy` is None if there is nothing to do."""

    code: str
    severity: Severity
    seen: str
    remedy: str | None = None
    command: str = ""
    """The end of `remedy` if it is a command for the user to copy. A command must not be wrapped."""


@dataclass(frozen=True, slots=True)
class Running:
    """One running OpenCode process in this home. The companion plugin reported the versions `plugin` and `opencode`."""

    pid: int
    directory: str | None = None
    opencode: str | None = None
    plugin: str | None = None
    endpoint: bool = False
    standing_back: str | None = None
    runs_once: bool = False
    generation: int = 1
    listens: bool = False
    place: str = ""
    """The terminal, directory and session of a process without the companion plugin. Empty if the plugin is loaded."""
    why: str = ""
    """The reason why the plugin is not loaded, as a clause such as `was started …`. Empty if it is loaded."""
    remedy: str = ""
    """Instructions for restarting a process without the plugin. Empty if the plugin is loaded."""
    again: str = ""
    """The command at the end of `remedy`."""
    hooks: tuple[str, ...] = ()
    """The companion plugin's hooks that this process, an OpenCode 2, has called."""


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """A log directory that is read. `newest` is the time at which its last line was written, in epoch seconds."""

    path: str
    files: int | None
    """The number of logs, or None if the directory does not exist or cannot be read (`trouble` then contains the
    reason).
    """
    newest: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Agents:
    """The names of agents. The list is `complete` if a running OpenCode process reported it, including agents from
    plugins.
    """

    names: frozenset[str] = frozenset()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Configured:
    """Our configuration. `fault` is the reason why it cannot be used; all other values are then empty."""

    path: str
    exists: bool = False
    fault: str | None = None
    warnings: tuple[str, ...] = ()
    chains: Chains = field(default_factory=dict)
    """The fallbacks of each model, with aliases resolved."""
    agents: Mapping[str, str] = field(default_factory=dict)
    """The configured agent of each model."""
    pools: Chains = field(default_factory=dict)
    """The members of each pool."""
    plan_command: bool = False
    """Whether `forecast.command` is set."""
    named: tuple[str, ...] = ()
    """Every model in the configuration, as `config check` reads it."""
    no_fallback_needed: str | None = None
    """Why no model needs a fallback, as a clause, or None if models need one."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The state of the daemon, from its heartbeat. `state` is `up`, `deaf` (stalled) or `down`."""

    state: str = "down"
    pid: int | None = None
    beat_age: float | None = None
    health: tuple[str, ...] = ()
    unread_log: str | None = None
    """A sentence about log lines that the daemon has not read, or None if there are no such lines."""
    waiting: tuple[tuple[str, str, str], ...] = ()
    """Sessions that only their user can continue. Each item is the session's id, the obstacle, and the command to run
    (without `ocwatch`).
    """


@dataclass(frozen=True, slots=True)
class Plugin:
    """The file of the companion plugin. `state` is current, outdated, absent or foreign (not written by ocwatchd)."""

    state: str = "absent"
    path: str = ""
    installed: str | None = None
    shipped: str = ""
    trouble: str | None = None
    last_error: str | None = None
    """The last line of plugin-errors.log if that file was written within the last day; otherwise, None."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service file. `program` is the program that the service starts, and `there` is True if the program exists."""

    file: str | None = None
    program: str | None = None
    there: bool = True
    unserved: str | None = None
    """The reason why there is no service manager for this user, or None if there is one."""


@dataclass(frozen=True, slots=True)
class Mode:
    """One of our files or directories that other users can access or that belongs to another user. `own` is False in
    the second case.
    """

    path: str
    mode: int
    own: bool = True
    owner: str = "another user"
    repair: str = ""
    """The command that makes this user the owner of the file again."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts that the checks use. The defaults describe a machine on which nothing is installed."""

    now: float
    program: str | None = None
    version: str | None = None
    program_fault: str | None = None
    generation: int = 1
    """The generation of `program`."""
    migrated: str | None = None
    """The OpenCode 1 database that OpenCode 2 has taken over, or None if there is no such database."""
    running: tuple[Running, ...] = ()
    endpoints: int = 0
    endpoint_troubles: tuple[str, ...] = ()
    endpoint_statuses: tuple[Mapping[str, object], ...] = ()
    """The running OpenCode processes that have an endpoint or whose sessions ocwatchd cannot move, with the fields of
    `status --json`.
    """
    logs: tuple[LogDirectory, ...] = ()
    daemon: Daemon = Daemon()
    config: Configured = Configured("")
    opencode_config_fault: str | None = None
    used: tuple[str, ...] = ()
    """The models in use: OpenCode's default model, the models of agents that are not subagents, and recent models."""
    proposed: tuple[str, ...] = ()
    """The fallbacks that OpenCode's configuration offers for the first model in use, in order."""
    offered: Offered = field(default_factory=Offered)
    agents: Agents = Agents()
    plugin: Plugin = Plugin()
    rivals: tuple[str, ...] = ()
    """Other fallback plugins that are installed, each with its location."""
    service: Service = Service()
    open_modes: tuple[Mode, ...] = ()
    inotify: tuple[int, int] | None = None
    """Maximum number of watches and of instances per user, or None on systems without inotify."""
    newest_time: float | None = None
    """The time of the latest event in our files, in epoch seconds."""
    blacklist_problems: tuple[str, ...] = ()
    plan_command_problem: str | None = None
    """The reason why the last run of `forecast.command` failed, or None if it succeeded."""
    journal_bytes: int = 0
    state_free: int | None = None
    """Free bytes in the file system of our state directory, or None if the number is unknown."""
