"""Tests of the cursor file: written as a whole, for this user only; if it is damaged, this is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.state import cursors

PLACES = {
    "/logs/opencode.log": Cursor(1, 2, "ab", 1024, "cd", 64, 4096),
    "/logs/old.log": Cursor(1, 3, "", 0, "", 0, 0),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cursors.json"
    cursors.save(path, PLACES)
    assert cursors.load(path) == (PLACES, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_no_file_is_nothing_to_complain_about(tmp_path: Path) -> None:
    assert cursors.load(tmp_path / "cursors.json") == ({}, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"version": 2, "files": {}}', b'{"version": 1, "files": []}', b"null"],
)
def test_a_damaged_file_is_said_and_started_afresh(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cursors.json"
    path.write_bytes(content)
    loaded, complaint = cursors.load(path)
    assert loaded == {}
    assert complaint is not None and str(path) in complaint
    cursors.save(path, PLACES)
    assert cursors.load(path) == (PLACES, None)


@pytest.mark.parametrize("field", [{"offset": -1}, {"inode": "2"}, {"head": None}, {"device": True}])
def test_a_damaged_entry_costs_only_itself(tmp_path: Path, field: dict[str, object]) -> None:
    path = tmp_path / "cursors.json"
    cursors.save(path, PLACES)
    document = json.loads(path.read_bytes())
    document["files"]["/logs/old.log"] |= field
    document["files"]["/logs/none.log"] = 7
    path.write_text(json.dumps(document))
    assert cursors.load(path) == ({"/logs/opencode.log": PLACES["/logs/opencode.log"]}, None)


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    real, path = tmp_path / "real.json", tmp_path / "cursors.json"
    cursors.save(real, PLACES)
    path.symlink_to(real)
    loaded, complaint = cursors.load(path)
    assert loaded == {}
    assert complaint is not None
    cursors.save(path, {})
    assert not path.is_symlink()
    assert cursors.load(real) == (PLACES, None)
