"""Tests of the fuzzing targets with random input, and with every input that ever failed (see `scripts/fuzz.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Count
from tests.support.targets import TARGETS

FAILED = Path(__file__).parent / "data" / "fuzz"
EXAMPLES = 200
WORDS = (
    b"Rate limit reached", b"try again in 7.66s", b"resets at 2026-11-23T00:00:00Z", b'{"error":', b"429", b"quota",
    b'"responseHeaders":{"retry-after":"1e9"}', b"error.error=", b"session.id=ses_1", b'"', b"\\", b"\n", b"\xff",
)  # fmt: skip
DATA = st.one_of(
    st.binary(max_size=200), st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=6))).map(b"".join)
)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_others_wrote_breaks_a_promise(name: str, counted: Count) -> None:
    known = [path.read_bytes() for path in sorted(FAILED.glob(f"{name}-*"))]
    cases = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DATA)
    def tried(data: bytes) -> None:
        nonlocal cases
        cases += 1
        TARGETS[name](data)

    for data in known:
        TARGETS[name](data)
    tried()
    counted("fuzz cases", cases)
    counted("bad inputs", len(known))
