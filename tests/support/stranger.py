"""Simulate another user of this machine (`nobody`), who listens where ocwatchd might and creates files in place of
ours.

Only root can start a process of another user. For any other user, these tests are reduced to checking that our own
processes are accepted. `THERE_ARE_STRANGERS` is true in the first case.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
THERE_ARE_STRANGERS = os.geteuid() == 0

_LISTENS = """
import os, socket, sys
user, host, port, path = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
if user != os.geteuid():
    os.setgid(user)
    os.setuid(user)
if path:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
else:
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
server.listen(16)
print(server.getsockname()[1] if not path else path, flush=True)
while True:
    connection, _ = server.accept()
    print("connected", flush=True)
    connection.settimeout(1)
    try:
        print(connection.recv(65536), flush=True)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    except OSError:
        pass
    connection.close()
"""


class Eavesdropper:
    """A server that records what is sent to it. `heard()` ends it and returns the record."""

    def __init__(self, process: subprocess.Popen[str], at: str) -> None:
        self._process, self.at = process, at

    @property
    def port(self) -> int:
        return int(self.at)

    def heard(self) -> str:
        self._process.kill()
        return self._process.communicate()[0]


@contextmanager
def listening_as(user: int, host: str = "", port: int = 0, path: Path | None = None) -> Iterator[Eavesdropper]:
    """Start a process of this user that listens at host and port (0: a free one), or at a socket file."""
    command = [sys.executable, "-c", _LISTENS, str(user), host, str(port), str(path or "")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
    assert process.stdout is not None
    try:
        yield Eavesdropper(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate() if not process.stdout.closed else process.wait()


def give_to(path: Path, user: int = NOBODY) -> None:
    """Make another user the owner of a file, or of a directory and its contents. Without root, this does nothing."""
    if THERE_ARE_STRANGERS:
        for place, directories, files in os.walk(path):
            for name in (*directories, *files):
                os.chown(Path(place) / name, user, user, follow_symlinks=False)
        os.chown(path, user, user, follow_symlinks=False)


def owners_below(path: Path) -> dict[str, int]:
    """Return the owner of each file and directory below this one, by its relative path."""
    return {str(found.relative_to(path)): found.lstat().st_uid for found in path.rglob("*")}
