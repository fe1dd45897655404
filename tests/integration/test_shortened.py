"""Tests that a log shortened in place is not a new one: nothing counts twice, no old line is acted on, nothing is lost.

Long because every way of shortening, copying and replacing a log is tried on the same two dialects of lines.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.logs.tail import LogTail, Window
from ocwatchd.state import cursors
from tests.integration.logtext import NOW, other, refusal, refused, stamp
from tests.integration.test_tail import new_reading
from tests.support.rules import builtin
from tests.support.shortening import BY_HAND, all_of, shell, trim

BEFORE = 400
"""Refused attempts that were read before."""
SIZE = len(refusal(1000)) + len(other(1000))


def when(number: int) -> float:
    """Return a refused attempt every ten minutes, the first one days ago."""
    return NOW + (number - 1000 - BEFORE) * 600.0


def new_lines(*numbers: int) -> bytes:
    return b"".join(refusal(number, when(number)) + other(number, when(number)) for number in numbers)


def old_lines(*numbers: int) -> bytes:
    """Return the same lines in the format of OpenCode 1.3."""
    head = (
        "%s {} +1ms service=llm providerID=openai modelID=gpt-5 sessionID=ses_{} small=false agent=build mode=primary"
    )
    error = '{"error":{"name":"AI_APICallError","url":"https://api.openai.com/v1/responses",'
    error += '"requestBodyValues":{"model":"gpt-5"},"statusCode":429,"responseHeaders":{},"responseBody":"Rate limit"}}'
    lines = []
    for number in numbers:
        begin = head.format(stamp(when(number))[:19], number)
        lines += [begin % "INFO " + " stream\n", begin % "ERROR" + f" error={error} stream error\n"]
    return "".join(lines).encode()


Lines = Callable[..., bytes]


class Log:
    """A log with the events of this run of the daemon and of the runs before it."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path, self.lines = path, lines
        self.told: list[int] = []
        self.now = NOW
        self.tail = LogTail(path, new_reading)

    def write(self, *numbers: int) -> None:
        with self.path.open("ab") as file:
            file.write(self.lines(*numbers))
        self.now = max(self.now, when(max(numbers)))
        os.utime(self.path, (self.now, self.now))

    def look(self) -> list[int]:
        new = refused(self.tail.poll(self.now))
        while self.tail.behind:
            new += refused(self.tail.poll(self.now))
        self.told += new
        return new

    def end(self) -> Cursor | None:
        cursor = self.tail.cursor()
        self.tail.close()
        return Cursor.from_json(cursor.as_json()) if cursor else None

    def begin(self, cursor: Cursor | None) -> None:
        self.tail = LogTail(self.path, new_reading, cursor=cursor, window=Window())


@pytest.fixture(params=[new_lines, old_lines], ids=["1.18", "1.3"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    (tmp_path / "log").mkdir()
    log = Log(tmp_path / "log" / "opencode.log", request.param)
    log.write(*range(1000, 1000 + BEFORE))
    assert log.look() == list(range(1000, 1000 + BEFORE))
    yield log
    log.tail.close()


KEEP = 40 * SIZE
HANDS = pytest.mark.parametrize("script", BY_HAND.values(), ids=BY_HAND)


def by_hand(log: Log, script: str) -> None:
    size = log.path.stat().st_size
    blocks = size // 2 // 4096 * 4096
    shell(script.format(keep=size // 7, lines=51, drop=300, blocks=blocks), log.path, log.path.parent.parent)


@pytest.mark.parametrize("piece", [700, 4096, 64 << 10])
@pytest.mark.parametrize("keep", [KEEP, 3 * SIZE, 200 * SIZE])
def test_opencodes_own_trimming_seen_at_every_step(log: Log, piece: int, keep: int) -> None:
    number = 2000
    for step in trim(log.path, keep, piece):
        assert log.look() == [], step
        if step == "copied" and number < 2010:
            log.write(number)
            assert log.look() == [number]
            number += 1
    log.write(number)
    assert log.look() == [number]
    assert log.look() == []


def test_what_is_written_during_the_copy_is_read_behind_the_cut(log: Log) -> None:
    numbers = iter(range(2000, 2005))
    for step in trim(log.path, KEEP, 4096):
        number = next(numbers, None)
        if step == "copied" and number is not None:
            log.write(number)
    assert log.look() == list(range(2000, 2005))


def test_what_is_lost_in_the_cut_is_lost_and_nothing_is_told_twice(log: Log) -> None:
    """The last line that was read is gone, so the remaining lines are recognised by their time."""
    for step in trim(log.path, KEEP):
        if step == "all copied":
            log.write(2000)
            assert log.look() == [2000]
    log.write(2001, 2002)
    assert log.look() == [2001, 2002]


@HANDS
def test_shortened_by_hand(log: Log, script: str) -> None:
    by_hand(log, script)
    assert log.look() == []
    log.write(2000)
    assert log.look() == [2000]
    by_hand(log, script)
    log.write(2001)
    assert log.look() == [2001]


@HANDS
def test_with_lines_that_nobody_has_read(log: Log, script: str) -> None:
    log.write(*range(2000, 2005))
    by_hand(log, script)
    log.write(2005)
    assert log.look() == list(range(2000, 2006))


@HANDS
@pytest.mark.parametrize("unread", [0, 3])
def test_shortened_between_two_runs_of_the_daemon(log: Log, script: str, unread: int) -> None:
    cursor = log.end()
    numbers = list(range(2000, 2000 + unread))
    log.write(*numbers) if numbers else None
    by_hand(log, script)
    log.begin(cursor)
    assert log.look() == numbers
    log.write(2100)
    assert log.look() == [2100]


@pytest.mark.parametrize("stop", range(8))
def test_the_daemon_is_restarted_in_the_middle_of_the_trimming(log: Log, stop: int) -> None:
    for number, step in enumerate(trim(log.path, KEEP, KEEP // 5)):
        if number == stop:
            cursor = log.end()
            log.write(2000)
            log.begin(cursor)
            assert log.look() == [2000], step
    log.write(2001)
    assert log.look() == [2001]


def test_the_daemon_is_killed_and_goes_on_from_an_older_cursor(log: Log) -> None:
    log.write(2000)
    log.look()
    cursor = log.end()
    log.begin(cursor)
    log.write(2001, 2002)
    assert log.look() == [2001, 2002]
    log.tail.close()
    all_of(trim(log.path, KEEP))
    log.begin(cursor)
    assert log.look() == [2001, 2002], "the blacklist knows that these are counted"


@pytest.mark.parametrize("kind", ["part", "empty"])
def test_a_look_while_the_old_lines_are_being_written_back(log: Log, kind: str) -> None:
    """`cat > log` empties the log first."""
    kept = log.path.read_bytes()[-KEEP:]
    for size in (0, len(kept) // 3, len(kept) // 2) if kind == "part" else (0,):
        log.path.write_bytes(kept[:size])
        assert log.look() == []
    with log.path.open("ab") as file:
        file.write(kept[len(kept) // 2 if kind == "part" else 0 :])
    log.write(2000)
    assert log.look() == [2000]


def test_nothing_but_the_last_lines_is_left(log: Log) -> None:
    for keep in (1, 2, 3):
        log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[-keep:]))
        assert log.look() == []
    log.write(2000)
    assert log.look() == [2000]


def test_a_daemon_that_is_far_behind_reads_what_is_left_once(log: Log) -> None:
    """The next unread lines were cut off."""
    cursor = log.end()
    log.write(*range(2000, 2400))
    all_of(trim(log.path, KEEP))
    log.begin(cursor)
    told = log.look()
    assert told == list(range(told[0], 2400))
    assert 2340 < told[0] < 2390


def test_a_daemon_that_is_far_behind_during_the_copy_reads_it_once(log: Log) -> None:
    cursor = log.end()
    log.write(*range(2000, 2700))
    for number, step in enumerate(trim(log.path, log.path.stat().st_size // 2 - SIZE, 4096)):
        if number == 40 or step == "all copied":
            if number == 40:
                log.begin(cursor)
            log.look()
    log.write(2700)
    log.look()
    told = log.told[BEFORE:]
    assert told == sorted(set(told))
    assert told[-1] == 2700
    assert len(told) > 350


def test_truncated_and_written_anew_is_new(log: Log) -> None:
    os.truncate(log.path, 0)
    log.write(2000)
    assert log.look() == [2000]
    os.truncate(log.path, 0)
    log.write(*range(2001, 3000))
    assert log.look() == list(range(2001, 3000))


def test_processes_that_write_late_are_heard_after_a_truncation(log: Log) -> None:
    """Such processes share the log, and write their records a second after those of others."""
    os.truncate(log.path, 0)
    late = log.lines(2000)
    for zone in (slice(0, 19), slice(0, 23)):
        late = late.replace(stamp(when(2000))[zone].encode(), stamp(when(1000 + BEFORE - 1) - 1.0)[zone].encode())
    log.path.write_bytes(late)
    assert log.look() == [2000]


def test_a_clock_that_was_ten_years_ahead_does_not_make_the_daemon_deaf(log: Log) -> None:
    ahead = log.lines(2000).replace(stamp(when(2000))[:4].encode(), b"2036")
    with log.path.open("ab") as file:
        file.write(ahead)
    assert log.look() == [2000]
    os.truncate(log.path, 0)
    log.write(2001)
    assert log.look() == [2001]
    cursor = log.end()
    log.path.write_bytes(b"")
    log.write(2002)
    log.begin(cursor)
    assert log.look() == [2002]


def test_an_old_log_that_was_never_read_is_shortened_while_it_sleeps(tmp_path: Path) -> None:
    """Its refused attempts are days old, and no run of the daemon has read them."""
    path = tmp_path / "opencode.log"
    path.write_bytes(b"".join(refusal(number, NOW - 3 * 86400 + number) for number in range(400)))
    os.utime(path, (NOW - 86400, NOW - 86400))
    follower = LogDirectories([tmp_path], builtin())
    assert follower.poll(NOW) == []
    all_of(trim(path, KEEP))
    assert refused(follower.poll(NOW + 1, [path])) == []
    with path.open("ab") as file:
        file.write(refusal(2000, NOW + 2))
    assert refused(follower.poll(NOW + 2, [path])) == [2000]
    follower.close()


@pytest.mark.parametrize("parked", [True, False])
def test_the_rest_of_a_log_is_read_in_the_copy_that_was_made_before_it_was_truncated(log: Log, parked: bool) -> None:
    """The way of logrotate's copytruncate."""
    if parked:
        assert log.tail.park()
    for number in range(2000, 2050, 2):
        log.write(number)
        copy = log.path.with_name(f"opencode.log.{number}")
        copy.write_bytes(log.path.read_bytes())
        os.truncate(log.path, 0)
        log.write(number + 1)
        assert log.look() == [number, number + 1]
    log.path.with_name("opencode.log.1").write_bytes(log.lines(3000))
    os.truncate(log.path, 0)
    assert log.look() == []


def test_also_between_two_runs(log: Log) -> None:
    cursor = log.end()
    log.write(2000)
    log.path.with_name("opencode.log-20261122").write_bytes(log.path.read_bytes())
    os.truncate(log.path, 0)
    log.write(2001)
    log.begin(cursor)
    assert log.look() == [2000, 2001]


def test_cursors_of_an_earlier_release_are_gone_on_from(log: Log, tmp_path: Path) -> None:
    """These lines have no times: without the last line read, all that remains counts as old."""
    cursor = log.end()
    assert cursor is not None
    known = {name: value for name, value in cursor.as_json().items() if name not in ("until", "since", "told")}
    place = Cursor.from_json(known)
    assert place is not None
    cursors.save(tmp_path / "cursors.json", {str(log.path): place})
    assert cursors.load(tmp_path / "cursors.json")[0] == {str(log.path): place}
    all_of(trim(log.path, KEEP))
    log.begin(place)
    assert log.look() == []
    place = Cursor.from_json(known | {"before": "0" * 32})
    log.tail.close()
    log.begin(place)
    assert not any(s.live for s in log.tail.poll(log.now) if isinstance(s.seen, LimitEvent))


# ---- whole directories


class Directory:
    """The logs of a directory, and a daemon that follows them."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, NOW
        self.log = path / "opencode.log"
        self.log.write_bytes(b"".join(refusal(number, NOW - 5000 + number) for number in range(1000, 1020)))
        os.utime(self.log, (NOW, NOW))
        self.follower = LogDirectories([path], builtin())
        assert self.look() == list(range(1000, 1020))

    def look(self, seconds: float = 1.0) -> list[int]:
        self.now += seconds
        return refused(self.follower.poll(self.now))

    def write(self, number: int) -> None:
        with self.log.open("ab") as file:
            file.write(refusal(number, self.now))
        os.utime(self.log, (self.now, self.now))

    def restart(self, meanwhile: Callable[[], object]) -> None:
        places = {name: Cursor.from_json(cursor.as_json()) for name, cursor in self.follower.cursors().items()}
        self.follower.close()
        known = {name: place for name, place in places.items() if place}
        meanwhile()
        self.follower = LogDirectories([self.path], builtin(), cursors=known, window=Window())


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    found = Directory(tmp_path)
    yield found
    found.follower.close()


@pytest.mark.parametrize("name", ["opencode-backup.log", "opencode.1.log", "old.log"])
@pytest.mark.parametrize("how", ["beside it", "parked", "while no daemon runs"])
def test_a_copy_under_the_name_of_a_log_is_no_new_log(directory: Directory, name: str, how: str) -> None:
    """The way of `cp opencode.log opencode-backup.log`."""
    if how == "parked":
        assert directory.look(200.0) == []
    if how == "while no daemon runs":
        directory.restart(lambda: shutil.copy(directory.log, directory.path / name))
    else:
        shutil.copy(directory.log, directory.path / name)
    assert directory.look() == []
    directory.write(2000)
    assert directory.look() == [2000]
    with (directory.path / name).open("ab") as file:
        file.write(refusal(2001, directory.now))
    assert directory.look() + directory.look() == [2001], "written on, it is a log"


def test_copytruncate_under_the_name_of_a_log(directory: Directory) -> None:
    """The way of logrotate with `copytruncate` and `extension .log`."""
    for number in range(2000, 2010, 2):
        directory.write(number)
        (directory.path / f"opencode.{number}.log").write_bytes(directory.log.read_bytes())
        os.truncate(directory.log, 0)
        directory.write(number + 1)
        assert directory.look() == [number, number + 1]
        for line in range(10):
            directory.write(3000 + 10 * number + line)
        assert len(directory.look()) == 10


@pytest.mark.parametrize("seconds", [1.0, 200.0, 2000.0])
@pytest.mark.parametrize("before", [1.0, 200.0])
def test_a_log_that_was_away_for_a_while_is_not_told_again(directory: Directory, seconds: float, before: float) -> None:
    assert directory.look(before) == []
    directory.log.rename(directory.path / "aside")
    assert directory.look() == []
    assert directory.look(seconds) == []
    assert directory.look(seconds) == []
    (directory.path / "aside").rename(directory.log)
    directory.write(2000)
    assert directory.look() + directory.look() == [2000]


ROTATE = pytest.mark.parametrize("by", ["rename", "copytruncate"])


def rotate(log: Log, by: str) -> None:
    """Rotate as logrotate does: .1 becomes .2, and the log becomes .1."""
    names = [log.path.with_name(f"opencode.log.{number}") for number in (1, 2, 3)]
    for old, new in ((names[1], names[2]), (names[0], names[1])):
        if old.exists():
            old.rename(new)
    if by == "rename":
        log.path.rename(names[0])
        log.path.touch()
    else:
        names[0].write_bytes(log.path.read_bytes())
        os.utime(names[0], (log.now, log.now))
        os.truncate(log.path, 0)


@ROTATE
@pytest.mark.parametrize("parked", [False, True])
def test_rotated_three_times_between_two_looks(log: Log, by: str, parked: bool) -> None:
    """The log of the meantime was never open under its name, because the daemon was stopped or asleep."""
    if parked:
        assert log.tail.park()
    for number in (2000, 2010, 2020):
        log.write(number, number + 1)
        rotate(log, by)
    log.write(2030)
    assert log.look() == [2000, 2001, 2010, 2011, 2020, 2021, 2030]
    rotate(log, by)
    log.write(2040)
    assert log.look() == [2040]


@ROTATE
def test_rotated_twice_between_two_runs(log: Log, by: str) -> None:
    cursor = log.end()
    for number in (2000, 2010):
        log.write(number)
        rotate(log, by)
    log.write(2020)
    log.begin(cursor)
    assert log.look() == [2000, 2010, 2020]


def copy_and_truncate(path: Path, name: str) -> None:
    path.with_name(name).write_bytes(path.read_bytes())
    os.truncate(path, 0)


def replace(path: Path, content: bytes) -> None:
    new = path.parent.parent / "new"
    new.write_bytes(content)
    new.rename(path)


@pytest.mark.parametrize("hole", [False, True])
def test_a_log_that_was_moved_away_is_read_before_the_copies_of_the_next_one(log: Log, hole: bool) -> None:
    for number in (2000, 2020):
        log.write(number)
        log.path.with_name(f"opencode.log.{number}").write_bytes(log.path.read_bytes())
        os.truncate(log.path, 0)
        if hole:  # its writer keeps its position
            os.truncate(log.path, 4000)
        log.write(number + 10)
        if number == 2000:
            log.path.rename(log.path.parent.parent / "elsewhere")
    assert log.look() == [2000, 2010, 2020, 2030]


@pytest.mark.parametrize("storm", [0, 300])
@pytest.mark.parametrize("more", [(), (4020,)])
@pytest.mark.parametrize("kept", [(), (4010,), (4000, 4010)])
def test_a_copy_of_the_next_log_may_begin_with_the_last_lines_of_the_log_before_it(
    log: Log, kept: tuple[int, ...], more: tuple[int, ...], storm: int
) -> None:
    """Between two polls: copied and truncated, replaced by its last lines, and copied and truncated again."""
    unread = list(range(3000, 3000 + storm))
    log.write(*unread) if unread else None
    copy_and_truncate(log.path, "opencode.log.1")
    log.write(4000, 4010)
    replace(log.path, log.lines(*kept))
    log.write(*more) if more else None
    copy_and_truncate(log.path, "opencode.log.2")
    log.write(4030)
    assert log.look() == [*unread, 4000, 4010, *more, 4030]
    assert log.look() == []


@pytest.mark.parametrize("storm", [0, 300])
@pytest.mark.parametrize("how", ["open", "parked", "between two runs"])
def test_files_that_were_the_log_have_lines_in_common(log: Log, how: str, storm: int) -> None:
    """Each begins with the last line of the one before it; none of them was read while it was the log."""
    cursor = log.end() if how == "between two runs" else None
    if how == "parked":
        assert log.tail.park()
    unread = list(range(2000, 2001 + storm))
    log.write(*unread)
    last = unread[-1]
    for number in (3000, 3010, 3020):
        rotate(log, "rename")
        log.write(last, number)
        last = number
    if how == "between two runs":
        log.begin(cursor)
    assert log.look() == [*unread, 3000, 3010, 3020]
    assert log.look() == []


def test_a_copy_with_an_older_line_before_one_that_was_reported(log: Log) -> None:
    copy_and_truncate(log.path, "opencode.log.1")
    log.write(4000, 4010)
    replace(log.path, log.lines(4005, 4010))
    copy_and_truncate(log.path, "opencode.log.2")
    log.write(4020)
    assert log.look() == [4000, 4010, 4005, 4020]


def test_a_late_line_of_a_rotated_log_is_reported_once_if_the_log_is_replaced_by_a_copy_of_it(log: Log) -> None:
    rotate(log, "rename")
    log.write(2000)
    assert log.look() == [2000]
    rotated = log.path.with_name("opencode.log.1")
    with rotated.open("ab") as file:
        file.write(log.lines(2010))
    log.now = when(2010)
    assert log.look() == [2010]
    replace(log.path, rotated.read_bytes())
    log.write(2020)
    assert log.look() == [2020]


def test_a_storm_in_the_next_log_does_not_make_the_log_before_it_new(tmp_path: Path) -> None:
    path = tmp_path / "opencode.log"
    path.write_bytes(refusal(2000, NOW))
    log = LogTail(path, new_reading)
    assert refused(log.poll(NOW)) == [2000]
    path.rename(tmp_path / "aside")
    path.write_bytes(b"".join(refusal(number, NOW + number) for number in range(300)))
    assert refused([*log.poll(NOW + 300), *log.poll(NOW + 300)]) == [*range(300)]
    (tmp_path / "aside").write_bytes(other(1, NOW - 60) + refusal(2000, NOW) + refusal(4000, NOW + 400))
    assert refused(log.poll(NOW + 400)) == [4000]
    log.close()


@pytest.mark.parametrize("parked", [True, False])
def test_the_rest_of_a_deleted_log_is_read_in_its_copy_whatever_inode_the_next_one_has(log: Log, parked: bool) -> None:
    """The next log may get the deleted file's inode. Here it does not, because a process holds the file."""
    cursor = None
    if parked:
        assert log.tail.park()
    else:
        cursor = log.end()
    log.write(2000)
    log.path.with_name("opencode.log.1").write_bytes(log.path.read_bytes())
    os.truncate(log.path, 0)
    with log.path.open("rb"):
        log.path.unlink()
        log.write(2010)
        if not parked:
            log.begin(cursor)
        assert log.look() == [2000, 2010]


@pytest.mark.parametrize("cut", [40, 120])
def test_the_first_line_of_a_log_is_unfinished_when_the_log_is_replaced_by_its_last_lines(
    tmp_path: Path, cut: int
) -> None:
    """Its beginning is in the new file as well, without a line end before it."""
    path = tmp_path / "opencode.log"
    line = refusal(2000, NOW)
    path.write_bytes(line[:cut])
    log = LogTail(path, new_reading)
    assert refused(log.poll(NOW)) == []
    assert log.park()
    (tmp_path / "new").write_bytes(line)
    (tmp_path / "new").rename(path)
    assert refused(log.poll(NOW)) == [2000]
    log.close()


@pytest.mark.parametrize("storm", [0, 80])
def test_what_two_runs_have_reported_within_a_second_is_not_reported_by_the_third(tmp_path: Path, storm: int) -> None:
    path, cursor = tmp_path / "opencode.log", None
    for first, at in ((2000, NOW), (3000, NOW + 0.5)):
        numbers = range(first, first + 1 + storm // 2)
        with path.open("ab") as file:
            file.write(b"".join(refusal(number, at) for number in numbers))
        log = LogTail(path, new_reading, cursor=cursor, window=Window() if cursor else None)
        assert refused(log.poll(NOW + 1)) == [*numbers]
        cursor = log.cursor()
        log.close()
    assert cursor is not None
    path.write_bytes((other(1, NOW - 60) if storm else b"") + refusal(2000, NOW) + refusal(4000, NOW + 3))
    log = LogTail(path, new_reading, cursor=cursor, window=Window())
    assert refused(log.poll(NOW + 4)) == [4000]
    log.close()


def test_a_cursor_describes_what_was_read_and_not_what_stands_there_now(log: Log) -> None:
    """The log is truncated and refilled after the last poll, before the daemon saves its cursor and ends."""
    os.truncate(log.path, 0)
    new = range(2000, 2000 + BEFORE + 20)
    log.write(*new)
    log.begin(log.end())
    assert log.look() == [*new]


def test_what_is_older_than_the_last_line_read_is_old_also_if_that_was_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "opencode.log"
    path.write_bytes(refusal(2000, NOW - 600) + other(1, NOW))
    log = LogTail(path, new_reading)
    assert refused(log.poll(NOW)) == [2000]
    path.write_bytes(refusal(2010, NOW - 300) + refusal(2020, NOW + 5))
    assert refused(log.poll(NOW + 6)) == [2020]
    log.close()


def test_an_unfinished_line_is_read_on_where_it_ends_in_the_shortened_log(tmp_path: Path) -> None:
    path = tmp_path / "opencode.log"
    lines = b"".join(refusal(number, NOW + number) for number in range(2000, 2020))
    path.write_bytes(lines + refusal(2020, NOW + 2020)[:-1])
    log = LogTail(path, new_reading)
    assert refused(log.poll(NOW + 2020)) == [*range(2000, 2020)]
    kept = path.read_bytes()[-3000:]
    path.write_bytes(kept)
    assert refused(log.poll(NOW + 2021)) == []
    with path.open("ab") as file:
        file.write(b"\n" + refusal(2030, NOW + 2030))
    assert refused(log.poll(NOW + 2031)) == [2020, 2030]
    log.close()


@ROTATE
def test_older_rotations_and_other_files_are_not_read(log: Log, by: str) -> None:
    for name in ("opencode.log.7", "opencode.log-20261101", "opencode.log.9.gz", "opencode-other.log"):
        log.path.with_name(name).write_bytes(log.lines(1))
        os.utime(log.path.with_name(name), (log.now - 3600, log.now - 3600))
    for name in ("opencode.log.9.gz", "opencode-other.log"):
        os.utime(log.path.with_name(name), (log.now + 10, log.now + 10))
    log.write(2000)
    rotate(log, by)
    log.write(2010)
    assert log.look() == [2000, 2010]
