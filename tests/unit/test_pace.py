import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.daemon.blacklist_writer import SAVES, Pace

HOUR = 3600.0


def times(pace: Pace, asked: list[float], takes: float = 0.0) -> list[float]:
    """Return when each write begins, if each waits for its turn and for the write before it."""
    begun, free = [], float("-inf")
    for now in asked:
        now = max(now, free)
        now = max(now, pace.due(now))
        begun.append(now)
        pace, free = pace.taken(now, now + takes), now + takes
    return begun


def test_after_a_rest_the_first_few_go_at_once_and_then_one_at_a_time():
    assert times(Pace(every=1, burst=3), [100.0] * 6) == [100, 100, 100, 101, 102, 103]


@pytest.mark.parametrize("since", [3.0, HOUR])
def test_a_rest_brings_all_of_the_burst_back_and_no_more(since):
    begun = times(Pace(every=1, burst=3), [0.0] * 3 + [since] * 5)
    assert begun[3:] == [since, since, since, since + 1, since + 2]


def test_a_short_rest_brings_some_of_it_back():
    assert times(Pace(every=1, burst=3), [0.0, 0.0, 0.0, 1.0, 1.0]) == [0, 0, 0, 1, 2]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_a_storm_writes_the_register_at_most_twenty_times_a_second(asked):
    begun = times(SAVES, sorted(asked))
    assert all(sum(second <= at < second + 1 for at in begun) <= 20 for second in begun)


def test_a_storm_is_written_some_sixteen_times_a_second():
    begun = times(SAVES, [0.0] * 200)
    assert begun[-1] == pytest.approx((200 - SAVES.burst) / 16)


def test_what_takes_long_is_no_rest():
    """If a write of the blacklist takes half a second, there is a pause between two writes after the burst."""
    begun = times(Pace(every=1, burst=2), [0.0] * 4, takes=0.5)
    assert begun == [0, 0.5, 2.0, 3.5]


def test_one_that_did_not_wait_counts_and_the_debt_stays_small():
    pace = Pace(every=1, burst=3)
    for _ in range(50):
        pace = pace.taken(10.0, 10.0)
    assert pace.due(10.0) == 11.0


def test_a_clock_that_is_set_back_holds_nothing_up():
    pace = Pace(every=1, burst=1).taken(HOUR, HOUR)
    assert pace.due(HOUR) == HOUR + 1
    assert pace.due(5.0) == 5.0
    assert times(pace, [5.0, 5.0]) == [5.0, 6.0]
