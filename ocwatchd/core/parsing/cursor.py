"""How far one log file was read, and how to know it again. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one file. `head` and `before` are hex digests of the file's first bytes and of those before `offset`.

    Device and inode alone do not tell a file: ext4 gives a deleted file's inode to the next one.
    """

    device: int
    inode: int
    head: str
    head_size: int
    before: str
    before_size: int
    offset: int

    def as_json(self) -> dict[str, object]:
        """For the cursor file."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: object) -> Cursor | None:
        """What `as_json` made; None if it is something else."""
        if not isinstance(value, Mapping):
            return None
        fields = [value.get(name) for name in cls.__slots__]
        device, inode, head, head_size, before, before_size, offset = fields
        numbers = [n for n in (device, inode, head_size, before_size, offset) if type(n) is int and n >= 0]
        if len(numbers) != 5 or not isinstance(head, str) or not isinstance(before, str):
            return None
        return cls(numbers[0], numbers[1], head, numbers[2], before, numbers[3], numbers[4])
