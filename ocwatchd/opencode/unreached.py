"""Sessions whose process no door leads to: read from the message store, and matched with the process table.

The store does not say which process works on a session. It is the one that was started in the session's directory
before the answer began; where several were, its own log or its command line tell it, and otherwise nobody guesses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ocwatchd.core.views import Door, SessionView, TcpAddress
from ocwatchd.errors import OpenCodeUnreachable, UsageError
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.doors import OpenCodeProcess
from ocwatchd.opencode.look import view_of
from ocwatchd.opencode.processes import Running, holds, inspect
from ocwatchd.opencode.runs import run_began
from ocwatchd.opencode.sessions import SessionStore

SINCE = 86_400.0
"""Seconds back for sessions with an open answer: a native retry lasts for hours without a trace."""
FAILED_SINCE = 3_600.0
"""Seconds back for failed ones: a person comes back from lunch, and yesterday's failures are old news."""
FIRST_LINE = 30.0
"""Seconds from a process's start to its first line in the log; 0.6 s on 1.18.33, 7 s on a loaded machine. Two that
were started so close together before it stay for a person to tell apart."""
SLACK = 1.0
"""Seconds by which the start of a process may be known too late: the kernel counts in ticks since the boot."""

_NOWHERE = Door(TcpAddress("127.0.0.1", 0))
_MESSAGES = 60


class Unreached:
    """Looks at the store and at the processes of one data directory; asks no door."""

    def __init__(
        self,
        data: Path,
        processes: Callable[[], Iterable[OpenCodeProcess]],
        look: Callable[[int], Running | None] = inspect,
    ) -> None:
        """`processes` lists the OpenCode processes of this user."""
        self._data, self._store, self._look = data, SessionStore(data), look
        served = [process for process in processes() if process.data and _same(process.data, data)]
        self._served = [found for process in served if (found := look(process.pid)) and not _is_bun(found)]

    def session(self, ident: str, now: float) -> SessionView | None:
        """One session as the store shows it; its `door` leads nowhere."""
        session = self._store.session(ident)
        return self._view(session, now) if session else None

    def unsettled(self, now: float) -> list[SessionView]:
        """Sessions whose last answer is open or failed lately, in directories where an OpenCode runs."""
        places = [process.directory for process in self._served]
        found = [self._view(entry.session, now) for entry in self._store.unsettled(now - SINCE)]
        return [view for view in found if _is_fresh(view, now) and any(_same(view.directory, it) for it in places)]

    def process(self, view: SessionView, pid: int | None = None) -> Running:
        """The process that works on a session; `pid` is a person's word for it.

        Raises:
            OpenCodeUnreachable: there is none.
            UsageError: it cannot be told, or is no TUI.
        """
        candidates = [process for process in self._served if _may_be(process, view)]
        named = [process for process in candidates if process.pid == pid] if pid else self._likeliest(candidates, view)
        if not named:
            about = f"process {pid}" if pid else "no running OpenCode"
            raise OpenCodeUnreachable(f"{about} in {view.directory} can have begun what {view.session} waits for")
        if len(named) > 1:
            listed = "".join(f"\n  --pid {process.pid}  {' '.join(process.arguments)}" for process in named)
            raise UsageError(f"{len(named)} OpenCode processes run in {view.directory}; name one:{listed}")
        if named[0].subcommand is not None:
            raise UsageError(f"process {named[0].pid} is `opencode {named[0].subcommand}`: only a TUI can be restarted")
        return named[0]

    def others(self, view: SessionView, process: Running, now: float, related: Sequence[str]) -> list[SessionView]:
        """Other sessions that may be at work in the same process."""
        found = [self._view(entry.session, now) for entry in self._store.unsettled(now - SINCE)]
        return [
            other
            for other in found
            if other.session not in (view.session, *related)
            and view.session != other.parent
            and other.answer_ended is None
            and _may_be(process, other)
        ]

    def _view(self, session: Session, now: float) -> SessionView:
        messages = self._store.messages(session.id, _MESSAGES)
        return view_of(_NOWHERE, session, RetryStatus("idle"), messages, False, now)

    def _likeliest(self, candidates: list[Running], view: SessionView) -> list[Running]:
        """Those with evidence, if there are any; a launcher of the same name counts as what it has launched."""
        launchers = {relative.pid for process in candidates for relative in process.above}
        own = [process for process in candidates if process.pid not in launchers]
        if len(own) < 2:
            return own
        named = [process for process in own if process.session == view.session]
        return named or self._by_log(own, view.session) or own

    def _by_log(self, processes: list[Running], session: str) -> list[Running]:
        logs = self._data / "log"
        began = run_began(logs, session)
        if began is None:
            return [process for process in processes if holds(process, logs, session)]
        return [process for process in processes if -SLACK <= began - process.created <= FIRST_LINE]


def _is_bun(process: Running) -> bool:
    """Whether it only plays the package manager: 1.1.65 runs itself as `opencode pm ls -g` in its first seconds."""
    return process.arguments[:1] == ("pm",) or process.environ.get("BUN_BE_BUN") == "1"


def _is_fresh(view: SessionView, now: float) -> bool:
    return view.answer_ended is None or view.answer_ended >= now - FAILED_SINCE


def _may_be(process: Running, view: SessionView) -> bool:
    began = view.answer_started
    return _same(process.directory, view.directory) and (began is None or process.created <= began + SLACK)


def _same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
