"""Where things lie. OpenCode uses XDG paths on macOS too, so we do: platformdirs' Unix rules, not the platform's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs.unix import Unix


@dataclass(frozen=True, slots=True)
class Paths:
    """Every directory and file that ocwatchd reads or writes, derived from one environment."""

    home: Path
    opencode_config: Path
    opencode_data: Path
    """OpenCode's data directory: logs, storage, database."""
    state_dir: Path
    """Our state directory, mode 0700."""
    cache_dir: Path

    @classmethod
    def from_env(cls) -> Paths:
        """Derive all paths from HOME, the XDG variables and OPENCODE_CONFIG_DIR of this process."""
        opencode, own = Unix("opencode"), Unix("ocwatchd")
        override = os.environ.get("OPENCODE_CONFIG_DIR", "")
        return cls(
            home=Path.home(),
            opencode_config=Path(override) if override else opencode.user_config_path,
            opencode_data=opencode.user_data_path,
            state_dir=own.user_state_path,
            cache_dir=own.user_cache_path,
        )

    @property
    def config_file(self) -> Path:
        """Our configuration, beside OpenCode's own."""
        return self.opencode_config / "rate-limit-config.json"

    @property
    def log_dir(self) -> Path:
        """OpenCode's log directory."""
        return self.opencode_data / "log"

    @property
    def blacklist(self) -> Path:
        """The public register of cooldowns."""
        return self.state_dir / "blacklist.json"

    @property
    def journal(self) -> Path:
        """What was seen, decided and done, one JSON object per line."""
        return self.state_dir / "journal.jsonl"

    @property
    def cursors(self) -> Path:
        """How far each log was read."""
        return self.state_dir / "cursors.json"

    @property
    def doors(self) -> Path:
        """Sockets into running OpenCode processes, one per process."""
        return self.state_dir / "doors"

    @property
    def facts(self) -> Path:
        """What the companion plugin saw of refused requests, one file per process."""
        return self.state_dir / "facts"

    @property
    def allowances(self) -> Path:
        """What providers said is left of their limits, one file per model."""
        return self.state_dir / "allowances"

    @property
    def forecasts(self) -> Path:
        """How near the limits are, as the daemon saw it last."""
        return self.state_dir / "forecasts.json"

    @property
    def prices(self) -> Path:
        """What models cost, as OpenCode told it last."""
        return self.state_dir / "prices.json"

    @property
    def budget(self) -> Path:
        """What is left of today's budget."""
        return self.state_dir / "budget.json"

    @property
    def moved(self) -> Path:
        """Sessions that were moved, and where they came from."""
        return self.state_dir / "moved.json"

    @property
    def daemon_lock(self) -> Path:
        """Held by the running daemon; a second one finds it taken."""
        return self.state_dir / "daemon.lock"

    @property
    def heartbeat(self) -> Path:
        """Written by the daemon's pumping loop: pid, time, what it follows."""
        return self.state_dir / "daemon.json"

    @property
    def service_log(self) -> Path:
        """What the daemon says as a service, where no journal keeps it."""
        return self.state_dir / "ocwatchd.log"

    @property
    def starter_mark(self) -> Path:
        """The SHA-256 of the starter configuration that `ocwatch up` wrote."""
        return self.state_dir / "starter.sha256"


def opencode_data_of(environ: Mapping[str, str]) -> Path | None:
    """The data directory that an OpenCode process with this environment uses; None if the environment does not tell.

    Tells apart processes of different homes, which must never be mixed up: a daemon serves its own home.
    """
    explicit = environ.get("XDG_DATA_HOME", "")
    if explicit.startswith("/"):  # the XDG specification: a relative path is invalid and ignored
        return Path(explicit) / "opencode"
    home = environ.get("HOME", "")
    return Path(home) / ".local" / "share" / "opencode" if home else None
