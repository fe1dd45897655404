"""Measure the usage of pools, and publish their load and the possible fallbacks in the blacklist.

The message store is read on a worker thread, and only after OpenCode has written to it. The module also runs the
forecaster.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from ocwatchd.clock import Clock
from ocwatchd.core.domain.pools import LEAST_USED, Pool, relative
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.messages import ExperienceLearned, Message, Used
from ocwatchd.core.engine.session import EngineContext
from ocwatchd.core.fallback.ranking import experiences
from ocwatchd.core.history.journal_entries import read
from ocwatchd.core.history.metrics import figures
from ocwatchd.core.policy import Order
from ocwatchd.daemon.faults import Faults
from ocwatchd.daemon.forecaster import Forecaster
from ocwatchd.opencode.sessions.message_store import Answer, SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state.blacklist import fallback_data as fallbacks
from ocwatchd.state.journal import Journal

WINDOW = 3600.0
"""Maximum age, in seconds, of the answers that are counted as usage."""
PAUSE = 3.0
"""Minimum interval, in seconds, between measurements while OpenCode is writing. Reading an hour of answers from ten
sessions takes about 20 ms.
"""
LEARN = 60.0
"""Interval, in seconds, between evaluations of past moves. Reading 30,000 journal lines takes about a second on a
worker thread.
"""
LOOK_BACK = 30 * 86400.0
"""Maximum age, in seconds, of the journal entries from which the daemon learns how well fallbacks worked."""
ASK = 600.0
"""Interval, in seconds, between requests for the capacities of models while a model is cooling down. A probe of a stuck
session requests them in any case.
"""
OPEN = 600.0
"""Maximum age, in seconds, of an unfinished answer that is treated as a running session. Older unfinished answers were
left behind by a process that has ended.
"""


class UsageMeter:
    """Measures pools, learns from past moves and publishes fallbacks. The daemon's loop calls it."""

    def __init__(
        self,
        work: Callable[[Callable[[], Message]], None],
        publish: Callable[[Mapping[str, object]], None],
        ask_offers: Callable[[], None],
        faults: Faults,
        store: SessionStore,
        paths: Paths,
        clock: Clock,
    ) -> None:
        """`work` runs a function on a worker thread and posts the returned message.

        `publish` writes fields of the blacklist, `ask_offers` requests the capacities of models from OpenCode, and
        `faults` records internal errors. Nothing is read before the first call of `step`.
        """
        self._work, self._publish_fields, self._ask_offers, self._faults = work, publish, ask_offers, faults
        self._store, self._journal, self._clock = store, paths.journal, clock
        self._forecaster = Forecaster(work, store, paths, clock)
        self._learned_at = self._asked = 0.0
        self._mark = self._measured = self._written = 0.0
        self._published_pools: dict[str, object] = {}
        self._fallbacks: dict[str, object] = {}
        self._basis: tuple[object, ...] = ()
        self._rows: fallbacks.Rows = {}
        self._published: list[ModelRef] = []

    def step(self, context: EngineContext) -> None:
        """Take and publish the measurements that are due. Frequent calls are cheap."""
        now, survived = self._clock.now(), self._faults.survived
        with survived("forecasting"):
            self._forecaster.step(context)
        with survived("measuring pools"):
            self._step_pools(context, now)
        with survived("publishing fallbacks"):
            self._publish_fallbacks(context, now)
        if context.policy.order is Order.LEARNT and abs(now - self._learned_at) >= LEARN:
            self._learned_at = now
            self._work(lambda: self._experience(now))

    def _step_pools(self, context: EngineContext, now: float) -> None:
        configured = context.policy.pools
        if configured and abs(now - self._measured) >= PAUSE:
            self._measured = now
            self._measure([pool for pool in configured.values() if pool.spreads])
        if configured or self._published_pools:
            self._publish(context, now)

    def _experience(self, now: float) -> ExperienceLearned:
        entries = read(Journal(self._journal, self._clock).read())
        return ExperienceLearned(experiences(figures(entries, now - LOOK_BACK, now).fallbacks))

    def _measure(self, spreading: list[Pool]) -> None:
        mark = self._store.mark()
        if not spreading or mark == self._mark:
            return
        self._mark = mark
        self._work(lambda: measured(self._store.answers, spreading, self._clock.now()))

    def _publish(self, context: EngineContext, now: float) -> None:
        found = fallbacks.pools_document(context.policy, context.fill.loads(now), context.fill.measured_at, now)
        if _lasting(found) != _lasting(self._published_pools) or abs(now - self._written) >= fallbacks.LASTS / 2:
            self._published_pools, self._written = found, now
            self._publish_fields({"pools": found})

    def _publish_fallbacks(self, context: EngineContext, now: float) -> None:
        listed = [entry.model for entry in context.cooldowns.entries() if entry.active(now)]
        if not listed:
            return
        if abs(now - self._asked) >= ASK:
            self._asked = now
            self._ask_offers()
        outlook = context.outlook(None, now)
        basis = (context.policy, outlook)
        if basis != self._basis:
            self._basis, self._rows, self._published = basis, {}, []
        if listed == self._published:
            return
        self._published = listed
        found = fallbacks.document(context.policy, listed, outlook, self._rows)
        changed = {key: value for key, value in found.items() if value != self._fallbacks.get(key)}
        if changed:
            self._fallbacks |= changed
            self._publish_fields(changed)


def measured(answers: Callable[[float], Iterable[Answer]], spreading: Iterable[Pool], now: float) -> Used:
    """Return the load of each member of these pools. `answers` reads the message store."""
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
        # The cost of an unfinished answer is unknown. It is counted as a whole session, so that sessions that begin in
        # a burst are spread over all members.
        loads[model] += row.message.completed is None and now - (row.message.created or 0.0) < OPEN
    return dict(loads)


def _by_sessions(rows: list[tuple[Answer, str]]) -> dict[str, float]:
    last = {row.session: model for row, model in rows}
    return {model: float(count) for model, count in Counter(last.values()).items()}


def _lasting(document: Mapping[str, object]) -> dict[str, object]:
    """Return the document without its times, so that it can be compared with another document."""
    untimed = {"until", "measured"}
    return {
        name: {key: value for key, value in pool.items() if key not in untimed}
        for name, pool in document.items()
        if isinstance(pool, dict)
    }
