"""The companion plugin's file in OpenCode's plugin directory: installed, upgraded and removed whole, if it is ours.

OpenCode 1.0 loads `plugin/*.js` of its configuration directories, later versions `plugins/*.js` as well: `plugin/` is
read by all. What says which file is ours is its first line.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.paths import Paths

NAME = "rate-limit-fallback.js"
DIRECTORY, OTHER_DIRECTORY = "plugin", "plugins"

_MARKER = re.compile(rb"\A// ocwatchd companion plugin, version ([\w.]{1,20})\r?\n")
_CAP = 1 << 20
"""Bytes that are read of a file of that name; ours has 15 kB."""


class PluginState(StrEnum):
    """What lies at the plugin's place."""

    CURRENT = "current"
    OUTDATED = "outdated"  # ours, of another version or changed by hand
    ABSENT = "absent"
    FOREIGN = "foreign"  # a file of that name that is not ours


class PluginFault(OcwatchError):
    """The plugin's file cannot be installed or removed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PluginFile:
    """One look at the plugin's place. `installed` is the version found there, None unless it is ours."""

    path: Path
    state: PluginState
    installed: str | None
    shipped: str


def shipped_path() -> Path:
    """The file of `shipped`, for an OpenCode that is to load it from where it lies."""
    return Path(str(resources.files("ocwatchd.opencode").joinpath("plugin", NAME)))


def shipped() -> bytes:
    """The plugin that comes with this ocwatchd."""
    return resources.files("ocwatchd.opencode").joinpath("plugin", NAME).read_bytes()


def version_of(content: bytes) -> str | None:
    """The version that the first line tells; None if the file is not ours."""
    marker = _MARKER.match(content)
    return marker[1].decode() if marker else None


def look(paths: Paths) -> PluginFile:
    """What lies at the plugin's place now.

    Raises:
        PluginFault: it cannot be read.
    """
    return _look_at(paths.opencode_config / DIRECTORY / NAME)


def install(paths: Paths) -> tuple[PluginFile, PluginFile]:
    """Put the shipped plugin in its place; what was there before, and what is there now. Already current: nothing.

    Raises:
        PluginFault: a file of that name is not ours, or it cannot be written.
    """
    before = look(paths)
    if before.state is PluginState.FOREIGN:
        raise PluginFault(f"{before.path} is there and is not ocwatchd's: it stays as it is; move it away first")
    if before.path.is_symlink() and before.state is PluginState.OUTDATED:
        raise PluginFault(f"{before.path} is a link to another version: update or remove the link")
    try:
        before.path.parent.mkdir(parents=True, exist_ok=True)
        if before.state is not PluginState.CURRENT:
            _put(before.path, shipped(), anew=before.state is PluginState.ABSENT)
    except OSError as fault:
        raise PluginFault(f"{before.path} cannot be written: {fault.strerror or fault}") from fault
    return before, look(paths)


def uninstall(paths: Paths) -> list[Path]:
    """Remove our plugin wherever OpenCode loads it from; the files that are gone now. Others are left alone.

    Raises:
        PluginFault: ours cannot be removed.
    """
    removed = []
    for directory in (DIRECTORY, OTHER_DIRECTORY):
        found = _look_at(paths.opencode_config / directory / NAME)
        if found.installed is None:
            continue
        try:
            found.path.unlink()
        except OSError as fault:
            raise PluginFault(f"{found.path} cannot be removed: {fault.strerror or fault}") from fault
        removed.append(found.path)
    return removed


def _put(path: Path, content: bytes, *, anew: bool) -> None:
    """Write the file whole or not at all; `anew`: only if nothing is there, be it since a moment ago.

    Raises:
        OSError: nothing was changed; FileExistsError with `anew`.
    """
    # OpenCode loads whatever ends in .js or .ts there: a temporary file must not.
    temporary = path.with_name(f".{NAME}.{os.urandom(4).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        if anew:
            os.link(temporary, path)  # unlike a rename, a link never replaces
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _look_at(path: Path) -> PluginFile:
    new = shipped()
    wanted = version_of(new) or "?"
    content = _read(path)
    if content is None:
        return PluginFile(path, PluginState.ABSENT, None, wanted)
    installed = version_of(content)
    if installed is None:
        return PluginFile(path, PluginState.FOREIGN, None, wanted)
    state = PluginState.CURRENT if content == new else PluginState.OUTDATED
    return PluginFile(path, state, installed, wanted)


def _read(path: Path) -> bytes | None:
    """The content, through a link as OpenCode reads it; None if nothing is there; empty if it is no file to be read.

    Raises:
        PluginFault: we are not let in.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b"" if path.is_symlink() else None  # a link to nowhere is somebody's, and not ours
    except OSError as fault:
        if fault.errno in (errno.ENXIO, errno.ELOOP):
            return b""
        raise PluginFault(f"{path} cannot be read: {fault.strerror or fault}") from fault
    try:
        return os.read(fd, _CAP) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
