"""Who was refused: provider, model, session, agent and size of a failed request, as far as the log can prove them.

The old dialects' tags are those of the stream that began last, whoever fails (checked on 1.1 to 1.15: not one exception
in 1,600 errors): they prove nothing. Believed are the request's own address and model, the cache key, and the starts of
streams. What these leave open is None: null beats a wrong name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ocwatchd.core.limits import ErrorFacts
from ocwatchd.core.providers import Providers
from ocwatchd.core.record import LogRecord
from ocwatchd.core.streams import Stream, Streams


@dataclass(frozen=True, slots=True)
class Who:
    """The author of a failed request; None is unknown. `stream` is its start, if that is certain."""

    provider: str | None = None
    model: str | None = None
    session: str | None = None
    agent: str | None = None
    small: bool | None = None
    stream: Stream | None = None


def by_tags(record: LogRecord) -> Who:
    """Where the tags are right (1.17 and later)."""
    return Who(record.provider, record.model, record.session, record.agent, record.small)


def by_payload(record: LogRecord, streams: Streams, providers: Providers, busy: Iterable[str]) -> Who:
    """A refused request of the old dialects: its address and model are in the record."""
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
    """An answer that broke off: the old record has nothing but the error, so only what can be ruled out helps.

    `alone` is what the one session asks that is at work, for logs that do not tell where streams begin.
    """
    facts = record.facts or ErrorFacts()
    shape = _shape(facts)
    found = streams.under_way()
    if not found and alone is not None:
        if not providers.speaks(alone.provider or "", shape):
            return Who(session=alone.session)
        return Who(alone.provider, alone.model, alone.session)
    # Titles go through the SDK's own retries, whose errors look different: they are the last to be suspected.
    for test in (
        lambda s: providers.speaks(s.provider or "", shape),
        lambda s: not s.small,
        lambda s: _names(facts.message, s.model),
    ):
        found = _narrowed(found, test)
    names = {stream.name for stream in found}
    provider, model = next(iter(names)) if len(names) == 1 else (None, None)
    return _finish(record, provider, model, found, streams, ())


def _candidates(record: LogRecord, streams: Streams, providers: Providers) -> list[Stream]:
    """The requests under way that can have been this one."""
    home = providers.of_url(record.url)
    at_home = streams.under_way(
        lambda s: s.provider == home if home else not providers.elsewhere(s.provider or "", record.url)
    )
    same = [stream for stream in at_home if stream.model == record.asked]
    # A configured model may have another name for the provider than for OpenCode (`id`, Bedrock's regions).
    return same or _narrowed(at_home, lambda s: _alike(s.model, record.asked), keep=False)


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
    """Those for which `test` holds; all of them if it holds for none and `keep` is set."""
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
    """Whether a provider's message names the model (`Rate limit reached for gpt-5-nano in organization …`)."""
    if not model or len(model) < 4:
        return False
    short = model.rpartition("/")[2]
    before, found, after = message.partition(short)
    if not found:
        return False
    return not (before[-1:].isalnum() or before[-1:] in ("-", ".")) and not (after[:1].isalnum() or after[:1] == "-")


def _shape(facts: ErrorFacts) -> str:
    """Whose API sends such an error in the middle of an answer; empty if several do."""
    if '"sequence_number"' in facts.body:
        return "openai"
    if facts.body.startswith('{"type":"') and '"message":' in facts.body and '"code"' not in facts.body:
        return "anthropic"
    if facts.body.startswith('{"code":') or not facts.body:
        return "openai-compatible"
    return ""
