"""Tests of the recorder: it empties bodies and changes nothing else, and every recording is complete and readable."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.corpus_clean import clean, empty_bodies
from scripts.corpus_scenarios import fill, load
from tests.support.answers import Error, Ok

RECORDED = Path(__file__).parent / "recorded"
RECORDINGS = sorted(p.parent for p in RECORDED.glob("*/labels.jsonl"))

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_around = st.text().filter(lambda text: '"requestBodyValues":' not in text)


@given(before=_around, body=st.dictionaries(st.text(max_size=4), _json, max_size=4), after=_around)
def test_bodies_are_emptied_and_the_rest_stands(before: str, body: dict[str, object], after: str) -> None:
    line = f'{before}"requestBodyValues":{json.dumps({"model": "m", "messages": [body], **body})}{after}'
    emptied = empty_bodies(line)
    assert emptied.startswith(f'{before}"requestBodyValues":{{"model":')
    assert emptied.endswith(f"}}{after}")
    assert '"messages"' not in emptied.removeprefix(before).removesuffix(after)


def test_the_home_directory_is_renamed_also_where_it_is_quoted() -> None:
    raw = b"dir=/tmp/x y/home/project url=?directory=%2Ftmp%2Fx%20y%2Fhome%2Fp git=tmp-x y-home-p \xff"
    cleaned = b"dir=/home/dev/project url=?directory=%2Fhome%2Fdev%2Fp git=home-dev-p \xff"
    assert clean(raw, Path("/tmp/x y/home")) == cleaned


def test_a_body_that_is_cut_short_is_an_error_and_not_kept() -> None:
    with pytest.raises(ValueError):
        empty_bodies('x "requestBodyValues":{"model":"m","messages":[{"role":')


def test_the_table_has_limits_of_every_kind_and_as_many_traps() -> None:
    scenarios = load()
    kinds = {s.kind for s in scenarios}
    assert kinds == {"rate_limit", "quota", "usage_limit", "overloaded", "none"}
    assert len({s.name for s in scenarios}) == len(scenarios)
    assert sum(s.kind == "none" for s in scenarios) >= 30
    assert all(isinstance(a, Error | Ok) for s in scenarios for a in s.titles)


def test_marks_are_filled_in() -> None:
    filled = fill({"a": ["@TAG@", 1], "b": "@EPOCH+60@"}, {"TAG": "T0001"})
    assert filled["a"] == ["T0001", 1]
    assert filled["b"].isdigit()


def log_bytes(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_has_limits_traps_and_no_conversation(recording: Path) -> None:
    rows = [json.loads(line) for line in (recording / "labels.jsonl").read_text().splitlines()]
    assert {row["is_limit"] for row in rows} == {True, False}
    assert all((row["kind"] != "none") == row["is_limit"] for row in rows)
    logs = b"".join(log_bytes(path) for path in recording.glob("*.log*"))
    assert b"error" in logs
    assert b'"messages":[' not in logs
    assert b"ocwatchd-record-" not in logs


def test_the_recordings_cover_every_dialect() -> None:
    versions = {path.name.partition("-")[0] for path in RECORDINGS}
    assert versions >= {"1.0.0", "1.0.98", "1.0.185", "1.2.27", "1.15.13", "1.17.0", "1.18.33"}
