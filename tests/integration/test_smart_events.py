"""Tests that `oc-smart run` keeps following the event stream of the server in which its session runs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.launcher import supervise
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.attached_server import AttachedServer
from ocwatchd.launcher.child import Child
from ocwatchd.launcher.session_host import Run
from ocwatchd.launcher.signals import Signals
from ocwatchd.launcher.stdout import Output
from ocwatchd.launcher.supervise import Supervisor
from ocwatchd.opencode.process.reaper import Guardian
from tests.integration.fakedoor import listening, routes
from tests.support.processes import wait_until

PLACE = {"home": "/home/dev", "worktree": "/", "directory": "/p"}
ROUTES = {"/path": PLACE, "/doc": {"paths": {"/global/event": {}}}, "/session/status": {}, "/session": []}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Alone(Guardian):
    """A guardian that watches nothing."""

    def __init__(self) -> None:
        self.pid, self._writer = 0, -1


class Events:
    """A server whose event streams send one event and then run `then`; `opened` counts them."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.opened, self._then, self._rest = 0, then, routes(ROUTES)

    def play(self, connection: socket.socket, line: str, request: bytes) -> None:
        if not line.startswith("GET /global/event "):
            self._rest(connection, line, request)
            return
        self.opened += 1
        connection.sendall(HEAD + b'data: {"payload":{"type":"server.connected","properties":{}}}\n\n')
        self._then()


@contextmanager
def supervised(endpoint: Endpoint) -> Iterator[None]:
    """Supervise a client of this endpoint until the end of the block."""
    arguments = Arguments(["run", "--attach", f"http://{endpoint.address}", "hello"])
    child = Child(sys.executable, ["-c", "import time; time.sleep(600)"], os.environ, None)
    signals = Signals()
    began = time.time()
    server = AttachedServer(arguments, os.environ["XDG_STATE_HOME"] + "/ocwatchd", began)
    run = Run(child, signals, Output(held=False), sys.executable, {}, arguments, None, began, server)
    thread = threading.Thread(target=Supervisor(run, Alone(), print).run)
    thread.start()
    try:
        yield
    finally:
        signals.got = signal.SIGTERM
        thread.join()
        signals.close()
        child.end(signal.SIGKILL)


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.delenv("OPENCODE_CONFIG_DIR", raising=False)
    monkeypatch.setattr(supervise, "descendants", lambda _: [])  # those of this process are not the launcher's
    monkeypatch.setattr(supervise, "LISTEN_INTERVAL", 0.1)


def test_an_event_stream_that_has_ended_is_opened_again() -> None:
    events = Events(then=lambda: None)
    with listening(events.play) as endpoint, supervised(endpoint):
        wait_until(lambda: events.opened >= 3, why="a third event stream")


def test_an_open_event_stream_is_not_opened_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[float] = []
    search = supervise.OpenCodeWork.listen

    def counted(work: supervise.OpenCodeWork) -> None:
        searches.append(time.monotonic())
        search(work)

    monkeypatch.setattr(supervise.OpenCodeWork, "listen", counted)
    over = threading.Event()
    events = Events(then=over.wait)
    with listening(events.play) as endpoint, supervised(endpoint):
        try:
            wait_until(lambda: events.opened, why="the event stream")
            before = len(searches)
            wait_until(lambda: len(searches) >= before + 5, why="further searches")
            assert events.opened == 1
        finally:
            over.set()
