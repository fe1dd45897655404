"""Is a model about to be limited, so that new prompts had better go elsewhere? Pure.

A forecast moves nothing unless the limit is known: from headers (`exact`), from the configuration, or `learnt` over a
window of more than a minute. A guess (`estimated`) is shown and moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ocwatchd.core.forecast import (
    EXCEEDED,
    Bound,
    Forecast,
    History,
    Label,
    Measure,
    Told,
    foresee,
    foresee_told,
    room,
)
from ocwatchd.core.middle import median

TURNS = 10
"""Latest turns of a model by which it is told what a prompt takes."""
SHORTEST, UNTOLD = 30.0, 60.0
"""Seconds that a forecast holds at least, if it is our own reckoning when there is room again; and if nobody told."""
LEARNT_WINDOW = 60.0
"""Seconds: of learnt limits over no more than this, four alarms in ten were false (docs/forecast.md)."""
ROOM = 0.5
"""Part of a limit that a prompt is taken to need at most."""
SMALLEST = 1e-9
CALM = 2.0
"""A forecast is taken back when twice the margin is free again: at one it would come and go."""


@dataclass(frozen=True, slots=True)
class ForesightPolicy:
    """Whether new prompts are moved before a limit, how many seconds `ahead`, and limits that a person knows."""

    prevent: bool = False
    ahead: float = 120.0
    limits: Mapping[str, tuple[Bound, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one model's use and limits. `turns`: requests and tokens of each of its latest turns."""

    model: str
    history: History
    told: tuple[Told, ...] = ()
    configured: tuple[Bound, ...] = ()
    learnt: Bound | None = None
    turns: tuple[tuple[int, int], ...] = ()

    def takes(self, measure: Measure) -> float:
        """What the next prompt will use: the middle one of the latest turns, and a request at least."""
        own = [requests if measure is Measure.REQUESTS else tokens for requests, tokens in self.turns[-TURNS:]]
        return max(median(own) if own else 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Threat:
    """The next prompts for this model would meet its limit, until about `until` (epoch seconds)."""

    forecast: Forecast
    until: float
    takes: float
    why: str


def nearest(standing: Standing, now: float) -> Forecast:
    """The limit that is reached first of those that are known for sure; else the one that was learnt."""
    known = [foresee(standing.model, standing.history, bound, now) for bound in standing.configured]
    exact = foresee_told(standing.model, standing.history, standing.told, now)
    known += [exact] if exact else []
    if known:
        return min(known, key=lambda one: (one.hits or float("inf"), -(one.share or 0.0)))
    return foresee(standing.model, standing.history, standing.learnt, now)


def threat(standing: Standing, ahead: float, now: float, margin: float = 1.0) -> Threat | None:
    """The limit that the next prompts would meet, of several the one that lasts longest; None if there is none.

    That is one of which less is left than a prompt takes (`margin` times that), or which is reached within `ahead`
    seconds if use goes on so.
    """
    found = []
    for one, end in _limits(standing, now):
        takes = standing.takes(one.measure or Measure.REQUESTS)
        soon = one.hits is not None and one.hits - now <= ahead * margin
        if soon or (one.left or 0.0) < _wanted(takes, one.limit) * margin:
            found.append(Threat(one, end, takes, _why(one, takes, now)))
    return max(found, key=lambda one: one.until, default=None)


def _wanted(takes: float, limit: float | None) -> float:
    """So much has to be left for the next prompt. A long turn may take more than a minute's limit and spreads it over
    several: a fresh window is never called too small. Of a limit that is not told only the end counts.
    """
    return SMALLEST if limit is None else min(takes, limit * ROOM)


def _limits(standing: Standing, now: float) -> Iterator[tuple[Forecast, float]]:
    """Every limit that is known well enough, and when there is room again if it is reached."""
    for told in standing.told:
        exact = foresee_told(standing.model, standing.history, (told,), now)
        if exact is not None:
            yield exact, now + UNTOLD if told.resets is None else told.resets
    learnt = standing.learnt
    trusted = learnt is not None and learnt.label is Label.LEARNT and learnt.window > LEARNT_WINDOW
    for bound in (*standing.configured, *((learnt,) if learnt and trusted else ())):
        one = foresee(standing.model, standing.history, bound, now)
        # More than was learnt was used, and nothing came: the limit is another one by now.
        if bound.label is Label.CONFIGURED or one.used <= bound.limit * EXCEEDED:
            end = room(standing.history, bound, max(one.hits or now, now))
            yield one, max(end, now + SHORTEST)


def _why(one: Forecast, takes: float, now: float) -> str:
    within = f" within {one.window:,.0f} s" if one.window else ""
    of = f" of {one.limit:,.0f}" if one.limit else ""
    left = f"{one.label}: {one.left or 0:,.0f}{of} {one.measure}{within} left, a prompt takes {takes:,.0f}"
    return left + (f", reached in {one.hits - now:.0f} s at this pace" if one.hits and one.hits > now else "")


def turns_of(uses: Sequence[tuple[str, int]]) -> tuple[tuple[int, int], ...]:
    """Requests and tokens of each turn, the oldest first. `uses`: the turn's name and the tokens of each request."""
    found: dict[str, tuple[int, int]] = {}
    for turn, tokens in uses:
        requests, spent = found.pop(turn, (0, 0))
        found[turn] = requests + 1, spent + tokens
    return tuple(found.values())[-TURNS:]
