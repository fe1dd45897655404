"""Read what is appended to an open log file, and detect that the file was truncated or replaced.

As long as the file only grows, every byte is read exactly once. If it is shortened in place, as OpenCode 2 does above
50 MiB, reading continues after the last bytes that were read. If these are gone, the file is read from its beginning,
and only events that are newer than everything read before are reported.
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
"""Bytes per read. Smaller reads cost calls, larger ones miss the CPU caches; 64 - 128 KiB were fastest."""

MAX_EVENTS = 256
"""Maximum number of events per `read`. Without it, a storm of 100,000 limits was read for 20 s before the first of them
reached the blacklist.
"""

FAR = 1 << 20
"""Number of unread bytes above which, after a restart, only failures are searched for: this takes about 0.6 CPU s per
gigabyte, while parsing all turns takes 13 to 80. The starts and ends of old turns are not needed.
"""

HEAD = BEFORE = 1024
"""Number of bytes that identify content: the first bytes of a file (to recognise a copy), and those before the cursor.
64 bytes would be too few, because the last 64 bytes of two refused attempts are the same.
"""

MIN_FOUND, MIN_VARIETY = 64, 12
"""Minimum number of bytes, and of distinct bytes, to search for in a shortened file. Fewer may occur anywhere in it."""

SEARCHED = 1 << 20
"""Bytes per read of the search in a shortened file, which goes backwards from its end."""

MAX_SEARCHED = 256 << 20
"""Maximum number of bytes searched: about 0.1 s for bytes, 2 s for digests. OpenCode 2 keeps 25 MiB of its log."""

MAX_COPIES = 8
"""Maximum number of files beside a truncated log that may contain its unread part."""

NewReading = Callable[[int, bool], Reading]
"""Creates a Reading from an offset and whether the file is read from its beginning."""

Identity = tuple[int, int]
"""Device and inode."""


def identity(path: Path) -> Identity | None:
    """Return the identity of the regular file at a path; None if there is no regular file.

    Raises:
        OSError: Access is denied.
    """
    try:
        seen = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (seen.st_dev, seen.st_ino) if stat.S_ISREG(seen.st_mode) else None


def files_of_inode(directory: Path, inode: int) -> list[Path]:
    """Return all paths of a file in the directory; empty if the directory cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.inode() == inode]
    except OSError:
        return []


def copies_of(path: Path) -> list[Path]:
    """Return files in the same directory that may be copies of this log, newest first, at most `MAX_COPIES`.

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
    """Return the first HEAD bytes of a file; empty if it cannot be read."""
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
        """Open `path` at its beginning.

        A symlink is followed, because OpenCode's log may be one. Never blocks on a pipe.

        `recent` describes what was already reported from this log, possibly from another file.

        Raises:
            OSError: The file cannot be opened.
            IsADirectoryError: It is not a regular file.
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
        """Whether the file is a copy that is no longer written."""
        self.later = False
        """Whether the file is newer than the content of the current log, so that it is read after that."""
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

    # ---- where to begin

    def skip_to_end(self, look_back: int) -> None:
        """Begin at the first line in the last `look_back` bytes; with 0, at the unfinished line at the end."""
        start = max(self.size - look_back, 0)
        if start == self.size:
            self.skip_to(self.size)
        elif start:
            self._begin(self._line_start(start), whole=False)
            self._remember()

    def _line_start(self, start: int) -> int:
        """Return the start of the first line from `start` on, or of the last line if none starts there."""
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
        """Return the start of the line that contains `start`; `start` itself if that is more than 128 KiB away."""
        first = max(start - CHUNK, 0)
        cut = os.pread(self._fd, start - first, first).rfind(b"\n")
        return first + cut + 1 if cut >= 0 or first == 0 else start

    def skip_to(self, offset: int) -> None:
        """Begin at the start of the line that was unfinished when the file had this size."""
        if 0 < offset <= self.size:
            self._begin(self._last_line_start(offset), whole=False)
            self._remember()

    def begin_behind(self, before: OpenLog, most: int) -> None:
        """Begin to read a file that has replaced `before`. It may be new, or contain some lines of `before`."""
        self._before, self._recent = before._before, before._recent.fork()
        self.begin_anew(most, self._last_read())

    def begin_anew(self, most: int, place: int | None = None) -> None:
        """Begin at `place`, but at most `most` bytes before the end, and skip events that were already reported."""
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
        """Skip events that were reported from this log before the file is read next.

        The filter is made then, because other files that contain the same lines may be read first.
        """
        self._only_news = True

    def resume(self, cursor: Cursor, most: int, *, moved: bool = False) -> bool:
        """Resume at a saved cursor, if the bytes before it are in this file; return whether they are.

        The file may be another one, such as a copy. With `moved`, the bytes may be at another offset. If more than
        `most` bytes follow, only the last `most` are read.
        """
        place = self._place_of(cursor, moved=moved)
        if place is None:
            return False
        if self.size - place > most:
            self.skip_to_end(most)
        else:
            self._begin(place, whole=place == 0)
            self._remember()
        self._catching_up = None  # decided at the next read, by the number of unread bytes
        return True

    def _place_of(self, cursor: Cursor, *, moved: bool) -> int | None:
        """Return the offset of a cursor in this file; None if the file does not contain the bytes before it."""
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
        """Yield pieces of the file with their offsets, from the end backwards. Pieces overlap by `overlap` bytes."""
        end, last = self.size, max(self.size - MAX_SEARCHED, 0)
        while end > last:
            begin = max(end - SEARCHED, last)
            yield os.pread(self._fd, end - begin + (overlap if end < self.size else 0), begin), begin
            end = begin

    def cursor(self) -> Cursor:
        """Return the cursor at which to resume after a restart: before the first unfinished line.

        It describes the bytes that were read, not the present file, which may have been truncated and refilled since.
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
        """Take over position and parser of another OpenLog of this file, or of the file that this is a copy of."""
        self.reading = before.reading
        self._catching_up, self._barrier, self._only_news = before._catching_up, before._barrier, before._only_news
        self._at, self._head, self._before = before._at, before._head, before._before
        self._recent = before._recent

    def knows(self, before: OpenLog) -> bool:
        """Return whether this is the file of `before`, or a copy: it contains the bytes that were last read there."""
        last, self._before = before._before, before._before
        here = os.pread(self._fd, len(last), before._at - len(last))
        same = self.identity == before.identity or _distinctive(last)
        return (same and here == last) or self._last_read() is not None

    @property
    def read_until(self) -> float:
        """Time of the newest record that was read, in epoch seconds; minus infinity if it is unknown."""
        return self._recent.until

    def begins(self) -> float | None:
        """Return the time of the first record, in epoch seconds; None if not within the first 128 KiB.

        Raises:
            OSError: The file cannot be read any more.
        """
        return first_time(os.pread(self._fd, CHUNK, 0))

    def begins_like(self, head: bytes) -> bool:
        """Return whether a file that begins with `head` begins like this one, and so is a copy."""
        return len(head) == HEAD and head == self._head

    # ---- reading on

    def read(self, most: int, now: float, on_loss: Callable[[], bool] | None = None) -> tuple[list[Seen], bool]:
        """Return the events in what was appended since the last read, and whether the end was reached.

        Stops after about `most` bytes or MAX_EVENTS events. `now` is epoch seconds. `on_loss` is called if the file has
        changed and no longer contains the last bytes read, before it is read from its beginning.
        If it returns False, reading begins only with the next call.

        Raises:
            OSError: The file cannot be read any more.
        """
        seen = os.fstat(self._fd)
        self.size, self.mtime, self.links = seen.st_size, seen.st_mtime, seen.st_nlink
        # Checked in every poll: a file refilled to the same size within a clock tick has the same size and time.
        if not self._grew_only():
            self._head = b""
            if self._found_again():
                self.only_news()  # the program that shortens the file may not have finished
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
        """Return the events that were not reported before, and remember them as reported."""
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
        """Record the time of the last record that was read."""
        time = last_time(self._before)
        if time is not None:
            self._recent.reached(time)

    def _pace(self) -> list[Seen]:
        """Search only for failures while the end is more than FAR away, then parse everything."""
        far = self.size - self._at > FAR
        if far and self._catching_up is None:
            self.reading.catch_up()
        follows = [] if far or not self._catching_up else self.reading.follow()
        self._catching_up = far and self._catching_up is not False
        return follows

    def _at_end(self, *, grew: bool) -> list[Seen]:
        """Return events that waited for a further part of their record, if the file has stopped growing."""
        self._remember_head()
        if grew:
            self._note_time()
        self._quiet_polls = 0 if grew else self._quiet_polls + 1
        # A record is written in one piece, so a part that is missing in two polls will not come any more.
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
        """Search a changed file for the last bytes read, and resume after them; return whether they were found."""
        place = self._last_read()
        if place is None or place - self._at + self.reading.position < 0:
            return False
        self.reading.move(place - self._at)
        self._at, self._before = place, self._before[-place:]
        self._remember_head()
        return True

    def _last_read(self) -> int | None:
        """Return the offset after the last bytes read, or after their end; None if they are not in the file."""
        last = self._before
        if not _distinctive(last):
            return None
        for data, begin in self._backwards(len(last)):
            at = data.rfind(last)
            if at >= 0:
                return begin + at + len(last)
        start = os.pread(self._fd, len(last) - 1, 0)  # only the end of these bytes may be left
        for size in range(len(start), MIN_FOUND - 1, -1):
            if last.endswith(start[:size]) and _distinctive(start[:size]):
                return size
        return None

    def _behind_copy(self) -> int:
        """Return where to begin in an unknown file: at 0, or at the original of a copy that is in progress.

        OpenCode 2 shortens its log by copying the last half to the beginning and then truncating the file after the
        copy. Until then, the file contains the same lines twice.
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
        """Record the bytes before the position, and those at the beginning."""
        self._remember_head()
        size = min(BEFORE, self._at)
        self._before = os.pread(self._fd, size, self._at - size) if size else b""
        self._note_time()

    def _remember_head(self) -> None:
        if len(self._head) < min(HEAD, self._at):
            self._head = os.pread(self._fd, min(HEAD, self._at), 0)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _last_records(here: bytes, before: bytes) -> bytes:
    """Return the longest common end of both that begins with a record and its time; empty if there is none."""
    pairs = zip(reversed(here), reversed(before), strict=False)
    size = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), len(here))
    begin = before.find(b"\n", len(before) - size) + 1
    return before[begin:] if begin and last_time(before[begin:]) is not None else b""


def _distinctive(data: bytes) -> bool:
    """Return whether these bytes are unlikely to occur twice in a log."""
    return len(data) >= MIN_FOUND and len(set(data)) >= MIN_VARIETY
