"""Looks ahead for the daemon: what was used, what limits are known, which of them the next prompts would meet.

Reads beside OpenCode on a worker thread, and only after it, or a provider, has said something new.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ocwatchd.clock import Clock
from ocwatchd.core.forecast import WINDOWS, Bound, History, learn
from ocwatchd.core.foresight import CALM, Standing, nearest, threat, turns_of
from ocwatchd.core.limits import LimitKind
from ocwatchd.core.messages import Foreseen, Message, Spent
from ocwatchd.core.mind import Mind
from ocwatchd.core.money import Purse
from ocwatchd.core.policy import Policy
from ocwatchd.opencode.sessions import Answer, SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import forecasts, prices
from ocwatchd.state.allowances import read_allowances
from ocwatchd.state.journal import Journal

LOOK_BACK = 7 * 86_400.0
"""Seconds of use that limits are learnt from."""
SOON, LATER = 2.0, 15.0
"""Seconds between looks, if prompts are to be moved in time, or if it is only for the eye."""
RENEW = 60.0
"""Seconds after which what is written is written again although nothing is new: use leaves its window."""
LEARN = 600.0
"""Seconds between looks at how much had been used when limits came; a week of ten sessions is a second of work."""
OVERLAP = 900.0
"""Seconds that are read again each time: an answer's tokens are counted when it ends."""
_ABOUT_USE = frozenset((LimitKind.RATE_LIMIT.value, LimitKind.QUOTA.value))


@dataclass(frozen=True, slots=True)
class Use:
    """One request: when it was begun, of which model and turn, the tokens that count, and what it cost."""

    time: float
    model: str
    turn: str
    tokens: int
    dollars: float


def uses(answers: Iterable[Answer], until: float) -> dict[str, Use]:
    """By message: what these answers used. One that is under way has used nothing that is counted yet."""
    found: dict[str, Use] = {}
    for answer in answers:
        message = answer.message
        if message.model and message.created is not None and message.created <= until and message.tokens:
            turn = message.parent or message.id
            found[message.id] = Use(message.created, str(message.model), turn, message.tokens.spent, message.cost)
    return found


def limits(journal: Journal, now: float) -> dict[str, list[float]]:
    """When each model met a limit that comes of use; trouble of the provider's says nothing of it."""
    from ocwatchd.core.entries import read

    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in read(journal.read(now - LOOK_BACK)):
        if line.what == "limit" and line.model and line.text("kind") in _ABOUT_USE:
            found[line.model].append(line.refused_at)
    return dict(found)


def met(store: SessionStore, journal: Journal, now: float) -> dict[str, tuple[list[tuple[float, int]], list[float]]]:
    """Of each model that met limits: what was used (time, tokens), and when they came."""
    came = limits(journal, now)
    own: dict[str, list[tuple[float, int]]] = {name: [] for name in came}
    for use in uses(store.answers(now - LOOK_BACK), now).values() if came else ():
        if use.model in own:
            own[use.model].append((use.time, use.tokens))
    return {name: (own[name], times) for name, times in came.items()}


def learnt(store: SessionStore, journal: Journal, now: float) -> dict[str, Bound]:
    """The limit of each model that met some."""
    found = {name: learn(History(own), times) for name, (own, times) in met(store, journal, now).items()}
    return {name: bound for name, bound in found.items() if bound is not None}


def standings(
    used: Iterable[Use], paths: Paths, bounds: Mapping[str, Bound], policy: Policy, now: float
) -> list[Standing]:
    """What is known of every model that was used lately, or of which a provider has said what is left."""
    told = read_allowances(paths.allowances, now)
    by_model: defaultdict[str, list[Use]] = defaultdict(list)
    for use in sorted(used, key=lambda use: use.time):
        if use.time > now - WINDOWS[-1]:
            by_model[use.model].append(use)
    return [
        Standing(
            name,
            History((use.time, use.tokens) for use in by_model[name]),
            told.get(name, ()),
            policy.foresight.limits.get(name, ()),
            bounds.get(name),
            turns_of([(use.turn, use.tokens) for use in by_model[name]]),
        )
        for name in sorted({*by_model, *told})
    ]


def today(now: float, later: int = 0) -> float:
    """When the local day began, or (`later`: 1) when the next one does."""
    year, month, day = time.localtime(now)[:3]
    return time.mktime((year, month, day + later, 0, 0, 0, 0, 0, -1))


class Foresight:
    """One of the daemon's loop's helpers."""

    def __init__(
        self, work: Callable[[Callable[[], Message]], None], store: SessionStore, paths: Paths, clock: Clock
    ) -> None:
        """Nothing is read before `step`. `work` does something on a worker thread, and hands on its message."""
        self._work, self._store, self._paths, self._clock = work, store, paths, clock
        self._uses: dict[str, Use] = {}
        self._bounds: dict[str, Bound] = {}
        self._busy = False
        self._looked = self._measured = self._learnt = self._read = 0.0
        self._begin = 0.0
        self._mark: tuple[object, ...] = ()

    def step(self, mind: Mind) -> None:
        """Measure and publish what is due. Call it as often as you like."""
        now, policy = self._clock.now(), mind.policy
        pressing = policy.foresight.prevent or policy.budget is not None
        if self._busy or abs(now - self._looked) < (SOON if pressing else LATER):
            return
        self._looked = now
        mark = (policy, *self._news())
        if policy.budget is None and now - max(mark[1:3]) > WINDOWS[-1]:
            return  # nobody has worked for hours: no window holds anything
        lasts = policy.budget is None and not self._uses  # nothing that time alone would change
        if mark == self._mark and (lasts or abs(now - self._measured) < RENEW):
            return
        self._mark, self._measured, self._busy = mark, now, True
        self._work(lambda: self._measure(policy, now))

    def _news(self) -> tuple[float, float, int, float]:
        """When OpenCode wrote last, when a provider said last what is left, how many models it is said of, and when
        prices were told last.
        """
        told: list[float] = []
        with suppress(OSError):
            told = [path.stat().st_mtime for path in self._paths.allowances.glob("*.json")]
        priced = 0.0
        with suppress(OSError):
            priced = self._paths.prices.stat().st_mtime
        return self._store.mark(), max(told, default=0.0), len(told), priced

    def _measure(self, policy: Policy, now: float) -> Foreseen:
        try:
            begin = now - WINDOWS[-1]
            self._count(now, begin if policy.budget is None else min(begin, today(now)))
            found = standings(self._uses.values(), self._paths, self._bounds, policy, now)
            self._publish(found, now)
            if policy.budget is not None or self._paths.budget.exists():
                self._work(lambda: self._spent(policy.budget, now))
        finally:
            self._busy = False
        if not policy.foresight.prevent:
            return Foreseen({})
        ahead = policy.foresight.ahead
        threats = {one.model: seen for one in found if (seen := threat(one, ahead, now)) is not None}
        return Foreseen(threats, tuple(one.model for one in found if threat(one, ahead, now, CALM) is None))

    def _spent(self, budget: float | None, now: float) -> Spent:
        """What was spent today, told to the engine and to commands that start at once."""
        dollars = sum(use.dollars for use in self._uses.values() if use.time >= today(now))
        known = prices.read(self._paths.prices)
        with suppress(OSError):
            prices.write_budget(self._paths.budget, Purse(budget, dollars, known), today(now, 1), now)
        return Spent(dollars, known)

    def _count(self, now: float, begin: float) -> None:
        known = self._begin <= begin and self._read <= now  # an edited configuration may want to know more
        since = max(begin, self._read - OVERLAP) if known else begin
        found = self._uses | uses(self._store.answers(since), now)
        self._uses = {name: use for name, use in found.items() if use.time > begin}
        self._read, self._begin = now, begin
        if abs(now - self._learnt) >= LEARN:
            self._learnt = now
            self._bounds = learnt(self._store, Journal(self._paths.journal, self._clock), now)

    def _publish(self, found: Iterable[Standing], now: float) -> None:
        ahead = sorted((nearest(one, now) for one in found), key=lambda one: one.rank)
        told = [forecasts.as_json(one) for one in ahead]
        with suppress(OSError):  # it is for the eye; a full disk is said by those whose files matter
            forecasts.write(self._paths.forecasts, told, now)
