"""Facts that lie on the disk: logs, our own files and their modes, the system's limits."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ocwatchd.clock import from_rfc3339
from ocwatchd.doctor.values import LogDirectory, Mode
from ocwatchd.paths import Paths
from ocwatchd.state.entries import Contents
from ocwatchd.state.heartbeat import Heartbeat
from ocwatchd.state.plain import StateError, read_plain

INOTIFY = Path("/proc/sys/fs/inotify")
CATALOGUE_CAP = 64 << 20
"""Bytes of OpenCode's cached list of models; it had 1.5 MB in 2026."""
DAY = 86_400.0


def json_object(path: Path) -> dict[str, object]:
    """The object in a JSON file; empty if there is none, or none that can be read."""
    try:
        found = json.loads(read_plain(path, CATALOGUE_CAP))
    except (OSError, StateError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def log_directory(path: Path) -> LogDirectory:
    """How many logs lie there, and when the newest was written."""
    try:
        with os.scandir(path) as entries:
            times = [entry.stat().st_mtime for entry in entries if entry.name.endswith(".log")]
    except FileNotFoundError:
        return LogDirectory(str(path), None)
    except OSError as fault:
        return LogDirectory(str(path), None, trouble=f"cannot be read: {fault.strerror or fault}")
    return LogDirectory(str(path), len(times), max(times, default=None))


def open_modes(paths: Paths) -> Iterator[Mode]:
    """Our files and directories that others get into."""
    state = paths.state_dir
    private = (state, paths.doors, paths.facts, paths.blacklist, paths.journal, paths.cursors, paths.heartbeat,
               paths.moved, state / "plugin-errors.log")  # fmt: skip
    for path, closed in (*((path, 0o077) for path in private), (paths.config_file, 0o022)):
        try:
            info = path.stat()
        except OSError:
            continue
        own = info.st_uid == os.getuid()
        if not own or info.st_mode & closed:
            yield Mode(str(path), stat.S_IMODE(info.st_mode), own)


def inotify_limits() -> tuple[int, int] | None:
    """Most watches and most instances of one user; None on systems without inotify."""
    try:
        watches, instances = (int((INOTIFY / f"max_user_{what}").read_text()) for what in ("watches", "instances"))
    except (OSError, ValueError):
        return None
    return watches, instances


def clock_of_ours(beat: Heartbeat, register: Contents) -> float | None:
    """The latest time that our files name as past."""
    times = [entry.since for entry in register.entries.values()]
    with suppress(ValueError, OverflowError):
        times.append(from_rfc3339(str(register.raw.get("updated"))))
    return max([*times, *([beat.beat] if beat.beat else [])], default=None)


def journal_bytes(paths: Paths) -> int:
    """Of both files."""
    total = 0
    for path in (paths.journal, paths.journal.with_name(f"{paths.journal.name}.1")):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def state_free(paths: Paths) -> int | None:
    """Bytes that are free where our state lies, or would lie."""
    for place in (paths.state_dir, *paths.state_dir.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def last_error(path: Path, now: float) -> str | None:
    """The newest line of the plugin's own log of errors, if it is of the last day."""
    try:
        if now - path.stat().st_mtime > DAY:
            return None
        lines = read_plain(path).decode(errors="replace").splitlines()
    except (OSError, StateError):
        return None
    return next((line[:300] for line in reversed(lines) if line.strip()), None)
