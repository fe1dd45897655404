"""Generate histories of usage under a known, enforced limit, to evaluate forecasts."""

from __future__ import annotations

import random
from collections import deque

from ocwatchd.core.forecast.model import Measure


def history(
    window: float, limit: int, measure: Measure, seed: int, days: int = 4
) -> tuple[list[tuple[float, int]], list[float]]:
    """Return the usage (time, tokens) and the limits of some days of work, in periods of different speed.

    The provider enforces the limit in a sliding window. After a refusal, no requests are made for at least one window.
    """
    draw = random.Random(seed)
    uses: list[tuple[float, int]] = []
    recent: deque[tuple[float, int]] = deque()
    spent = 0
    limits: list[float] = []
    now, end = 1_800_000_000.0, 1_800_000_000.0 + days * 86_400
    while now < end:
        pace, spell = draw.choice((90.0, 30.0, 8.0, 4.0)), now + draw.uniform(600, 5400)
        while now < spell:
            now += draw.expovariate(1 / pace)
            tokens = int(draw.lognormvariate(8.3, 0.7))
            while recent and recent[0][0] <= now - window:
                spent -= recent.popleft()[1]
            used = len(recent) + 1 if measure is Measure.REQUESTS else spent + tokens
            if used > limit:
                limits.append(now)
                now += max(window, 700.0)
                break
            uses.append((now, tokens))
            recent.append((now, tokens))
            spent += tokens
        now += draw.uniform(300, 7200)
    return uses, limits
