"""Read the companion plugin's reports: refused attempts, skipped fallbacks, and rate-limit headers.

For each refused attempt, the plugin records the status and Retry-After, which OpenCode's own log does not contain. Each
OpenCode process has its own file, `facts/PID.jsonl`. Records that were written before this program began to follow the
file are outdated, so they are skipped. When a file has become too large, the plugin renames it and begins a new one.

Each model has a small file with the rate-limit headers of its latest answer. Another file for each OpenCode process
contains, for each session, the time at which the provider last sent a keep-alive into an otherwise silent stream.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ocwatchd.clock import from_rfc3339
from ocwatchd.core.classify.error_details import details_from_body
from ocwatchd.core.domain.types import WEB_PAGE, ErrorDetails
from ocwatchd.core.forecast.model import Allowance, allowances_of
from ocwatchd.core.forecast.plan_windows import PlanWindow, plan_windows
from ocwatchd.errors import NotAFile
from ocwatchd.ownership import open_plain
from ocwatchd.state import quota_command
from ocwatchd.state.files import StateError, read_plain

if TYPE_CHECKING:
    from ocwatchd.core.engine.messages import Prevented, TroubleReported

MOST, LONGEST = 20, 300
"""Maximum number of skipped fallbacks that are read from one line, and maximum length, in characters, of a name or a
reason.
"""
LONGEST_BODY = 4_000
"""Maximum number of characters of an error's response body that are used. The plugin writes at most 2,000."""
READ_CAP = 4 << 20
"""Maximum number of bytes per read. The plugin limits a file to 1 MiB."""
KEPT = 86_400.0
"""Time, in seconds, for which a file is kept after its last line was written. After this time, its process has ended,
or has not hit a limit for a long time.
"""
HEADERS = {"retry_after": "retry-after", "retry_after_ms": "retry-after-ms"}


@dataclass(slots=True)
class _Place:
    inode: int
    offset: int


class PluginReports:
    """Follows the report files of one directory. Lines that cannot be parsed are skipped."""

    def __init__(self, directory: Path, reported: Callable[[str, int], None] | None = None) -> None:
        """Begin reading at the current end of each file.

        Before `poll` returns a refused attempt, `reported` is called with its session and the pid of its OpenCode
        process.
        """
        self._directory, self._reported = directory, reported
        self._places: dict[Path, _Place] = {}
        for path in self._files():
            with suppress(OSError):  # the file is being renamed
                seen = path.stat()
                self._places[path] = _Place(seen.st_ino, seen.st_size)

    def poll(self) -> Sequence[TroubleReported | Prevented]:
        """Return the reports that were added since the last call."""
        found: list[TroubleReported | Prevented] = []
        for path in self._files():
            with suppress(OSError, NotAFile):  # the file is being renamed, so the next poll reads it
                found += self._added(path)
        return found

    def tidy(self, now: float) -> None:
        """Remove files that were last written more than `KEPT` seconds ago."""
        remove_old((*self._files(), *self._directory.glob("*.jsonl.1")), now)

    def _files(self) -> list[Path]:
        try:
            return [path for path in self._directory.iterdir() if path.suffix == ".jsonl" and path.is_file()]
        except OSError:
            return []

    def _added(self, path: Path) -> Iterator[TroubleReported | Prevented]:
        known, before = self._places.get(path), b""
        with _opened(path) as fd:
            seen = os.fstat(fd)
            place = known
            if place is None or place.inode != seen.st_ino or place.offset > seen.st_size:
                before = _unread(path.with_name(path.name + ".1"), known)
                place = self._places[path] = _Place(seen.st_ino, 0)
            data = _lines_from(fd, place.offset)
            place.offset += len(data)
        for line in (before + data).splitlines():
            if (refused := fact(line)) is not None:
                if self._reported is not None and path.stem.isdecimal():
                    self._reported(refused.session, int(path.stem))
                yield refused
            elif (passed_over := prevented(line)) is not None:
                yield passed_over


def remove_old(paths: Iterable[Path], now: float) -> None:
    """Remove those of the given files that were last written more than `KEPT` seconds ago."""
    for path in paths:
        try:
            if now - path.stat().st_mtime > KEPT:
                path.unlink()
        except OSError:
            continue


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = open_plain(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _lines_from(fd: int, offset: int) -> bytes:
    """Return the complete lines from `offset` on. If the last line of the file is incomplete, it is omitted."""
    data = os.pread(fd, READ_CAP, offset)
    return data[: data.rfind(b"\n") + 1]


def _unread(aside: Path, place: _Place | None) -> bytes:
    """Return the unread lines of the file at `place` after it was renamed to `aside`."""
    with suppress(OSError, NotAFile), _opened(aside) as fd:
        if place is not None and os.fstat(fd).st_ino == place.inode:
            return _lines_from(fd, place.offset)
    return b""


def fact(line: bytes) -> TroubleReported | None:
    """Parse a line about a refused attempt. Return None for any other line, and for requests for titles and
    summaries.
    """
    try:
        raw = json.loads(line)
        session, status, time = raw["session"], raw["status"], from_rfc3339(raw["time"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(session, str) or type(status) is not int or raw.get("small"):
        return None
    headers = {name: str(raw[key])[:100] for key, name in HEADERS.items() if key in raw}
    provider, model = raw.get("provider"), raw.get("model")
    known = isinstance(provider, str) and isinstance(model, str)
    details = ErrorDetails(status=status, headers=headers)
    if isinstance(raw.get("body"), str):  # the body of a response with a success status contained the error
        details = replace(details_from_body(raw["body"][:LONGEST_BODY], headers=headers), status=status)
    elif raw.get("page") is True:
        details = replace(details, name=WEB_PAGE)
    # lazy import: `ocwatch forecast` reads headers and does not need the engine
    from ocwatchd.core.engine.messages import TroubleReported

    return TroubleReported(session, time, f"{provider}/{model}" if known else None, details)


def prevented(line: bytes) -> Prevented | None:
    """Parse a line about a prompt for which the plugin did not use the blacklist's target. Return None for any other
    line.
    """
    try:
        raw = json.loads(line)
        session, model, time = raw["session"], raw["prevented"], from_rfc3339(raw["time"])
        passed = tuple((str(row["model"])[:LONGEST], str(row["why"])[:LONGEST]) for row in raw["passed"][:MOST])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(session, str) or not isinstance(model, str):
        return None
    target = raw.get("target")
    from ocwatchd.core.engine.messages import Prevented  # lazy import: `ocwatch forecast` does not need it

    return Prevented(session, time, model[:LONGEST], target[:LONGEST] if isinstance(target, str) else None, passed)


VERSION = 1
MAX_FILES = 500
"""Maximum number of files that are read. Each model that was ever used has one file."""
OLD = 86_400.0
"""Age, in seconds, above which recorded headers are ignored."""


def read_allowances(directory: Path, now: float) -> dict[str, tuple[Allowance, ...]]:
    """Return the allowances that providers have reported, by model. Unreadable files and files older than a day are
    skipped.
    """
    found = {model: allowances_of(headers, at) for model, headers, at in _recorded(directory, now)}
    return {model: told for model, told in found.items() if told}


def keep_alive_age(directory: Path, session: str, now: float) -> float | None:
    """Return the age, in seconds, of the latest recorded keep-alive that the provider sent to this session, or None if
    none is recorded.
    """
    times = []
    for path in islice(directory.glob("*.json"), MAX_FILES):
        with suppress(OSError, ValueError, StateError, KeyError, TypeError, AttributeError):
            raw = orjson.loads(read_plain(path))
            if raw["version"] == VERSION and session in raw["sessions"]:
                times.append(from_rfc3339(str(raw["sessions"][session])))
    latest = max((at for at in times if at is not None), default=None)
    return None if latest is None else max(now - latest, 0.0)


def read_plan_windows(directory: Path, now: float) -> tuple[PlanWindow, ...]:
    """Return the current windows of providers' plans (periods with their own quota), sorted by provider and length.

    For each window, the latest report is used, whether it came from headers or from `forecast.command`.
    """
    reported = list(quota_command.windows(directory, now, OLD))
    for model, headers, at in _recorded(directory, now):
        reported += plan_windows(model.partition("/")[0], headers, at)
    found = {(window.provider, window.name): window for window in sorted(reported, key=lambda one: one.at)}
    current = (window for window in found.values() if window.resets is None or window.resets > now)
    return tuple(sorted(current, key=lambda window: (window.provider, window.length or 0.0, window.name)))


def _recorded(directory: Path, now: float) -> list[tuple[str, dict[str, str], float]]:
    """Return the model, the headers and the time (epoch seconds) of each recorded answer."""
    found = []
    with suppress(OSError):
        for path in sorted(directory.glob("*.json"))[:MAX_FILES]:
            with suppress(OSError, ValueError, StateError):
                raw = orjson.loads(read_plain(path))
                at = from_rfc3339(str(raw["time"])) if _ours(raw) else None
                if at is not None and now - OLD < at <= now + 60:
                    headers = {str(name): str(value) for name, value in raw["headers"].items()}
                    found.append((str(raw["model"]), headers, at))
    return found


def _ours(raw: object) -> bool:
    wanted = isinstance(raw, dict) and isinstance(raw.get("headers"), dict) and isinstance(raw.get("model"), str)
    return wanted and isinstance(raw, dict) and raw.get("version") == VERSION and "time" in raw
