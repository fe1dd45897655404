"""What the companion plugin saw of refused requests: status and Retry-After, which OpenCode's own log does not tell;
and which stand-ins it has passed over.

One file per OpenCode process, `facts/PID.jsonl`, appended by the plugin and read here from where it ended when
following began: older facts are old news. A file that outgrows its bound is set aside by the plugin and begun anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.clock import from_rfc3339
from ocwatchd.core.limits import ErrorFacts
from ocwatchd.core.messages import Heard, Prevented

MOST, LONGEST = 20, 300
"""Passed over stand-ins that are read of one line, and characters of a name or reason."""
READ_CAP = 4 << 20
"""Bytes taken of one file at a time; the plugin's own bound is 1 MiB."""
KEPT = 86_400.0
"""Seconds after its last fact that a file is kept; its process is gone, or refuses nothing."""
HEADERS = {"retry_after": "retry-after", "retry_after_ms": "retry-after-ms"}


@dataclass(slots=True)
class _Place:
    inode: int
    offset: int


class FactFiles:
    """Follows the files of one directory. Unreadable lines are passed over."""

    def __init__(self, directory: Path) -> None:
        """What stands there now is old news."""
        self._directory = directory
        self._places: dict[Path, _Place] = {}
        for path in self._files():
            with suppress(OSError):  # set aside at this moment
                seen = path.stat()
                self._places[path] = _Place(seen.st_ino, seen.st_size)

    def poll(self) -> Sequence[Heard | Prevented]:
        """What was added since the last call."""
        found: list[Heard | Prevented] = []
        for path in self._files():
            with suppress(OSError):  # set aside at this moment: the next look reads it
                found += self._added(path)
        return found

    def tidy(self, now: float) -> None:
        """Remove files that nobody has written for long."""
        for path in (*self._files(), *self._directory.glob("*.jsonl.1")):
            try:
                if now - path.stat().st_mtime > KEPT:
                    path.unlink()
            except OSError:
                continue

    def _files(self) -> list[Path]:
        try:
            return [path for path in self._directory.iterdir() if path.suffix == ".jsonl" and path.is_file()]
        except OSError:
            return []

    def _added(self, path: Path) -> Iterator[Heard | Prevented]:
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
            heard = fact(line) or prevented(line)
            if heard is not None:
                yield heard


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _lines_from(fd: int, offset: int) -> bytes:
    """Whole lines; the last one may still be being written."""
    data = os.pread(fd, READ_CAP, offset)
    return data[: data.rfind(b"\n") + 1]


def _unread(aside: Path, place: _Place | None) -> bytes:
    """What was added to the file at `place` before it was set aside."""
    with suppress(OSError), _opened(aside) as fd:
        if place is not None and os.fstat(fd).st_ino == place.inode:
            return _lines_from(fd, place.offset)
    return b""


def fact(line: bytes) -> Heard | None:
    """One line of the plugin; None if it is none, or names no session of a main turn."""
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
    return Heard(session, time, f"{provider}/{model}" if known else None, ErrorFacts(status=status, headers=headers))


def prevented(line: bytes) -> Prevented | None:
    """One line of the plugin about a prompt that it did not send where the register says; None if it is none."""
    try:
        raw = json.loads(line)
        session, model, time = raw["session"], raw["prevented"], from_rfc3339(raw["time"])
        passed = tuple((str(row["model"])[:LONGEST], str(row["why"])[:LONGEST]) for row in raw["passed"][:MOST])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(session, str) or not isinstance(model, str):
        return None
    target = raw.get("target")
    return Prevented(session, time, model[:LONGEST], target[:LONGEST] if isinstance(target, str) else None, passed)
