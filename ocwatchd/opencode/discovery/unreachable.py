"""Find sessions whose process has no endpoint, by matching the message store with the process table.

The store does not show which process is working on a session. A candidate is a process that was started in the
session's directory before the answer began. If there are several candidates, the command line or the log decides. If
neither is conclusive, the user must choose a process. In the log that all processes share (1.17 and later), each line
names the run of OpenCode that wrote it, and the first line of a run shows when the process was started.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path

from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, TcpAddress
from ocwatchd.errors import OpenCodeUnreachable, UsageError
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.discovery.endpoints import OpenCodeProcess
from ocwatchd.opencode.discovery.processes import Running, holds, inspect
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.snapshots import snapshot_of
from ocwatchd.ownership import open_followed

_LINE = re.compile(rb"timestamp=(?P<time>\S+) level=(?P<level>\S+) run=(?P<run>[0-9a-zA-Z_-]{4,64}) ")
_FROM_THE_START = (b"INFO", b"DEBUG")
"""Levels of the first line in the log of a process that logs its start. If a process logs only warnings, its first line
does not show when the process started.
"""


def run_began(log_dir: Path, session: str) -> float | None:
    """Return the time, in epoch seconds, of the first log line of the process that last named the session in the log.
    Return None if the time is unknown.

    The whole log is searched, which takes 0.3 s per GB. This is fast enough for a user's command, but not for the
    daemon.
    """
    try:
        with (
            open(open_followed(log_dir / "opencode.log"), "rb") as handle,  # noqa: PTH123 (a descriptor)
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as log,
        ):
            last = _line_at(log, log.rfind(session.encode()))
            first = _line_at(log, log.find(b" run=" + last["run"] + b" ")) if last else None
            if first is None or first["level"] not in _FROM_THE_START:
                return None
            return datetime.fromisoformat(first["time"].decode()).timestamp()
    except (OSError, ValueError):  # the log is missing or empty, or its time is invalid
        return None


def _line_at(log: mmap.mmap, position: int) -> re.Match[bytes] | None:
    """Return the match of `_LINE` at the beginning of the line that contains this position. Text quoted in the line
    cannot match.
    """
    return _LINE.match(log, log.rfind(b"\n", 0, position) + 1) if position >= 0 else None


SINCE = 86_400.0
"""Maximum age, in seconds, of sessions with an open answer. It is long because OpenCode's own retry may wait silently
for hours.
"""
FAILED_SINCE = 3_600.0
"""Maximum age, in seconds, of failed answers. An hour includes failures during a lunch break, but not those of the
previous day.
"""
FIRST_LINE = 30.0
"""Maximum time, in seconds, from a process's start to its first log line. The first line appeared after 0.6 to 4 s on
1.18.33, and after 7 s on a loaded machine. If two processes were started within this time before the line, the user
must choose one of them.
"""
SLACK = 0.25
"""Tolerance, in seconds, for the start time of a process. The reported time may be too late, because it is measured in
clock ticks and the clock may be adjusted.
"""

_NOWHERE = Endpoint(TcpAddress("127.0.0.1", 0))
"""The placeholder endpoint of sessions that have none."""
_MESSAGES = 60
"""Number of most recent messages that are read."""


class Unreached:
    """Reads the message store and the processes of one data directory. No request is sent to an endpoint."""

    def __init__(
        self,
        data: Path,
        processes: Callable[[], Iterable[OpenCodeProcess]],
        inspect_process: Callable[[int], Running | None] = inspect,
    ) -> None:
        """`processes` lists the OpenCode processes of this user."""
        self._data, self._store = data, SessionStore(data)
        served = [process for process in processes() if process.data and _same(process.data, data)]
        self._served = [found for process in served if (found := inspect_process(process.pid)) and not _is_bun(found)]

    def session(self, ident: str, now: float) -> SessionSnapshot | None:
        """Return one session according to the store, with a placeholder as its `endpoint`. Return None if the session
        is unknown.
        """
        session = self._store.session(ident)
        return self._snapshot(session, now) if session else None

    def unsettled(self, now: float) -> list[SessionSnapshot]:
        """Return sessions whose last answer is open or has failed recently, in directories in which OpenCode is
        running.
        """
        places = [process.directory for process in self._served]
        found = [self._snapshot(entry.session, now) for entry in self._store.unsettled(now - SINCE)]
        return [
            snapshot
            for snapshot in found
            if _is_fresh(snapshot, now) and any(_same(snapshot.directory, place) for place in places)
        ]

    def process(self, snapshot: SessionSnapshot, pid: int | None = None) -> Running:
        """Return the process that is working on a session. `pid` is that of the process that the user has chosen, or
        None.

        Raises:
            OpenCodeUnreachable: There is no such process.
            UsageError: The process is ambiguous, or it is not a TUI.
        """
        candidates = [process for process in self._served if _may_be(process, snapshot)]
        named = (
            [process for process in candidates if process.pid == pid] if pid else self._likeliest(candidates, snapshot)
        )
        if not named:
            none = f"process {pid} is not an OpenCode process that" if pid else "no running OpenCode process"
            raise OpenCodeUnreachable(f"{none} can be working on {snapshot.session} in {snapshot.directory}")
        if len(named) > 1:
            listed = "".join(f"\n  --pid {process.pid}  {' '.join(process.arguments)}" for process in named)
            raise UsageError(
                f"{len(named)} OpenCode processes are running in {snapshot.directory}; choose one:{listed}"
            )
        if named[0].subcommand is not None:
            raise UsageError(f"process {named[0].pid} is `opencode {named[0].subcommand}`: only a TUI can be restarted")
        return named[0]

    def others(
        self, snapshot: SessionSnapshot, process: Running, now: float, related: Sequence[str]
    ) -> list[SessionSnapshot]:
        """Return the other sessions on which this process may also be working. Sessions in `related` are left out."""
        found = [self._snapshot(entry.session, now) for entry in self._store.unsettled(now - SINCE)]
        return [
            other
            for other in found
            if other.session not in (snapshot.session, *related)
            and snapshot.session != other.parent
            and other.answer_ended is None
            and _may_be(process, other)
        ]

    def _snapshot(self, session: Session, now: float) -> SessionSnapshot:
        messages = self._store.messages(session.id, _MESSAGES)
        return snapshot_of(_NOWHERE, session, RetryStatus("idle"), messages, False, now)

    def _likeliest(self, candidates: list[Running], snapshot: SessionSnapshot) -> list[Running]:
        """Return the candidates that the command line or the log links to the session. If there are none, return all
        candidates.

        npm's wrapper, which is also called `opencode`, is left out, but the process that the wrapper has started
        remains a candidate.
        """
        launchers = {relative.pid for process in candidates for relative in process.above}
        own = [process for process in candidates if process.pid not in launchers]
        if len(own) < 2:
            return own
        named = [process for process in own if process.session == snapshot.session]
        return named or self._by_log(own, snapshot.session) or own

    def _by_log(self, processes: list[Running], session: str) -> list[Running]:
        logs = self._data / "log"
        began = run_began(logs, session)
        if began is None:
            return [process for process in processes if holds(process, logs, session)]
        return [process for process in processes if -SLACK <= began - process.started <= FIRST_LINE]


def _is_bun(process: Running) -> bool:
    """Return whether this `opencode` process only acts as bun. For example, 1.1.65 runs `opencode pm ls -g` during its
    first seconds.
    """
    return process.arguments[:1] == ("pm",) or process.environ.get("BUN_BE_BUN") == "1"


def _is_fresh(snapshot: SessionSnapshot, now: float) -> bool:
    return snapshot.answer_ended is None or snapshot.answer_ended >= now - FAILED_SINCE


def _may_be(process: Running, snapshot: SessionSnapshot) -> bool:
    began = snapshot.answer_started
    return _same(process.directory, snapshot.directory) and (began is None or process.started <= began + SLACK)


def _same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
