"""Tests of whole directories: files that appear, move and vanish, and thousands of old ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.logs.directory import IDLE, MAX_OPEN, LogDirectories
from ocwatchd.logs.tail import Window
from tests.integration.logtext import NOW, refusal, refused
from tests.support.rules import builtin


class Logs:
    """A directory of logs and the events that its reader has returned."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.told: list[int] = []
        self.follower = self.make()

    def make(self, *more: Path, **options: object) -> LogDirectories:
        return LogDirectories([self.path, *more], builtin(), **options)

    def write(self, name: str, *numbers: int) -> Path:
        path = self.path / name
        with path.open("ab") as file:
            for number in numbers:
                file.write(refusal(number, self.now))
        os.utime(path, (self.now, self.now))
        return path

    def look(self, seconds: float = 1.0) -> list[int]:
        self.now += seconds
        new = refused(self.follower.poll(self.now))
        self.told += new
        return new


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    path = tmp_path / "log"
    path.mkdir()
    logs = Logs(path)
    yield logs
    logs.follower.close()


def open_logs(directory: Path) -> int:
    """Return how many descriptors of this process are open in the directory."""
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.is_relative_to(directory) for link in links)


def test_old_and_new_names_and_files_that_appear_later(logs: Logs) -> None:
    logs.write("2026-11-22T103026.log", 1)
    assert logs.look() == [1]
    logs.write("opencode.log", 2)
    logs.write("2026-11-22T120001.log", 3)
    logs.write("opencode.log.bak", 99)
    assert sorted(logs.look()) == [2, 3]
    logs.write("2026-11-22T103026.log", 4)
    assert logs.look() == [4]


def test_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "share" / "opencode" / "log")
    assert logs.look() == []
    logs.path.mkdir(parents=True)
    logs.write("opencode.log", 1)
    assert logs.look() == [1]
    logs.follower.close()


def test_a_directory_removed_and_made_again(logs: Logs) -> None:
    logs.write("opencode.log", 1)
    assert logs.look() == [1]
    shutil.rmtree(logs.path)
    assert logs.look() == []
    logs.path.mkdir()
    logs.write("opencode.log", 2)
    logs.write("2026-11-22T120001.log", 3)
    assert sorted(logs.look()) == [2, 3]
    logs.write("opencode.log", 4)
    assert logs.look() == [4]


def test_a_directory_moved_away_with_a_writer_in_it(logs: Logs, tmp_path: Path) -> None:
    logs.write("opencode.log", 1)
    assert logs.look() == [1]
    logs.path.rename(tmp_path / "away")
    logs.path.mkdir()
    logs.write("opencode.log", 2)
    with (tmp_path / "away" / "opencode.log").open("ab") as file:
        file.write(refusal(3, logs.now))
    assert sorted(logs.look() + logs.look()) == [2, 3]


def test_a_file_renamed_to_another_log_name_is_not_told_twice(logs: Logs) -> None:
    path = logs.write("opencode.log", 1)
    assert logs.look() == [1]
    path.rename(logs.path / "opencode-old.log")
    assert logs.look() == []
    logs.write("opencode-old.log", 2)
    logs.write("opencode.log", 3)
    assert sorted(logs.look() + logs.look()) == [2, 3]


def test_two_names_of_one_file_count_once(logs: Logs) -> None:
    real = logs.write("real.log", 1)
    (logs.path / "opencode.log").symlink_to(real)
    assert logs.look() == [1]
    logs.write("real.log", 2)
    assert logs.look() == [2]


def test_several_directories(logs: Logs, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    logs.follower = logs.make(other)
    logs.write("opencode.log", 1)
    (other / "opencode.log").write_bytes(refusal(2, logs.now))
    assert sorted(logs.look()) == [1, 2]
    assert logs.follower.following() == [f"{logs.path} (1 files)", f"{other} (1 files)"]


def test_the_past_is_old_news_and_what_appears_later_is_not(logs: Logs) -> None:
    logs.write("opencode.log", 1)
    logs.now += 1
    past = logs.follower.poll(logs.now)
    logs.write("2026-11-22T120001.log", 2)
    news = logs.follower.poll(logs.now)
    assert [s.live for s in past if isinstance(s.seen, LimitEvent)] == [False]
    assert [s.live for s in news if isinstance(s.seen, LimitEvent)] == [True]


def test_5000_old_files_cost_no_descriptors_and_one_that_stirs_is_heard(logs: Logs) -> None:
    for number in range(5000):
        path = logs.path / f"2026-11-{number // 1000:02d}T{number % 1000:06d}.log"
        path.write_bytes(refusal(number, NOW - 40 * 3600))
        os.utime(path, (NOW - 40 * 3600, NOW - 40 * 3600))
    cpu = sum(os.times()[:2])
    assert logs.look() == []
    assert sum(os.times()[:2]) - cpu < 1.5
    assert open_logs(logs.path) == 0
    stirring = logs.write("2026-11-02T000500.log", 9999)
    assert refused(logs.follower.poll(logs.now, [stirring])) == [9999], "with a hint: at once"
    logs.write("2026-11-03T000007.log", 9998)
    for _ in range(5000 // 32 + 2):
        if logs.look(0.01):
            break
    assert logs.told == [9998], "without: in its turn"


def test_idle_files_give_their_descriptors_back_and_are_heard_again(logs: Logs) -> None:
    for number in range(MAX_OPEN + 20):
        logs.write(f"{number}.log", number)
    logs.look()
    assert open_logs(logs.path) <= MAX_OPEN
    logs.look(IDLE + 1)
    assert open_logs(logs.path) == 0
    logs.told.clear()
    logs.write("3.log", 1003)
    logs.write("147.log", 1147)
    for _ in range(10):
        logs.look()
    assert sorted(logs.told) == [1003, 1147]


def test_a_restart_goes_on_where_each_file_stopped(logs: Logs) -> None:
    logs.write("opencode.log", 1)
    logs.write("2026-11-22T103026.log", 2)
    logs.look()
    cursors = logs.follower.cursors()
    logs.follower.close()
    logs.write("opencode.log", 3)
    logs.follower = logs.make(cursors=cursors)
    assert logs.look() == [3]
    assert sorted(Path(path).name for path in cursors) == ["2026-11-22T103026.log", "opencode.log"]


def test_what_was_written_while_we_were_away_for_a_day_is_told(logs: Logs) -> None:
    logs.write("opencode.log", 1)
    logs.look()
    cursors = logs.follower.cursors()
    logs.follower.close()
    logs.write("opencode.log", 2)
    logs.now += 86400
    logs.follower = logs.make(cursors=cursors, window=Window(seconds=7 * 86400))
    assert logs.look() == [2]
    assert logs.look() == []


def test_a_directory_that_may_not_be_listed_is_said(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    (logs.path.parent / "file").write_text("no directory")
    follower = LogDirectories([logs.path.parent / "file"], builtin())
    assert follower.poll(NOW) == []
    (problem,) = follower.problems()
    assert "cannot list" in problem


def test_exchanged_rules_judge_what_comes_and_nothing_is_read_twice(logs: Logs) -> None:
    logs.write("opencode.log", 1)
    assert logs.look() == [1]
    logs.follower.exchange_rules(builtin().with_user_patterns(["no more for today"]))
    with (logs.path / "opencode.log").open("ab") as file:
        file.write(refusal(2, logs.now).replace(b"Too Many Requests", b"no more for today"))
    assert logs.look() == [2]
    logs.follower.exchange_rules(builtin())
    logs.write("opencode.log", 3)
    assert logs.look() == [3]


def test_a_refusal_that_began_before_the_exchange_is_still_put_together(logs: Logs) -> None:
    whole = refusal(1, logs.now)
    with (logs.path / "opencode.log").open("ab") as file:
        file.write(whole[:150])
    assert logs.look() == []
    logs.follower.exchange_rules(builtin())
    with (logs.path / "opencode.log").open("ab") as file:
        file.write(whole[150:])
    assert logs.look() == [1]
