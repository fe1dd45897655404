"""Record the signals that end a launch, and wait until a signal arrives or a child exits."""

from __future__ import annotations

import os
import select
import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """Handlers for the signals that terminate this process. `wait` returns when a signal arrives or a child exits, and
    `close` removes the handlers.
    """

    def __init__(self) -> None:
        """Install the signal handlers."""
        self.got: signal.Signals | None = None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {}
        for number in ENDING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # under nohup or in a background job, the signal stays ignored
                self._before[number] = before
                signal.signal(number, self._note)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)

    def _note(self, number: int, _frame: object) -> None:
        self.got = signal.Signals(number)

    def wait(self, seconds: float, also: int | None = None) -> None:
        """Wait until a signal arrives, `seconds` have passed, or the descriptor `also` becomes readable."""
        try:
            select.select([self._reader] if also is None else [self._reader, also], [], [], seconds)
            os.read(self._reader, 4096)
        except (BlockingIOError, InterruptedError):
            return

    def close(self) -> None:
        """Restore the previous signal handlers."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()  # children do not inherit these descriptors (PEP 446)
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer
