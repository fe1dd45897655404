"""Judges forecasts on a history: what a rule would have said at each request, knowing only what lay before it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ocwatchd.core.forecast import Bound, History, Label, Measure, foresee, learn, separate
from ocwatchd.core.middle import median

Rule = Callable[[History, Bound | None, Sequence[float], float], bool]
"""Whether a limit is near at a time, by what was used, what was learnt and when limits came before."""
HORIZON = 900.0
"""Seconds within which the limit has to come for an alarm to have been right."""
NEAR = 120.0


SKIP = 3
"""Limits that are for learning, and are not foretold."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`precision`: alarms that were right; `recall`: limits that were foretold; `lead`: the middle one's seconds."""

    alarms: int
    precision: float
    recall: float
    lead: float


def learnt_rule(history: History, bound: Bound | None, _: Sequence[float], now: float) -> bool:
    """Within two minutes, if use goes on as in the last ones."""
    found = foresee("p/m", history, bound, now)
    known = found.label in (Label.LEARNT, Label.ESTIMATED)
    return known and found.hits is not None and found.hits - now <= NEAR


def naive_rule(history: History, _: Bound | None, limits: Sequence[float], now: float) -> bool:
    """Four fifths of the least that was used within an hour before any limit."""
    before = [history.used(Measure.TOKENS, at - 3600, at) for at in limits]
    return bool(before) and history.used(Measure.TOKENS, now - 3600, now) >= 0.8 * min(before)


def judge(rule: Rule, uses: Sequence[tuple[float, int]], limits: Sequence[float]) -> Verdict | None:
    """How the rule would have done; None with no more limits than are needed to learn from."""
    whole, came = History(uses), separate(limits)
    if len(came) <= SKIP:
        return None
    begin = came[SKIP - 1] + HORIZON
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
    return Verdict(len(alarms), precision, len(foretold) / max(len(judged), 1), median(foretold) if foretold else 0.0)
