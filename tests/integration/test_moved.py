import json

import pytest

from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.messages import Remember
from ocwatchd.state.files import StateError
from ocwatchd.state.moved_sessions import KEPT, MOST, remember

T = 1_800_000_000.0
A, B = Target(ModelRef("p", "a"), "build"), Target(ModelRef("p", "b"))


def sessions(path):
    return json.loads(path.read_text())["sessions"]


def test_a_moved_session_is_entered_and_forgotten_when_it_is_back(tmp_path):
    path = tmp_path / "moved.json"
    remember(path, Remember("ses_1", A, B), T)
    assert sessions(path)["ses_1"]["from"] == {"model": "p/a", "agent": "build"}
    assert sessions(path)["ses_1"]["to"] == {"model": "p/b", "agent": None}
    assert path.stat().st_mode & 0o777 == 0o600
    remember(path, Remember("ses_1"), T + 1)
    assert sessions(path) == {}


def test_it_stays_small(tmp_path):
    path = tmp_path / "moved.json"
    entry = {"from": {}, "to": {}, "since": "2027-01-15T08:00:00.000Z"}
    path.write_text(json.dumps({"version": 1, "sessions": {f"ses_{n}": entry for n in range(MOST)}}))
    remember(path, Remember("ses_new", A, B), T)
    assert len(sessions(path)) == MOST
    remember(path, Remember("ses_newer", A, B), T + KEPT + 1)
    assert list(sessions(path)) == ["ses_newer"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sessions": []}', "[" * 100_000])
def test_a_broken_file_is_begun_anew(tmp_path, text):
    path = tmp_path / "moved.json"
    path.write_text(text)
    remember(path, Remember("ses_1", A, B), T)
    assert list(sessions(path)) == ["ses_1"]


def test_a_newer_file_is_left_alone(tmp_path):
    path = tmp_path / "moved.json"
    path.write_text('{"version": 2, "sessions": {}}')
    with pytest.raises(StateError, match="newer"):
        remember(path, Remember("ses_1", A, B), T)
    assert json.loads(path.read_text())["version"] == 2


def test_a_clock_that_is_years_ahead_for_a_moment_forgets_nobody(tmp_path):
    path = tmp_path / "moved.json"
    remember(path, Remember("ses_1", A, B), T)
    remember(path, Remember("ses_2", A, B), T + 10 * 365 * 86_400)
    assert set(sessions(path)) == {"ses_1", "ses_2"}
