"""The content of one record in an OpenCode log, in any dialect (log format), and the criteria for relevant records.

The dialect is recognized from the line itself, never from a version: 1.0.152 still writes the dialect of 1.0.98. Tags
are copied unchecked. In the old dialects, tags may be wrong, and `attempts` determines which request was refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.parsing.lines import SPAN_CAP, Span
from ocwatchd.core.text.parse_json import parse_json


class Dialect(StrEnum):
    """The five ways in which OpenCode has logged a failed request."""

    SESSION = "session"  # 0.5: service=session … streamText error
    PROMPT = "prompt"  # 1.0.0: service=session.prompt session=… stream error
    BARE = "bare"  # 1.0.98, 1.0.152: the same as PROMPT, but without tags
    LLM = "llm"  # 1.0.185 - 1.15: service=llm providerID=… modelID=… stream error
    LOGFMT = "logfmt"  # 1.17 and later: message="stream error", one file for all processes


class Kind(StrEnum):
    """What a record reports."""

    STREAM = "stream"  # a request begins; this record's tags are reliable in every log format
    FAILED = "failed"  # a request was refused or interrupted
    ECHO = "echo"  # the processor repeats the same failure
    RETRYING = "retrying"  # OpenCode will retry (only 1.0.0 logs this)
    BUSY = "busy"  # a turn begins or continues, so the session's earlier request has ended
    ENDED = "ended"  # the turn is over
    CANCEL = "cancel"  # the turn was stopped; older versions log this at the end of every turn
    CREATED = "created"  # a session was created
    DRAINED = "drained"  # a turn of OpenCode 2 has finally failed; its other refused attempts are not logged
    KNOWN = "known"  # a provider exists; the record may name its SDK or one of its models


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One relevant record. `time` is in epoch seconds (whole seconds in the old dialects).

    `provider`, `model`, `session`, `agent`, `small` are the record's own tags. `url`, `asked` (the requested model) and
    `cache_key` (a session, for some providers) come from the failed request itself and are reliable, unlike the old
    dialects' tags.
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
    facts: ErrorDetails | None = None


# ---- which lines to read

NEW_ERRORS = (b" level=ERROR ",)
NEW_STARTS = (b" message=stream ",)
NEW_TURNS = (b" message=cancel ", b" message=created ", b'message="exiting loop"', b" message=loop ")
OLD = (b"service=session", b" providerID=")
"""The literals to search for are those in `NEW_ERRORS`, `NEW_STARTS`, `NEW_TURNS` and `OLD`: every relevant record
contains at least one of them. The two literals in `OLD` cover the formats before 1.17; the second also covers
`service=llm providerID=`.
"""


def wanted_literals(chunk: bytes, new: bool | None = None, *, starts: bool, turns: bool) -> tuple[bytes, ...]:
    """Return the literals to search for in this chunk of a log. `new`: whether the log has the new format (None:
    determine the format from the chunk).

    `starts`: whether to also find stream starts; `turns`: whether to also find the starts and ends of turns. The new
    format's tags are correct, so its errors alone suffice for catching up; the old dialects need all records.
    """
    literals = NEW_ERRORS + (NEW_STARTS if starts else ()) + (NEW_TURNS if turns else ())
    first, last = chunk.find(b"\n") + 1, chunk.rfind(b"\n", 0, -1) + 1
    formats = {looks_new(chunk, at) for at in (0, first, last)} - {None} if new is None else {new}
    if formats == {True}:
        return literals
    return OLD if formats == {False} else OLD + literals


_OLD_LEVELS = (b"INFO  2", b"ERROR 2", b"WARN  2", b"DEBUG 2")


def looks_new(chunk: bytes, at: int = 0) -> bool | None:
    """Return whether the line that begins at `at` has the new format, or None if this is unclear."""
    if chunk.startswith(b"timestamp=", at):
        return True
    return False if chunk.startswith(_OLD_LEVELS, at) else None


# ---- the old header

_HEADER = re.compile(rb"(INFO|ERROR|WARN|DEBUG) {1,2}(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \+\d+ms ")
_seconds: dict[bytes, float] = {}


def old_header(data: bytes, start: int = 0) -> tuple[float, int] | None:
    """Return the time (epoch seconds) of the old record's header at `start`, and the offset of its text, or None if
    there is no header.
    """
    match = _HEADER.match(data, start)
    if not match:
        return None
    when = epoch(match[2])
    return None if when is None else (when, match.end())


def epoch(text: bytes) -> float | None:
    """Return an RFC 3339 time in epoch seconds, or None if the text is not such a time. A time without a time zone is
    interpreted as UTC.
    """
    known = _seconds.get(text)
    if known is not None:
        return known
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
    except ValueError:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if len(_seconds) >= 64:  # keep the cache small; it pays off if hundreds of records have the same time
        _seconds.clear()
    _seconds[text] = seconds
    return seconds


# A record may also follow NUL bytes: a log that is truncated under a writer without O_APPEND begins with a hole.
_TIME = re.compile(
    rb"(?:^|(?<=[\n\0]))(?:timestamp=|(?:INFO|ERROR|WARN|DEBUG) {1,2})(20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6}Z)?)"
)


def first_time(data: bytes) -> float | None:
    """Return the time (epoch seconds) of the first record that begins in these bytes of a log, or None if no record
    begins in them.
    """
    match = _TIME.search(data)
    return None if match is None else epoch(match[1])


def last_time(data: bytes) -> float | None:
    """Return the time (epoch seconds) of the last record that begins in these bytes of a log, or None if no record
    begins in them.
    """
    found = _TIME.findall(data)
    return epoch(found[-1]) if found else None


# ---- multi-line records (old dialects: values are neither quoted nor escaped)

_CREATED = re.compile(rb"service=session (?:session=\S+ )?id=ses_")
_CREATED_END = re.compile(rb' time=\{"created":(\d{10,14})[^{}\n]{0,120}\} created(?=\r?\n|\r?$)')
_REPEATED = re.compile(rb"service=session\.(?:prompt session=\S+|processor(?: [\w.]+=\S+){0,4}) error=(?!\{\"error\":)")
_REPEATED_END = re.compile(rb" process(?=\r?\n|\r?$)")
CLOCK_SLACK = 5.0
"""Maximum time, in seconds, between a session's creation time and the time in the header of its record. In
measurements, it was less than 1 s.
"""
_NEXT_SLACK = 2.0
"""Maximum time, in seconds, between a failure and the next record with its own header (timestamps are in whole
seconds).
"""


def old_spanner(data: bytes, start: int, stop: int, limit: int) -> Span | None:
    """Return where the old record that starts at `start` ends. (This function is a `Spanner`.)

    A title or a provider's message may contain line feeds. The following lines are part of the record even if they look
    like records, because a title or a message can imitate a record, as one message in the test corpus does.
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
    if _REPEATED.match(data, body):
        return _repeated_span(data, body, stop, limit, when)
    return None


def _created_span(data: bytes, body: int, stop: int, limit: int, when: float) -> Span | None:
    """Return the end of a `created` record. A title may contain text that looks like the end of the record, but such
    text does not contain the record's own time.
    """
    for match in _CREATED_END.finditer(data, body, limit):
        if abs(int(match[1]) / 1000 - when) <= CLOCK_SLACK:
            return None if match.end() <= stop else Span(match.end())
    return Span(None)


def _repeated_span(data: bytes, body: int, stop: int, limit: int, when: float) -> Span | None:
    """Return the end of a failure's record whose message contains line breaks. Since 1.1, the message is followed by a
    stack trace, which repeats the whole message, and by the suffix ` process`.

    A line that looks like a record, with a plausible time, is treated as the next record, unless the stack proves that
    it is part of this record.
    """
    if _REPEATED_END.search(data, max(stop - 10, body), stop):
        return None
    match = _REPEATED_END.search(data, stop, limit)
    if match and _stack_repeats(data[body : match.end()]):
        return Span(match.end())
    if match is None and limit - stop < SPAN_CAP:
        # wait for more: only the end shows whether the next bytes belong to the record, and a chunk may end anywhere
        return Span(None)
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
        repeated = str(parse_json(b'"' + first_lines + b'"'))
    except ValueError:
        return False
    plain = message.strip().decode(errors="replace")
    return bool(plain) and plain in repeated
