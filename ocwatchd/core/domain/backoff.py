"""Delays between attempts: ocwatchd's own exponential backoff, and recognition of OpenCode's backoff."""

from __future__ import annotations


def delay(attempt: int, base: float, maximum: float, jitter: float = 0.0, draw: float = 0.5) -> float:
    """Return the delay, in seconds, before attempt `attempt + 1`: base * 2**(attempt - 1), capped at `maximum`, with a
    random spread of ± `jitter`.

    `attempt` counts from 1. `jitter` is a fraction (0.1 = ± 10 %) and `draw` a uniform number in [0, 1) from the
    caller, so that the function stays deterministic. The result never exceeds `maximum`, even with jitter.
    """
    # 2**1024 would overflow a float, and every sensible maximum is reached long before 2**64
    raw = min(maximum, base * 2.0 ** min(max(attempt, 1) - 1, 64))
    return min(maximum, raw * (1 + jitter * (2 * draw - 1)))


NATIVE_FIRST = 2.0
"""Delay, in seconds, before OpenCode's first retry if the provider reports no delay. It doubles with every attempt."""
NATIVE_JITTER = 0.25
"""Largest fraction that OpenCode 1.18 adds to a wait; older versions add nothing."""
NATIVE_CAP = 30.0
"""Longest wait of OpenCode's own backoff, in seconds; it applies only to errors without response headers."""


def is_native_delay(attempt: int, seconds: float, slack: float) -> bool:
    """Return whether OpenCode's own backoff would wait for `seconds` after failure number `attempt`.

    A wait outside the range of that backoff is a Retry-After, which OpenCode honors exactly. `slack` allows for the
    time between the failure and its observation.
    """
    uncapped = NATIVE_FIRST * 2.0 ** min(max(attempt, 1) - 1, 64)
    return any(
        low - slack <= seconds <= low * (1 + NATIVE_JITTER) + slack for low in {uncapped, min(uncapped, NATIVE_CAP)}
    )
