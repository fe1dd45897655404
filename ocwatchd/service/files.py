"""Write and remove our files in a service manager's directory, and leave other files unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ocwatchd.service.values import FileState, ServiceFault
from ocwatchd.state.files import StateError, make_private_dir, read_plain, write_atomic

LOG_CAP = 4 << 20
"""Maximum size, in bytes, of a log file when the service starts. A larger file is renamed to `.1`."""


def standing(path: Path, ours: Callable[[bytes], bool], current: Callable[[bytes], bool]) -> FileState:
    """Return the state of the file at `path`. A symbolic link counts as foreign, because it belongs to another tool."""
    if path.is_symlink():
        return FileState.FOREIGN
    try:
        content = read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return FileState.ABSENT
    except (OSError, StateError):
        return FileState.FOREIGN
    if not ours(content):
        return FileState.FOREIGN
    return FileState.CURRENT if current(content) else FileState.OUTDATED


def put(path: Path, content: bytes) -> bool:
    """Write the content unless the file already contains it. Return whether the file was changed.

    Raises:
        ServiceFault: The file cannot be written.
    """
    try:
        with suppress(FileNotFoundError, StateError):  # anything that is not a regular file of ours is replaced
            if read_plain(path) == content:
                return False
        write_atomic(path, content)
    except OSError as fault:
        raise ServiceFault(f"{path} cannot be written: {fault.strerror or fault}") from fault
    return True


def remove(files: Sequence[Path], directories: Sequence[Path]) -> list[Path]:
    """Remove these files, and then those of the given directories that are empty. Return the removed files.

    Raises:
        ServiceFault: A file cannot be removed.
    """
    gone = []
    for path in files:
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as fault:
            raise ServiceFault(f"{path} cannot be removed: {fault.strerror or fault}") from fault
        gone.append(path)
    for directory in directories if gone else ():
        with suppress(OSError):  # the directory is missing or not empty
            directory.rmdir()
    return gone


def ready_log(path: Path) -> None:
    """Create the directory of the log, and rename a log that is too large. Errors are ignored, so that the service can
    start.
    """
    with suppress(OSError, StateError):
        make_private_dir(path.parent)
        if path.stat().st_size > LOG_CAP:
            path.replace(path.with_name(path.name + ".1"))
