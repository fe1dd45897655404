"""Tests of which session on another server is the client's: the one that got its prompt since the launch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ocwatchd.launcher import attached_watch
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.attached_server import AttachedServer, contains_prompt, no_endpoint
from ocwatchd.launcher.attached_watch import LONG_RUN_CHECK_INTERVAL
from ocwatchd.launcher.trouble_signs import LONG_RUN

QUOTED = '"two words" plain "a \\"b\\" c"'


@pytest.mark.parametrize(
    ("words", "text", "ours"),
    [
        (("two words", "plain", 'a "b" c'), QUOTED, True),
        (("two words", "plain", 'a "b" c'), 'two words plain a "b" c\n', True),
        (("hello",), "hello\nand what the pipe said", True),
        (("prompt 1",), '"prompt 10"', False),
        (("-m", "p/m", "--", "--wait"), "--wait", True),
        (("--command", "greet", "world"), "Greet the world", True),
        ((), "from a pipe", True),
    ],
)
def test_words_are_known_again(words: tuple[str, ...], text: str, ours: bool) -> None:
    parts: list[dict[str, Any]] = [{"type": "file"}, {"type": "text", "text": text}]
    assert contains_prompt(Arguments(["run", "--attach", "http://127.0.0.1:1", *words]), parts) is ours


def test_only_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, fine in (("http://localhost:4096", True), ("http://192.0.2.1:1", False), ("https://localhost", False)):
        assert (no_endpoint(Arguments(["run", "--attach", url])) is None) is fine
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", "secret")
    told = AttachedServer(Arguments(["run", "--attach", "http://127.0.0.1:1", "-u", "me"]), "/nowhere", 0.0).environ
    assert told == {"OPENCODE_SERVER_PASSWORD": "secret", "OPENCODE_SERVER_USERNAME": "me"}


class Server:
    """Sessions with one prompt each, all in a retry; `asked` are the requested paths."""

    def __init__(self) -> None:
        self.sessions: dict[str, tuple[str, float]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked.append(self.path)
                body = json.dumps(outer.answer(path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A notifier that does nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path: str) -> Any:
        if path == "/session/status":
            return {
                ident: {"type": "retry", "attempt": 1, "message": "slow down", "next": 9e12} for ident in self.sessions
            }
        if path in ("/permission", "/question"):
            return []
        listed = [self.info(ident) for ident in self.sessions]
        if path == "/session":
            return listed
        ident = path.split("/")[2]
        if path.endswith("/children"):
            return [{**self.info(ident), "id": f"{ident}_child", "parentID": ident}]
        return self.messages(ident) if path.endswith("/message") else self.info(ident)

    def info(self, ident: str) -> dict[str, Any]:
        at = self.sessions[ident][1] * 1000
        return {"id": ident, "directory": "/server", "version": "1.18.33", "time": {"created": at, "updated": at}}

    def messages(self, ident: str) -> list[dict[str, Any]]:
        text, at = self.sessions[ident]
        info = {"id": f"msg_{ident}", "role": "user", "time": {"created": at * 1000}}
        return [{"info": info, "parts": [{"id": "prt_1", "type": "text", "text": text}]}]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_a_session_is_ours_if_nobody_else_can_have_sent_it(server: Server, tmp_path: Path) -> None:
    began = time.time()

    def retrying(*words: str) -> tuple[bool, str | None]:
        found = AttachedServer(Arguments(["run", "--attach", server.url, *words]), str(tmp_path), began)
        return found.retrying(), found.session.id if found.session else None

    server.sessions = {"ses_old": ("hello", began - 60), "ses_other": ("something else", began + 1)}
    assert retrying("hello") == (False, None)
    server.sessions["ses_mine"] = ("hello", began + 1)
    assert retrying("hello") == (True, "ses_mine")
    assert retrying("hello", "-s", "ses_other") == (False, None)
    server.sessions["ses_twin"] = ("hello", began + 1)
    assert retrying("hello") == (False, None), "two that sent the same cannot be told apart"
    places = {path.partition("directory=")[2].partition("&")[0] for path in server.asked}
    assert places == {"", "%2Fserver"}, "to ask about our own directory would open it there"


def test_a_long_run_is_watched_unless_a_daemon_handles_its_session(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, daemon = [1000.0], [True]
    monkeypatch.setattr(attached_watch, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(AttachedServer, "retrying", lambda _: False)
    monkeypatch.setattr(AttachedServer, "left_to_daemon", lambda _: daemon[0])
    watched = attached_watch.Attached(Arguments(["run", "--attach", server.url, "hello"]), str(tmp_path))
    watched.started(1)

    def troubled(later: float) -> bool:
        now[0] += later
        return watched.troubled()

    assert not troubled(LONG_RUN + 1), "its session is not known yet"
    server.sessions = {"ses_mine": ("hello", time.time() + 1), "ses_other": ("something else", time.time() + 1)}
    assert not troubled(LONG_RUN_CHECK_INTERVAL), "a daemon handles it"
    daemon[0] = False
    assert not troubled(LONG_RUN_CHECK_INTERVAL / 2), "the journal is not read more often"
    assert troubled(LONG_RUN_CHECK_INTERVAL / 2)
    assert watched.server is not None
    assert [watched.server.holds(ident) for ident in ("ses_mine", "ses_mine_child", "ses_other")] == [True, True, False]
