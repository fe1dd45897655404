"""Which service manager serves this user and this home. The manager itself is asked: a program proves little."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.paths import Paths
from ocwatchd.service.commands import ask
from ocwatchd.service.launchd import Launchd
from ocwatchd.service.systemd import Systemd, remove_files
from ocwatchd.service.values import Look, Manager, NoManager
from ocwatchd.state import daemonlock


def manager_for(paths: Paths, environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Manager:
    """launchd on macOS, systemd where its user instance runs and looks into this home, else none, with the reason."""
    if platform == "darwin":
        return Launchd(paths, environ) if shutil.which("launchctl") else NoManager("launchctl is not on PATH")
    places = _unit_directories(paths, environ)

    def remove() -> list[Path]:
        return [path for place in places for path in remove_files(place)]

    if not shutil.which("systemctl"):
        return NoManager("systemd is not installed", remove)
    answer = ask(["systemctl", "--user", "--no-pager", "show", "--property=UnitPath"])
    name, _, searched = answer.out.strip().partition("=")
    if not answer.done or name != "UnitPath":
        return NoManager(f"systemd does not run for this user ({answer.why})", remove)
    found = next((place for place in places if _among(place, searched.split())), None)
    if found is None:  # a private HOME beside the user's real runtime directory: that is another daemon's manager
        return NoManager("systemd runs for this user, but does not look into this home", remove)
    return Systemd(paths, environ, found)


def _unit_directories(paths: Paths, environ: Mapping[str, str]) -> list[Path]:
    """Where a user's own units lie: as the shell says, and as the manager says if it does not know the variable."""
    base = environ.get("XDG_CONFIG_HOME", "")
    usual = paths.home / ".config"
    bases = dict.fromkeys([Path(base) if base.startswith("/") else usual, usual])
    return [place / "systemd" / "user" for place in bases]


def _among(place: Path, searched: list[str]) -> bool:
    return os.path.realpath(place) in map(os.path.realpath, searched)


def stray_daemon(paths: Paths, look: Look) -> int | None:
    """The pid of a daemon that is not the service's; 0 if it cannot be told; None if there is none.

    Raises:
        OSError: the daemon's lock cannot be read.
    """
    holder = daemonlock.holder(paths.daemon_lock, paths.heartbeat)
    return None if holder == look.pid or (holder == 0 and look.running) else holder
