"""Measures what pools have used, from the message store; tells consumers of the register how to spread, and who else
may stand in.

Reads beside OpenCode on a worker thread, and only after it has written; without pools it only lets `foresight` look.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from ocwatchd.clock import Clock
from ocwatchd.core.entries import read
from ocwatchd.core.experience import learnt
from ocwatchd.core.figures import figures
from ocwatchd.core.messages import Learnt, Used
from ocwatchd.core.mind import Mind
from ocwatchd.core.policy import Order
from ocwatchd.core.pools import LEAST_USED, Pool, relative
from ocwatchd.foresight import Foresight
from ocwatchd.hands import Hands
from ocwatchd.opencode.sessions import Answer, SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import pools, stand_ins
from ocwatchd.state.journal import Journal

WINDOW = 3600.0
"""Seconds back that count as use."""
PAUSE = 3.0
"""Seconds between measurements while OpenCode writes; reading an hour of ten sessions takes some 20 ms."""
LEARN = 60.0
"""Seconds between looks at how moves went; 30,000 lines of the journal cost about a second on a worker thread."""
LOOK_BACK = 30 * 86400.0
"""Seconds of history that experience rests on."""
ASK = 600.0
"""Seconds between questions what models can take, while one is limited; a stuck session's own door is asked anyway."""
OPEN = 600.0
"""Seconds for which an unfinished answer counts as a session at work; an older one was left by a dead process."""


class Gauge:
    """One of the daemon's loop's helpers."""

    def __init__(self, hands: Hands, store: SessionStore, paths: Paths, clock: Clock) -> None:
        """Nothing is read before `step`."""
        self._hands, self._store, self._journal, self._clock = hands, store, paths.journal, clock
        self._foresight = Foresight(hands.measure, store, paths, clock)
        self._learnt = self._asked = 0.0
        self._mark = self._measured = self._written = 0.0
        self._told: dict[str, object] = {}
        self._stand_ins: dict[str, object] = {}

    def step(self, mind: Mind) -> None:
        """Measure and publish what is due. Call it as often as you like."""
        self._foresight.step(mind)
        now, configured = self._clock.now(), mind.policy.pools
        if configured and abs(now - self._measured) >= PAUSE:
            self._measured = now
            self._measure([pool for pool in configured.values() if pool.spreads])
        if configured or self._told:
            self._publish(mind, now)
        self._publish_stand_ins(mind, now)
        if mind.policy.order is Order.LEARNT and abs(now - self._learnt) >= LEARN:
            self._learnt = now
            self._hands.measure(lambda: self._experience(now))

    def _experience(self, now: float) -> Learnt:
        entries = read(Journal(self._journal, self._clock).read())
        return Learnt(learnt(figures(entries, now - LOOK_BACK, now).fallbacks))

    def _measure(self, spreading: list[Pool]) -> None:
        mark = self._store.mark()
        if not spreading or mark == self._mark:
            return
        self._mark = mark
        self._hands.measure(lambda: measured(self._store.answers, spreading, self._clock.now()))

    def _publish(self, mind: Mind, now: float) -> None:
        found = pools.document(mind.policy, mind.fill.loads(now), mind.fill.measured_at, now)
        if _lasting(found) != _lasting(self._told) or abs(now - self._written) >= pools.LASTS / 2:
            self._told, self._written = found, now
            self._hands.publish({"pools": found})

    def _publish_stand_ins(self, mind: Mind, now: float) -> None:
        listed = [entry.model for entry in mind.ledger.entries() if entry.active(now)]
        if not listed:
            return
        if abs(now - self._asked) >= ASK:
            self._asked = now
            self._hands.ask_offers()
        found = stand_ins.document(mind.policy, listed, mind.outlook(None, now))
        changed = {key: value for key, value in found.items() if value != self._stand_ins.get(key)}
        if changed:
            self._stand_ins |= changed
            self._hands.publish(changed)


def measured(answers: Callable[[float], Iterable[Answer]], spreading: Iterable[Pool], now: float) -> Used:
    """How full the members of these pools are. `answers` reads the store."""
    rows = list(answers(now - WINDOW))
    found: dict[str, float] = {}
    members: list[str] = []
    for pool in spreading:
        members += pool.members
        own = [(row, str(row.message.model)) for row in rows if str(row.message.model) in pool.members]
        found |= _by_use(own, now) if pool.strategy == LEAST_USED else _by_sessions(own)
    return Used(found, tuple(members), now)


def _by_use(rows: list[tuple[Answer, str]], now: float) -> dict[str, float]:
    used: Counter[str] = Counter()
    for row, model in rows:
        used[model] += row.message.tokens.spent if row.message.tokens else 0
    loads: defaultdict[str, float] = defaultdict(float, relative(used, len({row.session for row, _ in rows})))
    for row, model in rows:
        # What an answer under way will cost is not known yet; a whole session's worth keeps a burst from piling up.
        loads[model] += row.message.completed is None and now - (row.message.created or 0.0) < OPEN
    return dict(loads)


def _by_sessions(rows: list[tuple[Answer, str]]) -> dict[str, float]:
    last = {row.session: model for row, model in rows}
    return {model: float(count) for model, count in Counter(last.values()).items()}


def _lasting(document: Mapping[str, object]) -> dict[str, object]:
    """What it says, without until when."""
    untimed = {"until", "measured"}
    return {
        name: {key: value for key, value in pool.items() if key not in untimed}
        for name, pool in document.items()
        if isinstance(pool, dict)
    }
