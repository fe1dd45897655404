"""What came before a failure of the old dialects: held as raw bytes until one shows, then thinned to what can matter.

Their tags lie, so who failed is proved by what is under way. Of thousands of lines between two failures that proof
needs, for every start of a stream and for every session, the first (what became of what was under way before) and the
last (what is under way now): all between them leaves no trace in `Attempts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from ocwatchd.core.dialects import FAILURE
from ocwatchd.core.lines import LINE_CAP, Line

HELD = 4 << 20
"""Bytes without a failure that are kept for the next one: some 30,000 lines, minutes of four sessions that stream."""

_TURNS = (b" loop", b" cancel", b" prompt", b"locking", b" chatting")
_OFTEN = (b" stream", b" getModel", b" found", b" provider", *_TURNS)
_ONCE = (b"rror", b" created", b" retrying with backoff")
TELLING = _OFTEN + _ONCE
"""How the lines end that can tell whose a failure is; what else ends so is kept for nothing, and dropped later."""


class Held:
    """The bytes of a file that were not read yet: all since the last failure, or the last `HELD` of them at least.

    `begin` is the offset of the first. `gap`: some before it were let go. `failure_from`: the offset from which on a
    failure may stand; None if there is none.
    """

    def __init__(self, offset: int) -> None:
        """The next chunk begins at this offset of the file."""
        self._chunks: deque[bytes] = deque()
        self.keep(b"", offset)

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._chunks or self._kept)

    def keep(self, rest: bytes, begin: int, *, fails: bool = False) -> None:
        """Hold this and nothing else: what is left behind the last failure told. `fails`: there is one in it."""
        self._kept, self.begin = rest, begin
        self._chunks.clear()
        self._size, self.gap = 0, False
        self._end_of_last = rest[-len(FAILURE) :]
        self.failure_from = begin if fails else None

    def add(self, chunk: bytes) -> bool:
        """Keep it, too. Whether a failure may now be finished, or is too long to be waited for."""
        across = self._end_of_last + chunk[: len(FAILURE)]
        self._end_of_last = (self._end_of_last + chunk[-len(FAILURE) :])[-len(FAILURE) :]
        end = self.begin + len(self._kept) + self._size
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self.failure_from is None and (chunk.rfind(FAILURE) >= 0 or FAILURE in across):
            self.failure_from = max(end - len(FAILURE), self.begin)
        if self.failure_from is not None:
            return b"\n" in chunk or end + len(chunk) - self.failure_from > LINE_CAP
        while self._size - len(self._chunks[0]) >= HELD:
            self._let_go()
        return False

    def _let_go(self) -> None:
        gone = self._chunks.popleft()
        self._size -= len(gone)
        self.begin += len(self._kept) + len(gone)
        self._kept, self.gap = b"", True

    def take(self, size: int = 0) -> bytes:
        """The first bytes held, `size` of them at least, 0 for all; they are held no more.

        After a gap the first take drops what is left of an unfinished line.
        """
        parts, taken = [self._kept] if self._kept else [], len(self._kept)
        while self._chunks and (not size or taken < size):
            part = self._chunks.popleft()
            parts.append(part)
            taken += len(part)
        self._size -= taken - len(self._kept)
        self.begin += taken
        data, self._kept = parts[0] if len(parts) == 1 else b"".join(parts), b""
        if self.gap:
            data, self.gap = data[data.find(b"\n") + 1 or len(data) :], False
        return data


def telling(lines: Collection[Line]) -> list[Line]:
    """Of the lines up to a failure those that can tell whose it is, in order.

    Only where the log tells when streams begin (1.0.185 and later): without that, who asks what is told by the order
    of all lines.
    """
    if not any(line.data.endswith(b" stream") for line in lines):
        return list(lines)
    first: dict[bytes, Line] = {}
    last: dict[bytes, Line] = {}
    kept: dict[int, Line] = {}
    for line in lines:
        data = line.data
        if data.endswith(_ONCE):
            kept[line.offset] = line
        elif data.endswith(_OFTEN):
            key = _key(data)
            first.setdefault(key, line)
            last[key] = line
    for line in (*first.values(), *last.values()):
        kept[line.offset] = line
    return [kept[offset] for offset in sorted(kept)]


def _key(data: bytes) -> bytes:
    """What a line is the first or the last of: the start of a stream with these tags, a session's turn, a model."""
    if data.endswith(_TURNS):
        at = data.find(b" sessionID=")
        return data[at : data.find(b" ", at + 1)] if at >= 0 else data
    return data[data.find(b" service=") :]
