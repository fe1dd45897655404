"""Tests of notices: who gets them, once, and when it is quiet. The desktop's program is a stand-in on PATH."""

from __future__ import annotations

import json
import os
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ocwatchd.config.model import NoticeSettings
from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress
from ocwatchd.core.engine.messages import Notify
from ocwatchd.daemon.notifier import Notifier
from ocwatchd.opencode.sessions.names import name_among_several

NOTICE = Notify("exhausted:ses_1:0", "Every model is limited", "p/a is the first to return,", "ses_1", None, "/p", 1e9)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Make a program that writes its arguments and standard input into a file beside it, and exits with `code`."""

    def make(name: str, code: int = 0) -> Path:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n{{ printf "%s|" "$@"; cat; echo; }} >> "{path}.said"\nexit {code}\n')
        path.chmod(0o755)
        return path

    return make


def said(program: Path) -> list[str]:
    path = Path(f"{program}.said")
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_gets_the_notice_as_json_once_per_matter(program: Callable[..., Path]) -> None:
    mine = program("mine")
    notifier = Notifier(NoticeSettings(desktop=False, command=(str(mine), "--from", "$HOME; true")))
    notifier.notify(NOTICE)
    notifier.notify(NOTICE)
    (line,) = said(mine)
    *arguments, event = line.split("|", 2)
    assert arguments == ["--from", "$HOME; true"], "arguments, never a shell"
    told: dict[str, Any] = json.loads(event)
    assert (told["version"], told["title"], told["session"]) == (1, "Every model is limited", "ses_1")
    assert told["until"] == "2001-09-09T01:46:40.000Z"
    assert told["text"].startswith("p/a is the first to return, until")


def test_a_notice_names_the_session_if_there_are_several(
    program: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/dev")
    with sqlite3.connect(tmp_path / "opencode.db") as connection:
        connection.execute("CREATE TABLE session (id, title, directory, parent_id, time_updated)")
        add = "INSERT INTO session VALUES (?, ?, ?, ?, 1)"
        connection.execute(add, ("ses_1", "Fix the login form", "/home/dev/shop", None))
        connection.execute(add, ("ses_sub", "Search (@explore subagent)", "/home/dev/shop", "ses_1"))
    notifier = Notifier(
        NoticeSettings(desktop=False, command=(str(program("mine")),)),
        name_of=lambda session: name_among_several(str(tmp_path), session),
    )
    notifier.notify(Notify("one", "title", "p/a is limited", "ses_1"))
    with sqlite3.connect(tmp_path / "opencode.db") as connection:
        connection.execute(add, ("ses_2", "New session - 2026-11-30", "/srv", None))
    for number, session in enumerate(("ses_1", "ses_2", "ses_unknown", None)):
        notifier.notify(Notify(f"more {number}", "title", "p/a is limited", session))
    texts = [json.loads(line.lstrip("|"))["text"] for line in said(tmp_path / "mine")]
    assert texts == [
        "p/a is limited",
        "“Fix the login form” in ~/shop: p/a is limited",
        "in /srv: p/a is limited",
        "p/a is limited",
        "p/a is limited",
    ]


def test_a_command_that_fails_is_said_once_and_again_when_it_fails_otherwise(
    program: Callable[..., Path], tmp_path: Path
) -> None:
    lines: list[str] = []
    broken = program("broken", code=3)
    notifier = Notifier(NoticeSettings(desktop=False, command=(str(broken),)), lines.append)
    for matter in ("one", "two"):
        notifier.notify(Notify(matter, "title", "text"))
    notifier.configure(NoticeSettings(desktop=False, command=(str(tmp_path / "absent"),)))
    notifier.notify(Notify("three", "title", "text"))
    assert lines == [
        f"notifications.command: {broken} exited with code 3",
        f"notifications.command: {tmp_path / 'absent'}: No such file or directory",
    ]


def test_desktop_notices_can_be_switched_off_and_are_silent_in_the_quiet_hours(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop, mine = program("notify-send"), program("mine")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", f"{desktop.parent}{os.pathsep}{os.environ['PATH']}")
    now = datetime.now().astimezone()
    around = tuple((at.hour * 60 + at.minute) for at in (now - timedelta(hours=1), now + timedelta(hours=1)))
    for number, settings in enumerate(
        (
            NoticeSettings(command=(str(mine),)),
            NoticeSettings(desktop=False, command=(str(mine),)),
            NoticeSettings(command=(str(mine),), quiet=(around[0], around[1])),
        )
    ):
        Notifier(settings).notify(Notify(f"matter {number}", f"title {number}", "text"))
    assert said(desktop) == ["--app-name=ocwatchd|--|OpenCode: title 0|text|"]
    assert [json.loads(line.partition("|")[2])["title"] for line in said(mine)] == ["title 0", "title 1"]


@pytest.mark.parametrize(
    ("quiet", "silent", "loud"),
    [
        ((22 * 60, 7 * 60), [22 * 60, 0, 7 * 60 - 1], [7 * 60, 22 * 60 - 1]),
        ((12 * 60, 13 * 60), [12 * 60, 13 * 60 - 1], [13 * 60, 0, 12 * 60 - 1]),
        ((60, 60), [], [0, 60, 61]),
        (None, [], [0, 720]),
    ],
)
def test_quiet_hours_may_go_over_midnight(quiet: tuple[int, int] | None, silent: list[int], loud: list[int]) -> None:
    settings = NoticeSettings(quiet=quiet)
    assert [settings.silent_at(minute) for minute in (*silent, *loud)] == [True] * len(silent) + [False] * len(loud)


def test_a_notice_on_the_desktop_is_no_markup_and_no_escape(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop = program("notify-send")
    monkeypatch.setenv("PATH", f"{desktop.parent}:{os.environ['PATH']}")
    words = r"p/<b>x</b> &#65; \033[31m \n <a href='file:///etc'>x</a>"
    Notifier(NoticeSettings(toast=False)).notify(Notify("matter", words, words))
    (line,) = said(desktop)
    *_, title, body = line.removesuffix("|").split("|")
    assert title == f"OpenCode: {words}", "the title is plain text"
    assert body == r"p/&lt;b&gt;x&lt;/b&gt; &amp;#65; \\033[31m \\n &lt;a href='file:///etc'&gt;x&lt;/a&gt;"


def test_a_toast_that_hangs_holds_up_no_other_notice(program: Callable[..., Path]) -> None:
    mine, toasts = program("mine"), list[Callable[[], None]]()
    endpoint = Endpoint(TcpAddress("127.0.0.1", 9), 7)
    settings = NoticeSettings(desktop=False, command=(str(mine),))
    notifier = Notifier(settings, run_elsewhere=lambda asked, work: toasts.append(work) if asked == endpoint else None)
    for matter in ("one", "two"):
        notifier.notify(Notify(matter, "title", "text", "ses_1", endpoint, "/p"))
    assert (len(said(mine)), len(toasts)) == (2, 2)


class Ntfy:
    """A stand-in for an ntfy server: it records each request and answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, self.headers["Authorization"]))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def topic(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server.server_port}{path}"


def test_a_topic_of_ntfy_gets_each_notice_in_words() -> None:
    ntfy = Ntfy()
    notifier = Notifier(NoticeSettings(desktop=False, ntfy=ntfy.topic("/base/my%20topic?auth=x", "me:p%40ss@")))
    notifier.notify(NOTICE)
    notifier.notify(NOTICE)
    notifier.notify(Notify("long", "Größe", "ä" * 10_000))
    (path, body, authorization), (_, long, _) = ntfy.requests
    assert path == "/base/?auth=x"
    assert body["topic"] == "my topic"
    assert body["title"] == "OpenCode: Every model is limited"
    assert body["message"].startswith("p/a is the first to return, until")
    assert authorization == "Basic " + b64encode(b"me:p@ss").decode()
    assert long["title"] == "OpenCode: Größe"
    assert len(long["message"].encode()) < 4096, "a longer message would become an attachment"


def test_a_notice_that_ntfy_refuses_is_reported_once_and_without_its_address() -> None:
    ntfy, lines = Ntfy(403), []
    settings = NoticeSettings(desktop=False, ntfy=ntfy.topic("/swordfish", "me:swordfish@"))
    notifier = Notifier(settings, lines.append)
    for number in range(2):
        notifier.notify(Notify(f"matter {number}", "title", "text"))
    ntfy.server.shutdown()
    ntfy.server.server_close()
    notifier.notify(Notify("down", "title", "text"))
    notifier.configure(NoticeSettings(desktop=False, ntfy="http://[::1/swordfish"))
    notifier.notify(Notify("odd", "title", "text"))
    assert lines[:2] == [
        "notifications.ntfy: the notice was not published: the server responded with status 403",
        "notifications.ntfy: the notice was not published: Connection refused",
    ]
    assert len(lines) == 3
    assert "swordfish" not in "".join(lines)


def test_ntfy_is_silent_in_quiet_hours() -> None:
    ntfy = Ntfy()
    now = datetime.now()
    begin, end = ((now + timedelta(hours=hours)).hour * 60 for hours in (-2, 2))
    Notifier(NoticeSettings(desktop=False, ntfy=ntfy.topic("/t"), quiet=(begin, end))).notify(NOTICE)
    assert ntfy.requests == []
