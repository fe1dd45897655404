"""A whole log from its beginning to its end, plain or xz: for `classify` and for tests. Constant memory."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from ocwatchd.core.detect import Seen
from ocwatchd.core.limits import LimitEvent
from ocwatchd.core.reading import Reading
from ocwatchd.core.rules import RuleSet

CHUNK = 512 << 10
"""Bytes per read. 1 MiB takes as long and up to 8 MiB more memory with an old log, 128 KiB a tenth longer."""

_XZ_MAGIC = b"\xfd7zXZ\x00"


def limits_in(path: Path, rules: RuleSet, *, file: str | None = None) -> Iterator[LimitEvent]:
    """Every refusal in the file, in order: sure limits, doubtful words and errors that no rule knows.

    `file` is the name that the events carry (default: the path). xz is told by its first bytes.

    Raises:
        OSError: the file cannot be read.
        lzma.LZMAError, EOFError: it claims to be xz and is damaged, or cut off.
    """
    with path.open("rb") as raw:
        yield from limits_from(raw, rules, file=str(path) if file is None else file, mixed=False)


def limits_from(
    raw: BinaryIO, rules: RuleSet, *, file: str | None = None, chunk: int = CHUNK, mixed: bool = True
) -> Iterator[LimitEvent]:
    """The same for an open stream, such as standard input, which may be several logs in a row (`mixed`)."""
    reading, stream = Reading(rules, file=file, mixed=mixed), plain(raw)
    while data := stream.read(chunk):
        yield from _only_limits(reading.feed(data))
    yield from _only_limits(reading.rest())


def plain(raw: BinaryIO) -> BinaryIO:
    """The stream, unpacked if it is xz."""
    buffered = raw if hasattr(raw, "peek") else BufferedReader(cast("BufferedReader", raw))
    packed = buffered.peek(len(_XZ_MAGIC)).startswith(_XZ_MAGIC)
    return cast("BinaryIO", lzma.LZMAFile(buffered) if packed else buffered)


def _only_limits(seen: list[Seen]) -> Iterator[LimitEvent]:
    return (item for item in seen if isinstance(item, LimitEvent))
