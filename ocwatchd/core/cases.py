"""What the brain remembers of each session it deals with: bounded, forgotten a while after the last news."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.limits import LimitEvent, ModelRef
from ocwatchd.core.messages import Heard
from ocwatchd.core.moves import Claim

FORGET_AFTER = 6 * 3600.0
"""Seconds without news after which a session is forgotten."""
MOST_CASES = 1000
"""Sessions remembered at once; the quietest is forgotten first."""
MOST_COUNTED = 20_000
"""Sessions of which no more is remembered than which model's refusal is in the ledger, 0.2 kB each."""
HOUR = 3600.0
LONGEST_RECHECK = 60.0
"""Seconds between looks at a session of which nothing new is heard."""
LOOP_REFUSALS, LOOP_WITHIN = 8, 6.0
"""So many refusals within so many seconds are a loop: OpenCode's own backoff makes at most two."""
LOG_CLOCK = 1.5
"""Seconds by which a log's time of our abort may lie beside the move: old logs have a clock of whole seconds."""


class Doing(StrEnum):
    """What goes on with a session."""

    NOTHING = "nothing"
    WAITING = "waiting"  # left to OpenCode's own retry
    MOVING = "moving"
    STUCK = "stuck"  # everything it could move to is cooling
    OFFERED = "offered"  # a person decides (mode ask or notify)
    LEFT = "left"  # a guard or the cap on moves holds


@dataclass(slots=True)
class Case:
    """One session. `pending` is the newest refusal not yet weighed; `origin` the model it was first moved away from,
    with its agent.

    `entered` is the last refusal in the ledger (model, user message, attempt), so that none is entered twice. `sighted`
    is when a door last showed a refusal that the log had not told yet: the log's line about it is no second one.
    `counted` is the model whose refusal an earlier life, or old news, has entered; no door has shown it since.
    `heard` is when a door's event stream or the plugin told of the refusal, which is within moments of it; `fact` what
    the plugin told of it.
    `landed` is the model that it was moved to last, `landed_for` the user message that was then run again.
    `refusals` holds the times of the last few, which tell a loop without pause.
    `moves` holds when each was begun, `moved_until` when the last one ended.
    `misses` counts looks in a row that found no door to it.
    `looking` while a door is being asked, `again` if news came meanwhile. `wake` is when to look again (epoch seconds).
    `retried_at`: not before this (epoch seconds) did OpenCode ask again, so an answer that came speaks for that time.
    `left_to_rival` is what another fallback plugin is given time for (user message, model), and until when.
    `stranded`: a move of ours stopped the turn and got no further, so nothing runs. `open_claims` are moves of an
    earlier life whose end nobody wrote down.
    """

    session: str
    doing: Doing = Doing.NOTHING
    phrase: str = ""
    pending: LimitEvent | None = None
    misses: int = 0
    heard: float | None = None
    fact: Heard | None = None
    looking: bool = False
    again: bool = False
    user_message: str | None = None
    origin: ModelRef | None = None
    origin_agent: str | None = None
    landed: ModelRef | None = None
    landed_for: str | None = None
    left_to_rival: tuple[str | None, ModelRef | None, float] | None = None
    stranded: bool = False
    open_claims: tuple[Claim, ...] = ()
    failed_targets: set[ModelRef] = field(default_factory=set)
    refusals: list[float] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    moved_until: float = 0.0
    entered: tuple[ModelRef, str | None, int] | None = None
    sighted: dict[ModelRef, float] = field(default_factory=dict)
    counted: ModelRef | None = None
    wake: float | None = None
    retried_at: float = 0.0
    patience: float = 3.0
    touched: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing goes on with it, and nothing is to follow: it may be forgotten."""
        expects = self.looking or self.wake is not None or self.pending is not None
        return self.doing is Doing.NOTHING and not (expects or self.stranded or self.open_claims)

    def moves_within_hour(self, now: float) -> int:
        """Moves and attempted moves of the last hour."""
        self.moves = [moment for moment in self.moves if now - moment < HOUR]
        return len(self.moves)

    def note_refusal(self, time: float) -> None:
        """Another refused attempt (epoch seconds)."""
        self.refusals = [*self.refusals[1 - LOOP_REFUSALS :], time]

    def looping(self, now: float) -> bool:
        """Whether OpenCode asks again without a pause, as it does for a negative Retry-After (0.5 to 1.17)."""
        return len(self.refusals) >= LOOP_REFUSALS and now - self.refusals[0] < LOOP_WITHIN

    def is_our_abort(self, time: float) -> bool:
        """Whether an abort at this time (epoch seconds, by the log) belongs to our own last move."""
        begun = self.moves[-1] if self.moves else float("inf")
        return begun - LOG_CLOCK <= time <= max(self.moved_until, begun) + LOG_CLOCK

    def rival_until(self, user_message: str | None, model: ModelRef | None, now: float, patience: float) -> float:
        """Until when (epoch seconds) this turn is left to another fallback plugin; begun with the first question."""
        if self.left_to_rival is None or self.left_to_rival[:2] != (user_message, model):
            self.left_to_rival = user_message, model, now + patience
        return self.left_to_rival[2]

    def look_later(self, now: float) -> None:
        """Look again, each time after a longer while."""
        self.patience = min(self.patience * 2, LONGEST_RECHECK)
        self.wake = now + self.patience

    def rest(self, phrase: str) -> None:
        """Nothing more goes on here."""
        self.doing, self.wake, self.patience, self.phrase = Doing.NOTHING, None, 3.0, phrase
        self.retried_at = 0.0

    def begin_message(self, user_message: str | None) -> None:
        """Another user message: what was tried for the last one no longer counts."""
        if user_message != self.user_message:
            self.user_message = user_message
            self.failed_targets.clear()
            if self.doing in (Doing.OFFERED, Doing.LEFT):
                self.doing = Doing.NOTHING


class Cases:
    """All sessions with something going on."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._cases: dict[str, Case] = {}
        self._counted: dict[str, ModelRef] = {}

    def of(self, session: str, now: float) -> Case:
        """The case of this session, opened if need be."""
        case = self._cases.get(session)
        if case is None:
            case = self._cases[session] = Case(session, counted=self._counted.pop(session, None))
            self._make_room(case)
        case.touched = now
        return case

    def _make_room(self, newest: Case) -> None:
        """Forget those that nothing goes on with, the oldest first; in a storm there may be none for a while."""
        surplus = len(self._cases) - MOST_CASES
        if surplus > 0:
            idle = [case for case in self._cases.values() if case.idle and case is not newest]
            for case in sorted(idle, key=lambda case: case.touched)[:surplus]:
                del self._cases[case.session]
                if case.counted is not None:
                    self.remember(case.session, case.counted)

    def remember(self, session: str, counted: ModelRef) -> None:
        """A refusal of this session is in the ledger already: what shows it later is no second one."""
        case = self._cases.get(session)
        if case is not None:
            case.counted = counted
            return
        self._counted[session] = counted
        if len(self._counted) > MOST_COUNTED:
            del self._counted[next(iter(self._counted))]

    def known(self, session: str) -> Case | None:
        """The case of this session, if there is one."""
        return self._cases.get(session)

    def all(self) -> tuple[Case, ...]:
        """Every open case."""
        return tuple(self._cases.values())

    def due(self, now: float) -> list[Case]:
        """Cases whose time to look again has come."""
        return [case for case in self._cases.values() if case.wake is not None and case.wake <= now]

    def next_wake(self) -> float | None:
        """The soonest time to look again, epoch seconds."""
        return min((case.wake for case in self._cases.values() if case.wake is not None), default=None)

    def forget_old(self, now: float) -> None:
        """Drop sessions that nothing was heard of for long."""
        for case in self.all():
            if now - case.touched > FORGET_AFTER and case.doing is not Doing.MOVING:
                del self._cases[case.session]
