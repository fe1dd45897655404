"""Install, upgrade and remove the companion plugin in OpenCode's plugin directory. Files that ocwatchd did not write
are never changed.

OpenCode 1.0 loads `plugin/*.js` from its configuration directories, and later versions also load `plugins/*.js`, so
`plugin/` works for all of them. Subdirectories of `plugin/` are ignored (1.0.185, 1.1.65, 1.3.2, 1.18.33), so the
plugin's parts are in a subdirectory named after the plugin. The first line of a file shows whether ocwatchd wrote it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from ocwatchd.errors import OcwatchError
from ocwatchd.ownership import give, make_directories, read_followed
from ocwatchd.paths import Paths

NAME = "rate-limit-fallback.js"
DIRECTORY, OTHER_DIRECTORY = "plugin", "plugins"
_PARTS = ("answers", "decisions", "door", "floor", "opencode2", "origin", "pools", "selection")
PARTS = tuple(f"{NAME.removesuffix('.js')}/{part}.js" for part in _PARTS)
"""The files that the main file loads. The main file works even if one of these parts is missing."""

_MARKER = re.compile(rb"\A// ocwatchd companion plugin, version ([\w.]{1,20})\r?\n")
_CAP = 1 << 20
"""Maximum number of bytes read from an installed file. Our files are at most 25 kB in size."""
_FIRST_LINE_CAP = 80
"""Maximum number of bytes read to find the version, which is at most 60 bytes from the beginning of the file."""


class PluginState(StrEnum):
    """State of the plugin's installation."""

    CURRENT = "current"
    OUTDATED = "outdated"  # our file, but from another version, edited by hand, or with a part missing
    ABSENT = "absent"
    FOREIGN = "foreign"  # a file that has the name of the plugin or of a part is not ours


class PluginFault(OcwatchError):
    """Raised if the plugin cannot be read, installed or removed. The message contains the reason and the next step."""


@dataclass(frozen=True, slots=True)
class PluginFile:
    """An installed or missing file of the plugin.

    `path` is the path of the main file `NAME` or of one of its parts. `installed` is the version of the file at `path`,
    or None if there is no file or the file is not ours; `shipped` is the version of this package.
    """

    path: Path
    state: PluginState
    installed: str | None
    shipped: str


def shipped_path() -> Path:
    """Return the path of the plugin in this package, from which OpenCode can load it together with its parts."""
    from importlib import resources  # lazy import: the daemon, which imports this module, does not need it

    return Path(str(resources.files("ocwatchd.opencode").joinpath("plugin", NAME)))


def shipped(name: str = NAME) -> bytes:
    """Return the content of the plugin's main file in this package, or of one of its `PARTS`."""
    from importlib import resources  # lazy import: the daemon, which imports this module, does not need it

    return resources.files("ocwatchd.opencode").joinpath("plugin", name).read_bytes()


def version_of(content: bytes) -> str | None:
    """Return the version in the first line of a plugin file. Return None if the file is not ours."""
    marker = _MARKER.match(content)
    return marker[1].decode() if marker else None


def find_plugin(paths: Paths) -> PluginFile:
    """Return the state of the installed plugin.

    Raises:
        PluginFault: A file cannot be read.
    """
    return _together(_find_files(paths.opencode_config / DIRECTORY))


def is_installed(paths: Paths) -> bool:
    """Return whether any version of the plugin's main file is in a directory from which OpenCode loads plugins. Only
    the first line of the file is read.
    """
    for directory in (DIRECTORY, OTHER_DIRECTORY):
        with contextlib.suppress(OSError):
            first_line = read_followed(paths.opencode_config / directory / NAME, _FIRST_LINE_CAP)
            if version_of(first_line) is not None:
                return True
    return False


def install(paths: Paths) -> tuple[PluginFile, PluginFile]:
    """Install the plugin unless the installed one is current. Return its state before and after.

    Raises:
        PluginFault: A file of that name is not ours, or cannot be read or written.
    """
    files = _find_files(paths.opencode_config / DIRECTORY)
    before = _together(files)
    if before.state is PluginState.FOREIGN:
        raise PluginFault(f"{before.path} was not installed by ocwatchd, so it is not replaced. Move it away first")
    links = [file.path for file in (before, *files.values()) if file.state is PluginState.OUTDATED]
    for path in filter(Path.is_symlink, links):
        raise PluginFault(
            f"{path} is a link to another version of the plugin or to an incomplete copy. Update or remove the link"
        )
    for name, file in reversed(files.items()):  # the main file is written last, after its parts
        try:
            make_directories(file.path.parent, 0o777)  # the mode follows the umask because this is OpenCode's directory
            if file.state is not PluginState.CURRENT:
                _put(file.path, shipped(name), anew=file.state is PluginState.ABSENT)
        except OSError as fault:
            raise PluginFault(f"{file.path} cannot be written: {fault.strerror or fault}") from fault
    return before, find_plugin(paths)


def uninstall(paths: Paths) -> list[Path]:
    """Remove the plugin from all directories from which OpenCode loads plugins. Return the removed files.

    Raises:
        PluginFault: One of our files cannot be removed.
    """
    removed = []
    for directory in (DIRECTORY, OTHER_DIRECTORY):
        for found in _find_files(paths.opencode_config / directory).values():
            if found.installed is None:
                continue
            try:
                found.path.unlink()
            except OSError as fault:
                raise PluginFault(f"{found.path} cannot be removed: {fault.strerror or fault}") from fault
            removed.append(found.path)
        place = paths.opencode_config / directory
        with contextlib.suppress(OSError):  # the directory may contain other files
            (place / PARTS[0]).parent.rmdir()
        if any(path.parent == place for path in removed):
            with contextlib.suppress(OSError):
                place.rmdir()
    return removed


def _find_files(directory: Path) -> dict[str, PluginFile]:
    """Return the plugin's files by name, the main file first.

    If the main file is a link, its parts are looked up beside the link's target, as Bun does.
    """
    path = directory / NAME
    found = {NAME: _find_file(path, NAME)}
    beside = path.resolve().parent if found[NAME].installed else directory
    return found | {name: _find_file(beside / name, name) for name in PARTS}


def _together(files: dict[str, PluginFile]) -> PluginFile:
    """Return the state of the whole plugin: that of a foreign file if there is one, otherwise that of the main file.

    The main file is reported as outdated if one of its parts is not current.
    """
    foreign = next((file for file in files.values() if file.state is PluginState.FOREIGN), None)
    first = files[NAME]
    if foreign is not None or first.state is not PluginState.CURRENT:
        return foreign or first
    whole = all(file.state is PluginState.CURRENT for file in files.values())
    return first if whole else replace(first, state=PluginState.OUTDATED)


def _put(path: Path, content: bytes, *, anew: bool) -> None:
    """Write a file atomically. If `anew` is set, no existing file is replaced, not even one that was created while this
    function was running.

    Raises:
        FileExistsError: A file exists, and `anew` is set.
        OSError: The file cannot be written; nothing was changed.
    """
    # OpenCode loads every *.js and *.ts file in this directory, so the temporary name has another suffix.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            give(fd, path.parent, path)
            file.write(content)
            file.flush()
            os.fsync(fd)
        if anew:
            os.link(temporary, path)  # unlike a rename, a link never replaces a file
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _find_file(path: Path, name: str) -> PluginFile:
    """Return the state of one file. `name` is the name of the corresponding file in this package."""
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
    """Return the content of a file, following links as OpenCode does.

    Return None if the path does not exist, and empty bytes if it is not a regular file.

    Raises:
        PluginFault: Access is denied.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b"" if path.is_symlink() else None  # a dangling link is not ours
    except OSError as fault:
        if fault.errno in (errno.ENXIO, errno.ELOOP):
            return b""
        raise PluginFault(f"{path} cannot be read: {fault.strerror or fault}") from fault
    try:
        return os.read(fd, _CAP) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
