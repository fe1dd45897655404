"""Make logs of any size for the benchmarks: the lines of a recorded log, repeated, with failures spread evenly."""

from __future__ import annotations

import lzma
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "tests" / "corpus" / "recorded"
KINDS = {"new": "1.18.3-serve/opencode.log.xz", "old": "1.2.27-serve/2026-11-22T153825.log.xz"}
"""Recordings of the two current formats: one shared file with reliable tags (1.17 and later), one file per process."""

EARLY = {
    "1.0.98": "1.0.98-serve/2026-11-22T153633.log.xz",
    "1.0.0": "1.0.0-serve/2026-11-22T154224.log.xz",
    "0.5": "0.5.29-serve/2026-11-22T154616.log.xz",
}
"""Formats up to 1.0.152, which do not log the start of a request. From 1.0.98 on, a failure does not name its session
either.
"""

LONGEST = 60_000
"""Maximum size, in bytes, of a recorded failure that is used; a few contain whole conversations."""


def lines_of(kind: str) -> tuple[list[bytes], list[bytes]]:
    """Return the recorded lines without errors, and the failures."""
    with lzma.open(RECORDED / (KINDS | EARLY)[kind]) as file:
        lines = file.read().splitlines(keepends=True)
    errors = [line for line in lines if line.startswith(b"ERROR") or b" level=ERROR " in line[:80]]
    errors_seen = set(errors)
    # one of them imitates a log line
    failed = errors if kind == "new" else [line for line in errors if line.startswith(b"ERROR")]
    quiet = [line for line in lines if line not in errors_seen]
    markers = (b"stream error", b"streamText error")
    return quiet, [line for line in failed if any(words in line for words in markers) and len(line) < LONGEST]


def write(path: Path, kind: str, megabytes: int, per_gigabyte: int) -> int:
    """Write the log, and return the number of failures in it."""
    quiet, failures = lines_of(kind)
    wanted = megabytes * 10**6
    every = 1e9 / per_gigabyte if per_gigabyte else float("inf")
    written, due, count, number = 0, every, 0, 0
    with path.open("wb") as file:
        while written < wanted:
            written += file.write(quiet[number % len(quiet)])
            number += 1
            if written >= due:
                file.write(failures[count % len(failures)])
                count, due = count + 1, due + every
    return count
