"""The basic value types for models, limits and reset times. They use neither I/O nor a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.domain.names import NAME_CAP, is_name


class LimitKind(StrEnum):
    """Why a provider refuses requests. The kind decides how long a model cools down when no reset time is known."""

    RATE_LIMIT = "rate_limit"  # too many requests or tokens within a short window
    QUOTA = "quota"  # the allowance of a plan (for some hours, a day, a week or a month) is exhausted until it resets
    OVERLOADED = "overloaded"  # a short outage of the provider
    BILLING = "billing"  # no credit is left; the limit lasts until the user acts


class Scope(StrEnum):
    """What a limit applies to: one model, all models of a provider, or a provider's free models."""

    MODEL = "model"
    PROVIDER = "provider"
    FREE_TIER = "free_tier"


class Cause(StrEnum):
    """Why a turn may be moved; the values are those that the setting `moveOn` accepts."""

    LIMIT = "limit"
    OVERLOAD = "overload"
    SERVER_ERROR = "server-error"  # a status of 500 to 599, or no connection at all
    NOT_FOUND = "not-found"  # the provider does not offer the model
    AUTH = "auth"  # the provider rejects the credentials
    STALL = "stall"  # the answer never begins, stops in the middle, or is repeatedly cut off


class ResetSource(StrEnum):
    """The source of a cooldown's reset time; the best source comes first."""

    RETRY_AFTER = "retry-after"  # the reset time comes from a response header
    STATUS = "status"  # OpenCode's own next attempt, as reported by /session/status
    TEXT = "text"  # the reset time was found in the error's text or fields
    ESTIMATE = "estimate"  # no reset time was reported, so the configured cooldown applies
    MANUAL = "manual"  # a user set the reset time
    FORECAST = "forecast"  # no limit has been hit yet, but usage suggests that a limit is near
    SHARED = "shared"  # another machine hit and reported the limit


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """A model as OpenCode names it. The model part may contain slashes: `openrouter/qwen/qwen3-coder:free`."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse `provider/model`; surrounding spaces are dropped.

        Raises:
            ValueError: The text is not a model name (see `core.domain.names.is_name`).
        """
        name = text.strip()
        if not is_name(name):
            raise ValueError(f"not a model name of the form provider/model: {text[:NAME_CAP]!r}")
        provider, _, model = name.partition("/")
        return cls(provider, model)

    @classmethod
    def of(cls, provider: object, model: object) -> ModelRef | None:
        """Return the model with this provider and name, as found in a log or in a response from OpenCode.

        Return None if they do not form a valid name. A model called `*` is refused because it would mean its whole
        provider.
        """
        if not isinstance(provider, str) or not isinstance(model, str) or "/" in provider or model == "*":
            return None
        return cls(provider, model) if is_name(f"{provider}/{model}") else None

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def whole_provider(self) -> ModelRef:
        """The wildcard key under which a whole provider is listed."""
        return ModelRef(self.provider, "*")


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a move: a model and, if the configuration names one, the agent to use with the model.

    `pool` is the pool from which the model was taken, if the target is not for a particular session; each session uses
    its own member of that pool.
    """

    model: ModelRef
    agent: str | None = None
    pool: str | None = None


WEB_PAGE = "WebPage"
"""Value of `ErrorDetails.name` if a web page arrived instead of a provider's answer, for example from a captive portal.
"""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The known details of one failed request. They never contain prompts or keys, because request bodies are discarded
    when the error is read.

    `headers` has lower-case names. `codes` are the machine-readable codes in the error body (`error.type`,
    `error.code`, `error.status`), outermost first, unchanged. `body` is the response's text, truncated if it is long.
    `status_read`: whether the status was found in the text. If so, it might not be the status of this response, because
    the text may quote another service.
    """

    message: str = ""
    name: str | None = None
    codes: tuple[str, ...] = ()
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    retryable: bool | None = None
    midstream: bool = False
    status_read: bool = False
    typed: LimitKind | None = None
    """The kind that OpenCode itself assigned to the error. It is often wrong, so it is used only if no rule matches."""


@dataclass(frozen=True, slots=True)
class Hint:
    """The reset time reported by the provider: `until` in epoch seconds, `after` in seconds from the record's
    timestamp.

    `estimated` marks an inexact time, such as a date without a time zone; `tamed` is the reason that the time differs
    from the reported one.
    """

    until: float
    after: float
    reset_source: ResetSource
    source: str
    estimated: bool = False
    tamed: str | None = None


class Certainty(StrEnum):
    """How certain it is that a text reports a limit."""

    SURE = "sure"  # the text reports a limit
    DOUBTFUL = "doubtful"  # the text may only quote a limit, so a second source decides
    UNKNOWN = "unknown"  # no rule matches
    NO = "no"  # the text reports a known problem other than a limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of applying the rules to an error. `kind` and `scope` are set if `certainty` is SURE or DOUBTFUL."""

    certainty: Certainty
    kind: LimitKind | None = None
    scope: Scope | None = None
    rule: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class LimitEvent:
    """One refused attempt, as found in the log or reported by another source.

    `provider`, `model`, `session`, `agent` and `small` are None if unknown, because a missing name is better than a
    wrong one. `time` is the record's timestamp, in epoch seconds. `verdict.certainty` is SURE for a limit; DOUBTFUL and
    UNKNOWN events are kept until a second source confirms or refutes them, and never cause a cooldown or a move on
    their own. `offset` is the record's first byte in `file`; `known_at` is the first byte of a later record, if that
    record was needed to recognize the limit.
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
        """The limited model, if its provider and its name are known and form a valid model name."""
        return ModelRef.of(self.provider, self.model)
