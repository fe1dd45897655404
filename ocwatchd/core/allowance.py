"""Rate-limit headers of answers as values: limit, remaining and reset of `anthropic-` and `x-ratelimit-*`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ocwatchd.core.durations import parse_at
from ocwatchd.core.forecast import Measure, Told
from ocwatchd.core.hint_headers import moment_of

_FIELDS = "limit|remaining|reset"
_ANTHROPIC = re.compile(rf"anthropic-ratelimit-(?P<what>requests|(?:input-|output-)?tokens)-(?P<field>{_FIELDS})\Z")
_OTHERS = re.compile(rf"x-ratelimit-(?P<field>{_FIELDS})(?:-(?P<what>requests|tokens))?\Z")
RELATIVE = 10**8
"""Below this a bare number is seconds from now, above it an epoch."""


def allowance(headers: Mapping[str, str], at: float) -> tuple[Told, ...]:
    """What an answer at `at` (epoch seconds) said is left. `headers` have lower-case names."""
    groups: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        found = _ANTHROPIC.match(name) or _OTHERS.match(name)
        if found:
            groups.setdefault(found["what"] or "requests", {})[found["field"]] = value
    told = (_told(what, fields, at) for what, fields in groups.items())
    return tuple(one for one in told if one is not None)


def _told(what: str, fields: Mapping[str, str], at: float) -> Told | None:
    remaining = _number(fields.get("remaining", ""))
    # What an answer's own words used is not counted apart, so of their limit only its end is known.
    if remaining is None or (what == "output-tokens" and remaining > 0):
        return None
    measure = Measure.REQUESTS if what == "requests" else Measure.TOKENS
    return Told(measure, _number(fields.get("limit", "")), remaining, _reset(fields.get("reset", ""), at), at)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}", text) else None


def _reset(text: str, at: float) -> float | None:
    """`6m0s`, `120ms`, seconds, an epoch in seconds or milliseconds, or a date."""
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        number = float(text)
        return at + number if number < RELATIVE else number if number < 10**11 else number / 1000
    duration = parse_at(text)
    return at + duration[0] if duration and duration[1] == len(text) else moment_of(text)
