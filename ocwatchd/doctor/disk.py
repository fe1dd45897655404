"""Gather facts from the disk: logs, our own files and their modes, and the system's limits."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ocwatchd.clock import from_rfc3339
from ocwatchd.doctor.values import LogDirectory, Mode
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.ownership import ELSEWHERE, home_owner, in_own_home, is_ours, repair, user_name
from ocwatchd.paths import Paths
from ocwatchd.state.blacklist.format import Contents
from ocwatchd.state.heartbeat import Heartbeat
from ocwatchd.state.safe_read import StateError, read_plain

INOTIFY = Path("/proc/sys/fs/inotify")
CATALOGUE_CAP = 64 << 20
"""Maximum size, in bytes, of a JSON file that is read; OpenCode's cached list of models was 1.5 MB in 2026."""
DAY = 86_400.0
STRANGE = 12
"""Maximum number of files of another user that are reported. There may be one such file for each session."""


def json_object(path: Path) -> dict[str, object]:
    """Return the object in a JSON file, or an empty object if the file is missing or cannot be read."""
    try:
        found = json.loads(read_plain(path, CATALOGUE_CAP))
    except (OSError, StateError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def log_directory(path: Path) -> LogDirectory:
    """Return the number of logs in a directory, and the time at which the last of them was written."""
    try:
        with os.scandir(path) as entries:
            times = [entry.stat().st_mtime for entry in entries if entry.name.endswith(".log")]
    except FileNotFoundError:
        return LogDirectory(str(path), None)
    except OSError as fault:
        return LogDirectory(str(path), None, trouble=f"cannot be read: {fault.strerror or fault}")
    return LogDirectory(str(path), len(times), max(times, default=None))


def open_modes(paths: Paths) -> Iterator[Mode]:
    """Yield those of our files and directories that other users can access or that belong to another user."""
    state = paths.state_dir
    private = (state, paths.endpoints, paths.facts, paths.blacklist, paths.journal, paths.cursors, paths.heartbeat,
               paths.moved, state / "plugin-errors.log")  # fmt: skip
    for path, closed in (*((path, 0o077) for path in private), (paths.config_file, 0o022)):
        with suppress(OSError):
            info = path.stat()
            if is_ours(info.st_uid) and info.st_mode & closed:
                yield Mode(str(path), stat.S_IMODE(info.st_mode))
    yield from islice(_foreign_files(paths), STRANGE)


def _foreign_files(paths: Paths) -> Iterator[Mode]:
    """Yield those of our files that belong to another user. Earlier versions created such files under `sudo`."""
    plugin = (paths.opencode_config / "plugin" / name for name in (plugin_file.NAME, *plugin_file.PARTS))
    units = (
        paths.home / ".config/systemd/user/ocwatchd.service",
        paths.home / "Library/LaunchAgents/dev.ocwatchd.plist",
    )
    for path in (paths.cache_dir, paths.config_file, *plugin, *units):
        yield from _owned_by_another(path)
    yield from _owned_by_another(paths.state_dir, within=True)


def _owned_by_another(path: Path, *, within: bool = False) -> Iterator[Mode]:
    """Yield the path if it belongs to another user. Otherwise, if `within` is set, yield the files below it that belong
    to another user.
    """
    try:
        info = path.lstat()
    except OSError:
        return
    if info.st_uid != _expected_owner():
        user, whole = user_name(info.st_uid), stat.S_ISDIR(info.st_mode)
        mended = repair(str(path), whole=whole)
        known = info.st_uid == 0 and (os.geteuid() == 0 or in_own_home(str(path)))
        # After a chown of the other user's directory, ocwatchd would trust all files in it.
        remedy = mended if known else f"remove it, {ELSEWHERE}" if whole else f"remove it, or: {mended}"
        yield Mode(str(path), stat.S_IMODE(info.st_mode), own=False, owner=user, repair=remedy)
    elif within and path.is_dir():
        with suppress(OSError):
            for entry in sorted(path.iterdir()):
                yield from _owned_by_another(entry, within=not entry.is_symlink())


def _expected_owner() -> int:
    """Return the id of the user who should own our files: this user or, under `sudo`, the owner of HOME."""
    return home_owner() if os.geteuid() == 0 else os.geteuid()


def inotify_limits() -> tuple[int, int] | None:
    """Return the maximum number of watches and of instances per user, or None on systems without inotify."""
    try:
        watches, instances = (int((INOTIFY / f"max_user_{what}").read_text()) for what in ("watches", "instances"))
    except (OSError, ValueError):
        return None
    return watches, instances


def newest_time(beat: Heartbeat, blacklist: Contents) -> float | None:
    """Return the time of the latest event in our files, or None if there is none."""
    times = [entry.since for entry in blacklist.entries.values()]
    with suppress(ValueError, OverflowError):
        times.append(from_rfc3339(str(blacklist.raw.get("updated"))))
    return max([*times, *([beat.beat] if beat.beat else [])], default=None)


def journal_bytes(paths: Paths) -> int:
    """Return the size of both journal files together, in bytes."""
    total = 0
    for path in (paths.journal, paths.journal.with_name(f"{paths.journal.name}.1")):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def state_free(paths: Paths) -> int | None:
    """Return the free bytes in the file system of our state directory, which need not exist yet, or None if this is
    unknown.
    """
    for place in (paths.state_dir, *paths.state_dir.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def last_error(path: Path, now: float) -> str | None:
    """Return the last line of the plugin's error log if the log was written within the last day; otherwise, return
    None.
    """
    try:
        if now - path.stat().st_mtime > DAY:
            return None
        lines = read_plain(path).decode(errors="replace").splitlines()
    except (OSError, StateError):
        return None
    return next((line[:300] for line in reversed(lines) if line.strip()), None)
