"""One Attempt per refused request, whatever number of records OpenCode writes about it. Pure; bounded memory.

A failure is told as `stream error` and again by the processor; native retries add further failures, each an attempt of
its own. State is kept per process (`run=` of the new format, else the file).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ocwatchd.core.attribution import Who, by_elimination, by_payload, by_tags
from ocwatchd.core.dialects import stream_of
from ocwatchd.core.limits import ErrorFacts
from ocwatchd.core.past import Past
from ocwatchd.core.providers import Providers
from ocwatchd.core.record import Dialect, Kind, LogRecord, epoch
from ocwatchd.core.streams import Key, Stream, Streams
from ocwatchd.core.turns import Turn

_KEPT = 4096
"""Sessions and starts remembered, to tell a forged record by: one names a stream that never began."""

_TURNS_KEPT = 1024

TurnKey = tuple[str | None, str | None, str | None, bool | None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed request. `number` counts the failures of its turn with this model, this one included.

    `waited` is how many seconds OpenCode let pass between the failure before and this request's start; None if the log
    does not tell. A wait beyond OpenCode's own backoff is a Retry-After that it honoured.
    """

    record: LogRecord
    who: Who
    facts: ErrorFacts
    number: int = 1
    waited: float | None = None


@dataclass(frozen=True, slots=True)
class _Turn:
    number: int
    failed: float
    began_again: float | None = None


class Attempts:
    """The failures of one process, each once, with the author that can be proved.

    `whole`: the log is read from its beginning, so what was not seen to begin never did. `starts`: starts of streams
    are fed, too; without them a failure that only the processor tells cannot be told from one that is told again.
    """

    def __init__(self, *, whole: bool = True, starts: bool = True) -> None:
        """Nothing has happened yet."""
        self.starts = starts
        self.streams = Streams()
        self.providers = Providers()
        self._whole = whole
        self._busy: OrderedDict[str, None] = OrderedDict()
        self._asks: OrderedDict[str, tuple[str | None, str | None]] = OrderedDict()
        self._newcomer: str | None = None
        self._sessions: OrderedDict[str, str | None] = OrderedDict()  # with the parent
        self._begun: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._turns: OrderedDict[TurnKey, _Turn] = OrderedDict()
        self._of_text: dict[bytes, Stream] = {}

    def feed(self, record: LogRecord) -> Attempt | None:
        """Take the next record in; the attempt that it is about, if it is the first to tell of it."""
        kind = record.kind
        if kind is Kind.FAILED:
            return self._failed(record)
        if kind is Kind.ECHO:
            return self._told_again(record)
        if kind is Kind.STREAM:
            self._begin(record)
        elif kind is Kind.KNOWN:
            self._known(record)
        elif record.session:
            self._session(record, record.session)
        return None

    # ---- what goes on

    @property
    def tells_starts(self) -> bool:
        """Whether this log tells where streams begin (1.0.185 and later), as far as it was read."""
        return bool(self._begun)

    def feed_past(self, past: Past) -> None:
        """Take in what lies between two failures: the same as to feed all its turns and starts of streams."""
        starts = {text: self._stream(text) for text in sorted(past.last_start, key=past.last_start.__getitem__)}
        turns = {session.decode(): turn for session, turn in past.last_turn.items()}
        self._clear_suspects(past, starts)
        for session, (_, goes_on) in turns.items():
            self._note_session(session)
            self.streams.end_session(session, well=False)
            if goes_on:
                _remember(self._busy, session, _KEPT)
            else:
                self._busy.pop(session, None)
        self._forget_turns(turns)
        refused, unclear = {key[0] for key in self._turns}, self.streams.unclear()
        for text, stream in starts.items():
            self._note(stream)
            ended, _ = (-1, False) if stream.small else turns.get(stream.session or "", (-1, False))
            if past.last_start[text] > ended:
                self._of_text[text] = self.streams.begin_again(stream, unclear)
                if stream.session in refused:
                    self._asks_again(stream, epoch(past.time[text]) or 0.0)

    def feed_turns(self, turns: Iterable[Turn]) -> None:
        """Take in what lies between two failures of a log that tells no starts of streams: as to feed its records."""
        over: set[str] = set()
        sessions, busy, begins, ends = self._sessions, self._busy, Kind.BUSY, Kind.ENDED
        for _, kind, session, record in turns:
            if record is not None:
                self.feed(record)
                continue
            if session in sessions:  # half a million of these a gigabyte: `_session` takes five times as long
                sessions.move_to_end(session)
            else:
                _remember(sessions, session, _KEPT)
            if kind is begins and session in busy:
                busy.move_to_end(session)
                over.add(session)
            elif kind is begins or kind is ends:
                self._works(session, kind)
                over.add(session)
        if over:
            self._forget_turns(over)

    def _stream(self, text: bytes) -> Stream:
        """The stream of this start that began last, or one that never began."""
        stream = self._of_text.get(text)
        if stream is None:
            if len(self._of_text) >= _KEPT:
                self._of_text.clear()
            stream = self._of_text[text] = stream_of(text)
        return stream

    def _clear_suspects(self, past: Past, starts: Mapping[bytes, Stream]) -> None:
        """What may have failed has not if its session goes on before it asks the same again."""
        suspects = [
            (turn, suspect)
            for suspect in self.streams.suspects()
            if not suspect.small and (turn := past.first_turn.get((suspect.session or "").encode()))
        ]
        keys, again = {suspect.key for _, suspect in suspects}, dict[Key, int]()
        for text, stream in starts.items() if keys else ():
            if stream.key in keys:
                again[stream.key] = min(past.first_start[text], again.get(stream.key, past.first_start[text]))
        for (ended, goes_on), suspect in sorted(suspects, key=lambda each: each[0]):
            if goes_on and ended <= again.get(suspect.key, ended):
                self.streams.answered(suspect)

    def _note(self, stream: Stream) -> None:
        """A stream like this has begun at some time."""
        if stream.tags in self._begun:
            self._begun.move_to_end(stream.tags)
        else:
            if stream.provider:
                self.providers.knows(stream.provider, stream.model)
            _remember(self._begun, stream.tags, _KEPT)
        if stream.session:
            self._note_session(stream.session)

    def _note_session(self, session: str) -> None:
        """Something is told of this session."""
        if session in self._sessions:
            self._sessions.move_to_end(session)
        else:
            _remember(self._sessions, session, _KEPT)

    def _asks_again(self, stream: Stream, time: float) -> None:
        """If this was refused before, its turn goes on at this time."""
        key = (stream.session, stream.provider, stream.model, stream.small)
        turn = self._turns.get(key)
        if turn is not None:
            self._turns[key] = replace(turn, began_again=time)

    def _begin(self, record: LogRecord) -> None:
        stream = Stream(record.session, record.provider, record.model, record.agent, record.small)
        self.streams.begin(stream)
        self._note(stream)
        self._asks_again(stream, record.time)

    def _known(self, record: LogRecord) -> None:
        if record.provider:
            self.providers.knows(record.provider, record.model, record.sdk)
        # Where streams are not told to begin: the first model that is looked up.
        if record.model and self._newcomer and not self._begun:
            _remember(self._asks, self._newcomer, _KEPT, (record.provider, record.model))
            self._newcomer = None

    def _session(self, record: LogRecord, session: str) -> None:
        _remember(self._sessions, session, _KEPT, record.parent or self._sessions.get(session))
        if record.kind in (Kind.BUSY, Kind.ENDED, Kind.CANCEL):
            self._works(session, record.kind)
            self.streams.end_session(session, well=record.kind is Kind.BUSY)
            self._forget_turns((session,))

    def _works(self, session: str, kind: Kind) -> None:
        """It is at work from here on, or no longer."""
        if kind is Kind.BUSY:
            if session not in self._busy:
                self._newcomer = None if self._busy else session
            _remember(self._busy, session, _KEPT)
        else:
            self._busy.pop(session, None)

    def _forget_turns(self, sessions: Container[str | None]) -> None:
        """What these sessions asked before is over; titles are not."""
        for key in [key for key in self._turns if key[0] in sessions and not key[3]]:
            del self._turns[key]

    # ---- what fails

    def _failed(self, record: LogRecord) -> Attempt | None:
        if self.forged(record):
            return None
        facts = record.facts or ErrorFacts()
        if record.dialect is Dialect.LOGFMT:
            who = by_tags(record)
            self._tagged_ended(record)
        elif record.url:
            who = by_payload(record, self.streams, self.providers, self._asking())
        else:
            who = by_elimination(record, self.streams, self.providers, self._alone())
        if who.session and not self._may_ask(record, who):
            who = replace(who, session=None)
        if who.session and who.model:
            _remember(self._asks, who.session, _KEPT, (who.provider, who.model))
        return self._count(record, who, facts)

    def _tagged_ended(self, record: LogRecord) -> None:
        for stream in self.streams.under_way(lambda s: s.key == (record.session, record.agent, record.small)):
            self.streams.end(stream)

    def _may_ask(self, record: LogRecord, who: Who) -> bool:
        """Two processes of one second share an old file, and write over each other: another model, another session."""
        if record.dialect in (Dialect.LOGFMT, Dialect.LLM) or record.cache_key or who.session is None:
            return True
        return self._asks.get(who.session, (who.provider, who.model)) == (who.provider, who.model)

    def _asking(self) -> list[str]:
        """The sessions at work that can be making a request: one whose subagent is at work waits for it."""
        waiting = {self._sessions.get(session) for session in self._busy}
        return [session for session in self._busy if session not in waiting]

    def _alone(self) -> Stream | None:
        """The one session that is at work, and what it asks, where the log tells of no streams."""
        if len(self._busy) != 1:
            return None
        (session,) = self._busy
        provider, model = self._asks.get(session, (None, None))
        return Stream(session, provider, model, None, None)

    def forged(self, record: LogRecord) -> bool:
        """Whether an old record cannot be OpenCode's own: it names a stream or a session that never began."""
        if record.dialect is Dialect.LLM:
            return _tags(record) not in self._begun and (self._whole or bool(self._begun))
        if record.dialect in (Dialect.PROMPT, Dialect.SESSION):
            return record.session not in self._sessions and self._whole
        # Whoever tells where streams begin (1.0.185 and later) tells their failures with tags.
        return record.dialect is Dialect.BARE and bool(self._begun)

    def _told_again(self, record: LogRecord) -> Attempt | None:
        """The processor tells a failure: nothing new, unless the stream it is about has not been told to fail.

        Only the new format has the session and all streams, so only there can such a failure be anybody's.
        """
        if record.dialect is not Dialect.LOGFMT or not self.starts:
            return None
        begun = self.streams.under_way(lambda s: s.session == record.session and not s.small)
        if len(begun) != 1:
            return None  # told before, or before we began to read
        self.streams.end(begun[0])
        who = Who(begun[0].provider, begun[0].model, record.session, begun[0].agent, begun[0].small)
        return self._count(record, who, record.facts or ErrorFacts())

    def _count(self, record: LogRecord, who: Who, facts: ErrorFacts) -> Attempt:
        key = (who.session, who.provider, who.model, who.small)
        turn = self._turns.pop(key, None) if who.session else None
        waited = None
        if turn is not None and turn.began_again is not None:
            waited = max(turn.began_again - turn.failed, 0.0)
        number = turn.number + 1 if turn else 1
        if who.session:
            self._turns[key] = _Turn(number, record.time)
            while len(self._turns) > _TURNS_KEPT:
                self._turns.popitem(last=False)
        return Attempt(record, who, facts, number, waited)


def _tags(record: LogRecord) -> tuple[object, ...]:
    return (record.provider, record.model, record.session, record.agent, record.small)


def _remember(table: OrderedDict[Any, Any], key: Hashable, most: int, value: object = None) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
