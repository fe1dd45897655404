"""Predict when a model's limit will be reached, from its usage and past limits or from the provider's headers. Pure
functions and classes.

A forecast has a label for how its limit is known: `exact` (rate-limit headers), `configured` (a user stated the limit),
`learnt` (at least three limits at similar usage), `estimated` (two limits, or limits at very different usage), or `not
enough data`. A single limit is not a sufficient basis for a forecast, because the usage at that moment equals the
supposed limit.

`allowances_of` reads the rate-limit headers of answers: limit, remaining and reset of `anthropic-` and `x-ratelimit-*`.

`judge` evaluates a forecast rule on a history: at each request, with only the data known at that time.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from ocwatchd.core.domain.statistics import median

WINDOWS = (60.0, 300.0, 3600.0, 18_000.0)
"""Lengths, in seconds, of the sliding windows that are tried: one and five minutes, an hour, and Claude's window of
five hours.
"""
SAME_LIMIT = 600.0
"""Time, in seconds, within which several refused attempts count as one limit."""
FEWEST = 2
"""Minimum number of limits for any forecast. After a single limit, the usage at that moment is the only estimate,
whatever the true limit is. In one case, after one refused request of 8 tokens and a cleared cooldown, the forecast was
"LIMIT IN now, 8 of 8 tokens".
"""
ENOUGH = 3
"""Minimum number of limits for the label `learnt`."""
AGREE = 0.35
"""Maximum spread of the usage at past limits, as a fraction of its median, for the label `learnt`."""
EXCEEDED = 1.05
"""Usage above this multiple of a supposed limit, without a refused attempt, is evidence against that limit."""


class Label(StrEnum):
    """How the limit in a forecast is known."""

    EXACT = "exact"
    CONFIGURED = "configured"
    LEARNT = "learnt"
    ESTIMATED = "estimated"
    UNKNOWN = "not enough data"


class Measure(StrEnum):
    """The quantity that a limit restricts."""

    TOKENS = "tokens"
    REQUESTS = "requests"


class History:
    """The usage of one model, oldest first: the time (epoch seconds) and the tokens of each request."""

    def __init__(self, uses: Iterable[tuple[float, int]] = ()) -> None:
        """Store the usage. `uses` contains pairs of time and tokens, in any order."""
        ordered = sorted(uses)
        self.times = [time for time, _ in ordered]
        self._sums = [0, *accumulate(tokens for _, tokens in ordered)]

    def used(self, measure: Measure, begin: float, end: float) -> float:
        """Return the usage after `begin` and up to `end`, in the unit of the measure."""
        first, last = bisect_right(self.times, begin), bisect_right(self.times, end)
        return float(last - first if measure is Measure.REQUESTS else self._sums[last] - self._sums[first])

    def until(self, end: float) -> History:
        """Return the part of the history up to `end`."""
        number = bisect_right(self.times, end)
        cut = History()
        cut.times, cut._sums = self.times[:number], self._sums[: number + 1]
        return cut


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on the usage within `window` seconds. `limits` is the number of past limits from which it was learned."""

    measure: Measure
    window: float
    limit: float
    label: Label
    limits: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """An allowance that rate-limit headers reported at `at` (epoch seconds): `remaining` is available until `resets`
    (None if not reported).
    """

    measure: Measure
    limit: float | None
    remaining: float
    resets: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast for one model. Times are epoch seconds.

    `used` and `limit` apply to a window of `window` seconds. `hits` is when the limit will be reached if usage
    continues at this rate (None: not expected). `free` is when requests will be possible again after the limit is
    reached. `left` is the usage that remains until the limit is reached.
    """

    model: str
    label: Label
    measure: Measure | None = None
    window: float | None = None
    used: float = 0.0
    limit: float | None = None
    hits: float | None = None
    free: float | None = None
    limits: int = 0
    left: float | None = None

    @property
    def rank(self) -> tuple[float, int, str]:
        """A sort key for forecasts: the limit that will be reached first comes first; of limits reached at the same
        time, the one that is known most reliably comes first.
        """
        return self.hits or float("inf"), tuple(Label).index(self.label), self.model

    @property
    def share(self) -> float | None:
        """The used fraction of the limit, which may exceed 1, or None if it is unknown."""
        return self.used / self.limit if self.limit else None


def separate(limits: Iterable[float]) -> list[float]:
    """Return the times of limits, with each burst of refused attempts reduced to its first attempt."""
    found: list[float] = []
    last = float("-inf")
    for at in sorted(limits):
        if at - last > SAME_LIMIT:
            found.append(at)
        last = at
    return found


def learn(history: History, limits: Iterable[float]) -> Bound | None:
    """Return the usage limit that best explains when attempts were refused. Return None if fewer than two refused
    attempts were preceded by usage.
    """
    came = [at for at in separate(limits) if history.times and at >= history.times[0]]
    if len(came) < FEWEST:
        return None
    found = [_explained(history, came, measure, window) for measure in Measure for window in WINDOWS]
    fitting = [pair for pair in found if pair is not None]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _explained(
    history: History, came: Sequence[float], measure: Measure, window: float
) -> tuple[tuple[float, float], Bound] | None:
    """Return the error with which this window explains the refused attempts (smaller is better) and the resulting usage
    limit. Return None if the window before one of the refused attempts contains no usage.
    """
    at_limit = [history.used(measure, at - window, at) for at in came]
    limit = median(at_limit)
    if limit < 2 or min(at_limit) <= 0:
        return None
    spread = (max(at_limit) - min(at_limit)) / limit
    peaks = [history.used(measure, time - window, time) for time in history.times]
    beyond = sum(peak > limit * EXCEEDED for peak in peaks) / len(peaks)
    usual = sum(peaks) / len(peaks)
    label = Label.LEARNT if len(came) >= ENOUGH and spread + beyond <= AGREE else Label.ESTIMATED
    # If several windows explain the refused attempts equally well, the window in which the usage before them is most
    # unusual is chosen.
    return (round(spread + 5 * beyond, 2), usual / limit), Bound(measure, window, limit, label, len(came))


def foresee(model: str, history: History, bound: Bound | None, now: float) -> Forecast:
    """Return the forecast that results if usage continues at the rate of the last minutes."""
    if bound is None:
        return Forecast(model, Label.UNKNOWN)
    used = history.used(bound.measure, now - bound.window, now)
    hits = _reached(history, bound, used, now)
    free = None if hits is None else room(history, bound, max(hits, now))
    left = max(bound.limit - used, 0.0)
    return Forecast(
        model, bound.label, bound.measure, bound.window, used, bound.limit, hits, free, bound.limits, left
    )  # fmt: skip


def foresee_allowances(model: str, history: History, allowances: Sequence[Allowance], now: float) -> Forecast | None:
    """Return the forecast for the allowance that will be used up first, or None if there is no current allowance. An
    allowance whose reset time has passed is ignored.
    """
    found = [_foresee_one(model, history, one, now) for one in allowances if one.resets is None or one.resets > now]
    return min(found, key=lambda one: (one.hits or float("inf"), -(one.share or 0.0)), default=None)


def _foresee_one(model: str, history: History, allowance: Allowance, now: float) -> Forecast:
    left = max(allowance.remaining - history.used(allowance.measure, allowance.at, now), 0.0)
    rate = _rate(history, allowance.measure, 300.0, now)
    hits = now if left <= 0 else now + left / rate if rate > 0 else None
    if hits is not None and allowance.resets is not None and hits >= allowance.resets:
        hits = None
    used = 0.0 if allowance.limit is None else allowance.limit - left
    free = allowance.resets if hits is not None else None
    return Forecast(model, Label.EXACT, allowance.measure, None, used, allowance.limit, hits, free, left=left)


def _rate(history: History, measure: Measure, window: float, now: float) -> float:
    """Return the average usage per second over the last `window` seconds, but over at least one and at most ten
    minutes.
    """
    span = min(max(window, 60.0), 600.0)
    return history.used(measure, now - span, now) / span


def _reached(history: History, bound: Bound, used: float, now: float) -> float | None:
    """Return when the usage within the sliding window will reach the limit at the current rate. Return None if it will
    not.
    """
    if used >= bound.limit:
        return now
    rate = _rate(history, bound.measure, bound.window, now)
    if rate <= 0:
        return None
    first, last = bisect_right(history.times, now - bound.window), bisect_right(history.times, now)
    begin, base = now, used
    for index in range(first, last + 1):
        leaves = history.times[index] + bound.window if index < last else float("inf")
        at = now + (bound.limit - base) / rate
        if at <= min(leaves, now + bound.window):
            return max(at, begin)
        if leaves >= now + bound.window:
            return None
        begin, base = leaves, history.used(bound.measure, history.times[index], now)
    return None


def room(history: History, bound: Bound, at: float) -> float:
    """Return when the usage will have fallen to 90 % of the limit if there is no usage after `at`."""
    for index in range(bisect_left(history.times, at - bound.window), bisect_right(history.times, at)):
        if history.used(bound.measure, history.times[index], at) <= 0.9 * bound.limit:
            return max(history.times[index] + bound.window, at)
    return at + bound.window


_FIELDS = "limit|remaining|reset"
_ANTHROPIC = re.compile(rf"anthropic-ratelimit-(?P<what>requests|(?:input-|output-)?tokens)-(?P<field>{_FIELDS})\Z")
_OTHERS = re.compile(rf"x-ratelimit-(?P<field>{_FIELDS})(?:-(?P<what>requests|tokens))?\Z")
RELATIVE = 10**8
"""Threshold for numbers in reset headers. A smaller number is a duration in seconds; a larger number is an epoch time.
"""


def allowances_of(headers: Mapping[str, str], at: float) -> tuple[Allowance, ...]:
    """Return the allowances reported in the headers of a response received at `at` (epoch seconds). The names in
    `headers` must be lower case.
    """
    groups: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        found = _ANTHROPIC.match(name) or _OTHERS.match(name)
        if found:
            groups.setdefault(found["what"] or "requests", {})[found["field"]] = value
    allowances = (_allowance(what, fields, at) for what, fields in groups.items())
    return tuple(one for one in allowances if one is not None)


def _allowance(what: str, fields: Mapping[str, str], at: float) -> Allowance | None:
    remaining = _number(fields.get("remaining", ""))
    # Output tokens are not counted separately, so an allowance for them is useful only when it is exhausted.
    if remaining is None or (what == "output-tokens" and remaining > 0):
        return None
    measure = Measure.REQUESTS if what == "requests" else Measure.TOKENS
    return Allowance(measure, _number(fields.get("limit", "")), remaining, reset_of(fields.get("reset", ""), at), at)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}", text) else None


def reset_of(text: str, at: float) -> float | None:
    """Return the reset time in epoch seconds, or None if the text is not valid. The text is a duration such as `6m0s`
    or `120ms`, a number of seconds, an epoch in seconds or milliseconds, or a date.
    """
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        number = float(text)
        return at + number if number < RELATIVE else number if number < 10**11 else number / 1000
    from ocwatchd.core.classify.durations import parse_at  # lazy import: 5 ms of CPU time, needed only for headers
    from ocwatchd.core.classify.reset_headers import moment_of  # lazy import, for the same reason

    duration = parse_at(text)
    return at + duration[0] if duration and duration[1] == len(text) else moment_of(text)


Rule = Callable[[History, Bound | None, Sequence[float], float], bool]
"""A function that returns whether a limit is near, given the usage, the learned limit, the times of past limits, and
the current time.
"""
HORIZON = 900.0
"""Maximum time, in seconds, between an alarm and the limit for the alarm to count as correct."""
NEAR = 120.0


SKIP = 3
"""Number of limits at the beginning of a history that are used only for learning and not for evaluation."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The evaluation of a forecast rule. `precision` is the fraction of alarms that were correct, `recall` is the
    fraction of limits that were predicted, and `lead` is the median warning time in seconds.
    """

    alarms: int
    precision: float
    recall: float
    lead: float


def learned_rule(history: History, bound: Bound | None, _: Sequence[float], now: float) -> bool:
    """Return whether the limit is expected within `NEAR` seconds if usage continues at the rate of the last minutes."""
    found = foresee("p/m", history, bound, now)
    known = found.label in (Label.LEARNT, Label.ESTIMATED)
    return known and found.hits is not None and found.hits - now <= NEAR


def naive_rule(history: History, _: Bound | None, limits: Sequence[float], now: float) -> bool:
    """Return whether the last hour's usage has reached 80 % of the smallest usage in the hour before any past limit."""
    before = [history.used(Measure.TOKENS, at - 3600, at) for at in limits]
    return bool(before) and history.used(Measure.TOKENS, now - 3600, now) >= 0.8 * min(before)


def judge(rule: Rule, uses: Sequence[tuple[float, int]], limits: Sequence[float]) -> Verdict | None:
    """Return the evaluation of the rule on this history, or None if the history contains at most `SKIP` limits."""
    whole, came = History(uses), separate(limits)
    if len(came) <= SKIP:
        return None
    begin = came[SKIP - 1] + HORIZON
    alarms: list[float] = []
    last, bound, known = float("-inf"), None, 0
    for time, _ in sorted(uses):
        if time < begin:
            continue
        before = [at for at in came if at <= time]
        if len(before) > known:  # learn again after each limit, using only earlier data
            known, bound = len(before), learn(whole.until(time), before)
        if not rule(whole, bound, before, time):
            continue
        if time - last > HORIZON or any(last < at <= time for at in came):
            alarms.append(time)
        last = time
    judged = [at for at in came if at > begin]
    right = [time for time in alarms if any(time < at <= time + HORIZON for at in judged)]
    firsts = {at: [t for t in right if t < at <= t + HORIZON] for at in judged}
    predicted = [at - min(times) for at, times in firsts.items() if times]
    precision = len(right) / len(alarms) if alarms else 0.0
    return Verdict(
        len(alarms), precision, len(predicted) / max(len(judged), 1), median(predicted) if predicted else 0.0
    )
