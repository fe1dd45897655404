"""Tests of the registration of OpenCode 2's service: what is read from it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocwatchd.core.domain.snapshot import TcpAddress
from ocwatchd.opencode.client.v2.service import auth_in, basic, registered, registrations

SOUND = {"id": "x", "version": "2.0.26", "url": "http://127.0.0.1:49374", "pid": 12, "password": "hunter2"}


def write(path: Path, content: object, mode: int = 0o600) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)


def test_each_channel_s_service_is_found_and_its_password_is_not_shown(tmp_path: Path) -> None:
    write(tmp_path / "service.json", SOUND)
    write(tmp_path / "service-beta.json", {**SOUND, "url": "http://[::1]:1", "pid": 13, "password": None})
    write(tmp_path / "something.json", "{")
    (beta, latest), troubles = registered(tmp_path)
    assert troubles == []
    assert (latest.address, latest.pid, latest.version) == (TcpAddress("127.0.0.1", 49374), 12, "2.0.26")
    assert (latest.auth, beta.address, beta.auth) == (basic("hunter2"), TcpAddress("::1", 1), None)
    assert "hunter2" not in repr(latest)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (SOUND, 0o644, "mode is 0644"),
        (SOUND, 0o660, "mode is 0660"),
        ("{", 0o600, "not used"),
        ([], 0o600, "not contain a JSON object"),
        ({**SOUND, "pid": True}, 0o600, "no valid process id"),
        ({**SOUND, "url": "https://127.0.0.1:1"}, 0o600, "no http://"),
        ({**SOUND, "url": "http://example.com:80"}, 0o600, "not used"),
        ({**SOUND, "url": "http://10.0.0.7:80"}, 0o600, "not on this machine"),
        ({**SOUND, "url": 7}, 0o600, "no http://"),
    ],
)
def test_what_others_could_have_written_or_that_leads_elsewhere_is_not_used(
    tmp_path: Path, content: object, mode: int, why: str
) -> None:
    write(tmp_path / "service.json", content, mode)
    services, (trouble,) = registered(tmp_path)
    assert services == []
    assert why in trouble
    assert "hunter2" not in trouble


def test_a_link_or_a_directory_is_no_registration(tmp_path: Path) -> None:
    write(tmp_path / "real", SOUND)
    (tmp_path / "service.json").symlink_to(tmp_path / "real")
    (tmp_path / "service-x.json").mkdir()
    services, troubles = registered(tmp_path)
    assert (services, len(troubles)) == ([], 2)
    assert registered(tmp_path / "absent") == ([], [])


def test_a_start_and_an_end_show(tmp_path: Path) -> None:
    before = registrations(tmp_path)
    write(tmp_path / "service.json", SOUND)
    during = registrations(tmp_path)
    write(tmp_path / "other", {**SOUND, "pid": 99})
    (tmp_path / "other").replace(tmp_path / "service.json")
    assert len({before, during, registrations(tmp_path), registrations(tmp_path / "absent")}) == 3


def test_a_server_s_own_password_has_two_names() -> None:
    assert auth_in({"OPENCODE_SERVER_PASSWORD": "b"}) == basic("b")
    assert auth_in({"OPENCODE_SERVER_PASSWORD": "b", "OPENCODE_PASSWORD": "a"}) == basic("a")
    assert auth_in({"OPENCODE_PASSWORD": ""}) is None
