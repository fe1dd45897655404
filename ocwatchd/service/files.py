"""The service's files in a manager's directory: ours are written whole and removed without a trace, others are left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ocwatchd.service.values import FileState, ServiceFault
from ocwatchd.state.files import StateError, make_private_dir, read_plain, write_atomic

LOG_CAP = 4 << 20
"""Bytes of a log file that is still appended to; a larger one becomes `.1` at the next start."""


def standing(path: Path, ours: Callable[[bytes], bool], current: Callable[[bytes], bool]) -> FileState:
    """What lies at `path`. A link is somebody's: whoever keeps units as links has a tool that makes them."""
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
    """Write it, unless it is there already; whether anything was changed.

    Raises:
        ServiceFault: it cannot be written.
    """
    try:
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return False
        write_atomic(path, content)
    except OSError as fault:
        raise ServiceFault(f"{path} cannot be written: {fault.strerror or fault}") from fault
    return True


def remove(files: Sequence[Path], directories: Sequence[Path]) -> list[Path]:
    """Remove the files that are there, then the directories that are empty by that; the files that are gone.

    Raises:
        ServiceFault: one cannot be removed.
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
        with suppress(OSError):  # not empty, or not there
            directory.rmdir()
    return gone


def ready_log(path: Path) -> None:
    """Make the log's directory, and set an old large log aside. Neither is a reason not to start."""
    with suppress(OSError):
        make_private_dir(path.parent)
        if path.stat().st_size > LOG_CAP:
            path.replace(path.with_name(path.name + ".1"))
