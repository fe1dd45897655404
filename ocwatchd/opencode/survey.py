"""Who is in trouble, and through which door? Joins doors and message stores; the doors' word counts.

A limit whose session nobody can name finds its session here, and so does a session stuck on a model that already cools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.opencode.answers import Session
from ocwatchd.opencode.api import Api, connect
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.look import look
from ocwatchd.opencode.sessions import SessionStore

OPEN_SINCE = 86_400.0
"""Seconds back for sessions whose last answer is still open: a native retry lasts for hours without a trace."""

FAILED_SINCE = 60.0
"""Seconds back for sessions whose last answer has failed: older failures are old news."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the doors showed. `doors` counts those that answered, `failing` those that are there and did not; `troubles`
    are sentences about these.
    """

    views: tuple[SessionView, ...]
    doors: int
    troubles: tuple[str, ...] = ()
    failing: int = 0


class Look(Protocol):
    """Whoever can be asked how sessions fare. Blocks for seconds: for a worker thread."""

    def session(self, ident: str) -> Findings:
        """This session, if it is found."""
        ...

    def stuck(self) -> Findings:
        """Every session in trouble."""
        ...


class Surveyor:
    """Looks through every door of one data directory. Blocks for seconds if a door hangs: for a worker thread."""

    def __init__(
        self,
        finder: DoorFinder,
        store: SessionStore,
        connect: Callable[[Door], Api] = connect,
        clock: Clock | None = None,
    ) -> None:
        """`connect` opens a door; `finder` and `store` belong to the same data directory."""
        self._finder, self._store = finder, store
        self._connect, self._clock = connect, clock or SystemClock()

    def _round(self) -> _Round:
        return _Round(self._finder, self._store, self._connect, self._clock)

    def session(self, ident: str) -> Findings:
        """The session as the door shows it that works on it; else as the first door that knows it.

        Second doors into the same processes are asked last: where both show the same it was found before.
        """
        round_ = self._round()
        stored = self._store.session(ident)
        resting: SessionView | None = None
        directory = stored.directory if stored else None
        for door in (*_nearest(round_.open, directory), *_nearest(round_.second, directory)):
            view = round_.ask(door, ident, stored)
            if view is not None and view.state in (SessionState.BUSY, SessionState.RETRY):
                return round_.findings([view])
            resting = resting or view
        return round_.findings([resting] if resting else [])

    def stuck(self, directories: Iterable[str] = ()) -> Findings:
        """Every session in retry, or whose last answer failed within the last minute, behind any door."""
        round_ = self._round()
        now = self._clock.now()
        unsettled = self._store.unsettled(now - OPEN_SINCE)
        views = round_.all_retrying(_own_places((*round_.second, *round_.open)))
        # Asking makes OpenCode open the project. So only a server of many projects is asked about others, only about
        # those that hold something unsettled, and only if the project's own door does not know it.
        missing = [entry.session.directory for entry in unsettled if entry.session.id not in views]
        views |= round_.all_retrying(_other_places((*round_.second, *round_.open), [*directories, *missing]))
        for entry in unsettled:
            ended = entry.answer.completed
            if ended is not None and ended >= now - FAILED_SINCE and entry.session.id not in views:
                views |= {view.session: view for view in self.session(entry.session.id).views if view.stuck}
        return round_.findings(list(views.values()))


class _Round:
    """One walk through the doors; a door that fails once is left out of the rest."""

    def __init__(self, finder: DoorFinder, store: SessionStore, connect: Callable[[Door], Api], clock: Clock) -> None:
        found = finder.find()
        self.open, self.second = found.open, found.second
        self._finder, self._found, self._failed = finder, found, dict[Door, str]()
        self._store, self._connect, self._clock = store, connect, clock

    def findings(self, views: Sequence[SessionView]) -> Findings:
        """What this round has come to."""
        answering = sum(door not in self._failed for door in self.open)
        troubles = (*self._found.troubles, *self._failed.values())
        return Findings(tuple(views), answering, troubles, self._found.failing + len(self._failed))

    def ask(self, door: Door, ident: str, stored: Session | None) -> SessionView | None:
        """The session through this door; None if the door does not know it."""
        if door in self._failed:
            return None
        try:
            api = self._connect(door)
            session = stored or api.session(ident, door.directory)
            return look(api, session, self._clock)
        except DoorError as fault:
            if fault.status not in (400, 404):  # it answers, and has no such session
                self._fails(door, fault)
            return None

    def all_retrying(self, places: Iterable[tuple[Door, str]]) -> dict[str, SessionView]:
        """Sessions in retry in these places, by id."""
        return {view.session: view for door, directory in places for view in self._retrying(door, directory)}

    def _retrying(self, door: Door, directory: str) -> Iterator[SessionView]:
        if door in self._failed:
            return
        try:
            api = self._connect(door)
            statuses = api.status(directory)
            for ident in [ident for ident, status in statuses.items() if status.type == "retry"]:
                session = self._store.session(ident) or api.session(ident, directory)
                yield look(api, session, self._clock, statuses)
        except DoorError as fault:
            self._fails(door, fault)

    def _fails(self, door: Door, fault: DoorError) -> None:
        self._failed[door] = str(fault)
        self._finder.doubt(door, fault)


def _nearest(doors: Sequence[Door], directory: str | None) -> list[Door]:
    """The door into the session's own project first, then servers of many projects.

    A terminal of another project is not asked: it would open this project, with all its plugins, to say that it knows
    nothing. Without a directory everyone is asked, each about its own.
    """
    if directory is None:
        return list(doors)
    asked = [door for door in doors if door.many or door.directory in (None, directory)]
    return sorted(asked, key=lambda door: door.directory != directory)


def _own_places(doors: Sequence[Door]) -> list[tuple[Door, str]]:
    return [(door, door.directory) for door in doors if door.directory]


def _other_places(doors: Sequence[Door], directories: Iterable[str]) -> list[tuple[Door, str]]:
    wanted = list(dict.fromkeys(directories))
    return [(door, place) for door in doors if door.many for place in wanted if place != door.directory]
