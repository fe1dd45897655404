"""The configuration as values. Times in seconds; in the file they stand in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ocwatchd.core.policy import Policy

LOOK_BACK_BYTES = 1 << 20
LOOK_BACK = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Which directories are read besides OpenCode's own, and how far back at the start: bytes per file, and seconds."""

    directories: tuple[Path, ...] = ()
    look_back_bytes: int = LOOK_BACK_BYTES
    look_back: float = LOOK_BACK


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """How the person is told. `command` is a program and its arguments; it gets the notice as JSON on standard input.

    Within the quiet hours, minutes of the local day from `quiet[0]` up to `quiet[1]`, desktop and command are silent.
    """

    desktop: bool = True
    toast: bool = True
    command: tuple[str, ...] = ()
    quiet: tuple[int, int] | None = None

    def silent_at(self, minute: int) -> bool:
        """Whether this minute of the local day lies in the quiet hours, which may go over midnight."""
        if self.quiet is None:
            return False
        begin, end = self.quiet
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a person can configure; the defaults work.

    `doors` are base URLs on loopback to try besides those that are found. `warnings` are sentences for the person who
    wrote the file. `source` is None without a file.
    """

    policy: Policy = field(default_factory=Policy)
    error_patterns: tuple[str, ...] = ()
    logs: LogSettings = LogSettings()
    doors: tuple[str, ...] = ()
    notices: NoticeSettings = NoticeSettings()
    warnings: tuple[str, ...] = ()
    source: Path | None = None
