"""Records of one log in, limits and the comings and goings of sessions out. Pure.

`Detector` takes records, `Reading` takes the bytes of one file. Sure limits, doubtful ones and errors that no rule
knows are all yielded as LimitEvents: what is not SURE is for another eye, and blocks or moves nothing alone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ocwatchd.core.attempts import Attempt, Attempts
from ocwatchd.core.hints import find_hint
from ocwatchd.core.limits import Certainty, LimitEvent, Verdict
from ocwatchd.core.lines import Line, LineCutter
from ocwatchd.core.liverules import Classifier
from ocwatchd.core.reason import reason_of
from ocwatchd.core.record import NEW_ERRORS, NEW_STARTS, Dialect, Kind, LogRecord, old_spanner, parse, wanted_literals
from ocwatchd.core.shapes import shape_of, speechless

_RUNS_KEPT = 256
"""Processes that may write one log at a time, generously."""

_LOOPS_KEPT = 256
_BIRTH = b" service=default version="
_OPENING = 200
"""The first record of every old log (0.5 to 1.15), and bytes within which it stands there."""

_BEFORE_KEPT = 8192
"""Lines of an old log kept unread until a failure needs them: who asked what, long enough ago for any stream."""

_PATIENCE = 2000
"""Streams of others that may begin before an error that is not understood counts as not tried again."""

_END_SLACK = 2.5
"""Seconds between a failure that ends a turn and the `cancel` that older versions write at every end (clock of 1 s)."""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A session asks a model. The tags of this record are right in every version."""

    session: str | None
    provider: str | None
    model: str | None
    agent: str | None
    small: bool | None
    time: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A session's turn is over, by itself."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A session's turn was stopped from outside: by its user, or by us."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A session exists; with a parent it is a subagent's."""

    session: str
    parent: str | None
    time: float


Seen = LimitEvent | StreamStarted | TurnEnded | Cancelled | SessionCreated


class Detector:
    """Feed it the records of one file in order; what they mean comes out. Bounded memory.

    `whole`: read from its beginning. `file` is entered into the events. `turns`: all starts of streams are
    fed, not only the failures of the new format.
    """

    def __init__(self, rules: Classifier, *, file: str | None = None, whole: bool = True, turns: bool = True) -> None:
        """Nothing was read yet."""
        self._rules = rules
        self._turns = turns
        self._file = file
        self.whole = whole
        self._runs: OrderedDict[str, Attempts] = OrderedDict()
        self._loops: OrderedDict[tuple[object, ...], list[LimitEvent]] = OrderedDict()
        self._last: OrderedDict[str | None, tuple[float, bool | None]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    @property
    def puzzling(self) -> frozenset[str]:
        """The sessions that fail in words no rule knows, so that the shape of their retries has to tell."""
        return frozenset(str(key[1]) for key in self._loops)

    def give_up(self) -> None:
        """Their retries were not seen for so long that there will be none."""
        self._loops.clear()

    def feed(self, record: LogRecord) -> list[Seen]:
        """What the record adds to what is known."""
        attempt = self._of_run(record.run).feed(record)
        if attempt is not None:
            return list(self._refused(attempt))
        return self._turned(record) if self._turns else []

    def _of_run(self, run: str) -> Attempts:
        attempts = self._runs.get(run)
        if attempts is None:
            attempts = self._runs[run] = Attempts(whole=self.whole, starts=self._turns)
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(run)
        return attempts

    # ---- refusals

    def _refused(self, attempt: Attempt) -> list[LimitEvent]:
        who, record = attempt.who, attempt.record
        _put(self._last, who.session, (record.time, attempt.facts.retryable), _LOOPS_KEPT)
        if speechless(record, attempt.facts):
            return []
        verdict = self._rules.classify(attempt.facts)
        key = (record.run, who.session, who.provider, who.model, who.small)
        if verdict.certainty is not Certainty.UNKNOWN:
            self._loops.pop(key, None)
            return [] if verdict.certainty is Certainty.NO else [self._event(attempt, verdict)]
        shape = shape_of(attempt)
        before = self._loops.pop(key, []) if attempt.number > 1 else []
        if shape is None:
            event = self._event(attempt, verdict)
            if who.session is not None:
                _put(self._loops, key, [*before[-7:], event], _LOOPS_KEPT)
            return [event]
        # What its retry explains was a limit all along: those before are told once more, now surely.
        return [*(replace(event, verdict=shape) for event in before), self._event(attempt, shape)]

    def _event(self, attempt: Attempt, verdict: Verdict) -> LimitEvent:
        record, who, facts = attempt.record, attempt.who, attempt.facts
        hinted = verdict.certainty in (Certainty.SURE, Certainty.DOUBTFUL)
        return LimitEvent(
            time=record.time,
            provider=who.provider,
            model=who.model,
            session=who.session,
            agent=who.agent,
            small=who.small,
            status=facts.status,
            verdict=verdict,
            hint=find_hint(facts, record.time, verdict.kind) if hinted else None,
            reason=reason_of(facts.message or facts.body or facts.name or ""),
            file=self._file,
            offset=record.offset,
        )

    # ---- comings and goings

    def _turned(self, record: LogRecord) -> list[Seen]:
        kind, session, time = record.kind, record.session, record.time
        if kind is Kind.STREAM:
            self._ended.pop(session or "", None)
            return [StreamStarted(session, record.provider, record.model, record.agent, record.small, time)]
        if session is None:
            return []
        if kind is Kind.CREATED:
            return [SessionCreated(session, record.parent, time)]
        if kind is Kind.BUSY:
            self._ended.pop(session, None)
        if kind is Kind.ENDED:
            _put(self._ended, session, None, _LOOPS_KEPT)
            return [TurnEnded(session, time)]
        if kind is Kind.CANCEL:
            return self._stopped(record, session)
        return []

    def _stopped(self, record: LogRecord, session: str) -> list[Seen]:
        """From 1.0.98 to 1.3 `cancel` also stands at the end of every turn, and that is nobody's will."""
        if session in self._ended:
            return []
        if record.dialect is not Dialect.LOGFMT:
            for key in (session, None):
                when, retryable = self._last.get(key, (float("-inf"), None))
                if record.time - when <= _END_SLACK and retryable is not True:
                    return [TurnEnded(session, record.time)]
        return [Cancelled(session, record.time)]


class Reading:
    """Feed it the chunks of one file in order; what they mean comes out, the same for chunks of any size.

    `turns`: also tell how sessions come and go, which only a live follower needs. Without it a log of the new format is
    searched for its errors alone, at the speed of one `bytes.find`.
    """

    def __init__(
        self, rules: Classifier, *, file: str | None = None, offset: int = 0, whole: bool = True, turns: bool = False
    ) -> None:
        """Start at `offset`, the beginning of a line; `whole` says that what is before it was read, or is nothing."""
        self.detector = Detector(rules, file=file, whole=whole, turns=turns)
        self.turns = turns
        self._cutter = LineCutter(offset, old_spanner)
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
        return self._seen(self._cutter.feed(chunk, self._wanted(chunk)))

    def release(self) -> list[Seen]:
        """The file stopped growing: a record that seemed to go on has ended."""
        return self._seen(self._cutter.release())

    def rest(self) -> list[Seen]:
        """Nobody writes this file any more: its last line counts, even without a line end."""
        return self._seen(self._cutter.rest())

    def _look_at_opening(self, chunk: bytes) -> None:
        """An old log that does not begin as a process begins it is an excerpt: much will not be seen to begin."""
        self._opening = (self._opening or b"") + chunk[:_OPENING]
        if len(self._opening) >= _OPENING or b"\n" in self._opening:
            self.detector.whole = _BIRTH in self._opening[:_OPENING]
            self._opening = None

    def _wanted(self, chunk: bytes) -> tuple[bytes, ...]:
        puzzled = bool(self.detector.puzzling)
        return wanted_literals(chunk, starts=self.turns or puzzled, turns=self.turns)

    def _seen(self, lines: Sequence[Line]) -> list[Seen]:
        seen: list[Seen] = []
        queue = deque(lines)
        while queue:
            puzzled = self.turns or bool(self.detector.puzzling)
            line = queue.popleft()
            for worth in (line,) if self.turns else self._worth_reading(line):
                record = parse(worth)
                if record is not None and self._of_this_file(record):
                    seen.extend(self.detector.feed(record))
            if not puzzled and self.detector.puzzling and _is_new(line.data):
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

    def _worth_reading(self, line: Line) -> Iterator[Line]:
        """While catching up: failures, and what came before them as far as it matters."""
        if _is_new(line.data):
            if self._matters(line.data):
                yield line
            return
        self._before.append(line)
        if b"rror" in line.data[-16:]:
            yield from self._before
            self._before.clear()

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


def _put(table: OrderedDict, key: object, value: object, most: int) -> None:  # type: ignore[type-arg]
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
