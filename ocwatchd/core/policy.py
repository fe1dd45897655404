"""What a person configured, as plain values in seconds; `ocwatchd.config` fills it from the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.foresight import ForesightPolicy
from ocwatchd.core.limits import LimitKind, ModelRef
from ocwatchd.core.pools import Pool


class Mode(StrEnum):
    """What the daemon does about a limited session."""

    AUTO = "auto"  # wait or move, on its own
    ASK = "ask"  # say so; move on `ocwatch redirect`
    NOTIFY = "notify"  # only say so
    OFF = "off"  # only keep the register of cooldowns


class Order(StrEnum):
    """Which stand-in comes first."""

    CONFIGURED = "configured"  # as it is written
    LEARNT = "learnt"  # what has worked best so far


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long the same model is tried before moving. All times in seconds."""

    max_retries: int = 3
    base_delay: float = 1.0
    max_delay: float = 30.0
    jitter_range: float = 0.1


@dataclass(frozen=True, slots=True)
class RestPolicy:
    """How long a model rests when nobody said until when, in seconds; doubled with every strike, up to `maximum`."""

    rate_limit: float = 60.0
    overloaded: float = 30.0
    quota: float = 3600.0
    maximum: float = 21600.0

    def base(self, kind: LimitKind) -> float | None:
        """The first rest for this kind; None rests until a person acts."""
        return {
            LimitKind.RATE_LIMIT: self.rate_limit,
            LimitKind.OVERLOADED: self.overloaded,
            LimitKind.QUOTA: self.quota,
        }.get(kind)


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that the brain weighs. `chains` holds lists of names as written: models, or aliases from `aliases`,
    or names from `pools`; an alias may name a pool too.
    """

    retry: RetryPolicy = RetryPolicy()
    per_model: Mapping[str, RetryPolicy] = field(default_factory=dict)
    rests: RestPolicy = RestPolicy()
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    order: Order = Order.CONFIGURED
    wait: bool = True
    """False with `retry.enabled: false` or `retry.delegate_to_plugin: true`: never wait, move on the first limit."""
    mode: Mode = Mode.AUTO
    come_back: bool = True
    """Whether a moved session's prompts that name no model go to the first model again when that is free."""
    moves_per_hour: int = 20
    """Moves of one session within an hour before it is left alone: a backstop against loops nobody foresaw."""
    foresight: ForesightPolicy = field(default_factory=ForesightPolicy)
    budget: float | None = None
    """US dollars a day above which no paid target is chosen automatically; None: no budget."""

    def retry_for(self, model: ModelRef) -> RetryPolicy:
        """The retry settings of this model."""
        return self.per_model.get(str(model), self.retry)
