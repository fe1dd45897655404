"""A whole log file from its beginning to its end, plain or xz: for `classify` and for tests. Constant memory."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ocwatchd.core.detect import Reading, Seen
from ocwatchd.core.limits import LimitEvent
from ocwatchd.core.rules import RuleSet
from ocwatchd.logs.openlog import CHUNK

_XZ_MAGIC = b"\xfd7zXZ\x00"


def limits_in(path: Path, rules: RuleSet, *, file: str | None = None) -> Iterator[LimitEvent]:
    """Every refusal in the file, in order: sure limits, doubtful words and errors that no rule knows.

    `file` is the name that the events carry (default: the path). xz is told by its first bytes.

    Raises:
        OSError: the file cannot be read.
        lzma.LZMAError: it claims to be xz and is damaged.
    """
    with path.open("rb") as raw:
        yield from limits_from(raw, rules, file=str(path) if file is None else file)


def limits_from(raw: BinaryIO, rules: RuleSet, *, file: str | None = None, chunk: int = CHUNK) -> Iterator[LimitEvent]:
    """The same for an open stream, such as standard input."""
    reading = Reading(rules, file=file)
    for data in _chunks(raw, chunk):
        yield from _only_limits(reading.feed(data))
    yield from _only_limits(reading.rest())


def _chunks(raw: BinaryIO, size: int) -> Iterator[bytes]:
    first = raw.read(size)
    if not first.startswith(_XZ_MAGIC):
        read: Callable[[], bytes] = lambda: raw.read(size)  # noqa: E731
        yield first
        yield from iter(read, b"")
        return
    unpack = lzma.LZMADecompressor()
    data = first
    while data or not unpack.needs_input:
        yield unpack.decompress(data, max_length=size)
        if unpack.eof:  # xz files may be concatenated
            data = unpack.unused_data or raw.read(size)
            unpack = lzma.LZMADecompressor()
        else:
            data = raw.read(size) if unpack.needs_input else b""


def _only_limits(seen: list[Seen]) -> Iterator[LimitEvent]:
    return (item for item in seen if isinstance(item, LimitEvent))
