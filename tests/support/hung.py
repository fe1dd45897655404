"""OpenCode processes that accept connections and never respond, or stop responding later."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.processes import wait_until

PROGRAM = """
import json, os, socket, sys
kind, sockets, told, answers = sys.argv[2:6]
if kind == "unix":
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.join(sockets, f"{os.getpid()}.sock"))
else:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
server.listen(64)
open(told, "w").close()
place = json.dumps({"home": os.getcwd(), "worktree": os.getcwd(), "directory": os.getcwd()}).encode()
kept = []
while True:
    connection, _ = server.accept()
    if answers == "yes":
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(place) + place)
        connection.close()
        open("asked", "w").close()
    else:
        kept.append(connection)
"""
"""A process that looks like `opencode serve`, a server of many projects: the daemon queries it about every session."""
START_TIMEOUT = 120.0
"""Timeout, in seconds, for all processes together to listen and to be queried on a busy machine."""


class Hung:
    """Processes that listen, half of them at a plugin socket and half at a TCP port."""

    def __init__(self, home: Home, running: Sequence[subprocess.Popen[bytes]], places: Sequence[Path]) -> None:
        """`places` are the directories in which the processes run."""
        self.home, self.running, self.places = home, running, places

    def stop_when_asked(self) -> None:
        """Stop all of them (SIGSTOP) as soon as each has responded to a request."""
        wait_until(lambda: all((place / "asked").exists() for place in self.places), START_TIMEOUT, why="all are asked")
        for process in self.running:
            process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def hung(home: Home, daemon: Daemon, number: int, answers: bool) -> Iterator[Hung]:
    """Start processes in this home that never respond or, with `answers`, respond until `stop_when_asked` is called."""
    sockets = daemon.state / "doors"
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    places = [home.root / f"hung-{each}" for each in range(number)]
    try:
        for each, place in enumerate(places):
            place.mkdir()
            (place / "opencode").symlink_to(Path(sys.executable).resolve())
            (place / "serve").write_text(PROGRAM)
            told = ("unix" if each % 2 else "tcp", os.fspath(sockets), "listens", "yes" if answers else "no")
            command = [os.fspath(place / "opencode"), "serve", "serve", *told]
            running.append(subprocess.Popen(command, cwd=place, env=home.env(place)))
        wait_until(lambda: all((place / "listens").exists() for place in places), START_TIMEOUT, why="all listen")
        yield Hung(home, running, places)
    finally:
        for process in running:
            process.kill()
            process.wait(10)
