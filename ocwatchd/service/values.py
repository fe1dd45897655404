"""The protocol that service managers implement, and its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ocwatchd.errors import OcwatchError
from ocwatchd.paths import Paths


class FileState(StrEnum):
    """The state of the service's file."""

    CURRENT = "current"
    OUTDATED = "outdated"  # ours, but for another version, environment or path
    ABSENT = "absent"
    FOREIGN = "foreign"  # not ours, so it is left unchanged


@dataclass(frozen=True, slots=True)
class Service:
    """One of our services: its systemd unit, its launchd label, and its command.

    `program` is the console script; installations without scripts run `module` instead. `words` contains the arguments.
    The unit and the label also determine the names of the templates.
    """

    unit: str
    label: str
    program: str
    module: str
    words: tuple[str, ...] = ()

    def log(self, paths: Paths) -> Path:
        """Return the service's log file on systems without a journal."""
        return paths.service_log if self is DAEMON else paths.share / "ocwatchd-share.log"

    def advice(self) -> str:
        """Return advice to the user if there is no service manager."""
        return DETACH if self is DAEMON else "Share cooldowns in the foreground: ocwatch share"


DETACH = "Run the daemon in the background: ocwatch up --detach"
"""Advice to the user if there is no service manager for the daemon."""
DAEMON = Service("ocwatchd.service", "dev.ocwatchd", "ocwatchd", "ocwatchd")
SHARE = Service("ocwatchd-share.service", "dev.ocwatchd.share", "ocwatch", "ocwatchd.cli", ("share",))
SERVICES = (SHARE, DAEMON)
"""All services, in the order in which they are removed."""


class ServiceFault(OcwatchError):
    """Raised if the service manager failed. The message contains the reason and the next step."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The status of the service according to its manager."""

    manager: str
    """`systemd`, `launchd` or `none`."""
    file: Path | None = None
    state: FileState = FileState.ABSENT
    enabled: bool = False
    """Whether the service starts when the user logs in."""
    running: bool = False
    pid: int | None = None
    phrase: str = "not installed"
    """The manager's description: `active (running)`, `failed (exit-code)`."""
    said: str = ""
    """The last status line that the daemon sent to the manager, or an empty string if there is none."""
    restarts: int | None = None
    """Number of restarts by the manager, or None if it is unknown."""
    lingers: bool | None = None
    """Whether the service continues after the user's last logout. None means that this is unknown."""


@dataclass(frozen=True, slots=True)
class Log:
    """The location of the service's output: a file, or a command that shows it."""

    file: Path | None = None
    command: Callable[[int, bool], Sequence[str]] | None = field(default=None, repr=False)
    """A function that returns the command that shows the output. Its arguments are the number of lines, and whether to
    follow the log.
    """


class Manager(Protocol):
    """A service manager for this user. Methods never prompt, and raise ServiceFault if the manager fails."""

    name: str

    def status(self) -> ServiceStatus:
        """Return the status of the service without changing it."""
        ...

    def install(self, sandbox: bool | None = None, /) -> list[Path]:
        """Write the service's files and enable its start at login. Return the changed files. The service is neither
        started nor stopped.

        `sandbox` selects whether to use the sandbox, which needs namespaces. None changes nothing.
        """
        ...

    def start(self) -> None:
        """Start or restart the service with its current files, and return when it is ready."""
        ...

    def stop(self) -> None:
        """Stop the service until the next login. Do nothing if it is not running."""
        ...

    def uninstall(self) -> list[Path]:
        """Stop the service and remove its files. Return the removed files."""
        ...

    def log(self) -> Log:
        """Return the location of the service's output."""
        ...


class NoManager:
    """The manager that is used if this user has neither systemd nor launchd. It can only remove old files."""

    name = "none"

    def __init__(self, reason: str, remove: Callable[[], list[Path]] | None = None, service: Service = DAEMON) -> None:
        """Store the arguments.

        `reason` is a phrase that explains why there is no manager. `remove` removes files of an earlier
        installation.
        """
        self.reason = reason
        self._service = service
        self._remove = remove

    def status(self) -> ServiceStatus:
        """Return the status of a service that is not installed."""
        return ServiceStatus(self.name, phrase=self.reason)

    def install(self, _sandbox: bool | None = None, /) -> list[Path]:
        """Raise a ServiceFault."""
        raise self._fault()

    def start(self) -> None:
        """Raise a ServiceFault."""
        raise self._fault()

    def stop(self) -> None:
        """Raise a ServiceFault."""
        raise self._fault()

    def uninstall(self) -> list[Path]:
        """Remove the files of an earlier installation."""
        return self._remove() if self._remove else []

    def log(self) -> Log:
        """Raise a ServiceFault."""
        raise self._fault()

    def _fault(self) -> ServiceFault:
        return ServiceFault(f"no service manager can be used: {self.reason}. {self._service.advice()}")
