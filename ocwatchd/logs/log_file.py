"""Read the data appended to an open log file, and detect that the file was truncated or replaced.

While the file only grows, every byte is read exactly once. OpenCode 2 shortens its log in place when the log exceeds 50
MiB. Reading then continues after the last bytes that were read. If the file no longer contains these bytes, it is read
from its beginning, and only events newer than all those read before are reported.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ocwatchd.core.parsing.cursor import Cursor, digest
from ocwatchd.core.parsing.detect import Seen
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.core.parsing.recent import Barrier, Recent
from ocwatchd.core.parsing.record import first_time, last_time

CHUNK = 128 << 10
"""Number of bytes per read. Reads of 64 to 128 KiB were fastest: smaller reads need more calls, and larger reads exceed
the CPU caches.
"""

MAX_EVENTS = 256
"""Maximum number of events per `read`. Without this maximum, reading a burst of 100,000 limits took 20 s before the
first of them was written to the blacklist.
"""

FAR = 1 << 20
"""Number of unread bytes after a restart above which only failures are searched for, because the starts and ends of old
turns are not needed. The search takes about 0.6 s of CPU time per gigabyte; parsing all turns takes 13 to 80 s.
"""

HEAD = BEFORE = 1024
"""HEAD is the number of bytes at the beginning of a file by which copies are recognized. BEFORE is the number of bytes
before the cursor by which its position is recognized. 64 bytes would not be enough, because the last 64 bytes of two
refused attempts are the same.
"""

MIN_FOUND, MIN_VARIETY = 64, 12
"""Minimum length, in bytes, and minimum number of distinct byte values of data that is searched for in a shortened
file. Shorter or more uniform data could match anywhere in the file.
"""

SEARCHED = 1 << 20
"""Number of bytes per read when a shortened file is searched backward from its end."""

MAX_SEARCHED = 256 << 20
"""Maximum number of bytes that are searched. The search takes about 0.1 s for known bytes, and 2 s if only their digest
is known. OpenCode 2 keeps 25 MiB of its log.
"""

MAX_COPIES = 8
"""Maximum number of files in a truncated log's directory that are searched for the log's unread part."""

NewReading = Callable[[int, bool], Reading]
"""A function that creates a Reading. Its arguments are the offset, and whether the file is read from its beginning."""

Identity = tuple[int, int]
"""Device and inode, which identify a file."""


def identity(path: Path) -> Identity | None:
    """Return the identity of the regular file at a path, or None if there is no regular file.

    Raises:
        OSError: Access is denied.
    """
    try:
        seen = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (seen.st_dev, seen.st_ino) if stat.S_ISREG(seen.st_mode) else None


def files_of_inode(directory: Path, inode: int) -> list[Path]:
    """Return all paths in the directory with this inode, or an empty list if the directory cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.inode() == inode]
    except OSError:
        return []


def copies_of(path: Path) -> list[Path]:
    """Return the files in the same directory that may be copies of this log, newest first. At most `MAX_COPIES` files
    are returned.

    logrotate's copytruncate creates `opencode.log.1`, `opencode.log-20261122` or, with an extension, `opencode.1.log`.
    """
    try:
        with os.scandir(path.parent) as entries:
            named = [entry for entry in entries if entry.name.startswith(path.stem) and entry.name != path.name]
            found = [(entry.stat().st_mtime, entry.path) for entry in named if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    return [Path(name) for _, name in sorted(found, reverse=True)[:MAX_COPIES]]


def head_of(path: str) -> bytes:
    """Return the first HEAD bytes of a file, or empty bytes if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.pread(fd, HEAD, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


class OpenLog:
    """An open log with its descriptor, position and parser."""

    def __init__(self, path: Path, new_reading: NewReading, recent: Recent | None = None) -> None:
        """Open the file at `path`, to be read from its beginning.

        A symbolic link is followed, because OpenCode's log may be one. Opening a pipe does not block.

        `recent` describes the events of this log that were already reported, possibly from an earlier file.

        Raises:
            OSError: The file cannot be opened.
            IsADirectoryError: `path` is not a regular file.
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
        self.finished = False
        """Whether the file is a copy that OpenCode no longer writes to."""
        self.later = False
        """Whether this file is newer than the content of the current log. If so, the current log is read first."""
        self._new_reading = new_reading
        self._recent = recent.fork() if recent is not None else Recent()
        self._only_news = False
        self._barrier: Barrier | None = None
        self._head = b""
        self._begin(0, whole=True)

    def _begin(self, offset: int, *, whole: bool) -> None:
        self.reading = self._new_reading(offset, whole)
        self._at = offset
        self._catching_up: bool | None = False
        self._before = b""
        self._quiet_polls = 0

    # ---- start position

    def skip_to_end(self, look_back: int) -> None:
        """Begin reading at the first line that starts in the last `look_back` bytes. If `look_back` is 0, begin at the
        unfinished line at the end of the file.
        """
        start = max(self.size - look_back, 0)
        if start == self.size:
            self.skip_to(self.size)
        elif start:
            self._begin(self._line_start(start), whole=False)
            self._remember()

    def _line_start(self, start: int) -> int:
        """Return the offset of the first line that starts at or after `start`. If there is none, return the offset of
        the last line.
        """
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
        """Return the offset of the line that contains `start`, or `start` itself if that line begins more than 128 KiB
        earlier.
        """
        first = max(start - CHUNK, 0)
        cut = os.pread(self._fd, start - first, first).rfind(b"\n")
        return first + cut + 1 if cut >= 0 or first == 0 else start

    def skip_to(self, offset: int) -> None:
        """Begin reading at the line that was incomplete when the file contained `offset` bytes."""
        if 0 < offset <= self.size:
            self._begin(self._last_line_start(offset), whole=False)
            self._remember()

    def begin_behind(self, before: OpenLog, most: int) -> None:
        """Begin reading this file, which has replaced `before`. It may contain only new lines, or it may also contain
        lines of `before`.
        """
        self._before, self._recent = before._before, before._recent.fork()
        self.begin_anew(most, self._last_read())

    def begin_anew(self, most: int, place: int | None = None) -> None:
        """Begin reading at the offset `place`, but no more than `most` bytes before the end of the file. Skip events
        that were already reported. If `place` is None, `_behind_copy` determines the offset.
        """
        begin = self._behind_copy() if place is None else place
        if self.size - begin > most:
            self.skip_to_end(most)
        else:
            line = self._last_line_start(begin)
            self._begin(line, whole=line == 0)
            self._remember()
        self._catching_up = None
        self.only_news()

    def only_news(self) -> None:
        """From the next read on, skip events that were already reported from this log.

        The filter is created only by that read, because other files with the same lines may be read before it.
        """
        self._only_news = True

    def resume(self, cursor: Cursor, most: int, *, moved: bool = False) -> bool:
        """Resume at a saved cursor if this file contains the bytes that precede the cursor. Return whether it does.

        The file may be a copy of the cursor's own file. `moved`: whether the preceding bytes may be at another offset
        in this file. If more than `most` bytes are unread, only the last `most` bytes are read.
        """
        place = self._place_of(cursor, moved=moved)
        if place is None:
            return False
        if self.size - place > most:
            self.skip_to_end(most)
        else:
            self._begin(place, whole=place == 0)
            self._remember()
        self._catching_up = None  # the next read sets this according to the number of unread bytes
        return True

    def _place_of(self, cursor: Cursor, *, moved: bool) -> int | None:
        """Return the offset at which the bytes before the cursor end in this file, or None if the file does not contain
        these bytes.
        """
        size = cursor.before_size
        if (cursor.device, cursor.inode) != self.identity and size < MIN_FOUND:
            return None
        if cursor.offset <= self.size and self._digest_before(cursor.offset, size) == cursor.before:
            return cursor.offset
        if size < MIN_FOUND or not moved:
            return None
        for data, begin in self._backwards(size):
            cut = data.rfind(b"\n")
            while cut >= size - 1:
                if digest(data[cut + 1 - size : cut + 1]) == cursor.before:
                    return begin + cut + 1
                cut = data.rfind(b"\n", 0, cut)
        return None

    def _digest_before(self, offset: int, size: int) -> str:
        return digest(os.pread(self._fd, size, offset - size)) if size <= offset else ""

    def _backwards(self, overlap: int) -> Iterator[tuple[bytes, int]]:
        """Yield pieces of the file, each with its offset, from the end of the file backward. Adjacent pieces overlap by
        `overlap` bytes.
        """
        end, last = self.size, max(self.size - MAX_SEARCHED, 0)
        while end > last:
            begin = max(end - SEARCHED, last)
            yield os.pread(self._fd, end - begin + (overlap if end < self.size else 0), begin), begin
            end = begin

    def cursor(self) -> Cursor:
        """Return the cursor for resuming after a restart. It points to the start of the first unfinished line.

        The cursor describes the bytes that were read, even if the file was truncated and refilled afterward.
        """
        offset = self.reading.position
        kept = len(self._before) - (self._at - offset)
        if kept >= min(MIN_FOUND, offset):
            before = self._before[:kept]
        else:
            before = os.pread(self._fd, min(BEFORE, offset), offset - min(BEFORE, offset))
        place = (*self.identity, digest(self._head), len(self._head), digest(before), len(before), offset)
        return Cursor(*place, *self._recent.as_values())

    def adopt(self, before: OpenLog) -> None:
        """Take over the position and the parser of another OpenLog. Its file must be this file, or the file of which
        this one is a copy.
        """
        self.reading = before.reading
        self._catching_up, self._barrier, self._only_news = before._catching_up, before._barrier, before._only_news
        self._at, self._head, self._before = before._at, before._head, before._before
        self._recent = before._recent

    def knows(self, before: OpenLog) -> bool:
        """Return whether this is the file of `before` or a copy of it, that is, whether it contains the last bytes that
        `before` has read.
        """
        last, self._before = before._before, before._before
        here = os.pread(self._fd, len(last), before._at - len(last))
        same = self.identity == before.identity or _distinctive(last)
        return (same and here == last) or self._last_read() is not None

    @property
    def read_until(self) -> float:
        """The timestamp of the newest record read so far, in epoch seconds; minus infinity if it is unknown."""
        return self._recent.until

    def begins(self) -> float | None:
        """Return the time of the first record, in epoch seconds, or None if the first 128 KiB contain no timestamp.

        Raises:
            OSError: The file can no longer be read.
        """
        return first_time(os.pread(self._fd, CHUNK, 0))

    def begins_like(self, head: bytes) -> bool:
        """Return whether the first bytes of this file are `head`. Two files with the same first bytes are treated as
        copies.
        """
        return len(head) == HEAD and head == self._head

    # ---- reading new data

    def read(self, most: int, now: float, on_loss: Callable[[], bool] | None = None) -> tuple[list[Seen], bool]:
        """Return the events in the data appended since the last read, and whether the end of the file was reached.

        Reading stops after about `most` bytes or MAX_EVENTS events. `now` is in epoch seconds. If the file has changed
        and no longer contains the last bytes read, `on_loss` is called before the file is read from its beginning. If
        `on_loss` returns False, this call returns no events, and the next call reads the file.

        Raises:
            OSError: The file can no longer be read.
        """
        seen = os.fstat(self._fd)
        self.size, self.mtime, self.links = seen.st_size, seen.st_mtime, seen.st_nlink
        # This is checked in every poll, because a file refilled to its old size within a clock tick has the same size
        # and modification time as before.
        if not self._grew_only():
            self._head = b""
            if self._found_again():
                self.only_news()  # lines may be repeated while OpenCode 2 is shortening the file
            else:
                ready = on_loss is None or on_loss()
                self.begin_anew(MAX_SEARCHED)
                if not ready:
                    return [], False
        if self._only_news:
            self._only_news = False
            self._barrier = self._recent.barrier(now) if self._recent.known else None
        found: list[Seen] = []
        left = most
        while left > 0 and len(found) < MAX_EVENTS:
            chunk = os.pread(self._fd, CHUNK, self._at)
            if not chunk:
                found.extend(self._at_end(grew=left < most))
                return self._unreported(found), True
            if self._barrier is not None:
                self._barrier.begin(chunk)
            found.extend(self._pace())
            found.extend(self.reading.feed(chunk))
            self._at += len(chunk)
            self._before = (self._before + chunk[-BEFORE:])[-BEFORE:]
            left -= len(chunk)
        self._remember_head()
        self._note_time()
        return self._unreported(found), False

    def _unreported(self, found: list[Seen]) -> list[Seen]:
        """Return the events that were not reported before, and record them as reported."""
        news = []
        for seen in found:
            if self._barrier is not None:
                if not self._barrier.passes(seen):
                    continue
                if self._barrier.lifts(seen):
                    self._barrier = None
            self._recent.note(seen)
            news.append(seen)
        return news

    def _note_time(self) -> None:
        """Record the timestamp of the last record that was read."""
        time = last_time(self._before)
        if time is not None:
            self._recent.reached(time)

    def _pace(self) -> list[Seen]:
        """While more than FAR bytes are unread, only search for failures. After that, parse all lines. On the
        transition, return the events of the lines that the search had set aside.
        """
        far = self.size - self._at > FAR
        if far and self._catching_up is None:
            self.reading.catch_up()
        follows = [] if far or not self._catching_up else self.reading.follow()
        self._catching_up = far and self._catching_up is not False
        return follows

    def _at_end(self, *, grew: bool) -> list[Seen]:
        """If the file has stopped growing, return the events that were waiting for the rest of their record."""
        self._remember_head()
        if grew:
            self._note_time()
        self._quiet_polls = 0 if grew else self._quiet_polls + 1
        # A record is written with a single call, so a part that is still missing after two polls will never arrive.
        return self.reading.release() if self._quiet_polls >= 2 and self.reading.waiting else []

    def _grew_only(self) -> bool:
        """Return whether the last bytes read are still at the same offset.

        Earlier bytes may differ: while OpenCode 2 shortens its log, it overwrites the beginning with the last half.
        """
        if self.size < self._at:
            return False
        here = os.pread(self._fd, len(self._before), self._at - len(self._before))
        if here == self._before:
            return True
        left = _last_records(here, self._before)
        self._before = left or self._before
        return bool(left)

    def _found_again(self) -> bool:
        """Search a changed file for the last bytes read, and resume after them. Return whether they were found."""
        place = self._last_read()
        if place is None or place - self._at + self.reading.position < 0:
            return False
        self.reading.move(place - self._at)
        self._at, self._before = place, self._before[-place:]
        self._remember_head()
        return True

    def _last_read(self) -> int | None:
        """Find the last bytes read in the file, and return the offset after them. If the file begins with only the end
        of these bytes, return the offset after that part. Return None if neither is found.
        """
        last = self._before
        if not _distinctive(last):
            return None
        for data, begin in self._backwards(len(last)):
            at = data.rfind(last)
            if at >= 0:
                return begin + at + len(last)
        start = os.pread(self._fd, len(last) - 1, 0)  # the file may contain only the end of these bytes
        for size in range(len(start), MIN_FOUND - 1, -1):
            if last.endswith(start[:size]) and _distinctive(start[:size]):
                return size
        return None

    def _behind_copy(self) -> int:
        """Return the offset at which to begin reading a file that was never read before. It is 0 unless OpenCode 2 is
        shortening the file.

        OpenCode 2 shortens its log by copying the last half to the beginning and then truncating the file after the
        copy. Before the truncation, the file contains the same lines twice, and reading begins at the original lines.
        """
        head = os.pread(self._fd, HEAD, 0)
        if len(head) < HEAD or not _distinctive(head):
            return 0
        for data, begin in self._backwards(len(head)):
            at = data.rfind(head)
            if at >= 0:
                return begin + at
        return 0

    def _remember(self) -> None:
        """Store the bytes before the current position, and the first bytes of the file."""
        self._remember_head()
        size = min(BEFORE, self._at)
        self._before = os.pread(self._fd, size, self._at - size) if size else b""
        self._note_time()

    def _remember_head(self) -> None:
        if len(self._head) < min(HEAD, self._at):
            self._head = os.pread(self._fd, min(HEAD, self._at), 0)

    def close(self) -> None:
        """Close the file's descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _last_records(here: bytes, before: bytes) -> bytes:
    """Return the longest common suffix of the two texts that starts at the beginning of a line and contains a
    timestamp. Return b"" if there is none.
    """
    pairs = zip(reversed(here), reversed(before), strict=False)
    size = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), len(here))
    begin = before.find(b"\n", len(before) - size) + 1
    return before[begin:] if begin and last_time(before[begin:]) is not None else b""


def _distinctive(data: bytes) -> bool:
    """Return whether these bytes are unlikely to occur more than once in a log."""
    return len(data) >= MIN_FOUND and len(set(data)) >= MIN_VARIETY
