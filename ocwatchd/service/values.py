"""What a service manager is asked and what it answers, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ocwatchd.errors import OcwatchError


class FileState(StrEnum):
    """What lies at the place of the service's file."""

    CURRENT = "current"
    OUTDATED = "outdated"  # ours, of another version, environment or place
    ABSENT = "absent"
    FOREIGN = "foreign"  # not ours: it stays as it is


class ServiceFault(OcwatchError):
    """The service manager did not do it; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Look:
    """The service as its manager sees it now."""

    manager: str
    """`systemd`, `launchd` or `none`."""
    file: Path | None = None
    state: FileState = FileState.ABSENT
    enabled: bool = False
    """Started again when the user logs in."""
    running: bool = False
    pid: int | None = None
    phrase: str = "not installed"
    """The manager's own words: `active (running)`, `failed (exit-code)`."""
    said: str = ""
    """What the daemon told the manager last; "" if nothing."""
    restarts: int | None = None
    """How often the manager has restarted it; None if it does not count."""
    lingers: bool | None = None
    """Whether it goes on after the user's last logout; None if that cannot be told."""


@dataclass(frozen=True, slots=True)
class Log:
    """Where the daemon's lines go: a file, or a command that shows them."""

    file: Path | None = None
    command: Callable[[int, bool], Sequence[str]] | None = field(default=None, repr=False)
    """Takes the number of lines, and whether to follow."""


class Manager(Protocol):
    """One service manager of this user. Nothing here prompts; all of it raises ServiceFault with what to do."""

    name: str

    def look(self) -> Look:
        """How things are; changes nothing."""
        ...

    def install(self, sandbox: bool | None = None, /) -> list[Path]:
        """Write the service's files and have it started at login; what was changed. Starts and stops nothing.

        `sandbox`: with what needs namespaces, or without; None: as it is.
        """
        ...

    def start(self) -> None:
        """Start it, with the files as they are now; a running one is ended first. Returns once it serves."""
        ...

    def stop(self) -> None:
        """End it; it stays ended until the next login. One that does not run is no fault."""
        ...

    def uninstall(self) -> list[Path]:
        """End it and remove every file of ours; what is gone now."""
        ...

    def log(self) -> Log:
        """Where its lines are to be read."""
        ...


IN_FOREGROUND = "The daemon in the foreground: ocwatch up"
"""The next step where no service can be had."""


class NoManager:
    """Neither systemd nor launchd serves this user here. Files that an earlier install left are still removed."""

    name = "none"

    def __init__(self, reason: str, remove: Callable[[], list[Path]] | None = None) -> None:
        """`reason` is a sentence without its full stop."""
        self.reason = reason
        self._remove = remove

    def look(self) -> Look:
        """Nothing is there."""
        return Look(self.name, phrase=self.reason)

    def install(self, _sandbox: bool | None = None, /) -> list[Path]:
        """Always a ServiceFault."""
        raise self._fault()

    def start(self) -> None:
        """Always a ServiceFault."""
        raise self._fault()

    def stop(self) -> None:
        """Always a ServiceFault."""
        raise self._fault()

    def uninstall(self) -> list[Path]:
        """What an install under another circumstance left."""
        return self._remove() if self._remove else []

    def log(self) -> Log:
        """Always a ServiceFault."""
        raise self._fault()

    def _fault(self) -> ServiceFault:
        return ServiceFault(f"no service here: {self.reason}. {IN_FOREGROUND}")
