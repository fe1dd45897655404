"""A program in a pseudo-terminal, without tmux: tests can change the terminal's size and read its modes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Pty:
    """A context manager that runs `process` as the leader of a session with a new pseudo-terminal."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, size: tuple[int, int] = (80, 24)):
        """Start the process; `size` is in columns and rows."""
        self._master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self._master)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=dict(env), cwd=cwd, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            print(self.shown[-3000:])
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the terminal, as a user does by dragging the window."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def wait(self, text: str, timeout: float = 60.0) -> bytes:
        """Wait until the program has written `text` since the last wait. Return the output since then."""
        wanted, deadline = text.encode(), time.monotonic() + timeout
        while wanted not in self.shown:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} was not written within {timeout:g} s: {self.shown[-2000:]!r}")
            self._read(0.1)
        seen, _, self.shown = self.shown.partition(wanted)
        return seen + wanted

    def end(self, timeout: float = 60.0) -> int:
        """Wait for the process to end, read its remaining output, and return its exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not end: {self.shown[-2000:]!r}")
            self._read(0.05)
        self._read(0.0)
        return self.process.returncode

    def modes(self) -> list[Any]:
        """Return the terminal's modes, without the control characters."""
        return list(termios.tcgetattr(self._master)[:4])

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            part = b""
            with suppress(OSError):  # Linux: no process has the terminal open at this moment
                part = os.read(self._master, 65536)
            self.shown += part
            if not part:
                time.sleep(0.02)
                return
            seconds = 0.0
