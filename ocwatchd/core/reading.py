"""The bytes of one log in, what they mean out: decides which of a file's lines are worth reading at all. Pure.

A follower reads everything that tells of turns. Who only catches up looks for failures: in the new format, whose tags
are right, for nothing else; in the old ones a failure's author is proved by what came before it, so that is kept as
raw bytes, cut and read only once a failure is there, and then only as far as it can matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ocwatchd.core.context import TELLING, Held, telling
from ocwatchd.core.detect import Detector, Seen
from ocwatchd.core.dialects import FAILURE, parse
from ocwatchd.core.lines import Line, LineCutter
from ocwatchd.core.liverules import Classifier
from ocwatchd.core.record import NEW_ERRORS, NEW_STARTS, OLD, Dialect, LogRecord, old_spanner, wanted_literals

_BIRTH = b" service=default version="
_OPENING = 200
"""The first record of every old log (0.5 to 1.15), and bytes within which it stands there."""

_BEFORE_KEPT = 8192
"""Lines of an old log kept unread until a failure needs them: who asked what, long enough ago for any stream."""

_PATIENCE = 2000
"""Streams of others that may begin before an error that is not understood counts as not tried again."""


class Reading:
    """Feed it the chunks of one file in order; what they mean comes out, the same for chunks of any size.

    `turns`: also tell how sessions come and go, which only a live follower needs. Without it a log is searched for its
    errors alone, at the speed of one `bytes.find`.
    """

    def __init__(
        self, rules: Classifier, *, file: str | None = None, offset: int = 0, whole: bool = True, turns: bool = False
    ) -> None:
        """Start at `offset`, the beginning of a line; `whole` says that what is before it was read, or is nothing."""
        self.detector = Detector(rules, file=file, whole=whole, turns=turns)
        self.turns = turns
        self._cutter = LineCutter(offset, old_spanner)
        self._held = Held(offset)
        self._opening: bytes | None = b"" if whole and offset == 0 else None
        self._before: deque[Line] = deque(maxlen=_BEFORE_KEPT)
        self._skipped = 0
        self._new: bool | None = None

    @property
    def position(self) -> int:
        """The offset to resume from: before the first line that is not finished."""
        return self._cutter.position

    @property
    def waiting(self) -> bool:
        """Whether finished lines are held back until their record's end is written; `release` gives up on it."""
        return self._cutter.waiting

    def feed(self, chunk: bytes) -> list[Seen]:
        """What the lines mean that `chunk` finishes."""
        if self._opening is not None:
            self._look_at_opening(chunk)
        wanted = self._wanted(chunk)
        if wanted == OLD and not self.turns and self._may_wait(chunk):
            self._held.add(chunk)
            return []
        self._let_go()
        self._held.passed(chunk)
        ends = TELLING if wanted == OLD and not self.turns else (b"",)
        return self._seen(self._cutter.feed(chunk, wanted, ends))

    def release(self) -> list[Seen]:
        """The file stopped growing: a record that seemed to go on has ended."""
        return [] if self._held else self._seen(self._cutter.release())

    def rest(self) -> list[Seen]:
        """Nobody writes this file any more: its last line counts, even without a line end."""
        return [] if self._held else self._seen(self._cutter.rest())

    def _may_wait(self, chunk: bytes) -> bool:
        """Whether no failure ends or stands in the chunk."""
        return self._held.holds_no_failure(chunk) and (bool(self._held) or not self._cutter.owes(FAILURE))

    def _let_go(self) -> None:
        """Cut what was held back: a failure may need it."""
        if self._held.gap:  # more than a failure may need went by without one
            self._before.clear()
            self._cutter = LineCutter(self._held.begin_at_line(), old_spanner)
        for chunk in self._held.take():  # in which no failure stands
            self._before.extend(self._cutter.feed(chunk, OLD, TELLING))

    def _look_at_opening(self, chunk: bytes) -> None:
        """An old log that does not begin as a process begins it is an excerpt: much will not be seen to begin."""
        self._opening = (self._opening or b"") + chunk[:_OPENING]
        if len(self._opening) >= _OPENING or b"\n" in self._opening:
            self.detector.whole = _BIRTH in self._opening[:_OPENING]
            self._opening = None

    def _wanted(self, chunk: bytes) -> tuple[bytes, ...]:
        puzzled = self.detector.puzzled
        return wanted_literals(chunk, starts=self.turns or puzzled, turns=self.turns)

    def _seen(self, lines: Sequence[Line]) -> list[Seen]:
        seen: list[Seen] = []
        queue = deque(lines)
        while queue:
            puzzled = self.turns or self.detector.puzzled
            line = queue.popleft()
            for worth in (line,) if self.turns else self._worth_reading(line):
                record = parse(worth)
                if record is not None and self._of_this_file(record):
                    seen.extend(self.detector.feed(record))
            if not puzzled and self.detector.puzzled and _is_new(line.data):
                # From here on the shape of its retries has to tell, and where they begin was not looked for so far.
                starts = self._cutter.later(line.offset + len(line.data), NEW_STARTS)
                by_offset = {each.offset: each for each in (*queue, *starts)}
                queue = deque(by_offset[offset] for offset in sorted(by_offset))
        return seen

    def _of_this_file(self, record: LogRecord) -> bool:
        """A followed log has one format, old or new: a line of the other is text that somebody put there."""
        new = record.dialect is Dialect.LOGFMT
        self._new = new if self._new is None else self._new
        return not self.turns or self._new is new

    def _worth_reading(self, line: Line) -> Iterable[Line]:
        """While catching up: failures, and what came before them as far as it matters."""
        if _is_new(line.data):
            return (line,) if self._matters(line.data) else ()
        self._before.append(line)
        if b"rror" not in line.data[-16:]:
            return ()
        before, self._before = self._before, deque(maxlen=_BEFORE_KEPT)
        return telling(before)

    def _matters(self, data: bytes) -> bool:
        """In the new format: errors, and the starts of streams of sessions whose errors are not understood."""
        if NEW_ERRORS[0] in data[:80]:
            return True
        puzzling = self.detector.puzzling
        if any(session.encode() in data for session in puzzling):
            self._skipped = 0
            return True
        self._skipped += 1
        if self._skipped > _PATIENCE:
            self._skipped = 0
            self.detector.give_up()
        return False


def _is_new(data: bytes) -> bool:
    return data.startswith(b"timestamp=")
