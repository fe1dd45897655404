"""The vocabulary: what a limit is, which model it hits and until when. Values only; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

REASON_CAP = 300
"""Characters of a provider's message that are ever stored or shown."""


class LimitKind(StrEnum):
    """Why a provider refuses. The kind decides how long a model rests when nobody says until when."""

    RATE_LIMIT = "rate_limit"  # requests or tokens per short window
    QUOTA = "quota"  # a plan's allowance per hours, day, week or month: until its reset
    OVERLOADED = "overloaded"  # the provider's own trouble: short
    BILLING = "billing"  # no credit: until a person acts


class Scope(StrEnum):
    """What rests: one model, all models of a provider, or a provider's free models."""

    MODEL = "model"
    PROVIDER = "provider"
    FREE_TIER = "free_tier"


class ToldBy(StrEnum):
    """Whence the end of a cooldown is known, best source first."""

    RETRY_AFTER = "retry-after"  # the header itself was seen
    STATUS = "status"  # OpenCode's own next attempt, as /session/status tells it
    TEXT = "text"  # words or fields of the error
    BACKOFF = "backoff"  # nobody said; the configured rest
    MANUAL = "manual"  # a person
    FORECAST = "forecast"


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """A model as OpenCode names it. The model part may hold slashes: `openrouter/qwen/qwen3-coder:free`."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `provider/model`.

        Raises:
            ValueError: without a slash, or with an empty side.
        """
        provider, slash, model = text.strip().partition("/")
        if not slash or not provider or not model:
            raise ValueError(f"not a model name of the form provider/model: {text!r}")
        return cls(provider, model)

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def whole_provider(self) -> ModelRef:
        """The wildcard key under which a whole provider is listed."""
        return ModelRef(self.provider, "*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a session is moved to: a model and, where the configuration names one, the agent that carries it.

    `pool`: the model was taken from this pool for want of a session; each session gets its own member of it.
    """

    model: ModelRef
    agent: str | None = None
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """What is known of one failed request. Never holds prompts or keys: request bodies are dropped where they are read.

    `headers` has lower-case names. `codes` are the machine words of the error body (`error.type`, `error.code`,
    `error.status`), outermost first, as they stand there. `body` is the response's text, capped.
    """

    message: str = ""
    name: str | None = None
    codes: tuple[str, ...] = ()
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    retryable: bool | None = None
    midstream: bool = False


@dataclass(frozen=True, slots=True)
class Hint:
    """What the provider told about the end of a limit: `until` in epoch seconds, `after` from the record's own time.

    `estimated` marks a date without a zone and the like; `tamed` says why the time differs from what was told.
    """

    until: float
    after: float
    told_by: ToldBy
    source: str
    estimated: bool = False
    tamed: str | None = None


class Certainty(StrEnum):
    """How far the words carry."""

    SURE = "sure"  # a limit
    DOUBTFUL = "doubtful"  # words of a limit where they may be quoted: another eye decides
    UNKNOWN = "unknown"  # no rule knows these words
    NO = "no"  # known to be something else


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of an error. `kind` and `scope` are set if `certainty` is SURE or DOUBTFUL."""

    certainty: Certainty
    kind: LimitKind | None = None
    scope: Scope | None = None
    rule: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class LimitEvent:
    """One refused attempt, as the log or another eye tells it.

    `provider`, `model`, `session`, `agent` and `small` are None where nobody can say: null beats a wrong name.
    `time` is epoch seconds of the record. `verdict.certainty` is SURE for a limit; DOUBTFUL and UNKNOWN events are
    kept for another eye and never block or move anything alone. `offset` is the record's first byte in `file`;
    `known_at` that of a later record, if only that one showed what this was.
    """

    time: float
    provider: str | None
    model: str | None
    session: str | None
    agent: str | None
    small: bool | None
    status: int | None
    verdict: Verdict
    hint: Hint | None
    reason: str
    file: str | None = None
    offset: int | None = None
    known_at: int | None = None

    @property
    def ref(self) -> ModelRef | None:
        """The limited model, if both halves of its name are known."""
        return ModelRef(self.provider, self.model) if self.provider and self.model else None
