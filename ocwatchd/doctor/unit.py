"""The user service's file, as systemd and launchd keep it."""

from __future__ import annotations

import os
import plistlib
import shlex
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.doctor.values import Service
from ocwatchd.paths import Paths
from ocwatchd.service.find import manager_for
from ocwatchd.service.values import NoManager


def service(paths: Paths, environ: Mapping[str, str]) -> Service:
    """The file of either service manager, and whether what it starts is there."""
    base = environ.get("XDG_CONFIG_HOME", "")
    config = Path(base) if base.startswith("/") else paths.home / ".config"
    places = (config / "systemd/user/ocwatchd.service", paths.home / "Library/LaunchAgents/dev.ocwatchd.plist")
    for file in places:
        try:
            content = file.read_bytes()
        except OSError:
            continue
        program = _from_plist(content) if file.suffix == ".plist" else _from_unit(content)
        return Service(str(file), program, program is None or os.access(program, os.X_OK))
    manager = manager_for(paths, environ)
    return Service(unserved=manager.reason if isinstance(manager, NoManager) else None)


def _from_unit(content: bytes) -> str | None:
    for line in content.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ExecStart":
            try:
                words = shlex.split(value)
            except ValueError:
                return None
            return words[0].lstrip("@-:+!") if words else None
    return None


def _from_plist(content: bytes) -> str | None:
    try:
        arguments = plistlib.loads(content).get("ProgramArguments")
    except (ValueError, AttributeError, plistlib.InvalidFileException):
        return None
    return str(arguments[0]) if isinstance(arguments, list) and arguments else None
