"""The table of all keys of rate-limit-config.json. It contains the valid values, the unit, the default and the meaning
of each key.

The reader, the warnings, `config show`, the JSON Schema and the table in docs/configuration.md are all derived from
`KEYS`. The defaults come from the classes that the keys fill (`core.policy`), converted to the units of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ocwatchd.config.model import LOOK_BACK, LOOK_BACK_BYTES
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, POOLS
from ocwatchd.config.pool_settings import MEMBERS, STRATEGY, WEIGHTS
from ocwatchd.core.domain.cooldowns import CooldownPolicy
from ocwatchd.core.domain.pools import LEAST_USED, STRATEGIES
from ocwatchd.core.domain.types import Cause
from ocwatchd.core.policy import (
    SAME_FIRST,
    Mode,
    Order,
    Policy,
    PreventionPolicy,
    RetryPolicy,
    StallPolicy,
    WhenExhausted,
)

LARGEST = 10**15
"""Maximum value of every number in the configuration. A larger number is a typo, and would cause an overflow later."""

PER_MODEL = "perModel"
FORECAST, LIMITS = "forecast", "limits"
SHARE = "share"
AUTO = "auto"
TOKENS, REQUESTS, LIMIT_WINDOW = "tokens", "requests", "window"


class Kind(Enum):
    """The type of a key's value. The text of each member is shown to users."""

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
    ACCOUNTS = "provider: account"
    CHOICES = "list of"
    PATIENCE = '`"auto"`, false or number'


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration.

    `about` is its help text. `pattern` (valid in Python and ECMAScript) must match the text, or each text in a list,
    and `wanted` describes a valid text. `least` and `most` are the minimum and maximum of a number. `inner` contains
    the keys of a section or of each model. `formerly` is an earlier name of the key; it is still accepted, with a
    warning. If `shown` is set, a bug report contains the key's text, redacted. The texts of other keys are omitted.
    """

    name: str
    kind: Kind
    about: str
    default: object = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    wanted: str = ""
    least: int = 0
    most: int | None = None
    inner: tuple[Key, ...] = ()
    formerly: str = ""
    shown: bool = False


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _section(name: str, about: str, *inner: Key) -> Key:
    return Key(name, Kind.SECTION, about, inner=inner)


_RETRY, _COOLDOWNS, _STALL, _POLICY = RetryPolicy(), CooldownPolicy(), StallPolicy(), Policy()

_LABEL = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}"
_LOCAL = r"127(\.[0-9]{1,3}){3}|localhost|\[::1\]"
# Account names and the times of limits must not cross a network unencrypted. Without TLS, the server must therefore be
# local.
_URL = (
    r"^((valkeys|rediss)://([A-Za-z0-9._~-]+@)?([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?"
    rf"|(valkey|redis)://([A-Za-z0-9._~-]+@)?({_LOCAL})(:[0-9]{{1,5}})?/?"
    r"|unix://([A-Za-z0-9._~-]+@)?/[^?#\u0000]+)$(?!\n)"
)

RETRY_KEYS = (
    Key("maxRetries", Kind.WHOLE, "Number of OpenCode's own retries before a turn is moved.",
        _RETRY.max_retries),
    Key("baseDelay", Kind.NUMBER, "The launcher's first wait between its own attempts; the wait doubles each time.",
        _ms(_RETRY.base_delay), "milliseconds"),
    Key("maxDelay", Kind.NUMBER, "Maximum time to wait for OpenCode's own retry, if the time of the retry is known. If "
        "the wait would be longer, the session is moved immediately.",
        _ms(_RETRY.max_delay), "milliseconds"),
    Key("maxWait", Kind.NUMBER, "Maximum total time for OpenCode's own retries of a turn if no reset time is known.",
        _ms(_RETRY.max_wait), "milliseconds"),
    Key("jitterRange", Kind.NUMBER, "Random variation of the launcher's waits: 0.1 means up to 10 % more or less.",
        _RETRY.jitter_range, most=1),
)  # fmt: skip

POOL_KEYS = (
    Key(MEMBERS, Kind.MODELS, "The equal models. Inside OpenCode, the first one represents the pool: new sessions that "
        "start on it are distributed over all members."),
    Key(STRATEGY, Kind.CHOICE, "Which member gets a new session. least-used: the member with the fewest tokens used in "
        "the last hour. round-robin: the member with the fewest sessions. first-healthy: the first available member.",
        LEAST_USED, choices=STRATEGIES),
    Key(WEIGHTS, Kind.WEIGHTS, "A member's share of the load, relative to the others. The default for a member is 1.",
        {}),
)  # fmt: skip

LIMIT_KEYS = (
    Key(TOKENS, Kind.NUMBER, "Number of tokens, excluding those read from the provider's cache."),
    Key(REQUESTS, Kind.NUMBER, "Number of requests."),
    Key(LIMIT_WINDOW, Kind.NUMBER, "Length of the sliding window.", unit="milliseconds"),
)  # fmt: skip

_FORESIGHT = PreventionPolicy()

KEYS = (
    Key(CHAIN, Kind.CHAINS, "The fallbacks of a model, in the order in which they are tried. A fallback's own "
        "fallbacks follow it (A to B to C). `provider/*` means any model of a provider, `*` any other model. "
        "`agent:NAME` and `agent:NAME@provider/model` are chains for the sessions of one agent, including those in "
        "which it is a subagent; they are tried before the model's own chain.", {}),
    Key(ALIASES, Kind.ALIASES, "Your own names for models. You can use them wherever a model is expected.", {}),
    Key(AGENTS, Kind.AGENTS, "The agent to use with a model. Without an entry, the session keeps its agent.", {}),
    Key(POOLS, Kind.POOLS, "Names for several equal models, such as accounts at one provider. You can use them "
        "wherever a model is expected. Each session gets one member and keeps it.", {}, inner=POOL_KEYS),
    Key("order", Kind.CHOICE, "The order in which the fallbacks of a chain, or the members of a first-healthy pool, "
        "are tried. configured: as written. learnt: those that have worked best so far come first.",
        _POLICY.order.value, choices=tuple(order.value for order in Order)),
    *RETRY_KEYS,
    Key(PER_MODEL, Kind.PER_MODEL, "Values of `maxRetries`, `baseDelay`, `maxDelay`, `maxWait` and `jitterRange` for "
        "individual models.", {}, inner=RETRY_KEYS),
    _section(
        "retry", "Whether to wait for OpenCode's own retry.",
        Key("enabled", Kind.FLAG, "Whether to wait for OpenCode's own retry. false: move at the first limit.", True),
        Key("delegate_to_plugin", Kind.FLAG, "true has the same effect as `enabled: false`: move at the first limit.",
            False),
    ),
    _section(
        "cooldown", "How long a model cools down if no reset time is known. The time doubles with every strike.",
        Key("rate_limit", Kind.NUMBER, "First cooldown after a limit on requests or tokens.",
            _ms(_COOLDOWNS.rate_limit), "milliseconds"),
        Key("overloaded", Kind.NUMBER, "First cooldown when the provider is overloaded.", _ms(_COOLDOWNS.overloaded),
            "milliseconds"),
        Key("quota", Kind.NUMBER, "First cooldown after a plan's allowance is used up.", _ms(_COOLDOWNS.quota),
            "milliseconds"),
        Key("maximum", Kind.NUMBER, "Maximum cooldown if no reset time is known.", _ms(_COOLDOWNS.maximum),
            "milliseconds"),
    ),
    _section(
        "stall", "What to do about answers that stop in the middle or never begin.",
        Key("after", Kind.PATIENCE, "How long a model may send nothing before its answer counts as stalled. auto: four "
            "times the longest gap in its earlier complete answers, between 1 and 15 minutes; 5 minutes if there are "
            "none. false: never.", AUTO, "milliseconds"),
        Key("retrySame", Kind.WHOLE, "Number of times a stalled turn is run again on the same model before it is "
            "moved.",
            _STALL.retry_same),
    ),
    Key("moveOn", Kind.CHOICES, "The causes for which a turn is moved. limit, overload: the model is limited. stall: "
        "an answer stops in the middle or never begins. server-error (5xx, or no connection), not-found (404) and auth "
        "(401, 403) must occur again within the turn; the model is then avoided for at most a minute.",
        [cause.value for cause in Cause if cause in _POLICY.move_on], choices=tuple(cause.value for cause in Cause)),
    _section(
        "sameModelFirst",
        "Number of times the same model is tried again before a turn is moved for a cause in `moveOn`.",
        *(Key(cause.value, Kind.WHOLE, f"After {about}.", SAME_FIRST) for cause, about in (
            (Cause.SERVER_ERROR, "a server error at the provider"), (Cause.NOT_FOUND, "an unknown model"),
            (Cause.AUTH, "a refused login"))),
    ),
    Key("errorPatterns", Kind.TEXTS, "Texts in error messages that indicate a limit, in addition to the built-in "
        "rules. A number is an HTTP status.", [], pattern=r"\S", wanted="a quoted string", shown=True),
    Key("mode", Kind.CHOICE, "What to do with a limited session. auto: wait or move it. ask: offer a move, and make it "
        "when you run `ocwatch redirect`. notify: only report the limit. off: only maintain the blacklist.",
        _POLICY.mode.value, choices=tuple(mode.value for mode in Mode)),
    Key("whenExhausted", Kind.CHOICE, "What to do with a turn for which no model is available. wait: park the turn, "
        "and run it again as soon as a model is available. notify: only notify you when a model is available.",
        _POLICY.when_exhausted.value, choices=tuple(choice.value for choice in WhenExhausted)),
    Key("maxResumes", Kind.WHOLE, "Maximum number of times that a parked turn is run again without a new prompt from "
        "you in between.", _POLICY.max_resumes),
    Key("maxMovesPerHour", Kind.WHOLE, "Maximum number of moves per session within an hour.",
        _POLICY.moves_per_hour, formerly="movesPerHour"),
    Key("returnToPrimary", Kind.FLAG, "Whether a moved session's prompts go to its primary again when it is available.",
        _POLICY.return_to_primary, formerly="comeBack"),
    _section(
        FORECAST, "What to do about limits that will soon be reached.",
        Key("prevent", Kind.FLAG, "Whether new prompts go to a fallback shortly before a known limit is reached. A "
            "limit is known if response headers report it, `limits` defines it, or ocwatchd has learned it from usage. "
            "Running turns are not moved.",
            _FORESIGHT.prevent),
        Key("ahead", Kind.NUMBER, "Time before a limit at which `prevent` takes effect, assuming that usage "
            "continues at its current rate.", _ms(_FORESIGHT.ahead), "milliseconds"),
        Key("leaveAt", Kind.NUMBER, "With `prevent`: when this percentage of a plan window is used, new prompts go to "
            "another provider. By default, plan windows are only shown.", unit="percent", least=1, most=100),
        Key("command", Kind.TEXTS, "A program, with its arguments, that prints plan windows as JSON. It runs every 5 "
            "minutes, for 30 s at most.", [],
            pattern=r"^[^\u0000]*$(?!\n)", wanted="a string: the program or one of its arguments"),
        Key(LIMITS, Kind.LIMITS, "Known limits of a model: `tokens`, `requests` or both, per `window`.", {},
            inner=LIMIT_KEYS),
    ),
    Key("budget", Kind.NUMBER, "Budget for a day (in local time, at OpenCode's prices). When it is spent, paid models "
        "are no longer chosen as fallbacks, but you can still name one.", unit="US dollars"),
    _section(
        "logs", "Which logs are read in addition to OpenCode's own, and how far back.",
        Key("directories", Kind.TEXTS, "Additional log directories.", [], pattern=r"^(/|~/|~$)[^\u0000]*$",
            wanted="an absolute path, or one that begins with ~/", shown=True),
        Key("lookBackBytes", Kind.WHOLE, "Number of bytes at the end of each log to read at the first start.",
            LOOK_BACK_BYTES, "bytes"),
        Key("lookBackHours", Kind.NUMBER, "Only logs that were written within this time are read at the first start.",
            round(LOOK_BACK / 3600), "hours"),
    ),
    # Only loopback is accepted, because prompts and passwords are sent to these addresses.
    Key("endpoints", Kind.TEXTS, "OpenCode servers on this machine to use in addition to those that ocwatchd finds.",
        [], pattern=r"^http://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):[0-9]{1,5}/?$(?!\n)",
        wanted="http://127.0.0.1:PORT", formerly="doors", shown=True),
    _section(
        "notifications", "How to notify you. Each event is reported once.",
        Key("desktop", Kind.FLAG, "Whether to show desktop notifications (`notify-send`, or those of macOS).", True),
        Key("toast", Kind.FLAG, "Whether to show toasts in OpenCode.", True),
        Key("command", Kind.TEXTS, "A program, with its arguments, to run for each notice. The program receives the "
            "notice as JSON on standard input.", [],
            pattern=r"^[^\u0000]*$(?!\n)", wanted="a string: the program or one of its arguments"),
        Key("ntfy", Kind.TEXT, "The address of an ntfy topic to which each notice is published. Anyone who knows it "
            "can read the notices, so choose a name that is hard to guess.",
            pattern=r"^https?://([^/@\s]+@)?[^/@\s]+(/[^/\s?#]+)+/?(\?[^\s#]*)?$(?!\n)",
            wanted="the address of a topic, such as https://ntfy.sh/TOPIC"),
        Key("quietHours", Kind.TEXT, "Local time during which only toasts are shown: `22:00-07:30`.",
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)",
            wanted='a range of two times of day, such as "22:00-07:30"', shown=True),
    ),
    _section(
        "launcher", "Settings of `oc-smart`.",
        Key("opencode", Kind.TEXT, "The OpenCode program to start. By default, it is the first one on PATH.",
            pattern=r"\S", wanted="a quoted path or program name", shown=True),
    ),
    _section(
        SHARE, "How to share cooldowns with other machines that use the same accounts (`ocwatch share`).",
        Key("url", Kind.TEXT, "The address of a Valkey server, or of a server with the same protocol. TLS is required "
            "unless the server is on this machine. A password belongs in `secretFile`.", pattern=_URL,
            wanted="valkeys://[USER@]HOST[:PORT], valkey://127.0.0.1[:PORT] or unix:///PATH, without a password"),
        Key("folder", Kind.TEXT, "A folder to use instead of a server; another program must sync it between machines.",
            pattern=r"^(/|~/)[^\u0000]*$(?!\n)", wanted="an absolute path, or one that begins with ~/"),
        Key("team", Kind.TEXT, "The name of your group, if several groups use the same server or folder.", "team",
            pattern=rf"^{_LABEL}$(?!\n)", wanted="1 to 40 letters, digits, `.`, `_`, `@` or `-`"),
        Key("node", Kind.TEXT, "This machine's name in the group. By default, its host name and three random "
            "characters.",
            pattern=r"^[a-z0-9][a-z0-9-]{0,11}$(?!\n)", wanted="1 to 12 lower-case letters, digits or `-`"),
        Key("accounts", Kind.ACCOUNTS, "The account at each provider. Machines with the same account name share its "
            "cooldowns. Cooldowns of providers without an entry are not shared.", {}, pattern=rf"^{_LABEL}$(?!\n)",
            wanted="a name of 1 to 40 letters, digits, `.`, `_`, `@` or `-`"),
        Key("secretFile", Kind.TEXT, "A file with the password for the server. You must own it, and its mode must be "
            "0600.",
            pattern=r"^(/|~/)[^\u0000]*$(?!\n)", wanted="an absolute path, or one that begins with ~/"),
        Key("ca", Kind.TEXT, "A file with the certificate authorities to trust for the server instead of the system's.",
            pattern=r"^(/|~/)[^\u0000]*$(?!\n)", wanted="an absolute path, or one that begins with ~/"),
    ),
)  # fmt: skip


def settings(keys: tuple[Key, ...] = KEYS, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Key]]:
    """Yield every key that is not a section, with its path of names inside `rateLimit`."""
    for key in keys:
        path = (*above, key.name)
        if key.kind is Kind.SECTION:
            yield from settings(key.inner, path)
        else:
            yield path, key
