"""The supervised `opencode run` and its streams: started as if we were not there, watched with little more than `stat`.

It shares our process group, terminal and descriptors, so Ctrl-C, job control and the window's size reach it as ever.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence

from ocwatchd.launcher.stdout import Output

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from ocwatchd.launcher.attached import Attached
    from ocwatchd.launcher.sentinel import Sentinel

LOOK = 0.1
"""Seconds between looks for a sign of trouble."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Child:
    """A process that we started. Thread-safe; `code` is its exit code, negative for a signal, None while it runs."""

    def __init__(self, program: str, words: Sequence[str], environ: Mapping[str, str], stdout: int | None) -> None:
        """Start it, with this descriptor as its standard output, or our own.

        Raises:
            OSError: it cannot be started.
        """
        reset = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these, and what is ignored is inherited
        moved = [(os.POSIX_SPAWN_DUP2, stdout, 1)] if stdout is not None else []
        self.pid = os.posix_spawn(program, ["opencode", *words], environ, file_actions=moved, setsigdef=reset)
        self.code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
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
        """End it and what it started; SIGINT lets OpenCode save its session (0.03 - 0.12 s on 1.1 - 1.18)."""
        if self.poll() is not None:
            return
        from ocwatchd.opencode.family import descendants, end_all

        end_all([*descendants(self.pid), self.pid], number, patience)
        deadline = time.monotonic() + 2.0
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)


class Signals:
    """Notes the signals that end us, and wakes a wait when one comes or a child ends. Undone by `close`."""

    def __init__(self) -> None:
        """Take over."""
        self.got: signal.Signals | None = None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {}
        for number in ENDING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # under nohup, and in the background of a script, it stays ignored
                self._before[number] = before
                signal.signal(number, self._note)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)

    def _note(self, number: int, _frame: object) -> None:
        self.got = signal.Signals(number)

    def wait(self, seconds: float, also: int | None = None) -> None:
        """Until a signal comes, the time is over, or there is something to read on `also`."""
        try:
            select.select([self._reader] if also is None else [self._reader, also], [], [], seconds)
            os.read(self._reader, 4096)
        except (BlockingIOError, InterruptedError):
            return

    def close(self) -> None:
        """Give the handlers back."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()  # not inherited: PEP 446
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def watch(child: Child, signals: Signals, sentinel: Sentinel | Attached, output: Output, look: float = LOOK) -> bool:
    """Wait until the child ends, a signal comes, or there is a sign of trouble: then True."""
    looked = 0.0
    while child.poll() is None and signals.got is None:
        signals.wait(look, output.reader)
        output.take()
        if time.monotonic() - looked >= look:
            looked = time.monotonic()
            if sentinel.troubled():
                return True
    return sentinel.troubled() or (signals.got is None and sentinel.failed())


def stopped(child: Child, signals: Signals) -> int:
    """The exit code of a child that has ended, or is ended now by the signal that we got."""
    if signals.got is not None:
        child.end(signals.got)
    code = child.poll()
    return 1 if code is None else code


def wait_for(child: Child, signals: Signals, output: Output) -> int:
    """The child's exit code, whatever happens."""
    while (code := child.poll()) is None:
        if signals.got is not None:
            child.end(signals.got)
        signals.wait(1.0, output.reader)
        output.take()
    return code
