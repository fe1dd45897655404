"""Ways in which programs and users shorten a log without creating a new file: the inode stays, and writers continue."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

PIECE = 64 << 10
"""Number of bytes that OpenCode 2 copies in one step."""


def trim(log: Path, keep: int, piece: int = PIECE) -> Iterator[str]:
    """Shorten a log as OpenCode 2 does: copy its last `keep` bytes, in whole lines, to the beginning, and truncate.

    Yield after each step: "copied" for each piece, then "all copied", then "cut". Lines written while it copies are
    copied too; lines written after "all copied" are lost.
    """
    fd = os.open(log, os.O_RDWR)
    try:
        start = max(os.fstat(fd).st_size - keep, 0)
        while start and (byte := os.pread(fd, 1, start - 1)) and byte != b"\n":
            start += 1
        to = 0
        while data := os.pread(fd, piece, start + to):
            os.pwrite(fd, data, to)
            to += len(data)
            yield "copied"
        yield "all copied"
        os.ftruncate(fd, to)
    finally:
        os.close(fd)
    yield "cut"


def all_of(steps: Iterator[str]) -> None:
    """Run all steps without a pause."""
    for _ in steps:
        pass


def shell(script: str, log: Path, directory: Path) -> None:
    """Run a shell script with $f as the log, and $t as a temporary file outside the log's directory."""
    names = f"f={shlex.quote(str(log))}; t={shlex.quote(str(directory / 'shortened'))}; "
    subprocess.run(["sh", "-ec", names + script], check=True, timeout=60)


BY_HAND = {
    "tail, then cat over it": 'tail -c {keep} "$f" > "$t" && cat "$t" > "$f"',
    "tail of lines, then cat over it": 'tail -n {lines} "$f" > "$t" && cat "$t" > "$f"',
    "cp over it": 'tail -c {keep} "$f" > "$t" && cp "$t" "$f"',
    "dd without truncating, then truncate": 'tail -c {keep} "$f" > "$t"; dd if="$t" of="$f" conv=notrunc status=none;'
    ' truncate -s "$(wc -c < "$t")" "$f"',
    "a new file": 'tail -c {keep} "$f" > "$t" && mv "$t" "$f"',
    "sed in place": "sed -i '1,{drop}d' \"$f\"",
    "without its beginning": 'tail -c +{blocks} "$f" > "$t"; cat "$t" > "$f"',
}
"""Shell scripts with which a user shortens a log. Their fields are the numbers of bytes and lines to keep and
to drop.
"""
