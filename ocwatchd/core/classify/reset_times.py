"""When does the limit end? The best hint of headers, then body fields, then words. Pure; `now` is the record's time.

What providers say is tamed: nothing past, negative or unreadable counts, nothing is longer than 31 days (OpenCode
itself waits out up to 24.8 days, to the letter). A source that says nonsense is passed over, and the next one asked;
the reason stands in the hint's `tamed`. None means nobody said anything usable: the configured rest applies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import islice

from ocwatchd.core.dates import moments
from ocwatchd.core.durations import parse_at, waits
from ocwatchd.core.hint_headers import header_times
from ocwatchd.core.limits import ErrorFacts, Hint, LimitKind
from ocwatchd.core.told import Told
from ocwatchd.core.words import clip, fold, without_links

_REMEMBERED = 2048
"""Characters of a text whose waits are remembered; longer ones are rare and would fill the memory."""

LONGEST = 31 * 86400.0
"""Seconds. A month is the longest window of any plan; what is longer is a mistake or a message to a person."""

SKEW = 5.0
"""Seconds a moment may lie in the past and still mean now: old logs have a clock in whole seconds."""

_MARK = r"\\{0,7}[\"']?\s{0,4}[:=]\s{0,4}\\{0,7}[\"']?"
_NUMBER = r"(?P<number>-?\d{1,15}(?:\.\d{1,12})?)"
_SECONDS = r"\{\s{0,20}\\{0,7}\"?seconds\\{0,7}\"?\s{0,4}:\s{0,4}\\{0,7}\"?"
"""A protobuf Duration that is no `41s`: `{"seconds": 41, "nanos": 0}`, in Python `retry_delay { seconds: 41 }`."""

_BODY = re.compile(
    r"(?P<key>retry[_-]?delay|quotaResetDelay|quotaResetTimeStamp|retry[_-]?after(?:[_-]?(?:ms|seconds|sec|secs))?|resets?_?in_?seconds"
    r"|resets?_?in(?:_?ms)?|reset_seconds|reset_after(?:_seconds)?|resets?[_-]?at|reset_time|resetTime|reset_timestamp|resetsAt|retry_at"
    r"|X-RateLimit-Reset(?:-(?:requests|tokens|after))?|x-codex-primary-reset-after-seconds|cooldown_seconds|wait_seconds"
    r"|(?<=[\"'])reset|wait_?time(?:_?(?:seconds|secs?|ms))?|wait[_-]?ms|(?:next[_-]?)?available[_-]?at|next[_-]?(?:retry|attempt|request)[_-]?at|backoff_seconds"
    r"|(?:seconds|time)_?until_?reset|(?:seconds|time)_?remaining|remaining_?seconds|resets?_?(?:date|on)|retry_?in(?:_?seconds)?"
    r"|(?:wait|blocked|limited|cooldown|locked)_?until)"
    rf"(?:{_MARK}(?:{_SECONDS})?|\s{{0,4}}{_SECONDS})" + r"(?P<value>[^\"'\\,}\]\s][^\"'\\,}\]]{0,60})",
    re.IGNORECASE,
)


def find_hint(facts: ErrorFacts, now: float, kind: LimitKind | None = None, local: tzinfo = UTC) -> Hint | None:
    """The best hint of an error. `kind` chooses between two waits in a text; `local` is for dates without a zone."""
    return _best(_all_told(facts, now, kind, local), now)


def from_headers(headers: Mapping[str, str], now: float) -> Hint | None:
    """The hint of response headers; names need lower case."""
    return _best(header_times(headers, now), now)


def from_body(body: str, now: float) -> Hint | None:
    """The hint of a body's fields (RetryInfo, resets_in_seconds, …); the body may be cut off or be JSON inside JSON."""
    return _best(_body_times(body, now), now)


def from_text(text: str, now: float, kind: LimitKind | None = None, local: tzinfo = UTC) -> Hint | None:
    """The hint of words."""
    return _best(_text_times(text, now, kind, local), now)


def tame(told: Told, now: float) -> Hint | str:
    """The hint of what was told, or why it does not count."""
    after = told.after if told.after is not None else told.until - now if told.until is not None else math.nan
    if not math.isfinite(after) or not math.isfinite(now):
        return f"{told.source}: unreadable"
    if after < (-SKEW if told.after is None else 0):
        return f"{told.source}: {'negative' if told.after is not None else 'past'}"
    if after > LONGEST:
        why = f"{told.source}: {_days(after)} told, capped at 31 days"
        return Hint(now + LONGEST, LONGEST, told.told_by, told.source, told.estimated, why)
    after = max(0.0, after)
    return Hint(now + after, after, told.told_by, told.source, told.estimated)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds < 1e12 else "an absurd time"


def _best(told: Iterator[Told], now: float) -> Hint | None:
    refused: str | None = None
    for item in told:
        hint = tame(item, now)
        if isinstance(hint, Hint):
            return replace(hint, tamed=hint.tamed or refused)
        refused = refused or hint
    return None


def _all_told(facts: ErrorFacts, now: float, kind: LimitKind | None, local: tzinfo) -> Iterator[Told]:
    if facts.headers:
        yield from header_times(facts.headers, now)
    if facts.body:
        yield from _body_times(facts.body, now)
    yield from _text_times(facts.message, now, kind, local)
    if facts.body and facts.body[:1] not in "{[" and facts.body not in facts.message:
        yield from _text_times(facts.body, now, kind, local)


def _body_times(body: str, now: float) -> Iterator[Told]:
    matches = islice(_BODY.finditer(clip(body)), 32)
    found = (_body_time(match["key"], match["value"].strip(), now) for match in matches)
    told = [item for item in found if item]
    yield from (item for item in told if item.after is not None)  # a span needs no common clock
    yield from (item for item in told if item.after is None)


def _body_time(key: str, value: str, now: float) -> Told | None:
    name = re.sub(r"[^a-z]", "", key.lower())
    source = f"body:{key}"
    if re.fullmatch(r"-?\d{1,15}(?:\.\d{1,12})?", value):
        return _body_number(name, float(value), source, now)
    duration = parse_at(value.lower())
    if duration and duration[1] == len(value):
        return Told(source, after=duration[0])
    moment = next(moments(value, now), None)
    return Told(source, until=moment.until, estimated=moment.estimated) if moment else None


def _body_number(name: str, value: float, source: str, now: float) -> Told | None:
    if abs(value) > 1e11:
        return Told(source, until=value / 1000)
    if value > 1e9 and value > now - 366 * 86400:
        return Told(source, until=value)
    if name.endswith("ms"):
        return Told(source, after=value / 1000)
    if name.endswith(("at", "timestamp", "date", "on", "until")):
        return None  # a small number is no point in time
    return Told(source, after=value)


@lru_cache(maxsize=64)
def _waits_told(bare: str) -> tuple[Told, ...]:
    """The waits in a text: a storm repeats a few texts a thousand times, and none of them says anything new."""
    return tuple(Told(f"text:{words}", after=seconds) for seconds, words in waits(fold(bare)))


def _text_times(text: str, now: float, kind: LimitKind | None, local: tzinfo) -> Iterator[Told]:
    bare = without_links(clip(text))
    if not bare:
        return
    found = list(_waits_told(bare) if len(bare) <= _REMEMBERED else _waits_told.__wrapped__(bare))
    if kind in (LimitKind.QUOTA, LimitKind.BILLING):
        found.sort(
            key=lambda told: -(told.after or 0)
        )  # "5 s between requests, quota resets in 3 h": the plan's reset counts
    yield from found
    for moment in moments(bare, now, local):
        yield Told(f"text:{moment.source}", until=moment.until, estimated=moment.estimated)
    if not found and any(sign in bare for sign in "=:{"):  # `retryAfter=33`, a dumped RetryInfo
        yield from _body_times(bare, now)
