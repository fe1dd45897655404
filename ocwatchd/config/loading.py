"""`load(paths)`: rate-limit-config.json as values. `examine(document)`: everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocwatchd.config.keys import PER_MODEL
from ocwatchd.config.limits import bounds
from ocwatchd.config.model import Config, LogSettings, NoticeSettings
from ocwatchd.config.names import AGENTS, CHAIN, ROOT, Names, read_names
from ocwatchd.config.reader import Document, Fault, dotted, read_document
from ocwatchd.config.setup import agent_names
from ocwatchd.config.values import Values, read_values, unknown
from ocwatchd.core.chains import find_cycles, normalise, opened, resolve
from ocwatchd.core.foresight import ForesightPolicy
from ocwatchd.core.policy import Mode, Order, Policy, RestPolicy, RetryPolicy
from ocwatchd.core.userpatterns import UserPattern
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths


@dataclass(frozen=True, slots=True)
class Examined:
    """What a configuration file says, in its own units, and what is wrong with it.

    `errors` keep it from being used, `circles` are cut where they close, `slips` change nothing.
    """

    values: Values
    names: Names
    errors: tuple[ConfigError, ...]
    circles: tuple[ConfigError, ...]
    slips: tuple[ConfigError, ...]


def examine(document: Document) -> Examined:
    """Read the whole of it; never raises."""
    errors: list[ConfigError] = []
    names = read_names(document, errors.append)
    values = read_values(document, names.aliases, names.known, errors.append)
    slips = (
        *unknown(document),
        *_repeated(document),
        *_providers(document, names, values),
        *_literal(document, values),
    )
    return Examined(values, names, tuple(errors), tuple(_circles(document, names)), slips)


def load(paths: Paths, file: Path | None = None) -> Config:
    """The configuration in `file`, or in its usual place; without a file, or with an empty one, the defaults.

    Raises:
        ConfigError: the file cannot be used; names file, line, key and what would be right.
    """
    document = read_document(file or paths.config_file)
    examined = examine(document)
    if examined.errors:
        raise examined.errors[0]
    values: Mapping[str, Any] = examined.values
    directories = (Path(text).expanduser() for text in values["logs.directories"])
    return Config(
        policy=_policy(values, examined.names, agent_names(paths)),
        error_patterns=tuple(values["errorPatterns"]),
        logs=LogSettings(
            directories=tuple(dict.fromkeys(directory for directory in directories if directory != paths.log_dir)),
            look_back_bytes=int(values["logs.lookBackBytes"]),
            look_back=values["logs.lookBackHours"] * 3600.0,
        ),
        doors=tuple(values["doors"]),
        notices=_notices(values),
        warnings=tuple(map(str, (*examined.slips, *examined.circles))),
        source=Path(document.path) if document.exists else None,
    )


def _notices(values: Mapping[str, Any]) -> NoticeSettings:
    hours = values["notifications.quietHours"]
    times = [int(time[:2]) * 60 + int(time[3:]) for time in hours.split("-")] if hours else []
    return NoticeSettings(
        desktop=values["notifications.desktop"],
        toast=values["notifications.toast"],
        command=tuple(values["notifications.command"]),
        quiet=(times[0], times[1]) if times else None,
    )


def _policy(values: Mapping[str, Any], names: Names, opencode_agents: Iterable[str]) -> Policy:
    # An alias that is also the name of one of the user's agents names both: the model and who carries it.
    by_alias = {names.aliases[agent]: agent for agent in opencode_agents if agent in names.aliases}
    plain = {resolve(name, names.aliases): agent for name, agent in names.agents.items()}
    rests = {field: values[f"cooldown.{field}"] / 1000 for field in RestPolicy.__slots__}
    return Policy(
        retry=_retry(values),
        per_model={resolve(name, names.aliases): _retry(own) for name, own in values[PER_MODEL].items()},
        rests=RestPolicy(**rests),
        chains=names.chains,
        aliases=names.aliases,
        pools=names.pools,
        order=Order(values["order"]),
        agents={**{resolve(model, names.aliases): agent for model, agent in by_alias.items()}, **plain},
        wait=values["retry.enabled"] and not values["retry.delegate_to_plugin"],
        mode=Mode(values["mode"]),
        come_back=values["comeBack"],
        moves_per_hour=int(values["movesPerHour"]),
        foresight=ForesightPolicy(
            values["forecast.prevent"],
            values["forecast.ahead"] / 1000,
            bounds(values["forecast.limits"], names.aliases, names.pools),
        ),
        budget=values["budget"],
    )


def _retry(values: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(
        max_retries=int(values["maxRetries"]),
        base_delay=values["baseDelay"] / 1000,
        max_delay=values["maxDelay"] / 1000,
        jitter_range=float(values["jitterRange"]),
    )


def _circles(document: Document, names: Names) -> list[ConfigError]:
    """Named at the line of the first chain in each."""
    found: list[ConfigError] = []
    members = {name: pool.members for name, pool in names.pools.items()}
    for circle in find_cycles(opened(normalise(names.chains, names.aliases), members)):
        stand_for = {name: resolve(name, names.aliases) for name in names.chains}
        key = next((n for n, own in stand_for.items() if {own, *members.get(own, ())} & {*circle}), "")
        way = " -> ".join(circle)
        found.append(document.fault((ROOT, CHAIN, key), f"a chain in a circle, cut where it closes: {way}"))
    return found


def _repeated(document: Document) -> list[ConfigError]:
    """A key that stands twice: JSON takes the last, and the first is lost without a word."""
    if not document.exists:
        return []
    twice = document.positions().repeated
    return [Fault(document.path, "stands twice; only this one counts", line, dotted(path)) for path, line in twice]


def _providers(document: Document, names: Names, values: Values) -> list[ConfigError]:
    """A whole provider where only single models are looked up."""
    per_model = values[PER_MODEL]
    places = [(AGENTS, name) for name in names.agents]
    places += [(PER_MODEL, name) for name in (per_model if isinstance(per_model, dict) else {})]
    message = "has no effect on a whole provider; name its models"
    return [
        document.fault((ROOT, section, name), message)
        for section, name in places
        if resolve(name, names.aliases).endswith("/*")
    ]


def _literal(document: Document, values: Values) -> list[ConfigError]:
    """Expressions that could run long."""
    patterns = values["errorPatterns"]
    found: list[ConfigError] = []
    for index, text in enumerate(patterns if isinstance(patterns, list) else []):
        refused = UserPattern.of(text).refused
        if refused:
            fault = document.fault((ROOT, "errorPatterns", index), f"taken as literal text: {refused}")
            found.append(fault)
    return found
