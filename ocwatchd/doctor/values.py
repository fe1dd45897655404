"""What the doctor works with: facts gathered once, and what the checks say about them. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.chains import Chains


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    INFO = "info"  # worth knowing, nothing to do
    WARNING = "warning"  # something works less well than it could
    ERROR = "error"  # something does not work


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` is None where there is nothing to do."""

    code: str
    severity: Severity
    seen: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """One running OpenCode of this home. `plugin`, `opencode` are versions as the companion plugin tells them."""

    pid: int
    directory: str | None = None
    opencode: str | None = None
    plugin: str | None = None
    door: bool = False
    standing_back: str | None = None
    runs_once: bool = False


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """A directory that is followed. `newest` is when the last line came, epoch seconds."""

    path: str
    files: int | None
    """None: it is not there, or cannot be read; `trouble` says which."""
    newest: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """Which models there are, as far as anybody here can tell, by provider."""

    by_doors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By running OpenCodes: the truth for their projects."""
    configured: Mapping[str, frozenset[str]] = field(default_factory=dict)
    catalogue: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """OpenCode's cached list; what a configured provider of the same name adds to."""
    catalogue_age: float | None = None
    """Seconds."""
    signed_in: frozenset[str] = frozenset()
    enabled: frozenset[str] | None = None
    """None: all that are not disabled."""
    disabled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Agents:
    """Names of agents. `complete`: a running OpenCode was asked, so plugins' agents are among them."""

    names: frozenset[str] = frozenset()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Configured:
    """Our configuration. `fault` is why it cannot be used; the rest is then empty."""

    path: str
    exists: bool = False
    fault: str | None = None
    warnings: tuple[str, ...] = ()
    chains: Chains = field(default_factory=dict)
    """With aliases resolved."""
    agents: Mapping[str, str] = field(default_factory=dict)
    """By model."""
    pools: Chains = field(default_factory=dict)
    """Members by name."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon as its heartbeat shows it. `state` is up, deaf or down."""

    state: str = "down"
    pid: int | None = None
    beat_age: float | None = None
    health: tuple[str, ...] = ()
    unheard: str | None = None
    """What OpenCode wrote and the daemon did not read."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The companion plugin's file. `state` is current, outdated, absent or foreign."""

    state: str = "absent"
    path: str = ""
    installed: str | None = None
    shipped: str = ""
    trouble: str | None = None
    last_error: str | None = None
    """The newest line of plugin-errors.log, if it is of the last day."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service's file. `program`: what it starts; `there`: whether that can be started."""

    file: str | None = None
    program: str | None = None
    there: bool = True
    unserved: str | None = None
    """Why no service manager serves this user; None where one does."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A file or directory of ours that others may read or write, or that is not this user's."""

    path: str
    mode: int
    own: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks decide on. The defaults are a machine with nothing on it."""

    now: float
    program: str | None = None
    version: str | None = None
    program_fault: str | None = None
    running: tuple[Running, ...] = ()
    doors: int = 0
    door_troubles: tuple[str, ...] = ()
    logs: tuple[LogDirectory, ...] = ()
    daemon: Daemon = Daemon()
    config: Configured = Configured("")
    opencode_config_fault: str | None = None
    used: tuple[str, ...] = ()
    """Models that OpenCode is configured to work with: the default one, and those of agents that lead."""
    offered: Offered = Offered()
    agents: Agents = Agents()
    plugin: Plugin = Plugin()
    rivals: tuple[str, ...] = ()
    """Other fallback plugins that are installed, each with where."""
    service: Service = Service()
    open_modes: tuple[Mode, ...] = ()
    inotify: tuple[int, int] | None = None
    """Most watches and most instances of a user; None where there is no inotify."""
    newest_of_ours: float | None = None
    """The latest time that stands in our files, epoch seconds."""
    register_problems: tuple[str, ...] = ()
    journal_bytes: int = 0
    state_free: int | None = None
    """Bytes that are free where our state lies."""
