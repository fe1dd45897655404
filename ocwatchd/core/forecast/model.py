"""When will a model's limit be reached? From what was used and when limits came, or from what the provider says. Pure.

A forecast says how it knows: `exact` (rate-limit headers), `configured` (a person knows the limit), `learnt` (at least
three limits that came at much the same use), `estimated` (fewer, or they do not agree well), or that there is not
enough data.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from ocwatchd.core.middle import median

WINDOWS = (60.0, 300.0, 3600.0, 18_000.0)
"""Seconds of the sliding windows that are looked at: the usual ones per minute, per hour, and Claude's five hours."""
SAME_LIMIT = 600.0
"""Seconds within which refusals are one limit."""
ENOUGH = 3
AGREE = 0.35
"""How far the uses at which limits came may lie apart, as a part of the middle one, to be called learnt."""
EXCEEDED = 1.05
"""Use beyond this part of a supposed limit that met none speaks against it."""


class Label(StrEnum):
    """How the limit is known."""

    EXACT = "exact"
    CONFIGURED = "configured"
    LEARNT = "learnt"
    ESTIMATED = "estimated"
    UNKNOWN = "not enough data"


class Measure(StrEnum):
    """What is limited."""

    TOKENS = "tokens"
    REQUESTS = "requests"


class History:
    """What one model was used for, oldest first: times in epoch seconds, tokens of each request."""

    def __init__(self, uses: Iterable[tuple[float, int]] = ()) -> None:
        """`uses`: (time, tokens), in any order."""
        ordered = sorted(uses)
        self.times = [time for time, _ in ordered]
        self._sums = [0, *accumulate(tokens for _, tokens in ordered)]

    def used(self, measure: Measure, begin: float, end: float) -> float:
        """In (begin, end]."""
        first, last = bisect_right(self.times, begin), bisect_right(self.times, end)
        return float(last - first if measure is Measure.REQUESTS else self._sums[last] - self._sums[first])

    def until(self, end: float) -> History:
        """What had happened by then."""
        number = bisect_right(self.times, end)
        cut = History()
        cut.times, cut._sums = self.times[:number], self._sums[: number + 1]
        return cut


@dataclass(frozen=True, slots=True)
class Bound:
    """So much may be used within `window` seconds. `limits`: how many it was learnt from."""

    measure: Measure
    window: float
    limit: float
    label: Label
    limits: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What a rate-limit header said at `at`: so much is left until `resets` (None if it does not say)."""

    measure: Measure
    limit: float | None
    remaining: float
    resets: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one model. `used` and `limit` within `window` seconds; `hits` is when the limit is expected to be reached if
    use goes on as it does (None: not foreseen), `free` when there is room again then; `left` of the limit is free now.
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
        """The nearest limit first, and of those that are not foreseen what is known best."""
        return self.hits or float("inf"), tuple(Label).index(self.label), self.model

    @property
    def share(self) -> float | None:
        """How much of the limit is used, 0 to 1 and beyond."""
        return self.used / self.limit if self.limit else None


def separate(limits: Iterable[float]) -> list[float]:
    """The times at which limits came, each burst of refusals once."""
    found: list[float] = []
    last = float("-inf")
    for at in sorted(limits):
        if at - last > SAME_LIMIT:
            found.append(at)
        last = at
    return found


def learn(history: History, limits: Iterable[float]) -> Bound | None:
    """The limit that best explains when limits came; None without any, or without use before them."""
    came = [at for at in separate(limits) if history.times and at >= history.times[0]]
    found = [_explained(history, came, measure, window) for measure in Measure for window in WINDOWS] if came else []
    fitting = [pair for pair in found if pair is not None]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _explained(
    history: History, came: Sequence[float], measure: Measure, window: float
) -> tuple[tuple[float, float], Bound] | None:
    """How badly this window explains the limits (the smaller the better), and the limit that it gives."""
    at_limit = [history.used(measure, at - window, at) for at in came]
    limit = median(at_limit)
    if limit < 2 or min(at_limit) <= 0:
        return None
    spread = (max(at_limit) - min(at_limit)) / limit
    peaks = [history.used(measure, time - window, time) for time in history.times]
    beyond = sum(peak > limit * EXCEEDED for peak in peaks) / len(peaks)
    usual = sum(peaks) / len(peaks)
    label = Label.LEARNT if len(came) >= ENOUGH and spread + beyond <= AGREE else Label.ESTIMATED
    # Where several explain it equally well, the one in which a limit is the most unusual moment.
    return (round(spread + 5 * beyond, 2), usual / limit), Bound(measure, window, limit, label, len(came))


def foresee(model: str, history: History, bound: Bound | None, now: float) -> Forecast:
    """What comes of use that goes on as in the last minutes."""
    if bound is None:
        return Forecast(model, Label.UNKNOWN)
    used = history.used(bound.measure, now - bound.window, now)
    hits = _reached(history, bound, used, now)
    free = None if hits is None else room(history, bound, max(hits, now))
    left = max(bound.limit - used, 0.0)
    return Forecast(
        model, bound.label, bound.measure, bound.window, used, bound.limit, hits, free, bound.limits, left
    )  # fmt: skip


def foresee_told(model: str, history: History, told: Sequence[Told], now: float) -> Forecast | None:
    """From headers: of several limits the one that is reached first. What was told before its reset is over."""
    found = [_foresee_one(model, history, one, now) for one in told if one.resets is None or one.resets > now]
    return min(found, key=lambda one: (one.hits or float("inf"), -(one.share or 0.0)), default=None)


def _foresee_one(model: str, history: History, told: Told, now: float) -> Forecast:
    left = max(told.remaining - history.used(told.measure, told.at, now), 0.0)
    rate = _rate(history, told.measure, 300.0, now)
    hits = now if left <= 0 else now + left / rate if rate > 0 else None
    if hits is not None and told.resets is not None and hits >= told.resets:
        hits = None
    used = 0.0 if told.limit is None else told.limit - left
    free = told.resets if hits is not None else None
    return Forecast(model, Label.EXACT, told.measure, None, used, told.limit, hits, free, left=left)


def _rate(history: History, measure: Measure, window: float, now: float) -> float:
    """Use a second over the last minutes, at most ten of them."""
    span = min(max(window, 60.0), 600.0)
    return history.used(measure, now - span, now) / span


def _reached(history: History, bound: Bound, used: float, now: float) -> float | None:
    """When use within the window reaches the limit: what is old leaves it, new use comes at the present rate."""
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
    """When a tenth of the limit is free again, if nothing more is used from `at` on."""
    for index in range(bisect_left(history.times, at - bound.window), bisect_right(history.times, at)):
        if history.used(bound.measure, history.times[index], at) <= 0.9 * bound.limit:
            return max(history.times[index] + bound.window, at)
    return at + bound.window
