"""Tests with every model cooling down: the first to return, and the wait for it, as properties without sleeps."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope
from ocwatchd.core.policy import Policy, RetryPolicy
from ocwatchd.launcher.supervise import soonest, spread
from ocwatchd.opencode.process.process_tree import launched_by

NOW = 1_000_000.0
A, B = ModelRef.parse("a/one"), ModelRef.parse("b/two")


def cooldown(model: ModelRef, until: float | None, reset_source: ResetSource = ResetSource.RETRY_AFTER) -> Cooldown:
    return Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, NOW - 1, until, 1, reset_source)


def test_the_first_to_return() -> None:
    def first(*entries: Cooldown) -> tuple[ModelRef, float | None] | None:
        found = soonest(Cooldowns(entries), [A, B], NOW)
        return (found.model, found.until) if found else None

    assert first(cooldown(A, NOW + 9), cooldown(B, NOW + 5)) == (B, NOW + 5)
    assert first(cooldown(A, None), cooldown(B, NOW + 5)) == (B, NOW + 5)
    assert first(cooldown(A, None), cooldown(B, None)) is None
    assert first(cooldown(A, NOW + 9)) == (B, NOW)
    assert first(cooldown(ModelRef.parse("a/*"), NOW + 3), cooldown(B, NOW + 5)) == (A, NOW + 3)


@given(
    attempt=st.integers(1, 200),
    base=st.floats(0, 100),
    maximum=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_guess_is_spread_within_bounds_and_a_hint_is_kept(
    attempt: int, base: float, maximum: float, jitter: float, draw: float
) -> None:
    policy = Policy(retry=RetryPolicy(3, base, maximum, jitter))
    guess = cooldown(A, NOW + 5, ResetSource.ESTIMATE)
    waited = spread(guess, policy, attempt, draw)
    assert 0 <= waited <= maximum
    assert waited <= base * 2.0 ** (attempt - 1) * (1 + jitter) + 1e-9
    assert waited >= min(maximum, base * 2.0 ** min(attempt - 1, 64)) * (1 - jitter) - 1e-9
    assert spread(replace(guess, reset_source=ResetSource.STATUS), policy, attempt, draw) == 0


def test_only_what_a_living_launcher_started_itself_is_its_own() -> None:
    parent = str(os.getppid())
    assert launched_by({"OCWATCHD_LAUNCHER": parent}, os.getpid())
    assert not launched_by({}, os.getpid())
    assert not launched_by({"OCWATCHD_LAUNCHER": "x"}, os.getpid())
    assert not launched_by({"OCWATCHD_LAUNCHER": "4194304999"}, os.getpid())
