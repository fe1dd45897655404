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
class Config:
    """Everything that a person can configure; the defaults work.

    `doors` are base URLs on loopback to try besides those that are found. `warnings` are sentences for the person who
    wrote the file. `source` is None without a file.
    """

    policy: Policy = field(default_factory=Policy)
    error_patterns: tuple[str, ...] = ()
    logs: LogSettings = LogSettings()
    doors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    source: Path | None = None
