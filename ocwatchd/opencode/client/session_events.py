"""Follow the events of one session during its move, on a separate thread.

`AbortTrace` uses the order of the events to distinguish OpenCode's cleanup of an aborted run from a user's stop.

Up to 1.3.2, an abort returns while the old run is still terminating. In its last step, the old run cancels the
session's current run, even if that is a new run that was started too early. This looks exactly like a stop by the user:
the message has the error MessageAbortedError, and the events are the same. ocwatchd therefore waits for proof that the
old run has ended. After that, only the user can have stopped the new run.

The proof is the status `idle` that OpenCode sends after it has closed the old answer (`message.updated` with
`time.completed`). The events after an abort during a retry are: idle, error, idle, closed, idle on 1.1.65, 1.2.27 and
1.3.2; closed, idle on 1.14.41, 1.15.13 and 1.18.33, where the abort returns only after these events. 1.0.185 sends no
idle after the answer was closed.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from enum import Enum, StrEnum, auto
from types import TracebackType
from typing import Self

from ocwatchd.opencode.client.request import EndpointError, StreamHandle
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.sessions.messages import Json, mapping, text


class Signal(StrEnum):
    """What an event reports about the session."""

    CLOSED = "closed"  # an answer was finished or ended in an error
    PROMPT = "prompt"  # a prompt was added, or its model was changed
    BUSY = "busy"  # a run is in progress, or is waiting for its next attempt
    IDLE = "idle"


class _Phase(Enum):
    BEFORE = auto()  # ocwatchd has sent neither the abort nor the prompt
    STOPPING = auto()  # ocwatchd has sent the abort
    BETWEEN = auto()  # the old run has ended, and the prompt has not been sent yet
    STARTING = auto()  # ocwatchd has sent the prompt
    RUNNING = auto()  # the new run has begun


class AbortTrace:
    """Interprets the session's events, in order, from before the abort until the move is finished."""

    def __init__(self) -> None:
        """Initially, the abort has not been sent, and no event has arrived."""
        self._phase, self._answer = _Phase.BEFORE, ""
        self._idles = 0
        self._certain = self._stopped = False
        self.seen = 0
        """Number of events so far."""
        self.changed = False
        """Whether the answers that were fetched earlier are outdated, because a prompt was added or a run became active
        before `post` was called.
        """
        self.closed = False
        """Whether the aborted run's answer is closed, that is, marked as completed."""
        self.over = False
        """Whether the aborted run has ended, so that it can no longer stop another run."""
        self.ended = False
        """Whether a run that ocwatchd did not abort has ended: the old run before the abort, or a later run."""
        self.overruled = False
        """Whether the new run continues although the user has stopped it. OpenCode ignores a stop that arrives just as
        a run begins.
        """

    def see(self, signal: Signal, answer: str | None = None) -> None:
        """Record the next event. `answer` is the id of the answer that was closed."""
        self.seen += 1
        early = self._phase not in (_Phase.STARTING, _Phase.RUNNING)
        self.changed = self.changed or (early and signal in (Signal.PROMPT, Signal.BUSY))
        match self._phase, signal:
            case _Phase.STOPPING, Signal.CLOSED:
                self.closed = self.closed or answer == self._answer
            case _Phase.STOPPING, Signal.IDLE if self.closed:
                self.over, self._phase = True, _Phase.BETWEEN
            case _Phase.STOPPING, Signal.IDLE:
                self._idles += 1
            case _Phase.STARTING, Signal.PROMPT:
                self._certain = True
            case _Phase.STARTING, Signal.IDLE:
                self.ended, self._stopped = True, self._stopped or self._certain
            case _Phase.STARTING, Signal.BUSY:
                self._phase, self.overruled, self.ended = _Phase.RUNNING, self._stopped, False
            case _, Signal.BUSY:
                self.ended = False
            case _, Signal.IDLE:
                self.ended = True

    @property
    def running(self) -> bool:
        """Whether the posted run has begun."""
        return self._phase is _Phase.RUNNING

    @property
    def end_to_come(self) -> bool:
        """Whether the event that proves the end of the old run is still to come. OpenCode 1.0.185 does not send this
        event: its only `idle` comes before the answer is closed.
        """
        return self.closed and not self.over and self._idles != 1

    def abort(self, answer: str) -> None:
        """Record that ocwatchd is about to abort the run that is writing this answer."""
        self._phase, self._answer, self.ended = _Phase.STOPPING, answer, False

    def post(self) -> None:
        """Record that ocwatchd is about to post the new run."""
        self._phase, self.ended, self._stopped = _Phase.STARTING, False, False
        # While the old run may still be in progress, an `idle` may come from that run, and does not prove that the user
        # has stopped the new run.
        self._certain = self.over


OPEN_TIMEOUT = 1.0
"""Timeout, in seconds, for the event stream to open, which takes 2 to 10 ms on an idle machine. After the timeout, the
move continues without the stream.
"""
IDLE = 30.0
"""Time, in seconds, after which an event stream that sends nothing is abandoned. A move takes at most 10 s."""
WANTED = (b'"session.status"', b'"message.updated"', b'"server.connected"')
"""Strings that occur in the events to parse; other events are skipped."""
_SIGNALS = {"idle": Signal.IDLE, "busy": Signal.BUSY, "retry": Signal.BUSY}


class SessionEvents:
    """A context manager that passes the session's events to `trace` during its block. After an error, no more events
    are passed.
    """

    def __init__(self, api: Api, session: Session) -> None:
        """No request is sent until the `with` block begins."""
        self._api, self._session = api, session
        self._handle = StreamHandle()
        self._connected = threading.Event()
        self.live = False
        """Whether the stream is open."""
        self.trace = AbortTrace()

    def __enter__(self) -> Self:
        """Join the stream that the daemon keeps open. If there is none, open a stream on a separate thread."""
        shared = self._api.shared_events
        self.live = True  # set first, because the stream may end at any time after `join`
        if shared is not None and shared.join(self, self._receive, WANTED):
            self._connected.set()
            return self
        self.live = False
        threading.Thread(target=self._follow, name=f"events {self._session.id}", daemon=True).start()
        return self

    def wait_open(self) -> None:
        """Wait, for at most OPEN_TIMEOUT seconds, until OpenCode has confirmed the stream, so that no later event is
        missed.
        """
        self._connected.wait(OPEN_TIMEOUT)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """Close the stream, or leave the shared one."""
        if self._api.shared_events is not None:
            self._api.shared_events.leave(self)
        self._handle.cut()

    def _receive(self, event: Json | None) -> None:
        """Process an event of the shared stream. None means that the stream has ended."""
        if event is None:
            self.live = False
        else:
            self.see(event)

    def _follow(self) -> None:
        try:
            with suppress(EndpointError):
                for event in self._api.events(self._session.directory, IDLE, WANTED, self._handle):
                    self.see(event)
        finally:
            self.live = False
            self._connected.set()  # the move must not wait for a stream that cannot be opened

    def see(self, event: Json) -> None:
        """Pass an event of this session to the trace."""
        properties = mapping(event.get("properties"))
        if event.get("type") == "server.connected":
            self.live = True
            self._connected.set()
        elif event.get("type") == "session.status" and properties.get("sessionID") == self._session.id:
            signal = _SIGNALS.get(text(mapping(properties.get("status")).get("type")) or "")
            if signal is not None:
                self.trace.see(signal)
        elif event.get("type") == "message.updated":
            info = mapping(properties.get("info"))
            if info.get("sessionID") != self._session.id:
                return
            if info.get("role") == "user":
                self.trace.see(Signal.PROMPT)
            elif mapping(info.get("time")).get("completed") and not _ended_well(info):
                self.trace.see(Signal.CLOSED, text(info.get("id")))


def _ended_well(info: Json) -> bool:
    """Return whether an answer finished normally.

    An abort closes the answer with an error, or without a finish reason (1.18.33).

    If OpenCode keeps repeating an empty answer, one of these answers may finish just before the abort. Such an answer
    does not prove that the abort took effect.
    """
    return text(info.get("finish")) is not None and not info.get("error")
