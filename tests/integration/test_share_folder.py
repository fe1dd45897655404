"""Tests of cooldowns shared over a folder, with a real `ocwatch share` on each machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import ModelRef, ResetSource
from tests.support.share import OPUS, Machine, agree, wait_for

ACCOUNTS = {"anthropic": "team-max-1"}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = {"folder": str(folder), "accounts": ACCOUNTS}
    with (
        Machine(tmp_path / "a", {**settings, "node": "laptop"}) as a,
        Machine(tmp_path / "b", {**settings, "node": "ws"}) as b,
    ):
        yield a, b


def test_a_limit_prevents_on_the_other_machine(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    entry = b.entry()
    assert entry is not None
    assert (entry["node"], entry["strikes"], entry["session"]) == ("laptop", 0, None)
    assert entry["target"] == {"model": "other/fallback", "agent": None}
    assert b.ocwatch("pick", str(OPUS)).stdout == "other/fallback\n"
    (listed,) = json.loads(b.ocwatch("cooldowns", "--json").stdout)["cooldowns"]
    assert (listed["reset_source"], listed["node"]) == ("shared", "laptop")
    assert "reported by laptop" in b.ocwatch("status", code=3).stdout
    wait_for(lambda: agree(a, b, records=1))


def test_a_clear_on_one_machine_ends_it_on_all(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    b.ocwatch("clear", str(OPUS))
    wait_for(lambda: a.entry() is None, why=lambda: a.log())
    wait_for(lambda: agree(a, b, records=1))
    assert b.entry() is None


def test_an_answer_ends_hearsay_and_leaves_what_a_machine_has_met(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    b.answered()
    wait_for(
        lambda: agree(a, b, records=1) and all("\t1\t0\t-\t" in record for record in a.known()), why=lambda: a.log()
    )
    entry = a.entry()
    assert entry is not None
    assert entry["reset_source"] == "retry-after"


def test_who_is_away_learns_it_later_and_what_it_knows_survives_its_end(two: tuple[Machine, Machine]) -> None:
    a, b = two
    b.stop()
    a.limit()
    wait_for(lambda: len(a.known()) == 1)
    a.stop()
    b.start()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    a.start()
    wait_for(lambda: agree(a, b, records=1))


def test_a_clear_while_the_helper_is_away_is_told_when_it_is_back(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    wait_for(lambda: b.prevented() and agree(a, b, records=1), why=lambda: b.log())
    b.stop()
    b.ocwatch("clear", "--all")
    b.start()
    wait_for(lambda: a.entry() is None, why=lambda: a.log())


def test_a_damaged_or_missing_blacklist_is_no_clear(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    a.limit(ModelRef("anthropic", "claude-sonnet-4"))
    wait_for(lambda: b.prevented() and agree(a, b, records=2), why=lambda: b.log())
    a.blacklist.write_text("{ torn")
    wait_for(lambda: a.prevented(), why=a.log())  # moved aside; the known cooldowns are entered again
    b.blacklist.unlink()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    assert all("\t0\t" in record for record in a.known())


def test_another_machines_garbage_is_counted_and_skipped(two: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = two
    folder = tmp_path / "folder"
    a.limit()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    good = (folder / "laptop.cooldowns").read_bytes()
    bad = [b"\xff\xfe\x00", b"{}", good.replace(b"1\t", b"7\t", 1).strip(), b"x" * 5000]
    (folder / "evil.cooldowns").write_bytes(b"\n".join(bad))
    (folder / "notes.txt").write_text("nothing of ours")
    (folder / "laptop.sync-conflict-1.cooldowns").write_bytes(b"no")
    (folder / "pipe.cooldowns").symlink_to("/dev/zero")
    wait_for(lambda: sum(b.status()["skipped"].values()) >= 4, why=lambda: str(b.status()))
    assert b.status()["skipped"] == {"malformed": 2, "version": 1, "oversized": 1}
    assert b.prevented()
    assert b.status()["state"] == "connected"


def test_the_folder_goes_away_and_comes_back(two: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = two
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.rename(away)
    b.wait_state("gone")
    a.wait_state("gone")
    a.limit()
    done = a.ocwatch("status", code=3)
    assert "cooldowns have not been shared since" in done.stdout
    assert not folder.exists()
    away.rename(folder)
    wait_for(lambda: b.prevented(), why=lambda: b.log() + a.log())


def test_turned_off_what_is_known_stays_until_its_end(two: tuple[Machine, Machine]) -> None:
    a, b = two
    a.limit()
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    b.configure(None)
    wait_for(lambda: b.ended, why=lambda: b.log())
    assert b.stop() == 4
    assert b.prevented()
    assert b.status() == {}


def test_a_guess_is_believed_for_an_hour(two: tuple[Machine, Machine]) -> None:
    a, b = two
    now = a.limit(lasting=None, source=ResetSource.ESTIMATE)
    wait_for(lambda: b.prevented(), why=lambda: b.log())
    entry = b.entry()
    assert entry is not None
    from ocwatchd.clock import from_rfc3339

    assert abs(from_rfc3339(entry["until"]) - now - 3600) < 2


def test_a_second_helper_leaves_with_a_clear_message(two: tuple[Machine, Machine]) -> None:
    done = two[0].ocwatch("share", code=1)
    assert "already running" in done.stderr


def test_status_test_and_doctor(two: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, _ = two
    assert "laptop has been sharing cooldowns through" in a.ocwatch("share", "status").stdout
    said = json.loads(a.ocwatch("share", "status", "--json").stdout)
    assert (said["state"], said["transport"], said["node"], said["others_connected"]) == (
        "connected",
        "folder",
        "laptop",
        1,
    )
    assert "received after" in a.ocwatch("share", "test").stdout
    assert "other machines: ws" in a.ocwatch("share", "doctor").stdout
    a.stop()
    assert "is not running" in a.ocwatch("share", "status", code=3).stdout
    assert "is not running" in a.ocwatch("share", "doctor", code=1).stdout
    shutil.rmtree(tmp_path / "folder")
    assert "cannot be used" in a.ocwatch("share", "test", code=1).stderr


def test_who_did_not_ask_for_it_sees_nothing_of_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", {})
    machine.configure(None)
    assert "nothing is shared" in machine.ocwatch("share", code=4).stderr
    assert "not shared" in machine.ocwatch("share", "status").stdout
    machine.ocwatch("clear", str(OPUS))
    machine.ocwatch("status", code=3)
    assert not (machine.state / "share" / "clears.json").exists()


def test_a_folder_needs_no_client_and_a_server_names_what_is_missing(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "valkey"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not installed')\n")
    without = {"PYTHONPATH": str(hidden.parent)}
    folder = tmp_path / "folder"
    folder.mkdir()
    with Machine(tmp_path / "a", {"folder": str(folder), "accounts": ACCOUNTS}, environ=without) as a:
        assert re.fullmatch(r"[a-z0-9-]+", a.status()["node"])
    a.configure({"url": "valkey://127.0.0.1:1", "accounts": ACCOUNTS})
    for command in (("share",), ("share", "test")):
        done = a.ocwatch(*command, code=None)
        assert done.returncode in (1, 4)
        assert "pip install 'ocwatchd[share]'" in done.stderr
