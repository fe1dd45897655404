"""Log ocwatchd's own events to standard error: one line per event, at the level in OCWATCHD_LOG, without secrets.

Modules log with the standard library's `logging`, under their own names. `set_up` installs the only handler; until it
is called, nothing is printed. The fast path (docs/decisions/0004-fast-path.md) calls it only if OCWATCHD_LOG is set,
because importing `logging` takes 5 ms of CPU time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache

from ocwatchd.clock import rfc3339
from ocwatchd.core.text.redact import redact

ENVIRONMENT = "OCWATCHD_LOG"
LEVELS = ("debug", "info", "warning", "error")

_ROOT = "ocwatchd"
_OURS = re.compile(
    r"(?<!\w)(?:(?:id|of|claim|move|decision)=[0-9a-f]{12}|[a-z]+\.json\.corrupt-\d{8}T\d{6}Z(?:-\d{1,3})?)(?!\w)"
)
"""Matches our own ids (those of journal lines) and the names of damaged files that were moved aside. Without this
pattern, `redact` would hide both, because they look random.
"""

_OUTLINED = frozenset(
    "session parent model target provider agent kind scope status reason why what until at attempt number state "
    "trouble result outcome matter seconds removed generation certainty rule reset_source durable event "
    "snapshot entry verdict missed origin mode turn small waited".split()
)
"""Names of the fields that an outline contains. All other fields are left out, so a prompt in a new field is never
printed.
"""
_TEXT_CAP = 120
_DEPTH = 3


log = logging.getLogger("ocwatchd.command")
"""The logger for commands on the fast path. They import this module only if OCWATCHD_LOG is set."""


class Redacted(str):
    """A log line whose parts are already redacted. Each part was redacted separately, so that the results for recurring
    parts can be reused.
    """

    __slots__ = ()


def set_up(level: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Print log records of `level` and above. `level` defaults to the value of OCWATCHD_LOG, or to `info` if that is
    not set.
    """
    wished = level or environ.get(ENVIRONMENT, "").strip().lower()
    logger = logging.getLogger(_ROOT)
    logger.propagate = False
    logger.setLevel((wished if wished in LEVELS else "info").upper())
    if not any(isinstance(handler, _OnStandardError) for handler in logger.handlers):
        handler = _OnStandardError()
        handler.addFilter(Redaction())
        logger.addHandler(handler)
    if wished and wished not in LEVELS:
        logger.warning(f"{ENVIRONMENT}={wished} is not a level: use {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")


class Redaction(logging.Filter):
    """Filter that hides secrets in every log line, at every level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message with its redacted form. Return True, because no line is dropped."""
        if not (isinstance(record.msg, Redacted) and not record.args):
            record.msg, record.args = clean(record.getMessage()), ()
        record.exc_info = record.exc_text = record.stack_info = None  # a traceback may quote private data
        return True


def clean(text: str) -> str:
    """Return `text` with possible secrets hidden. Our ids and the path of HOME stay readable."""
    home = os.environ.get("HOME", "").rstrip("/")
    pieces = text.split(home) if len(home) > 1 else [text]
    return home.join(_without_ids(piece) for piece in pieces)


def clean_fields(what: str, named: Mapping[str, object]) -> Redacted:
    """Return the redacted line `what: name=value …`. Each pair is redacted and cached separately, because most pairs
    recur during a burst of limits.
    """
    pairs = " ".join(_clean_pair(f"{name}={value}") for name, value in named.items())
    return Redacted(f"{what}: {pairs}" if pairs else what)


@lru_cache(maxsize=512)
def _clean_pair(pair: str) -> str:
    return clean(pair)


def _without_ids(text: str) -> str:
    shown, at = [], 0
    for found in _OURS.finditer(text):
        shown += [redact(text[at : found.start()]), found[0]]
        at = found.end()
    return "".join([*shown, redact(text[at:])])


class _OnStandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print one line with its time and without control characters. A closed standard error is ignored."""
        about = f"debug {record.name.removeprefix(_ROOT + '.')}: " if record.levelno < logging.INFO else ""
        line = printable(f"{about}{record.getMessage()}")
        with contextlib.suppress(OSError, ValueError):
            print(f"{rfc3339(record.created)} {line}", file=sys.stderr, flush=True)


def printable(line: str) -> str:
    """Return the line with replacement characters instead of control characters."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def outline(value: object, depth: int = _DEPTH) -> str:
    """Return a short form of a message or effect for the debug log: its type and the fields in `_OUTLINED`."""
    if isinstance(value, Enum):
        return str(value.value)
    if not is_dataclass(value) or type(value).__str__ is not object.__str__:
        text = str(value)
        return text if len(text) <= _TEXT_CAP else text[: _TEXT_CAP - 1] + "…"
    parts = [type(value).__name__]
    for field in fields(value):
        inner = getattr(value, field.name)
        if field.name not in _OUTLINED or inner is None or inner == "" or (is_dataclass(inner) and depth <= 1):
            continue
        if isinstance(inner, (list, tuple, set, frozenset, dict)):
            parts.append(f"{field.name}={len(inner)}")
        else:
            shown = outline(inner, depth - 1)
            parts.append(f"{field.name}=({shown})" if is_dataclass(inner) and " " in shown else f"{field.name}={shown}")
    return " ".join(parts)
