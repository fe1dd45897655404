"""Tests of how often a waiting session is probed, in numbers: it must cost OpenCode next to nothing."""

from __future__ import annotations

import pytest

from ocwatchd.core.engine.messages import Probe, Tick
from ocwatchd.core.policy import Policy
from tests.unit.brain import POLICY, A, T, engine, of, refused, retrying, seen

MINUTE, HOUR = 60.0, 3600.0
PER_PROBE = 4
"""Requests of one probe: status, messages, permissions, questions."""


def probes(policy: Policy, wait: float, lasting: float) -> list[float]:
    """Return when a session that waits for A for `wait` seconds is probed, within `lasting` seconds of its limit."""
    brain, asked, now = engine(policy), list[float](), T
    pending = of(Probe, brain.handle(refused(), T))
    while now <= T + lasting:
        for _ in pending:
            asked.append(now - T)
            found = retrying(now - T + 0.1, wait=max(wait, now - T + 1.0))
            pending = of(Probe, brain.handle(seen(found), now + 0.1))
        due = brain.next_wake()
        if due is None:
            break
        now = max(due, now + 0.2)
        pending = of(Probe, brain.handle(Tick(), now))
    return [at for at in asked if at <= lasting]


@pytest.mark.parametrize(
    ("policy", "wait", "lasting", "most"),
    [
        (POLICY, 20.0, 20.0, 1),  # a known wait that is left to OpenCode
        (Policy(chains={}), HOUR, HOUR, 2),  # no model is free: until the model returns
        (Policy(chains={str(A): (str(A),)}), HOUR, HOUR, 2),
    ],
)
def test_a_session_that_waits_is_not_polled(policy: Policy, wait: float, lasting: float, most: int) -> None:
    asked = probes(policy, wait, lasting)
    assert 1 <= len(asked) <= most, asked
    assert PER_PROBE * len(asked) / max(lasting / MINUTE, 1.0) <= 4  # requests a minute
