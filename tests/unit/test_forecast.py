"""Tests of forecasts: use and limits give this limit at this moment, or "not enough data"."""

from __future__ import annotations

import pytest

from ocwatchd.core.forecast.model import (
    Allowance,
    Bound,
    History,
    Label,
    Measure,
    allowances_of,
    foresee,
    foresee_allowances,
    judge,
    learn,
    learned_rule,
    naive_rule,
    separate,
)
from tests.support.replay import history

NOW = 1_800_000_000.0
TOKENS, REQUESTS = Measure.TOKENS, Measure.REQUESTS


def steady(tokens: int = 100, every: float = 10.0, count: int = 60) -> History:
    return History((NOW - index * every, tokens) for index in range(count))


def test_without_a_limit_nothing_is_claimed() -> None:
    assert learn(steady(), []) is None
    assert learn(History(), [NOW]) is None
    assert learn(steady(), [NOW - 10**6]) is None
    nothing = foresee("p/m", steady(), None, NOW)
    assert (nothing.label, nothing.hits, nothing.share) == (Label.UNKNOWN, None, None)


@pytest.mark.parametrize(
    ("tokens", "limits"),
    [
        ([8], [0.0]),
        ([8, 8, 8], [0.0]),
        ([8] * 30, [0.0, 30.0, 500.0]),  # one burst
        ([8] * 30, [0.0, 10**6]),  # the other limit came before any known use
    ],
)
def test_a_single_limit_is_no_forecast(tokens: list[int], limits: list[float]) -> None:
    used = History((NOW - index * 100, count) for index, count in enumerate(tokens))
    assert learn(used, [NOW - ago for ago in limits]) is None
    assert foresee("p/m", used, learn(used, [NOW - ago for ago in limits]), NOW).hits is None


def test_two_limits_are_an_estimate() -> None:
    bound = learn(steady(count=600), [NOW - 3000, NOW])
    assert bound is not None
    assert (bound.label, bound.limits) == (Label.ESTIMATED, 2)


@pytest.mark.parametrize(
    ("limit", "window", "hits"),
    [
        (10**6, 3600.0, None),  # an hour at ten a second is 36,000
        (9000, 3600.0, 300.0),  # 6,000 are used, 10 a second are added, nothing expires for 50 minutes
        (6000, 3600.0, 0.0),
        (720, 60.0, None),  # at 600 as much is added as expires
    ],
)
def test_use_that_goes_on_reaches_the_limit(limit: float, window: float, hits: float | None) -> None:
    found = foresee("p/m", steady(), Bound(TOKENS, window, limit, Label.LEARNT, 3), NOW)
    assert (None if found.hits is None else round(found.hits - NOW)) == hits
    assert (found.free is None) == (hits is None)


def test_who_has_stopped_meets_no_limit() -> None:
    assert foresee("p/m", steady(), Bound(TOKENS, 3600, 6100, Label.LEARNT), NOW + 700).hits is None


@pytest.mark.parametrize(
    ("told", "hits"),
    [
        (Allowance(TOKENS, 10_000, 3000, NOW + 3600, NOW), 300.0),
        (Allowance(TOKENS, 10_000, 3000, NOW + 200, NOW - 0.5), None),  # the reset comes first
        (Allowance(TOKENS, 10_000, 3000, NOW - 1, NOW - 900), None),  # the reset is over
        (Allowance(TOKENS, 10_000, 3100, NOW + 3600, NOW - 10.5), 290.0),  # use since the report is subtracted
        (Allowance(REQUESTS, 50, 0, NOW + 60, NOW), 0.0),
    ],
)
def test_headers_are_exact(told: Allowance, hits: float | None) -> None:
    found = foresee_allowances("p/m", steady(), [told], NOW)
    assert (None if found is None or found.hits is None else round(found.hits - NOW, -1)) == hits
    assert found is None or found.label is Label.EXACT


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, []),
        (
            {
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "100",
                "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:01:00Z",
                "anthropic-ratelimit-requests-remaining": "7",
            },
            [Allowance(TOKENS, 40_000, 100, NOW + 60, NOW), Allowance(REQUESTS, None, 7, None, NOW)],
        ),
        (
            {"x-ratelimit-limit-tokens": "5", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"},
            [Allowance(TOKENS, 5, 0, NOW + 360, NOW)],
        ),
        (
            {"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1800000090"},
            [Allowance(REQUESTS, None, 3, NOW + 90, NOW)],
        ),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "20"}, [Allowance(REQUESTS, None, 3, NOW + 20, NOW)]),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-remaining-tokens": "many", "x-ratelimit-limit": "9"}, []),
        (
            {"anthropic-ratelimit-output-tokens-limit": "8000", "anthropic-ratelimit-output-tokens-remaining": "7000"},
            [],
        ),
        ({"anthropic-ratelimit-output-tokens-remaining": "0"}, [Allowance(TOKENS, None, 0, None, NOW)]),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "soon"}, [Allowance(REQUESTS, None, 3, None, NOW)]),
    ],
)
def test_what_headers_say(headers: dict[str, str], told: list[Allowance]) -> None:
    assert list(allowances_of(headers, NOW)) == told


def test_a_burst_of_refusals_is_one_limit() -> None:
    assert separate([5.0, 1.0, 300.0, 2000.0, 2500.0]) == [1.0, 2000.0]


@pytest.mark.parametrize(
    ("window", "limit", "measure"),
    [(60.0, 60_000, TOKENS), (3600.0, 900_000, TOKENS), (3600.0, 150, REQUESTS), (18_000.0, 2_000_000, TOKENS)],
)
def test_a_learnt_limit_beats_a_naive_rule_on_replayed_histories(window: float, limit: int, measure: Measure) -> None:
    uses, limits = history(window, limit, measure, seed=7)
    ours, naive = judge(learned_rule, uses, limits), judge(naive_rule, uses, limits)
    assert ours is not None and naive is not None
    bound = learn(History(uses), limits)
    print(f"{limit} {measure} in {window:.0f} s, {len(separate(limits))} limits; learnt: {bound}")
    for name, verdict in (("learnt", ours), ("naive", naive)):
        print(
            f"  {name}: {verdict.alarms} alarms, precision {verdict.precision:.2f}, recall {verdict.recall:.2f}, "
            f"lead {verdict.lead:.0f} s"
        )
    assert bound is not None
    assert (bound.measure, bound.window) == (measure, window)
    assert abs(bound.limit - limit) < 0.15 * limit
    assert ours.precision >= naive.precision and ours.recall >= naive.recall
    assert (ours.precision, ours.recall) > (naive.precision, naive.recall) or ours.precision > 0.9
    assert ours.lead >= 20
