"""Read a whole log, plain or compressed with xz, in constant memory, for `classify` and for tests."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.detect import Seen
from ocwatchd.core.parsing.reader import Reading

CHUNK = 512 << 10
"""Number of bytes per read. Reading 1 MiB at a time is not faster, but needs up to 8 MiB more memory for an old log.
Reading 128 KiB at a time takes 10 % longer.
"""

_XZ_MAGIC = b"\xfd7zXZ\x00"


def limits_in(path: Path, rules: RuleSet, *, file: str | None = None) -> Iterator[LimitEvent]:
    """Yield all refused attempts in a file, in order: certain limits, doubtful limits, and errors that match no rule.

    `file` is the file name in the events (default: the path). A compressed file is recognized by its first bytes.

    Raises:
        OSError: The file cannot be read.
        lzma.LZMAError: The compressed file is damaged.
        EOFError: The compressed file is truncated.
    """
    with path.open("rb") as raw:
        yield from limits_from(raw, rules, file=str(path) if file is None else file, mixed=False)


def limits_from(
    raw: BinaryIO, rules: RuleSet, *, file: str | None = None, chunk: int = CHUNK, mixed: bool = True
) -> Iterator[LimitEvent]:
    """Yield all refused attempts in an open stream, such as standard input.

    `mixed`: whether the stream may contain several concatenated logs.
    """
    reading, stream = Reading(rules, file=file, mixed=mixed), plain(raw)
    while data := stream.read(chunk):
        yield from _only_limits(reading.feed(data))
    yield from _only_limits(reading.finish())


def plain(raw: BinaryIO) -> BinaryIO:
    """Return a stream with the uncompressed content of `raw`. Content that is compressed with xz is decompressed while
    it is read.
    """
    buffered = raw if hasattr(raw, "peek") else BufferedReader(cast("BufferedReader", raw))
    packed = buffered.peek(len(_XZ_MAGIC)).startswith(_XZ_MAGIC)
    return cast("BinaryIO", lzma.LZMAFile(buffered) if packed else buffered)


def _only_limits(seen: list[Seen]) -> Iterator[LimitEvent]:
    return (item for item in seen if isinstance(item, LimitEvent))
