"""Read reset times from response headers. Pure functions.

Retry-After comes first, because OpenCode obeys it exactly. Then come the reset times of exhausted allowances. If a
provider sends three reset times (for requests, tokens and input tokens), the reset time of the exhausted allowance
applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ocwatchd.core.classify.calendar_words import MONTHS
from ocwatchd.core.classify.durations import parse_at
from ocwatchd.core.domain.types import ResetSource


@dataclass(frozen=True, slots=True)
class ReportedTime:
    """A reported wait (`after`, in seconds) or reset time (`until`, in epoch seconds) that has not been checked yet. If
    both are None, the value could not be read.
    """

    source: str
    after: float | None = None
    until: float | None = None
    estimated: bool = False
    reset_source: ResetSource = ResetSource.TEXT


_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{1,18})?\Z")
_HTTP_DATE = re.compile(r"(?:[A-Za-z]{3,9},?\s)?(\d{1,2})[ -]([A-Za-z]{3})[ -](\d{2,4})\s(\d{1,2}):(\d\d):(\d\d)")
_ISO_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.\d{1,9})?)?\s?(?:Z|z|UTC|GMT|([+-])(\d\d):?(\d\d))?\Z"
)
_FIELD_RESET = re.compile(r"(?:^|[;,\s])(?:t|reset)\s?=\s?(\d{1,9})")
_FIELD_REMAINING = re.compile(r"(?:^|[;,\s])(?:r|remaining)\s?=\s?(\d{1,12})")


def header_times(headers: Mapping[str, str], now: float) -> Iterator[ReportedTime]:
    """Yield all times in the headers, best first. Unreadable values are included, so that the reason for ignoring them
    can be shown.
    """
    yield from _retry_after(headers, now)
    yield from _unified(headers, now)
    yield from _latest(_exhausted(headers, now))
    yield from _plain_resets(headers, now)


def moment_of(text: str) -> float | None:
    """Return an HTTP or ISO date in epoch seconds, or None if the text is not a date. The zone is UTC unless the date
    contains an offset.
    """
    text = text.strip()[:64]
    try:
        return _http_date(text) or _iso_date(text)
    except (ValueError, OverflowError):
        return None


def _http_date(text: str) -> float | None:
    match = _HTTP_DATE.match(text)
    if not match or match[2].lower() not in MONTHS:
        return None
    year = int(match[3]) + (2000 if len(match[3]) == 2 else 0)
    clock = int(match[4]), int(match[5]), min(int(match[6]), 59)
    return datetime(year, MONTHS[match[2].lower()], int(match[1]), *clock, tzinfo=UTC).timestamp()


def _iso_date(text: str) -> float | None:
    match = _ISO_DATE.match(text)
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    value = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp()
    offset = (int(match[8]) * 3600 + int(match[9]) * 60) if match[7] else 0
    return value - offset if match[7] == "+" else value + offset


def _retry_after(headers: Mapping[str, str], now: float) -> Iterator[ReportedTime]:
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        if name in headers:
            yield _read(name, headers[name], now, unit, ResetSource.RETRY_AFTER)
    for name in ("x-ratelimit-user-retry-after", "x-ratelimit-retry-after", "x-retry-after", "ratelimit-retry-after"):
        if name in headers:
            yield _read(name, headers[name], now, 1.0, ResetSource.TEXT)


def _read(name: str, value: str, now: float, unit: float, reset_source: ResetSource) -> ReportedTime:
    """Read a header's value: a number (in units of `unit` seconds), an epoch time, a date or a duration.

    If the value is unreadable, the result contains no time.
    """
    value = value.strip()[:64]
    if _NUMBER.match(value):
        number = float(value)
        if unit == 1.0 and number > 1e9 and abs(_epoch(number) - now) < 400 * 86400:
            return ReportedTime(name, until=_epoch(number), reset_source=reset_source)
        return ReportedTime(name, after=number * unit, reset_source=reset_source)
    moment = moment_of(value)
    if moment is not None:
        return ReportedTime(name, until=moment, reset_source=reset_source)
    duration = parse_at(value.lower())
    whole = duration is not None and duration[1] == len(value)
    return ReportedTime(name, after=duration[0] if duration and whole else None, reset_source=reset_source)


def _epoch(number: float) -> float:
    return number / 1000 if number > 1e11 else number


def _unified(headers: Mapping[str, str], now: float) -> Iterator[ReportedTime]:
    """Yield the reset times of Anthropic's plan windows in which requests are now rejected. The overall reset time
    comes first.
    """
    rejected = [
        f"anthropic-ratelimit-unified-{window}-reset"
        for window in ("5h", "7d", "7d_opus", "7d_sonnet", "overage")
        if headers.get(f"anthropic-ratelimit-unified-{window}-status") == "rejected" and window != "overage"
    ]
    if headers.get("anthropic-ratelimit-unified-status") == "rejected":
        rejected.insert(0, "anthropic-ratelimit-unified-reset")
    for name in rejected:
        if name in headers:
            yield _read(name, headers[name], now, 1.0, ResetSource.TEXT)


def _exhausted(headers: Mapping[str, str], now: float) -> Iterator[ReportedTime]:
    """Yield the reset times of exhausted allowances, from `…-reset-…` headers that accompany `…-remaining-…` headers.
    The order of the headers does not matter.
    """
    for name, value in headers.items():
        if name.startswith("x-codex-") and name.endswith(("-reset-after-seconds", "-reset-at")):
            used = headers.get(f"{name.partition('-reset-')[0]}-used-percent", "")
            gone = bool(_NUMBER.match(used)) and float(used) >= 100
        elif "reset" in name and ("ratelimit" in name or "rate-limit" in name):
            remaining = headers.get(name.replace("reset", "remaining"), "").strip()
            gone = bool(_NUMBER.match(remaining)) and float(remaining) <= 0
        else:
            continue
        if gone:
            yield _read(name, value, now, 1.0, ResetSource.TEXT)


def _latest(reported: Iterator[ReportedTime]) -> Iterator[ReportedTime]:
    """Yield the latest reset time and the longest wait. If several allowances are exhausted, the last reset applies."""
    found = sorted(reported, key=lambda item: -(item.after if item.after is not None else item.until or 0))
    moments, spans = [item for item in found if item.until is not None], [item for item in found if item.until is None]
    yield from moments[:1]
    yield from spans[:1]


def _plain_resets(headers: Mapping[str, str], now: float) -> Iterator[ReportedTime]:
    for name, remaining in (
        ("x-ratelimit-reset", "x-ratelimit-remaining"),
        ("x-rate-limit-reset", "x-rate-limit-remaining"),
        ("ratelimit-reset", "ratelimit-remaining"),
    ):
        if name in headers and headers.get(remaining, "0").strip() in {"0", ""}:
            yield _read(name, headers[name], now, 1.0, ResetSource.TEXT)
    for name in ("x-ratelimit-reset-after", "x-ratelimit-timeremaining"):
        if name in headers:
            yield _read(name, headers[name], now, 1.0, ResetSource.TEXT)
    for field in headers.get("ratelimit", "")[:500].split(","):
        reset, left = _FIELD_RESET.search(field), _FIELD_REMAINING.search(field)
        if reset and left and int(left[1]) == 0:
            yield ReportedTime("ratelimit", after=float(reset[1]))
