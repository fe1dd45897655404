"""Tests that our own reader of times in the blacklist gives the same values as the library."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.state.blacklist.format import LATEST, moment


@given(st.integers(0, int(LATEST * 1000) - 1))
@example(0)
@example(951_782_400_000)  # 29 February 2000
@example(4_107_542_399_999)  # the day before 1 March 2100, which has no 29 February
def test_our_own_form(thousandths: int) -> None:
    text = rfc3339(thousandths / 1000)
    assert moment(text, "until") == pytest.approx(from_rfc3339(text), abs=1e-6)


FORM = "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000Z"


@given(st.tuples(st.integers(1970, 9800), *(st.integers(0, most) for most in (13, 32, 25, 61, 61))))
@example((2100, 2, 29, 0, 0, 0))
@example((2026, 11, 22, 24, 0, 0))
@example((2026, 11, 22, 23, 59, 60))
def test_a_time_that_does_not_exist_is_none(fields: tuple[int, ...]) -> None:
    text = FORM.format(*fields)
    try:
        expected = datetime.fromisoformat(text).timestamp()
    except ValueError:
        with pytest.raises(ValueError, match="`until` is not a time"):
            moment(text, "until")
    else:
        assert moment(text, "until") == expected


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-11-22T10:08:53.256+01:00", "2026-11-22T09:08:53.256Z"),
        ("2026-11-22T10:08:53Z", "2026-11-22T10:08:53.000Z"),
        ("2026-11-22 10:08:53.256Z", "2026-11-22T10:08:53.256Z"),
        ("2026-11-22T10:08:53.256789Z", "2026-11-22T10:08:53.257Z"),
        ("20261122T100853Z", "2026-11-22T10:08:53.000Z"),
    ],
)
def test_other_forms_are_as_good(text: str, same: str) -> None:
    assert moment(text, "until") == pytest.approx(moment(same, "until"), abs=0.001)


@pytest.mark.parametrize(
    "text", ["２０２６-11-22T10:08:53.256Z", "2026-11-22T10:08:5 .256Z", "2026-11-22T-1:08:53.256Z"]
)
def test_digits_are_digits(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        moment(text, "since")
