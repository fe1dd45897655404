"""Follow the events of one OpenCode 2 server, and read missed events from the durable logs of its sessions.

`/api/event` sends the events of all projects, but does not repeat earlier ones. Whenever the stream is opened, missed
events are read from the logs of active sessions, and of sessions whose last answer has failed since the last successful
read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ocwatchd.clock import Clock
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.core.engine.messages import Failure
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v2.events import WANTED, EventReader, News, see_progress
from ocwatchd.opencode.client.v2.messages import Info, steps_of
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.sessions.messages import text

RECENT = 50
"""Number of most recently changed sessions whose last answers are checked after a gap in the stream."""
LATEST = 6
"""Number of latest messages in which the last prompt or answer of a session is searched for."""
MAX_GAP = 6 * 3600.0
"""Maximum age, in seconds, of missed failures that are read."""
OVERLAP = 5.0
"""Failures that occurred up to this many seconds before a gap are also read. Failures that are read twice are
recognized by their sequence numbers.
"""
FRESH = 60.0
"""Maximum age, in seconds, of a missed failure that is still treated as live, that is, as if it had just happened."""
REOPEN = (0.5, 2.0, 5.0)
"""Delay, in seconds, before each attempt to reopen a broken stream. After the last attempt, the next search for
endpoints reopens the stream.
"""
MAX_CURSORS = 2000
"""Maximum number of sessions for which the sequence number of the last failure is kept."""


class Progress:
    """Records how far the events have been read: the sequence number of each session's last failure, and the time of
    the last read.

    A failure is recorded only after the daemon has handled it (`done`), so that no failure is lost if the daemon is
    killed. Thread-safe.
    """

    def __init__(self, numbers: Mapping[str, int] | None = None, read_at: float | None = None) -> None:
        """Initialize the object with the values that an earlier run saved. `read_at` is in epoch seconds."""
        self._numbers = dict(numbers or {})
        self._read_at = read_at
        self._streams = 0
        self._lock = threading.Lock()

    def after(self, session: str) -> int:
        """Return the sequence number of the session's last handled failure, or 0 if no failure has been handled."""
        with self._lock:
            return self._numbers.get(session, 0)

    def since(self, now: float) -> float:
        """Return the time, in epoch seconds, since which failures may have been missed."""
        with self._lock:
            return max((self._read_at or 0.0) - OVERLAP, now - MAX_GAP)

    def done(self, failure: Failure) -> bool:
        """Record that a failure was handled. Return False if it had already been handled."""
        with self._lock:
            number = failure.number
            if number is None:
                return True
            if number <= self._numbers.get(failure.session, 0):
                return False
            self._numbers.pop(failure.session, None)
            self._numbers[failure.session] = number
            while len(self._numbers) > MAX_CURSORS:
                del self._numbers[next(iter(self._numbers))]
            return True

    def read(self, now: float) -> None:
        """Record that all events up to now have been read, provided that a stream is open."""
        with self._lock:
            if self._streams:
                self._read_at = now

    def opened(self, by: int) -> None:
        """Record that a stream was opened (`by` is 1) or has ended (`by` is -1)."""
        with self._lock:
            self._streams += by

    def saved(self) -> tuple[dict[str, int], float | None]:
        """Return the values to save for the next run: the sequence number of each session's last failure, and the time
        of the last read.
        """
        with self._lock:
            return dict(self._numbers), self._read_at


class EventStream:
    """Follows the events of one endpoint in the calling thread, until the endpoint can no longer be reached."""

    def __init__(
        self,
        endpoint: Endpoint,
        report: Callable[[News], None],
        progress: Progress,
        clock: Clock,
        activity: StreamActivity | None = None,
    ) -> None:
        """`report` is called with each finding, in chronological order. `activity` receives all events."""
        self._api, self._report, self._progress, self._clock = Routes(endpoint), report, progress, clock
        self._activity = activity or StreamActivity()

    def follow(self) -> None:
        """Follow the stream until it can no longer be opened.

        Raises:
            EndpointError: The stream broke and could not be reopened, or the response is not an event stream.
        """
        broken = 0
        while True:
            try:
                self._once()
                broken = 0
            except EndpointError as fault:
                if fault.trouble in (Trouble.GARBAGE, Trouble.TOO_LARGE) or broken >= len(REOPEN):
                    raise
                if fault.trouble is Trouble.TIMEOUT:
                    broken = 0  # the stream had been open for a long time, so count the attempts to reopen it from zero
            time.sleep(REOPEN[min(broken, len(REOPEN) - 1)])
            broken += 1

    def _once(self) -> None:
        reader, since, caught_up = EventReader(), self._progress.since(self._clock.now()), False
        try:
            for event in self._api.events(WANTED, partial(see_progress, self._activity, self._api.endpoint)):
                if not caught_up:  # the stream is open, so it will contain all events from now on
                    caught_up = True
                    self._catch_up(since)
                    self._progress.opened(1)
                news = reader.feed(event, live=True)
                if news is not None:
                    self._report(news)
        finally:
            self._activity.lost(self._api.endpoint)
            if caught_up:
                self._progress.opened(-1)

    def _catch_up(self, since: float) -> None:
        active = self._api.active()
        self._activity.connected(self._api.endpoint, active)
        listed = {info.id: info for info in self._api.sessions(RECENT)}
        found: list[Failure] = []
        for session in sorted(active | listed.keys()):
            try:
                if session in active or self._has_failed(listed[session], since):
                    found += self._missed(session, since, session in active)
                if session in active:
                    self._note_wait(session)
            except EndpointError as fault:
                if fault.status != 404:
                    raise
        for failure in sorted(found, key=lambda failure: failure.time):
            self._report(failure)

    def _note_wait(self, session: str) -> None:
        """Let the silence of a session that waits for a retry begin with its next attempt. The event that announced the
        wait is not sent again, and the wait may be longer than any answer may be silent.
        """
        for step in steps_of(self._api.messages(session, LATEST))[-1:]:
            if step.retry is not None and step.retry.at is not None:
                self._activity.note_wait(session, self._api.endpoint, step.retry.at - self._clock.now())

    def _has_failed(self, info: Info, since: float) -> bool:
        """Return whether the session's last answer failed at or after the time `since`. A failure does not change
        `info.updated`, so the messages are checked.
        """
        steps = steps_of(self._api.messages(info.id, 2))
        return any(step.message.error is not None and (step.message.completed or 0.0) >= since for step in steps)

    def _missed(self, session: str, since: float, active: bool) -> list[Failure]:
        """Return the session's failures since the time `since`. The last one is marked as live if no later step or turn
        has begun, and if the session is active or the failure is less than FRESH seconds old.
        """
        reader, found, last = EventReader(), list[Failure](), False
        now = self._clock.now()
        for event in self._api.log(session, self._progress.after(session)):
            news = reader.feed(event, live=False)
            kind = text(event.get("type")) or ""
            if isinstance(news, Failure) and news.time >= since:
                found.append(news)
                last = True
            elif kind.startswith(("session.step.", "session.execution.")) and kind != "session.execution.failed":
                last = False
        if found and last and (active or now - found[-1].time < FRESH):
            found[-1] = replace(found[-1], live=True)
        return found
