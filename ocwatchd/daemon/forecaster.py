"""Forecast limits for the daemon from model usage, learned limits and the allowances that providers report.

The message store is read on a worker thread, and only after OpenCode or a provider has reported something new.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocwatchd.clock import Clock
from ocwatchd.core.domain.budget import DayBudget
from ocwatchd.core.domain.types import LimitKind
from ocwatchd.core.forecast.model import WINDOWS, Bound, History, learn
from ocwatchd.core.forecast.prevention import CALM, Standing, Threat, nearest, plan_threats, threat, turns_of
from ocwatchd.core.policy import Policy
from ocwatchd.opencode.sessions.message_store import Answer, SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import forecasts, prices, quota_command
from ocwatchd.state.journal import Journal
from ocwatchd.state.plugin_reports import read_allowances, read_plan_windows

if TYPE_CHECKING:
    # for type checkers only, because importing it would cost `ocwatch forecast` 40 ms of CPU time
    from ocwatchd.core.engine.messages import Foreseen, Message, Spent
    from ocwatchd.core.engine.session import EngineContext

log = logging.getLogger(__name__)

LOOK_BACK = 7 * 86_400.0
"""Maximum age, in seconds, of the usage from which limits are learned."""
SOON, LATER = 2.0, 15.0
"""Intervals, in seconds, between forecasts. The first applies if `forecast.prevent` or a budget is set, the second if
forecasts are only displayed.
"""
RENEW = 60.0
"""Maximum age, in seconds, of a forecast. An older forecast is computed again even if its inputs are unchanged, because
old usage has left the window since then.
"""
LEARN = 600.0
"""Interval, in seconds, between computations of the learned limits. For a week with ten sessions, one computation takes
a second.
"""
OVERLAP = 900.0
"""Overlap, in seconds, between consecutive reads of the answers. It is needed because the tokens of an answer are
counted only when the answer is complete.
"""
_ABOUT_USE = frozenset((LimitKind.RATE_LIMIT.value, LimitKind.QUOTA.value))


@dataclass(frozen=True, slots=True)
class Use:
    """One request: its start in epoch seconds, model, turn, token count and cost."""

    time: float
    model: str
    turn: str
    tokens: int
    dollars: float


def uses(answers: Iterable[Answer], until: float) -> dict[str, Use]:
    """Return the usage in these answers up to `until` (epoch seconds), by message id. Answers without a token count are
    omitted.
    """
    found: dict[str, Use] = {}
    for answer in answers:
        message = answer.message
        if message.model and message.created is not None and message.created <= until and message.tokens:
            turn = message.parent or message.id
            found[message.id] = Use(message.created, str(message.model), turn, message.tokens.spent, message.cost)
    return found


def limits(journal: Journal, now: float) -> dict[str, list[float]]:
    """Return the times at which each model hit a rate limit or a quota. Other kinds of limit do not depend on usage."""
    # lazy import: not needed before the daemon first searches the journal for limits
    from ocwatchd.core.history.journal_entries import read

    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in read(journal.read(now - LOOK_BACK)):
        if line.what == "limit" and line.model and line.text("kind") in _ABOUT_USE:
            found[line.model].append(line.refused_at)
    return dict(found)


def met(store: SessionStore, journal: Journal, now: float) -> dict[str, tuple[list[tuple[float, int]], list[float]]]:
    """Return, for each model that has hit a limit, its usage as (time, tokens) pairs and the times of its limits."""
    came = limits(journal, now)
    own: dict[str, list[tuple[float, int]]] = {name: [] for name in came}
    for use in uses(store.answers(now - LOOK_BACK), now).values() if came else ():
        if use.model in own:
            own[use.model].append((use.time, use.tokens))
    return {name: (own[name], times) for name, times in came.items()}


def learned_bounds(store: SessionStore, journal: Journal, now: float) -> dict[str, Bound]:
    """Return the learned limits by model. Models whose limit cannot be learned are left out."""
    found = {name: learn(History(own), times) for name, (own, times) in met(store, journal, now).items()}
    return {name: bound for name, bound in found.items() if bound is not None}


def standings(
    used: Iterable[Use], paths: Paths, bounds: Mapping[str, Bound], policy: Policy, now: float
) -> list[Standing]:
    """Return the known usage and limits of every model that was used recently or whose provider has reported an
    allowance.
    """
    reported = read_allowances(paths.allowances, now)
    by_model: defaultdict[str, list[Use]] = defaultdict(list)
    for use in sorted(used, key=lambda use: use.time):
        if use.time > now - WINDOWS[-1]:
            by_model[use.model].append(use)
    return [
        Standing(
            name,
            History((use.time, use.tokens) for use in by_model[name]),
            reported.get(name, ()),
            policy.prevention.limits.get(name, ()),
            bounds.get(name),
            turns_of([(use.turn, use.tokens) for use in by_model[name]]),
        )
        for name in sorted({*by_model, *reported})
    ]


def today(now: float, later: int = 0) -> float:
    """Return the start of the current local day in epoch seconds, or the start of the next day if `later` is 1."""
    year, month, day = time.localtime(now)[:3]
    return time.mktime((year, month, day + later, 0, 0, 0, 0, 0, -1))


class Forecaster:
    """Computes and publishes forecasts and today's budget. The daemon's loop calls it."""

    def __init__(
        self, work: Callable[[Callable[[], Message]], None], store: SessionStore, paths: Paths, clock: Clock
    ) -> None:
        """`work` runs a function on a worker thread and posts the returned message. Nothing is read before the first
        call of `step`.
        """
        self._work, self._store, self._paths, self._clock = work, store, paths, clock
        self._uses: dict[str, Use] = {}
        self._bounds: dict[str, Bound] = {}
        self._busy = self._asking = False
        self._looked = self._measured = self._learnt = self._read = 0.0
        self._asked = 0.0
        self._asked_with: tuple[str, ...] = ()
        self._problem: str | None = None
        self._begin = 0.0
        self._mark: tuple[object, ...] = ()

    def step(self, context: EngineContext) -> None:
        """Start a new forecast if one is due. Frequent calls are cheap."""
        now, policy = self._clock.now(), context.policy
        self._ask(policy.prevention.command, now)
        pressing = policy.prevention.prevent or policy.budget is not None
        if self._busy or abs(now - self._looked) < (SOON if pressing else LATER):
            return
        self._looked = now
        mark = (policy, *self._news())
        if policy.budget is None and now - max(mark[1:3]) > WINDOWS[-1]:
            return  # all usage is older than the longest window
        lasts = policy.budget is None and not self._uses  # without usage, the result does not change with time
        if mark == self._mark and (lasts or abs(now - self._measured) < RENEW):
            return
        self._mark, self._measured, self._busy = mark, now, True
        self._work(lambda: self._measure(policy, now))

    def _ask(self, command: tuple[str, ...], now: float) -> None:
        """Run `forecast.command` if it is due."""
        if self._asking or (command == self._asked_with and abs(now - self._asked) < quota_command.POLL_INTERVAL):
            return
        self._asked, self._asked_with = now, command
        if not command:
            quota_command.forget(self._paths.allowances)
        elif quota_command.due(self._paths.allowances, now):
            self._asking = True
            self._work(lambda: self._run_command(command, now))
        else:  # an earlier run of the daemon started the command recently; check again soon
            self._asked = now - quota_command.POLL_INTERVAL + LATER

    def _run_command(self, command: tuple[str, ...], now: float) -> Foreseen:
        """Run the command and store its result in the file that the next forecast reads. Return a message that changes
        nothing in the engine.
        """
        from ocwatchd.core.engine.messages import Foreseen  # lazy import: `ocwatch forecast` needs no engine

        try:
            problem = quota_command.run(command, self._paths.allowances, now).problem
            if problem is not None and problem != self._problem:
                log.warning(f"forecast.command: {problem}")
            self._problem = problem
        except OSError as error:
            log.warning(f"the result of forecast.command cannot be written: {error.strerror or error}")
        finally:
            self._asking = False
        return Foreseen({})

    def _news(self) -> tuple[float, float, int, float]:
        """Return values that show whether the inputs have changed: when OpenCode last wrote, when the last allowance
        was reported, the number of allowances, and when the prices were last written.
        """
        reported: list[float] = []
        with suppress(OSError):
            reported = [path.stat().st_mtime for path in self._paths.allowances.glob("*.json")]
        priced = 0.0
        with suppress(OSError):
            priced = self._paths.prices.stat().st_mtime
        return self._store.mark(), max(reported, default=0.0), len(reported), priced

    def _measure(self, policy: Policy, now: float) -> Foreseen:
        from ocwatchd.core.engine.messages import Foreseen  # lazy import: `ocwatch forecast` needs no engine

        try:
            begin = now - WINDOWS[-1]
            self._count(now, begin if policy.budget is None else min(begin, today(now)))
            found = standings(self._uses.values(), self._paths, self._bounds, policy, now)
            self._publish(found, now)
            if policy.budget is not None or self._paths.budget.exists():
                self._work(lambda: self._spent(policy.budget, now))
        finally:
            self._busy = False
        return Foreseen(*self._threats(found, policy, now)) if policy.prevention.prevent else Foreseen({})

    def _threats(self, found: list[Standing], policy: Policy, now: float) -> tuple[dict[str, Threat], tuple[str, ...]]:
        """Return the threats by model, and the models without a threat.

        A threat comes from a model's usage or from its provider's plan windows. If a model has both, the threat that
        lasts longer is returned.
        """
        ahead, leave_at = policy.prevention.ahead, policy.prevention.leave_at
        used = {one.model: one for one in found}
        windows = read_plan_windows(self._paths.allowances, now)
        # a configured model may be used next, even if it has not been used lately
        named = {name for one in windows for name in policy.fallbacks.models.get(one.provider, ())}
        models = {*used, *(name for name in named if any(one.applies_to(name) for one in windows))}

        def of(margin: float) -> dict[str, Threat]:
            own = {name: seen for name, one in used.items() if (seen := threat(one, ahead, now, margin)) is not None}
            plans = {} if leave_at is None else plan_threats(models, windows, leave_at, now, margin)
            longer = {name: one for name, one in plans.items() if name not in own or one.until > own[name].until}
            return own | longer

        uneasy = of(CALM)
        return of(1.0), tuple(name for name in sorted(models) if name not in uneasy)

    def _spent(self, budget: float | None, now: float) -> Spent:
        """Write today's budget for the commands, and return the amount spent as a message for the engine."""
        from ocwatchd.core.engine.messages import Spent  # lazy import: `ocwatch forecast` needs no engine

        dollars = sum(use.dollars for use in self._uses.values() if use.time >= today(now))
        known = prices.read(self._paths.prices)
        with suppress(OSError):
            prices.write_budget(self._paths.budget, DayBudget(budget, dollars, known), today(now, 1), now)
        return Spent(dollars, known)

    def _count(self, now: float, begin: float) -> None:
        # after a configuration change, the window may begin earlier than before
        known = self._begin <= begin and self._read <= now
        since = max(begin, self._read - OVERLAP) if known else begin
        found = self._uses | uses(self._store.answers(since), now)
        self._uses = {name: use for name, use in found.items() if use.time > begin}
        self._read, self._begin = now, begin
        if abs(now - self._learnt) >= LEARN:
            self._learnt = now
            self._bounds = learned_bounds(self._store, Journal(self._paths.journal, self._clock), now)

    def _publish(self, found: Iterable[Standing], now: float) -> None:
        ahead = sorted((nearest(one, now) for one in found), key=lambda one: one.rank)
        rows = [forecasts.as_json(one) for one in ahead]
        with suppress(OSError):  # the file is used only for display, and writes to our other files report a full disk
            windows = map(forecasts.window_as_json, read_plan_windows(self._paths.allowances, now))
            forecasts.write(self._paths.forecasts, rows, now, [*windows])
