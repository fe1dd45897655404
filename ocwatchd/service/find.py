"""Find the service manager for this user and this home.

The service manager itself is queried, because it may be installed but not running.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.paths import Paths, config_home
from ocwatchd.service.commands import ask
from ocwatchd.service.launchd import Launchd
from ocwatchd.service.systemd import Systemd, remove_files
from ocwatchd.service.values import DAEMON, SERVICES, Manager, NoManager, Service, ServiceStatus
from ocwatchd.state import daemon_lock as daemonlock


def manager_for(
    paths: Paths,
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    service: Service = DAEMON,
) -> Manager:
    """Return the service manager.

    This is launchd on macOS. On other systems, it is systemd if systemd's user instance is running and uses this home.
    Otherwise, it is `NoManager`.
    """
    if platform == "darwin":
        if not shutil.which("launchctl"):
            return NoManager("launchctl is not on PATH", service=service)
        return Launchd(paths, environ, service)
    places = _unit_directories(paths, environ)

    def remove() -> list[Path]:
        return [path for place in places for path in remove_files(place, SERVICES if service is DAEMON else (service,))]

    if not shutil.which("systemctl"):
        return NoManager("systemd is not installed", remove, service)
    answer = ask(["systemctl", "--user", "--no-pager", "show", "--property=UnitPath"])
    name, _, searched = answer.out.strip().partition("=")
    if not answer.done or name != "UnitPath":
        return NoManager(f"systemd is not running for this user ({answer.why})", remove, service)
    found = next((place for place in places if _among(place, searched.split())), None)
    if found is None:  # the manager was started with a different HOME
        return NoManager("systemd is running for this user, but does not use this home directory", remove, service)
    return Systemd(paths, environ, found, service=service)


def _unit_directories(paths: Paths, environ: Mapping[str, str]) -> list[Path]:
    """Return the possible directories of the user's units: below XDG_CONFIG_HOME, and the manager's default."""
    bases = dict.fromkeys([Path(config_home(environ, str(paths.home))), paths.home / ".config"])
    return [place / "systemd" / "user" for place in bases]


def _among(place: Path, searched: list[str]) -> bool:
    return os.path.realpath(place) in map(os.path.realpath, searched)


def stray_daemon(paths: Paths, status: ServiceStatus) -> int | None:
    """Return the pid of a daemon that is not running as the service. Return 0 if the pid is unknown, and None if there
    is no such daemon.

    Raises:
        OSError: The daemon's lock cannot be read.
    """
    holder = daemonlock.holder(paths.daemon_lock, paths.heartbeat)
    return None if holder == status.pid or (holder == 0 and status.running) else holder
