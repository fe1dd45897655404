"""The user's settings as values, which `ocwatchd.config` reads from the file. All times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.domain.chains import Fallbacks
from ocwatchd.core.domain.cooldowns import CooldownPolicy
from ocwatchd.core.domain.pools import Pool
from ocwatchd.core.domain.types import Cause, ModelRef

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    # for type checkers only, because importing it takes 10 ms of CPU time
    from ocwatchd.core.forecast.model import Bound


class Mode(StrEnum):
    """How the daemon reacts to a limited session."""

    AUTO = "auto"  # choose automatically between waiting and moving
    ASK = "ask"  # report the limit; move when the user runs `ocwatch redirect`
    NOTIFY = "notify"  # only report the limit
    OFF = "off"  # only maintain the blacklist


class WhenExhausted(StrEnum):
    """What happens to a turn that waits because every model is limited, once the first model is available again."""

    WAIT = "wait"  # the turn is run again
    NOTIFY = "notify"  # the user is notified


class Order(StrEnum):
    """The order in which fallbacks are considered."""

    CONFIGURED = "configured"  # in the order in which they are configured
    LEARNT = "learnt"  # in order of past success


REPEATED = (Cause.SERVER_ERROR, Cause.NOT_FOUND, Cause.AUTH)
"""The causes that are neither a limit nor a stall. A turn is moved only if such a failure occurs again."""
SAME_FIRST = 1
"""Number of times the same model is tried again after a failure with one of the causes in `REPEATED`."""


@dataclass(frozen=True, slots=True)
class StallPolicy:
    """When a silent stream counts as stalled, and how many times the same model is then tried again."""

    enabled: bool = True
    after: float | None = None
    """Time, in seconds, without an event after which an answer counts as stalled. None: use a time that is learned for
    each model.
    """
    retry_same: int = 1
    """Number of times a stalled turn is run again on its own model before it is moved."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long the same model is tried before a turn is moved. All times are in seconds."""

    max_retries: int = 3
    base_delay: float = 1.0
    max_delay: float = 30.0
    jitter_range: float = 0.1
    max_wait: float = 5.0
    """Maximum time that a turn may spend in OpenCode's own retries if no reset time is known."""


@dataclass(frozen=True, slots=True)
class PreventionPolicy:
    """Whether and when new prompts are moved before a limit is reached, and the limits that a user configured.

    New prompts are moved `ahead` seconds before an expected limit. If `leave_at` percent of a plan window is used, new
    prompts avoid the plan's models. If it is None, plan windows are only shown. `command` is a program, with its
    arguments, that reports plan windows. It is empty if there is no such program.
    """

    prevent: bool = False
    ahead: float = 120.0
    limits: Mapping[str, tuple[Bound, ...]] = field(default_factory=dict)
    leave_at: float | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """All settings that the engine uses.

    `chains` contains the names as they are written in the configuration: models, aliases from `aliases`, or pools from
    `pools`. An alias may name a pool.
    """

    retry: RetryPolicy = RetryPolicy()
    per_model: Mapping[str, RetryPolicy] = field(default_factory=dict)
    cooldowns: CooldownPolicy = field(default_factory=CooldownPolicy)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    order: Order = Order.CONFIGURED
    wait: bool = True
    """Whether a turn may wait for OpenCode's own retry. If False, a turn is moved at its first limit. It is False if
    `retry.enabled` is false or `retry.delegate_to_plugin` is true.
    """
    mode: Mode = Mode.AUTO
    when_exhausted: WhenExhausted = WhenExhausted.WAIT
    max_resumes: int = 5
    """Maximum number of times that one prompt is run again after waiting for a model. The default covers about a day if
    each wait lasts for a usage window of five hours.
    """
    return_to_primary: bool = True
    """Whether a moved session returns to the primary when the primary is available again. This affects only prompts
    that name no model.
    """
    moves_per_hour: int = 20
    """Maximum number of moves of one session within an hour, as a backstop against unforeseen loops."""
    prevention: PreventionPolicy = field(default_factory=PreventionPolicy)
    stall: StallPolicy = field(default_factory=StallPolicy)
    move_on: frozenset[Cause] = frozenset((Cause.LIMIT, Cause.OVERLOAD, Cause.STALL))
    """The causes of failure for which a turn is moved."""
    same_first: Mapping[Cause, int] = field(default_factory=lambda: dict.fromkeys(REPEATED, SAME_FIRST))
    """Number of times the same model is tried again before a turn is moved for one of these causes."""
    budget: float | None = None
    """Amount, in US dollars per day, above which no paid fallback is chosen automatically; None if there is no
    budget.
    """
    fallbacks: Fallbacks = field(init=False, repr=False, compare=False)
    """The chains and agents with aliases resolved, computed once because a choice is made for every refused attempt."""

    def __post_init__(self) -> None:
        """Resolve aliases and pools in the configured chains and agents."""
        object.__setattr__(self, "fallbacks", Fallbacks(self.chains, self.aliases, self.agents, self.pools))

    def retry_for(self, model: ModelRef) -> RetryPolicy:
        """Return the retry settings of this model."""
        return self.per_model.get(str(model), self.retry)
