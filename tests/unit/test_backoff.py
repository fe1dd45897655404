from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.backoff import delay, is_native_delay

seconds = st.floats(min_value=0.001, max_value=1e6, allow_nan=False)
unit = st.floats(min_value=0, max_value=1, exclude_max=True, allow_nan=False)


@given(st.integers(1, 10_000), seconds, seconds, st.floats(0, 1), unit)
def test_a_delay_stays_within_its_bounds(attempt, base, maximum, jitter, draw):
    wait = delay(attempt, base, maximum, jitter, draw)
    raw = min(maximum, base * 2.0 ** min(attempt - 1, 64))
    assert raw * (1 - jitter) * 0.999 <= wait <= maximum
    assert wait <= raw * (1 + jitter) * 1.001


def test_it_doubles_from_the_base():
    assert [delay(n, 1, 30) for n in range(1, 7)] == [1, 2, 4, 8, 16, 30]


def test_jitter_spreads_both_ways():
    assert delay(1, 10, 30, 0.1, 0.0) == 9
    assert 10.99 < delay(1, 10, 30, 0.1, 0.9999) <= 11


def test_opencodes_own_backoff_is_told_from_a_retry_after():
    # Measured on 1.18.33: 2.0-2.5 s, then 4-5 s, …; 1.3 and older exactly 2, 4, 8 s; capped at 30 s without headers.
    own = [(1, 2.0), (1, 2.49), (2, 4.0), (2, 5.0), (3, 8.0), (5, 32.0), (5, 30.0), (9, 30.5), (9, 512.0)]
    told = [(1, 3.0), (1, 1.0), (1, 37.0), (1, 3600.0), (2, 3.0), (3, 4.0), (4, 3600.0)]
    assert [pair for pair in own if not is_native_delay(*pair, slack=0.25)] == []
    assert [pair for pair in told if is_native_delay(*pair, slack=0.25)] == []
