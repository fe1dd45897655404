"""Tests of everything that can happen to one file: each refused attempt is reported exactly once."""

from __future__ import annotations

import os
import random
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.detect import Cancelled
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.logs.log_file import FAR, NewReading, head_of
from ocwatchd.logs.tail import REPLACED_IDLE, REPLACED_KEPT, LogTail, Window
from tests.integration.logtext import NOW, other, refusal, refused
from tests.support.privileges import mortal
from tests.support.rules import builtin


def new_reading(path: Path) -> NewReading:
    return lambda offset, whole: Reading(builtin(), file=str(path), offset=offset, whole=whole, turns=True)


class Tail:
    """A LogTail with its file, and the events that it has returned so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[int] = []
        self.tail = self.make()

    def make(self, **options: object) -> LogTail:
        return LogTail(self.path, new_reading, **options)

    def look(self, now: float = NOW) -> list[int]:
        """Return the new events since the last poll."""
        new = refused(self.tail.poll(now))
        self.told += new
        return new

    def write(self, *numbers: int) -> None:
        append(self.path, *numbers)


def append(path: Path, *numbers: int) -> None:
    with path.open("ab") as file:
        for number in numbers:
            file.write(refusal(number))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Tail]:
    tail = Tail(tmp_path / "opencode.log")
    yield tail
    tail.tail.close()


def test_what_is_appended_is_told_once(log: Tail) -> None:
    log.path.write_bytes(b"")
    log.write(1, 2)
    assert log.look() == [1, 2]
    assert log.look() == []
    log.write(3)
    assert log.look() == [3]


def test_a_file_that_does_not_exist_yet_is_read_from_its_beginning(log: Tail) -> None:
    assert log.look() == []
    log.write(1)
    assert log.look() == [1]


def test_a_torn_line_is_told_when_it_is_whole(log: Tail) -> None:
    line = refusal(1)
    with log.path.open("ab", buffering=0) as file:
        for at in range(0, len(line) - 1, 40):
            file.write(line[at : at + 40][: len(line) - 1 - at])
            assert log.look() == []
        file.write(b"\n")
    assert log.look() == [1]


def test_a_line_written_just_before_the_rename_is_not_lost(log: Tail) -> None:
    log.write(1)
    assert log.look() == [1]
    log.write(2)
    log.path.rename(log.path.with_suffix(".log.1"))
    log.write(3)
    assert log.look() == [2, 3]


def test_late_writes_to_a_renamed_file_are_told(log: Tail) -> None:
    log.write(1)
    assert log.look() == [1]
    renamed = log.path.with_suffix(".log.1")
    log.path.rename(renamed)
    log.write(2)
    assert log.look() == [2]
    append(renamed, 3)
    assert log.look(NOW + 60) == [3]
    append(renamed, 4)
    log.write(5)
    assert sorted(log.look(NOW + 3600)) == [4, 5]


def test_a_renamed_file_is_watched_for_hours_and_an_unlinked_one_for_minutes(log: Tail) -> None:
    log.write(1)
    log.look()
    renamed = log.path.with_suffix(".log.1")
    log.path.rename(renamed)
    log.write(2)
    log.look()
    written = renamed.stat().st_mtime
    log.look(written + REPLACED_IDLE - 60)
    assert log.tail.is_open
    append(renamed, 3)
    os.utime(renamed, (written, written))
    assert log.look(written + REPLACED_IDLE - 30) == [3]
    handles = descriptors_of(renamed)
    log.look(written + REPLACED_IDLE + 3600)
    log.look(written + 2 * REPLACED_IDLE + 7200)
    assert (len(handles), descriptors_of(renamed)) == (1, [])


def test_a_copy_is_known_by_its_whole_head_and_nothing_else_is(log: Tail, tmp_path: Path) -> None:
    log.write(*range(20))
    log.look()
    copy, another = tmp_path / "copy.log", tmp_path / "another.log"
    copy.write_bytes(log.path.read_bytes())
    append(another, *range(100, 120))
    assert log.tail.begins_like(head_of(str(copy)))
    assert not log.tail.begins_like(head_of(str(another)))
    assert not log.tail.begins_like(head_of(str(copy))[:-1])


def test_of_many_replaced_files_the_latest_are_watched(log: Tail) -> None:
    for number in range(REPLACED_KEPT + 5):
        log.write(number)
        log.look()
        log.path.rename(log.path.with_suffix(f".log.{number}"))
    log.write(99)
    log.look()
    held = [number for number in range(REPLACED_KEPT + 5) if descriptors_of(log.path.with_suffix(f".log.{number}"))]
    assert held == list(range(5, REPLACED_KEPT + 5))


def descriptors_of(path: Path) -> list[str]:
    """Return the descriptors of this process that are open on a file."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(fd.stat(), path.stat()):
                found.append(fd.name)
    return found


def test_copytruncate(log: Tail) -> None:
    log.write(1, 2)
    assert log.look() == [1, 2]
    os.truncate(log.path, 0)
    log.write(3)
    assert log.look() == [3]


def test_truncated_and_refilled_larger_between_two_looks(log: Tail) -> None:
    log.write(*range(39))
    assert log.look() == list(range(39))
    os.truncate(log.path, 0)
    log.write(*range(100, 160))
    assert log.look() == list(range(100, 160))


def test_truncated_and_refilled_to_the_very_same_size(log: Tail) -> None:
    log.write(11, 12)
    assert log.look() == [11, 12]
    before = log.path.stat()
    log.path.write_bytes(refusal(13) + refusal(14))
    os.utime(log.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert log.path.stat().st_size == before.st_size
    assert log.look() == [13, 14]


def test_truncated_under_a_writer_that_keeps_its_place_leaves_a_hole(log: Tail) -> None:
    with log.path.open("wb", buffering=0) as file:
        file.write(refusal(1))
        assert log.look() == [1]
        os.truncate(log.path, 0)
        file.write(refusal(2))  # at its old position, after NUL bytes
    assert log.path.read_bytes().startswith(b"\0")
    assert log.look() == [2]


def test_deleted_and_created_again_with_the_same_inode(log: Tail) -> None:
    log.write(1, 2)
    assert log.look() == [1, 2]
    assert log.tail.park(), "the descriptor is given back, so that the inode is free"
    inode = log.path.stat().st_ino
    log.path.unlink()
    for attempt in range(200):  # ext4 reuses the inode at once, other file systems only sometimes
        log.path.write_bytes(refusal(3) + refusal(4) + refusal(5))
        if log.path.stat().st_ino == inode:
            break
        log.path.rename(log.path.with_name(f"spare-{attempt}"))
    else:
        log.path.write_bytes(refusal(3) + refusal(4) + refusal(5))
    assert log.look() == [3, 4, 5]


def test_a_parked_file_goes_on_where_it_stopped(log: Tail) -> None:
    log.write(1)
    log.look()
    assert log.tail.park()
    assert not log.tail.is_open
    log.write(2)
    assert log.look() == [2]


def test_deleted_while_open_and_written_on(log: Tail) -> None:
    with log.path.open("ab", buffering=0) as file:
        file.write(refusal(1))
        assert log.look() == [1]
        log.path.unlink()
        file.write(refusal(2))
        assert log.look() == [2]
        log.write(3)
        assert log.look() == [3]
        file.write(refusal(4))
        assert log.look() == [4]


def test_the_path_becomes_a_symlink_to_another_file(log: Tail, tmp_path: Path) -> None:
    log.write(1)
    assert log.look() == [1]
    elsewhere = tmp_path / "elsewhere" / "real.log"
    elsewhere.parent.mkdir()
    log.path.unlink()
    log.path.symlink_to(elsewhere)
    assert log.look() == []
    append(elsewhere, 2)
    assert log.look() == [2]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_the_path_is_something_else_for_a_while(log: Tail, make: Callable[[Path], None]) -> None:
    log.write(1)
    assert log.look() == [1]
    log.path.unlink()
    make(log.path)
    assert log.look() == []
    log.path.rmdir() if log.path.is_dir() else log.path.unlink()
    log.write(2)
    assert log.look() == [2]


def test_a_pipe_from_the_start_never_blocks(log: Tail) -> None:
    os.mkfifo(log.path)
    done = threading.Event()
    threading.Thread(target=lambda: (log.look(), done.set()), daemon=True).start()
    assert done.wait(5)
    log.path.unlink()
    log.write(1)
    assert log.look() == [1]


def test_permission_lost_and_regained(log: Tail) -> None:
    log.write(1)
    log.path.chmod(0)
    with mortal():
        assert log.look() == []
        problem = log.tail.problem
        assert problem is not None and "Permission denied" in problem and str(log.path) in problem
        log.path.chmod(0o600)
        log.write(2)
        assert log.look() == [1, 2]
        assert log.tail.problem is None
        log.path.chmod(0)
        log.tail.park()
        assert log.look() == []
        log.path.chmod(0o600)
        log.write(3)
        assert log.look() == [3]


def test_a_50_mb_line_then_an_event(log: Tail) -> None:
    log.write(1)
    with log.path.open("ab") as file:
        for _ in range(50):
            file.write(b'x"error"' * (1 << 17))
        file.write(b"\n")
    log.write(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = sum(os.times()[:2])
    while log.look() or log.tail.behind:
        pass
    assert log.told == [1, 2]
    assert sum(os.times()[:2]) - cpu < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


def test_a_storm_is_told_in_slices_also_across_a_rotation(log: Tail) -> None:
    """Otherwise the first of 100,000 limits would be handled only after the last one is read."""
    log.write(*range(3000))
    assert 0 < len(log.look()) < 1500
    assert log.tail.behind
    log.path.rename(log.path.with_suffix(".old"))
    log.write(*range(3000, 6000))
    while log.look() or log.tail.behind:
        pass
    assert log.told == list(range(6000))


def test_bytes_that_are_no_text(log: Tail) -> None:
    with log.path.open("ab") as file:
        file.write(b"\xff\xfe\x00\x80" * 50 + b"\n" + "Ω".encode()[:1] + b"\n")
        file.write(refusal(1)[:-1] + b"\r\n")
        file.write(b"\x00\x00" + refusal(2))
        file.write(refusal(3).replace(b"Too Many", b"Too Many \xff\xfe"))
    assert log.look() == [1, 2, 3]


def test_a_large_backlog_comes_in_slices(log: Tail) -> None:
    with log.path.open("ab") as file:
        for number in range(5):
            file.write(other(number) * 60_000 + refusal(number))
    slices = 0
    while True:
        log.look()
        slices += 1
        if not log.tail.behind:
            break
    assert log.told == [0, 1, 2, 3, 4]
    assert slices > 1


# ---- the first start


def test_what_was_there_at_the_start_is_old_news(log: Tail) -> None:
    log.write(1)
    log.tail = log.make(window=Window())
    (past,) = [s for s in log.tail.poll(NOW) if isinstance(s.seen, LimitEvent)]
    assert not past.live
    log.write(2)
    (news,) = [s for s in log.tail.poll(NOW + 1) if isinstance(s.seen, LimitEvent)]
    assert news.live


def test_the_look_back_is_bounded_by_size_and_begins_with_a_whole_line(log: Tail) -> None:
    log.write(*range(1000, 2000))
    log.tail = log.make(window=Window(size=len(refusal(1000)) * 10 + 7))
    assert log.look() == list(range(1990, 2000))


def test_the_look_back_is_bounded_by_age(log: Tail) -> None:
    with log.path.open("ab") as file:
        file.write(refusal(1, NOW - 7 * 3600) + refusal(2, NOW - 5 * 3600))
    os.utime(log.path, (NOW, NOW))
    log.tail = log.make(window=Window(seconds=6 * 3600))
    assert log.look() == [2]


def test_without_look_back_it_begins_at_the_unfinished_line(log: Tail) -> None:
    log.path.write_bytes(refusal(1) + refusal(2)[:60])
    log.tail = log.make(window=Window(size=0))
    assert log.look() == []
    with log.path.open("ab") as file:
        file.write(refusal(2)[60:])
    assert log.look() == [2]


def test_old_lines_in_a_new_file_are_old_news(log: Tail) -> None:
    log.write(1)
    (old,) = [s for s in log.tail.poll(NOW + 3600) if isinstance(s.seen, LimitEvent)]
    assert not old.live


# ---- continuing after a restart


def restarted(log: Tail) -> None:
    """End the daemon and start it again."""
    cursor = log.tail.cursor()
    log.tail.close()
    log.tail = log.make(cursor=cursor, window=Window())


def test_a_saved_cursor_is_gone_on_from(log: Tail) -> None:
    log.write(1)
    with log.path.open("ab") as file:
        file.write(refusal(2)[:70])
    log.look()
    restarted(log)
    with log.path.open("ab") as file:
        file.write(refusal(2)[70:])
    log.write(3)
    log.look()
    assert log.told == [1, 2, 3]


def test_a_cursor_of_another_file_is_not_believed(log: Tail) -> None:
    log.write(1, 2, 3)
    log.look()
    cursor = log.tail.cursor()
    log.tail.close()
    log.path.write_bytes(b"".join(refusal(n) for n in (4, 5, 6, 7)))  # the same inode with other content
    log.tail = log.make(cursor=cursor, window=Window())
    assert log.look() == [4, 5, 6, 7]


def test_a_cursor_beyond_the_end_is_not_believed(log: Tail) -> None:
    log.write(1, 2, 3)
    log.look()
    cursor = log.tail.cursor()
    log.tail.close()
    log.path.write_bytes(refusal(9))
    log.tail = log.make(cursor=cursor, window=Window())
    assert log.look() == [9]


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_doubled_whatever_happens_in_between(log: Tail, tmp_path: Path, seed: int) -> None:
    """Writes, polls, renames, replacements and restarts in random order."""
    draw = random.Random(seed)
    written = 0
    for step in range(120):
        action = draw.choice(["write", "write", "write", "look", "look", "rename", "restart", "torn"])
        if action == "write":
            log.write(written)
            written += 1
        elif action == "torn":
            line = refusal(written)
            cut = draw.randrange(1, len(line))
            for part in (line[:cut], line[cut:]):
                with log.path.open("ab") as file:
                    file.write(part)
                log.look()
            written += 1
        elif action == "look":
            log.look()
        elif action == "rename" and log.path.exists():
            log.look()
            log.path.rename(tmp_path / f"opencode.log.{step}")
        elif action == "restart":
            log.look()
            if log.path.exists():
                restarted(log)
    log.look()
    log.look()
    assert sorted(log.told) == list(range(written))


def test_what_is_far_behind_is_searched_for_refusals_and_only_the_rest_for_turns(tmp_path: Path) -> None:
    """A daemon that returns to a long log reports every refused attempt, and aborts only if they still matter."""
    path, block = tmp_path / "opencode.log", other(1) * 8000
    abort = other(1).replace(b"message=loading", b"message=cancel session.id=ses_%d")
    path.write_bytes(refusal(1))
    before = LogTail(path, new_reading)
    before.poll(NOW)
    parts = [abort % 1, block * (FAR // len(block) + 1), refusal(2), block, refusal(3), abort % 2]
    with path.open("ab") as file:
        file.write(b"".join(parts))
    tail = LogTail(path, new_reading, cursor=before.cursor(), window=Window())
    before.close()
    sightings = tail.poll(NOW)
    tail.close()
    assert refused(sightings) == [2, 3]
    assert [s.seen.session for s in sightings if isinstance(s.seen, Cancelled)] == ["ses_2"]
