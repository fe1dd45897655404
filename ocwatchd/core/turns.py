"""What the lines between two failures of a log up to 1.0.152 come to, found in their raw bytes, uncut. Pure.

These logs do not tell where streams begin: who asks is told by the order in which sessions come to work and models are
looked up. So every such line counts, but of nearly all of them only the session and what becomes of it: two searches
find these lines and one expression reads them, a third of what it takes to cut the lines and to make their records.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter

from ocwatchd.core.dialects import parse
from ocwatchd.core.lines import SPAN_CAP, line_of, places
from ocwatchd.core.record import CLOCK_SLACK, Dialect, Kind, LogRecord, epoch, old_header, old_spanner

Turn = tuple[int, Kind, str, LogRecord | None]
"""Its place, its kind, the session, and the record, unless all that it tells is that the session is there (CREATED), at
work (BUSY) or no longer (ENDED)."""

_SESSION = b" service=session"
_TAGS = b" providerID="
_PROVIDER = b" service=provider"

# What follows `service=session` is told by single bytes, as in `past`: a space, or `.prompt ` or `.processor `.
_NEXT, _PROMPT_ENDS, _PROCESSOR_ENDS = len(_SESSION), len(_SESSION + b".prompt"), len(_SESSION + b".processor")
_SPACE, _AT_LEAST = ord(" "), _PROCESSOR_ENDS + 1

_TOLD_KEPT = 4096
_TAIL, _CREATED = 4, b"ated"
_TURNS = (b" loop", b" cancel", b"locking", b" chatting", b" prompt", b" created", b" with backoff", b" stream")
_LOOK_UPS = (b" found", b" getModel", b" provider", b" stream")


def _tails(words: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset(end[-_TAIL:] for word in words for end in (word, word + b"\r"))


_TURN_TAILS, _LOOK_UP_TAILS, _STREAM_TAILS = _tails(_TURNS), _tails(_LOOK_UPS), _tails((b" stream",))
"""The last bytes of the lines that may count: a slice of them is told from others in no time."""

_HEADER = rb"(?:INFO|ERROR|WARN|DEBUG) {1,2}(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \+\d+ms "
_TURN = re.compile(
    _HEADER + rb"service=session(?:\.prompt)? (?:step=\d++ )?+(?:session=(ses_\w++) )?+(?:sessionID=(ses_\w++) )?+"
    rb"(?:step=\d++ )?+(attempt=\d+ (?:[a-z]\w*=\d+ )+)?+"
    rb"(loop|exiting loop|cancel|locking|unlocking|chatting|prompt|retrying with backoff)\r?\n"
)
_KINDS = {
    **dict.fromkeys((b"loop", b"locking", b"chatting", b"prompt"), Kind.BUSY),
    **dict.fromkeys((b"exiting loop", b"cancel", b"unlocking"), Kind.ENDED),
}
_SHARED = (b"chatting", b"prompt")
"""Where the shared logger's session is the record's own (`dialects`)."""
_BIRTH = re.compile(
    _HEADER + rb"service=session (?:session=ses_\w+ )?+id=(ses_\w++) version=[^\n{]*+"
    rb'(?<= time=)\{"created":(\d{10,14})[^{}\n]{0,120}\} created\r?\n'
)
"""One whose title has no brace, where the last one could be a false end."""


class Order:
    """What came since the last failure, in order, block for block.

    `known` is what was told of providers and models, by its text: again it is only told where it may show what a
    session asks.
    """

    def __init__(self, known: Mapping[bytes, LogRecord]) -> None:
        """Nothing yet; `known` from what came before."""
        self.found: list[Turn] = []
        self.known = known

    def anew(self) -> Order:
        """Nothing yet, behind this one."""
        return Order(self.known)

    def go_on(self, later: Order) -> None:
        """Take in what came right behind."""
        self.found += later.found
        self.known = later.known

    def add(self, data: bytes, begin: int, stop: int, _: int) -> bool:
        """Take in `data[begin:stop]`, which begins and ends with a line, and in which no failure is.

        What goes on behind `stop` must be in `data`, too, as for `past.Past`. False, and nothing is taken in, if a
        record of several lines goes beyond it, or if a stream begins (1.0.185 and later): then it has to be cut and
        read.
        """
        inside: list[tuple[int, int]] = []
        found = _of_sessions(data, begin, stop, inside)
        if found is None:
            return False
        known, busy = dict(self.known), [at for at, kind, _, _ in found if kind is Kind.BUSY]
        models = _of_models(data, begin, stop, inside, busy, known)
        if models is None:
            return False
        self.found += sorted(found + models, key=itemgetter(0)) if models else found
        self.known = known
        return True


def _of_sessions(data: bytes, begin: int, stop: int, inside: list[tuple[int, int]]) -> list[Turn] | None:
    """What becomes of sessions; `inside` gets from where to where the further lines of a record reach."""
    found: list[Turn] = []
    sessions = places(data, _SESSION, begin, stop)
    if sessions and sessions[0] + _AT_LEAST >= len(data):
        return None  # too near the end to be told
    named = [
        at
        for at in reversed(sessions)
        if data[at + _NEXT] == _SPACE or data[at + _PROMPT_ENDS] == _SPACE or data[at + _PROCESSOR_ENDS] == _SPACE
    ]
    find, rfind, done = data.find, data.rfind, begin
    for at in named:
        if at < done:
            continue
        done = end = find(b"\n", at)
        tail = data[end - _TAIL : end]
        if tail not in _TURN_TAILS and not _may_go_on(data, at, end, tail):
            continue
        start = rfind(b"\n", begin, at) + 1 or begin
        turn = _birth(data, start, at) if tail == _CREATED else _turn(data, start, at)
        if turn is None:
            span = old_spanner(data, start, end, min(end + SPAN_CAP, len(data)))
            if span is not None:
                if span.end is None or span.end >= stop:
                    return None
                inside.append((end, span.end))
                done = span.end
            record = parse(line_of(0, data[start:done]))
            if record is None or record.dialect is Dialect.LOGFMT:  # of no old log, so text that somebody put there
                continue
            if record.kind is Kind.STREAM:
                return None
            turn = at, record.kind, record.session or "", record
        found.append(turn)
    return found


def _turn(data: bytes, start: int, at: int) -> Turn | None:
    """What the record that starts here does to a session, if it is one of these and nothing more."""
    match = _TURN.match(data, start)
    if match is None:
        return None
    when, shared, own, again, word = match.groups()
    kind = _KINDS.get(word)
    if kind is None:  # it will try again
        session, kind = shared if again and data[at + _NEXT] != _SPACE else None, Kind.CREATED
    else:
        session = own or (shared if word in _SHARED else None) if again is None else None
    return None if session is None or epoch(when) is None else (at, kind, session.decode(), None)


def _birth(data: bytes, start: int, at: int) -> Turn | None:
    """The same for one that tells of a new session without a parent, and that certainly ends with its line."""
    match = _BIRTH.match(data, start)
    if match is None:
        return None
    when, session, born = match.groups()
    second = epoch(when)
    if second is None or abs(int(born) / 1000 - second) > CLOCK_SLACK or b" parentID=" in match[0]:
        return None
    return at, Kind.CREATED, session.decode(), None


def _may_go_on(data: bytes, at: int, end: int, tail: bytes) -> bool:
    """Whether the record may have further lines (`old_spanner` knows)."""
    if data[at + _NEXT] == _SPACE:
        return data.find(b" id=ses_", at, at + 80) > 0
    return data.find(b" error=", at, end) > 0 and not (tail == b"cess" and data.startswith(b" process", end - 8))


def _of_models(
    data: bytes,
    begin: int,
    stop: int,
    inside: Sequence[tuple[int, int]],
    busy: Sequence[int],
    told: dict[bytes, LogRecord],
) -> list[Turn] | None:
    """Which providers and models are looked up; None if a stream begins. `busy`: where sessions come to work."""
    found: list[Turn] = []
    asks, number = True, 0  # whether a session may have come to work since a model was looked up
    for at in reversed(places(data, _TAGS, begin, stop)):
        end = data.find(b"\n", at)
        text = data[at - len(_PROVIDER) : end]
        known = told.get(text)
        if text[-_TAIL:] not in _LOOK_UP_TAILS if known is None else known.model is None:
            continue
        while number < len(busy) and busy[number] < at:
            asks, number = True, number + 1
        if (known is not None and not asks) or _holds(inside, at):
            continue
        if text[-_TAIL:] in _STREAM_TAILS:
            return None
        record = _looked_up(data, data.rfind(b"\n", begin, at) + 1 or begin, at, end, known)
        if record is not None:
            if known is None:
                _tell(told, text, record)
            asks = asks and record.model is None
            found.append((at, Kind.KNOWN, "", record))
    return found


def _holds(inside: Sequence[tuple[int, int]], at: int) -> bool:
    number = bisect_left(inside, (at,))
    return number > 0 and at < inside[number - 1][1]


def _looked_up(data: bytes, start: int, at: int, end: int, known: LogRecord | None) -> LogRecord | None:
    """The record of this line, if it tells of a provider; `known`: what is told of by its text behind the service."""
    if known is not None:
        header = old_header(data, start)
        if header is not None and header[1] + len(_PROVIDER) - 1 == at:
            return known
    record = parse(line_of(0, data[start:end]))
    return record if record is not None and record.kind is Kind.KNOWN else None


def _tell(told: dict[bytes, LogRecord], text: bytes, record: LogRecord) -> None:
    """What names another SDK of this provider is no longer what was told last."""
    if len(told) >= _TOLD_KEPT:
        told.clear()
    elif record.sdk is not None:
        sdks = (None, record.sdk)
        for key in [key for key, was in told.items() if was.provider == record.provider and was.sdk not in sdks]:
            del told[key]
    told[text] = record
