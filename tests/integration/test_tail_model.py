"""The real LogTail on real files against a model: whatever happens to a log, each refusal is told once and in order.

The model knows which file lies where and what a reader can still get hold of. What nobody can tell is not asked for:
lines that were truncated away or deleted before anyone looked, and files that nobody held when they left the directory.
`python -m scripts.mutate_tail` breaks the tail in a dozen ways and shows that this test sees each of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from itertools import chain
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ocwatchd.core.cursor import Cursor
from ocwatchd.logs.tail import REPLACED_KEPT, LogTail, Window
from tests.edges.logtext import refusal, refused
from tests.edges.test_tail import new_reading
from tests.support.privileges import mortal

NOISE = (
    lambda number: f"timestamp=2026-11-22T12:00:00.000Z level=INFO run=0 message=loading path=/429/{number}\n".encode(),
    lambda number: b"\x00\x00\xff\xfe\x80" + str(number).encode() + b"\n",
    lambda number: f"{number} ".encode() + b'"error" level=ERROR ' * 60 + b"\r\n",
    lambda number: b"\n",
)


def line_of(number: int) -> bytes:
    """A refusal of this moment, with a character of two bytes in it."""
    return refusal(number, time.time()).replace(b"Too Many", "Too Many Ω".encode())


class File:
    """One file, whatever its name: the writer holds it open and goes on writing wherever it was moved to."""

    def __init__(self, path: Path, *, link_to: Path | None = None) -> None:
        self.name: Path | None = link_to or path
        self.fd = os.open(self.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self.lines: list[int] = []
        """The whole refusals in it."""
        self.told = 0
        """How many of them a reader that was there all along has told."""
        self.torn: tuple[bytes, int] | None = None
        """The rest of an unfinished line, and its number."""
        self.lives = 0
        """How often it was truncated."""

    def finish(self) -> None:
        if self.torn is not None:
            (rest, number), self.torn = self.torn, None
            os.write(self.fd, rest)
            self.lines.append(number)

    def close(self) -> None:
        """Nobody writes it any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def truncate(self) -> None:
        os.ftruncate(self.fd, 0)
        self.lines, self.told, self.torn = [], 0, None
        self.lives += 1

    def new(self) -> list[int]:
        fresh = self.lines[self.told :]
        self.told = len(self.lines)
        return fresh

    def can_be_found_in(self, directory: Path) -> bool:
        return self.name is not None and self.name.parent == directory and not self.forbidden()

    def forbidden(self) -> bool:
        return self.name is not None and not self.name.stat().st_mode & 0o400


class Place:
    """A saved cursor, and what had been told of its file by then."""

    def __init__(self, cursor: Cursor | None, file: File | None) -> None:
        self.cursor = Cursor.from_json(cursor.as_json()) if cursor else None
        self.file = file
        self.life, self.told = (file.lives, file.told) if file else (0, 0)

    def still_holds(self) -> bool:
        """Whether the file is still what it was, so that the cursor fits; nothing read yet fits anything."""
        assert self.file is not None and self.cursor is not None
        return self.file.lives == self.life or self.cursor.offset == 0


class TailMachine(RuleBasedStateMachine):
    """What programs and people do to a log, and what a daemon does meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tail-"))
        self.dir, self.aside = self.root / "log", self.root / "aside"
        self.dir.mkdir()
        self.path = self.dir / "opencode.log"
        self.tail = LogTail(self.path, new_reading)
        self.numbers = iter(range(10_000, 10**6))
        self.files: list[File] = []
        self.at: File | None = None  # where the path leads
        self.blocked = ""  # why it leads nowhere: directory, pipe, link
        self.dir_gone = False
        self.current: File | None = None
        self.replaced: list[File] = []
        self.parked: Place | None = None
        self.saved = Place(None, None)
        self.late = False
        self.names = 0

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
        file.finish()
        for _ in range(count):
            number = next(self.numbers)
            os.write(file.fd, NOISE[noise](number) + line_of(number))
            file.lines.append(number)
        self.late |= file is not self.at

    @precondition(lambda self: self.at is not None)
    @rule(data=st.data(), then=st.sampled_from(["", "look", "restart", "restart"]))
    def write_torn(self, data: st.DataObject, then: str) -> None:
        file = self.at
        assert file is not None
        file.finish()
        number = next(self.numbers)
        line = line_of(number).replace(b"Many", b"Many \x00")
        cut = data.draw(st.integers(1, len(line) - 1))
        os.write(file.fd, line[:cut])
        file.torn = (line[cut:], number)
        if then == "look":
            self.look()
        elif then == "restart":
            self.restart(crash=False)
            file.finish()
            self.look()

    @precondition(lambda self: self.writable())
    @rule(data=st.data())
    def finish_torn(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.writable()))
        file.finish()
        self.late |= file is not self.at

    # ---- what happens to the file

    @precondition(lambda self: self.at is not None)
    @rule(refill=st.integers(0, 6))
    def truncate(self, refill: int) -> None:
        """Copytruncate, or truncated and refilled: smaller, larger or to the very same size."""
        file = self.at
        assert file is not None
        refill = len(file.lines) if refill == 6 else refill
        file.truncate()
        for _ in range(refill):
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
        """With a new file at once, and nobody who writes the old one: its inode may be the same, if nobody reads it."""
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
        """An earlier file gets its name back, as after a rotation that was a mistake."""
        named = [file for file in self.files if file.name is not None and file.name != self.path]
        if named:
            file = data.draw(st.sampled_from(named))
            assert file.name is not None
            file.name.rename(self.path)
            file.name, self.at = self.path, file

    @precondition(lambda self: self.usable() and self.at is None)
    @rule(data=st.data(), new=st.booleans())
    def link(self, data: st.DataObject, new: bool) -> None:
        """The path is a symlink: to a new file elsewhere, or to one that was rotated away."""
        named = [file for file in self.files if file.name is not None and file.name != self.path]
        if new or not named:
            self.aside.mkdir(exist_ok=True)
            named = [File(self.path, link_to=self.spare(self.aside))]
            self.files += named
        file = data.draw(st.sampled_from(named))
        assert file.name is not None
        self.path.symlink_to(file.name)
        self.at = file

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
                new = refused(self.tail.poll(time.time()))
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
        self.late = False

    def model_of_a_look(self) -> list[int]:
        here = None if self.dir_gone or self.blocked else self.at
        if self.current is None and here is not None:
            self.open(here)
        held = [*self.replaced, *([self.current] if self.current else [])]
        news = list(chain.from_iterable(file.new() for file in held))
        if self.current is not None and here is not None and here is not self.current:
            self.replaced.append(self.current)
            self.current = None
            self.open(here)
            del self.replaced[:-REPLACED_KEPT]
            news += self.current.new() if self.current else []
        return news

    def open(self, here: File) -> None:
        if here in self.replaced:
            self.replaced.remove(here)
            self.current = here
            return
        if here.forbidden():
            return
        self.current = here
        place, self.parked = self.parked, None
        here.told = 0
        if place is None or place.file is None:
            return
        if place.file is here:
            here.told = place.told if here.lives == place.life else 0
        elif place.file.can_be_found_in(self.dir) and place.still_holds():
            place.file.told = place.told if place.file.lives == place.life else 0
            self.replaced.append(place.file)

    @precondition(lambda self: self.current is not None and not self.replaced)
    @rule()
    def park(self) -> None:
        """The descriptor is given back, as to a log that nobody writes."""
        file = self.current
        with mortal():
            assert self.tail.park()
        assert file is not None
        self.parked = Place(self.tail.cursor(), file)
        self.current = None

    @rule()
    def save_cursor(self) -> None:
        kept = self.parked or Place(None, None)
        self.saved = Place(self.tail.cursor(), self.current) if self.current else kept

    @precondition(lambda self: self.at is not None and self.at.name == self.path and self.usable())
    @rule(how=st.sampled_from(["restart", "park", "mistake"]))
    def rotate_at_a_bad_moment(self, how: str) -> None:
        """With a line that nobody has read: between two lives, while nobody holds the file; or it is taken back."""
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
        """Ends and begins again from the cursor; after a crash from an older one, and what came since is told again."""
        if not crash:
            self.look()
            self.save_cursor()
        self.tail.close()
        self.current, self.replaced, self.parked = None, [], self.saved
        self.tail = LogTail(self.path, new_reading, cursor=self.saved.cursor, window=Window())
        self.late = True  # what is told again is not newer than what was told

    @invariant()
    def no_descriptor_too_many(self) -> None:
        held = len(self.replaced) + (self.current is not None)
        assert self.tail.is_open == bool(held)


TailMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("TAIL_MODEL_EXAMPLES", "100")),
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    # Whoever only wants to know whether it fails need not wait for the shortest way to make it fail.
    phases=(Phase.generate,) if "TAIL_MODEL_QUICK" in os.environ else tuple(Phase),
    database=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)
TestTailModel = TailMachine.TestCase
