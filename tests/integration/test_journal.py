"""Tests of the journal and the heartbeat on a real file system."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import pytest

from ocwatchd.core.engine.messages import Aborted, TakenOver
from ocwatchd.daemon.faults import FileHealth
from ocwatchd.daemon.journal_buffer import JournalBuffer
from ocwatchd.state import heartbeat
from ocwatchd.state.files import StateError
from ocwatchd.state.heartbeat import State
from ocwatchd.state.journal import Journal


class Hours:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 1_795_341_600.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Hours:
    return Hours()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.jsonl"


def whats(journal: Journal, since: float | None = None) -> list[object]:
    return [entry["what"] for entry in journal.read(since)]


def test_an_entry_is_one_line_with_version_id_and_time(path: Path, clock: Hours) -> None:
    journal = Journal(path, clock)
    line = journal.line({"what": "claim", "session": "ses_1\n\x1b"})
    journal.write([line], durable=True)
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads(path.read_text()) == {
        "version": 1,
        "id": json.loads(line)["id"],
        "time": "2026-11-22T10:00:00.000Z",
        "what": "claim",
        "session": "ses_1\n\x1b",
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_written_twice_after_a_fault_is_read_once(path: Path, clock: Hours) -> None:
    journal = Journal(path, clock)
    lines = [journal.line({"what": f"n{number}"}) for number in range(3)]
    journal.write([lines[0], lines[1][:20]])  # the disk was full
    journal.write(lines)
    assert whats(journal) == ["n0", "n1", "n2"]


def test_reading_gives_all_or_what_is_not_before_a_time(path: Path, clock: Hours) -> None:
    journal = Journal(path, clock)
    for number in range(3):
        journal.append({"what": f"n{number}"})
        clock.time += 10
    assert whats(journal) == ["n0", "n1", "n2"]
    assert whats(journal, clock.time - 20) == ["n1", "n2"]


@pytest.mark.parametrize("torn", [b'{"version":1,"id":"x","wh', b"\xff\xfe\n", b"[1]\n", b'{"a":1}\n', b"[" * 50_000])
def test_a_torn_line_costs_only_itself(path: Path, clock: Hours, torn: bytes) -> None:
    journal = Journal(path, clock)
    journal.append({"what": "before"})
    with path.open("ab") as file:
        file.write(torn)
    assert whats(journal) == ["before"]
    journal.append({"what": "after"})
    assert whats(journal) == ["before", "after"]


def test_prompts_keys_and_headers_never_get_in(path: Path, clock: Hours) -> None:
    secrets = {"prompt": "SECRET", "Headers": {"x": "SECRET"}, "apiKey": "SECRET", "deep": {"authorization": "SECRET"}}
    Journal(path, clock).append({"what": "limit", **secrets, "list": [{"password": "SECRET", "kept": 1}]})
    assert "SECRET" not in path.read_text()
    assert '"kept":1' in path.read_text()


def test_long_texts_are_capped(path: Path, clock: Hours) -> None:
    Journal(path, clock).append({"what": "limit", "reason": "x" * 100_000, "list": ["y" * 400] * 1000})
    assert path.stat().st_size < 20_000
    assert whats(Journal(path, clock)) == ["limit"]


def test_size_is_bounded_and_the_newest_stay(path: Path, clock: Hours) -> None:
    journal = Journal(path, clock, max_bytes=2000)
    for number in range(100):
        journal.append({"what": str(number)})
    assert path.stat().st_size <= 2000
    assert journal.older.stat().st_size <= 2000
    kept = whats(journal)
    assert kept == [str(number) for number in range(100 - len(kept), 100)]
    assert len(kept) > 20


def test_threads_and_rotation_mix_no_lines(path: Path, clock: Hours) -> None:
    journal = Journal(path, clock, max_bytes=1 << 20)

    def work(name: str) -> None:
        for _ in range(100):
            journal.append({"what": name})

    threads = [Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, whats(journal))) == sorted("abcd" * 100)


def test_no_journal_is_an_empty_one(path: Path) -> None:
    assert list(Journal(path).read()) == []
    assert not path.parent.exists()


def test_a_symlink_is_not_followed(path: Path, clock: Hours, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "victim").write_text("precious")
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(StateError, match="cannot be written"):
        Journal(path, clock).append({"what": "x"})
    assert (tmp_path / "victim").read_text() == "precious"


GONE = 2**31 - 2
"""A pid that no process has, because Linux's largest is 2**22."""

OWN = 0
"""Stands for this process, because its id in a test's name would differ between workers."""


@pytest.mark.parametrize(
    ("pid", "age", "wanted"),
    [
        (OWN, 0.0, State.UP),
        (OWN, 9.9, State.UP),
        (OWN, 10.1, State.STALLED),
        (OWN, -11.0, State.STALLED),  # a clock that was set back: nothing is known until the next beat
        (GONE, 0.0, State.DOWN),
        (1, 0.0, State.UP),  # another user's process is a running process
    ],
)
def test_heartbeat(tmp_path: Path, pid: int, age: float, wanted: str) -> None:
    path = tmp_path / "daemon.json"
    heartbeat.write(
        path, pid or os.getpid(), 100.0, 200.0, ["/a.log"], [{"session": "ses_1", "phrase": "waits"}], ["ill"]
    )
    found = heartbeat.read(path)
    assert found.state(200.0 + age) == wanted
    assert (found.started, found.beat, found.following, found.health) == (100.0, 200.0, ["/a.log"], ["ill"])
    assert found.sessions == [{"session": "ses_1", "phrase": "waits"}]
    assert found.earlier == []
    assert path.stat().st_mode & 0o777 == 0o600
    process = {"pid": 7, "started": "2026-12-01T10:00:00Z"}
    heartbeat.write(path, 1, 100.0, 200.0, [], earlier=[process, {"pid": 8}])
    assert heartbeat.read(path).earlier == [process]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pid": "1"}',
        '{"pid": true}',
        '{"pid": -1}',
        '{"pid": 1e99}',
        '{"pid": 99999999999999999999}',
        "{",
    ],
)
def test_a_heartbeat_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    assert heartbeat.read(path).state(0.0) == State.DOWN


def test_moments_are_written_in_words_at_any_depth(path: Path, clock: Hours) -> None:
    Journal(path, clock).append({"what": "x", "until": 1.5, "shown": {"next": 2.0, "at": float("inf")}, "seconds": 1.5})
    (entry,) = Journal(path).read()
    assert entry["until"] == "1970-01-01T00:00:01.500Z"
    assert entry["shown"] == {"next": "1970-01-01T00:00:02.000Z", "at": None}
    assert entry["seconds"] == 1.5


def test_words_of_others_are_kept_without_secrets() -> None:
    said = "the password is swordfish"
    line = json.loads(
        Journal(Path("/nowhere")).line({"what": "moved", "why": said, "shown": {"words": said, "at": 1e9}})
    )
    assert line["why"] == line["shown"]["words"] == "the password is [hidden]"


@pytest.mark.parametrize(
    ("ended_after", "aborted_after", "theirs"),
    [(None, 0.2, True), (None, 31.0, True), (12.0, 11.0, True), (12.0, 40.0, False), (None, 70.0, False)],
)
def test_an_abort_belongs_to_a_claimed_move_until_that_move_has_ended(
    path: Path, clock: Hours, ended_after: float | None, aborted_after: float, theirs: bool
) -> None:
    """OpenCode may take half a minute to carry out the abort of `ocwatch redirect` or `oc-smart`."""
    journal, claimed = Journal(path, clock), clock.time
    claim = {"session": "ses_1", "claim": "c1", "by": "ocwatch redirect"}
    journal.write([journal.line({"what": "claim", **claim})])
    if ended_after is not None:
        clock.time += ended_after
        journal.write([journal.line({"what": "moved", **claim})])
    abort = Aborted("ses_1", claimed + aborted_after)
    found = JournalBuffer(journal, FileHealth(print)).origin_of(abort)
    assert found == (TakenOver("ses_1") if theirs else abort)
