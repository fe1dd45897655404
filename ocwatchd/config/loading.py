"""`load(paths)`: rate-limit-config.json as values. Wrong values are errors that say what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ocwatchd.config.model import LOOK_BACK, LOOK_BACK_BYTES, Config, LogSettings
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, ROOT, Names, check_model, read_names, remarks, section
from ocwatchd.config.reader import Document, read_document
from ocwatchd.config.setup import agent_names
from ocwatchd.core.chains import find_cycles, normalise, resolve
from ocwatchd.core.policy import Mode, Policy, RestPolicy, RetryPolicy
from ocwatchd.paths import Paths

_RETRY_KEYS = ("maxRetries", "baseDelay", "maxDelay", "jitterRange")
_KNOWN: dict[tuple[str, ...], tuple[str, ...]] = {
    (): (ROOT,),
    (ROOT,): (
        *_RETRY_KEYS, CHAIN, "errorPatterns", ALIASES, AGENTS, "perModel", "retry", "cooldown", "mode", "logs", "doors",
        "movesPerHour", "comeBack", "launcher",
    ),
    (ROOT, "retry"): ("enabled", "delegate_to_plugin"),
    (ROOT, "cooldown"): ("rate_limit", "overloaded", "quota", "maximum"),
    (ROOT, "launcher"): ("opencode",),
    (ROOT, "logs"): ("directories", "lookBackBytes", "lookBackHours"),
}  # fmt: skip
LARGEST = 1e15
"""No setting is that large; a longer number is a slip, and would overflow somewhere later."""
_LOOPBACK = re.compile(r"http://(127(\.\d{1,3}){3}|localhost|\[::1\]):\d{1,5}/?")


def load(paths: Paths, file: Path | None = None) -> Config:
    """The configuration in `file`, or in its usual place; without a file, or with an empty one, the defaults.

    Raises:
        ConfigError: the file cannot be used; names file, line, key and what would be right.
    """
    document = read_document(file or paths.config_file)
    names = read_names(document)
    return Config(
        policy=_policy(document, names, agent_names(paths)),
        error_patterns=_texts(document, "errorPatterns"),
        logs=_logs(document, paths),
        doors=_doors(document),
        warnings=(*_unknown(document), *_cycles(document, names)),
        source=Path(document.path) if document.exists else None,
    )


def _policy(document: Document, names: Names, opencode_agents: Iterable[str]) -> Policy:
    retry = _retry(document, (ROOT,), RetryPolicy())
    enabled = _flag(document, (ROOT, "retry", "enabled"), True)
    delegated = _flag(document, (ROOT, "retry", "delegate_to_plugin"), False)
    # An alias that is also the name of one of the user's agents names both: the model and who carries it.
    by_alias = {names.aliases[agent]: agent for agent in opencode_agents if agent in names.aliases}
    plain = {resolve(name, names.aliases): agent for name, agent in names.agents.items()}
    return Policy(
        retry=retry,
        per_model=_per_model(document, names.aliases, retry),
        rests=_rests(document),
        chains=names.chains,
        aliases=names.aliases,
        agents={**{resolve(model, names.aliases): agent for model, agent in by_alias.items()}, **plain},
        wait=enabled and not delegated,
        mode=_mode(document),
        come_back=_flag(document, (ROOT, "comeBack"), True),
        moves_per_hour=int(_number(document, (ROOT, "movesPerHour"), Policy().moves_per_hour, whole=True)),
    )


def _retry(document: Document, keys: tuple[str, ...], base: RetryPolicy) -> RetryPolicy:
    jitter = _number(document, (*keys, "jitterRange"), base.jitter_range)
    if jitter > 1:
        raise document.fault((*keys, "jitterRange"), "has to lie between 0 and 1 (0.1 is ten per cent)")
    return RetryPolicy(
        max_retries=int(_number(document, (*keys, "maxRetries"), base.max_retries, whole=True)),
        base_delay=_milliseconds(document, (*keys, "baseDelay"), base.base_delay),
        max_delay=_milliseconds(document, (*keys, "maxDelay"), base.max_delay),
        jitter_range=jitter,
    )


def _per_model(document: Document, aliases: Mapping[str, str], base: RetryPolicy) -> dict[str, RetryPolicy]:
    found: dict[str, RetryPolicy] = {}
    for name in section(document, ROOT, "perModel"):
        if not remarks(name):
            keys = (ROOT, "perModel", name)
            check_model(document, keys, name, aliases)
            found[resolve(name, aliases)] = _retry(document, keys, base)
    return found


def _rests(document: Document) -> RestPolicy:
    default = RestPolicy()
    kinds = {name: getattr(default, name) for name in _KNOWN[ROOT, "cooldown"]}
    return RestPolicy(**{name: _milliseconds(document, (ROOT, "cooldown", name), kinds[name]) for name in kinds})


def _mode(document: Document) -> Mode:
    value = section(document, ROOT).get("mode", Mode.AUTO.value)
    if not isinstance(value, str) or value not in set(Mode):
        choices = ", ".join(f'"{mode.value}"' for mode in Mode)
        raise document.fault((ROOT, "mode"), f"{value!r} is none of {choices}")
    return Mode(value)


def _logs(document: Document, paths: Paths) -> LogSettings:
    keys = (ROOT, "logs")
    directories = [Path(text).expanduser() for text in _texts(document, "logs", "directories")]
    for directory in directories:
        if not directory.is_absolute():
            raise document.fault((*keys, "directories"), f"{directory} has to be an absolute path, or begin with ~/")
    hours = _number(document, (*keys, "lookBackHours"), LOOK_BACK / 3600)
    return LogSettings(
        directories=tuple(dict.fromkeys(d for d in directories if d != paths.log_dir)),
        look_back_bytes=int(_number(document, (*keys, "lookBackBytes"), LOOK_BACK_BYTES, whole=True)),
        look_back=hours * 3600,
    )


def _doors(document: Document) -> tuple[str, ...]:
    doors = _texts(document, "doors")
    for door in doors:
        # Prompts and passwords would go there: another machine is never ours to talk to.
        if not _LOOPBACK.fullmatch(door):
            raise document.fault((ROOT, "doors"), f'{door!r} is not of the form "http://127.0.0.1:PORT"')
    return doors


def _texts(document: Document, *keys: str) -> tuple[str, ...]:
    value = section(document, ROOT, *keys[:-1]).get(keys[-1], [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise document.fault((ROOT, *keys), "has to be a list of texts in quotes")
    return tuple(value)


def _flag(document: Document, keys: tuple[str, ...], default: bool) -> bool:
    value = section(document, *keys[:-1]).get(keys[-1], default)
    if not isinstance(value, bool):
        raise document.fault(keys, f"{value!r} is neither true nor false")
    return value


def _milliseconds(document: Document, keys: tuple[str, ...], default: float) -> float:
    return _number(document, keys, default * 1000) / 1000


def _number(document: Document, keys: tuple[str, ...], default: float, whole: bool = False) -> float:
    value = section(document, *keys[:-1]).get(keys[-1], default)
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if 0 <= number < LARGEST and not (whole and number % 1):  # NaN fails every comparison
        return float(number)
    raise document.fault(keys, f"{value!r} is not a {'whole ' if whole else ''}number from 0 on")


def _unknown(document: Document) -> list[str]:
    """Keys that mean nothing to us: most are slips of the pen, so the nearest known one is named."""
    places = dict(_KNOWN)
    places.update({(ROOT, "perModel", name): _RETRY_KEYS for name in section(document, ROOT, "perModel")})
    return [
        f"{document.where((*keys, key))}: unknown key{_nearest(key, keys, known)}"
        for keys, known in places.items()
        if not any(map(remarks, keys))
        for key in section(document, *keys)
        if key not in known and not remarks(key)
    ]


def _nearest(key: str, keys: tuple[str, ...], known: Iterable[str]) -> str:
    if not keys and key in _KNOWN[ROOT,]:
        return f'; it belongs inside "{ROOT}"'
    from difflib import get_close_matches  # late: only a slip needs it

    close = get_close_matches(key, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _cycles(document: Document, names: Names) -> list[str]:
    cycles = find_cycles(normalise(names.chains, names.aliases))
    place = document.where((ROOT, CHAIN))
    return [f"{place}: a chain in a circle, cut where it closes: {' -> '.join(cycle)}" for cycle in cycles]
