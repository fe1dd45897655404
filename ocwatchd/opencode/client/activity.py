"""Track how long each busy session has been silent, from the events of its running answer.

Every event about a part of a message (text, reasoning, a tool's state) or about an answer ends the silence. Streamed
text causes hundreds of events per second. These events are not parsed; only the session id is searched for in their
bytes, which takes 1 µs. Times are monotonic, so neither a suspended machine nor a changed clock makes a session appear
silent.

Events do not show a provider's keep-alives, but the companion plugin records them. Keep-alives also end the silence,
but only for a limited time, because a gateway may continue to send keep-alives after its model has failed.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from ocwatchd.core.domain.streams import MAX_PATIENCE, MIN_PATIENCE, StreamGaps
from ocwatchd.core.text.parse_json import parse_json
from ocwatchd.opencode.sessions.messages import Json, mapping, message_of, text

MAX_STREAMS = 512
"""Maximum number of tracked sessions. The session that has been silent the longest is dropped first."""
_PART, _TOOL = b'"type":"message.part.', b'"type":"tool"'
_RARE = (b'"type":"message.updated"', b'"type":"session.status"', b'"type":"session.idle"')
# Quotes in a model's text are escaped, so a session id in the text does not match.
_SESSION = re.compile(rb'"sessionID":"([^"\\]{1,100})"')


@dataclass(slots=True)
class _Stream:
    """A busy session. Times are monotonic seconds."""

    endpoint: Hashable
    last: float
    """Time of the last event."""
    answer: str | None = None
    model: str | None = None
    longest: float = 0.0
    """Longest gap between two events of this answer so far, in seconds."""
    counts: bool = False
    """Whether the gap after the last event is attributed to the model. This is the case if an answer has begun and no
    tool is running.
    """
    checked: float = float("-inf")
    """Start, in monotonic seconds, of the wait after which `silent` checks the session again. The wait lasts for the
    model's maximum silence. It starts at the session's last keep-alive or, after `silent` has returned the session,
    half of the maximum silence before that return.
    """


class StreamActivity:
    """Tracks the busy sessions of all endpoints. Thread-safe."""

    def __init__(
        self,
        gaps: StreamGaps | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        keep_alive: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """`gaps` contains the gaps measured by earlier runs of the daemon.

        `keep_alive` returns the number of seconds since the provider last sent a keep-alive to a session, or None if
        this is unknown or keep-alives must be ignored.
        """
        self._gaps, self._elapsed, self._keep_alive = gaps or StreamGaps(), elapsed, keep_alive
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._lock = threading.Lock()
        self._learnt = 0

    def connected(self, endpoint: Hashable, busy: Iterable[str]) -> None:
        """Track the sessions that are already busy when an event stream opens. Their silence is measured from the time
        of this call.
        """
        with self._lock:
            for session in busy:
                self._begin(session, endpoint)

    def lost(self, endpoint: Hashable) -> None:
        """Stop tracking the sessions of an endpoint whose event stream has ended, because it is unknown whether they
        are still silent.
        """
        with self._lock:
            for session in [session for session, stream in self._streams.items() if stream.endpoint == endpoint]:
                del self._streams[session]

    def see(self, endpoint: Hashable, sent: bytes) -> None:
        """Process a line of an event stream."""
        if _PART in sent:
            found = _SESSION.search(sent)
            if found is not None:
                with self._lock:
                    self._note_event(found[1].decode(errors="replace"), endpoint, counts=_TOOL not in sent)
        elif any(kind in sent for kind in _RARE):
            self._see_rare(endpoint, sent)

    # ---- what an event of OpenCode 2 reports (`client/v2/events.py`)

    def note_event(self, session: str, endpoint: Hashable, *, counts: bool) -> None:
        """End the silence of a session. `counts` is False if the next gap is not attributed to the model, for example
        while a tool runs.
        """
        with self._lock:
            self._note_event(session, endpoint, counts=counts)

    def note_begun(self, session: str, endpoint: Hashable, answer: str, model: str | None) -> None:
        """Record that the first byte of an answer has arrived. The silence before it counts as a gap."""
        with self._lock:
            known = self._streams.get(session)
            waited = self._elapsed() - known.last if known is not None else 0.0
            stream = self._note_event(session, endpoint, counts=False)
            stream.answer, stream.model, stream.longest, stream.counts = answer, model, max(waited, 0.0), True

    def note_ended(self, session: str, endpoint: Hashable, *, good: bool) -> None:
        """Record that the running answer has ended. The session stays busy, because a further step may follow."""
        with self._lock:
            stream = self._note_event(session, endpoint, counts=False)
            if good and stream.answer is not None and stream.model:
                self._gaps.note(stream.model, stream.longest)
                self._learnt += 1
            stream.answer = None

    def note_wait(self, session: str, endpoint: Hashable, seconds: float) -> None:
        """Record that OpenCode sends its next request in this many seconds. The silence begins then."""
        with self._lock:
            stream = self._note_event(session, endpoint, counts=False)
            stream.last += max(seconds, 0.0)

    def note_idle(self, session: str) -> None:
        """Stop tracking a session that is idle, or that waits for something other than its model's answer."""
        with self._lock:
            self._streams.pop(session, None)

    # ---- reading

    def silence(self, session: str) -> float | None:
        """Return the number of seconds for which a busy session has been silent. Return None if the session is not
        known to be busy.
        """
        with self._lock:
            stream = self._streams.get(session)
            return None if stream is None else self._silence(session, stream)

    def silent(
        self,
        patience: Callable[[str | None], float | None],
        capped: Callable[[Hashable, float], float] = lambda _, limit: limit,
    ) -> list[str]:
        """Return the sessions that have been silent for longer than their model's maximum silence. A session that stays
        silent is returned again after each further half of that time, in case OpenCode was too busy to respond to the
        probe.

        `patience` returns the maximum silence of a model in seconds, or None if there is no maximum. `capped` reduces
        this maximum for an endpoint.
        """
        with self._lock:
            now, found = self._elapsed(), []
            for session, stream in self._streams.items():
                limit = patience(stream.model)
                limit = None if limit is None else capped(stream.endpoint, limit)
                if limit is None or now - max(stream.last, stream.checked) < limit:
                    continue
                silence = self._silence(session, stream)
                if silence < limit:  # check again when the keep-alives may have stopped, or have continued for too long
                    stream.checked = min(now - silence, stream.last + MAX_PATIENCE - limit)
                    continue
                stream.checked = now - limit / 2
                found.append(session)
            return found

    def gaps_learned(self) -> int:
        """Return the number of answers measured in this run. The result of `gaps` changes only if this number does."""
        return self._learnt

    def gaps(self) -> StreamGaps:
        """Return a copy of the measured gaps."""
        with self._lock:
            return StreamGaps(self._gaps.all())

    # ---- with the lock held

    def _silence(self, session: str, stream: _Stream) -> float:
        silence = max(self._elapsed() - stream.last, 0.0)
        if not MIN_PATIENCE <= silence < MAX_PATIENCE:
            return silence
        age = self._keep_alive(session)
        return silence if age is None else min(silence, age)

    def _begin(self, session: str, endpoint: Hashable) -> _Stream:
        stream = self._streams.pop(session, None) or _Stream(endpoint, self._elapsed())
        stream.endpoint = endpoint
        self._streams[session] = stream
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _note_event(self, session: str, endpoint: Hashable, *, counts: bool) -> _Stream:
        stream = self._begin(session, endpoint)
        now = self._elapsed()
        if counts and stream.counts:
            stream.longest = max(stream.longest, now - stream.last)
        stream.last, stream.counts = now, counts and stream.answer is not None
        return stream

    def _see_rare(self, endpoint: Hashable, sent: bytes) -> None:
        """Process an event that must be parsed. A step of a turn sends only a few such events."""
        try:
            event = mapping(parse_json(sent[sent.find(b"{") :]))
        except ValueError:
            return
        event = mapping(event.get("payload")) or event
        properties = mapping(event.get("properties"))
        with self._lock:
            if event.get("type") == "message.updated":
                self._see_message(endpoint, mapping(properties.get("info")))
                return
            session = text(properties.get("sessionID"))
            if session is None:
                return
            if event.get("type") == "session.status" and mapping(properties.get("status")).get("type") == "busy":
                if session not in self._streams:
                    self._begin(session, endpoint)
            else:  # the session is idle, or waits for OpenCode's own retry
                self._streams.pop(session, None)

    def _see_message(self, endpoint: Hashable, info: Json) -> None:
        message, session = message_of(info), text(info.get("sessionID"))
        # A prompt is also updated during and after its answer, with a summary of the changes.
        if message is None or session is None or message.user or session not in self._streams:
            return
        ended = message.completed is not None
        stream = self._note_event(session, endpoint, counts=not ended)
        if stream.answer != message.id and not ended:
            stream.answer, stream.longest, stream.counts = message.id, 0.0, True
            stream.model = str(message.model) if message.model else None
        if ended and stream.answer == message.id:
            good = message.error is None and message.finish in ("stop", "tool-calls", "length")
            if good and stream.model and not message.summary:
                self._gaps.note(stream.model, stream.longest)
                self._learnt += 1
            stream.answer, stream.counts = None, False
