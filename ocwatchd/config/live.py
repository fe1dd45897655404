"""The configuration of a long life: edits are taken over, and of a broken one the last good state stays in force."""

from __future__ import annotations

from ocwatchd.clock import rfc3339
from ocwatchd.config.loading import load
from ocwatchd.config.model import Config
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths

SETTLED = 0.3
"""Seconds without a further change before an edit is read: editors truncate first, or rename the old file away, and an
empty file, or none, is a valid configuration too."""

Mark = tuple[int, ...] | None


class LiveConfig:
    """`look` as often as you like: one stat, and news once an edit has settled."""

    def __init__(self, paths: Paths, config: Config, now: float) -> None:
        """`config` was read from `paths` just now (epoch seconds)."""
        self.config = config
        self.loaded = now
        self.problem: str | None = None
        """Why the file cannot be used; None if it can."""
        self._paths, self._logs, self._file = paths, config.logs, paths.config_file
        self._mark: Mark = ()  # unknown: an edit while we started is found with the first look
        self._seen: Mark = ()
        self._since = now

    @property
    def due(self) -> float | None:
        """When an edit that was seen will have settled (epoch seconds); None if there is none."""
        return None if self._seen == self._mark else self._since + SETTLED

    def look(self, now: float) -> Config | ConfigError | None:
        """A configuration that differs from the last one, or was broken before; the fault of a broken one, once."""
        mark = self._now()
        if mark != self._seen:
            self._seen, self._since = mark, now
        if mark == self._mark or 0 <= now - self._since < SETTLED:
            return None
        self._mark = mark
        try:
            found = load(self._paths)
        except ConfigError as fault:
            told, self.problem = self.problem, str(fault)
            return fault if told != self.problem else None
        mended, self.problem = self.problem is not None, None
        if found == self.config and not mended:
            return None
        self.config, self.loaded = found, now
        return found

    def health(self) -> list[str]:
        """What a person has to know of it, as sentences; empty if all is well."""
        found = [f"{self.problem}; until that is mended the last good configuration holds"] if self.problem else []
        if self.config.logs != self._logs:
            found.append("`logs` in the configuration was edited: that takes effect when ocwatchd is started again")
        return found

    def as_json(self) -> dict[str, object]:
        """As it stands in the heartbeat."""
        return {"file": str(self._paths.config_file), "loaded": rfc3339(self.loaded), "problem": self.problem}

    def _now(self) -> Mark:
        """What tells one state of the file from another; a symlink is followed, people keep dotfiles so."""
        try:
            seen = self._file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return (error.errno or 0,)
        return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
