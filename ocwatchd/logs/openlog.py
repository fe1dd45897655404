"""One open log file: reads what was appended, and notices when it is no longer the file that it was.

Every byte is read exactly once as long as the file only grows. A file that was truncated, or truncated and refilled
beyond the old size between two looks, is read again from its beginning.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ocwatchd.core.cursor import Cursor
from ocwatchd.core.detect import Seen
from ocwatchd.core.reading import Reading

try:
    from _blake2 import blake2b  # what hashlib.blake2b is; hashlib itself loads OpenSSL, 3.6 MiB of an idle daemon
except ImportError:  # a Python that is built otherwise
    from hashlib import blake2b

CHUNK = 128 << 10
"""Bytes per read: smaller costs calls, larger misses the caches (64-128 KiB measured best)."""

FOUND_MOST = 256
"""What is told in one go: a storm of 100,000 limits was read for 20 s before the first of them reached the register."""

FAR = 1 << 20
"""Bytes behind the end beyond which, after a restart, only failures are looked for: some 0.6 CPU s a gigabyte, where
all that tells of turns takes 13 to 80. Nobody asks any more how sessions came and went then."""

HEAD = BEFORE = 1024
"""Bytes by which a file is known again: its first ones (a log begins with the time), and those before the cursor. Fewer
would not tell two refusals apart, whose last 64 bytes are the same."""

NewReading = Callable[[int, bool], Reading]
"""Makes a Reading for (offset, whole)."""

Identity = tuple[int, int]
"""Device and inode."""


def identity(path: Path) -> Identity | None:
    """Which regular file the path leads to now; None if there is none, or something else than a file.

    Raises:
        OSError: it cannot be told (permission).
    """
    try:
        seen = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (seen.st_dev, seen.st_ino) if stat.S_ISREG(seen.st_mode) else None


def files_of_inode(directory: Path, inode: int) -> list[Path]:
    """The names under which a file is in the directory, whatever they are; empty if that cannot be told."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.inode() == inode]
    except OSError:
        return []


class OpenLog:
    """A file descriptor, how far it was read, and what the bytes meant so far."""

    def __init__(self, path: Path, new_reading: NewReading) -> None:
        """Open `path`, at its beginning. Symlinks are followed: OpenCode's log may be one. Never blocks on a pipe.

        Raises:
            OSError: it cannot be opened.
            IsADirectoryError: it is no regular file.
        """
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        seen = os.fstat(self._fd)
        if not stat.S_ISREG(seen.st_mode):
            os.close(self._fd)
            raise IsADirectoryError(f"not a regular file: {path}")
        self.identity: Identity = (seen.st_dev, seen.st_ino)
        self.size = seen.st_size
        self.mtime = seen.st_mtime
        self.links = seen.st_nlink
        self._new_reading = new_reading
        self._begin(0, whole=True)

    def _begin(self, offset: int, *, whole: bool) -> None:
        self.reading = self._new_reading(offset, whole)
        self._at = offset
        self._catching_up: bool | None = False
        self._head = b""
        self._before = b""
        self._quiet_looks = 0

    # ---- where to begin

    def skip_to_end(self, look_back: int) -> None:
        """Begin at the last `look_back` bytes, at the start of a line (0: at the very end, at the unfinished line)."""
        start = max(self.size - look_back, 0)
        if start == self.size:
            self.skip_to(self.size)
        elif start:
            self._begin(self._line_start(start), whole=False)
            self._remember()

    def _line_start(self, start: int) -> int:
        """The first start of a line at or behind `start`; the end of the file if no line begins there."""
        at = start - 1
        while at < self.size:
            data = os.pread(self._fd, CHUNK, at)
            if not data:
                break
            cut = data.find(b"\n")
            if cut >= 0:
                return at + cut + 1
            at += len(data)
        return self._last_line_start(start)

    def _last_line_start(self, start: int) -> int:
        """Where the unfinished last line begins, looked for a bounded way back."""
        data = os.pread(self._fd, CHUNK, max(start - CHUNK, 0))[: min(CHUNK, start)]
        cut = data.rfind(b"\n")
        return max(start - CHUNK, 0) + cut + 1 if cut >= 0 else start

    def skip_to(self, offset: int) -> None:
        """Begin at the line that was unfinished when the file had this size."""
        if 0 < offset <= self.size:
            self._begin(self._last_line_start(offset), whole=False)
            self._remember()

    def resume(self, cursor: Cursor, most: int) -> bool:
        """Go on at a saved cursor, if this is its file; at most `most` bytes behind the end. Tells whether it did."""
        if (cursor.device, cursor.inode) != self.identity or cursor.offset > self.size:
            return False
        head = os.pread(self._fd, cursor.head_size, 0)
        before = os.pread(self._fd, cursor.before_size, max(cursor.offset - cursor.before_size, 0))
        if _digest(head) != cursor.head or _digest(before) != cursor.before:
            return False
        if self.size - cursor.offset > most:
            self.skip_to_end(most)
            self._catching_up = None
            return True
        self._begin(cursor.offset, whole=cursor.offset == 0)
        self._catching_up = None  # that is seen when it is read
        self._remember()
        return True

    def cursor(self) -> Cursor:
        """Where to go on after a restart: before the first line that is not finished."""
        offset = self.reading.position
        head, before = os.pread(self._fd, min(HEAD, offset), 0), b""
        if offset:
            before = os.pread(self._fd, min(BEFORE, offset), offset - min(BEFORE, offset))
        return Cursor(*self.identity, _digest(head), len(head), _digest(before), len(before), offset)

    def adopt(self, before: OpenLog) -> None:
        """Go on with what another descriptor of the same file had found out, from where that one stood."""
        self.reading = before.reading
        self._catching_up = before._catching_up
        self._at, self._head, self._before = before._at, before._head, before._before

    # ---- reading on

    def read(self, most: int) -> tuple[list[Seen], bool]:
        """What was appended since, at most about `most` bytes or FOUND_MOST news, and whether the end was reached.

        Raises:
            OSError: the file cannot be read any more.
        """
        seen = os.fstat(self._fd)
        self.size, self.mtime, self.links = seen.st_size, seen.st_mtime, seen.st_nlink
        # At every look: refilled to the same size within a tick of the file system's clock, neither size nor time tell.
        if not self._grew_only():
            self._begin(0, whole=True)
        found: list[Seen] = []
        left = most
        while left > 0 and len(found) < FOUND_MOST:
            chunk = os.pread(self._fd, CHUNK, self._at)
            if not chunk:
                found.extend(self._at_end(grew=left < most))
                return found, True
            found.extend(self._pace())
            found.extend(self.reading.feed(chunk))
            self._at += len(chunk)
            self._before = (self._before + chunk[-BEFORE:])[-BEFORE:]
            left -= len(chunk)
        self._remember_head()
        return found, False

    def _pace(self) -> list[Seen]:
        """Catch up as long as the end is far away; then follow, for good."""
        far = self.size - self._at > FAR
        if far and self._catching_up is None:
            self.reading.catch_up()
        follows = [] if far or not self._catching_up else self.reading.follow()
        self._catching_up = far and self._catching_up is not False
        return follows

    def _at_end(self, *, grew: bool) -> list[Seen]:
        self._remember_head()
        self._quiet_looks = 0 if grew else self._quiet_looks + 1
        # A record is written in one go: what is not there at the second look will not come.
        return self.reading.release() if self._quiet_looks >= 2 and self.reading.waiting else []

    def _grew_only(self) -> bool:
        if self.size < self._at:
            return False
        if os.pread(self._fd, len(self._head), 0) != self._head:
            return False
        return os.pread(self._fd, len(self._before), self._at - len(self._before)) == self._before

    def _remember(self) -> None:
        self._remember_head()
        size = min(BEFORE, self._at)
        self._before = os.pread(self._fd, size, self._at - size) if size else b""

    def _remember_head(self) -> None:
        if len(self._head) < min(HEAD, self._at):
            self._head = os.pread(self._fd, min(HEAD, self._at), 0)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
