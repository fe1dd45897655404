"""Find the reset time of a limit, first in the headers, then in the body's fields, and then in the text. Pure
functions; `now` is the record's timestamp.

Reported times are checked. Times that are in the past, negative or unreadable are ignored, and long times are reduced
to 31 days (OpenCode itself waits up to 24.8 days if a provider requests it). If a source is unusable, the next one is
tried, and `tamed` contains the reason. The result is None if no source contains a usable time; the configured cooldown
then applies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import islice

from ocwatchd.core.classify.dates import moments
from ocwatchd.core.classify.durations import parse_at, waits
from ocwatchd.core.classify.reset_headers import ReportedTime, header_times
from ocwatchd.core.domain.types import ErrorDetails, Hint, LimitKind
from ocwatchd.core.text.normalize import clip, fold, without_links

_REMEMBERED = 2048
"""Maximum length, in characters, of a text whose waits are cached. Longer texts are rare and would take up too much
memory.
"""

LONGEST = 31 * 86400.0
"""Longest accepted time until a reset, in seconds. A month is the longest window of any plan; a longer time is a
mistake.
"""

SKEW = 5.0
"""Maximum age, in seconds, of a reset time that is still treated as the current time, because the log format before
1.17 has timestamps in whole seconds.
"""

_MARK = r"\\{0,7}[\"']?\s{0,4}[:=]\s{0,4}\\{0,7}[\"']?"
_NUMBER = r"(?P<number>-?\d{1,15}(?:\.\d{1,12})?)"
_SECONDS = r"\{\s{0,20}\\{0,7}\"?seconds\\{0,7}\"?\s{0,4}:\s{0,4}\\{0,7}\"?"
"""A protobuf Duration in a form other than `41s`: `{"seconds": 41, "nanos": 0}`, or in Python `retry_delay { seconds:
41 }`.
"""

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


def find_hint(facts: ErrorDetails, now: float, kind: LimitKind | None = None, local: tzinfo = UTC) -> Hint | None:
    """Return the best reset time in an error, or None if there is none.

    If a text contains two waits, `kind` determines which one applies. `local` is the time zone of dates without a zone.
    """
    return _best(_all_times(facts, now, kind, local), now)


def from_headers(headers: Mapping[str, str], now: float) -> Hint | None:
    """Return the reset time from response headers, or None if there is none. The names must be lower case."""
    return _best(header_times(headers, now), now)


def from_body(body: str, now: float) -> Hint | None:
    """Return the reset time from a body's fields (RetryInfo, resets_in_seconds, …), or None if there is none.

    The body may be truncated, and it may be JSON inside JSON.
    """
    return _best(_body_times(body, now), now)


def from_text(text: str, now: float, kind: LimitKind | None = None, local: tzinfo = UTC) -> Hint | None:
    """Return the reset time from a message text, or None if there is none."""
    return _best(_text_times(text, now, kind, local), now)


def accepted_time(reported: ReportedTime, now: float) -> Hint | str:
    """Return a reset time that is within the accepted range, or the reason why the reported time is ignored."""
    after = (
        reported.after
        if reported.after is not None
        else reported.until - now
        if reported.until is not None
        else math.nan
    )
    if not math.isfinite(after) or not math.isfinite(now):
        return f"{reported.source}: unreadable"
    if after < (-SKEW if reported.after is None else 0):
        return f"{reported.source}: {'negative' if reported.after is not None else 'past'}"
    if after > LONGEST:
        why = f"{reported.source}: {_days(after)} reported, capped at 31 days"
        return Hint(now + LONGEST, LONGEST, reported.reset_source, reported.source, reported.estimated, why)
    after = max(0.0, after)
    return Hint(now + after, after, reported.reset_source, reported.source, reported.estimated)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds < 1e12 else "an impossibly long time"


def _best(reported: Iterator[ReportedTime], now: float) -> Hint | None:
    refused: str | None = None
    for item in reported:
        hint = accepted_time(item, now)
        if isinstance(hint, Hint):
            return replace(hint, tamed=hint.tamed or refused)
        refused = refused or hint
    return None


def _all_times(facts: ErrorDetails, now: float, kind: LimitKind | None, local: tzinfo) -> Iterator[ReportedTime]:
    if facts.headers:
        yield from header_times(facts.headers, now)
    if facts.body:
        yield from _body_times(facts.body, now)
    yield from _text_times(facts.message, now, kind, local)
    if facts.body and facts.body[:1] not in "{[" and facts.body not in facts.message:
        yield from _text_times(facts.body, now, kind, local)


def _body_times(body: str, now: float) -> Iterator[ReportedTime]:
    matches = islice(_BODY.finditer(clip(body)), 32)
    found = (_body_time(match["key"], match["value"].strip(), now) for match in matches)
    reported = [item for item in found if item]
    # durations first, because they do not depend on a common clock
    yield from (item for item in reported if item.after is not None)
    yield from (item for item in reported if item.after is None)


def _body_time(key: str, value: str, now: float) -> ReportedTime | None:
    name = re.sub(r"[^a-z]", "", key.lower())
    source = f"body:{key}"
    if re.fullmatch(r"-?\d{1,15}(?:\.\d{1,12})?", value):
        return _body_number(name, float(value), source, now)
    duration = parse_at(value.lower())
    if duration and duration[1] == len(value):
        return ReportedTime(source, after=duration[0])
    moment = next(moments(value, now), None)
    return ReportedTime(source, until=moment.until, estimated=moment.estimated) if moment else None


def _body_number(name: str, value: float, source: str, now: float) -> ReportedTime | None:
    if abs(value) > 1e11:
        return ReportedTime(source, until=value / 1000)
    if value > 1e9 and value > now - 366 * 86400:
        return ReportedTime(source, until=value)
    if name.endswith("ms"):
        return ReportedTime(source, after=value / 1000)
    if name.endswith(("at", "timestamp", "date", "on", "until")):
        return None  # the field should contain a point in time, and a small number cannot be one
    return ReportedTime(source, after=value)


@lru_cache(maxsize=64)
def _cached_waits(bare: str) -> tuple[ReportedTime, ...]:
    """Return the waits in a text. Results are cached, because a burst of limits repeats a few texts a
    thousand times.
    """
    return tuple(ReportedTime(f"text:{words}", after=seconds) for seconds, words in waits(fold(bare)))


def _text_times(text: str, now: float, kind: LimitKind | None, local: tzinfo) -> Iterator[ReportedTime]:
    bare = without_links(clip(text))
    if not bare:
        return
    found = list(_cached_waits(bare) if len(bare) <= _REMEMBERED else _cached_waits.__wrapped__(bare))
    if kind in (LimitKind.QUOTA, LimitKind.BILLING):
        found.sort(
            key=lambda reported: -(reported.after or 0)
        )  # longest first: in "5 s between requests, quota resets in 3 h", the reset of the quota applies
    yield from found
    for moment in moments(bare, now, local):
        yield ReportedTime(f"text:{moment.source}", until=moment.until, estimated=moment.estimated)
    # the text may contain a dumped RetryInfo, such as `retryAfter=33`
    if not found and any(sign in bare for sign in "=:{"):
        yield from _body_times(bare, now)
