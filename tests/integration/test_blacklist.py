"""Tests of the blacklist on a real file system: what is written, what survives, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.cooldowns import STRIKE_WINDOW, Cooldown
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.files import StateError, locked, read_plain, write_atomic

NOW = 1_795_341_600.0
A, B = ModelRef("p", "a"), ModelRef("q", "b")
ENTRY = {
    "kind": "rate_limit",
    "scope": "model",
    "since": "2026-11-22T10:00:00.000Z",
    "until": "2026-11-22T11:00:00.000Z",
    "strikes": 2,
    "reset_source": "retry-after",
    "rule": "r",
    "reason": "slow down",
    "session": "ses_1",
    "target": {"model": "q/b", "agent": "helper"},
}


def cooldown(model: ModelRef = A, until: float | None = NOW + 60, **changes: Any) -> Cooldown:
    fields: dict[str, Any] = {"kind": LimitKind.QUOTA, "scope": Scope.MODEL, "since": NOW, "strikes": 1}
    return Cooldown(model, until=until, reset_source=ResetSource.TEXT, **{**fields, **changes})


def put(*entries: Cooldown) -> Callable[[blacklist.Entries], blacklist.Entries]:
    return lambda register: register | {entry.model: entry for entry in entries}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ocwatchd" / "blacklist.json"


def content(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_what_is_written_is_the_contract(path: Path) -> None:
    entry = cooldown(target=Target(B, "helper"), rule="r", reason="slow down", session="ses_1", until=NOW + 60.5)
    blacklist.update(path, put(entry, cooldown(B, None)), NOW)
    document = json.loads(path.read_text())
    assert (document["version"], document["updated"]) == (1, "2026-11-22T10:00:00.000Z")
    assert document["models"]["p/a"] == {
        "kind": "quota",
        "scope": "model",
        "since": "2026-11-22T10:00:00.000Z",
        "until": "2026-11-22T10:01:00.500Z",
        "strikes": 1,
        "reset_source": "text",
        "rule": "r",
        "reason": "slow down",
        "session": "ses_1",
        "target": {"model": "q/b", "agent": "helper"},
    }
    assert document["models"]["q/b"]["until"] is None
    assert blacklist.read(path).cooldowns == {A: entry, B: cooldown(B, None)}


def test_files_are_private_and_nothing_is_left_over(path: Path) -> None:
    (path.parent).mkdir(parents=True)
    (path.parent / ".blacklist.json.dead.tmp").write_text("torn")
    blacklist.update(path, put(cooldown()), NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["blacklist.json", "blacklist.json.lock"]


def test_new_directories_are_private(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file", b"x")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")} == {0o700}


def test_unknown_fields_and_words_survive_a_rewrite(path: Path) -> None:
    future = {**ENTRY, "kind": "tea_break", "until": "2026-11-22T12:00:00+02:00", "mood": [1]}
    content(path, {"version": 1, "theirs": {"x": 1}, "models": {"p/a": future, "bad": 3}})
    blacklist.update(path, put(cooldown(B)), NOW - 3600)
    document = json.loads(path.read_text())
    assert document["theirs"] == {"x": 1}
    assert document["models"]["p/a"] == future
    assert document["models"]["bad"] == 3
    assert "q/b" in document["models"]


def test_unknown_fields_of_a_changed_entry_survive(path: Path) -> None:
    content(path, {"version": 1, "models": {"p/a": {**ENTRY, "mood": [1]}}})

    def extend(register: blacklist.Entries) -> blacklist.Entries:
        from dataclasses import replace

        return {A: replace(register[A], until=NOW + 7200)}

    blacklist.update(path, extend, NOW)
    entry = json.loads(path.read_text())["models"]["p/a"]
    assert (entry["until"], entry["mood"]) == ("2026-11-22T12:00:00.000Z", [1])


@pytest.mark.parametrize(("models", "known"), [({"p/a": ENTRY}, [A]), ([{"model": "p/a"}], [])])
def test_a_newer_version_is_read_and_never_overwritten(path: Path, models: object, known: list[ModelRef]) -> None:
    content(path, {"version": 2, "models": models})
    before = path.read_bytes()
    snapshot = blacklist.read(path)
    assert list(snapshot.cooldowns) == known
    assert "newer" in snapshot.problems[-1]
    with pytest.raises(blacklist.NewerBlacklist):
        blacklist.update(path, put(cooldown(B)), NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "broken",
    ["", " \n", "{", '{"version": 1, "models": {"p/a": {"unt', "[]", "null", '{"models": []}', '{"version": "x"}',
     '{"version": 0}', '{"version": true}', '{"models": {"p/a": NaN}}', "[" * 100_000, "\x00" * 100, "\ud800"],
)  # fmt: skip
def test_a_broken_file_is_moved_aside_and_reported(path: Path, broken: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(broken.encode(errors="surrogatepass"))
    assert "damaged" in blacklist.read(path).problems[0]
    snapshot = blacklist.update(path, put(cooldown()), NOW)
    assert snapshot.moved_aside == path.with_name("blacklist.json.corrupt-20261122T100000Z")
    assert snapshot.moved_aside.read_bytes() == broken.encode(errors="surrogatepass")
    assert blacklist.read(path).cooldowns == {A: cooldown()}


def test_no_broken_file_replaces_an_earlier_one(path: Path) -> None:
    for text in ("first", "second"):
        content(path, text)
        blacklist.update(path, dict, NOW)
    kept = sorted(path.parent.glob("blacklist.json.corrupt-*"))
    assert [file.read_text() for file in kept] == ["first", "second"]


@pytest.mark.parametrize("sort", ["symlink", "dangling", "directory", "fifo", "huge"])
def test_what_is_no_plain_file_is_moved_aside_untouched(path: Path, sort: str) -> None:
    path.parent.mkdir(parents=True)
    victim = path.parent / "victim"
    victim.write_text("precious")
    match sort:
        case "symlink":
            path.symlink_to(victim)
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "huge":
            os.truncate(content(path, "{}"), 1 << 30)
    assert blacklist.read(path).problems
    blacklist.update(path, put(cooldown()), NOW)
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()
    assert len(list(path.parent.glob("blacklist.json.corrupt-*"))) == 1


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("p/bad", None),
        ("p/bad", "soon"),
        ("p/bad", {}),
        ("p/bad", {"until": 1795341600}),
        ("p/bad", {"until": "tomorrow"}),
        ("p/bad", {"until": "9999-12-31T23:59:59-23:59"}),
        ("p/bad", {"until": None, "strikes": -1}),
        ("p/bad", {"until": None, "strikes": True}),
        ("p/bad", {"until": None, "kind": ["x"]}),
        ("p/bad", {"until": None, "reason": {"a": 1}}),
        ("p/bad", {"until": None, "target": "q/b"}),
        ("p/bad", {"until": None, "target": {"model": "q/*"}}),
        ("nomodel", {"until": None}),
        ("/x", {"until": None}),
        ("p/\x1b[2J", {"until": None}),
        ("p/" + "x" * 1000, {"until": None}),
        (" p/a", {"until": None}),
    ],
)
def test_a_wrong_entry_is_passed_over_and_counted(path: Path, key: str, entry: object) -> None:
    content(path, {"version": 1, "models": {key: entry, "p/a": ENTRY}})
    snapshot = blacklist.read(path)
    assert list(snapshot.cooldowns) == [A]
    assert "1 invalid entries" in snapshot.problems[0]


def test_a_minimal_entry_of_another_writer_counts(path: Path) -> None:
    content(path, {"models": {"p/*": {"until": "2026-11-22T11:00:00Z"}, "p/a": {"until": None, "reason": "x" * 999}}})
    found = blacklist.read(path).cooldowns
    assert (found[A.whole_provider].until, found[A.whole_provider].scope) == (NOW + 3600, Scope.PROVIDER)
    assert found[A].until is None
    assert len(found[A].reason) == 300


def test_ended_entries_stay_while_strikes_need_them(path: Path) -> None:
    blacklist.update(path, put(cooldown(until=NOW)), NOW)
    blacklist.update(path, put(cooldown(B, NOW + 5000)), NOW + STRIKE_WINDOW - 1)
    assert set(blacklist.read(path).cooldowns) == {A, B}
    blacklist.update(path, dict, NOW + STRIKE_WINDOW)
    assert set(blacklist.read(path).cooldowns) == {B}


def test_no_write_without_a_change(path: Path) -> None:
    first = blacklist.update(path, put(cooldown()), NOW)
    second = blacklist.update(path, put(cooldown()), NOW + 1)
    third = blacklist.update(path, put(cooldown(strikes=2)), NOW + 1)
    assert first.signature == second.signature
    assert third.signature not in (None, first.signature)


def test_a_missing_file_is_an_empty_register(path: Path) -> None:
    assert blacklist.read(path) == blacklist.Snapshot({}, sound=False)  # this does not mean that cooldowns were cleared
    assert not path.parent.exists()


def test_a_file_that_cannot_be_opened_is_no_empty_register(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    assert "cannot be read" in blacklist.read(path).problems[0]
    with pytest.raises(StateError, match="cannot be written"):
        blacklist.update(path, put(cooldown()), NOW)


def test_a_place_that_cannot_be_written_is_one_clear_fault(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StateError, match="is not a directory, so nothing can be written into it"):
        blacklist.update(blocked / "blacklist.json", put(cooldown()), NOW)
    assert blacklist.read(blocked / "blacklist.json").cooldowns == {}


def test_a_hanging_writer_does_not_make_us_hang(path: Path) -> None:
    with locked(path), pytest.raises(StateError, match="lock"), locked(path, patience=0.05):
        pass


WRITER = """
    import sys
    from pathlib import Path
    from ocwatchd.core.domain.cooldowns import Cooldown
    from ocwatchd.core.domain.types import LimitKind, ModelRef, Scope, ResetSource
    from ocwatchd.state.blacklist import store as blacklist

    path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for number in range(count):
        entry = Cooldown(ModelRef(name, str(number)), LimitKind.QUOTA, Scope.MODEL, 0.0, None, 1, ResetSource.TEXT)
        blacklist.update(path, lambda register: register | {entry.model: entry}, 1.0)
    """


def writer(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    root = Path(blacklist.__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(count)]
    return subprocess.Popen(command, cwd=root)


def test_two_writers_at_once_lose_nothing(path: Path) -> None:
    writers = [writer(path, name, 40) for name in ("p", "q")]
    assert [process.wait(60) for process in writers] == [0, 0]
    assert len(blacklist.read(path).cooldowns) == 80


def test_killed_at_any_moment_the_register_is_whole(path: Path) -> None:
    seen = 0
    for pause in (0.02, 0.05, 0.09, 0.13, 0.17):
        process = writer(path, f"p{pause}", 100_000)
        while not any(ref.provider == f"p{pause}" for ref in blacklist.read(path).cooldowns):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        snapshot = blacklist.read(path)
        assert snapshot.problems == ()
        assert len(snapshot.cooldowns) > seen
        seen = len(snapshot.cooldowns)
    blacklist.update(path, dict, 1.0)
    assert not list(path.parent.glob(".*.tmp"))


def test_reading_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(StateError):
        read_plain(tmp_path / "link")


BAD_NAMES = ["p/\x1b[2J", "p/a\nb", "p/\u202eb", "p/" + "x" * 4096, "p/a\u00a0b", "p/\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_entry_that_readers_refuse_is_not_written(path: Path, name: str) -> None:
    provider, _, model = name.partition("/")
    healthy = cooldown()
    found = blacklist.update(path, put(cooldown(ModelRef(provider, model)), healthy), NOW)
    assert "1 entries were not written" in found.problems[0]
    assert found.cooldowns == blacklist.read(path).cooldowns == {A: healthy}
    assert blacklist.read(path).problems == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"strikes": 10**12},
        {"doublings": 10**12},
        {"rule": "r" * 9999, "session": "s" * 9999, "reason": "x" * 9999},
        {"target": Target(B, None, "p" * 9999)},
    ],
)
def test_a_field_is_cut_to_what_readers_take(path: Path, changes: dict[str, Any]) -> None:
    blacklist.update(path, put(cooldown(**changes)), NOW)
    assert blacklist.read(path).problems == ()
    assert A in blacklist.read(path).cooldowns


@pytest.mark.parametrize(
    "changes", [{"since": 9e11}, {"until": 9e11}, {"since": -5.0}, {"target": Target(ModelRef("q", "*"))}]
)
def test_an_entry_that_cannot_be_written_down_keeps_the_one_that_is_there(path: Path, changes: dict[str, Any]) -> None:
    blacklist.update(path, put(cooldown()), NOW)
    found = blacklist.update(path, put(cooldown(**changes), cooldown(B)), NOW)
    assert found.problems
    assert blacklist.read(path).cooldowns == {A: cooldown(), B: cooldown(B)}


def test_the_file_never_outgrows_what_is_read_of_it(path: Path) -> None:
    """The entries that end last are kept, and other data is dropped first."""
    many = {ModelRef("p", f"{n:05}" + "x" * 280): cooldown(until=NOW + 60 + n, reason="y" * 300) for n in range(9000)}
    many = {ref: replace(entry, model=ref) for ref, entry in many.items()}
    more = {"fallbacks": {str(ref): [{"model": "q/b", "agent": None}] for ref in many}}
    found = blacklist.update(path, lambda _: {**many, A: cooldown(until=None), B: cooldown(B, NOW - 5)}, NOW, more)
    assert path.stat().st_size <= blacklist.MAX_BYTES
    assert "were not written" in found.problems[0]
    kept = blacklist.read(path)
    assert kept.problems == ()
    assert kept.cooldowns == found.cooldowns
    ends = [entry.until or 0 for ref, entry in kept.cooldowns.items() if ref in many]
    assert A in kept.cooldowns
    assert len(ends) > 1000
    assert min(ends) == NOW + 60 + 9000 - len(ends)
    blacklist.update(path, put(cooldown(B)), NOW + 1)
    assert not list(path.parent.glob("*.corrupt*"))


def test_what_cannot_be_read_is_removed_only_with_everything_else(path: Path) -> None:
    content(path, {"version": 1, "theirs": 1, "models": {"p/a": ENTRY, "p/\x1b[2J": ENTRY, "p/b": 3}})
    assert blacklist.update(path, lambda _: {}, NOW).removed == ()
    assert set(json.loads(path.read_text())["models"]) == {"p/\x1b[2J", "p/b"}
    assert blacklist.update(path, lambda _: {}, NOW, whole=True).removed == ("p/\x1b[2J", "p/b")
    assert json.loads(path.read_text())["models"] == {}
    assert json.loads(path.read_text())["theirs"] == 1


@pytest.mark.parametrize("jump", [3700.0, 86_400.0, 315_360_000.0])
def test_nothing_is_forgotten_on_one_look_at_the_clock(path: Path, jump: float) -> None:
    """Writers drop nothing in a moment in which the clock is ahead; after a minute of steady time they do."""
    blacklist.update(path, put(cooldown(until=NOW + 3600), cooldown(B, NOW + 900_000_000)), NOW)
    for seconds in (0.0, 1.0, 30.0, 59.0):
        blacklist.update(path, put(cooldown(B, NOW + 900_000_000 + seconds)), NOW + jump + seconds + 700)
        assert A in blacklist.read(path).cooldowns
    blacklist.update(path, put(cooldown(B)), NOW + 1)
    assert blacklist.read(path).cooldowns[A].until == NOW + 3600
    blacklist.update(path, put(cooldown(B, NOW + 90_000)), NOW + jump + 4000)
    blacklist.update(path, put(cooldown(B, NOW + 90_001)), NOW + jump + 4061)
    assert A not in blacklist.read(path).cooldowns
