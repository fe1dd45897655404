"""Line -> LogRecord: what one record of an OpenCode log says, in whatever dialect it is written.

The dialect is told by the line itself, never by a version: 1.0.152 still writes what 1.0.98 writes. Nothing is believed
here or disbelieved; the old dialects' tags lie, and it is for `attempts` to find out who was refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import orjson

from ocwatchd.core.limits import ErrorFacts
from ocwatchd.core.lines import SPAN_CAP, Span


class Dialect(StrEnum):
    """The five ways in which OpenCode has told of a failed request."""

    SESSION = "session"  # 0.5: service=session … streamText error
    PROMPT = "prompt"  # 1.0.0: service=session.prompt session=… stream error
    BARE = "bare"  # 1.0.98, 1.0.152: the same without any tag
    LLM = "llm"  # 1.0.185 - 1.15: service=llm providerID=… modelID=… stream error
    LOGFMT = "logfmt"  # 1.17 and later: message="stream error", one file for all processes


class Kind(StrEnum):
    """What a record tells."""

    STREAM = "stream"  # a request begins; its tags are right at this moment in every dialect
    FAILED = "failed"  # a request was refused, or broke
    ECHO = "echo"  # the processor tells the same failure again
    RETRYING = "retrying"  # OpenCode will try again (1.0.0 alone says so)
    BUSY = "busy"  # a turn begins or goes on: what the session asked before has ended
    ENDED = "ended"  # the turn is over
    CANCEL = "cancel"  # the turn was stopped; older versions say so at every end
    CREATED = "created"  # a session
    KNOWN = "known"  # a provider's SDK, or one of its models


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of interest. `time` is epoch seconds (whole seconds in the old dialects).

    `provider`, `model`, `session`, `agent`, `small` are the record's own tags. `url`, `asked` (the model asked for) and
    `cache_key` (a session, with some providers) are the failed request's own: what the old dialects' tags only claim.
    """

    time: float
    dialect: Dialect
    kind: Kind
    offset: int
    run: str = ""
    provider: str | None = None
    model: str | None = None
    session: str | None = None
    agent: str | None = None
    small: bool | None = None
    parent: str | None = None
    message_id: str | None = None
    url: str | None = None
    asked: str | None = None
    cache_key: str | None = None
    sdk: str | None = None
    wait: float | None = None
    facts: ErrorFacts | None = None

    @property
    def coarse(self) -> bool:
        """Whether `time` is cut to whole seconds."""
        return self.dialect is not Dialect.LOGFMT


# ---- which lines to look at

NEW_ERRORS = (b" level=ERROR ",)
NEW_STARTS = (b" message=stream ",)
NEW_TURNS = (b" message=cancel ", b" message=created ", b'message="exiting loop"', b" message=loop ")
OLD = (b"service=session", b" providerID=")
"""Literals that stand in every record of interest. The old pair also covers `service=llm providerID=`."""


def wanted_literals(chunk: bytes, new: bool | None = None, *, starts: bool, turns: bool) -> tuple[bytes, ...]:
    """What to look for in this chunk of a log, whose format is the `new` one, an old one, or to be told by the chunk.

    `starts`: where streams begin; `turns`: how sessions come and go.
    The new format's tags are right, so its errors alone suffice to catch up; the old ones need all they can get.
    """
    literals = NEW_ERRORS + (NEW_STARTS if starts else ()) + (NEW_TURNS if turns else ())
    first, last = chunk.find(b"\n") + 1, chunk.rfind(b"\n", 0, -1) + 1
    looks = {looks_new(chunk, at) for at in (0, first, last)} - {None} if new is None else {new}
    if looks == {True}:
        return literals
    return OLD if looks == {False} else OLD + literals


_OLD_LEVELS = (b"INFO  2", b"ERROR 2", b"WARN  2", b"DEBUG 2")


def looks_new(chunk: bytes, at: int = 0) -> bool | None:
    """Whether the line that begins there is of the new format; None if nothing tells."""
    if chunk.startswith(b"timestamp=", at):
        return True
    return False if chunk.startswith(_OLD_LEVELS, at) else None


# ---- the old header

_HEADER = re.compile(rb"(INFO|ERROR|WARN|DEBUG) {1,2}(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \+\d+ms ")
_seconds: dict[bytes, float] = {}


def old_header(data: bytes, start: int = 0) -> tuple[float, int] | None:
    """Epoch seconds of an old record's header at `start`, and where its own text begins; None if it is none."""
    match = _HEADER.match(data, start)
    if not match:
        return None
    when = epoch(match[2])
    return None if when is None else (when, match.end())


def epoch(text: bytes) -> float | None:
    """Epoch seconds of an RFC 3339 time, UTC if it names no zone; None if it is none."""
    known = _seconds.get(text)
    if known is not None:
        return known
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
    except ValueError:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if len(_seconds) >= 64:  # one second of an old log holds hundreds of records
        _seconds.clear()
    _seconds[text] = seconds
    return seconds


# ---- records of several lines (old dialects: values are neither quoted nor escaped)

_CREATED = re.compile(rb"service=session (?:session=\S+ )?id=ses_")
_CREATED_END = re.compile(rb' time=\{"created":(\d{10,14})[^{}\n]{0,120}\} created(?=\r?\n|\r?$)')
_TOLD_AGAIN = re.compile(
    rb"service=session\.(?:prompt session=\S+|processor(?: [\w.]+=\S+){0,4}) error=(?!\{\"error\":)"
)
_TOLD_END = re.compile(rb" process(?=\r?\n|\r?$)")
CLOCK_SLACK = 5.0
"""Seconds between a session's own creation time and its record's header; measured: under 1."""
_NEXT_SLACK = 2.0
"""Seconds within which a record with a header of its own follows a failure (1 s clock)."""


def old_spanner(data: bytes, start: int, stop: int, limit: int) -> Span | None:
    """Where an old record that starts at `start` ends (a Spanner).

    A title or a provider's message with line feeds in it makes the record go on, and whatever its further lines look
    like, they are part of it: one message of the corpus, and any title, can imitate a record.
    """
    at = data.find(b" service=session", start, start + 64)
    if at < 0 or not (data.startswith(b"ERROR", start) or data.find(b" id=ses_", at, at + 80) > 0):
        return None
    header = old_header(data, start)
    if header is None:
        return None
    when, body = header
    if _CREATED.match(data, body):
        return _created_span(data, body, stop, limit, when)
    if _TOLD_AGAIN.match(data, body):
        return _told_span(data, body, stop, limit, when)
    return None


def _created_span(data: bytes, body: int, stop: int, limit: int, when: float) -> Span | None:
    """A title may hold a false end too, but not one that knows the time at which it will be written."""
    for match in _CREATED_END.finditer(data, body, limit):
        if abs(int(match[1]) / 1000 - when) <= CLOCK_SLACK:
            return None if match.end() <= stop else Span(match.end())
    return Span(None)


def _told_span(data: bytes, body: int, stop: int, limit: int, when: float) -> Span | None:
    """A failure told again ends in ` process`, after a stack (1.1 and later) that repeats the whole message.

    What looks like the next record, at the right time, is believed to be one unless the stack proves it a part of this.
    """
    if _TOLD_END.search(data, max(stop - 10, body), stop):
        return None
    match = _TOLD_END.search(data, stop, limit)
    if match and _stack_repeats(data[body : match.end()]):
        return Span(match.end())
    if match is None and limit - stop < SPAN_CAP:
        return Span(None)  # whether what follows is a part of it, only its end can tell: a chunk may end anywhere
    at = stop + 1
    while at < (match.end() if match else limit):
        header = old_header(data, at)
        if header and abs(header[0] - when) <= _NEXT_SLACK:
            return None
        at = data.find(b"\n", at, limit) + 1 or limit
    return Span(match.end() if match else None)


def _stack_repeats(record: bytes) -> bool:
    message, _, stack = record.partition(b" error=")[2].rpartition(b' stack="')
    first_lines = stack.partition(b"\\n    at ")[0].removesuffix(b'" process')
    try:
        told = str(orjson.loads(b'"' + first_lines + b'"'))
    except orjson.JSONDecodeError:
        return False
    plain = message.strip().decode(errors="replace")
    return bool(plain) and plain in told
