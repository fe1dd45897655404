"""Standard output of a `run`, kept back until it is known that an answer comes: at exit code 75 nothing stands there.

Into a pipe, the plain answer is held and handed over at the end (a `$(…)` sees no difference); into a file, what was
written is cut off again. A terminal and `--format json` are for who watches: nothing is held, and nothing taken back.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

CAP = 1 << 20
"""Bytes held at most; more than that is passed through, and cannot be taken back."""
_PART = 1 << 16


class Output:
    """Where the child writes, and where what goes on elsewhere is written. Used from the main thread alone."""

    def __init__(self, held: bool) -> None:
        """`held`: whether it may be kept back."""
        self.child: int | None = None
        """The descriptor for the child's standard output; None for our own."""
        self.reader: int | None = None
        self._kept = b""
        self._holding = self._through = False
        self._start: int | None = None
        try:
            info = os.fstat(1)
            piped = stat.S_ISFIFO(info.st_mode) or stat.S_ISSOCK(info.st_mode)
            if piped and held and not os.path.sameopenfile(1, 2):  # together with errors its place among them counts
                self.reader, self.child = os.pipe()
                os.set_blocking(self.reader, False)
                self._holding = True
            elif stat.S_ISREG(info.st_mode) and not fcntl.fcntl(1, fcntl.F_GETFL) & os.O_APPEND:
                self._start = os.lseek(1, 0, os.SEEK_CUR)
        except OSError:
            return

    def started(self) -> None:
        """The child has its end."""
        if self.child is not None:
            os.close(self.child)
            self.child = None

    def take(self) -> None:
        """Take what the child has written. Call it often: a full pipe stops the child."""
        while self.reader is not None:
            try:
                part = os.read(self.reader, _PART)
            except BlockingIOError:
                return
            if not part or not self._keep(part):  # its end; or whoever read our output is gone: so is its reader
                self._close()

    def write(self, text: str) -> int:
        """What is said in the child's place."""
        if not self._holding:
            return sys.stdout.write(text)
        self.take()
        self._keep(text.encode())
        return len(text)

    def flush(self) -> None:
        """Hand on what is not held."""
        sys.stdout.flush()

    def end(self, empty: bool) -> None:
        """The run is over. `empty`: nothing of it is to stand there."""
        self.take()
        if self.reader is not None:
            self._close()
        if not empty:
            self._pass(self._kept)
        elif self._start is not None:
            try:
                os.ftruncate(1, self._start)
                os.lseek(1, self._start, os.SEEK_SET)
            except OSError:
                return
        self._kept = b""

    def _keep(self, part: bytes) -> bool:
        if self._through:
            return self._pass(part)
        self._kept += part
        if len(self._kept) <= CAP:
            return True
        self._through, kept, self._kept = True, self._kept, b""
        return self._pass(kept)

    def _pass(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view) :]
        except OSError:
            return False
        return True

    def _close(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None
