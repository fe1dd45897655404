"""Read and replace state files safely. Commands that must start fast import only this module, because it does not
import pathlib, which takes 5 ms of CPU time.
"""

from __future__ import annotations

import errno
import json
import os

from ocwatchd.errors import NotAFile, StateError
from ocwatchd.ownership import check_directory, give, open_plain

__all__ = ["READ_CAP", "NotAFile", "StateError", "last_lines", "read_plain", "replace_unsynced", "write_unsynced"]

READ_CAP = 8 << 20
"""Maximum size, in bytes, of a state file that is read. ocwatchd's own files are a few kB in size, so a larger file was
written by another program or is hostile.
"""


def read_plain(path: str | os.PathLike[str], cap: int = READ_CAP) -> bytes:
    """Return the content of a plain file of this user. Symbolic links are not followed, and opening a pipe does not
    block.

    Raises:
        FileNotFoundError: The file does not exist.
        NotAFile: The path is not a plain file, belongs to another user, or is larger than `cap` bytes.
        OSError: The file cannot be read.
    """
    fd = open_plain(path)
    try:
        size = os.fstat(fd).st_size
        if size > cap:
            raise NotAFile(f"{path} has {size} bytes, more than the maximum of {cap}")
        return _read_all(fd, cap)
    finally:
        os.close(fd)


TAIL = 64 << 10
"""Maximum number of bytes that `last_lines` reads: about a hundred lines of the journal."""


def last_lines(path: str | os.PathLike[str], tail: int = TAIL) -> list[dict[str, object]]:
    """Return the JSON objects in the last `tail` bytes of a file with one object per line, such as the journal. An
    incomplete first line is skipped. Never raises.

    Completion calls this function whenever Tab is pressed, and `watch` calls it every second.
    """
    try:
        with open(open_plain(path), "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - tail, 0))
            lines = file.read(tail).splitlines()
    except (OSError, NotAFile):
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [entry for entry in found if isinstance(entry, dict)]


def _read_all(fd: int, cap: int) -> bytes:
    """Read up to `cap` bytes in parts, because one read may return fewer bytes than requested."""
    parts: list[bytes] = []
    while cap > 0 and (part := os.read(fd, min(cap, 1 << 20))):
        parts.append(part)
        cap -= len(part)
    return b"".join(parts)


def write_unsynced(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file in ocwatchd's state directory atomically but without fsync, for content that is worthless after a
    power failure.

    Raises:
        OSError: The file could not be written, or the directory does not belong to this user.
    """
    try:
        check_directory(os.path.dirname(os.fspath(path)))
    except StateError as fault:
        raise PermissionError(errno.EACCES, str(fault)) from None
    replace_unsynced(path, data)


def replace_unsynced(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file in any directory atomically but without fsync.

    Raises:
        OSError: The file could not be written.
    """
    directory, name = os.path.split(os.fspath(path))
    temporary = f"{directory}/.{name}.{os.urandom(4).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            give(fd, directory, path)
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
