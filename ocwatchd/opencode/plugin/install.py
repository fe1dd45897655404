"""The companion plugin in OpenCode's plugin directory: installed, upgraded and removed whole, if it is ours.

OpenCode 1.0 loads `plugin/*.js` of its configuration directories, later versions `plugins/*.js` as well: `plugin/` is
read by all. Directories in it are left alone (seen with 1.0.185, 1.1.65, 1.3.2, 1.18.33), so the plugin's parts lie in
one of its own name. What says which file is ours is its first line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.paths import Paths

NAME = "rate-limit-fallback.js"
DIRECTORY, OTHER_DIRECTORY = "plugin", "plugins"
PARTS = tuple(f"{NAME.removesuffix('.js')}/{part}.js" for part in ("answers", "door", "floor", "origin", "pools"))
"""Beside the file of that name, which loads them, and works without any that is missing."""

_MARKER = re.compile(rb"\A// ocwatchd companion plugin, version ([\w.]{1,20})\r?\n")
_CAP = 1 << 20
"""Bytes that are read of a file of that name; ours have up to 13 kB."""


class PluginState(StrEnum):
    """What lies at the plugin's place."""

    CURRENT = "current"
    OUTDATED = "outdated"  # ours, of another version or changed by hand, or a part of it is missing
    ABSENT = "absent"
    FOREIGN = "foreign"  # a file of that name, or of a part's, that is not ours


class PluginFault(OcwatchError):
    """The plugin's file cannot be installed or removed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PluginFile:
    """One look at the plugin's place. `path` is the file of `NAME`, or the part that is not ours; `installed` is the
    version found there, None unless it is ours.
    """

    path: Path
    state: PluginState
    installed: str | None
    shipped: str


def shipped_path() -> Path:
    """The file of `shipped`, its parts beside it, for an OpenCode that is to load it from where it lies."""
    return Path(str(resources.files("ocwatchd.opencode").joinpath("plugin", NAME)))


def shipped(name: str = NAME) -> bytes:
    """The plugin that comes with this ocwatchd, or one of its `PARTS`."""
    return resources.files("ocwatchd.opencode").joinpath("plugin", name).read_bytes()


def version_of(content: bytes) -> str | None:
    """The version that the first line tells; None if the file is not ours."""
    marker = _MARKER.match(content)
    return marker[1].decode() if marker else None


def look(paths: Paths) -> PluginFile:
    """What lies at the plugin's place now.

    Raises:
        PluginFault: it cannot be read.
    """
    return _together(_look_at_all(paths.opencode_config / DIRECTORY))


def install(paths: Paths) -> tuple[PluginFile, PluginFile]:
    """Put the shipped plugin in its place; what was there before, and what is there now. Already current: nothing.

    Raises:
        PluginFault: a file of that name is not ours, or it cannot be written.
    """
    files = _look_at_all(paths.opencode_config / DIRECTORY)
    before = _together(files)
    if before.state is PluginState.FOREIGN:
        raise PluginFault(f"{before.path} is there and is not ocwatchd's: it stays as it is; move it away first")
    links = [file.path for file in (before, *files.values()) if file.state is PluginState.OUTDATED]
    for path in filter(Path.is_symlink, links):
        raise PluginFault(f"{path} is a link to another version, or to one without its parts: update or remove it")
    for name, file in reversed(files.items()):  # what is loaded by itself comes last: its parts lie there then
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            if file.state is not PluginState.CURRENT:
                _put(file.path, shipped(name), anew=file.state is PluginState.ABSENT)
        except OSError as fault:
            raise PluginFault(f"{file.path} cannot be written: {fault.strerror or fault}") from fault
    return before, look(paths)


def uninstall(paths: Paths) -> list[Path]:
    """Remove our plugin wherever OpenCode loads it from; the files that are gone now. Others are left alone.

    Raises:
        PluginFault: ours cannot be removed.
    """
    removed = []
    for directory in (DIRECTORY, OTHER_DIRECTORY):
        for found in _look_at_all(paths.opencode_config / directory).values():
            if found.installed is None:
                continue
            try:
                found.path.unlink()
            except OSError as fault:
                raise PluginFault(f"{found.path} cannot be removed: {fault.strerror or fault}") from fault
            removed.append(found.path)
        with contextlib.suppress(OSError):  # somebody else's files may be in it
            (paths.opencode_config / directory / PARTS[0]).parent.rmdir()
    return removed


def _look_at_all(directory: Path) -> dict[str, PluginFile]:
    """By name, the file that loads the others first. Bun looks for these where a link to that one leads."""
    path = directory / NAME
    found = {NAME: _look_at(path, NAME)}
    beside = path.resolve().parent if found[NAME].installed else directory
    return found | {name: _look_at(beside / name, name) for name in PARTS}


def _together(files: dict[str, PluginFile]) -> PluginFile:
    """The one that is nobody's to replace, else the first, which is as good as its parts."""
    foreign = next((file for file in files.values() if file.state is PluginState.FOREIGN), None)
    first = files[NAME]
    if foreign is not None or first.state is not PluginState.CURRENT:
        return foreign or first
    whole = all(file.state is PluginState.CURRENT for file in files.values())
    return first if whole else replace(first, state=PluginState.OUTDATED)


def _put(path: Path, content: bytes, *, anew: bool) -> None:
    """Write the file whole or not at all; `anew`: only if nothing is there, be it since a moment ago.

    Raises:
        OSError: nothing was changed; FileExistsError with `anew`.
    """
    # OpenCode loads whatever ends in .js or .ts there: a temporary file must not.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
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


def _look_at(path: Path, name: str) -> PluginFile:
    new = shipped(name)
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
