"""Read and write the files of `ocwatch share`: known.json contains the shared cooldowns, and clears.json the user's
clears.

Only the share process writes `known.json`. `ocwatch clear` writes `clears.json`, because the blacklist does not show
why a cooldown was removed. Other machines must be able to distinguish a user's clear from a cooldown that ended because
the model has answered.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from ocwatchd.core.domain.types import ModelRef, ResetSource
from ocwatchd.core.sharing.knowledge import Seen
from ocwatchd.core.sharing.record import NODE, Record, Unusable, parse
from ocwatchd.state.files import StateError, locked, make_private_dir, read_plain, write_atomic

_T = TypeVar("_T")

VERSION = 1
KNOWN, CLEARS = "known.json", "clears.json"
MAX_CLEARS = 64
"""Maximum number of clears that are kept for the share process. The oldest are dropped first."""
EVERYTHING = "*"
"""The name in `clears.json` that represents `ocwatch clear --all`."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The saved state of the share process. `node` is empty before its first run."""

    node: str = ""
    records: tuple[Record, ...] = ()
    seen: Mapping[ModelRef, Seen] = field(default_factory=dict)
    cleared_until: float = 0.0


def load(directory: Path) -> Stored:
    """Return the saved state. Parts that cannot be read are replaced by defaults. Never raises."""
    try:
        document = orjson.loads(read_plain(directory / KNOWN))
    except (OSError, StateError, ValueError):
        return Stored()
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return Stored()
    node, cleared = document.get("node"), document.get("cleared_until")
    return Stored(
        node if isinstance(node, str) and NODE.fullmatch(node) else "",
        tuple(_readable(document.get("records"), parse)),
        dict(_readable(_items(document.get("seen")), _seen)),
        float(cleared) if isinstance(cleared, int | float) else 0.0,
    )


def save(directory: Path, stored: Stored) -> None:
    """Save the state durably, with mode 0600.

    Raises:
        StateError: The directory belongs to another user.
        OSError: The file could not be written and was not changed.
    """
    make_private_dir(directory)
    seen = {
        str(model): [one.since, one.until, one.strikes, one.reset_source.value] for model, one in stored.seen.items()
    }
    document = {
        "version": VERSION,
        "node": stored.node,
        "cleared_until": stored.cleared_until,
        "records": [record.line() for record in stored.records],
        "seen": seen,
    }
    write_atomic(directory / KNOWN, orjson.dumps(document))


def note_clear(directory: Path, names: Iterable[str], now: float) -> None:
    """Record that a user cleared these models at `now` (epoch seconds), so that the share process reports the clears.

    Nothing is recorded if cooldowns were never shared.

    Raises:
        StateError: The file cannot be written.
    """
    if not directory.is_dir():
        return
    path = directory / CLEARS
    try:
        with locked(path):
            noted = [*clears(directory), *((name, now) for name in names)][-MAX_CLEARS:]
            write_atomic(path, orjson.dumps({"version": VERSION, "cleared": noted}))
    except OSError as fault:
        raise StateError(f"{path} cannot be written: {fault.strerror or fault}") from fault


def clears(directory: Path) -> list[tuple[str, float]]:
    """Return the user's recent clears, each as a model (or `EVERYTHING`) and a time in epoch seconds. Never raises."""
    try:
        document = orjson.loads(read_plain(directory / CLEARS))
    except (OSError, StateError, ValueError):
        return []
    return list(_readable(document.get("cleared") if isinstance(document, dict) else None, _clear))


def new_node(host: str | None = None) -> str:
    """Return a label for this machine. It consists of the beginning of the host name and three random characters that
    make it unique.
    """
    name = re.sub(r"[^a-z0-9]+", "-", (host if host is not None else socket.gethostname()).partition(".")[0].lower())
    suffix = "".join("0123456789abcdefghjkmnpqrstvwxyz"[byte % 32] for byte in os.urandom(3))
    return f"{name.strip('-')[:8].strip('-') or 'node'}-{suffix}"


def _readable(items: object, read: Callable[[Any], _T]) -> Iterable[_T]:
    for item in items if isinstance(items, list) else ():
        try:
            yield read(item)
        except (Unusable, ValueError, TypeError, AttributeError):
            continue


def _items(value: object) -> list[object]:
    return list(value.items()) if isinstance(value, dict) else []


def _seen(item: tuple[str, list[Any]]) -> tuple[ModelRef, Seen]:
    name, (since, until, strikes, source) = item
    if not isinstance(since, int | float) or not isinstance(strikes, int) or not isinstance(until, int | float | None):
        raise TypeError(name)
    return ModelRef.parse(name), Seen(since, until, strikes, ResetSource(source))


def _clear(item: list[object]) -> tuple[str, float]:
    name, at = item
    if not isinstance(name, str) or not isinstance(at, int | float):
        raise TypeError(name)
    return name, float(at)
