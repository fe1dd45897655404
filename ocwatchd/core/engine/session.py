"""The state machine of a session: its states and events, and the only code that changes a session's record.

`python -m ocwatchd.core.engine.session` prints the table of transitions as a diagram. The number of tracked sessions is
bounded, and a session is no longer tracked after `FORGET_AFTER` seconds without a new message. The file is long because
a state machine is easier to check in a single file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import Claim, MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.pools import Fill
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.streams import MAX_PATIENCE_2, learned_patience
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import Cause, Certainty, LimitEvent, ModelRef, Target
from ocwatchd.core.engine.messages import Aborted, MoveEnded, TroubleReported
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.fallback.ranking import Experiences
from ocwatchd.core.policy import Mode, Policy
from ocwatchd.core.policy import Order as TargetOrder

FORGET_AFTER = 6 * 3600.0
"""Time, in seconds, without a new message after which a session is no longer tracked."""
MAX_TRACKED = 1000
"""Maximum number of tracked sessions. The session whose last message is the oldest is dropped first."""
MAX_COUNTED = 20_000
"""Maximum number of untracked sessions for which the model of the last recorded limit is stored. Each takes 0.2 kB."""
LATE_STOP = 60.0
"""Time, in seconds, after a move that stopped a turn and then failed, within which OpenCode may still carry out the
stop. It has taken 11 s, while it was starting on a busy machine.
"""
HOUR = 3600.0
LONGEST_RECHECK = 60.0
"""Maximum interval, in seconds, between probes of a session about which no new message arrives."""
LOOP_REFUSALS, LOOP_WITHIN = 8, 6.0
"""Number of refused attempts that prove a retry loop, and the period, in seconds, within which they must occur.
OpenCode's own backoff allows at most two attempts in that period.
"""
FIRST_PATIENCE = 3.0
"""Initial wait, in seconds, of `TrackedSession.probe_later`. Each call doubles the wait before using it."""
LOG_CLOCK = 1.5
"""Maximum difference, in seconds, between a move and the timestamp of its abort in the log: the log format before 1.17
has timestamps in whole seconds.
"""


Attempt = tuple[ModelRef, str | None, int]
"""A refused attempt: its model, the id of its user message, and the number of the attempt."""


class Doing(StrEnum):
    """A summary of a session's `State`, as `status` and the heartbeat show it."""

    NOTHING = "nothing"
    WAITING = "waiting"  # the turn is left to OpenCode's own retry
    MOVING = "moving"
    STUCK = "stuck"  # every possible target is cooling down
    OFFERED = "offered"  # the user decides (mode ask or notify)
    LEFT = "left"  # a guard or the cap on moves forbids the move


class State(StrEnum):
    """The state of a session: what ocwatchd is doing, or has done, about its turn."""

    WATCHING = "watching"  # no action is needed
    WAITING = "waiting"  # the turn is left to OpenCode's own retry
    HELD = "held"  # the plugin holds the refused attempt until a model is available
    MOVING = "moving"  # a move is claimed and under way
    SWITCHED = "switched"  # the model was switched; OpenCode's next attempt, which is far off, will use it
    MOVED = "moved"  # the fallback has started to answer
    EXHAUSTED = "exhausted"  # every model that the session could use is cooling down
    OFFERED = "offered"  # the user decides (mode ask or notify)
    LEFT = "left"  # a guard or the cap on moves forbids the move
    STOPPED = "stopped"  # the user has stopped the turn
    UNREACHABLE = "unreachable"  # the session is limited, but no endpoint shows it


class Probing(StrEnum):
    """Whether a session is being probed, and whether another probe must follow."""

    UNASKED = "not being probed"
    ASKED = "being probed"
    ASKED_AGAIN = "being probed; another probe must follow"  # another message arrived during the probe
    WANTED = "being moved; a probe must follow"  # a message arrived during a move


class Parking(StrEnum):
    """Whether the journal records that the session is waiting for a model. If so, a later run of the daemon resumes the
    wait.
    """

    UNPARKED = "unparked"
    PARKED = "parked"


class Event(StrEnum):
    """An event that changes the state of a session."""

    LEFT_TO_RETRY = "the retry is near"
    ASKED_AGAIN = "OpenCode has retried"
    HELD_BACK = "the plugin holds the attempt"
    CLAIMED = "a move is claimed"
    MOVE_FAILED = "the move failed or was not made"
    MODEL_SWITCHED = "the model was switched"
    SWITCH_WORKED = "the plugin reports that the model answers"
    SWITCH_FAILED = "the plugin reports that the model failed"
    VERIFIED = "the fallback answers"
    NOTHING_FREE = "no model is available"
    USER_ASKED = "the user must decide"
    GUARDED = "a guard forbids a move"
    ENDED = "nothing is left to do"
    TAKEN_OVER = "the user takes over"
    USER_STOPPED = "the user stops the turn"
    NEW_PROMPT = "another prompt"
    LOST = "no endpoint shows the session"
    # events of `Probing`
    PROBED = "a probe begins"
    NEWS = "news"
    ANSWERED = "the probe has ended"
    MOVE_OVER = "the move is over"
    # events of `Parking`
    PARKED = "the wait is recorded"
    UNPARKED = "the turn has already ended or resumed"


Part = State | Probing | Parking
"""The three parts of a session's state. They change independently of each other."""

_UNCLAIMED = tuple(state for state in State if state is not State.MOVING)
_NOTED = (State.MOVED, State.OFFERED, State.LEFT, State.STOPPED, State.UNREACHABLE)
"""The states that end when the session receives its next prompt."""

TRANSITIONS: Mapping[tuple[Part, Event], Part] = {
    # Only the end of a claimed move may change this state.
    (State.MOVING, Event.VERIFIED): State.MOVED,
    (State.MOVING, Event.MODEL_SWITCHED): State.SWITCHED,
    (State.MOVING, Event.MOVE_FAILED): State.WATCHING,
    (State.MOVING, Event.TAKEN_OVER): State.STOPPED,
    # Unless a session is being moved, each probe leads to a new decision about it.
    **{(state, Event.CLAIMED): State.MOVING for state in _UNCLAIMED},
    **{(state, Event.SWITCH_WORKED): State.MOVED for state in _UNCLAIMED},
    **{(state, Event.SWITCH_FAILED): State.WATCHING for state in _UNCLAIMED},
    **{(state, Event.LEFT_TO_RETRY): State.WAITING for state in _UNCLAIMED},
    **{(state, Event.ASKED_AGAIN): State.WAITING for state in _UNCLAIMED},
    **{(state, Event.HELD_BACK): State.HELD for state in _UNCLAIMED},
    **{(state, Event.NOTHING_FREE): State.EXHAUSTED for state in _UNCLAIMED},
    **{(state, Event.USER_ASKED): State.OFFERED for state in _UNCLAIMED},
    **{(state, Event.GUARDED): State.LEFT for state in _UNCLAIMED},
    **{(state, Event.ENDED): State.WATCHING for state in _UNCLAIMED},
    **{(state, Event.USER_STOPPED): State.STOPPED for state in _UNCLAIMED},
    **{(state, Event.LOST): State.UNREACHABLE for state in _UNCLAIMED},
    **{(state, Event.NEW_PROMPT): State.WATCHING if state in _NOTED else state for state in _UNCLAIMED},
    (Probing.UNASKED, Event.PROBED): Probing.ASKED,
    (Probing.UNASKED, Event.NEWS): Probing.WANTED,
    (Probing.WANTED, Event.NEWS): Probing.WANTED,
    (Probing.ASKED, Event.NEWS): Probing.ASKED_AGAIN,
    (Probing.ASKED_AGAIN, Event.NEWS): Probing.ASKED_AGAIN,
    **{(probing, Event.ANSWERED): Probing.UNASKED for probing in Probing},
    (Probing.UNASKED, Event.MOVE_OVER): Probing.UNASKED,
    (Probing.WANTED, Event.MOVE_OVER): Probing.UNASKED,
    (Probing.ASKED, Event.MOVE_OVER): Probing.ASKED,
    (Probing.ASKED_AGAIN, Event.MOVE_OVER): Probing.ASKED,
    **{(parking, Event.PARKED): Parking.PARKED for parking in Parking},
    **{(parking, Event.UNPARKED): Parking.UNPARKED for parking in Parking},
}
"""The next state for each state and event. A state can change only as listed here."""

_SHOWN_AS = {
    State.WAITING: Doing.WAITING,
    State.HELD: Doing.WAITING,
    State.SWITCHED: Doing.WAITING,
    State.MOVING: Doing.MOVING,
    State.EXHAUSTED: Doing.STUCK,
    State.OFFERED: Doing.OFFERED,
    State.LEFT: Doing.LEFT,
}


def diagram() -> str:
    """Return `TRANSITIONS` as a Mermaid state diagram, without the events that change nothing."""
    lines = ["stateDiagram-v2", '    state "any state but moving" as not_moving']
    for part in (State, Probing, Parking):
        lines += [f'    state "{state.value}" as {state.name.lower()}' for state in part]
        lines.append(f"    [*] --> {next(iter(part)).name.lower()}")
    grouped: dict[tuple[Event, Part], list[Part]] = {}
    for (state, event), target in TRANSITIONS.items():
        grouped.setdefault((event, target), []).append(state)
    for (event, target), sources in grouped.items():
        names = ["not_moving"] if tuple(sources) == _UNCLAIMED else [s.name.lower() for s in sources if s is not target]
        lines += [f"    {name} --> {target.name.lower()}: {event.value}" for name in names]
    return "\n".join(lines)


class UnexpectedEvent(Exception):
    """Raised for an event that `TRANSITIONS` does not contain for the session's state. This is a bug in the engine.

    The session's state is not changed.
    """

    def __init__(self, session: str, state: Part, event: Event) -> None:
        """Store the session, its state and the event in the exception."""
        super().__init__(f"{session} is {state.value}: {event.value}")
        self.session, self.state, self.event = session, state, event


@dataclass(frozen=True, slots=True)
class LimitedTurn:
    """A turn that is known to be limited, regardless of when its attempts were refused.

    `answer` is the id of the turn's last message. OpenCode keeps that message through all its retries and when it gives
    up (1.0 to 1.18). A new prompt or another run begins another message. `pid` identifies the process in which the turn
    ran.
    """

    model: ModelRef
    answer: str
    pid: int | None = None
    origin: Target | None = None
    """The model from which the session was first moved, or None if it was not moved. That model's chain applies."""

    @classmethod
    def of(cls, snapshot: SessionSnapshot) -> LimitedTurn | None:
        """Return the turn in the snapshot, or None if the snapshot names no model or no answer."""
        if snapshot.model is None or snapshot.answer is None:
            return None
        return cls(snapshot.model, snapshot.answer, snapshot.endpoint.pid)

    def waits_in(self, snapshot: SessionSnapshot) -> bool:
        """Return whether this turn is still waiting, that is, has not been stopped, continued or closed.

        The turn may now be waiting in a process other than the one in which it ran, if that process is a server or a
        terminal in which the session was opened.
        """
        same = snapshot.model == self.model and snapshot.answer == self.answer
        there = not self.elsewhere(snapshot) or snapshot.endpoint.many or snapshot.endpoint.opened == snapshot.session
        answered = snapshot.state is SessionState.IDLE and snapshot.answer_completed
        return same and there and not snapshot.aborted and not answered

    def elsewhere(self, snapshot: SessionSnapshot) -> bool:
        """Return whether the process that now shows the session is not the one in which the turn ran."""
        return None not in (self.pid, snapshot.endpoint.pid) and self.pid != snapshot.endpoint.pid


@dataclass(frozen=True, slots=True)
class ParkedTurn:
    """A limited turn as the journal records it. Times are epoch seconds.

    `until` is when the first of the turn's models will be available again (None: unknown), and `waits_for` is that
    model. `resumes_at` is when the turn will be run again, and `since` is when it was parked.
    """

    turn: LimitedTurn
    until: float | None
    since: float = 0.0
    resumes_at: float | None = None
    waits_for: ModelRef | None = None


@dataclass(slots=True)
class TrackedSession:
    """The engine's record of one session. Only this module assigns its fields; other modules call its methods.

    Every change of state is in `TRANSITIONS`. All times are epoch seconds.

    `pending` is the newest limit that has not been assessed yet. `origin` and `origin_agent` are the model and the
    agent from which the session was first moved. `entered` identifies the last recorded limit (model, user message,
    attempt), and prevents a second record of it.

    `shown_at` maps each model to the time at which an endpoint last showed a limit that the log had not reported yet.
    The log line about that limit then does not count as a second limit. `counted` is the model of a limit that an
    earlier run recorded or that old log lines reported, and that no endpoint has shown since. `reported_at` is when an
    event stream or the plugin reported the limit, within moments of the refused attempt; `fact` is the plugin's report.

    `landed` is the model to which the session was last moved, and `landed_for` is the user message that was run again
    on it. `refusals` contains the times of the latest refused attempts in the log, and `retries` contains the times of
    the latest retries in an event stream. Either series can prove a retry loop without pauses. A snapshot with many
    attempts can also prove such a loop; `looped` is the time of the last snapshot that did. `moves` contains the start
    of each move; `moved_until` is the end of the last one.

    `misses` counts consecutive probes in which no endpoint showed the session. `wake` is the time of the next probe.
    `retried_at`: OpenCode sent its next request at this time or later, so an answer proves that the model worked then.
    `waiting_since` is when this turn was first left to OpenCode's own retry. `left_to_rival` is the turn (user message,
    model) that is left to another fallback plugin, with the deadline.

    `held`: whether the plugin is holding an attempt, so that OpenCode sends no request. `released_at` is when the
    plugin last stopped holding one.

    `turn` is the turn that is known to be limited. `parked_turn` is the journal's record of it while the session is
    parked (since `parked_at`). `parked_until` is when the first model, `waits_for`, is available again. The turn is run
    again at `resumes_at`, but never before `not_before`, which is set if the cooldown was lost. `resumes` contains the
    id of a prompt and the number of its reruns after it was parked. `gone_since` is the time of the first probe in
    which no OpenCode process showed the session. `stranded`: whether one of ocwatchd's moves stopped the turn and did
    not finish, so that nothing is running. `stop_to_come`: whether that move ended before it started the new run, so
    that OpenCode may not have carried out the stop yet. `stopped_answer` is the id of the answer that the move stopped,
    if known. `open_claims` contains the moves of an earlier run for which the journal contains no result. `switched` is
    a move whose new model has not received a request yet. `silence` contains the id of the answer that was silent at
    the last probe, and the length of the silence in seconds. `failures` counts, by model, how many times this prompt
    has stalled or has failed for a reason other than a limit. `frozen` is the id of the last answer for which the user
    was notified that OpenCode's own retries will not end soon.
    """

    session: str
    state: State = State.WATCHING
    probing: Probing = Probing.UNASKED
    parking: Parking = Parking.UNPARKED
    phrase: str = ""
    pending: LimitEvent | None = None
    misses: int = 0
    reported_at: float | None = None
    fact: TroubleReported | None = None
    user_message: str | None = None
    origin: ModelRef | None = None
    origin_agent: str | None = None
    landed: ModelRef | None = None
    landed_for: str | None = None
    left_to_rival: tuple[str | None, ModelRef | None, float] | None = None
    held: bool = False
    released_at: float = 0.0
    turn: LimitedTurn | None = None
    parked_turn: LimitedTurn | None = None
    parked_until: float | None = None
    parked_at: float = 0.0
    waits_for: ModelRef | None = None
    resumes_at: float | None = None
    not_before: float = 0.0
    resumes: tuple[str | None, int] = (None, 0)
    gone_since: float | None = None
    stranded: bool = False
    stop_to_come: bool = False
    stopped_answer: str | None = None
    open_claims: tuple[Claim, ...] = ()
    switched: MoveEnded | None = None
    failed_targets: frozenset[ModelRef] = frozenset()
    refusals: tuple[float, ...] = ()
    retries: tuple[float, ...] = ()
    looped: float = float("-inf")
    moves: tuple[float, ...] = ()
    moved_until: float = 0.0
    entered: Attempt | None = None
    shown_at: Mapping[ModelRef, float] = field(default_factory=dict)
    counted: ModelRef | None = None
    wake: float | None = None
    retried_at: float = 0.0
    waiting_since: float | None = None
    patience: float = FIRST_PATIENCE
    silence: tuple[str | None, float] | None = None
    failures: Mapping[ModelRef, int] = field(default_factory=dict)
    frozen: str | None = None
    touched: float = 0.0

    # ---- the current state

    @property
    def doing(self) -> Doing:
        """Return ocwatchd's current action for the session, as `status` shows it."""
        return _SHOWN_AS.get(self.state, Doing.NOTHING)

    @property
    def moving(self) -> bool:
        """Return whether a move is claimed and under way."""
        return self.state is State.MOVING

    @property
    def being_probed(self) -> bool:
        """Return whether a probe of this session is under way."""
        return self.probing in (Probing.ASKED, Probing.ASKED_AGAIN)

    @property
    def parked(self) -> bool:
        """Return whether the journal records that this session is waiting for a model."""
        return self.parking is Parking.PARKED

    @property
    def busy(self) -> bool:
        """Return whether a probe or a move of this session is under way."""
        return self.being_probed or self.moving

    @property
    def waits_since(self) -> float:
        """Return the time, in epoch seconds, after which an answer from the model proves that the parked session may be
        run again. An earlier answer proves nothing.
        """
        return max(self.parked_at, self.parked_until or 0.0)

    def resumed(self, user_message: str | None) -> int:
        """Return the number of reruns of this prompt after it was parked."""
        return self.resumes[1] if self.resumes[0] == user_message else 0

    @property
    def idle(self) -> bool:
        """Return whether the session need not be tracked any longer: nothing is in progress or expected for it."""
        expects = self.being_probed or self.wake is not None or self.pending is not None or self.parked
        return self.doing is Doing.NOTHING and not (expects or self.stranded or self.open_claims)

    @property
    def in_trouble(self) -> bool:
        """Return whether there is a recorded problem with this session that no endpoint has confirmed yet. An earlier
        run may have recorded the problem.
        """
        known = (self.pending, self.reported_at, self.counted)
        return any(what is not None for what in known) or self.stranded or self.parked

    def looping(self, now: float) -> bool:
        """Return whether OpenCode repeats the request without a pause, as versions 0.5 to 1.17 do after a negative
        Retry-After.
        """
        counts = (self.refusals, self.retries)
        counted = any(len(times) >= LOOP_REFUSALS and now - times[0] < LOOP_WITHIN for times in counts)
        return counted or now - self.looped < LOOP_WITHIN

    def is_our_abort(self, news: Aborted) -> bool:
        """Return whether ocwatchd's own last move caused this abort. Abort times from a log are imprecise, so a
        tolerance applies to them.

        OpenCode logs an abort up to a second late. This run may therefore read an abort that belongs to an unfinished
        move of an earlier run, so it attributes all aborts before the resumption of that move to ocwatchd.
        """
        slack = 0.0 if news.exact else LOG_CLOCK
        late = LATE_STOP if self.stop_to_come else slack
        if self.stranded and not self.moves:
            return news.time <= self.moved_until + late
        begun = self.moves[-1] if self.moves else float("inf")
        return begun - slack <= news.time <= max(self.moved_until, begun) + late

    def moves_within_hour(self, now: float) -> int:
        """Return the number of moves, successful or not, in the last hour."""
        self.moves = tuple(moment for moment in self.moves if now - moment < HOUR)
        return len(self.moves)

    # ---- reports of limits, without a change of state

    def note_limit(self, event: LimitEvent | None) -> None:
        """Store the newest limit until it is assessed."""
        self.pending = event

    def note_refusal(self, time: float) -> None:
        """Record the time (epoch seconds) of another refused attempt."""
        self.refusals = (*self.refusals[1 - LOOP_REFUSALS :], time)

    def note_report(self, news: TroubleReported, answered: int) -> None:
        """Record a report from an event stream or the plugin. A plugin report with the HTTP status `answered` is about
        an answer and not about a refused attempt.

        Retries that an event stream reports are also counted, because the log format before 1.17 does not name the
        session if two sessions are busy.
        """
        if news.facts is not None:
            self.fact = news
        else:
            self.retries = (*self.retries[1 - LOOP_REFUSALS :], news.time)
        if news.facts is None or news.facts.status != answered:
            self.reported_at = news.time

    def note_attempts(self, snapshot: SessionSnapshot) -> None:
        """Detect a loop (see `looping`) from the number of attempts that OpenCode has made for one answer."""
        attempts, began = snapshot.attempt or 0, snapshot.answer_started
        longest = attempts * LOOP_WITHIN / LOOP_REFUSALS
        if attempts >= LOOP_REFUSALS and began is not None and snapshot.seen - began < longest:
            self.looped = snapshot.seen

    def note_loop(self, seen: float) -> None:
        """Record that a snapshot showed a loop at this time (epoch seconds)."""
        self.looped = seen

    def count(self, model: ModelRef | None) -> None:
        """Record that a limit of this model has been counted, although no endpoint has shown it yet. `model` is None if
        there is no such limit.
        """
        self.counted = model

    def counted_as(self, attempt: Attempt) -> None:
        """Record that an endpoint now shows this attempt.

        If a limit of the attempt's model was already counted, the attempt is taken to be that limit and is not counted
        again.
        """
        if self.counted == attempt[0]:
            self.entered = attempt
        self.counted = None

    def enter(self, attempt: Attempt, seen: float | None = None) -> None:
        """Store this attempt as the last one for which a limit was recorded.

        `seen`: when an endpoint first showed the limit (epoch seconds; None: no endpoint has shown it).
        """
        self.entered = attempt
        if seen is not None:
            self.expect_line(attempt[0], seen)

    def expect_line(self, model: ModelRef, until: float) -> None:
        """Record that log lines about this model that are not newer than `until` (epoch seconds) report a limit that is
        already known.
        """
        self.shown_at = {**self.shown_at, model: until}

    def line_has_come(self, model: ModelRef) -> None:
        """Record that the log now contains this model's limit, which was read from an endpoint earlier."""
        self.shown_at = {known: until for known, until in self.shown_at.items() if known != model}

    def take_limit(self) -> LimitEvent | None:
        """Return the limit to assess and clear the stored limit, because an endpoint now shows the session."""
        pending, self.pending, self.misses = self.pending, None, 0
        self.gone_since = None
        return pending

    def take_reported_at(self) -> float | None:
        """Return when the limit that is being assessed was reported, and clear that time."""
        reported_at, self.reported_at = self.reported_at, None
        return reported_at

    def drop_limit(self) -> LimitEvent | None:
        """Return the limit that no endpoint has shown, clear it, and stop waiting for an endpoint.

        The limit is already recorded, so it must not be counted again if an endpoint shows it later.
        """
        pending, self.pending, self.reported_at, self.misses = self.pending, None, None, 0
        if pending is not None and pending.verdict.certainty is Certainty.SURE:
            self.count(pending.ref)
        return pending

    def miss(self) -> int:
        """Count a probe in which no endpoint showed the session. Return the number of such probes in a row."""
        self.misses += 1
        return self.misses

    def gone_for(self, now: float) -> float:
        """Return the time, in seconds, since the first probe in which no OpenCode process showed the session. If this
        is that probe, store its time.
        """
        self.gone_since = now if self.gone_since is None else self.gone_since
        return now - self.gone_since

    def missed(self, times: int) -> None:
        """Restore an earlier run's count of consecutive probes in which no endpoint showed the session."""
        self.misses = times

    # ---- origin and targets

    def begins_on(self, model: ModelRef, agent: str | None) -> None:
        """Record that the session began its turn on this model, whose chain then applies. Do nothing if a move put the
        session on this model.
        """
        if self.landed != model or self.origin is None:
            self.origin, self.origin_agent = model, agent

    def came_from(self, origin: ModelRef, model: ModelRef | None) -> None:
        """Record that the session's model was changed from `origin` to `model`."""
        self.origin, self.landed = origin, model

    def put_on(self, model: ModelRef) -> None:
        """Record that the session now uses the target of a move, although the move failed."""
        self.landed = model
        self._begin_attempts(model)

    def _begin_attempts(self, model: ModelRef) -> None:
        """Reset the count of attempts on this model, because the prompt was run again on it."""
        if self.entered is not None and self.entered[0] == model:
            self.entered = None

    def fail(self, target: ModelRef) -> None:
        """Record that this prompt must not be moved to `target` again."""
        self.failed_targets |= {target}

    def rival_until(self, user_message: str | None, model: ModelRef | None, now: float, patience: float) -> float:
        """Return the deadline (epoch seconds) by which another fallback plugin must have handled this turn. It is
        `patience` seconds after the first call for the turn.
        """
        if self.left_to_rival is None or self.left_to_rival[:2] != (user_message, model):
            self.left_to_rival = user_message, model, now + patience
        return self.left_to_rival[2]

    # ---- the next probe, and the phrase shown by `status`

    def wake_at(self, when: float | None) -> None:
        """Set the time of the next probe (epoch seconds; None: no probe is scheduled)."""
        self.wake = when

    def probe_later(self, now: float, patience: float | None = None) -> None:
        """Schedule the next probe after a wait twice as long as the last one (at most `LONGEST_RECHECK` seconds), and
        store the new wait. `patience` (in seconds), if given, is used in place of the last wait.
        """
        self.patience = min((self.patience if patience is None else patience) * 2, LONGEST_RECHECK)
        self.wake = now + self.patience

    def explain(self, phrase: str) -> None:
        """Set the phrase that `status` shows next to the session."""
        self.phrase = phrase

    def wait_since(self, now: float) -> None:
        """Record when OpenCode's own retry began to handle this turn, unless that is already recorded."""
        self.waiting_since = now if self.waiting_since is None else self.waiting_since

    # ---- probes

    def probe(self) -> bool:
        """Return whether to probe OpenCode now.

        If a probe or a move is under way, return False; another probe will follow when it has ended.
        """
        if self.being_probed or self.moving:
            self._go_probing(Event.NEWS)
            return False
        self._go_probing(Event.PROBED)
        self.wake = None
        return True

    def probed(self) -> bool:
        """Record that the probe has ended. Return whether to probe again because a message arrived during the probe."""
        again = self.probing in (Probing.ASKED_AGAIN, Probing.WANTED)
        self._go_probing(Event.ANSWERED)
        return again

    def begin_message(self, user_message: str | None) -> None:
        """Record the prompt of the turn. A new prompt resets what was recorded about the previous prompt."""
        if user_message != self.user_message:
            self.stop_to_come = self.stop_to_come and self.user_message is None
            self._go(Event.NEW_PROMPT)
            self.user_message = user_message
            self.failed_targets = frozenset()
            self.waiting_since = None
            self.failures = {}

    # ---- failures that are not limits

    def silence_of(self, snapshot: SessionSnapshot, now: float) -> float | None:
        """Return how long, in seconds, the session has been silent although nothing has held its attempt. Return None
        if an attempt is held, or if the silence is unknown.
        """
        if self.held or snapshot.silence is None:
            return None
        return min(snapshot.silence, max(now - self.released_at, 0.0))

    def fell_silent(self, answer: str | None, seconds: float) -> bool:
        """Record that, according to a probe, this answer (an id) has been silent for `seconds`. Return whether the
        previous probe found the same silence.
        """
        before, self.silence = self.silence, (answer, seconds)
        return before is not None and before[0] == answer and before[1] < seconds

    def failures_on(self, model: ModelRef) -> int:
        """Return the number of times that this prompt stalled on the model or failed on it for a reason other than a
        limit.
        """
        return self.failures.get(model, 0)

    def count_failure(self, model: ModelRef) -> None:
        """Count another stall of this prompt on the model, or another failure that is not a limit."""
        self.failures = {**self.failures, model: self.failures_on(model) + 1}
        self.silence = None

    def inherit_failures(self, failures: Mapping[ModelRef, int], failed: frozenset[ModelRef]) -> None:
        """Add the failures of the subagents that an earlier run of the same prompt of the parent started."""
        self.failures = {
            **failures,
            **{model: max(count, failures.get(model, 0)) for model, count in self.failures.items()},
        }
        self.failed_targets |= failed

    def note_frozen(self, answer: str | None) -> bool:
        """Record that OpenCode's own retries of this answer (an id) will not end soon. Return False if this was already
        recorded.
        """
        known, self.frozen = self.frozen is not None and self.frozen == answer, answer
        return not known

    # ---- transitions

    def limited(self, turn: LimitedTurn | None) -> None:
        """Record the limited turn (None: the snapshot does not identify it)."""
        self.turn = turn

    def wait(self, asks_at: float, probe_after: float, now: float, phrase: str) -> None:
        """Record that the turn is left to OpenCode's own retry at `asks_at`, and schedule a probe `probe_after` seconds
        after that time.
        """
        self._go(Event.LEFT_TO_RETRY)
        self.retried_at = asks_at
        self.wake = asks_at + probe_after
        self.wait_since(now)
        self.phrase = phrase

    def asked_again(self, after: float) -> None:
        """Record that OpenCode sent its next request before the probe, at some time after `after` (epoch seconds)."""
        self._go(Event.ASKED_AGAIN)
        self.retried_at = after

    def hold(self, until: float) -> None:
        """Record that the plugin holds the attempt until this time (epoch seconds)."""
        self._go(Event.HELD_BACK)
        self.wake, self.retried_at, self.held = None, until, True

    def release(self, now: float) -> None:
        """Record that the plugin holds no attempt any longer."""
        self.held, self.released_at = False, now

    def claim(self, phrase: str, now: float) -> None:
        """Record that a move begins. The caller writes the claim to the journal before the move is made."""
        self._go(Event.CLAIMED)
        self.wake, self.phrase = None, phrase
        self.moves = (*self.moves, now)

    def run_again(self) -> None:
        """Record the beginning of a move that `oc-smart` makes after the supervised `run` has ended. Such a move does
        not count toward the cap on moves.
        """
        self._go(Event.CLAIMED)

    def move_ended(self, outcome: MoveOutcome, stopped: str | None, now: float) -> bool:
        """Record the result of a move. `stopped` is the id of the answer that the move was meant to stop. Return
        whether to probe again because a message arrived during the move.
        """
        self._go(_ENDS.get(outcome.result, Event.MOVE_FAILED))
        return self._end(outcome, stopped, now)

    def switch_ended(self, end: MoveEnded, now: float) -> bool:
        """Record whether the new model has answered after a switch.

        Return whether to probe again because a message arrived during the switch.
        """
        worked = end.outcome.result is MoveResult.MOVED
        self._go(Event.SWITCH_WORKED if worked else Event.SWITCH_FAILED)
        self.switched = None
        return self._end(end.outcome, end.order.snapshot.answer, now)

    def _end(self, outcome: MoveOutcome, stopped: str | None, now: float) -> bool:
        again = self.probing in (Probing.ASKED_AGAIN, Probing.WANTED)
        self._go_probing(Event.MOVE_OVER)
        if not self._still_ending(outcome):
            self.moved_until = now
            self.stranded, self.stopped_answer = outcome.stranded, stopped
            self.stop_to_come = outcome.stranded and not outcome.posts
        if outcome.result in (MoveResult.ALREADY, MoveResult.REFUSED):
            self.moves = self.moves[:-1]  # the move was rejected before it changed anything, so it does not count
            if self.parked:
                self.resumes = self.resumes[0], max(self.resumes[1] - 1, 0)
        return again

    def _still_ending(self, outcome: MoveOutcome) -> bool:
        """Return whether this move changed nothing because the turn that an earlier move stopped has not ended yet."""
        unchanged = outcome.result in (MoveResult.ALREADY, MoveResult.REFUSED, MoveResult.SWITCHED)
        active = outcome.snapshot is not None and outcome.snapshot.state in (SessionState.RETRY, SessionState.BUSY)
        return self.stranded and unchanged and active

    def stop_arrived(self, time: float) -> bool:
        """Record that OpenCode has carried out ocwatchd's own stop at `time` (epoch seconds). Return whether the turn
        must now be continued, because the move that stopped it has failed.
        """
        expected, self.stop_to_come = self.stop_to_come and self.stranded, False
        if expected:
            self.moved_until = max(self.moved_until, time)
        return expected

    def answered_after_all(self) -> None:
        """Record that the turn that a move stopped has been answered, so that it need not be continued."""
        self.stranded = self.stop_to_come = False

    def wait_for_switched(self, end: MoveEnded, asks_at: float, probe_after: float) -> None:
        """Store a switch of the model. OpenCode sends its next request at `asks_at` (epoch seconds); schedule a probe
        `probe_after` seconds later, to check whether the new model answers.
        """
        self.switched = end
        self.landed, self.landed_for = end.order.target.model, end.order.snapshot.user_message
        self.retried_at, self.wake = asks_at, asks_at + probe_after
        self.phrase = end.outcome.why

    def take_switched(self) -> None:
        """Clear the stored switch, because OpenCode is now sending the request to the new model."""
        self.switched = None

    def lands(self, order: Order) -> None:
        """Record that the target of a move has started to answer."""
        self.landed, self.landed_for = order.target.model, order.snapshot.user_message
        if self.pending is not None and self.pending.ref == order.origin:
            self.pending = None  # the limit was hit before the move; its log line was late
        self._begin_attempts(order.target.model)
        self.drop_turn()
        again = order.origin == order.target.model
        self.phrase = f"runs again on {order.origin}" if again else f"moved from {order.origin} to {order.target.model}"

    def exhaust(self, wake: float | None, phrase: str) -> None:
        """Record that no model is available, and schedule a probe at `wake` (epoch seconds; None: no probe is
        scheduled).
        """
        self._go(Event.NOTHING_FREE)
        self.wake, self.phrase = wake, phrase

    def park(self, parked: ParkedTurn) -> bool:
        """Park the session. Return whether the parked turn is new and must be journaled. If it is already recorded, its
        times do not change.
        """
        known = self.parked and (self.parked_until, self.parked_turn) == (parked.until, parked.turn)
        self._go_parking(Event.PARKED)
        if not known:
            self.parked_turn, self.parked_until, self.parked_at = parked.turn, parked.until, parked.since
            self.resumes_at, self.waits_for = parked.resumes_at, parked.waits_for
        return not known

    def unpark(self) -> bool:
        """Record that the session will not be run again automatically. Return whether it was parked."""
        parked = self.parked
        self._go_parking(Event.UNPARKED)
        return parked

    def wait_until(self, resumes_at: float | None) -> None:
        """Postpone the rerun of the parked turn, because the model is limited again: a request of another session was
        refused.

        `resumes_at` is in epoch seconds (None: until a user clears the model's cooldown).
        """
        self.wake = self.resumes_at = resumes_at

    def run_parked(self, user_message: str | None) -> int:
        """Count another rerun of the parked turn. Return the number of reruns of this prompt, including this one."""
        self.resumes = user_message, self.resumed(user_message) + 1
        return self.resumes[1]

    def recall_resumes(self, resumes: tuple[str | None, int]) -> None:
        """Restore the number of reruns of this prompt (an id) by an earlier run of the daemon."""
        self.resumes = resumes

    def allow(self) -> None:
        """Record that the user has cleared a model's cooldown. A parked turn may then be run again at any time, and its
        previous reruns are no longer counted.
        """
        self.not_before, self.resumes = 0.0, (None, 0)

    def drop_turn(self) -> bool:
        """Discard the stored limited turn, because the session is no longer waiting in that turn.

        Return whether the session was parked.
        """
        parked, self.turn = self.parked, None
        self._go_parking(Event.UNPARKED)
        return parked

    def offer(self, phrase: str) -> bool:
        """Let the user decide about the move. Return False if the decision was already left to the user."""
        known = self.state is State.OFFERED
        self._go(Event.USER_ASKED)
        self.phrase = phrase
        return not known

    def leave(self, why: str, now: float | None = None) -> bool:
        """Leave the turn unchanged.

        If `now` is given, schedule probes to find out when a move is possible, because no event reports that.

        Return False if the turn was already left unchanged for the same reason.
        """
        known, patience = self.state is State.LEFT and self.phrase == why, self.patience
        self._finish(Event.GUARDED, why)
        if now is not None:
            self.probe_later(now, patience if known else None)
        return not known

    def finish(self, phrase: str) -> None:
        """Record that no further action is needed for this session. `status` shows `phrase` next to it."""
        self._finish(Event.ENDED, phrase)

    def stop(self) -> bool:
        """Record that no further action is needed because the user stopped the turn. Return whether any action was
        under way.
        """
        waited = self.pending is not None or self.stranded or self.doing is not Doing.NOTHING
        self._finish(Event.USER_STOPPED, "stopped by its user")
        self.pending, self.stranded, self.stop_to_come = None, False, False
        self.drop_turn()
        return waited

    def moved_by_hand(self) -> None:
        """Record that no further action is needed because the user has moved the session with a command."""
        self.finish("moved by hand")
        self.pending = None

    def lose(self, phrase: str) -> None:
        """Record that the session is limited but unreachable, because no endpoint shows it."""
        self._finish(Event.LOST, phrase)

    def runs_elsewhere(self, why: str, probe_at: float) -> None:
        """Record that no move was needed, because the same prompt is already running."""
        self.finish(why)
        self.wake = probe_at
        self._go_parking(Event.UNPARKED)

    def hand_to(self, parent: TrackedSession) -> None:
        """Transfer this subagent's move history to its parent, because the move stopped the parent's turn."""
        parent.origin, parent.origin_agent = self.origin, self.origin_agent
        parent.failed_targets, parent.moves = self.failed_targets, tuple(sorted((*parent.moves, *self.moves)))
        parent.stranded, parent.stopped_answer = self.stranded, self.stopped_answer
        parent.stop_to_come, parent.moved_until = self.stop_to_come, self.moved_until
        self.stranded, self.stop_to_come, self.stopped_answer = False, False, None
        self.finish("ended with its parent's turn")

    # ---- state from an earlier run

    def recall_parked(self, parked: ParkedTurn, wake: float | None, not_before: float) -> None:
        """Restore a turn that an earlier run parked, and check it at `wake` (epoch seconds; None: no check is
        scheduled).
        """
        turn = parked.turn
        self.exhaust(wake, f"waits for {parked.waits_for or turn.model}")
        self.park(parked)
        self.turn, self.not_before = turn, not_before
        if turn.origin is not None:
            self.origin, self.origin_agent, self.landed = turn.origin.model, turn.origin.agent, turn.model

    def resume(self, claims: tuple[Claim, ...], now: float) -> None:
        """Restore moves that an earlier run claimed but did not finish before `now` (epoch seconds)."""
        self.stranded, self.open_claims, self.moved_until = True, claims, now
        self.stopped_answer = claims[-1].answer if claims else None

    def recall_origin(self, claim: Claim) -> None:
        """Restore the origin from the last move of an earlier run."""
        if claim.origin is not None:
            self.origin, self.origin_agent = claim.origin.model, claim.origin.agent
            self.landed = claim.target.model

    def was_moved(self, claim: Claim, user_message: str | None) -> None:
        """Record that a move of an earlier run put the session on its target, although the journal does not contain the
        result of that move.
        """
        self.recall_origin(claim)
        self.landed_for = user_message

    def take_claims(self) -> tuple[Claim, ...]:
        """Return the unfinished moves of an earlier run and clear them. The caller must close them."""
        claims, self.open_claims = self.open_claims, ()
        return claims

    def clock_set(self, step: Step) -> None:
        """Adjust the recorded times after a change of the system clock."""
        self.wake = None if self.wake is None else step.due(self.wake)
        self.parked_until = None if self.parked_until is None else step.due(self.parked_until)
        self.resumes_at = None if self.resumes_at is None else step.due(self.resumes_at)
        self.not_before, self.parked_at = step.due(self.not_before), step.remembered(self.parked_at)
        self.gone_since = None if self.gone_since is None else step.remembered(self.gone_since)
        self.retried_at = step.due(self.retried_at)
        self.touched, self.moved_until = step.remembered(self.touched), step.remembered(self.moved_until)
        self.released_at = step.remembered(self.released_at)
        self.moves, self.refusals, self.retries = (
            tuple(map(step.remembered, moments)) for moments in (self.moves, self.refusals, self.retries)
        )
        self.looped = step.remembered(self.looped)
        self.reported_at = None if self.reported_at is None else step.remembered(self.reported_at)
        self.shown_at = {model: step.remembered(moment) for model, moment in self.shown_at.items()}
        if self.left_to_rival is not None:
            self.left_to_rival = *self.left_to_rival[:2], step.due(self.left_to_rival[2])

    # ---- applying the table of transitions

    def _finish(self, event: Event, phrase: str) -> None:
        self._go(event)
        self.wake, self.patience, self.phrase = None, FIRST_PATIENCE, phrase
        self.retried_at, self.waiting_since = 0.0, None

    def _go(self, event: Event) -> None:
        self.state = cast(State, self._next(self.state, event))

    def _go_probing(self, event: Event) -> None:
        self.probing = cast(Probing, self._next(self.probing, event))

    def _go_parking(self, event: Event) -> None:
        self.parking = cast(Parking, self._next(self.parking, event))

    def _next(self, state: Part, event: Event) -> Part:
        """Return the next state according to `TRANSITIONS`.

        Raises:
            UnexpectedEvent: `TRANSITIONS` does not contain the event for this state.
        """
        try:
            return TRANSITIONS[state, event]
        except KeyError:
            raise UnexpectedEvent(self.session, state, event) from None


_ENDS = {
    MoveResult.MOVED: Event.VERIFIED,
    MoveResult.SWITCHED: Event.MODEL_SWITCHED,
    MoveResult.USER_TOOK_OVER: Event.TAKEN_OVER,
}
"""Maps the result of a move to its event. Any other result leads to the event `MOVE_FAILED`, after which the session is
checked again.
"""


class TrackedSessions:
    """All tracked sessions, that is, all sessions that may need an action."""

    def __init__(self) -> None:
        """Initialize the collection; no session is tracked yet."""
        self._tracked_sessions: dict[str, TrackedSession] = {}
        self._counted: dict[str, ModelRef] = {}
        self._origins: dict[str, Claim] = {}
        """Each session's last move from an earlier run, stored until the session is tracked."""
        self._resumes: dict[str, tuple[str | None, int]] = {}
        """The id of each session's prompt and the number of its reruns before the daemon's start, stored until the
        session is tracked.
        """

    def of(self, session: str, now: float) -> TrackedSession:
        """Return the session's record, and start tracking the session if necessary."""
        tracked = self._tracked_sessions.get(session)
        if tracked is None:
            tracked = self._tracked_sessions[session] = TrackedSession(
                session, counted=self._counted.pop(session, None)
            )
            claim = self._origins.pop(session, None)
            if claim is not None:
                tracked.recall_origin(claim)
            if session in self._resumes:
                tracked.recall_resumes(self._resumes.pop(session))
            self._make_room(tracked)
        tracked.touched = now
        return tracked

    def remember_origins(self, claims: Mapping[str, Claim]) -> None:
        """Store each session's last move from an earlier run until the session is tracked."""
        self._origins |= claims

    def remember_resumes(self, resumes: Mapping[str, tuple[str | None, int]]) -> None:
        """Store, until the session is tracked, the id of its prompt and the number of reruns of that prompt before the
        daemon's start.
        """
        self._resumes |= resumes

    def _make_room(self, newest: TrackedSession) -> None:
        """Stop tracking idle sessions beyond `MAX_TRACKED`, oldest first. During a burst of limits, the maximum can be
        exceeded, because no session may be idle for a while.
        """
        surplus = len(self._tracked_sessions) - MAX_TRACKED
        if surplus > 0:
            idle = [tracked for tracked in self._tracked_sessions.values() if tracked.idle and tracked is not newest]
            for tracked in sorted(idle, key=lambda tracked: tracked.touched)[:surplus]:
                del self._tracked_sessions[tracked.session]
                if tracked.counted is not None:
                    self.remember(tracked.session, tracked.counted)

    def remember(self, session: str, counted: ModelRef) -> None:
        """Record that a refused attempt of this session is already counted, so that a later report does not count it
        again.
        """
        tracked = self._tracked_sessions.get(session)
        if tracked is not None:
            tracked.count(counted)
            return
        self._counted[session] = counted
        if len(self._counted) > MAX_COUNTED:
            del self._counted[next(iter(self._counted))]

    def known(self, session: str) -> TrackedSession | None:
        """Return the session's record, or None if it is not tracked."""
        return self._tracked_sessions.get(session)

    def all(self) -> tuple[TrackedSession, ...]:
        """Return the records of all tracked sessions."""
        return tuple(self._tracked_sessions.values())

    def due(self, now: float) -> list[TrackedSession]:
        """Return the sessions whose next probe is due, ordered by its scheduled time."""
        due = [(at, tracked) for tracked in self._tracked_sessions.values() if (at := tracked.wake) is not None]
        return [tracked for at, tracked in sorted(due, key=lambda each: each[0]) if at <= now]

    def next_wake(self) -> float | None:
        """Return the time of the earliest scheduled probe (epoch seconds), or None if no probe is scheduled."""
        return min(
            (tracked.wake for tracked in self._tracked_sessions.values() if tracked.wake is not None), default=None
        )

    def clock_set(self, step: Step) -> None:
        """Adjust the recorded times of all sessions after a change of the system clock."""
        for tracked in self._tracked_sessions.values():
            tracked.clock_set(step)

    def forget_old(self, now: float) -> None:
        """Stop tracking sessions about which no message has arrived for `FORGET_AFTER` seconds."""
        for tracked in self.all():
            if now - tracked.touched > FORGET_AFTER and not tracked.moving and not tracked.parked:
                del self._tracked_sessions[tracked.session]


@dataclass(slots=True)
class EngineContext:
    """The state shared by all parts of the engine. When the configuration is edited, only `policy` and `rules` are
    replaced.
    """

    policy: Policy
    rules: RuleSet
    cooldowns: Cooldowns
    fill: Fill = field(default_factory=Fill)
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    """The capacities of models, as last reported by an endpoint."""
    known: Experiences = field(default_factory=dict)
    spent: float = 0.0
    """Amount spent today, in US dollars."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    resumes: bool = True
    """Whether the engine runs a turn again when the turn's own model is available again. It is False in `oc-smart`,
    which runs its turns again itself.
    """
    over_notified: bool = False
    """Whether the user was notified that today's budget is spent, possibly by an earlier run."""
    gaps: Mapping[str, float] = field(default_factory=dict)
    """The longest gap, in seconds, within the most recent successful answers of each model."""

    @property
    def day_budget(self) -> DayBudget:
        """Return today's budget and the amount spent so far."""
        return DayBudget(self.policy.budget, self.spent, self.prices)

    def configure(self, policy: Policy, rules: RuleSet) -> None:
        """Replace the policy and the rules with those of an edited configuration."""
        self.policy, self.rules = policy, rules

    def learn(self, known: Experiences) -> None:
        """Replace the recorded results of past moves."""
        self.known = known

    def offer(self, offers: Mapping[str, Capacity]) -> None:
        """Replace the known capacities of models."""
        self.offers = offers

    def spend(self, dollars: float, prices: Mapping[str, Price]) -> None:
        """Replace the amount spent today (US dollars) and the known prices of models."""
        self.spent, self.prices = dollars, prices

    def note_over(self, over: bool) -> None:
        """Record whether the user was notified that today's budget is spent."""
        self.over_notified = over

    def learn_gaps(self, gaps: Mapping[str, float]) -> None:
        """Replace the longest gaps in successful answers, in seconds, by model."""
        self.gaps = gaps

    def stall_after(self, model: str | None, generation: int = 1) -> float | None:
        """Return the number of seconds of silence after which an answer of this model counts as stalled, or None if
        stalls are not detected. `generation` is the generation of OpenCode.
        """
        stall = self.policy.stall
        if not stall.enabled or Cause.STALL not in self.policy.move_on or self.policy.mode is Mode.OFF:
            return None
        if stall.after is not None:
            return stall.after
        learned = learned_patience(self.gaps.get(model or ""))
        return min(learned, MAX_PATIENCE_2) if generation == 2 else learned

    def outlook(self, snapshot: SessionSnapshot | None, now: float) -> Outlook:
        """Return the information on which the choice of a fallback is based, for the session in the snapshot (None: for
        any session).
        """
        known = self.known if self.policy.order is TargetOrder.LEARNT else {}
        if snapshot is None:
            return Outlook("", self.fill.loads(now), offers=self.offers, known=known, day_budget=self.day_budget)
        return Outlook(snapshot.session, self.fill.loads(now), snapshot.needs, self.offers, known, self.day_budget)


if __name__ == "__main__":
    print(diagram())
