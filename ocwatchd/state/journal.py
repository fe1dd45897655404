"""Write and read journal.jsonl, which records what ocwatchd observed, decided and did. Each line is a JSON object.

Lines are only appended, and only under the journal's lock, so the lines of two processes never mix. A crash can leave
an incomplete last line. The next append then begins a new line, and readers skip lines that are not entries. A
`durable` entry is on disk when `append` returns. A power failure may destroy other entries that were written in the
last few seconds. The current file and the previous one are kept, each with at most `max_bytes` bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ocwatchd.clock import Clock, SystemClock, from_rfc3339, rfc3339
from ocwatchd.ownership import open_plain
from ocwatchd.state.files import NotAFile, StateError, locked, read_plain, sync_dir, write_all

VERSION = 1
MAX_BYTES = 4 << 20
"""Maximum size, in bytes, of one file. Such a file holds about 7,000 entries of 570 bytes, or months of use. (In
generated data of busy weeks, an entry has 450 bytes.)
"""

TEXT_CAP = 500
"""Maximum length, in characters, of each text in an entry. A reason has at most 300 characters."""

LINE_CAP = 16 << 10
TIMES = frozenset(("at", "began", "next", "resumes_at", "until"))
"""Names of fields that contain times. The caller passes epoch seconds (float), which are written in RFC 3339."""

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
"""Names of fields that are never written, so that prompts, keys and headers are never stored in ocwatchd's files."""


SAID = frozenset(("reason", "why", "words"))
"""Names of fields that contain text from a provider or from OpenCode. The text is always redacted, because it can quote
the request.
"""


class Journal:
    """The journal of one state directory. Threads and processes may share the file. An instance keeps no descriptor
    open.
    """

    def __init__(self, path: Path, clock: Clock | None = None, max_bytes: int = MAX_BYTES) -> None:
        """Store the path of the journal and the settings. The first append creates the file."""
        self._path = path
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes

    @property
    def older(self) -> Path:
        """The path of the previous file."""
        return self._path.with_name(self._path.name + ".1")

    def line(self, entry: Mapping[str, object]) -> bytes:
        """Return the line for an entry. It contains the fields of `plain(entry)`, `version`, a new `id`, and the
        current `time` if the entry has none.

        `entry` should have the field `what`.
        """
        now = self._clock.now()
        ident = f"{int(now * 1000):013x}{os.urandom(4).hex()}"  # sorting by id also sorts by time
        return _line({"version": VERSION, "id": ident, "time": rfc3339(now), **plain(entry)})

    def append(self, entry: Mapping[str, object], durable: bool = False) -> None:
        """Write one entry.

        Raises:
            StateError: The entry could not be written.
        """
        self.write([self.line(entry)], durable)

    def write(self, lines: Sequence[bytes], durable: bool = False) -> None:
        """Write lines that `line` has returned. A line may safely be written twice, because readers ignore repeated
        ids.

        Raises:
            StateError: Not all lines could be written.
        """
        data = b"".join(lines)
        try:
            with locked(self._path):
                self._rotate(len(data))
                self._write(data, durable)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror or error}") from error
        except NotAFile as error:
            raise StateError(f"the journal cannot be written: {error}") from error

    def read(self, since: float | None = None) -> Iterator[dict[str, object]]:
        """Yield the entries, oldest first. If `since` (epoch seconds) is given, entries with an earlier `time` are
        omitted.

        Lines that are not entries (incomplete or foreign) are skipped. A missing or unreadable file is treated as
        empty.
        """
        cap = 2 * self._max_bytes + LINE_CAP
        # the current file is read first, so that a rotation between the two reads repeats lines instead of losing them
        current = _lines_of(self._path, cap)
        seen: set[object] = set()
        for line in (*_lines_of(self.older, cap), *current):
            entry = _entry(line)
            if entry is not None and entry.get("id") not in seen and (since is None or time_of(entry) >= since):
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
        fd = open_plain(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
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
    """Return the fields in the form in which they are written: texts are truncated, times are RFC 3339, and fields with
    secrets are omitted.
    """
    return {str(key): _field(str(key), item, depth) for key, item in value.items() if str(key).lower() not in SECRETS}


def _field(name: str, item: object, depth: int) -> object:
    if name in TIMES and isinstance(item, float):
        return _moment(item)
    if name in SAID and isinstance(item, str):
        # lazy import: a command that only reads does not redact anything
        from ocwatchd.core.text.redact import reason_of

        return reason_of(item, TEXT_CAP)
    return _cleaned(item, depth)


def _moment(epoch: float) -> str | None:
    try:
        return rfc3339(epoch)
    except (ValueError, OverflowError, OSError):  # the value is NaN, or beyond the calendar
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


def time_of(entry: Mapping[str, object]) -> float:
    """Return the time of an entry, in epoch seconds, or 0 if it has none."""
    try:
        return from_rfc3339(str(entry.get("time")))
    except ValueError:
        return 0.0
