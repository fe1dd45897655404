"""Read the events of one log from its bytes, and decide which lines are worth parsing. The module is pure.

A reader that follows a log parses everything about turns. While it is catching up, only failures matter. In the new
format, whose tags are reliable, nothing else is parsed. In the formats before 1.17, the records before a failure prove
which request failed, so they are held as raw bytes (`Held`) and split and parsed only when there is a failure.

`informative` reduces the number of lines before a failure. The tags of these lines may be wrong, so only the running
requests prove which request failed. There may be thousands of lines between two failures, but for each kind of stream
start and for each session only the first line (which shows that earlier requests have ended) and the last line (which
shows the running requests) are needed. The lines in between have no effect in `Attempts`.

`QuotedRecords` recognizes records that are part of a provider's error message. The old dialects do not use quotes, so a
multi-line message whose first line ends in ` process` adds whole records to the log. They are recognized because the
failed request, which OpenCode logs first, contains the same message as JSON.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ocwatchd.core.classify.rules import Classifier
from ocwatchd.core.parsing.detect import Detector, Seen
from ocwatchd.core.parsing.dialects import FAILURE, parse
from ocwatchd.core.parsing.lines import LINE_CAP, Line, LineCutter
from ocwatchd.core.parsing.record import (
    NEW_ERRORS,
    NEW_STARTS,
    OLD,
    Dialect,
    Kind,
    LogRecord,
    looks_new,
    old_spanner,
    wanted_literals,
)

HELD = 4 << 20
"""Number of bytes before a failure that are kept to find out which request failed: about 30,000 lines, or several
minutes of four streaming sessions.
"""

_TURNS = (b" loop", b" cancel", b" prompt", b"locking", b" chatting")
_OFTEN = (b" stream", b" getModel", b" found", b" provider", *_TURNS)
_ONCE = (b"rror", b" created", b" retrying with backoff")
INFORMATIVE = _OFTEN + _ONCE
"""Suffixes of log lines that may help to identify the request that failed. Other lines that happen to have such a
suffix are discarded later.
"""


class Held:
    """The unparsed bytes of a file since the last failure: all of them, or at least the last `HELD` bytes.

    `begin` is the offset of the first byte held. `gap`: whether bytes before that offset were discarded.
    `failure_from`: the offset at or after which `FAILURE` occurs; None if it has not occurred.
    """

    def __init__(self, offset: int) -> None:
        """Initialize the buffer for a file whose next chunk begins at this offset."""
        self._chunks: deque[bytes] = deque()
        self.keep(b"", offset)

    def __bool__(self) -> bool:
        """Return whether any bytes are held."""
        return bool(self._chunks or self._kept)

    def keep(self, rest: bytes, begin: int, *, fails: bool = False) -> None:
        """Replace the held bytes with these, which follow the last reported failure and begin at offset `begin`.
        `fails`: whether they contain a failure.
        """
        self._kept, self.begin = rest, begin
        self._chunks.clear()
        self._size, self.gap = 0, False
        self._end_of_last = rest[-len(FAILURE) :]
        self.failure_from = begin if fails else None

    def add(self, chunk: bytes) -> bool:
        """Append this chunk. Return whether a failure may now be complete, or is so long that there is no point in
        waiting for its end.
        """
        across = self._end_of_last + chunk[: len(FAILURE)]
        self._end_of_last = (self._end_of_last + chunk[-len(FAILURE) :])[-len(FAILURE) :]
        end = self.begin + len(self._kept) + self._size
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self.failure_from is None and (chunk.rfind(FAILURE) >= 0 or FAILURE in across):
            self.failure_from = max(end - len(FAILURE), self.begin)
        if self.failure_from is not None:
            return b"\n" in chunk or end + len(chunk) - self.failure_from > LINE_CAP
        while self._size - len(self._chunks[0]) >= HELD:
            self._drop_chunk()
        return False

    def _drop_chunk(self) -> None:
        gone = self._chunks.popleft()
        self._size -= len(gone)
        self.begin += len(self._kept) + len(gone)
        self._kept, self.gap = b"", True

    def move(self, distance: int) -> None:
        """Adjust offsets after the file's bytes were moved by `distance` bytes."""
        self.begin += distance
        if self.failure_from is not None:
            self.failure_from += distance

    def take(self, size: int = 0) -> bytes:
        """Remove and return the first bytes held, at least `size` of them (0: all).

        After a gap, the first call discards the remainder of an incomplete line.
        """
        parts, taken = [self._kept] if self._kept else [], len(self._kept)
        while self._chunks and (not size or taken < size):
            part = self._chunks.popleft()
            parts.append(part)
            taken += len(part)
        self._size -= taken - len(self._kept)
        self.begin += taken
        data, self._kept = parts[0] if len(parts) == 1 else b"".join(parts), b""
        if self.gap:
            end = data.find(b"\n") + 1
            data, self.gap = data[end or len(data) :], not end
        return data


def informative(lines: Collection[Line]) -> list[Line]:
    """Return the lines before a failure that help to identify the failed request, in order.

    All lines are returned if the log does not record stream starts (before 1.0.185), because then the order of all
    lines is needed.
    """
    if not any(line.data.endswith(b" stream") for line in lines):
        return list(lines)
    first: dict[bytes, Line] = {}
    last: dict[bytes, Line] = {}
    kept: dict[int, Line] = {}
    for line in lines:
        data = line.data
        if data.endswith(_ONCE):
            kept[line.offset] = line
        elif data.endswith(_OFTEN):
            key = _key(data)
            first.setdefault(key, line)
            last[key] = line
    for line in (*first.values(), *last.values()):
        kept[line.offset] = line
    return [kept[offset] for offset in sorted(kept)]


def _key(data: bytes) -> bytes:
    """Return the key by which lines are grouped: the tags of a started stream, a session's turn, or a model. The first
    and the last line of each group are kept.
    """
    if data.endswith(_TURNS):
        at = data.find(b" sessionID=")
        return data[at : data.find(b" ", at + 1)] if at >= 0 else data
    return data[data.find(b" service=") :]


_MARK = b"ms service="
"""A literal that occurs in every record of the format before 1.17 and that JSON does not escape."""

_ANSWER = b',"statusCode":'
"""The literal that precedes the answer's fields in a failure. The request, which may quote logs, comes before it."""

_KEPT = 16
"""Maximum number of recent failures that are kept so that later records can be compared with their messages. The
message of a failure is logged right after it, but failures of other sessions may come in between.
"""

_COMPARED = 512
"""Number of bytes at the start of a record that are searched for in answers. These bytes contain the record's time,
tags, address and model.
"""

_ESCAPED = re.compile(rb"u00([2-7][0-9a-fA-F])")


class QuotedRecords:
    """Recognizes records that are only quoted in the answers to the last failed requests."""

    def __init__(self) -> None:
        """Initialize the state; no failed request has been read yet."""
        self._answers: deque[bytes] = deque(maxlen=_KEPT)

    def hold(self, failure: Line) -> bool:
        """Return whether an earlier answer quoted this failure. If not, store the records that the failure's own answer
        quotes.
        """
        if self._answers:
            record = _bare(_as_json(failure.data[:_COMPARED]))
            if any(record in answer for answer in self._answers):
                return True
        data = failure.data
        begin = max(data.find(_ANSWER), 0) or data.find(b" error=")
        if data.find(_MARK, begin) >= 0:
            self._answers.append(_bare(data[begin:]))
        return False


def _as_json(data: bytes) -> bytes:
    return json.dumps(data.decode(errors="ignore"), ensure_ascii=False)[1:-1].encode()


def _bare(data: bytes) -> bytes:
    """Return the text without its escapes, however many layers of JSON surround it."""
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), data.replace(b"\\", b""))


_BIRTH = b" service=default version="
_OPENING = 200
"""`_BIRTH` is a literal in the first record of every log in the old format (0.5 to 1.15). It must occur within the
first `_OPENING` bytes of the log.
"""

_BEFORE_KEPT = 8192
"""Maximum number of lines of a log in the old format that are kept unparsed until there is a failure. This is enough
for any stream.
"""

_BLOCK = 256 << 10
"""Minimum number of held bytes to process at a time. Blocks of 512 KiB would take 1 MiB more memory and would not be
faster.
"""
_FORMAT_BYTES = 10
"""Number of bytes at the start of a log that suffice to recognize its format."""

_PATIENCE = 2000
"""Number of streams of other sessions that may follow an unclassified error before the error counts as not retried."""


class Reading:
    """Converts the chunks of one file, fed in order, to events. The events do not depend on the chunks' sizes.

    `turns`: whether to also return the starts and ends of turns, which only a live follower needs. Without them, a log
    is searched only for errors, at the speed of one `bytes.find`.
    """

    def __init__(
        self,
        rules: Classifier,
        *,
        file: str | None = None,
        offset: int = 0,
        whole: bool = True,
        turns: bool = False,
        mixed: bool = False,
    ) -> None:
        """Start reading at `offset`, which must be the beginning of a line. `whole`: whether all bytes before it were
        read.

        `mixed`: whether the bytes may come from several logs, old and new, one after another. The events may then
        depend on where the input is split into chunks.
        """
        self.detector = Detector(rules, file=file, whole=whole, turns=turns)
        self.turns = turns
        self._cutter = LineCutter(offset, old_spanner)
        self._held = Held(offset)
        self._quoted = QuotedRecords()
        self._opening: bytes | None = b"" if whole and offset == 0 else None
        self._before: deque[Line] = deque(maxlen=_BEFORE_KEPT)
        self._skipped = 0
        self._mixed = mixed
        self._new: bool | None = None
        self._begun = b""

    def catch_up(self) -> None:
        """Read only failures until `follow` is called, because the next bytes were written long ago."""
        self.turns = False
        self.detector.follow(turns=False)

    def follow(self) -> list[Seen]:
        """Begin to return the starts and ends of turns. The events returned by this call come from relevant lines that
        had not been parsed yet.
        """
        seen = self._cut_held() + self._read(self._take_before())
        self.turns = True
        self.detector.follow(turns=True)
        return seen

    def move(self, distance: int) -> None:
        """Adjust offsets after the file's bytes, including those already read, were moved by `distance` bytes."""
        self._cutter.move(distance)
        self._held.move(distance)
        self._before = deque((replace(line, offset=line.offset + distance) for line in self._before), _BEFORE_KEPT)

    @property
    def position(self) -> int:
        """The offset at which reading can resume: the start of the first unfinished line."""
        return self._held.begin if self._held else self._cutter.position

    @property
    def waiting(self) -> bool:
        """Whether finished lines are held back because their record may continue. `release` ends the wait."""
        return self._cutter.waiting

    def feed(self, chunk: bytes) -> list[Seen]:
        """Return the events of the lines that `chunk` finishes."""
        if self._opening is not None:
            self._check_opening(chunk)
        if self._new is None and len(self._begun) < _FORMAT_BYTES:
            self._begun += chunk[:_FORMAT_BYTES]
            self._new = looks_new(self._begun)
        wanted = self._wanted(chunk)
        if wanted == OLD and not self.turns:
            return self._catch_up(chunk)
        seen = self._cut_held() + self._seen(self._cutter.feed(chunk, wanted))
        self._cutter.forget()
        return seen

    def release(self) -> list[Seen]:
        """Return the events held back for a record that seemed to continue. Call this method when the file has stopped
        growing.
        """
        return [] if self._held else self._seen(self._cutter.release())

    def finish(self) -> list[Seen]:
        """Return the last events of a file that is no longer written. Its last line is read even without a
        line ending.
        """
        if self._held and self._held.failure_from is None:
            return []
        return self._cut_held() + self._seen(self._cutter.finish())

    # ---- catching up with an old log

    def _catch_up(self, chunk: bytes) -> list[Seen]:
        """Hold the chunk until there is a failure, and then return the events of all held bytes."""
        if not self._held:
            rest = self._cutter.take_unfinished()
            if rest is None:  # the last bytes are part of a record that may continue, or of a long unfinished line
                return self._read_old(chunk)
            self._held.keep(rest, self._cutter.position, fails=FAILURE in rest)
        if not self._held.add(chunk):
            return []
        return self._cut_held()

    def _take_before(self) -> list[Line]:
        """Remove and return the relevant lines among those that were split but not parsed. Return no lines if too many
        bytes have followed them.
        """
        before, self._before = self._before, deque(maxlen=_BEFORE_KEPT)
        return [] if self._held.gap else informative(before)

    def _cut_held(self) -> list[Seen]:
        """Split all held bytes into lines, and parse the relevant lines."""
        if not self._held:
            return []
        if self._held.gap:
            self._before.clear()
        seen: list[Seen] = []
        first = True
        while self._held:  # split block by block, because joining all held bytes would take twice the memory
            data = self._held.take(_BLOCK)
            if first:
                self._cutter, first = LineCutter(self._held.begin - len(data), old_spanner), False
            seen += self._read_old(data)
        self._held.keep(b"", self._held.begin)
        return seen

    def _read_old(self, data: bytes) -> list[Seen]:
        """Parse lines of a log in the old format (before 1.17). A line in the new format is quoted text and
        is ignored.
        """
        lines = self._cutter.feed(data, OLD, INFORMATIVE)
        self._cutter.forget()
        return self._seen([line for line in lines if not _is_new(line.data)])

    def _check_opening(self, chunk: bytes) -> None:
        """Check how a log in the old format (before 1.17) begins. If it does not begin with the start of a process, the
        log is an excerpt in which many stream starts are missing.
        """
        self._opening = (self._opening or b"") + chunk[:_OPENING]
        if len(self._opening) >= _OPENING or b"\n" in self._opening:
            self.detector.whole = _BIRTH in self._opening[:_OPENING]
            self._opening = None

    def _wanted(self, chunk: bytes) -> tuple[bytes, ...]:
        has_unmatched = self.detector.has_unmatched
        new = None if self._mixed else self._new
        return wanted_literals(chunk, new, starts=self.turns or has_unmatched, turns=self.turns)

    def _seen(self, lines: Sequence[Line]) -> list[Seen]:
        seen: list[Seen] = []
        queue = deque(lines)
        while queue:
            has_unmatched = self.turns or self.detector.has_unmatched
            line = queue.popleft()
            seen += self._read((line,) if self.turns else self._worth_reading(line))
            if not has_unmatched and self.detector.has_unmatched and _is_new(line.data):
                # From this line on, the retry pattern decides whether there is a limit. The starts of the retries in
                # this chunk have not been searched for yet.
                starts = self._cutter.later(line.offset + len(line.data), NEW_STARTS)
                by_offset = {each.offset: each for each in (*queue, *starts)}
                queue = deque(by_offset[offset] for offset in sorted(by_offset))
        return seen

    def _read(self, lines: Iterable[Line]) -> list[Seen]:
        seen: list[Seen] = []
        for line in lines:
            record = parse(line)
            if record and self._of_this_file(record) and not self._is_quoted(line, record):
                seen += self.detector.feed(record)
        return seen

    def _is_quoted(self, line: Line, record: LogRecord) -> bool:
        """Return whether a failure is only quoted in a provider's message. Always return False for the new format,
        whose escaping rules this out.
        """
        return record.kind is Kind.FAILED and record.dialect is not Dialect.LOGFMT and self._quoted.hold(line)

    def _of_this_file(self, record: LogRecord) -> bool:
        """Return whether the record has the format of the log, old or new. A line in the other format is only quoted
        text.
        """
        new = record.dialect is Dialect.LOGFMT
        self._new = new if self._new is None else self._new
        return self._mixed or self._new is new

    def _worth_reading(self, line: Line) -> Iterable[Line]:
        """Return the lines to parse while catching up: failures, and the relevant lines before them."""
        if _is_new(line.data):
            return (line,) if self._matters(line.data) else ()
        self._before.append(line)
        if b"rror" not in line.data[-16:]:
            return ()
        return self._take_before()

    def _matters(self, data: bytes) -> bool:
        """Return whether a line in the new format is an error, or is the start of a stream in a session with an
        unclassified error.
        """
        if NEW_ERRORS[0] in data[:80]:
            return True
        if any(session in data for session in self.detector.unmatched):
            self._skipped = 0
            return True
        self._skipped += 1
        if self._skipped > _PATIENCE:
            self._skipped = 0
            self.detector.give_up()
        return False


def _is_new(data: bytes) -> bool:
    return data.startswith(b"timestamp=")
