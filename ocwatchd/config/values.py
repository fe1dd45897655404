"""Reads the keys that `keys` describes: values in the units of the file, faults that say what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ocwatchd.config.keys import FORECAST, KEYS, LARGEST, LIMITS, PER_MODEL, POOL_KEYS, RETRY_KEYS, Key, Kind, settings
from ocwatchd.config.limits import read_limits
from ocwatchd.config.names import POOLS, ROOT, Report, check_name, fail, remarks, section
from ocwatchd.config.reader import Document
from ocwatchd.errors import ConfigError

Values = dict[str, object]
"""By dotted key inside `rateLimit`. What names models is read by `names` and does not stand here."""


def read_values(
    document: Document, aliases: Mapping[str, str], known: Mapping[str, object], report: Report = fail
) -> Values:
    """Every setting's value; of a faulty one, if `report` returns, the default. `known` are all the user's own names.

    Raises:
        ConfigError: a value is wrong.
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
    """Keys that mean nothing to us: most are slips of the pen, so the nearest known one is named."""
    places: dict[tuple[str, ...], Iterable[Key]] = {(): (), (ROOT,): KEYS}
    places.update({(ROOT, key.name): key.inner for key in KEYS if key.kind is Kind.SECTION})
    for named, own in ((PER_MODEL, RETRY_KEYS), (POOLS, POOL_KEYS)):
        names = section(document, ROOT, named, report=_silent)
        places.update({(ROOT, named, name): own for name in names if not remarks(name)})
    found: list[ConfigError] = []
    for keys, inner in places.items():
        known = tuple(key.name for key in inner) or (ROOT,)
        strange = (name for name in section(document, *keys, report=_silent) if name not in known)
        found += [
            document.fault((*keys, name), f"unknown key{_nearest(name, keys, known)}")
            for name in strange
            if not remarks(name)
        ]
    return found


def _silent(_: ConfigError) -> None:
    """What is no object has been reported where it was read."""


def _nearest(name: str, keys: tuple[str, ...], known: tuple[str, ...]) -> str:
    if not keys and any(name == key.name for key in KEYS):
        return f'; it belongs inside "{ROOT}"'
    from difflib import get_close_matches  # late: only a slip needs it

    close = get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


# ---- one value


def _value(document: Document, keys: tuple[str, ...], key: Key, default: object, report: Report) -> object:
    above = section(document, *keys[:-1], report=_silent)
    if keys[-1] not in above:
        return default
    value = above[keys[-1]]
    fault = _CHECKS[key.kind](key, value)
    if fault is None:
        return value
    at, message = fault
    report(document.fault((*keys, *at), message))
    return default


Fault = tuple[tuple[int, ...], str]
"""Which item of a list, if it is one, and what would be right."""


def _flag(_: Key, value: object) -> Fault | None:
    return None if isinstance(value, bool) else ((), f"{value!r} is neither true nor false")


def _number(key: Key, value: object) -> Fault | None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not 0 <= number < LARGEST or (key.kind is Kind.WHOLE and number % 1):  # NaN fails every comparison
        whole = "whole " if key.kind is Kind.WHOLE else ""
        unit = f", in {key.unit}" if key.unit else ""
        return (), f"{value!r} is not a {whole}number from 0 on{unit}"
    if key.most is not None and number > key.most:
        return (), f"has to lie between 0 and {key.most} ({key.default} is the default)"
    return None


def _choice(key: Key, value: object) -> Fault | None:
    if isinstance(value, str) and value in key.choices:
        return None
    choices = ", ".join(f'"{choice}"' for choice in key.choices)
    return (), f"{value!r} is none of {choices}"


def _text(key: Key, value: object) -> Fault | None:
    if isinstance(value, str) and re.search(key.pattern, value):
        return None
    return (), f"{value!r} is not {key.wanted}"


def _texts(key: Key, value: object) -> Fault | None:
    if not isinstance(value, list):
        return (), "has to be a list of texts in quotes"
    faults = ((index, _text(key, item)) for index, item in enumerate(value))
    return next((((index,), fault[1]) for index, fault in faults if fault), None)


_CHECKS: Mapping[Kind, Callable[[Key, object], Fault | None]] = {
    Kind.FLAG: _flag,
    Kind.NUMBER: _number,
    Kind.WHOLE: _number,
    Kind.CHOICE: _choice,
    Kind.TEXT: _text,
    Kind.TEXTS: _texts,
}
