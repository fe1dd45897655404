"""Tests of the real LogTail on real files with a model: each refused attempt is reported once and in order.

Long because the model, its operations and their checks are one machine.

The model knows which file is where, and what a reader can still read. It does not expect lines that were truncated or
deleted before a poll, nor lines in files that no process held when they left the directory. A file whose content was
replaced, or that replaces another, may contain lines from before: of those, only lines later than all lines read count.
Every line is ten seconds later than the one before.
`python -m scripts.mutate_tail` breaks the tail in 41 ways and reports those that no test notices.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ocwatchd.core.parsing.cursor import Cursor, digest
from ocwatchd.core.parsing.record import first_time, last_time
from ocwatchd.logs.log_file import BEFORE, HEAD, MAX_COPIES, MIN_FOUND, MIN_VARIETY
from ocwatchd.logs.tail import REPLACED_KEPT, LogTail, Window
from tests.integration.logtext import NOW, refusal, refused, stamp
from tests.integration.test_tail import new_reading
from tests.support.privileges import mortal

GAP = 10.0
"""Seconds between two lines: more than processes that share a log may write late."""

TIMED = len("timestamp=2026-11-22T12:00:00")
"""Bytes of a line that contain its time."""

NOISE = (
    lambda number: f"timestamp={stamp(when(number))} level=INFO run=0 message=loading path=/429/{number}\n".encode(),
    lambda number: b"\x00\x00\xff\xfe\x80" + str(number).encode() + b"\n",
    lambda number: f"{number} ".encode() + b'"error" level=ERROR ' * 60 + b"\r\n",
    lambda number: b"\n",
)


def when(number: int) -> float:
    return NOW + (number - 10_000) * GAP


def line_of(number: int) -> bytes:
    """Return a refused attempt with its own time, which contains a character of two bytes."""
    return refusal(number, when(number)).replace(b"Too Many", "Too Many Ω".encode())


def numbers_in(data: bytes) -> list[int]:
    """Return the complete refused attempts in these bytes."""
    whole = data[: data.rfind(b"\n") + 1]
    return [int(number) for number in re.findall(rb"timestamp=[^\n]* session\.id=ses_(\d+) [^\n]*\n", whole)]


class Numbers:
    """The times of lines, in the order in which they are written."""

    last = 10_000

    def __next__(self) -> int:
        self.last += 1
        return self.last


class File:
    """One file under any name: the writer keeps it open and continues to write wherever it was moved to."""

    def __init__(self, path: Path, *, link_to: Path | None = None, content: bytes = b"") -> None:
        self.name: Path | None = link_to or path
        self.fd = os.open(self.name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(self.fd, content)
        self.lines = numbers_in(content)
        """Return the complete refused attempts in the file."""
        self.torn: tuple[bytes, int, bool] | None = None
        """The rest of an unfinished line, its number, and whether the written part contains its time."""
        self.lives = 0
        """How often the file was truncated."""
        self.forget()

    def forget(self) -> None:
        """Whether the next reader begins anew."""
        self.told: set[int] = set()
        """The refused attempts that a continuous reader has reported, or need not report."""
        self.until = 0
        """The newest line that was read in this file, and in the files that it replaced."""
        self.read_life, self.read_to, self.last = self.lives, 0, b""
        """What was read last: in which run, up to which offset, and the last bytes."""

    def content(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0) if self.fd >= 0 else b""

    def finish(self) -> None:
        if self.torn is not None:
            (rest, number, _), self.torn = self.torn, None
            os.write(self.fd, rest)
            self.lines.append(number)

    def close(self) -> None:
        """Close the writer."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def truncate(self) -> None:
        os.ftruncate(self.fd, 0)
        self.lines, self.torn = [], None
        self.lives += 1

    def new(self, beside: Copies) -> list[int]:
        """Return what a reader that has the file open reports, including all copies that were made of logs."""
        fresh = self.rest_of_copy(beside) if self.read_life != self.lives else []
        fresh += [number for number in self.lines if number not in self.told]
        self.told.update(fresh)
        self.until = max([self.until, *fresh, *([self.torn[1]] if self.torn and self.torn[2] else [])])
        if self.fd >= 0:
            content = self.content()
            kept = self.kept_of_last(content) if self.read_life == self.lives else None
            self.last = content[-BEFORE:] if kept is None else (kept + content[self.read_to :])[-BEFORE:]
            self.read_to = len(content)
        self.read_life = self.lives
        return fresh

    def kept_of_last(self, content: bytes) -> bytes | None:
        """Return the last lines read that are still in their place; None if there are none, or the file is shorter."""
        here = content[max(self.read_to - len(self.last), 0) : self.read_to]
        if len(content) < self.read_to or here == self.last:
            return None if len(content) < self.read_to else self.last
        lines = self.last.splitlines(keepends=True)
        ends = (b"".join(lines[number:]) for number in range(1, len(lines)))
        return next((end for end in ends if here.endswith(b"\n" + end) and last_time(end) is not None), None)

    def rest_of_copy(self, beside: Copies) -> list[int]:
        """Return the unreported refused attempts in the newest copy with the last line read, and in later copies."""
        path, lines = newest(beside, self.holds)
        fresh = [number for number in lines if number not in self.told]
        return fresh + later(beside, path, self.until) if path else []

    def takes_over(self, until: int, told: set[int]) -> None:
        """Replace a file that was read so far: its lines in this file are not reported again."""
        self.forget()
        self.until = until
        lines = [*self.lines, *([self.torn[1]] if self.torn else [])]
        self.told = told | {number for number in lines if number < until}

    def can_be_found_in(self, directory: Path) -> bool:
        return self.name is not None and self.name.parent == directory and not self.forbidden()

    def is_known(self) -> bool:
        """Return whether the file is recognised by the last bytes read from it."""
        content = self.content()
        return content[self.read_to - len(self.last) : self.read_to] == self.last or self.holds(content)

    def holds(self, content: bytes) -> bool:
        """Return whether the last bytes read occur anywhere in this content."""
        last = self.last
        begins = any(last.endswith(content[:size]) for size in range(MIN_FOUND, min(len(content), len(last)) + 1))
        return telling(last) and (last in content or begins)

    def forbidden(self) -> bool:
        return self.name is not None and not self.name.stat().st_mode & 0o400


def telling(last: bytes) -> bool:
    return len(last) >= MIN_FOUND and len(set(last)) >= MIN_VARIETY


Copies = list[tuple[Path, list[int]]]
"""Copies of logs that were then truncated, with their refused attempts."""


def later(copies: Copies, known: Path, until: int) -> list[int]:
    """Return the refused attempts in copies, except a `known` one, that begin after the newest line that was read."""
    others = [(path, lines) for path, lines in copies if until and path != known and path.exists()]
    begins = [first_time(path.read_bytes()[:HEAD]) for path, _ in others]
    found = [lines for (_, lines), begin in zip(others, begins, strict=True) if begin and begin > when(until)]
    return list(chain.from_iterable(found))


def newest(copies: Copies, fits: Callable[[bytes], bool]) -> tuple[Path | None, list[int]]:
    """Return the copy made last among those whose content matches, with its refused attempts."""
    return next(
        ((path, lines) for path, lines in reversed(copies) if path.exists() and fits(path.read_bytes())), (None, [])
    )


class Place:
    """A saved cursor, and the events that had been reported from its file by then."""

    def __init__(self, cursor: Cursor | None, file: File | None, reported: set[int]) -> None:
        self.cursor = Cursor.from_json(cursor.as_json()) if cursor else None
        self.file = file
        self.reported = set(reported)
        self.life, self.told, self.until = (file.read_life, set(file.told), file.until) if file else (0, set[int](), 0)
        if file is not None and file.torn is not None:
            self.told.discard(file.torn[1])  # read again from its beginning

    def fits(self, content: bytes) -> bool:
        """Return whether the content before the cursor is in this file; a cursor at 0 matches any file."""
        assert self.cursor is not None
        size, at = self.cursor.before_size, self.cursor.offset
        if size < MIN_FOUND:
            return at <= len(content) and digest(content[at - size : at]) == self.cursor.before
        places = [end + 1 for end, byte in enumerate(content) if byte == 10 and end + 1 >= size]
        return any(digest(content[end - size : end]) == self.cursor.before for end in places)


class TailMachine(RuleBasedStateMachine):
    """What programs and users do to a log, and what a daemon does meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tail-"))
        self.dir, self.aside = self.root / "log", self.root / "aside"
        self.dir.mkdir()
        self.path = self.dir / "opencode.log"
        self.tail = LogTail(self.path, new_reading)
        self.numbers = Numbers()
        self.files: list[File] = []
        self.copies: Copies = []
        self.at: File | None = None  # the file to which the path leads
        self.blocked = ""  # why the path leads to no file: directory, pipe, link
        self.dir_gone = False
        self.current: File | None = None
        self.replaced: list[File] = []
        self.parked: File | None = None
        self.resumed: Place | None = None
        self.saved = Place(None, None, set())
        self.reported: set[int] = set()
        self.late = False
        self.names = self.inode = 0

    def teardown(self) -> None:
        self.tail.close()
        for file in self.files:
            file.close()
        self.dir.chmod(0o700) if self.dir.exists() else None
        shutil.rmtree(self.root)

    # ---- the writers

    def spare(self, where: Path | None = None, suffix: str = ".log.1") -> Path:
        self.names += 1
        return (where or self.dir) / f"spare-{self.names}{suffix}"

    def usable(self) -> bool:
        return not self.dir_gone and not self.blocked

    def writable(self) -> list[File]:
        return [file for file in dict.fromkeys([self.at, self.current, *self.replaced]) if file and file.fd >= 0]

    @initialize()
    def begin(self) -> None:
        self.create()

    @precondition(lambda self: self.usable() and self.at is None)
    @rule()
    def create(self) -> None:
        self.at = File(self.path)
        self.files.append(self.at)

    @precondition(lambda self: self.writable())
    @rule(data=st.data(), count=st.integers(1, 4), noise=st.integers(0, len(NOISE) - 1))
    def write(self, data: st.DataObject, count: int, noise: int) -> None:
        file = data.draw(st.sampled_from(self.writable()))
        self.finish(file)
        for _ in range(count):
            number = next(self.numbers)
            os.write(file.fd, NOISE[noise](number) + line_of(number))
            file.lines.append(number)

    @precondition(lambda self: self.at is not None)
    @rule(data=st.data(), then=st.sampled_from(["", "look", "restart", "restart"]))
    def write_torn(self, data: st.DataObject, then: str) -> None:
        file = self.at
        assert file is not None
        self.finish(file)
        number = next(self.numbers)
        line = line_of(number).replace(b"Many", b"Many \x00")
        cut = data.draw(st.integers(1, len(line) - 1))
        os.write(file.fd, line[:cut])
        file.torn = (line[cut:], number, cut >= TIMED)
        if then == "look":
            self.look()
        elif then == "restart":
            self.restart(crash=False)
            file.finish()
            self.look()

    @precondition(lambda self: self.writable())
    @rule(data=st.data())
    def finish_torn(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(self.writable())))

    def finish(self, file: File) -> None:
        """Finish the torn line of a file before more is written to it."""
        file.finish()
        self.late |= file is not self.at or file in self.replaced  # a file that has its name back is still read first

    # ---- what happens to the file

    @precondition(lambda self: self.at is not None)
    @rule(refill=st.integers(0, 6))
    def truncate(self, refill: int) -> None:
        """Copy and truncate, or truncate and refill: smaller, larger or to exactly the same size."""
        file = self.at
        assert file is not None
        refill = len(file.lines) if refill == 6 else refill
        file.truncate()
        self.append(file, refill)

    @precondition(lambda self: self.at is not None and self.usable() and len(self.copies) < MAX_COPIES)
    @rule(refill=st.integers(0, 3), look=st.booleans())
    def copytruncate(self, refill: int, look: bool) -> None:
        """Copy and truncate as logrotate does: unread lines are in the copy."""
        file = self.at
        assert file is not None
        if look:
            self.look()
        copy = self.spare(suffix="").with_name(f"opencode.log.{self.names}")
        self.avoid_known_inodes()
        copy.write_bytes(file.content())
        self.copies.append((copy, list(file.lines)))
        file.truncate()
        self.append(file, refill)

    @precondition(lambda self: self.at is not None)
    @rule(data=st.data(), how=st.sampled_from(["trim", "trim", "write over", "copy over"]), look=st.booleans())
    def shorten(self, data: st.DataObject, how: str, look: bool) -> None:
        """Shorten the file in place and keep some of the last lines, with or without a poll at every step."""
        file = self.at
        assert file is not None
        file.finish()
        if look:
            self.look()
        kept, lost = self.kept(data, file), data.draw(st.integers(0, 2))
        if how == "trim" and 2 * len(kept) > len(file.content()):
            how = "copy over"  # OpenCode keeps less than half
        if how == "trim":
            self.trim(file, kept, lost if look else 0, look=look)
        elif how == "copy over":
            os.ftruncate(file.fd, 0)
            for at in range(0, len(kept), 700):
                os.write(file.fd, kept[at : at + 700])
                self.look() if look else None
        else:
            fcntl.fcntl(file.fd, fcntl.F_SETFL, 0)
            os.pwrite(file.fd, kept, 0)
            self.look() if look else None
            os.ftruncate(file.fd, len(kept))
            fcntl.fcntl(file.fd, fcntl.F_SETFL, os.O_APPEND)
        file.lines = numbers_in(kept if how != "trim" else file.content())

    def kept(self, data: st.DataObject, file: File) -> bytes:
        """Return the last lines of the file, beginning with a refused attempt."""
        content = file.content()
        starts = [match.start() for match in re.finditer(rb"timestamp=[^\n]* level=ERROR", content)]
        return content[data.draw(st.sampled_from([*starts, len(content)])) :]

    def trim(self, file: File, kept: bytes, lost: int, *, look: bool) -> None:
        """Trim as OpenCode 2 does: writers continue, and lines after the last copied piece are lost."""
        at, start, fresh = 0, len(file.content()) - len(kept), 2 if look else 0
        fcntl.fcntl(file.fd, fcntl.F_SETFL, 0)
        while piece := os.pread(file.fd, 700, start + at):
            os.pwrite(file.fd, piece, at)
            at += len(piece)
            if fresh:
                fresh -= 1
                os.lseek(file.fd, 0, os.SEEK_END)
                self.append(file, 1)
            self.look() if look else None
        os.lseek(file.fd, 0, os.SEEK_END)
        self.append(file, lost)
        self.look() if look else None
        os.ftruncate(file.fd, at)
        fcntl.fcntl(file.fd, fcntl.F_SETFL, os.O_APPEND)

    @precondition(lambda self: self.at is not None and self.usable() and self.at.name == self.path)
    @rule(data=st.data(), look=st.booleans())
    def replace_by_its_last_lines(self, data: st.DataObject, look: bool) -> None:
        """Run `tail -n 100 log > t && mv t log`; the log's writer continues with the old file."""
        file = self.at
        assert file is not None
        file.finish()
        if look:
            self.look()
        kept = self.kept(data, file)
        self.aside.mkdir(exist_ok=True)
        self.avoid_known_inodes()
        self.at = File(self.spare(self.aside), content=kept)
        self.files.append(self.at)
        assert self.at.name is not None
        self.at.name.rename(self.path)
        file.name, self.at.name = None, self.path

    def avoid_known_inodes(self) -> None:
        """Use up the inodes of a deleted file: a file of which nothing was read is known only by its inode."""
        cursors = [place.cursor for place in (self.saved, self.resumed) if place and place.cursor]
        known = {cursor.inode for cursor in cursors} | ({self.inode} if self.parked else set())
        self.aside.mkdir(exist_ok=True)
        for _ in range(len(known) + 1):
            spare = self.spare(self.aside)
            spare.touch()
            if spare.stat().st_ino not in known:
                spare.unlink()
                return

    def append(self, file: File, count: int) -> None:
        self.late |= file in self.replaced
        for _ in range(count):
            number = next(self.numbers)
            os.write(file.fd, line_of(number))
            file.lines.append(number)

    @precondition(lambda self: self.at is not None)
    @rule()
    def truncate_under_a_writer_that_keeps_its_place(self) -> None:
        file = self.at
        assert file is not None
        size = os.fstat(file.fd).st_size
        file.truncate()
        number = next(self.numbers)
        fcntl.fcntl(file.fd, fcntl.F_SETFL, 0)
        os.pwrite(file.fd, line_of(number), size)
        self.late |= file in self.replaced
        fcntl.fcntl(file.fd, fcntl.F_SETFL, os.O_APPEND)
        file.lines.append(number)

    @precondition(lambda self: self.at is not None and self.usable())
    @rule(again=st.booleans(), outside=st.booleans())
    def rotate(self, again: bool, outside: bool) -> None:
        file = self.at
        assert file is not None
        if outside:
            self.aside.mkdir(exist_ok=True)
        spare = self.spare(self.aside if outside else None)
        self.path.rename(spare)
        if file.name == self.path:
            file.name = spare
        self.at = None
        if again:
            self.create()

    @precondition(lambda self: self.at is not None and self.usable())
    @rule(again=st.booleans())
    def delete(self, again: bool) -> None:
        """Delete the log and make a new one, without a writer; the inode may be the same if no process reads it."""
        file = self.at
        assert file is not None
        self.path.unlink()
        if file.name == self.path:
            file.name = None
        self.at = None
        if again:
            if file.name is None:
                file.close()
            self.create()

    @precondition(lambda self: self.usable() and self.at is None)
    @rule(data=st.data())
    def move_back(self, data: st.DataObject) -> None:
        """Give an earlier file its name back, as after a mistaken rotation."""
        named = [file for file in self.files if file.name is not None and file.name != self.path]
        if named:
            file = data.draw(st.sampled_from(named))
            assert file.name is not None
            file.name.rename(self.path)
            file.name, self.at = self.path, file
            self.late |= bool(self.copies)  # the copies may be of logs that came after this file's first lines

    @precondition(lambda self: self.usable() and self.at is None)
    @rule(data=st.data(), new=st.booleans())
    def link(self, data: st.DataObject, new: bool) -> None:
        """Replace the path by a symlink to a new file elsewhere, or to one that was rotated away."""
        named = [file for file in self.files if file.name is not None and file.name != self.path]
        if new or not named:
            self.aside.mkdir(exist_ok=True)
            named = [File(self.path, link_to=self.spare(self.aside))]
            self.files += named
        file = data.draw(st.sampled_from(named))
        assert file.name is not None
        self.path.symlink_to(file.name)
        self.at = file
        self.late |= bool(self.copies)

    @precondition(lambda self: self.usable() and self.at is None)
    @rule(what=st.sampled_from(["directory", "pipe", "circle", "nowhere"]))
    def block(self, what: str) -> None:
        if what == "directory":
            self.path.mkdir()
        elif what == "pipe":
            os.mkfifo(self.path)
        else:
            self.path.symlink_to(self.path if what == "circle" else self.root / "nowhere")
        self.blocked = what
        self.look()
        if self.current is not None and self.current.fd >= 0:
            self.current.finish()
            self.current.lines.append(next(self.numbers))
            os.write(self.current.fd, line_of(self.current.lines[-1]))
            self.look()

    @precondition(lambda self: self.blocked and not self.dir_gone)
    @rule()
    def unblock(self) -> None:
        self.path.rmdir() if self.blocked == "directory" else self.path.unlink()
        self.blocked = ""

    @precondition(lambda self: not self.dir_gone)
    @rule()
    def move_directory_away(self) -> None:
        self.dir.rename(self.root / "moved")
        self.dir_gone = True

    @precondition(lambda self: self.dir_gone)
    @rule()
    def move_directory_back(self) -> None:
        (self.root / "moved").rename(self.dir)
        self.dir_gone = False

    @precondition(lambda self: not self.dir_gone)
    @rule()
    def remove_directory_and_make_it_again(self) -> None:
        shutil.rmtree(self.dir)
        self.dir.mkdir()
        for file in self.files:
            if file.name is not None and file.name.parent == self.dir:
                file.name = None
        self.at, self.blocked = None, ""

    @precondition(lambda self: self.at is not None and not self.dir_gone)
    @rule()
    def change_permission(self) -> None:
        assert self.at is not None and self.at.name is not None
        self.at.name.chmod(0o600 if self.at.forbidden() else 0)

    # ---- the daemon

    @rule()
    def look(self) -> None:
        told: list[int] = []
        with mortal():
            while True:
                new = refused(self.tail.poll(self.now()))
                told += new
                if not self.tail.behind:
                    break
        expected = self.model_of_a_look()
        assert sorted(told) == sorted(expected)
        for file in self.files:
            mine = [number for number in told if number in set(file.lines)]
            assert mine == sorted(mine), "out of order within a file"
        if not self.late:
            assert told == sorted(told), "the replaced file comes first"
        self.late &= self.current is None  # possibly nothing was read

    def now(self) -> float:
        """A moment soon after the last line."""
        return when(self.numbers.last) + GAP / 2

    def model_of_a_look(self) -> list[int]:
        here = None if self.dir_gone or self.blocked else self.at
        news: list[int] = []
        if self.current is None and here is not None:
            news += self.once(self.open(here))
        held = [*self.replaced, *([self.current] if self.current else [])]
        news += chain.from_iterable(self.once(file.new(self.copies)) for file in held)
        if self.current is not None and here is not None and here is not self.current:
            self.replaced.append(self.current)
            self.current = None
            news += self.once(self.open(here))
            del self.replaced[:-REPLACED_KEPT]
            news += self.once(self.current.new(self.copies)) if self.current else []
        return news

    def once(self, numbers: list[int]) -> list[int]:
        """Return those that were not reported yet: several files may contain the same line."""
        fresh = [number for number in dict.fromkeys(numbers) if number not in self.reported]
        self.reported.update(fresh)
        return fresh

    def open(self, here: File) -> list[int]:
        """Begin to read a file; return what is reported at once from a copy."""
        if here in self.replaced:
            self.replaced.remove(here)
            self.current = here
            return []
        if here.forbidden():
            return []
        self.current = here
        (before, self.parked), (place, self.resumed) = (self.parked, None), (self.resumed, None)
        if before is here:
            return []
        if before is not None:
            here.takes_over(before.until, before.told)
            if before.can_be_found_in(self.dir) and before.is_known():
                self.replaced.append(before)
            else:
                return before.rest_of_copy(self.copies)
        elif place is not None and place.file is not None:
            return self.resume(here, place, place.file)
        elif self.replaced:
            here.takes_over(self.replaced[-1].until, self.replaced[-1].told)
        else:
            here.forget()
        return []

    def resume(self, here: File, place: Place, file: File) -> list[int]:
        """Continue from a cursor after a restart."""
        here.takes_over(place.until, place.told)
        if file is here and here.lives == place.life:
            here.told = set(place.told)  # it is continued, whatever time its unfinished line has
            return []
        if file is not here and file.can_be_found_in(self.dir) and place.fits(file.content()):
            file.takes_over(place.until, place.told)
            if file.lives == place.life:
                file.told = set(place.told)
            self.replaced.append(file)
            return []
        assert place.cursor is not None
        path, lines = newest(self.copies, place.fits) if place.cursor.before_size >= MIN_FOUND else (None, [])
        return (
            [number for number in lines if number not in place.told] + later(self.copies, path, place.until)
            if path
            else []
        )

    @precondition(lambda self: self.current is not None and not self.replaced)
    @rule()
    def park(self) -> None:
        """Close the descriptor, as for a log that is no longer written."""
        with mortal():
            assert self.tail.park()
        cursor = self.tail.cursor()
        assert cursor is not None
        self.parked, self.inode, self.current = self.current, cursor.inode, None

    @rule()
    def save_cursor(self) -> None:
        if self.current is not None or self.parked is not None:
            self.saved = Place(self.tail.cursor(), self.current or self.parked, self.reported)
        elif self.resumed is None:
            self.saved = Place(None, None, set())

    @precondition(lambda self: self.at is not None and self.at.name == self.path and self.usable())
    @rule(how=st.sampled_from(["restart", "park", "mistake"]))
    def rotate_at_a_bad_moment(self, how: str) -> None:
        """Rename a file with an unread line between two runs, while no process holds it; or rename it back."""
        file = self.at
        assert file is not None
        self.look()
        if how == "park" and self.current is file and not self.replaced:
            self.park()
        self.save_cursor()
        if file.fd >= 0:
            file.finish()
            file.lines.append(next(self.numbers))
            os.write(file.fd, line_of(file.lines[-1]))
        self.rotate(again=True, outside=False)
        if how == "restart":
            self.restart(crash=True)
        self.look()
        if how == "mistake":
            self.rotate(again=False, outside=False)
            assert file.name is not None
            file.name.rename(self.path)
            file.name, self.at = self.path, file
            self.look()

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        """End and begin again from the cursor; after a crash from an older one, with new lines reported again."""
        if not crash:
            self.look()
            self.save_cursor()
        self.tail.close()
        self.current, self.replaced, self.parked, self.resumed = None, [], None, self.saved
        # A cursor without a time, of a log in which nothing was read, says nothing about lines of other files.
        self.reported = set(self.saved.reported) if self.saved.until else set()
        self.tail = LogTail(self.path, new_reading, cursor=self.saved.cursor, window=Window())
        self.late = True  # lines that are reported again are not newer than those reported before

    @invariant()
    def no_descriptor_too_many(self) -> None:
        held = len(self.replaced) + (self.current is not None)
        assert self.tail.is_open == bool(held)


TailMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("TAIL_MODEL_EXAMPLES", "100")),
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    # A caller that only wants to know whether the test fails need not wait for the shortest failing example.
    phases=(Phase.generate,) if "TAIL_MODEL_QUICK" in os.environ else tuple(Phase),
    database=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)
TestTailModel = TailMachine.TestCase
