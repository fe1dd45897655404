"""The value types of the configuration. Times are in seconds here, and in milliseconds in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ocwatchd.core.policy import Policy

LOOK_BACK_BYTES = 1 << 20
LOOK_BACK = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log directories to read in addition to OpenCode's own, and how much of older logs to read at the first start.

    `look_back_bytes` applies to each file. Files last written more than `look_back` seconds ago are not read.
    """

    directories: tuple[Path, ...] = ()
    look_back_bytes: int = LOOK_BACK_BYTES
    look_back: float = LOOK_BACK


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """The settings for notifying the user. `command` is a program with arguments. It receives each notice as JSON on
    its standard input.

    `ntfy` is the address of a topic. `quiet` is a pair (start, end), in minutes after local midnight. During this time,
    only toasts are shown.
    """

    desktop: bool = True
    toast: bool = True
    command: tuple[str, ...] = ()
    ntfy: str | None = None
    quiet: tuple[int, int] | None = None

    def silent_at(self, minute: int) -> bool:
        """Return whether a minute of the local day is within the quiet hours, which may extend past midnight."""
        if self.quiet is None:
            return False
        begin, end = self.quiet
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """The settings for sharing cooldowns, over the server at `url` or in `folder`. If neither is set, nothing is
    shared.

    `accounts` maps each provider to the account's name. `node` is the name of this machine; if it is None, the host
    name is used.
    """

    url: str | None = None
    folder: Path | None = None
    team: str = "team"
    node: str | None = None
    accounts: Mapping[str, str] = field(default_factory=dict)
    secret_file: Path | None = None
    ca: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether sharing is configured."""
        return self.url is not None or self.folder is not None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a user can configure. The defaults apply if there is no file.

    `endpoints` contains the base URLs of OpenCode servers on loopback to use in addition to those that ocwatchd finds.
    `warnings` contains sentences for the user. `source` is the file; None if it does not exist.
    """

    policy: Policy = field(default_factory=Policy)
    error_patterns: tuple[str, ...] = ()
    logs: LogSettings = LogSettings()
    endpoints: tuple[str, ...] = ()
    notices: NoticeSettings = NoticeSettings()
    share: ShareSettings = field(default_factory=ShareSettings)
    warnings: tuple[str, ...] = ()
    source: Path | None = None
