"""Predict whether a model is about to be limited, in which case new prompts should go to a fallback. Pure functions
and classes.

`threat` evaluates the usage of one model, and `plan_threats` evaluates the usage windows of providers' plans.

Prompts are moved because of a forecast only if its limit is known: from headers (`exact`), from the configuration, or
`learnt` over a window of more than a minute. An `estimated` forecast is only shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ocwatchd.core.domain.statistics import median
from ocwatchd.core.forecast.model import (
    EXCEEDED,
    Allowance,
    Bound,
    Forecast,
    History,
    Label,
    Measure,
    foresee,
    foresee_allowances,
    room,
)
from ocwatchd.core.forecast.plan_windows import PlanWindow
from ocwatchd.core.text.amounts import span

TURNS = 10
"""Number of a model's latest turns from which the usage of the next prompt is estimated."""
SHORTEST, NO_RESET_TTL = 30.0, 60.0
"""`SHORTEST` is the minimum lifetime, in seconds, of a forecast whose end is estimated rather than reported;
`NO_RESET_TTL` is the lifetime of a forecast from headers that report no reset time.
"""
LEARNT_WINDOW = 60.0
"""Window length, in seconds, up to which learned limits are not trusted, because four of ten alarms were false
(docs/forecast.md).
"""
ROOM = 0.5
"""Maximum fraction of the permitted usage that one prompt is assumed to need."""
SMALLEST = 1e-9
STALE = 3600.0
"""Maximum age, in seconds, of a report about a plan window without a reset time. An older report is ignored, because a
new window may have begun.
"""
CALM = 2.0
"""Margin for the decision whether to withdraw a forecast; a forecast is made with a margin of 1. With the same margin
for both, a forecast would appear and disappear repeatedly.
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The known usage and limits of one model. `turns` contains, for each of its latest turns, the request count and
    the token count.
    """

    model: str
    history: History
    allowances: tuple[Allowance, ...] = ()
    configured: tuple[Bound, ...] = ()
    learned: Bound | None = None
    turns: tuple[tuple[int, int], ...] = ()

    def takes(self, measure: Measure) -> float:
        """Return the expected usage of the next prompt: the median of the latest turns, but at least 1."""
        own = [requests if measure is Measure.REQUESTS else tokens for requests, tokens in self.turns[-TURNS:]]
        return max(median(own) if own else 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Threat:
    """A warning that the next prompts for this model would hit its limit, until about `until` (epoch seconds)."""

    forecast: Forecast
    until: float
    takes: float
    why: str


def nearest(standing: Standing, now: float) -> Forecast:
    """Return the forecast for the configured or reported limit that will be reached first. If there is no such limit,
    return the forecast for the learned limit.
    """
    known = [foresee(standing.model, standing.history, bound, now) for bound in standing.configured]
    exact = foresee_allowances(standing.model, standing.history, standing.allowances, now)
    known += [exact] if exact else []
    if known:
        return min(known, key=lambda one: (one.hits or float("inf"), -(one.share or 0.0)))
    return foresee(standing.model, standing.history, standing.learned, now)


def threat(standing: Standing, ahead: float, now: float, margin: float = 1.0) -> Threat | None:
    """Return the limit that the next prompts would hit, or None if they would hit none. Of several such limits, return
    the one that lasts longest.

    The next prompts would hit a limit if the usage that remains is less than a prompt takes (times `margin`), or if the
    limit will be reached within `ahead` seconds (times `margin`) at the current rate.
    """
    found = []
    for one, end in _limits(standing, now):
        takes = standing.takes(one.measure or Measure.REQUESTS)
        soon = one.hits is not None and one.hits - now <= ahead * margin
        if soon or (one.left or 0.0) < _wanted(takes, one.limit) * margin:
            found.append(Threat(one, end, takes, _why(one, takes, now)))
    return max(found, key=lambda one: one.until, default=None)


def plan_threats(
    models: Iterable[str], windows: Iterable[PlanWindow], leave_at: float, now: float, margin: float = 1.0
) -> dict[str, Threat]:
    """Return the models that new prompts should avoid, each with the plan window that is the reason. If there are
    several such windows, the one that resets last is used.

    A window is a reason if at least `leave_at` percent of it is used. A larger `margin` lowers that percentage: 95 with
    a margin of 2 means 90.
    """
    least = 100 - (100 - leave_at) * margin
    full = [one for one in windows if one.used >= least and (one.resets is not None or now - one.at <= STALE)]
    found: dict[str, Threat] = {}
    for model in models:
        own = [(one.resets or now + NO_RESET_TTL, one) for one in full if one.applies_to(model)]
        until, last = max(own, key=lambda pair: pair[0], default=(now, None))
        if last is not None and until > now:
            forecast = Forecast(
                model, Label.EXACT, None, last.length, last.used, 100.0, last.used_up, last.resets, 0, 100.0 - last.used
            )
            why = f"plan: {last.used:.0f} % of the window {last.name} used, leaveAt is {leave_at:g} %"
            found[model] = Threat(forecast, until, 0.0, why)
    return found


def _wanted(takes: float, limit: float | None) -> float:
    """Return how much of the allowance must remain for the next prompt, in the unit of `takes`.

    A long turn may use more than a minute's limit, because it extends over several minutes. An unused window is
    therefore never considered too small. If the limit's size is not reported, only an allowance of 0 is considered too
    small.
    """
    return SMALLEST if limit is None else min(takes, limit * ROOM)


def _limits(standing: Standing, now: float) -> Iterator[tuple[Forecast, float]]:
    """Yield the forecast for every limit that is known well enough to act on, with the time at which requests will be
    possible again after the limit is reached.
    """
    for allowance in standing.allowances:
        exact = foresee_allowances(standing.model, standing.history, (allowance,), now)
        if exact is not None:
            yield exact, now + NO_RESET_TTL if allowance.resets is None else allowance.resets
    learned = standing.learned
    trusted = learned is not None and learned.label is Label.LEARNT and learned.window > LEARNT_WINDOW
    for bound in (*standing.configured, *((learned,) if learned and trusted else ())):
        one = foresee(standing.model, standing.history, bound, now)
        # if the usage exceeded the learned limit and no request was refused, the limit has changed
        if bound.label is Label.CONFIGURED or one.used <= bound.limit * EXCEEDED:
            end = room(standing.history, bound, max(one.hits or now, now))
            yield one, max(end, now + SHORTEST)


def _why(one: Forecast, takes: float, now: float) -> str:
    within = f" within {span(one.window)}" if one.window else ""
    of = f" of {one.limit:,.0f}" if one.limit else ""
    left = f"{one.label}: {one.left or 0:,.0f}{of} {one.measure}{within} left; a prompt takes {takes:,.0f}"
    return left + (f", reached in {span(one.hits - now)} at this pace" if one.hits and one.hits > now else "")


def turns_of(uses: Sequence[tuple[str, int]]) -> tuple[tuple[int, int], ...]:
    """Return the request count and the token count of each turn, oldest first. `uses` contains, for each request, its
    turn and its token count.
    """
    found: dict[str, tuple[int, int]] = {}
    for turn, tokens in uses:
        requests, spent = found.pop(turn, (0, 0))
        found[turn] = requests + 1, spent + tokens
    return tuple(found.values())[-TURNS:]
