"""Read the plan windows of subscriptions: how much of each is used, when it resets, and when it will be used up. Pure
functions and classes.

Providers report plan windows in the headers of ordinary answers, as percentages. These forms were observed in November
2026:

* Anthropic: `anthropic-ratelimit-unified-5h-utilization: 0.42` (a fraction) and `…-5h-reset: 1790814600`, the same for
  `7d`, `7d_sonnet` and `overage`;
* ChatGPT plans: `x-codex-primary-used-percent: 12.5`, `…-window-minutes: 300`, `…-reset-at` or `…-reset-after-seconds`,
  the same for `secondary`, and for single models with an additional word (`x-codex-bengalfox-primary-…`);
* GitHub Copilot: `x-quota-snapshot-premium_interactions: ent=1500&rem=31.3&rst=2026-12-01T00%3A00%3A00Z` (`rem` is the
  percentage that remains, `ent` -1 means unlimited), and `x-usage-ratelimit-weekly` in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

from ocwatchd.core.forecast.model import reset_of

_UNIFIED = re.compile(r"anthropic-ratelimit-unified-(?P<name>\w+)-(?P<field>utilization|reset)\Z")
_CODEX = re.compile(
    r"x-codex-(?P<name>(?:[\w-]+-)?(?:primary|secondary))-"
    r"(?P<field>used-percent|window-minutes|reset-at|reset-after-seconds)\Z"
)
_COPILOT = re.compile(r"x-(?P<kind>quota-snapshot|usage-ratelimit)-(?P<name>\w+)\Z")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?\Z")
_LENGTH = re.compile(r"(\d{1,4})([mhd])(?:_|\Z)")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
_WEEK = 7 * 86_400.0
_FAMILY = re.compile(r"\d{1,4}[mhd]_(?P<after>\w+)\Z|(?P<before>.+) (?:\d{1,6}[mhd]|primary|secondary)\Z")
_NO_LIMIT = frozenset(("overage", "completions"))
"""Names of windows that do not limit prompts: paid usage beyond the plan, and Copilot's completions in editors."""
YOUNG = 0.05
"""Fraction of a window that must have passed before a usage rate is derived from it. Early in a window, a single long
turn would distort the rate.
"""
MAX_PERCENT = 10_000.0
"""Maximum plausible percentage. A window with a higher percentage is ignored."""


@dataclass(frozen=True, slots=True)
class PlanWindow:
    """One usage window of a provider's plan.

    `used` is in percent and may exceed 100. `resets` is when the window resets, and `at` is when it was reported (epoch
    seconds). `length` is in seconds. `resets` and `length` are None if unknown.
    """

    provider: str
    name: str
    used: float
    resets: float | None
    length: float | None
    at: float

    def applies_to(self, model: str) -> bool:
        """Return whether this window limits `model` (`provider/model`).

        A window whose name contains a model word (`sonnet` in `7d_sonnet`, `bengalfox` in `bengalfox 5h`) applies to
        the models whose names contain that word. Every other window applies to all models of the provider.
        """
        provider, _, name = model.partition("/")
        found = _FAMILY.match(self.name)
        family = (found["after"] or found["before"]) if found else ""
        return provider == self.provider and self.name not in _NO_LIMIT and family.lower() in name.lower()

    @property
    def used_up(self) -> float | None:
        """When the window will be used up if usage continues at its average rate, in epoch seconds; None if the window
        resets before that time, or if the time is unknown.
        """
        if self.used >= 100:
            return self.at
        if self.resets is None or self.length is None:
            return None
        passed = self.at - (self.resets - self.length)
        if self.used <= 0 or passed < YOUNG * self.length:
            return None
        end = self.at + (100 - self.used) * passed / self.used
        return end if end < self.resets else None


def plan_windows(provider: str, headers: Mapping[str, str], at: float) -> tuple[PlanWindow, ...]:
    """Return the plan windows reported in the headers of a response received at `at` (epoch seconds). The names in
    `headers` must be lower case.
    """
    found = (*_unified(provider, headers, at), *_codex(provider, headers, at), *_copilot(provider, headers, at))
    return tuple(one for one in found if 0 <= one.used <= MAX_PERCENT and (one.resets is None or one.resets > at))


def length_of(name: str) -> float | None:
    """Return the length, in seconds, of a window with a name such as `5h` or `7d_sonnet`, or None if the name does not
    state a length.
    """
    length = _LENGTH.match(name)
    return float(length[1]) * _UNITS[length[2]] if length else None


def _grouped(pattern: re.Pattern[str], headers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        if found := pattern.match(name):
            groups.setdefault(found["name"], {})[found["field"]] = value
    return groups


def _unified(provider: str, headers: Mapping[str, str], at: float) -> Iterator[PlanWindow]:
    for name, fields in _grouped(_UNIFIED, headers).items():
        used = _number(fields.get("utilization"))
        if used is not None:
            yield PlanWindow(provider, name, used * 100, reset_of(fields.get("reset", ""), at), length_of(name), at)


def _codex(provider: str, headers: Mapping[str, str], at: float) -> Iterator[PlanWindow]:
    for name, fields in _grouped(_CODEX, headers).items():
        used, minutes = _number(fields.get("used-percent")), _number(fields.get("window-minutes"))
        if used is None or (minutes is not None and minutes <= 0):  # a length of 0 means that there is no such window
            continue
        after = _number(fields.get("reset-after-seconds"))
        resets = reset_of(fields.get("reset-at", ""), at) or (None if after is None else at + after)
        length = None if minutes is None else minutes * 60
        family, _, place = name.rpartition("-")
        words = [family, place if length is None else _span(length)]
        yield PlanWindow(provider, " ".join(filter(None, words)), used, resets, length, at)


def _copilot(provider: str, headers: Mapping[str, str], at: float) -> Iterator[PlanWindow]:
    for header, value in headers.items():
        found = _COPILOT.match(header)
        fields = dict(parse_qsl(value)) if found else {}
        left, entitled = _number(fields.get("rem")), _number(fields.get("ent"))
        if found is None or left is None or (entitled is not None and entitled <= 0):
            continue
        resets = reset_of(fields.get("rst", ""), at)
        length = _WEEK if found["name"] == "weekly" else None
        if found["kind"] == "quota-snapshot" and resets is not None:
            length = _month_before(resets)
        yield PlanWindow(provider, found["name"], 100 - left, resets, length, at)


def _month_before(end: float) -> float | None:
    """Return the length, in seconds, of the calendar month (UTC) that ends at `end` (epoch seconds), or None if no
    month ends then.
    """
    try:
        last = datetime.fromtimestamp(end, UTC)
        if last.day != 1:
            return None
        return end - (last - timedelta(days=1)).replace(day=1).timestamp()
    except (OverflowError, OSError, ValueError):
        return None


def _span(seconds: float) -> str:
    """Return the usual name of a window of this length: `5h`, `7d`, `90m`."""
    for unit in ("d", "h"):
        if seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds / 60:.0f}m"


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.match(text) else None
