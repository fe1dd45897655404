"""Parse refused attempts and stopped turns from OpenCode 2's events, without I/O. Unknown events are skipped.

`/api/event` sends the events as they happen. The durable log of each session keeps the same events, with sequence
numbers.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from ocwatchd.core.domain.types import ErrorDetails, Hint, ModelRef, ResetSource
from ocwatchd.core.engine.messages import Aborted, Failure
from ocwatchd.core.text.parse_json import parse_json
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.v2.errors import error_of
from ocwatchd.opencode.client.v2.messages import model_in, retry_of
from ocwatchd.opencode.client.v2.snapshot import is_own_delay
from ocwatchd.opencode.sessions.messages import Json, mapping, seconds, text

WANTED = tuple(f'"session.{name}'.encode() for name in ("step.", "retry.", "execution.", "model.selected"))
"""Strings that occur in the events to parse. Other events, such as those with streamed text, are skipped."""
SLACK = 0.25
"""Maximum difference, in seconds, between OpenCode's own backoff and a wait that is still taken for this backoff. The
event arrives 2 ms after the refused attempt.
"""
MAX_COOLDOWN = 31 * 86400.0
"""Maximum length, in seconds, of a cooldown."""
MAX_SESSIONS = 5000
"""Maximum number of sessions whose running step is tracked."""

# Quotes in a model's text are escaped, so neither pattern matches in such a text.
_EVENT_TYPE = re.compile(rb'"type":"session\.([a-z_.]{1,60})"')
_EVENT_SESSION = re.compile(rb'"sessionID":"([^"\\]{1,100})"')
_OF_MODEL = ("text.", "reasoning.")
"""Beginnings of the types of events that only a sending model causes."""
_OF_TURN = ("tool.", "input.promoted", "inbox.delivered", "execution.started")
"""Beginnings of the types of other events in a working session. The gap after them may be due to a tool."""
_OF_ANY = ("instructions.", "synthetic", "skill.")
"""Beginnings of the types of events that a working session and an idle one may cause."""
_OF_END = ("execution.", "compaction.", "deleted")
"""Beginnings of the types of events after which the session does not wait for an answer. A summary (compaction) is
never treated as stalled.
"""
_GOOD_FINISHES = ("stop", "tool-calls", "length")
"""Finish reasons of a successful answer."""

News = Failure | Aborted


@dataclass(slots=True)
class _Running:
    """The running step of a session. `failed` is True if the step's failure was reported. The failure of the turn is
    then not reported separately.
    """

    answer: str | None = None
    model: ModelRef | None = None
    agent: str | None = None
    failed: bool = False


class EventReader:
    """Parses the events of one source, in order."""

    def __init__(self) -> None:
        """Initially, no step is running."""
        self._running: OrderedDict[str, _Running] = OrderedDict()

    def feed(self, event: Json, *, live: bool) -> News | None:
        """Return the finding in an event, or None if the event is irrelevant. `live` is True if the event has just
        happened.
        """
        kind, data = text(event.get("type")) or "", mapping(event.get("data"))
        session, time = text(data.get("sessionID")), seconds(event.get("created"))
        if session is None or time is None or not kind.startswith("session."):
            return None
        running = self._of(session)
        match kind.removeprefix("session."):
            case "step.started":
                self._running[session] = _Running(
                    text(data.get("assistantMessageID")), model_in(data.get("model")), text(data.get("agent"))
                )
            case "execution.started":
                self._running[session] = _Running()
            case "retry.scheduled":
                return _retried(event, data, running, session, time, live)
            case "step.failed":
                running.failed = True
                return _failed(event, data, running, session, time, live)
            case "execution.failed" if not running.failed:
                return _failed(event, data, running, session, time, live)
            case "execution.interrupted" if data.get("reason") == "user" and live:
                return Aborted(session, time, exact=True)
        return None

    def _of(self, session: str) -> _Running:
        found = self._running.setdefault(session, _Running())
        self._running.move_to_end(session)
        if len(self._running) > MAX_SESSIONS:
            self._running.popitem(last=False)
        return found


def seq_of(event: Json) -> int | None:
    """Return the sequence number of an event in its session's durable log."""
    seq = mapping(event.get("durable")).get("seq")
    return seq if isinstance(seq, int) and not isinstance(seq, bool) else None


def hint_of(attempt: int, at: float, time: float) -> Hint | None:
    """Return the reset time implied by `at`, the time of OpenCode's next attempt. Return None if the wait is OpenCode's
    own backoff.

    `time` is the time at which the attempt was refused. Both are in epoch seconds.
    """
    if is_own_delay(attempt, at - time, SLACK):
        return None
    until = min(at, time + MAX_COOLDOWN)
    tamed = None if until == at else "more than 31 days"
    return Hint(until, until - time, ResetSource.STATUS, "OpenCode's next attempt", tamed=tamed)


def _retried(event: Json, data: Json, running: _Running, session: str, time: float, live: bool) -> Failure | None:
    retry = retry_of(data)
    if retry is None or retry.error is None:
        return None
    hint = None if retry.at is None else hint_of(retry.attempt, retry.at, time)
    return _failure(event, data, running, session, time, live, retry.error, hint, final=False)


def _failed(event: Json, data: Json, running: _Running, session: str, time: float, live: bool) -> Failure | None:
    error = error_of(data.get("error"))
    return None if error is None else _failure(event, data, running, session, time, live, error, None, final=True)


def _failure(
    event: Json,
    data: Json,
    running: _Running,
    session: str,
    time: float,
    live: bool,
    error: ErrorDetails,
    hint: Hint | None,
    *,
    final: bool,
) -> Failure:
    answer = text(data.get("assistantMessageID"))
    known = answer is None or running.answer in (None, answer)
    return Failure(
        session=session,
        model=running.model if known else None,
        agent=running.agent if known else None,
        time=time,
        facts=error,
        hint=hint,
        live=live,
        final=final,
        number=seq_of(event),
    )


def see_progress(activity: StreamActivity, endpoint: Hashable, sent: bytes) -> None:
    """Pass a line of an event stream to `activity` if it shows progress of an answer.

    Streamed text, reasoning and tool input cause hundreds of events per second. In these events, only the type and the
    session id are searched for; they are not parsed. An answer's `session.step.started` arrives with the first text,
    reasoning or tool call, or with the refusal, and not with the request: a request without headers, and one whose
    first chunk is empty, cause no event at all (0.0.0-next-16350).
    """
    kind_found, session_found = _EVENT_TYPE.search(sent), _EVENT_SESSION.search(sent)
    if kind_found is None or session_found is None:
        return
    kind, session = kind_found[1].decode(), session_found[1].decode(errors="replace")
    if kind.startswith(_OF_MODEL):
        activity.note_event(session, endpoint, counts=True)
    elif kind in ("step.started", "step.ended", "retry.scheduled"):
        _see_step(activity, endpoint, session, kind, sent)
    elif kind == "step.failed":
        activity.note_ended(session, endpoint, good=False)
    elif kind.startswith(_OF_ANY) and activity.silence(session) is None:
        return  # no event would end the silence of an idle session
    elif kind.startswith((*_OF_TURN, *_OF_ANY)) or kind in ("compaction.ended", "compaction.failed"):
        activity.note_event(session, endpoint, counts=False)
    elif kind.startswith(_OF_END):
        activity.note_idle(session)


def _see_step(activity: StreamActivity, endpoint: Hashable, session: str, kind: str, sent: bytes) -> None:
    event = _parsed(sent)
    data = mapping(event.get("data"))
    if kind == "step.started":
        model = model_in(data.get("model"))
        answer = text(data.get("assistantMessageID")) or ""
        activity.note_begun(session, endpoint, answer, str(model) if model else None)
    elif kind == "step.ended":
        activity.note_ended(session, endpoint, good=text(data.get("finish")) in _GOOD_FINISHES)
    else:
        at, now = seconds(data.get("at")), seconds(event.get("created"))
        activity.note_wait(session, endpoint, at - now if at is not None and now is not None else 0.0)


def _parsed(sent: bytes) -> Json:
    try:
        return mapping(parse_json(sent[sent.find(b"{") :]))
    except ValueError:
        return {}
