"""journal.jsonl: what was seen, decided and done; one object per line, appended, never rewritten.

Lines are one write on an O_APPEND descriptor under the journal's lock, so lines of two processes never mix. A crash can
tear the last line: the next append begins a new one, and readers pass over what is no object. `durable` entries are on
disk when `append` returns; of the others a power cut may lose the last seconds. Kept: the current file and the one
before it, each up to `max_bytes`; older news is gone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ocwatchd.clock import Clock, SystemClock, from_rfc3339, rfc3339
from ocwatchd.state.files import StateError, locked, read_plain, sync_dir, write_all

VERSION = 1
MAX_BYTES = 4 << 20
"""One file's bound: some 7,000 entries of 570 bytes (made-up busy weeks have 450 each): months of use."""

TEXT_CAP = 500
"""Characters kept of any text in an entry. A reason has at most 300; anything longer is not meant for a journal."""

LINE_CAP = 16 << 10
TIMES = frozenset(("at", "began", "next", "until"))
"""Fields that hold moments: handed in as epoch seconds (a float), written down as RFC 3339."""

SECRETS = frozenset(
    (
        "prompt",
        "parts",
        "headers",
        "authorization",
        "auth",
        "apikey",
        "api_key",
        "password",
        "requestbodyvalues",
        "body",
    )
)
"""Fields that are never written, whoever hands them in: prompts, keys and headers stay out of our files."""


class Journal:
    """The journal of one state directory. Threads and processes may share the file; an instance holds no descriptor."""

    def __init__(self, path: Path, clock: Clock | None = None, max_bytes: int = MAX_BYTES) -> None:
        """Use the journal at `path`; nothing is touched before the first append."""
        self._path = path
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes

    @property
    def older(self) -> Path:
        """The file before the current one."""
        return self._path.with_name(self._path.name + ".1")

    def line(self, entry: Mapping[str, object]) -> bytes:
        """What is written for this entry: `plain(entry)` with `version`, a new `id` and, unless it has one, `time`.

        `entry` should have `what`.
        """
        now = self._clock.now()
        ident = f"{int(now * 1000):013x}{os.urandom(4).hex()}"  # sorts by time
        return _line({"version": VERSION, "id": ident, "time": rfc3339(now), **plain(entry)})

    def append(self, entry: Mapping[str, object], durable: bool = False) -> None:
        """Write one entry.

        Raises:
            StateError: it could not be written.
        """
        self.write([self.line(entry)], durable)

    def write(self, lines: Sequence[bytes], durable: bool = False) -> None:
        """Write these, made by `line`. Safe to repeat after a fault: readers take each `id` once.

        Raises:
            StateError: they could not be written, or not all of them.
        """
        data = b"".join(lines)
        try:
            with locked(self._path):
                self._rotate(len(data))
                self._write(data, durable)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def read(self, since: float | None = None) -> Iterator[dict[str, object]]:
        """All entries, oldest first, or those whose `time` is not before `since` (epoch seconds).

        Lines that are no entries (torn, foreign) are passed over; a missing or unreadable file is an empty one.
        """
        cap = 2 * self._max_bytes + LINE_CAP
        current = _lines_of(self._path, cap)  # before the older one: a rotation in between repeats lines, loses none
        seen: set[object] = set()
        for line in (*_lines_of(self.older, cap), *current):
            entry = _entry(line)
            if entry is not None and entry.get("id") not in seen and (since is None or _time_of(entry) >= since):
                seen.add(entry["id"])
                yield entry

    def _rotate(self, coming: int) -> None:
        try:
            size = self._path.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return
        if size and size + coming > self._max_bytes:
            self._path.replace(self.older)
            sync_dir(self._path.parent)

    def _write(self, line: bytes, durable: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            write_all(fd, b"\n" + line if torn else line)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if durable and size == 0:
            sync_dir(self._path.parent)


def _line(entry: Mapping[str, object]) -> bytes:
    line = json.dumps(entry, separators=(",", ":"), ensure_ascii=True, default=str).encode()
    if len(line) > LINE_CAP:
        kept = {key: value for key, value in entry.items() if not isinstance(value, (dict, list))}
        line = json.dumps({**kept, "cut": True}, separators=(",", ":"), default=str).encode()[:LINE_CAP]
    return line + b"\n"


def plain(value: Mapping[str, object], depth: int = 0) -> dict[str, object]:
    """The fields as they are written down: texts capped, moments in words, secret-bearing fields dropped."""
    return {
        str(key): _moment(item) if key in TIMES and isinstance(item, float) else _cleaned(item, depth)
        for key, item in value.items()
        if str(key).lower() not in SECRETS
    }


def _moment(epoch: float) -> str | None:
    try:
        return rfc3339(epoch)
    except (ValueError, OverflowError, OSError):  # not a number, or beyond the calendar
        return None


def _cleaned(value: object, depth: int) -> object:
    if isinstance(value, str):
        return value[:TEXT_CAP]
    if isinstance(value, Mapping):
        return plain(value, depth + 1) if depth < 4 else None
    if isinstance(value, (list, tuple)):
        return [_cleaned(item, depth + 1) for item in value[:64]] if depth < 4 else None
    return value


def _lines_of(path: Path, cap: int) -> list[bytes]:
    try:
        return read_plain(path, cap).split(b"\n")
    except (OSError, StateError):
        return []


def _entry(line: bytes) -> dict[str, object] | None:
    try:
        entry = json.loads(line) if line else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    return entry if isinstance(entry.get("id"), str) and isinstance(entry.get("what", ""), str) else None


def _time_of(entry: Mapping[str, object]) -> float:
    try:
        return from_rfc3339(str(entry.get("time")))
    except ValueError:
        return 0.0
