"""A real server from Debian's package `redis-server` (or `valkey-server`, if installed), private to one test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tests.support.processes import free_port

PATIENCE = 20.0


class Server:
    """One server in its own directory, on a unix socket, on TCP, and over TLS if it has a certificate."""

    def __init__(
        self,
        directory: Path,
        *,
        tls: tuple[Path, Path, Path] | None = None,
        more: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        address: str = "127.0.0.1",
    ) -> None:
        """Store the arguments. `tls` contains certificate, key and CA; `more` contains further arguments; `prefix` is a
        command that runs the server.
        """
        self._prefix, self._address = prefix, address
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.socket = directory, directory / "s"
        self.port, self._tls, self._more = free_port(), tls, more
        self.tls_port = free_port() if tls else 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start the server without data, and wait until it answers."""
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        assert program, "neither valkey-server nor redis-server is installed"
        self.socket.unlink(missing_ok=True)
        tls = []
        if self._tls:
            certificate, key, ca = map(str, self._tls)
            tls = ["--tls-port", str(self.tls_port), "--tls-cert-file", certificate, "--tls-key-file", key]
            tls += ["--tls-ca-cert-file", ca, "--tls-auth-clients", "no"]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix, program, "--port", str(self.port), "--bind", self._address,
                    "--unixsocket", str(self.socket),
                    "--save", "", "--appendonly", "no", "--protected-mode", "no",
                    "--dir", str(self.directory), *tls, *self._more,
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return self
            log_text = (self.directory / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        assert self._process is not None
        return self._process.pid

    def call(self, *words: str | bytes) -> object:
        """Send one command over the unix socket, in the server's own protocol, and return the answer."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        frame = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE)
            link.connect(str(self.socket))
            link.sendall(frame)
            with link.makefile("rb") as answers:
                return _answer(answers)

    def freeze(self) -> None:
        """Stop the process without ending it (SIGSTOP): connections stay open, but no request is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server immediately; no data is kept."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Server:
        """Start the server."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.kill()


def _answer(stream: BinaryIO) -> object:
    line = stream.readline()
    kind, rest = line[:1], line[1:].rstrip(b"\r\n")
    if kind == b"-":
        raise RuntimeError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        if int(rest) < 0:
            return None
        data = stream.read(int(rest))
        stream.read(2)
        return data
    if kind == b"*":
        return [_answer(stream) for _ in range(int(rest))]
    return rest
