"""Load rate-limit-config.json as values (`load`), and find all faults in it (`examine`).

`read_values` reads and checks the values of the keys in `keys`, and `read_limits` those of `forecast.limits`, in the
units of the file. Their error messages say which values are valid. `LiveConfig` is the configuration of a running
daemon. It applies edits, and keeps the last valid configuration after a faulty edit.

This module is long because all of these functions check values against the same table of keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocwatchd.clock import rfc3339
from ocwatchd.config.keys import (
    AUTO,
    FORECAST,
    KEYS,
    LARGEST,
    LIMIT_KEYS,
    LIMIT_WINDOW,
    LIMITS,
    PER_MODEL,
    POOL_KEYS,
    REQUESTS,
    RETRY_KEYS,
    SHARE,
    TOKENS,
    Key,
    Kind,
    settings,
)
from ocwatchd.config.model import Config, LogSettings, NoticeSettings, ShareSettings
from ocwatchd.config.names import (
    AGENTS,
    CHAIN,
    POOLS,
    ROOT,
    Names,
    Report,
    check_name,
    fail,
    read_names,
    remarks,
    section,
)
from ocwatchd.config.opencode_setup import agent_names
from ocwatchd.config.reader import Document, Fault, dotted, read_document
from ocwatchd.core.domain.chains import carriers, find_cycles, normalise, opened, resolve
from ocwatchd.core.domain.cooldowns import CooldownPolicy
from ocwatchd.core.domain.pools import Pools
from ocwatchd.core.domain.types import Cause
from ocwatchd.core.policy import Mode, Order, Policy, PreventionPolicy, RetryPolicy, StallPolicy, WhenExhausted
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths

if TYPE_CHECKING:
    # for type checkers only: the import takes 10 ms of CPU time, and `config check` does not need it
    from ocwatchd.core.forecast.model import Bound

Limit = dict[str, float]
"""The values of one limit. The names are those in `LIMIT_KEYS`."""


def read_limits(document: Document, names: Mapping[str, object], report: Report) -> dict[str, list[Limit]]:
    """Return the values of `forecast.limits` by model, alias or pool, as written. Faulty limits are omitted.

    Raises:
        ConfigError: A limit is faulty, and `report` raises.
    """
    found: dict[str, list[Limit]] = {}
    for name, value in section(document, ROOT, FORECAST, LIMITS, report=report).items():
        keys = (ROOT, FORECAST, LIMITS, name)
        if remarks(name) or not check_name(document, keys, name, names, report):
            continue
        if name.endswith("/*"):
            report(document.fault(keys, "cannot be set for a whole provider; list its models instead"))
            continue
        items: list[Any] = value if isinstance(value, list) else [value]
        faults = [fault for item in items if (fault := _fault(item))]
        if faults:
            report(document.fault(keys, faults[0]))
        else:
            found[name] = [{key: float(item[key]) for key in item if not remarks(key)} for item in items]
    return found


def bounds(limits: Mapping[str, list[Limit]], aliases: Mapping[str, str], pools: Pools) -> dict[str, tuple[Bound, ...]]:
    """Return the limits by model. A pool's limits apply to each of its members, because the members are separate
    accounts.
    """
    found: dict[str, tuple[Bound, ...]] = {}
    for name, items in limits.items():
        known = tuple(bound for item in items for bound in _bounds(item))
        model = resolve(name, aliases)
        for member in pools[model].members if model in pools else (model,):
            found[member] = (*found.get(member, ()), *known)
    return found


def _bounds(item: Limit) -> list[Bound]:
    from ocwatchd.core.forecast.model import Bound, Label, Measure  # lazy import: needed only if limits are configured

    window = item[LIMIT_WINDOW] / 1000
    measures = {TOKENS: Measure.TOKENS, REQUESTS: Measure.REQUESTS}
    return [Bound(measures[name], window, item[name], Label.CONFIGURED) for name in measures if name in item]


def _fault(item: object) -> str | None:
    if not isinstance(item, dict):
        return 'must be an object or a list of objects, such as {"tokens": 900000, "window": 3600000}'
    known = [key.name for key in LIMIT_KEYS]
    for name, value in item.items():
        if name not in known and not remarks(name):
            return f"{name!r} is not one of {', '.join(known)}"
        if name in known and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST):
            return f"`{name}` must be a number above 0, not {value!r}"
    if LIMIT_WINDOW not in item or not {TOKENS, REQUESTS} & item.keys():
        return "must have `window` (milliseconds), and `tokens` or `requests`"
    return None


Values = dict[str, object]
"""The settings by dotted key inside `rateLimit`, except for the keys that the module `names` reads."""


def read_values(
    document: Document, aliases: Mapping[str, str], known: Mapping[str, object], report: Report = fail
) -> Values:
    """Return the value of every setting. A faulty value is replaced by its default, unless `report` raises.

    `known` contains all names that the user defined.

    Raises:
        ConfigError: A value is faulty, and `report` raises.
    """
    section(document, ROOT, report=report)
    for key in KEYS:
        if key.kind is Kind.SECTION:
            section(document, ROOT, key.name, report=report)
    values = {
        ".".join(path): _value(document, (ROOT, *path), key, key.default, report)
        for path, key in settings()
        if key.kind in _CHECKS
    }
    values[PER_MODEL] = _per_model(document, aliases, values, report)
    values[f"{FORECAST}.{LIMITS}"] = read_limits(document, known, report)
    if values[f"{SHARE}.url"] is not None and values[f"{SHARE}.folder"] is not None:
        report(document.fault((ROOT, SHARE, "folder"), "cannot be used together with `url`; remove one of them"))
    return values


def _per_model(document: Document, aliases: Mapping[str, str], general: Values, report: Report) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for name in section(document, ROOT, PER_MODEL, report=report):
        if not remarks(name):
            keys = (ROOT, PER_MODEL, name)
            check_name(document, keys, name, aliases, report)
            section(document, *keys, report=report)
            found[name] = {
                key.name: _value(document, (*keys, key.name), key, general[key.name], report) for key in RETRY_KEYS
            }
    return found


def unknown(document: Document) -> list[ConfigError]:
    """Return a fault for each unknown key. Most unknown keys are typos, so each fault suggests the most similar known
    key.
    """
    places: dict[tuple[str, ...], Iterable[Key]] = {(): (), (ROOT,): KEYS}
    places.update({(ROOT, key.name): key.inner for key in KEYS if key.kind is Kind.SECTION})
    for named, own in ((PER_MODEL, RETRY_KEYS), (POOLS, POOL_KEYS)):
        names = section(document, ROOT, named, report=_silent)
        places.update({(ROOT, named, name): own for name in names if not remarks(name)})
    found: list[ConfigError] = []
    for keys, inner in places.items():
        known = tuple(key.name for key in inner) or (ROOT,)
        others = (name for name in section(document, *keys, report=_silent) if name not in known)
        renamed = {key.formerly: key.name for key in inner if key.formerly}
        found += [
            document.fault(
                (*keys, name),
                f"is now called {renamed[name]!r}; the old name still works"
                if name in renamed
                else f"unknown key{_nearest(name, keys, known)}",
            )
            for name in others
            if not remarks(name)
        ]
    return found


def _silent(_: ConfigError) -> None:
    """Ignore a value that is not an object. The code that reads the value reports the fault."""


def _nearest(name: str, keys: tuple[str, ...], known: tuple[str, ...]) -> str:
    if not keys and any(name == key.name for key in KEYS):
        return f'; it belongs inside "{ROOT}"'
    from difflib import get_close_matches  # lazy import: needed only for a typo

    close = get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; the known keys are {', '.join(known)}"


# ---- one value


def _value(document: Document, keys: tuple[str, ...], key: Key, default: object, report: Report) -> object:
    above = section(document, *keys[:-1], report=_silent)
    if keys[-1] not in above and key.formerly in above:
        keys = (*keys[:-1], key.formerly)
    if keys[-1] not in above:
        return default
    value = above[keys[-1]]
    fault = _CHECKS[key.kind](key, value)
    if fault is None:
        return value
    at, message = fault
    report(document.fault((*keys, *at), message))
    return default


Complaint = tuple[tuple[int, ...], str]
"""The index of the faulty item (an empty tuple if the value is not a list), and the error message."""


def _flag(_: Key, value: object) -> Complaint | None:
    return None if isinstance(value, bool) else ((), f"{value!r} is neither true nor false")


def _number(key: Key, value: object) -> Complaint | None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    # this also rejects NaN, for which every comparison is false
    if not key.least <= number < LARGEST or (key.kind is Kind.WHOLE and number % 1):
        whole = "whole " if key.kind is Kind.WHOLE else ""
        unit = f", in {key.unit}" if key.unit else ""
        return (), f"{value!r} is not a {whole}number of at least {key.least}{unit}"
    if key.most is not None and number > key.most:
        default = "" if key.default is None else f"; the default is {key.default}"
        return (), f"must be between {key.least} and {key.most}{default}"
    return None


def _patience(key: Key, value: object) -> Complaint | None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if value == AUTO or value is False or 0 < number < LARGEST:
        return None
    return (), f'{value!r} is not valid: use "{AUTO}", false or a number of {key.unit} above 0'


def _choice(key: Key, value: object) -> Complaint | None:
    if isinstance(value, str) and value in key.choices:
        return None
    choices = ", ".join(f'"{choice}"' for choice in key.choices)
    return (), f"{value!r} is not one of {choices}"


def _choices(key: Key, value: object) -> Complaint | None:
    if not isinstance(value, list):
        return (), f"must be a list of {', '.join(key.choices)}"
    faults = ((index, _choice(key, item)) for index, item in enumerate(value))
    return next((((index,), fault[1]) for index, fault in faults if fault), None)


def _text(key: Key, value: object) -> Complaint | None:
    if isinstance(value, str) and re.search(key.pattern, value):
        return None
    return (), f"{value!r} is not {key.wanted}"


def _texts(key: Key, value: object) -> Complaint | None:
    if not isinstance(value, list):
        return (), "must be a list of quoted strings"
    faults = ((index, _text(key, item)) for index, item in enumerate(value))
    return next((((index,), fault[1]) for index, fault in faults if fault), None)


def _accounts(key: Key, value: object) -> Complaint | None:
    if not isinstance(value, dict):
        return (), 'must be an object: {"provider": "account"}'
    for provider, account in value.items():
        fault = None if remarks(provider) else _text(key, account)
        if fault is not None:
            return (), f"{provider!r}: {fault[1]}"
        if not remarks(provider) and ("/" in provider or not provider.strip()):
            return (), f"{provider!r} is not a provider: use the part of a model's name before the first slash"
    return None


_CHECKS: Mapping[Kind, Callable[[Key, object], Complaint | None]] = {
    Kind.FLAG: _flag,
    Kind.NUMBER: _number,
    Kind.WHOLE: _number,
    Kind.CHOICE: _choice,
    Kind.TEXT: _text,
    Kind.TEXTS: _texts,
    Kind.ACCOUNTS: _accounts,
    Kind.CHOICES: _choices,
    Kind.PATIENCE: _patience,
}


@dataclass(frozen=True, slots=True)
class Examined:
    """The contents of a configuration file, in the units of the file, and its faults.

    `errors` contains the faults that make the file unusable. `circles` contains a fault for each circular chain; such a
    chain is followed only up to its first repeated name. `slips` contains warnings, for example about settings without
    effect.
    """

    values: Values
    names: Names
    errors: tuple[ConfigError, ...]
    circles: tuple[ConfigError, ...]
    slips: tuple[ConfigError, ...]


def examine(document: Document) -> Examined:
    """Return the contents and all faults of a document. The function never raises."""
    errors: list[ConfigError] = []
    names = read_names(document, errors.append)
    values = read_values(document, names.aliases, names.known, errors.append)
    slips = (
        *unknown(document),
        *_repeated(document),
        *_providers(document, names, values),
        *_without_prevention(document, values),
        *_literal(document, values),
    )
    return Examined(values, names, tuple(errors), tuple(_circles(document, names)), slips)


def load(paths: Paths, file: Path | None = None) -> Config:
    """Return the configuration in `file` (by default, the user's file). If the file is missing or empty, return the
    defaults.

    Raises:
        ConfigError: The file cannot be used. The message names the file, line and key, and says what is valid.
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
        endpoints=tuple(values["endpoints"]),
        notices=_notices(values),
        share=_share(values),
        warnings=tuple(map(str, (*examined.slips, *examined.circles))),
        source=Path(document.path) if document.exists else None,
    )


def _share(values: Mapping[str, Any]) -> ShareSettings:
    def place(name: str) -> Path | None:
        text = values[f"{SHARE}.{name}"]
        return None if text is None else Path(text).expanduser()

    accounts = values[f"{SHARE}.accounts"]
    return ShareSettings(
        url=values[f"{SHARE}.url"],
        folder=place("folder"),
        team=values[f"{SHARE}.team"],
        node=values[f"{SHARE}.node"],
        accounts={provider: account for provider, account in accounts.items() if not remarks(provider)},
        secret_file=place("secretFile"),
        ca=place("ca"),
    )


def _notices(values: Mapping[str, Any]) -> NoticeSettings:
    hours = values["notifications.quietHours"]
    times = [int(time[:2]) * 60 + int(time[3:]) for time in hours.split("-")] if hours else []
    return NoticeSettings(
        desktop=values["notifications.desktop"],
        toast=values["notifications.toast"],
        command=tuple(values["notifications.command"]),
        ntfy=values["notifications.ntfy"],
        quiet=(times[0], times[1]) if times else None,
    )


def _policy(values: Mapping[str, Any], names: Names, opencode_agents: Iterable[str]) -> Policy:
    durations = {field: values[f"cooldown.{field}"] / 1000 for field in CooldownPolicy.__slots__}
    return Policy(
        retry=_retry(values),
        per_model={resolve(name, names.aliases): _retry(own) for name, own in values[PER_MODEL].items()},
        cooldowns=CooldownPolicy(**durations),
        chains=names.chains,
        aliases=names.aliases,
        pools=names.pools,
        order=Order(values["order"]),
        agents=carriers(names.agents, names.aliases, names.pools, frozenset(opencode_agents)),
        wait=values["retry.enabled"] and not values["retry.delegate_to_plugin"],
        mode=Mode(values["mode"]),
        when_exhausted=WhenExhausted(values["whenExhausted"]),
        max_resumes=int(values["maxResumes"]),
        return_to_primary=values["returnToPrimary"],
        moves_per_hour=int(values["maxMovesPerHour"]),
        prevention=PreventionPolicy(
            values["forecast.prevent"],
            values["forecast.ahead"] / 1000,
            bounds(values["forecast.limits"], names.aliases, names.pools),
            values["forecast.leaveAt"],
            tuple(values["forecast.command"]),
        ),
        budget=values["budget"],
        stall=_stall(values["stall.after"], int(values["stall.retrySame"])),
        move_on=frozenset(map(Cause, values["moveOn"])),
        same_first={
            Cause(path[1]): int(values[".".join(path)]) for path, _ in settings() if path[0] == "sameModelFirst"
        },
    )


def _stall(after: object, retry_same: int) -> StallPolicy:
    return StallPolicy(
        enabled=after is not False,
        after=after / 1000 if isinstance(after, int | float) and after is not False else None,
        retry_same=retry_same,
    )


def _retry(values: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(
        max_retries=int(values["maxRetries"]),
        base_delay=values["baseDelay"] / 1000,
        max_delay=values["maxDelay"] / 1000,
        max_wait=values["maxWait"] / 1000,
        jitter_range=float(values["jitterRange"]),
    )


def _circles(document: Document, names: Names) -> list[ConfigError]:
    """Return a fault for each circular chain, at the line of the first chain in the circle."""
    found: list[ConfigError] = []
    members = {name: pool.members for name, pool in names.pools.items()}
    resolved = {name: resolve(name, names.aliases) for name in names.chains}
    for circle in find_cycles(opened(normalise(names.chains, names.aliases), members)):
        key = next((n for n, own in resolved.items() if {own, *members.get(own, ())} & {*circle}), "")
        way = " -> ".join(circle)
        found.append(
            document.fault((ROOT, CHAIN, key), f"circular chain, which ends before the first repetition: {way}")
        )
    return found


def _repeated(document: Document) -> list[ConfigError]:
    """Return a fault for each repeated key. JSON uses the last occurrence of a key and silently drops the others."""
    if not document.exists:
        return []
    twice = document.positions().repeated
    return [Fault(document.path, "occurs twice; only this one is used", line, dotted(path)) for path, line in twice]


def _providers(document: Document, names: Names, values: Values) -> list[ConfigError]:
    """Return a fault for each setting that is given for a whole provider although only models can have it. Such a
    setting has no effect.
    """
    per_model = values[PER_MODEL]
    places = [(AGENTS, name) for name in names.agents]
    places += [(PER_MODEL, name) for name in (per_model if isinstance(per_model, dict) else {})]
    message = "has no effect on a whole provider; list its models instead"
    return [
        document.fault((ROOT, section, name), message)
        for section, name in places
        if resolve(name, names.aliases).endswith("/*")
    ]


def _without_prevention(document: Document, values: Values) -> list[ConfigError]:
    """Return a fault for `forecast.leaveAt` without `forecast.prevent`: plan windows are then only shown."""
    if values[f"{FORECAST}.leaveAt"] is None or values[f"{FORECAST}.prevent"]:
        return []
    return [document.fault((ROOT, FORECAST, "leaveAt"), 'has no effect unless `"prevent": true` is also set')]


def _literal(document: Document, values: Values) -> list[ConfigError]:
    """Return a fault for each regular expression in `errorPatterns` that could take too long to match."""
    patterns = values["errorPatterns"]
    found: list[ConfigError] = []
    if not patterns:
        return found
    from ocwatchd.core.classify.user_patterns import UserPattern  # lazy import: 5 ms of CPU time, and rarely needed

    for index, text in enumerate(patterns if isinstance(patterns, list) else []):
        refused = UserPattern.of(text).refused
        if refused:
            fault = document.fault((ROOT, "errorPatterns", index), f"is matched as literal text: {refused}")
            found.append(fault)
    return found


SETTLED = 0.3
"""Minimum time, in seconds, without a further change before an edit is read.

An editor may truncate or rename the file before it writes the new content. In between, the file is empty or missing,
which is a valid configuration, but not the one that the user wants.
"""

Mark = tuple[int, ...] | None
"""A value that differs after each change of the file; None if the file does not exist."""


class LiveConfig:
    """The configuration of a running daemon. It is updated when the file is edited.

    `look` may be called often. It takes one `stat` call, and reads an edit `SETTLED` seconds after the last change.
    """

    def __init__(self, paths: Paths, config: Config, now: float) -> None:
        """Store `config`, which was read from `paths` at `now` (epoch seconds), as the first configuration."""
        self.config = config
        self.loaded = now
        self.problem: str | None = None
        """The reason why the file cannot be used; None if there is no problem."""
        self._paths, self._logs, self._file = paths, config.logs, paths.config_file
        # This value matches no file, so that the first check also finds an edit that was made while the daemon started.
        self._mark: Mark = ()
        self._seen: Mark = ()
        self._since = now

    @property
    def due(self) -> float | None:
        """When the last edit will be read, in epoch seconds; None if no edit is pending."""
        return None if self._seen == self._mark else self._since + SETTLED

    def read_edit(self, now: float) -> Config | ConfigError | None:
        """Return the new configuration after an edit, or the error if the edit is faulty, or None if there is no new
        edit.

        Each change is returned only once.
        """
        mark = self._now()
        if mark != self._seen:
            self._seen, self._since = mark, now
        if mark == self._mark or 0 <= now - self._since < SETTLED:
            return None
        self._mark = mark
        try:
            found = load(self._paths)
        except ConfigError as fault:
            before, self.problem = self.problem, str(fault)
            return fault if before != self.problem else None
        repaired, self.problem = self.problem is not None, None
        if found == self.config and not repaired:
            return None
        self.config, self.loaded = found, now
        return found

    def health(self) -> list[str]:
        """Return sentences for the user about problems with the configuration, or an empty list if there are none."""
        found = [f"{self.problem}; until this is fixed, the last valid configuration is used"] if self.problem else []
        if self.config.logs != self._logs:
            found.append("`logs` in the configuration was edited: restart ocwatchd to apply the change")
        return found

    def as_json(self) -> dict[str, object]:
        """Return the state of the configuration as JSON for the heartbeat."""
        return {"file": str(self._paths.config_file), "loaded": rfc3339(self.loaded), "problem": self.problem}

    def _now(self) -> Mark:
        """Return the file's current mark. Symbolic links are followed, because many users link their dotfiles."""
        try:
            seen = self._file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return (error.errno or 0,)
        return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
