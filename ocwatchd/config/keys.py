"""Every key of rate-limit-config.json, once: what it may hold, its unit, its default, what it means.

The reader, the warnings, `config show`, the JSON Schema and the table in docs/configuration.md all come from `KEYS`.
Defaults are those of the values that the keys fill (`core.policy`), in the units of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ocwatchd.config.model import LOOK_BACK, LOOK_BACK_BYTES
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, POOLS
from ocwatchd.config.pools import MEMBERS, STRATEGY, WEIGHTS
from ocwatchd.core.foresight import ForesightPolicy
from ocwatchd.core.policy import Mode, Order, Policy, RestPolicy, RetryPolicy
from ocwatchd.core.pools import LEAST_USED, STRATEGIES

LARGEST = 10**15
"""No setting is that large; a longer number is a slip, and would overflow somewhere later."""

PER_MODEL = "perModel"
FORECAST, LIMITS = "forecast", "limits"
TOKENS, REQUESTS, LIMIT_WINDOW = "tokens", "requests", "window"


class Kind(Enum):
    """What a key may hold, in words for a person."""

    SECTION = "object"
    FLAG = "true or false"
    NUMBER = "number"
    WHOLE = "whole number"
    CHOICE = "one of"
    TEXT = "text"
    TEXTS = "list of texts"
    CHAINS = "model: model or list of models"
    ALIASES = "name: model"
    AGENTS = "model: agent"
    PER_MODEL = "model: object"
    LIMITS = "model: object or list of objects"
    POOLS = "name: object"
    MODELS = "list of models"
    WEIGHTS = "model: number"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `pattern` (of Python and of ECMAScript alike) holds for its text or each of its texts, and `wanted` says
    what would be right; `most` is the largest number, `inner` the keys of a section or of each model.
    """

    name: str
    kind: Kind
    about: str
    default: object = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    wanted: str = ""
    most: int | None = None
    inner: tuple[Key, ...] = ()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _section(name: str, about: str, *inner: Key) -> Key:
    return Key(name, Kind.SECTION, about, inner=inner)


_RETRY, _RESTS, _POLICY = RetryPolicy(), RestPolicy(), Policy()

RETRY_KEYS = (
    Key("maxRetries", Kind.WHOLE, "How often a turn is left to OpenCode's own retry before it is moved.",
        _RETRY.max_retries),
    Key("baseDelay", Kind.NUMBER, "The launcher's own backoff begins with this and doubles.",
        _ms(_RETRY.base_delay), "milliseconds"),
    Key("maxDelay", Kind.NUMBER, "A known wait up to this is left to OpenCode's own retry; a longer one moves at once.",
        _ms(_RETRY.max_delay), "milliseconds"),
    Key("jitterRange", Kind.NUMBER, "How far the launcher's backoff is spread: 0.1 is ten per cent either way.",
        _RETRY.jitter_range, most=1),
)  # fmt: skip

POOL_KEYS = (
    Key(MEMBERS, Kind.MODELS, "The equal models; the first one speaks for the pool inside OpenCode: new sessions that "
        "are started on it are spread."),
    Key(STRATEGY, Kind.CHOICE, "least-used: new sessions go where the fewest tokens were used within the hour. "
        "round-robin: where the fewest sessions are. first-healthy: all to the first that is free.", LEAST_USED,
        choices=STRATEGIES),
    Key(WEIGHTS, Kind.WEIGHTS, "How much of the load a member is to have; 1 where nothing is said.", {}),
)  # fmt: skip

LIMIT_KEYS = (
    Key(TOKENS, Kind.NUMBER, "So many tokens, what is read from the provider's cache not counted."),
    Key(REQUESTS, Kind.NUMBER, "So many requests."),
    Key(LIMIT_WINDOW, Kind.NUMBER, "Within so long, at any moment.", unit="milliseconds"),
)  # fmt: skip

_FORESIGHT = ForesightPolicy()

KEYS = (
    Key(CHAIN, Kind.CHAINS, "What stands in for a limited model, nearest first; followed through (A to B to C). "
        "`provider/*` is any model of a provider, `*` any other model.", {}),
    Key(ALIASES, Kind.ALIASES, "Names of your own for models, usable wherever a model is named.", {}),
    Key(AGENTS, Kind.AGENTS, "The agent that carries a model; without one the session keeps its own.", {}),
    Key(POOLS, Kind.POOLS, "Names for several equal models, such as accounts of one provider, usable wherever a model "
        "is named. Each session gets one member and stays with it.", {}, inner=POOL_KEYS),
    Key("order", Kind.CHOICE, "Which stand-in of a chain, or of a first-healthy pool, comes first. configured: as "
        "written. learnt: what has worked best so far, by the history.", _POLICY.order.value,
        choices=tuple(order.value for order in Order)),
    *RETRY_KEYS,
    Key(PER_MODEL, Kind.PER_MODEL, "Other values of these four for single models.", {}, inner=RETRY_KEYS),
    _section(
        "retry", "Whether OpenCode's own retry is waited for.",
        Key("enabled", Kind.FLAG, "false: never wait, move on the first limit.", True),
        Key("delegate_to_plugin", Kind.FLAG, "true: never wait for OpenCode's own retry, move on the first limit.",
            False),
    ),
    _section(
        "cooldown", "How long a model rests when nobody said until when; doubled with every strike.",
        Key("rate_limit", Kind.NUMBER, "After a limit of requests or tokens.", _ms(_RESTS.rate_limit), "milliseconds"),
        Key("overloaded", Kind.NUMBER, "After trouble of the provider's.", _ms(_RESTS.overloaded), "milliseconds"),
        Key("quota", Kind.NUMBER, "After a plan's allowance is used up.", _ms(_RESTS.quota), "milliseconds"),
        Key("maximum", Kind.NUMBER, "No such rest is longer.", _ms(_RESTS.maximum), "milliseconds"),
    ),
    Key("errorPatterns", Kind.TEXTS, "Words that mean a limit, besides the built-in rules; a number is a status.", [],
        pattern=r"\S", wanted="a text in quotes"),
    Key("mode", Kind.CHOICE, "auto: wait or move. ask: offer it, move on `ocwatch redirect`. notify: only say so. "
        "off: only keep the register.", _POLICY.mode.value, choices=tuple(mode.value for mode in Mode)),
    Key("movesPerHour", Kind.WHOLE, "Moves of one session within an hour before it is left alone.",
        _POLICY.moves_per_hour),
    Key("comeBack", Kind.FLAG, "Whether a moved session's prompts go to its first model again when that is free.",
        _POLICY.come_back),
    _section(
        FORECAST, "Limits that are about to be reached.",
        Key("prevent", Kind.FLAG, "Whether new prompts are moved before a limit that is known (from headers, from "
            "`limits`, or learnt); a running turn never is.", _FORESIGHT.prevent),
        Key("ahead", Kind.NUMBER, "A limit that is reached within this at the present pace is about to be reached.",
            _ms(_FORESIGHT.ahead), "milliseconds"),
        Key(LIMITS, Kind.LIMITS, "Limits that you know: `tokens` or `requests` (or both) within `window`.", {},
            inner=LIMIT_KEYS),
    ),
    Key("budget", Kind.NUMBER, "Spent so much in a day (local time, by OpenCode's own prices), no paid model is chosen "
        "as a stand-in any more; a person may still name one.", unit="US dollars"),
    _section(
        "logs", "What is read besides OpenCode's own log directory, and how far back.",
        Key("directories", Kind.TEXTS, "Further log directories.", [], pattern=r"^(/|~/|~$)[^\u0000]*$",
            wanted="an absolute path, or one that begins with ~/"),
        Key("lookBackBytes", Kind.WHOLE, "How much of the end of a log is read at the first start.", LOOK_BACK_BYTES,
            "bytes"),
        Key("lookBackHours", Kind.NUMBER, "Logs that were last written longer ago are not read at the first start.",
            round(LOOK_BACK / 3600), "hours"),
    ),
    # Prompts and passwords would go there: another machine is never ours to talk to.
    Key("doors", Kind.TEXTS, "OpenCode servers on this machine to try besides those that are found.", [],
        pattern=r"^http://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):[0-9]{1,5}/?$(?!\n)", wanted="http://127.0.0.1:PORT"),
    _section(
        "notifications", "How you are told; each matter once.",
        Key("desktop", Kind.FLAG, "Desktop notices (`notify-send`, macOS's own).", True),
        Key("toast", Kind.FLAG, "Toasts in OpenCode.", True),
        Key("command", Kind.TEXTS, "A program and its arguments to run, with the notice as JSON on standard input.", [],
            pattern=r"^[^\u0000]*$(?!\n)", wanted="a program or an argument in quotes"),
        Key("quietHours", Kind.TEXT, "When desktop and command are silent, local time: `22:00-07:30`.",
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)",
            wanted='two times of the day: "22:00-07:30"'),
    ),
    _section(
        "launcher", "Of `oc-smart`.",
        Key("opencode", Kind.TEXT, "The OpenCode to start; else the first on PATH.", pattern=r"\S",
            wanted="a path or a program's name in quotes"),
    ),
)  # fmt: skip


def settings(keys: tuple[Key, ...] = KEYS, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Key]]:
    """Every key that holds a value, with the names that lead to it inside `rateLimit`."""
    for key in keys:
        path = (*above, key.name)
        if key.kind is Kind.SECTION:
            yield from settings(key.inner, path)
        else:
            yield path, key
