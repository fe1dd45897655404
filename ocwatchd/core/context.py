"""What came before a failure of the old dialects: held as raw bytes until one shows, then thinned to what can matter.

Their tags lie, so who failed is proved by what is under way. Of thousands of lines between two failures that proof
needs, for every start of a stream and for every session, the first (what became of what was under way before) and the
last (what is under way now): all between them leaves no trace in `Attempts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from ocwatchd.core.dialects import FAILURE
from ocwatchd.core.lines import Line

HELD = 4 << 20
"""Bytes without a failure that are kept for the next one: some 30,000 lines, minutes of four sessions that stream."""

_TURNS = (b" loop", b" cancel", b" prompt", b"locking", b" chatting")
_OFTEN = (b" stream", b" getModel", b" found", b" provider", *_TURNS)
_ONCE = (b"rror", b" created", b" retrying with backoff")
TELLING = _OFTEN + _ONCE
"""How the lines end that can tell whose a failure is; what else ends so is kept for nothing, and dropped later."""


class Held:
    """The chunks of a file that were not read yet, the last `HELD` bytes of them at least. `gap`: some were let go."""

    def __init__(self, offset: int) -> None:
        """The next chunk begins at this offset of the file."""
        self._chunks: deque[bytes] = deque()
        self._begin = offset
        self._size = 0
        self._end_of_last = b""
        self.gap = False

    def __bool__(self) -> bool:
        """Whether anything is held: then no failure is unread."""
        return bool(self._chunks)

    def holds_no_failure(self, chunk: bytes) -> bool:
        """Whether no failure stands in the chunk, nor across its beginning."""
        across = self._end_of_last + chunk[: len(FAILURE)]
        return FAILURE not in chunk and FAILURE not in across

    def add(self, chunk: bytes) -> None:
        """Keep it for the next failure."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._end_of_last = (self._end_of_last + chunk[-len(FAILURE) :])[-len(FAILURE) :]
        while self._size - len(self._chunks[0]) >= HELD:
            gone = self._chunks.popleft()
            self._size -= len(gone)
            self._begin += len(gone)
            self.gap = True

    def passed(self, chunk: bytes) -> None:
        """The chunk was read; nothing is held at this moment."""
        self._begin += len(chunk)
        self._end_of_last = (self._end_of_last + chunk[-len(FAILURE) :])[-len(FAILURE) :]

    def begin_at_line(self) -> int:
        """Let the unfinished line at the beginning go, too; the offset of the next one."""
        while self._chunks:
            chunk = self._chunks.popleft()
            cut = chunk.find(b"\n") + 1 or len(chunk)
            self._begin += cut
            self._size -= cut
            if cut < len(chunk):
                self._chunks.appendleft(chunk[cut:])
                break
        return self._begin

    def take(self) -> Iterable[bytes]:
        """All chunks, in order; nothing is held any more."""
        chunks, self._chunks = self._chunks, deque()
        self._begin += self._size
        self._size, self.gap = 0, False
        return chunks


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
