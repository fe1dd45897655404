"""The bytes of one log in, what they mean out: decides which of a file's lines are worth reading at all. Pure.

A follower reads everything that tells of turns. Who only catches up looks for failures: in the new format, whose tags
are right, for nothing else; in the old ones a failure's author is proved by what came before it, so that is kept as
raw bytes, cut and read only once a failure is there, and then only as far as it can matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self, TypeVar

from ocwatchd.core.context import TELLING, Held, telling
from ocwatchd.core.detect import Detector, Seen
from ocwatchd.core.dialects import FAILURE, parse
from ocwatchd.core.lines import LINE_CAP, Line, LineCutter, line_of, places
from ocwatchd.core.liverules import Classifier
from ocwatchd.core.past import REACH, Past
from ocwatchd.core.record import (
    NEW_ERRORS,
    NEW_STARTS,
    OLD,
    Dialect,
    LogRecord,
    looks_new,
    old_spanner,
    wanted_literals,
)
from ocwatchd.core.turns import Order

_BIRTH = b" service=default version="
_OPENING = 200
"""The first record of every old log (0.5 to 1.15), and bytes within which it stands there."""

_BEFORE_KEPT = 8192
"""Lines of an old log kept unread until a failure needs them: who asked what, long enough ago for any stream."""

_BLOCK = 256 << 10
"""Bytes of what is held looked at in one go, at least. 512 KiB take a MiB more of a daemon, and no less time."""
_TOLD_KEPT = 4096
_TELLING = 10
"""Bytes of a log's first line that tell its format."""

_PATIENCE = 2000
"""Streams of others that may begin before an error that is not understood counts as not tried again."""


class _Between(Protocol):
    """What came since the last failure, as far as it matters."""

    def anew(self) -> Self: ...
    def go_on(self, later: Self) -> None: ...
    def add(self, data: bytes, begin: int, stop: int, origin: int, /) -> bool: ...


_Before = TypeVar("_Before", bound=_Between)


class Reading:
    """Feed it the chunks of one file in order; what they mean comes out, the same for chunks of any size.

    `turns`: also tell how sessions come and go, which only a live follower needs. Without it a log is searched for its
    errors alone, at the speed of one `bytes.find`.
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
        """Start at `offset`, the beginning of a line; `whole` says that what is before it was read, or is nothing.

        `mixed`: several logs, old and new, may follow each other; where a chunk ends may then count.
        """
        self.detector = Detector(rules, file=file, whole=whole, turns=turns)
        self.turns = turns
        self._cutter = LineCutter(offset, old_spanner)
        self._held = Held(offset)
        self._opening: bytes | None = b"" if whole and offset == 0 else None
        self._before: deque[Line] = deque(maxlen=_BEFORE_KEPT)
        self._told: set[bytes] = set()
        self._known: Mapping[bytes, LogRecord] = {}
        self._skipped = 0
        self._mixed = mixed
        self._new: bool | None = None
        self._begun = b""

    def catch_up(self) -> None:
        """What comes now is far behind the present: only its failures count, until `follow` says otherwise."""
        self.turns = False
        self.detector.follow(turns=False)

    def follow(self) -> list[Seen]:
        """From here on tell how sessions come and go. What was not read yet is, as far as it matters."""
        seen = self._cut_held() + self._read(self._take_before())
        self.turns = True
        self.detector.follow(turns=True)
        return seen

    @property
    def position(self) -> int:
        """The offset to resume from: before the first line that is not finished."""
        return self._held.begin if self._held else self._cutter.position

    @property
    def waiting(self) -> bool:
        """Whether finished lines are held back until their record's end is written; `release` gives up on it."""
        return self._cutter.waiting

    def feed(self, chunk: bytes) -> list[Seen]:
        """What the lines mean that `chunk` finishes."""
        if self._opening is not None:
            self._look_at_opening(chunk)
        if self._new is None and len(self._begun) < _TELLING:
            self._begun += chunk[:_TELLING]
            self._new = looks_new(self._begun)
        wanted = self._wanted(chunk)
        if wanted == OLD and not self.turns:
            return self._catch_up(chunk)
        seen = self._cut_held() + self._seen(self._cutter.feed(chunk, wanted))
        self._cutter.forget()
        return seen

    def release(self) -> list[Seen]:
        """The file stopped growing: a record that seemed to go on has ended."""
        return [] if self._held else self._seen(self._cutter.release())

    def rest(self) -> list[Seen]:
        """Nobody writes this file any more: its last line counts, even without a line end."""
        if self._held and self._held.failure_from is None:
            return []
        return self._cut_held() + self._seen(self._cutter.rest())

    # ---- catching up with an old log

    def _catch_up(self, chunk: bytes) -> list[Seen]:
        """Hold the chunk back until a failure is there; then tell of it."""
        if not self._held:
            rest = self._cutter.give_back()
            if rest is None:  # of a record that may go on, or of a line without end
                return self._read_old(chunk)
            self._held.keep(rest, self._cutter.position, fails=FAILURE in rest)
        if not self._held.add(chunk):
            return []
        return self._tell()

    def _tell(self) -> list[Seen]:
        """The failures that are held, each told in the light of what came before it."""
        seen = self._read(self._take_before())
        before = self._nothing_yet()
        failure_from, rest = self._held.failure_from or 0, b""
        while self._held.begin < failure_from:  # in blocks: joined to one, the bytes held would take twice the memory
            block, begin = self._look_before(before, rest, self._held.take(_BLOCK), failure_from)
            rest, block = block[begin:], b""
        block, begin = self._look_before(before, rest, self._held.take(), failure_from)
        return self._tell_of(before, block, begin, failure_from, seen)

    def _nothing_yet(self) -> Past | Order:
        return Past() if self.detector.tells_starts else Order(self._known)

    def _look_before(self, before: _Before, rest: bytes, block: bytes, until: int) -> tuple[bytes, int]:
        """Take in what is finished in these bytes until there; all bytes that are at hand, and which are not yet.

        To join `rest`, mostly an unfinished line, and the block copies both: so only that line is joined, if it can.
        """
        begin, origin, here = 0, self._held.begin - len(block), before.anew()
        line = block.find(b"\n", 0, max(until - origin, 0)) + 1
        if rest and line and b"\n" not in rest:
            joined = rest + block[: line + REACH]
            begin = line if here.add(joined, 0, len(rest) + line, origin - len(rest)) else 0
        if rest and not begin:
            block, origin = rest + block, origin - len(rest)
        stop = block.rfind(b"\n", begin, max(until - origin, begin)) + 1 or begin
        if here.add(block, begin, stop, origin):
            before.go_on(here)
            return block, stop
        return (rest + block, 0) if begin else (block, 0)

    def _tell_of(
        self, before: Past | Order, data: bytes, begin: int, failure_from: int, seen: list[Seen]
    ) -> list[Seen]:
        offset, unfinished = self._held.begin - len(data), False
        for at in reversed(places(data, FAILURE, max(failure_from - offset, begin), len(data))):
            if at < begin:
                continue  # in the line of the one before
            start, stop = data.rfind(b"\n", begin, at) + 1 or begin, data.find(b"\n", at)
            unfinished = stop < 0 and len(data) - start <= LINE_CAP
            if unfinished:
                break
            whole = stop >= 0 and old_spanner(data, start, stop, len(data)) is None
            known = whole and before.add(data, begin, start, offset)
            self._take_in(before, seen)
            if not known:
                return seen + self._cut(data[begin:])
            seen += self._read([line_of(offset + start, data[start:stop])])
            begin, before = stop + 1, self._nothing_yet()
        self._take_in(before, seen)
        self._held.keep(data[begin:], offset + begin, fails=unfinished)
        self._cutter = LineCutter(offset + begin, old_spanner)  # where to go on, should nothing be left
        return seen

    def _take_in(self, before: Past | Order, seen: list[Seen]) -> None:
        """What came before a failure. What was told of a provider before is not read again."""
        if isinstance(before, Order):
            self._known = before.known
            self.detector.feed_turns(before.found)
            return
        others = before.others + [record for text, record in before.known.items() if text not in self._told]
        self._told.update(before.known)
        if len(self._told) > _TOLD_KEPT:
            self._told.clear()
        seen += self._read(Line(0, other) for other in others)
        self.detector.feed_past(before)

    def _take_before(self) -> list[Line]:
        """What was cut and not read: nothing if so much came after it that it cannot matter any more."""
        before, self._before = self._before, deque(maxlen=_BEFORE_KEPT)
        return [] if self._held.gap else telling(before)

    def _cut_held(self) -> list[Seen]:
        """Cut all that is held, and read what matters."""
        if not self._held:
            return []
        if self._held.gap:
            self._before.clear()
        return self._cut(self._held.take())

    def _cut(self, data: bytes) -> list[Seen]:
        """Cut these bytes, the last that were held."""
        self._cutter = LineCutter(self._held.begin - len(data), old_spanner)
        self._held.keep(b"", self._held.begin)
        self._known = {}  # what is cut may say otherwise
        return self._read_old(data)

    def _read_old(self, data: bytes) -> list[Seen]:
        """A line of the new format among old ones is text that somebody put there."""
        lines = self._cutter.feed(data, OLD, TELLING)
        self._cutter.forget()
        return self._seen([line for line in lines if not _is_new(line.data)])

    def _look_at_opening(self, chunk: bytes) -> None:
        """An old log that does not begin as a process begins it is an excerpt: much will not be seen to begin."""
        self._opening = (self._opening or b"") + chunk[:_OPENING]
        if len(self._opening) >= _OPENING or b"\n" in self._opening:
            self.detector.whole = _BIRTH in self._opening[:_OPENING]
            self._opening = None

    def _wanted(self, chunk: bytes) -> tuple[bytes, ...]:
        puzzled = self.detector.puzzled
        new = None if self._mixed else self._new
        return wanted_literals(chunk, new, starts=self.turns or puzzled, turns=self.turns)

    def _seen(self, lines: Sequence[Line]) -> list[Seen]:
        seen: list[Seen] = []
        queue = deque(lines)
        while queue:
            puzzled = self.turns or self.detector.puzzled
            line = queue.popleft()
            seen += self._read((line,) if self.turns else self._worth_reading(line))
            if not puzzled and self.detector.puzzled and _is_new(line.data):
                # From here on the shape of its retries has to tell, and where they begin was not looked for so far.
                starts = self._cutter.later(line.offset + len(line.data), NEW_STARTS)
                by_offset = {each.offset: each for each in (*queue, *starts)}
                queue = deque(by_offset[offset] for offset in sorted(by_offset))
        return seen

    def _read(self, lines: Iterable[Line]) -> list[Seen]:
        records = (parse(line) for line in lines)
        return [
            seen for record in records if record and self._of_this_file(record) for seen in self.detector.feed(record)
        ]

    def _of_this_file(self, record: LogRecord) -> bool:
        """A log has one format, old or new: a line of the other is text that somebody put there."""
        new = record.dialect is Dialect.LOGFMT
        self._new = new if self._new is None else self._new
        return self._mixed or self._new is new

    def _worth_reading(self, line: Line) -> Iterable[Line]:
        """While catching up: failures, and what came before them as far as it matters."""
        if _is_new(line.data):
            return (line,) if self._matters(line.data) else ()
        self._before.append(line)
        if b"rror" not in line.data[-16:]:
            return ()
        return self._take_before()

    def _matters(self, data: bytes) -> bool:
        """In the new format: errors, and the starts of streams of sessions whose errors are not understood."""
        if NEW_ERRORS[0] in data[:80]:
            return True
        if any(session in data for session in self.detector.puzzling):
            self._skipped = 0
            return True
        self._skipped += 1
        if self._skipped > _PATIENCE:
            self._skipped = 0
            self.detector.give_up()
        return False


def _is_new(data: bytes) -> bool:
    return data.startswith(b"timestamp=")
