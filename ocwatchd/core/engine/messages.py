"""The engine's input messages and the effects that it returns. Effects are decisions, not actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.budget import Price
from ocwatchd.core.domain.capability import NOTHING, Capacity, Needs
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.moves import MoveOutcome, Order, ReturnResult
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot
from ocwatchd.core.domain.timeline import Step
from ocwatchd.core.domain.types import ErrorDetails, Hint, LimitEvent, ModelRef, Target
from ocwatchd.core.fallback.ranking import Experiences
from ocwatchd.core.forecast.prevention import Threat
from ocwatchd.core.policy import Policy

# ---- messages


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused attempt in the log. `live` is False for an old attempt, which may start a cooldown but never moves a
    session.

    `counted`: whether the blacklist already includes the attempt, because an earlier run of the daemon read this line.
    """

    event: LimitEvent
    live: bool
    counted: bool = False
    late: bool = False
    """Whether the limit is treated as old only because it was read late. The daemon was running when the line was
    written, but was stopped or overloaded.
    """


@dataclass(frozen=True, slots=True)
class Failure:
    """A refused attempt, or a failed turn, as reported by OpenCode's events and not yet classified.

    `number` is the event's position in the durable log of its session. `final`: whether OpenCode has given up and will
    not retry. `hint`: the reset time implied by OpenCode's wait before its next attempt, if that wait is not its own
    backoff.
    """

    session: str
    model: ModelRef | None
    agent: str | None
    time: float
    facts: ErrorDetails
    hint: Hint | None
    live: bool
    final: bool
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A query from OpenCode 2's `retry` hook about a refused attempt. It precedes every other report of that attempt.

    `number` identifies the query. `attempt` is the number of attempts so far, counted from 1. `delay` is the time, in
    seconds, after which OpenCode would retry; None if OpenCode would end the turn.
    """

    number: int
    failure: Failure
    attempt: int
    delay: float | None
    pid: int | None = None
    directory: str | None = None
    needs: Needs = NOTHING


@dataclass(frozen=True, slots=True)
class Acted:
    """The result of a decision: the hook has carried it out, has failed to do so (`why` is the reason), or the plugin
    has disconnected.
    """

    number: int
    done: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """The plugin's report on a move that it made: whether the fallback answers (`answers`), and the reason if it does
    not (`why`).
    """

    number: int
    answers: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A report from the log that a session was aborted, by a user or by ocwatchd."""

    session: str
    time: float
    exact: bool = False
    """Whether `time` is OpenCode's own timestamp, exact to the millisecond."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A report from the log that another program (`ocwatch redirect` or `oc-smart`) aborted a session in order to move
    it.
    """

    session: str


@dataclass(frozen=True, slots=True)
class TroubleReported:
    """A report from an endpoint's event stream or the companion plugin that a session is waiting for a retry or has
    failed.

    `time` is when the report arrived (epoch seconds), within moments of the failure. The plugin also reports the
    `model` (`provider/model`) and, in `facts`, the status and Retry-After, or a response with status 200 that is not an
    answer.
    """

    session: str
    time: float
    model: str | None = None
    facts: ErrorDetails | None = None


@dataclass(frozen=True, slots=True)
class AnsweredNothing:
    """An event stream's report that a session's turn receives one empty answer after another (`time`: epoch seconds).

    An error in the body of a response with status 200 has this effect. OpenCode neither logs nor stores such an error.
    """

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class FellSilent:
    """A report that a session's running answer has been silent, according to the event stream, for longer than is
    allowed for its model.
    """

    session: str


@dataclass(frozen=True, slots=True)
class GapsLearned:
    """The longest gap in each model's most recent successful answers, in seconds, by `provider/model`."""

    longest: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prevented:
    """A report from the companion plugin that it skipped fallbacks, because they cannot run the session of a prompt.
    `passed` contains these fallbacks and the reasons.

    `model` is the limited model. The prompt was sent to `target`, or to `model` if `target` is None. `time` is in epoch
    seconds.
    """

    session: str
    time: float
    model: str
    target: str | None
    passed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of a Probe. If the Probe named no session, the result contains every session that is waiting for its
    model or has failed.

    `parents` contains the sessions whose subagents are among these sessions. `endpoints` is the number of endpoints
    that responded; 0 means that ocwatchd cannot reach any OpenCode process. `failing` is the number of endpoints that
    exist but did not respond properly. `offers` contains the capacities of models, if an endpoint reported them.
    `more`: whether further results of the same Probe follow.
    """

    session: str | None
    model: ModelRef | None
    snapshots: tuple[SessionSnapshot, ...]
    endpoints: int
    parents: tuple[SessionSnapshot, ...] = ()
    offers: Mapping[str, Capacity] | None = None
    failing: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The result of a Move."""

    claim: str
    order: Order
    outcome: MoveOutcome


@dataclass(frozen=True, slots=True)
class SessionReturned:
    """The result of a ReturnSession effect."""

    session: str
    target: Target
    result: ReturnResult


@dataclass(frozen=True, slots=True)
class BlacklistChanged:
    """A change of the blacklist file by another program at the time `at` (epoch seconds). For example, a user has
    blocked a model or cleared a cooldown, or another machine shared a cooldown.
    """

    entries: tuple[Cooldown, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Configured:
    """An edit of the configuration by a user."""

    policy: Policy
    rules: RuleSet


@dataclass(frozen=True, slots=True)
class Used:
    """The load of the pools' members as measured at `at` (epoch seconds): the number of sessions by model."""

    loads: Mapping[str, float]
    models: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class ExperienceLearned:
    """The results of past moves, by target."""

    known: Experiences


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Limits that the next prompts would reach, by model, and models that are no longer close to a limit (`calm`)."""

    threats: Mapping[str, Threat]
    calm: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """The amount spent today (US dollars) and the prices of models."""

    dollars: float
    prices: Mapping[str, Price]


@dataclass(frozen=True, slots=True)
class Tick:
    """A message without content. When it arrives, the engine checks its deadlines."""


@dataclass(frozen=True, slots=True)
class ClockSet:
    """A step of the wall clock, ahead or back."""

    step: Step


Message = (
    Refused
    | Asked
    | Acted
    | Verified
    | Aborted
    | TakenOver
    | TroubleReported
    | AnsweredNothing
    | FellSilent
    | GapsLearned
    | Prevented
    | Probed
    | MoveEnded
    | SessionReturned
    | BlacklistChanged
    | Configured
    | Used
    | ExperienceLearned
    | Foreseen
    | Spent
    | ClockSet
    | Tick
)

# ---- effects


@dataclass(frozen=True, slots=True)
class SaveBlacklist:
    """Write these changes to the blacklist file. Changes that other programs made in the meantime remain."""

    changed: tuple[Cooldown, ...] = ()
    removed: tuple[ModelRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A refused attempt that was read from an endpoint and has been recorded. It is saved with the blacklist, so that
    it is not counted again.

    `message` and `attempt` distinguish the refused attempt from others, and `time` (epoch seconds) distinguishes it
    from later log lines.
    """

    session: str
    model: ModelRef
    message: str | None
    attempt: int
    time: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Query the endpoints about one session or, if `session` is None, about every session that is waiting for `model`
    or has failed on it.
    """

    session: str | None
    model: ModelRef | None


@dataclass(frozen=True, slots=True)
class Move:
    """Run the session's last user message again on the target. The claim is in the journal before the move is made."""

    claim: str
    order: Order


class WhatNext(StrEnum):
    """The decision about a refused attempt."""

    UNTOUCHED = "untouched"  # OpenCode's own decision is not changed
    MOVE = "move"  # the session's model is switched, and the step continues immediately
    HOLD = "hold"  # the plugin holds the attempt until the next decision
    RETRY = "retry"  # the step continues immediately on its own model


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to the query with this number. A HOLD is followed by a second response."""

    number: int
    verdict: WhatNext
    target: Target | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Remember:
    """Record that a session was moved from `origin` to `target`, so that it can be returned later. If both are None,
    the session has returned.
    """

    session: str
    origin: Target | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class ReturnSession:
    """Switch a session that ocwatchd moved to `target` back to `origin`, unless the user has chosen another model in
    the meantime.
    """

    session: str
    origin: Target
    target: Target


@dataclass(frozen=True, slots=True)
class Free:
    """Stop a limited subagent, so that the session waiting for it continues without its answer."""

    snapshot: SessionSnapshot


@dataclass(frozen=True, slots=True)
class Notify:
    """A notice to the user: a desktop notification, and a toast if an endpoint is known. Only one notice per `matter`
    is shown.

    `at` is a time (epoch seconds) that the renderer adds to the text.
    """

    matter: str
    title: str
    text: str
    session: str | None = None
    endpoint: Endpoint | None = None
    directory: str | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the journal and for standard error. A `durable` line is on disk before the next effect is executed."""

    what: str
    fields: dict[str, object] = field(default_factory=dict)
    durable: bool = False


Effect = SaveBlacklist | Shown | Probe | Move | Answer | Remember | ReturnSession | Free | Notify | Note
