"""Paths of all files and directories, derived from HOME, the XDG variables and OPENCODE_CONFIG_DIR.

OpenCode follows the XDG specification even on macOS, and so does ocwatchd. The functions return strings and import
nothing costly, because they are used by commands that must start in tens of milliseconds
(docs/decisions/0004-fast-path.md). `Paths` provides the same paths as `pathlib` objects. The platformdirs package
applies the same rules but takes 25 ms of CPU time, because it imports tempfile, shutil and random.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ocwatchd.errors import HomeUnknown
from ocwatchd.ownership import check_directory

TYPE_CHECKING = False  # defined here because importing the `typing` module takes 5 ms of CPU time
if TYPE_CHECKING:
    from pathlib import Path


def base(variable: str, usual: str, environ: Mapping[str, str] = os.environ, below: str | None = None) -> str:
    """Return the directory that an XDG variable names, or else the `usual` directory below HOME (or below `below` if
    given).

    A relative path in the variable is ignored, as the specification requires.

    Raises:
        HomeUnknown: HOME is not usable, and `below` is not given.
    """
    below, value = below or home(environ), environ.get(variable, "")
    if value.startswith("/"):
        return value.rstrip("/")
    return f"{below.rstrip('/')}/{usual}"


def home(environ: Mapping[str, str] = os.environ) -> str:
    """Return HOME.

    The password database is never used: under `sudo`, in a container or in a service, its home may differ from the one
    that OpenCode uses.

    Raises:
        HomeUnknown: HOME is not set, empty, or not absolute.
    """
    value = environ.get("HOME")
    if value is None or not value.startswith("/"):
        is_what = "is not set" if value is None else f"is {value!r}, which is not an absolute path"
        raise HomeUnknown(f"HOME {is_what}, so ocwatchd cannot find your files. Set it to your home directory")
    return value.rstrip("/") or "/"


def state_file(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of a file in our state directory.

    Raises:
        HomeUnknown: HOME is not usable.
        StateError: The directory belongs to another user.
    """
    directory = f"{base('XDG_STATE_HOME', '.local/state', environ)}/ocwatchd"
    check_directory(directory)
    return f"{directory}/{name}"


def cache_file(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of a file in our cache directory."""
    return f"{base('XDG_CACHE_HOME', '.cache', environ)}/ocwatchd/{name}"


def opencode_directories(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return OpenCode's global configuration directories, lowest precedence first. The last of them also contains our
    configuration.
    """
    usual = f"{config_home(environ)}/opencode"
    override = environ.get("OPENCODE_CONFIG_DIR", "")
    return [usual, override] if override and override != usual else [usual]


def config_file(environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of our configuration."""
    return f"{opencode_directories(environ)[-1]}/rate-limit-config.json"


def data_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return OpenCode's data directory."""
    return f"{base('XDG_DATA_HOME', '.local/share', environ)}/opencode"


def config_home(environ: Mapping[str, str] = os.environ, below: str | None = None) -> str:
    """Return the directory of the user's configuration files: XDG_CONFIG_HOME, or else `.config` below HOME (or below
    `below` if given).

    Raises:
        HomeUnknown: HOME is not usable, and `below` is not given.
    """
    return base("XDG_CONFIG_HOME", ".config", environ, below)


class Paths:
    """All directories and files that ocwatchd reads or writes.

    `opencode_data` is OpenCode's data directory (logs, storage, database). `state_dir` is our own, with mode 0700.
    """

    __slots__ = ("cache_dir", "home", "opencode_config", "opencode_data", "state_dir")

    def __init__(
        self, home: Path, opencode_config: Path, opencode_data: Path, state_dir: Path, cache_dir: Path
    ) -> None:
        """Store the five directories unchanged, without creating or checking them."""
        self.home, self.opencode_config, self.opencode_data = home, opencode_config, opencode_data
        self.state_dir, self.cache_dir = state_dir, cache_dir

    @classmethod
    def from_env(cls, *, checked: bool = True) -> Paths:
        """Derive all paths from HOME, the XDG variables and OPENCODE_CONFIG_DIR of this process.

        If `checked` is False, the caller must check our state directory.

        Raises:
            HomeUnknown: HOME is not usable.
            StateError: Our state directory belongs to another user.
        """
        from pathlib import Path

        override = os.environ.get("OPENCODE_CONFIG_DIR", "")
        found = cls(
            home=Path(home()),
            opencode_config=Path(override or f"{base('XDG_CONFIG_HOME', '.config')}/opencode"),
            opencode_data=Path(f"{base('XDG_DATA_HOME', '.local/share')}/opencode"),
            state_dir=Path(f"{base('XDG_STATE_HOME', '.local/state')}/ocwatchd"),
            cache_dir=Path(f"{base('XDG_CACHE_HOME', '.cache')}/ocwatchd"),
        )
        if checked:
            check_directory(found.state_dir)
        return found

    @property
    def config_file(self) -> Path:
        """Our configuration file, next to OpenCode's own."""
        return self.opencode_config / "rate-limit-config.json"

    @property
    def opencode_state(self) -> Path:
        """OpenCode's state directory, next to ours. OpenCode 2 records its background service in it."""
        return self.state_dir.parent / "opencode"

    @property
    def log_dir(self) -> Path:
        """OpenCode's log directory."""
        return self.opencode_data / "log"

    @property
    def blacklist(self) -> Path:
        """The blacklist, which any program may read."""
        return self.state_dir / "blacklist.json"

    @property
    def journal(self) -> Path:
        """The journal of ocwatchd's observations, decisions and actions, with one JSON object per line."""
        return self.state_dir / "journal.jsonl"

    @property
    def cursors(self) -> Path:
        """The daemon's read position in each log."""
        return self.state_dir / "cursors.json"

    @property
    def event_progress(self) -> Path:
        """The daemon's read position in the events of OpenCode 2."""
        return self.state_dir / "event-progress.json"

    @property
    def endpoints(self) -> Path:
        """The directory of the companion plugin's sockets, one per running OpenCode process."""
        return self.state_dir / "doors"

    @property
    def decisions(self) -> Path:
        """The daemon's socket, through which OpenCode 2's companion plugin asks for decisions on refused attempts."""
        return self.state_dir / "decisions.sock"

    @property
    def facts(self) -> Path:
        """The companion plugin's records of refused attempts, with one file per OpenCode process."""
        return self.state_dir / "facts"

    @property
    def allowances(self) -> Path:
        """The directory of the rate-limit headers received from providers, with one file per model."""
        return self.state_dir / "allowances"

    @property
    def keep_alives(self) -> Path:
        """The times of the latest keep-alives in silent streams, with one file per OpenCode process."""
        return self.state_dir / "keep-alives"

    @property
    def forecasts(self) -> Path:
        """The daemon's latest forecasts of limits."""
        return self.state_dir / "forecasts.json"

    @property
    def prices(self) -> Path:
        """The prices of models, as last reported by OpenCode."""
        return self.state_dir / "prices.json"

    @property
    def budget(self) -> Path:
        """Today's budget and the amount spent."""
        return self.state_dir / "budget.json"

    @property
    def stream_gaps(self) -> Path:
        """The lengths of the gaps in each model's streamed answers."""
        return self.state_dir / "stream-gaps.json"

    @property
    def moved(self) -> Path:
        """The sessions that were moved, with their primaries."""
        return self.state_dir / "moved.json"

    @property
    def daemon_lock(self) -> Path:
        """The lock file of the running daemon. It keeps a second daemon from starting."""
        return self.state_dir / "daemon.lock"

    @property
    def heartbeat(self) -> Path:
        """The heartbeat file of the daemon's main loop. It contains the pid, the time, and the followed logs."""
        return self.state_dir / "daemon.json"

    @property
    def share(self) -> Path:
        """The directory of `ocwatch share`: shared cooldowns and the state of the share process."""
        return self.state_dir / "share"

    @property
    def service_log(self) -> Path:
        """The log file of the daemon's service on systems without a system journal."""
        return self.state_dir / "ocwatchd.log"

    @property
    def schema(self) -> Path:
        """The copy of the JSON Schema that configuration files refer to. It survives the removal of a virtual
        environment.
        """
        return self.state_dir / "rate-limit-config.schema.json"

    @property
    def starter_mark(self) -> Path:
        """The file with the SHA-256 of the starter configuration that `ocwatch up` wrote."""
        return self.state_dir / "starter.sha256"


def opencode_data_of(environ: Mapping[str, str]) -> Path | None:
    """Return the data directory of an OpenCode process with this environment, or None if the environment does not
    determine it.

    A daemon serves only its own home, so it compares this directory with its own.
    """
    from pathlib import Path

    try:
        return Path(data_directory(environ))
    except HomeUnknown:
        return None
