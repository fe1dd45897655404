"""Tests of the real daemon behind the retry hook, in a stand-in for the released OpenCode 2 (by contract only)."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ocwatchd.opencode.client.request import connect_file
from tests.support.daemon import Daemon, epoch
from tests.support.homes import Home
from tests.support.host2 import SEEN, Host2, ended, prompt, refused, script, session
from tests.support.processes import wait_until
from tests.support.provider import Provider

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
LIMITED = {"error": {"type": "provider.rate-limit", "message": "Rate limit reached for requests", "status": 429}}
HOUR = 3_600_000


@pytest.fixture
def home(provider: Provider) -> Iterator[Home]:
    """A home with a short path, whose socket any client can open by its name."""
    with TemporaryDirectory(prefix="ow-") as root:
        yield Home(Path(root) / "home", provider.url)


def test_a_home_with_a_long_name_is_served_as_well(provider: Provider) -> None:
    """Linux allows 107 bytes for a socket's path, macOS 103."""
    with TemporaryDirectory(prefix="ow-") as root:
        home = Home(Path(root) / ("h" * (119 - len(root))), provider.url)
        assert len(str(home.root)) == 120
        with Daemon(home) as daemon:
            wait_until(lambda: asked(daemon), 20, why="the daemon to be ready for its first limit")
            *_, end, _, seen = Host2(home.root).play(
                session(PRIMARY), script(PRIMARY, {**LIMITED, "retryAfter": HOUR}), prompt(),
                {"act": "breathe", "times": 100}, SEEN, clock="real",
            )  # fmt: skip
            assert (end, [request["model"] for request in seen["requests"]]) == ("succeeded", [PRIMARY, FALLBACK])
            # No endpoint leads into the stand-in, so the plugin reports whether the fallback answers.
            (moved,) = daemon.wait_journal("moved")
            assert (moved["target"], moved["why"]) == (FALLBACK, f"{FALLBACK} answers")
            assert "cannot ask" not in daemon.said()


@pytest.fixture
def daemon(home: Home) -> Iterator[Daemon]:
    with Daemon(home) as started:
        # The plugin waits only 300 ms for an answer, which the first answer of a daemon may take on a busy machine.
        wait_until(lambda: asked(started), 20, why="the daemon to be ready for its first limit")
        yield started


def test_a_limit_is_moved_in_its_own_step_and_written_down(daemon: Daemon) -> None:
    host = Host2(daemon.home.root)
    *_, end, seen, times = host.play(
        session(PRIMARY), script(PRIMARY, {**LIMITED, "retryAfter": HOUR}), prompt(), SEEN, {"act": "times"},
        clock="real",
    )  # fmt: skip
    print(f"the daemon's answer took {times['hooks'][0]:.3f} s")
    assert end == "succeeded"
    assert [request["model"] for request in seen["requests"]] == [PRIMARY, FALLBACK]
    (limit,) = daemon.wait_journal("limit")
    assert (limit["model"], limit["session"]) == (PRIMARY, "ses_1")
    assert daemon.wait_journal("switched")[0]["target"] == FALLBACK
    entry = daemon.wait_cooldown(PRIMARY)
    assert 800 < epoch(entry["until"]) - epoch(entry["since"]) < 1000  # OpenCode's own maximum of 15 minutes
    assert host.errors() == ""


def test_with_everything_limited_the_attempt_is_held_until_a_fallback_is_free(daemon: Daemon) -> None:
    for model in (FALLBACK, "mock3/third"):
        daemon.ocwatch("block", model, "--for", "1h").check_returncode()
    host = Host2(daemon.home.root)
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(
            host.play, session(PRIMARY), script(PRIMARY, {**LIMITED, "retryAfter": HOUR}), prompt(), SEEN, clock="real"
        )
        daemon.wait_journal("exhausted")
        daemon.ocwatch("clear", FALLBACK).check_returncode()
        *_, end, seen = playing.result(60)
    assert (end, [request["model"] for request in seen["requests"]]) == ("succeeded", [PRIMARY, FALLBACK])
    assert len(daemon.journal("limit")) == 1


def test_a_bad_request_that_quotes_a_limit_is_not_moved(daemon: Daemon) -> None:
    lie = {"error": {**LIMITED["error"], "status": 400, "message": "invalid request: no tool named rate_limit"}}
    *_, seen = Host2(daemon.home.root).play(session(PRIMARY), script(PRIMARY, lie, {}), prompt(), SEEN, clock="real")
    assert [request["model"] for request in seen["requests"]] == [PRIMARY, PRIMARY]
    assert daemon.journal("claim") == []


def test_eight_sessions_at_once_are_each_moved_once(daemon: Daemon) -> None:
    names = [f"ses_{number}" for number in range(8)]
    *_, seen = Host2(daemon.home.root).play(
        script(PRIMARY, {**LIMITED, "retryAfter": HOUR}), *(session(PRIMARY, name) for name in names),
        *(prompt(name, wait=False) for name in names), *(ended(name) for name in names), SEEN, clock="real",
    )  # fmt: skip
    assert {state["model"] for state in seen["sessions"].values()} == {FALLBACK}
    assert len(seen["requests"]) == 16
    assert len(daemon.wait_journal("claim", 8)) == 8


def test_the_socket_is_for_this_user_alone_and_gone_with_the_daemon(daemon: Daemon) -> None:
    path = daemon.state / "decisions.sock"
    about = path.lstat()
    assert (stat.S_ISSOCK(about.st_mode), stat.S_IMODE(about.st_mode), about.st_uid) == (True, 0o600, os.getuid())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    daemon.stop()
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{\n", b"[]\n", b"\xff\xfe\n", b'{"version": 2}\n', b"x" * 400_000, b"[" * 100_000 + b"\n",
     json.dumps({"version": 1, "session": 7, "model": "a", "attempt": "2"}).encode() + b"\n"],
)  # fmt: skip
def test_garbage_is_hung_up_on_and_the_next_question_is_answered(daemon: Daemon, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(10)
        asker.connect(str(daemon.state / "decisions.sock"))
        try:
            asker.sendall(line)
            asker.shutdown(socket.SHUT_WR)
            assert asker.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    # On a loaded machine an answer may be too late; then it is not sent.
    assert wait_until(lambda: asked(daemon), 20, why="an answer in time")["verdict"] == "untouched"
    assert "internal fault" not in daemon.said()


def asked(daemon: Daemon) -> dict[str, Any]:
    question = {
        "version": 1, "session": "ses_1", "model": PRIMARY, "attempt": 2, "decision": {"retry": False},
        "error": refused("provider.auth", 401)["error"],
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(10)
        connect_file(asker, str(daemon.state / "decisions.sock"))
        asker.sendall(json.dumps(question).encode() + b"\n")
        return dict(json.loads(asker.makefile("rb").readline() or b"{}"))
