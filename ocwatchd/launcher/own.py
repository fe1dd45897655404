"""What belongs to one launch: its processes, what the companion plugin wrote in them, and how its session ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ocwatchd.core.messages import Heard
from ocwatchd.core.views import Door, SessionState, SessionView, UnixAddress
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.doors import OpenCodeProcess, ProcessTable
from ocwatchd.opencode.family import descends
from ocwatchd.opencode.look import view_of
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.state.facts import FactFiles


class OwnProcesses:
    """The OpenCode processes below us: the child and the private server."""

    def __init__(self, child: int) -> None:
        """`child`: the child's pid, ours also when it has ended."""
        self._child, self._table = child, ProcessTable()

    def __call__(self) -> Iterable[OpenCodeProcess]:
        """Those that run. A session of our own `run` may be moved, for we know how."""
        return [replace(found, runs_once=False) for found in self._table() if self.holds(found.pid)]

    def holds(self, pid: int) -> bool:
        """Whether this is one of them."""
        return pid == self._child or descends(pid, frozenset((os.getpid(),)))


class OwnFacts(FactFiles):
    """What the plugin wrote in these processes, from their beginning. `sessions` are those it named, in order."""

    def __init__(self, directory: Path, own: Callable[[int], bool]) -> None:
        """Nothing is read yet."""
        self._own = own
        self._judged: dict[str, bool] = {}
        self._ready = False
        self.sessions: list[str] = []
        super().__init__(directory)
        self._ready = True

    def poll(self) -> Sequence[Heard]:
        """What was added since the last call, of refused requests: the rest is for the daemon to tell."""
        found = [heard for heard in super().poll() if isinstance(heard, Heard)]
        self.sessions += [heard.session for heard in found if heard.session not in self.sessions]
        return found

    def _files(self) -> list[Path]:
        return [path for path in super()._files() if self._mine(path)] if self._ready else []

    def _mine(self, path: Path) -> bool:
        if path.stem not in self._judged:
            self._judged[path.stem] = path.stem.isdecimal() and self._own(int(path.stem))
        return self._judged[path.stem]


def failed_view(store: SessionStore, known: Sequence[str], pid: int, since: float, now: float) -> SessionView | None:
    """The session of a child that has ended, as the store shows it, if its last turn has failed.

    `known` are its sessions as far as they were heard of. `since`: when the child was started, epoch seconds.
    """
    session = _root(store, known, since)
    if session is None:
        return None
    door = Door(UnixAddress(""), pid, session.directory)
    view = view_of(door, session, RetryStatus("idle"), store.messages(session.id), False, now)
    return view if view.state is SessionState.ERROR and not view.aborted else None


def _root(store: SessionStore, known: Sequence[str], since: float) -> Session | None:
    """The session that the child was started for; None if nobody can say."""
    if not known:  # then only one session can be meant, or none
        here = os.environ.get("PWD") or os.getcwd()
        mine = [found.session for found in store.unsettled(since) if found.session.directory == here]
        mine = [session for session in mine if session.parent is None]
        return mine[0] if len(mine) == 1 else None
    session = store.session(known[0])
    while session is not None and session.parent is not None:
        session = store.session(session.parent)
    return session
