"""Follow the event stream of each endpoint, which reports a retry immediately, up to a second before the log.

`/global/event` reports the `session.status` events of all directories of the process (measured on 1.18.33, 1.3.2,
1.1.65 and 1.0.185). One thread per endpoint blocks in a read; streamed text is skipped as bytes and never parsed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.core.engine.messages import AnsweredNothing, TroubleReported
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.shared_events import SharedEvents
from ocwatchd.opencode.client.v1.routes import Api, connect
from ocwatchd.opencode.client.v2.event_stream import EventStream, Progress
from ocwatchd.opencode.client.v2.events import News
from ocwatchd.opencode.sessions.messages import Json, mapping, message_of, text

MAX_STREAMS = 64
"""Maximum number of endpoints that are followed. Limits at any further endpoints are found only in the logs."""
ROUTE = "/global/event"
WANTED = (b'"session.status"', b'"session.error"', b'"finish":"unknown"', b'"finish":"other"')
"""Strings that occur in the events to parse; other events are skipped. The last two are the finish reasons of an answer
whose stream contained no event.
"""
EMPTY_ANSWERS, EMPTY_WITHIN = 3, 30.0
"""A session is reported after EMPTY_ANSWERS empty answers within EMPTY_WITHIN seconds, and again after each further
empty answer. A step takes 0.05 to 2 s.
"""
MAX_SESSIONS = 256
"""Maximum number of sessions per endpoint whose empty answers are counted."""


class EventListener:
    """Keeps one listener thread per open endpoint. Thread-safe."""

    def __init__(
        self,
        report: Callable[[TroubleReported | AnsweredNothing | News], None],
        modern: Callable[[], bool],
        connect: Callable[[Endpoint], Api] = connect,
        clock: Clock | None = None,
        progress: Progress | None = None,
        located: Callable[[str, Endpoint], None] | None = None,
        activity: StreamActivity | None = None,
        directory: str | None = None,
    ) -> None:
        """Initially, there are no listeners.

        `report` is called with each finding, on the listener threads. `located` is called just before `report`, with
        the session and the endpoint of the finding. `progress` records the position up to which OpenCode 2's events
        were read.

        `modern` returns whether the log shows OpenCode 1.17 or newer. If so, the event stream's route is known to
        exist, and the long list of routes is not requested. `connect` returns an `Api` that keeps this list for later
        requests. On 1.0.185, fetching the list takes 0.5 s, and a limited session should not have to wait for it.
        `activity` receives all events. `directory` is the project whose busy sessions are tracked from the start of a
        stream; None means the endpoint's own project.
        """
        self._report, self._modern, self._connect, self._clock = report, modern, connect, clock or SystemClock()
        self._progress, self._located = progress or Progress(), located
        self._activity, self._directory = activity or StreamActivity(), directory
        self._listening: set[Endpoint] = set()
        self._mute: set[Endpoint] = set()
        """Endpoints without a usable event stream."""
        self._lock = threading.Lock()

    def listen(self, endpoints: Iterable[Endpoint]) -> None:
        """Start a listener for each of these endpoints that has none. A listener stops when its stream has ended; the
        next call starts a new one.
        """
        for endpoint in endpoints:
            with self._lock:
                if endpoint in self._listening or endpoint in self._mute or len(self._listening) >= MAX_STREAMS:
                    continue
                self._listening.add(endpoint)
            threading.Thread(
                target=self._follow, args=(endpoint,), name=f"events {endpoint.address}", daemon=True
            ).start()

    def _follow(self, endpoint: Endpoint) -> None:
        try:
            if endpoint.generation == 2:
                EventStream(endpoint, self._report, self._progress, self._clock, self._activity).follow()
                return
            api = self._connect(endpoint)
            if not self._modern() and not api.has(ROUTE, None):
                self._mute.add(endpoint)
                return
            self._read(api, endpoint)
        except EndpointError as fault:  # the stream broke, or it could not be opened; the log contains the same events
            if fault.trouble in (Trouble.GARBAGE, Trouble.TOO_LARGE):
                self._mute.add(endpoint)
        finally:
            self._activity.lost(endpoint)
            with self._lock:
                self._listening.discard(endpoint)

    def _read(self, api: Api, endpoint: Endpoint) -> None:
        """Read the event stream until it ends, report its findings, and pass its events to the moves in progress."""
        empty = EmptyAnswers()
        shared = api.shared_events = SharedEvents(WANTED)
        watch = _Watch(self._activity, api, shared.opened, self._directory or endpoint.directory)
        try:
            for event in api.events(None, only=lambda: shared.wanted, see=watch):
                shared.pass_on(event)
                session, now = troubled(event), self._clock.now()
                if session is not None:
                    if self._located is not None:
                        self._located(session, endpoint)
                    self._report(TroubleReported(session, now))
                elif (session := empty.count(event, now)) is not None:
                    self._report(AnsweredNothing(session, now))
        finally:
            shared.closed()


class _Watch:
    """Passes the lines of an event stream to `StreamActivity`. Before the first line, it passes the sessions that are
    already busy, and calls `opened`.
    """

    def __init__(
        self, activity: StreamActivity, api: Api, opened: Callable[[], None], directory: str | None = None
    ) -> None:
        self._activity, self._api, self._opened, self._asked = activity, api, opened, False
        self._directory = directory

    def __call__(self, sent: bytes) -> None:
        if not self._asked:
            self._asked = True
            with suppress(EndpointError):  # if this fails, only sessions that become busy later are tracked
                statuses = self._api.status(self._directory)
                busy = [session for session, status in statuses.items() if status.type == "busy"]
                self._activity.connected(self._api.endpoint, busy)
            self._opened()  # only now, because no event was read during the request
        self._activity.see(self._api.endpoint, sent)


def troubled(event: Json) -> str | None:
    """Return the id of the session whose attempt was refused or whose turn failed. Return None for other events."""
    properties = mapping(event.get("properties"))
    status = mapping(properties.get("status"))
    if event.get("type") == "session.error" or status.get("type") == "retry":
        return text(properties.get("sessionID"))
    return None


class EmptyAnswers:
    """Counts the empty answers of each session, as reported by `message.updated`.

    The event does not contain the parts of an answer. An answer without tokens that finished with `unknown` or `other`
    is counted as empty here; the receiver of the report checks the session.
    """

    def __init__(self) -> None:
        """Initially, all counts are 0."""
        self._ended: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    def count(self, event: Json, now: float) -> str | None:
        """Return the session's id if this event reports an empty answer and the session has had at least EMPTY_ANSWERS
        empty answers within EMPTY_WITHIN seconds. Otherwise, return None.
        """
        info = mapping(mapping(event.get("properties")).get("info"))
        session, answer = text(info.get("sessionID")), message_of(info)
        if event.get("type") != "message.updated" or session is None or answer is None:
            return None
        if not answer.empty or answer.tokens is not None:
            return None
        ended = self._ended.setdefault(session, OrderedDict())
        self._ended.move_to_end(session)
        if len(self._ended) > MAX_SESSIONS:
            self._ended.popitem(last=False)
        if answer.id in ended:
            return None
        ended[answer.id] = now
        if len(ended) > EMPTY_ANSWERS:
            ended.popitem(last=False)
        first = next(iter(ended.values()))
        return session if len(ended) >= EMPTY_ANSWERS and now - first <= EMPTY_WITHIN else None
