"""Query OpenCode's message stores in SQLite (from 1.2 on), read-only.

A missing, locked, broken or unknown database yields no rows and raises no error, because any version of OpenCode may be
installed. The file is opened for each query, because a permanent connection would prevent OpenCode from resetting its
WAL. This module imports little, because commands that must start fast use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    import sqlite3

BUSY_WAIT = 0.2
"""Maximum time, in seconds, to wait for a lock. In WAL mode, readers never wait, except for a few milliseconds during a
checkpoint.
"""


def rows(path: str | os.PathLike[str], query: str, *values: object) -> Iterator[sqlite3.Row]:
    """Yield the rows of a query. If the file is broken, the rows before the fault are yielded.

    Texts that are not valid UTF-8, such as half an emoji, are decoded with replacement characters, so that the other
    rows can still be read.
    """
    import sqlite3  # lazy import: takes 1 MiB and 4 ms, and not every command needs it
    from urllib.parse import quote

    try:
        connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=BUSY_WAIT)
    except (sqlite3.Error, OSError):
        return
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = _text
        yield from connection.execute(query, values)
    except (sqlite3.Error, OSError):
        return
    finally:
        connection.close()


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")
