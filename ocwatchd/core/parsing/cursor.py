"""The position up to which a log file was read, with the values needed to recognize the file later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

try:
    # the implementation of hashlib.blake2b, imported directly because hashlib loads OpenSSL (3.6 MiB in an idle daemon)
    from _blake2 import blake2b
except ImportError:  # some builds of Python lack that module
    from hashlib import blake2b


def digest(data: bytes, size: int = 16) -> str:
    """Return a digest of `size` bytes as hex digits."""
    return blake2b(data, digest_size=size).hexdigest()


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in one file. `head` and `before` are hex digests of the file's first bytes and of the bytes before
    `offset`.

    Device and inode alone do not identify a file: ext4 reuses the inode of a deleted file for the next new file.
    `until`, `since` and `told` are the values of a `recent.Recent`; they are needed if the file was changed or
    replaced.
    """

    device: int
    inode: int
    head: str
    head_size: int
    before: str
    before_size: int
    offset: int
    until: float | None = None
    since: float | None = None
    told: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the cursor as a JSON value for the cursor file."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: object) -> Cursor | None:
        """Return the cursor from a value that this or an earlier release created with `as_json`, or None if the value
        is invalid.
        """
        if not isinstance(value, Mapping):
            return None
        device, inode, head, head_size, before, before_size, offset = (value.get(name) for name in _PLACE)
        numbers = [n for n in (device, inode, head_size, before_size, offset) if type(n) is int and n >= 0]
        if len(numbers) != 5 or not isinstance(head, str) or not isinstance(before, str):
            return None
        told = value.get("told")
        return cls(
            numbers[0],
            numbers[1],
            head,
            numbers[2],
            before,
            numbers[3],
            numbers[4],
            _time(value.get("until")),
            _time(value.get("since")),
            tuple(item for item in told if isinstance(item, str)) if isinstance(told, list | tuple) else (),
        )


_PLACE = ("device", "inode", "head", "head_size", "before", "before_size", "offset")


def _time(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        return None
    return float(value)
