"""Tests of the endpoint in the process: who may use it, and how long it exists."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bun import A, B, Bun, message, rests, went_to

pytestmark = pytest.mark.e2e


def test_the_door_passes_requests_on_with_the_password_and_goes_with_the_process(bun: Bun) -> None:
    post = {"method": "POST", "body": '{"a": 1}', "headers": {"content-type": "application/json"}}
    first, second, passed, seen = bun.play(
        {"act": "start"},
        {"act": "start", "directory": "/another/project"},
        {"act": "through", "socket": str(bun.endpoints), "path": "//evil.example/session?directory=%2Fp", "init": post},
        bun.about(),
    )
    assert first == second == ["chat.message", "chat.params", "config", "dispose", "event"]
    assert passed["status"] == 200
    served = passed["served"]
    assert served["url"].startswith("http://localhost:4096/")
    assert served["url"].endswith("/session?directory=%2Fp")
    assert served["body"] == '{"a": 1}'
    assert served["headers"]["authorization"] == "Basic c2VjcmV0"
    assert "x-opencode-directory" not in served["headers"]
    assert seen["modes"] == {"PID.sock": 0o600, "PID.json": 0o600}
    assert seen["mode"] == 0o700
    assert (seen["about"]["door"], seen["about"]["directory"], seen["about"]["plugin"]) == (True, "/project", "1")
    assert list(bun.endpoints.iterdir()) == []


def test_a_body_is_passed_on_in_one_piece_over_a_connection_of_its_own(bun: Bun) -> None:
    """Otherwise the next request on that connection sometimes got no answer (1.18.33 `serve`)."""
    post = {"method": "POST", "headers": {"content-type": "application/json", "framed": "yes"}, "body": '{"a": 1}'}
    (passed,) = bun.play({"act": "through", "socket": str(bun.endpoints), "path": "/session/x/abort", "init": post})
    assert passed["served"]["framed"] == ["8", None, "close"]


def test_a_home_with_a_long_path_has_a_door_too(bun: Bun) -> None:
    deep = Bun(bun.version, bun.home / ("d" * 120))
    deep.home.parent.mkdir()
    passed, seen = deep.play({"act": "through", "socket": str(deep.endpoints), "path": "/path"}, deep.about())
    assert passed["json"] == {"path": "/path"}
    assert len(seen["own"]) > 150


def test_an_asker_that_gives_up_interrupts_nothing_but_its_event_stream(bun: Bun) -> None:
    paths = ("/config/providers", "/event", "/global/event", "/session/ses_1/prompt_async")
    interrupted = bun.play(*({"act": "leave", "socket": str(bun.endpoints), "path": path} for path in paths))
    assert interrupted == [False, True, True, False]


def test_a_door_that_others_could_open_is_closed_to_them(bun: Bun) -> None:
    bun.endpoints.mkdir(parents=True)
    bun.endpoints.chmod(0o777)
    (seen,) = bun.play(bun.about())
    assert seen["mode"] == 0o700
    assert seen["modes"]["PID.sock"] == 0o600


def test_the_door_closes_with_the_last_project_and_opens_again_if_opencode_goes_on(newest: Bun) -> None:
    def closed(directory: str, old: bool = False) -> dict[str, Any]:
        event = {"event": {"type": "server.instance.disposed", "properties": {"directory": directory}}}
        return {"act": "hook", "name": "event" if old else "dispose", "input": event, "directory": directory}

    seen = newest.play(
        *({"act": "start"}, {"act": "start", "directory": "/second"}),
        *(closed("/second"), newest.about()),
        *(closed("/project", old=True), newest.about()),
        *({"act": "start"}, newest.about()),  # loaded again at once
        *(closed("/project"), newest.about(), {"act": "sleep", "ms": 3300}, newest.about()),
        {"act": "through", "socket": str(newest.endpoints), "path": "/path"},
    )
    assert [look["about"] is not None for look in seen if look and "about" in look] == [True, False, True, False, True]
    assert seen[-1]["json"] == {"path": "/path"}


def test_without_a_fetch_there_is_no_door_and_a_note(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    for client in ("bare", "other"):
        seen, output = bun.play({"act": "start", "client": client}, bun.about(), message(A))[1:]
        assert seen["about"]["door"] is False
        assert went_to(output) == "mock2/b build"
    assert "has no fetch" in bun.errors()
