"""Create one `Attempt` for each refused request from all records that OpenCode writes about it. Memory use is bounded.

A failure is logged as `stream error`, and again by the processor. OpenCode's own retries add further failures, each of
which is a separate attempt. State is kept for each process, identified by `run=` in the new format and otherwise by the
file.

A failed request is attributed to a provider, model, session, agent and size only if the log proves them. In the old
dialects, the tags are those of the stream that began last, regardless of which stream failed (checked on 1.1 to 1.15:
without exception in 1,600 errors), so they prove nothing. The request's own address and model, the cache key, and the
records of stream starts are reliable. Values that these sources do not prove are None, because a missing name is better
than a wrong one.

`Streams` contains the running requests of one process: requests that began and are not known to have ended. If the log
is read from its beginning, no running request is missing, but some requests may already have ended. If only one running
request can have failed, it is the one that failed. If several can have failed, all of them remain candidates until
there have been as many failures as candidates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.parsing.providers import Providers
from ocwatchd.core.parsing.record import Dialect, Kind, LogRecord

_OPEN_KEPT = 1024
"""Maximum number of stored requests. The log never shows when a title request ended, so title requests accumulate."""

_UNCLEAR_KEPT = 16

Key = tuple[str | None, str | None, bool | None]
Tags = tuple[str | None, str | None, str | None, str | None, bool | None]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A request that has begun, with its tags, which are reliable. Two requests never compare equal."""

    session: str | None
    provider: str | None
    model: str | None
    agent: str | None
    small: bool | None
    key: Key = field(init=False, repr=False)
    """Session, agent and size. A new request with the same key means that the previous one has ended."""
    tags: Tags = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the key and the tags only once, because they are needed for every stream start that is read."""
        object.__setattr__(self, "key", (self.session, self.agent, self.small))
        object.__setattr__(self, "tags", (self.provider, self.model, self.session, self.agent, self.small))

    @property
    def name(self) -> tuple[str | None, str | None]:
        """The request's provider and model."""
        return (self.provider, self.model)


class Streams:
    """The running requests of one process. Their number is bounded; the oldest are discarded first."""

    def __init__(self) -> None:
        """Initialize the collection; no request is running yet."""
        self._open: OrderedDict[Key, Stream] = OrderedDict()
        self._of_session: dict[str | None, dict[Key, None]] = {}
        self._unclear: list[set[Stream]] = []

    def begin(self, stream: Stream) -> None:
        """Record that a request begins. The previous request of the same session and agent has therefore ended."""
        self._forget(stream.key)
        self._open[stream.key] = stream
        self._of_session.setdefault(stream.session, {})[stream.key] = None
        while len(self._open) > _OPEN_KEPT:
            self._forget(next(iter(self._open)))

    def answered(self, stream: Stream) -> None:
        """Record that this request ended successfully."""
        self.end(stream)
        self._did_not_fail(stream)

    def _forget(self, key: Key) -> None:
        if self._open.pop(key, None) is not None:
            keys = self._of_session[key[0]]
            del keys[key]
            if not keys:
                del self._of_session[key[0]]

    def end(self, stream: Stream) -> None:
        """Record that this request has ended."""
        if self._open.get(stream.key) is stream:
            self._forget(stream.key)

    def end_session(self, session: str, *, well: bool) -> None:
        """Record that the session's requests, except title requests, have ended. `well`: whether they were answered."""
        for stream in [self._open[key] for key in self._of_session.get(session, ())]:
            if stream.small:
                continue
            if well:
                self.answered(stream)
            else:
                self.end(stream)

    def one_failed_of(self, candidates: Iterable[Stream]) -> None:
        """Record that one of these requests has failed, although it is unknown which one."""
        self._unclear.append(set(candidates))
        del self._unclear[:-_UNCLEAR_KEPT]
        self._conclude(self._unclear[-1:])

    def under_way(self, test: Callable[[Stream], bool] = lambda _stream: True) -> list[Stream]:
        """Return the running requests for which `test` is true, oldest first."""
        return [stream for stream in self._open.values() if test(stream)]

    def _did_not_fail(self, stream: Stream) -> None:
        changed = [suspects for suspects in self._unclear if stream in suspects]
        for suspects in changed:
            suspects.discard(stream)
        self._unclear = [suspects for suspects in self._unclear if suspects]
        self._conclude(changed)

    def _conclude(self, changed: list[set[Stream]]) -> None:
        """End all requests in a set of candidates if the set has had as many failures as it has requests."""
        for union in [a | b for a in changed for b in self._unclear]:
            inside = [suspects for suspects in self._unclear if suspects <= union]
            if union and len(inside) >= len(union):
                self._unclear = [suspects for suspects in self._unclear if suspects not in inside]
                for stream in union:
                    self.end(stream)
                return


@dataclass(frozen=True, slots=True)
class Who:
    """The details of a failed request; None means unknown. `stream` is the request itself, if known for certain."""

    provider: str | None = None
    model: str | None = None
    session: str | None = None
    agent: str | None = None
    small: bool | None = None
    stream: Stream | None = None


def by_tags(record: LogRecord) -> Who:
    """Identify the failed request by the record's tags, which are correct in 1.17 and later."""
    return Who(record.provider, record.model, record.session, record.agent, record.small)


def by_payload(record: LogRecord, streams: Streams, providers: Providers, busy: Iterable[str]) -> Who:
    """Identify a refused request in an old dialect, in which the record contains the request's address and model."""
    found = _candidates(record, streams, providers)
    names = {stream.name for stream in found}
    if len(names) == 1:
        ((provider, model),) = names
        if provider and record.url:
            providers.learn(record.url, provider)
    else:
        model = record.asked
        provider = providers.of_url(record.url)
        if not names:
            provider = provider or providers.of_model(model, record.url) or providers.well_known(record.url)
            if provider and record.url and providers.of_model(model, record.url) == provider:
                providers.learn(record.url, provider)
    return _finish(record, provider, model, found, streams, busy)


def by_elimination(record: LogRecord, streams: Streams, providers: Providers, alone: Stream | None) -> Who:
    """Identify the request whose answer broke off. In the log format before 1.17, the record contains only the error,
    so other requests are ruled out one by one.

    `alone` is the request of the only busy session. It is used for logs that do not record when a stream starts.
    """
    facts = record.facts or ErrorDetails()
    shape = _shape(facts)
    found = streams.under_way()
    if not found and alone is not None:
        if not providers.may_send_error(alone.provider or "", shape):
            return Who(session=alone.session)
        return Who(alone.provider, alone.model, alone.session)
    # Title requests use the SDK's own retries, whose errors look different, so they are considered last.
    for test in (
        lambda s: providers.may_send_error(s.provider or "", shape),
        lambda s: not s.small,
        lambda s: _names(facts.message, s.model),
    ):
        found = _narrowed(found, test)
    names = {stream.name for stream in found}
    provider, model = next(iter(names)) if len(names) == 1 else (None, None)
    return _finish(record, provider, model, found, streams, ())


def _candidates(record: LogRecord, streams: Streams, providers: Providers) -> list[Stream]:
    """Return the running requests that, according to this record, may have failed."""
    known = providers.of_url(record.url)
    possible = streams.under_way(
        lambda s: s.provider == known if known else not providers.has_other_address(s.provider or "", record.url)
    )
    same = [stream for stream in possible if stream.model == record.asked]
    # A model's name at the provider may differ from its name in OpenCode, because of a configured `id` or a Bedrock
    # region prefix.
    return same or _narrowed(possible, lambda s: _alike(s.model, record.asked), keep=False)


def _finish(
    record: LogRecord,
    provider: str | None,
    model: str | None,
    found: list[Stream],
    streams: Streams,
    busy: Iterable[str],
) -> Who:
    if record.cache_key:
        found = [s for s in found if s.session == record.cache_key] or found
    sessions = {stream.session for stream in found}
    session = record.cache_key
    if session is None and len(sessions) == 1:
        (session,) = sessions
    elif session is None and not found:
        session = _only(busy)
    if len(found) == 1:
        streams.end(found[0])
    elif found:
        streams.one_failed_of(found)
    agents, sizes = {s.agent for s in found}, {s.small for s in found}
    return Who(
        provider,
        model,
        session,
        next(iter(agents)) if len(agents) == 1 else None,
        next(iter(sizes)) if len(sizes) == 1 else None,
        found[0] if len(found) == 1 else None,
    )


def _narrowed(found: list[Stream], test: Callable[[Stream], bool], *, keep: bool = True) -> list[Stream]:
    """Return the requests that pass `test`. If no request passes and `keep` is set, return all of them."""
    passed = [stream for stream in found if test(stream)]
    return passed if passed or not keep else found


def _only(names: Iterable[str]) -> str | None:
    first_two = list(names)[:2]
    return first_two[0] if len(first_two) == 1 else None


def _alike(model: str | None, asked: str | None) -> bool:
    if not model or not asked:
        return False
    ours, theirs = model.lower(), asked.lower()
    return len(min(ours, theirs, key=len)) >= 4 and (ours in theirs or theirs in ours)


def _names(message: str, model: str | None) -> bool:
    """Return whether a message contains the model's name (`Rate limit reached for gpt-5-nano in organization …`)."""
    if not model or len(model) < 4:
        return False
    short = model.rpartition("/")[2]
    before, found, after = message.partition(short)
    if not found:
        return False
    return not (before[-1:].isalnum() or before[-1:] in ("-", ".")) and not (after[:1].isalnum() or after[:1] == "-")


def _shape(facts: ErrorDetails) -> str:
    """Return the name of the API that sends such an error in the middle of an answer, or an empty string."""
    if '"sequence_number"' in facts.body:
        return "openai"
    if facts.body.startswith('{"type":"') and '"message":' in facts.body and '"code"' not in facts.body:
        return "anthropic"
    if facts.body.startswith('{"code":') or not facts.body:
        return "openai-compatible"
    return ""


_KEPT = 4096
"""Maximum number of stored sessions and stream starts. They are needed to recognize forged records."""

_TURNS_KEPT = 1024

TurnKey = tuple[str | None, str | None, str | None, bool | None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed request. `number` is the number of times that its turn has failed on this model, including this failure.

    `waited` is the time, in seconds, between the previous failure and the start of this request; None if the log does
    not contain it. If it is longer than OpenCode's own backoff, OpenCode has honored a Retry-After.
    """

    record: LogRecord
    who: Who
    facts: ErrorDetails
    number: int = 1
    waited: float | None = None


@dataclass(frozen=True, slots=True)
class _Turn:
    number: int
    failed: float
    began_again: float | None = None


class Attempts:
    """Finds each failure of one process exactly once, with all details of the failed request that the log proves.

    `whole`: whether the log is read from its beginning. If so, a stream without a recorded start never began. `starts`:
    whether the caller also feeds the records of stream starts. Without them, a failure reported only by the processor
    cannot be distinguished from a repeated report.
    """

    def __init__(self, *, whole: bool = True, starts: bool = True) -> None:
        """Initialize the state; no record has been read yet."""
        self.starts = starts
        self.streams = Streams()
        self.providers = Providers()
        self._whole = whole
        self._busy: OrderedDict[str, None] = OrderedDict()
        self._asks: OrderedDict[str, tuple[str | None, str | None]] = OrderedDict()
        self._newcomer: str | None = None
        self._sessions: OrderedDict[str, str | None] = OrderedDict()  # each session with its parent, if it has one
        self._begun: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._turns: OrderedDict[TurnKey, _Turn] = OrderedDict()

    def feed(self, record: LogRecord) -> Attempt | None:
        """Process the next record. If it is the first record about a failure, return the attempt; otherwise, None."""
        kind = record.kind
        if kind is Kind.FAILED:
            return self._failed(record)
        if kind is Kind.ECHO:
            return self._reported_again(record)
        if kind is Kind.STREAM:
            self._begin(record)
        elif kind is Kind.KNOWN:
            self._known(record)
        elif record.session:
            self._session(record, record.session)
        return None

    # ---- starts and ends

    def _note(self, stream: Stream) -> None:
        """Record that a stream with these tags has begun."""
        if stream.tags in self._begun:
            self._begun.move_to_end(stream.tags)
        else:
            if stream.provider:
                self.providers.knows(stream.provider, stream.model)
            _remember(self._begun, stream.tags, _KEPT)
        if stream.session:
            self._note_session(stream.session)

    def _note_session(self, session: str) -> None:
        """Record that this session exists."""
        if session in self._sessions:
            self._sessions.move_to_end(session)
        else:
            _remember(self._sessions, session, _KEPT)

    def _asks_again(self, stream: Stream, time: float) -> None:
        """Record when a turn that has failed before sends its next request."""
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
        # If stream starts are not logged, the first model that OpenCode looks up is the new session's model.
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
        """Record whether the session is now busy or idle."""
        if kind is Kind.BUSY:
            if session not in self._busy:
                self._newcomer = None if self._busy else session
            _remember(self._busy, session, _KEPT)
        else:
            self._busy.pop(session, None)

    def _forget_turns(self, sessions: Container[str | None]) -> None:
        """Discard the turn state of these sessions, except for title requests."""
        for key in [key for key in self._turns if key[0] in sessions and not key[3]]:
            del self._turns[key]

    # ---- failures

    def _failed(self, record: LogRecord) -> Attempt | None:
        if self.forged(record):
            return None
        facts = record.facts or ErrorDetails()
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
        """Return whether the session could have sent a request to this model.

        Two processes that start in the same second share a log file in the old format and overwrite each other's
        records. A different model then means a different session.
        """
        if record.dialect in (Dialect.LOGFMT, Dialect.LLM) or record.cache_key or who.session is None:
            return True
        return self._asks.get(who.session, (who.provider, who.model)) == (who.provider, who.model)

    def _asking(self) -> list[str]:
        """Return the busy sessions that may be making a request. A session with a busy subagent is only waiting."""
        waiting = {self._sessions.get(session) for session in self._busy}
        return [session for session in self._busy if session not in waiting]

    def _alone(self) -> Stream | None:
        """Return the request of the only busy session. It is used for logs that do not record when a stream starts."""
        if len(self._busy) != 1:
            return None
        (session,) = self._busy
        provider, model = self._asks.get(session, (None, None))
        return Stream(session, provider, model, None, None)

    def forged(self, record: LogRecord) -> bool:
        """Return whether a record in the format before 1.17 is forged: its stream or session never began."""
        if record.dialect is Dialect.LLM:
            return _tags(record) not in self._begun and (self._whole or bool(self._begun))
        if record.dialect in (Dialect.PROMPT, Dialect.SESSION):
            return record.session not in self._sessions and self._whole
        # Versions that log stream starts (1.0.185 and later) log failures with tags, so an untagged failure is forged.
        return record.dialect is Dialect.BARE and bool(self._begun)

    def _reported_again(self, record: LogRecord) -> Attempt | None:
        """Process a failure reported by OpenCode's session processor. Return its attempt if no failure of its stream is
        known yet.

        Only the format of 1.17 and later names the session and logs every stream, so the failure is ignored in other
        formats.
        """
        if record.dialect is not Dialect.LOGFMT or not self.starts:
            return None
        begun = self.streams.under_way(lambda s: s.session == record.session and not s.small)
        if len(begun) != 1:
            return None  # the failure was reported before, or happened before reading began
        self.streams.end(begun[0])
        who = Who(begun[0].provider, begun[0].model, record.session, begun[0].agent, begun[0].small)
        return self._count(record, who, record.facts or ErrorDetails())

    def _count(self, record: LogRecord, who: Who, facts: ErrorDetails) -> Attempt:
        key = (who.session, who.provider, who.model, who.small)
        turn = self._turns.pop(key, None) if who.session else None
        waited = None
        if turn is not None and turn.began_again is not None:
            waited = turn.began_again - turn.failed
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
