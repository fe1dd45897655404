"""What goes into the engine, and the effects that come out: a list of effects is a decision, not a deed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ocwatchd.core.capability import Capacity
from ocwatchd.core.experience import Experiences
from ocwatchd.core.foresight import Threat
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ErrorFacts, LimitEvent, ModelRef, Target
from ocwatchd.core.money import Price
from ocwatchd.core.moves import MoveOutcome, Order
from ocwatchd.core.policy import Policy
from ocwatchd.core.rules import RuleSet
from ocwatchd.core.views import Door, SessionView

# ---- messages


@dataclass(frozen=True, slots=True)
class Refused:
    """The log tells of a refused attempt. `live` is False for old news: it may block a model, never move a session.

    `counted`: the register holds it already, because an earlier life has read this line.
    """

    event: LimitEvent
    live: bool
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Aborted:
    """The log tells that a session was aborted, by a person or by us."""

    session: str
    time: float


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The log tells that a session was aborted, by a move that was not the daemon's: `ocwatch redirect`, `oc-smart`."""

    session: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A session is in retry or has failed, as a door's event stream tells, or the companion plugin.

    `time` is when that was heard (epoch seconds), within moments of the failure. The plugin also tells of which `model`
    (`provider/model`) and, in `facts`, status and Retry-After.
    """

    session: str
    time: float
    model: str | None = None
    facts: ErrorFacts | None = None


@dataclass(frozen=True, slots=True)
class Prevented:
    """The companion plugin has passed over stand-ins that could not take a prompt's session: `passed`, each with why.

    `model` is limited; the prompt went to `target`, or stayed where it was (None). `time` in epoch seconds.
    """

    session: str
    time: float
    model: str
    target: str | None
    passed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The answer to a LookUp. Without a session that was asked for, `views` holds every session in trouble.

    `parents` holds the sessions that wait for a subagent in `views`. `doors` counts the doors that answered: 0 means
    that nobody can be asked. `failing` counts doors that are there and did not answer as they should. `offers`: what
    models can take, if a door told.
    """

    session: str | None
    model: ModelRef | None
    views: tuple[SessionView, ...]
    doors: int
    parents: tuple[SessionView, ...] = ()
    offers: Mapping[str, Capacity] | None = None
    failing: int = 0


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The answer to a Move."""

    claim: str
    order: Order
    outcome: MoveOutcome


@dataclass(frozen=True, slots=True)
class RegisterChanged:
    """Somebody else wrote the blacklist file, `at` that time (epoch seconds): a person blocked or cleared a model."""

    entries: tuple[Cooldown, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Configured:
    """A person edited the configuration."""

    policy: Policy
    rules: RuleSet


@dataclass(frozen=True, slots=True)
class Used:
    """How full the pools' members are: sessions' worth by model, as measured at `at` (epoch seconds)."""

    loads: Mapping[str, float]
    models: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Learnt:
    """How moves went so far, by target."""

    known: Experiences


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Limits that the next prompts would meet, by model; and models that are far enough from theirs again."""

    threats: Mapping[str, Threat]
    calm: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent today (US dollars), and what models cost."""

    dollars: float
    prices: Mapping[str, Price]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Message = (
    Refused
    | Aborted
    | TakenOver
    | Heard
    | Prevented
    | Surveyed
    | MoveEnded
    | RegisterChanged
    | Configured
    | Used
    | Learnt
    | Foreseen
    | Spent
    | Tick
)

# ---- effects


@dataclass(frozen=True, slots=True)
class SaveRegister:
    """Write these changes to the blacklist file; what others wrote there meanwhile stays."""

    changed: tuple[Cooldown, ...] = ()
    removed: tuple[ModelRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A door showed this refusal, and it is entered: what is saved with the register, so that nothing counts it again.

    `message` and `attempt` tell it from another, `time` (epoch seconds) from what the log tells later.
    """

    session: str
    model: ModelRef
    message: str | None
    attempt: int
    time: float


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the doors: for one session, or (None) for every session that is in trouble with `model`."""

    session: str | None
    model: ModelRef | None


@dataclass(frozen=True, slots=True)
class Move:
    """Re-run the session's last user message on the target. Claimed in the journal by this name before it is made."""

    claim: str
    order: Order


@dataclass(frozen=True, slots=True)
class Remember:
    """A session was moved from `origin` to `target`, to be given back later; both None: it is back."""

    session: str
    origin: Target | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Stop a limited subagent, so that the session that waits for it goes on without its answer."""

    view: SessionView


@dataclass(frozen=True, slots=True)
class Tell:
    """One notice to the person: desktop, and a toast where a door is known. `matter` is told once.

    `at` is a moment to name in the text, epoch seconds: how it is worded is the renderer's affair.
    """

    matter: str
    title: str
    text: str
    session: str | None = None
    door: Door | None = None
    directory: str | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the journal and for standard error. `durable` ones are on disk before the next effect is begun."""

    what: str
    fields: dict[str, object] = field(default_factory=dict)
    durable: bool = False


Effect = SaveRegister | Shown | LookUp | Move | Remember | Free | Tell | Note
