"""Tests of a limit that is read late because the daemon was stopped: its session is moved if it still waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.types import Hint, ResetSource
from ocwatchd.core.engine.messages import Move, Probe, Probed, Tick
from tests.unit.brain import A, B, T, engine, of, refused, retrying, seen

HOUR = Hint(T + 3600, 3600.0, ResetSource.TEXT, "in words")


@pytest.mark.parametrize("age", [15.0, 900.0])
def test_a_session_that_still_waits_is_moved_however_old_the_line(age):
    brain = engine()
    late = replace(refused(live=False, hint=HOUR), late=True)
    assert of(Probe, brain.handle(late, T + age)) == [Probe("ses_1", None)]
    (move,) = of(Move, brain.handle(seen(retrying(age)), T + age))
    assert move.order.target.model == B
    assert brain.cooldowns.cooling(A, T + age).strikes == 1


@pytest.mark.parametrize("news", [{"late": False}, {"late": True, "small": True}, {"late": True, "hint": None}])
def test_nothing_is_asked_about_old_news_titles_and_limits_that_are_over(news):
    event = refused(live=False, small=news.get("small", False), hint=news.get("hint", HOUR))
    assert of(Probe, engine().handle(replace(event, late=news["late"]), T + 900)) == []


def test_where_no_session_is_named_every_session_in_trouble_is_asked_for():
    late = replace(refused(live=False, hint=HOUR, session=None), late=True)
    assert of(Probe, engine().handle(late, T + 900)) == [Probe(None, A)]


@pytest.mark.parametrize("misses", [1, 3, 5])
def test_a_limit_whose_session_no_endpoint_shows_for_a_while_is_one_strike(misses):
    """An OpenCode on a busy machine does not answer at first; the limit then stood there as two strikes."""
    brain = engine()
    assert of(Probe, brain.handle(refused(), T)) == [Probe("ses_1", A)]
    for number in range(misses):
        brain.handle(Probed("ses_1", A, (), 0, failing=1), T + 3 * number)
        brain.handle(Tick(), T + 3 * number + 3)
    at = 3 * misses + 1
    (move,) = of(Move, brain.handle(seen(retrying(next_at=T + 3600)), T + at))
    assert move.order.target.model == B
    assert brain.cooldowns.cooling(A, T + at).strikes == 1
