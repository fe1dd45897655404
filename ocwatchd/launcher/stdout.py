"""Hold back the standard output of a `run`, so that nothing is printed if the run exits with code 75.

Output to a pipe is held and written when the run has finished. A command substitution, `$(…)`, receives the same output
as without ocwatchd. If the run must print nothing, a file that receives the output is truncated to its old length.
Output to a terminal and `--format json` is passed through immediately and cannot be withdrawn.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

CAP = 1 << 20
"""Maximum number of bytes that are held. Longer output is passed through and cannot be withdrawn."""
_PART = 1 << 16


class Output:
    """Collects the child's output and, after a move, the remaining answer. Only the main thread uses it."""

    def __init__(self, held: bool) -> None:
        """With `held`, output to a pipe is held back."""
        self.child: int | None = None
        """Descriptor for the child's standard output, or None if the child uses our own."""
        self.reader: int | None = None
        self._kept = b""
        self._holding = self._through = False
        self._start: int | None = None
        try:
            info = os.fstat(1)
            piped = stat.S_ISFIFO(info.st_mode) or stat.S_ISSOCK(info.st_mode)
            # output to a pipe that also receives standard error is not held, to preserve the order of the two streams
            if piped and held and not os.path.sameopenfile(1, 2):
                self.reader, self.child = os.pipe()
                os.set_blocking(self.reader, False)
                self._holding = True
            elif stat.S_ISREG(info.st_mode) and not fcntl.fcntl(1, fcntl.F_GETFL) & os.O_APPEND:
                self._start = os.lseek(1, 0, os.SEEK_CUR)
        except OSError:
            return

    def started(self) -> None:
        """Close our copy of the pipe's write end after the child has started."""
        if self.child is not None:
            os.close(self.child)
            self.child = None

    def take(self) -> None:
        """Read the child's output. Call this often, because a full pipe blocks the child."""
        while self.reader is not None:
            try:
                part = os.read(self.reader, _PART)
            except BlockingIOError:
                return
            # Close the pipe at the end of the output. Close it also if the reader of our own output has closed its
            # pipe, so that the child receives a SIGPIPE.
            if not part or not self._keep(part):
                self._close()

    def write(self, text: str) -> int:
        """Write text as if the child had written it."""
        if not self._holding:
            return sys.stdout.write(text)
        self.take()
        self._keep(text.encode())
        return len(text)

    def flush(self) -> None:
        """Flush output that is not held."""
        sys.stdout.flush()

    def end(self, empty: bool) -> None:
        """Write the held output. With `empty`, discard it instead, or truncate the file to its old length."""
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
        snapshot = memoryview(data)
        try:
            while snapshot:
                snapshot = snapshot[os.write(1, snapshot) :]
        except OSError:
            return False
        return True

    def _close(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None
