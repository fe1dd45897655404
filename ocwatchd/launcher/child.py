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

LOOK = 0.25
"""Seconds between looks for a sign of trouble."""

CHUNK = 1 << 18
SIGN = b"ERROR"
"""Stands in every failure's log record, in all dialects."""

_RECENT = "SELECT id FROM session WHERE time_updated >= ? ORDER BY time_updated DESC LIMIT 20"
_LAST = "SELECT data FROM message WHERE session_id = ? ORDER BY time_created DESC, id DESC LIMIT 1"

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Child:
    """A process that we started. Thread-safe; `code` is its exit code, negative for a signal, None while it runs."""

    def __init__(self, program: str, words: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        reset = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these, and what is ignored is inherited
        self.pid = os.posix_spawn(program, ["opencode", *words], environ, setsigdef=reset)
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

    def wait(self, seconds: float) -> None:
        """Until a signal comes or the time is over."""
        try:
            select.select([self._reader], [], [], seconds)
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


class Sentinel:
    """Looks for signs of trouble since it was made: a failure in a log, or a fact that the plugin has written."""

    def __init__(self, logs: str, facts: str) -> None:
        """`logs` and `facts` are directories that may not exist yet."""
        self._logs, self._facts = logs, facts
        self.began = time.time()
        self._began = self.began - 1.0  # file systems with a coarse clock
        self._offsets = {name: size for name, size, _ in _files(logs, ".log")}
        self._known = {name: size for name, size, _ in _files(facts, ".jsonl")}

    def troubled(self) -> bool:
        """Whether anything looks like a failure; of whose process is not known yet."""
        if any(size > self._known.get(name, 0) for name, size, _ in _files(self._facts, ".jsonl")):
            return True
        return any(
            self._reads(name, size)
            for name, size, changed in _files(self._logs, ".log")
            if changed >= self._began and size != self._offsets.get(name, 0)
        )

    def failed(self) -> bool:
        """Whether a turn that was worked on since then has failed, by the message store.

        For the child's end: from 1.2 on, a last error often never reaches the log, and 1.3 ends with code 0 all the
        same. The store of older versions is not asked: their logs are complete.
        """
        import sqlite3  # late: 4 CPU ms, at the end of a run

        path = f"{os.path.dirname(self._logs)}/opencode.db"  # noqa: PTH120
        if not os.path.exists(path):  # noqa: PTH110
            return False
        try:
            connection = sqlite3.connect(f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True)
            try:
                recent = connection.execute(_RECENT, (int(self.began * 1000),)).fetchall()
                last = [connection.execute(_LAST, session).fetchone() for session in recent]
            finally:
                connection.close()
        except sqlite3.Error:
            return False
        return any(row is not None and '"error":{' in row[0] for row in last)

    def _reads(self, name: str, size: int) -> bool:
        start = self._offsets.get(name, 0)
        try:
            with open(f"{self._logs}/{name}", "rb") as handle:  # noqa: PTH123
                handle.seek(start if start <= size else 0)
                while chunk := handle.read(CHUNK):
                    if SIGN in chunk:
                        return True
                self._offsets[name] = max(handle.tell() - len(SIGN) + 1, 0)
        except OSError:
            return False
        return False


def _files(directory: str, ending: str) -> list[tuple[str, int, float]]:
    try:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(ending)]
    except OSError:
        return []
    return [(name, info.st_size, info.st_mtime) for name, info in found]


def watch(child: Child, signals: Signals, sentinel: Sentinel, look: float = LOOK) -> bool:
    """Wait until the child ends, a signal comes, or there is a sign of trouble: then True."""
    looked = 0.0
    while child.poll() is None and signals.got is None:
        signals.wait(look)
        if time.monotonic() - looked >= look:
            looked = time.monotonic()
            if sentinel.troubled():
                return True
    return sentinel.troubled() or (signals.got is None and sentinel.failed())


def wait_for(child: Child, signals: Signals) -> int:
    """The child's exit code, whatever happens."""
    while (code := child.poll()) is None:
        if signals.got is not None:
            child.end(signals.got)
        signals.wait(1.0)
    return code
