"""Tests of which endpoint owes an answer, and since when, with a clock that the test sets."""

from __future__ import annotations

from ocwatchd.opencode.client.stalls import MAX_REMEMBERED, Stalls


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_endpoint_stalls_from_its_first_unanswered_request_on() -> None:
    time = Time()
    stalls = Stalls(time)
    assert stalls.stalled_for("a") == 0.0
    stalls.began("a")
    time.now = 2.0
    stalls.began("a")
    assert (stalls.stalled_for("a"), stalls.stalled_for("b")) == (2.0, 0.0)


def test_any_answer_shows_that_it_lives() -> None:
    time = Time()
    stalls = Stalls(time)
    stalls.began("a")
    stalls.began("a")
    time.now = 2.0
    stalls.ended("a", answered=True)
    assert stalls.stalled_for("a") == 0.0
    assert not stalls.answered_within("a", 5.0), "it owes another answer"
    time.now = 3.0
    assert stalls.stalled_for("a") == 1.0
    stalls.ended("a", answered=True)
    assert stalls.answered_within("a", 5.0)
    time.now = 9.0
    assert (stalls.stalled_for("a"), stalls.answered_within("a", 5.0)) == (0.0, False)


def test_what_is_given_up_is_owed_no_longer() -> None:
    """Otherwise an endpoint without requests would count as stalled for good."""
    time = Time()
    stalls = Stalls(time)
    stalls.began("a")
    time.now = 5.0
    stalls.ended("a", answered=False)
    assert (stalls.stalled_for("a"), stalls.answered_within("a", 99.0)) == (0.0, False)


def test_it_stays_small() -> None:
    stalls = Stalls(Time())
    for number in range(2 * MAX_REMEMBERED):
        stalls.began(number)
        stalls.ended(number, answered=True)
    assert not stalls.answered_within(0, 1.0)
    assert stalls.answered_within(2 * MAX_REMEMBERED - 1, 1.0)
