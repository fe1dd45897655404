"""The journal's last lines, without reading the rest: for completion at every Tab, and for `watch` every second."""

from __future__ import annotations

import json

from ocwatchd.cli.places import state_file

TAIL = 64 << 10
"""Bytes at the journal's end: the last hundred lines or so."""


def last_lines(tail: int = TAIL) -> list[dict[str, object]]:
    """The objects in the journal's last `tail` bytes; a first line that is cut is passed over. Never raises."""
    try:
        with open(state_file("journal.jsonl"), "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - tail, 0))
            lines = file.read(tail).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [entry for entry in found if isinstance(entry, dict)]
