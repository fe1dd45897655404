"""Start `opencode run` as a child, and watch it with little more than `stat`.

The child shares our process group, terminal and descriptors, so Ctrl-C, job control and window size changes work as
usual.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence

from ocwatchd.launcher.signals import Signals
from ocwatchd.launcher.stdout import Output

TYPE_CHECKING = False  # defined here because importing `typing` is costly
if TYPE_CHECKING:
    from ocwatchd.launcher.attached_watch import Attached
    from ocwatchd.launcher.trouble_signs import TroubleSigns

CHECK_INTERVAL = 0.1
"""Interval, in seconds, between checks for signs of a limit."""


class Child:
    """A process that we started. Thread-safe. `code` is the exit code (negative if a signal ended the process), or None
    while the process is running.
    """

    def __init__(self, program: str, words: Sequence[str], environ: Mapping[str, str], stdout: int | None) -> None:
        """Start the process. `stdout` is the descriptor for its standard output; None means our own standard output.

        Raises:
            OSError: The process cannot be started.
        """
        reset = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these signals, and a child would inherit that
        moved = [(os.POSIX_SPAWN_DUP2, stdout, 1)] if stdout is not None else []
        self.pid = os.posix_spawn(program, ["opencode", *words], environ, file_actions=moved, setsigdef=reset)
        self.code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process is running."""
        with self._lock:
            if self.code is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:
                    self.code = 1
                else:
                    if pid:
                        self.code = os.waitstatus_to_exitcode(status)
            return self.code

    def end(self, number: signal.Signals = signal.SIGINT, patience: float = 3.0) -> None:
        """End the child and the processes that it started. SIGINT lets OpenCode save its session, which takes 0.03 -
        0.12 s (1.1 - 1.18).
        """
        if self.poll() is not None:
            return
        from ocwatchd.opencode.process.process_tree import descendants, end_all  # lazy import: only to kill the child

        end_all([*descendants(self.pid), self.pid], number, patience)
        deadline = time.monotonic() + 2.0
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)


class Client(Child):
    """A child that is a client of a server. Processes that it started, such as the shared service, keep running after
    `end`.
    """

    def end(self, number: signal.Signals = signal.SIGINT, patience: float = 3.0) -> None:
        """End only the client. SIGINT lets it stop its turn."""
        for each, seconds in ((number, patience), (signal.SIGKILL, 2.0)):
            if self.poll() is not None:
                return
            os.kill(self.pid, each)  # the child has not been reaped yet, so its pid cannot be reused
            deadline = time.monotonic() + seconds
            while self.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)


def watch(
    child: Child,
    signals: Signals,
    trouble_signs: TroubleSigns | Attached,
    output: Output,
    interval: float = CHECK_INTERVAL,
) -> bool:
    """Wait until the child exits, a signal arrives, or there is a sign of a limit. Return whether there is a sign of a
    limit.
    """
    checked_at = 0.0
    while child.poll() is None and signals.got is None:
        signals.wait(interval, output.reader)
        output.take()
        if time.monotonic() - checked_at >= interval:
            checked_at = time.monotonic()
            if trouble_signs.troubled():
                return True
    return trouble_signs.troubled() or (signals.got is None and trouble_signs.failed())


def stopped(child: Child, signals: Signals) -> int:
    """If we received a signal, end the child. Return the child's exit code."""
    if signals.got is not None:
        child.end(signals.got)
    code = child.poll()
    return 1 if code is None else code


def wait_for(child: Child, signals: Signals, output: Output) -> int:
    """Wait for the child without watching it, and return its exit code."""
    while (code := child.poll()) is None:
        if signals.got is not None:
            child.end(signals.got)
        signals.wait(1.0, output.reader)
        output.take()
    return code
