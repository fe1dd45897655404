"""Judges forecasts on a history: what a rule would have said at each request, knowing only what lay before it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ocwatchd.core.forecast import Bound, History, Label, Measure, foresee, learn, separate

Rule = Callable[[History, Bound | None, Sequence[float], float], bool]
"""Whether a limit is near at a time, by what was used, what was learnt and when limits came before."""
HORIZON = 900.0
"""Seconds within which the limit has to come for an alarm to have been right."""
NEAR = 120.0


@dataclass(frozen=True)
class Verdict:
    """`precision`: alarms that were right; `recall`: limits that were foretold; `lead`: the middle one's seconds."""

    alarms: int
    precision: float
    recall: float
    lead: float


def learnt_rule(history: History, bound: Bound | None, limits: Sequence[float], now: float) -> bool:
    found = foresee("p/m", history, bound, now)
    known = found.label in (Label.LEARNT, Label.ESTIMATED)
    return known and found.hits is not None and found.hits - now <= NEAR


def naive_rule(history: History, bound: Bound | None, limits: Sequence[float], now: float) -> bool:
    """Four fifths of the least that was used within an hour before any limit."""
    before = [history.used(Measure.TOKENS, at - 3600, at) for at in limits]
    return bool(before) and history.used(Measure.TOKENS, now - 3600, now) >= 0.8 * min(before)


def judge(rule: Rule, uses: Sequence[tuple[float, int]], limits: Sequence[float], skip: int = 3) -> Verdict:
    """The first `skip` limits are for learning."""
    whole, came = History(uses), separate(limits)
    begin = came[skip - 1] + HORIZON
    alarms: list[float] = []
    last, bound, known = float("-inf"), None, 0
    for time, _ in sorted(uses):
        if time < begin:
            continue
        before = [at for at in came if at <= time]
        if len(before) > known:  # learnt anew when a limit has come, from what lay before it
            known, bound = len(before), learn(whole.until(time), before)
        if not rule(whole, bound, before, time):
            continue
        if time - last > HORIZON or any(last < at <= time for at in came):
            alarms.append(time)
        last = time
    judged = [at for at in came if at > begin]
    right = [time for time in alarms if any(time < at <= time + HORIZON for at in judged)]
    firsts = {at: [t for t in right if t < at <= t + HORIZON] for at in judged}
    foretold = [at - min(times) for at, times in firsts.items() if times]
    precision = len(right) / len(alarms) if alarms else 0.0
    return Verdict(len(alarms), precision, len(foretold) / len(judged), median(foretold) if foretold else 0.0)


def history(
    window: float, limit: int, measure: Measure, seed: int, days: int = 4
) -> tuple[list[tuple[float, int]], list[float]]:
    """Days of work in spells of different haste under a provider that enforces a limit in a sliding window, and is
    left alone for a window after it has refused."""
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
