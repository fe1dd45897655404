"""Read only the last lines of the journal. Completion does this whenever Tab is pressed, and `watch` does it every
second.
"""

from __future__ import annotations

import json

from ocwatchd.errors import NotAFile
from ocwatchd.ownership import open_plain
from ocwatchd.paths import state_file

TAIL = 64 << 10
"""Maximum number of bytes read from the end of the journal: about a hundred lines."""


def last_lines(tail: int = TAIL) -> list[dict[str, object]]:
    """Return the objects in the journal's last `tail` bytes. An incomplete first line is skipped. Never raises."""
    try:
        with open(open_plain(state_file("journal.jsonl")), "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - tail, 0))
            lines = file.read(tail).splitlines()
    except (OSError, NotAFile):
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [entry for entry in found if isinstance(entry, dict)]
