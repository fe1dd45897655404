"""Reading a state file safely. Apart from `files` because quick commands need no more, and pathlib costs 5 CPU ms."""

from __future__ import annotations

import errno
import os
import stat

from ocwatchd.errors import OcwatchError

READ_CAP = 8 << 20
"""Bytes of a state file that are ever read. Ours are a few kB; more is not ours, or hostile."""


class StateError(OcwatchError):
    """A state file cannot be read or written; the message names the file and the cause."""


class NotAFile(StateError):
    """Something else than a plain file lies there: a symlink, a directory, a pipe, or far too much."""


def read_plain(path: str | os.PathLike[str], cap: int = READ_CAP) -> bytes:
    """The content of a plain file; never follows a symlink, never waits on a pipe.

    Raises:
        FileNotFoundError: there is none.
        NotAFile: it is no plain file, or longer than `cap` bytes.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a symlink; Linux, BSD; a socket
            raise NotAFile(f"{path} is a symbolic link or a socket, not a plain file") from None
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise NotAFile(f"{path} is not a plain file")
        if info.st_size > cap:
            raise NotAFile(f"{path} has {info.st_size} bytes, more than the {cap} that are ever read")
        return _read_all(fd, cap)
    finally:
        os.close(fd)


def _read_all(fd: int, cap: int) -> bytes:
    """A regular file may hand out less than asked for."""
    parts: list[bytes] = []
    while cap > 0 and (part := os.read(fd, min(cap, 1 << 20))):
        parts.append(part)
        cap -= len(part)
    return b"".join(parts)


def write_unsynced(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file, atomically but without fsync: for what is worthless after a power cut.

    Raises:
        OSError: it could not be written.
    """
    directory, name = os.path.split(os.fspath(path))
    temporary = f"{directory}/.{name}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(temporary, path)  # noqa: PTH105 - pathlib would cost 5 CPU ms
