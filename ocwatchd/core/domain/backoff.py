"""One pure function: how long to wait before the next attempt."""

from __future__ import annotations


def delay(attempt: int, base: float, maximum: float, jitter: float = 0.0, draw: float = 0.5) -> float:
    """Seconds before attempt `attempt + 1`: base * 2**(attempt - 1), capped at `maximum`, spread by ± `jitter`.

    `attempt` counts from 1. `jitter` is a share (0.1 = ± 10 %) and `draw` a uniform number in [0, 1): the caller owns
    the randomness. The cap holds for the spread value too.
    """
    # 2**1024 overflows a float; long before, every sensible maximum is reached.
    raw = min(maximum, base * 2.0 ** min(max(attempt, 1) - 1, 64))
    return min(maximum, raw * (1 + jitter * (2 * draw - 1)))


NATIVE_FIRST = 2.0
"""Seconds before OpenCode's first retry when the provider names no time; doubled with every attempt."""
NATIVE_JITTER = 0.25
"""OpenCode 1.18 adds up to a quarter; older versions add nothing."""
NATIVE_CAP = 30.0
"""Applied only where the error had no response headers."""


def is_native_delay(attempt: int, seconds: float, slack: float) -> bool:
    """Whether a wait of `seconds` before the retry after failure number `attempt` is OpenCode's own backoff.

    A wait outside its range is a Retry-After that OpenCode honours to the letter. `slack` allows for the time
    between the failure and its being seen.
    """
    uncapped = NATIVE_FIRST * 2.0 ** min(max(attempt, 1) - 1, 64)
    return any(
        low - slack <= seconds <= low * (1 + NATIVE_JITTER) + slack for low in {uncapped, min(uncapped, NATIVE_CAP)}
    )
