"""The companion plugin's socket files: which of them are ours to use, and which a dead process left behind."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from ocwatchd.opencode.http import is_listening

MOST_ABOUT = 65_536
"""Bytes of a process's `PID.json` that are read; it has some 200."""


def own_sockets(directory: Path | None) -> list[Path]:
    """Socket files in a directory that is ours alone; none in any other."""
    return [path for path in _files(directory, "*.sock") if _is_own_socket(path)]


def rival_in(directory: Path | None, pid: int) -> str | None:
    """Why the companion plugin in this process stands back, as it wrote into its directory; None if it does not."""
    try:
        (file,) = _files(directory, f"{pid}.json")
        why = json.loads(file.read_bytes()[:MOST_ABOUT]).get("standing_back")
    except (OSError, ValueError, AttributeError):
        return None
    return why[:200] if isinstance(why, str) and why else None


def clear_stale(directory: Path) -> None:
    """Remove what dead processes left in the plugin's directory: `PID.sock` and `PID.json`.

    Dead is a pid that does not run and a socket that nobody listens at: a pid inside a container may only look dead.
    """
    for pid in {path.stem for path in _files(directory, "[0-9]*.*") if path.stem.isdecimal()}:
        socket = directory / f"{pid}.sock"
        if _runs(int(pid)) or (_is_own_socket(socket) and is_listening(socket)):
            continue
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.with_suffix(".json").unlink(missing_ok=True)


def _files(directory: Path | None, pattern: str) -> list[Path]:
    if directory is None:
        return []
    try:
        about = directory.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            return []
        return sorted(directory.glob(pattern))
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no pid at all
        return True
    return True


def _is_own_socket(path: Path) -> bool:
    try:
        about = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(about.st_mode) and about.st_uid == os.getuid()
