"""Collect journal lines and write them together. Durable lines are on disk when `note` returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ocwatchd.core.engine.messages import Aborted, Note, TakenOver
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.daemon.faults import FileHealth
from ocwatchd.daemon.recovery import ENDS, Place, PreviousRun, place_of, previous_run
from ocwatchd.own_log import clean_fields
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal, plain, time_of

CLAIMED_BEFORE = 60.0
"""Maximum time, in seconds, from the claim of a move to the abort of its turn. It is usually less than 1 s, but a busy
OpenCode has taken 11 s to carry out an abort, and a move waits up to 30 s for it.
"""
LOG_CLOCK = 1.0
"""Resolution of timestamps, in seconds, in log formats before 1.17."""
MAX_UNWRITTEN = 256
"""Maximum number of pending notes. They are written together, because locking and opening the file costs more than
writing a line.
"""
MAX_KEPT = 2000
"""Maximum number of notes kept while the journal cannot be written, about 1.2 MB; the oldest are dropped first."""


class JournalBuffer:
    """Gives the daemon access to the journal. Not thread-safe: only the main thread uses it."""

    def __init__(self, journal: Journal, health: FileHealth) -> None:
        """Store the arguments. Notes are written to `journal`, and faults of its file are reported to `health`."""
        self._journal, self._health = journal, health
        self._lines: deque[bytes] = deque(maxlen=MAX_KEPT)
        self._known: frozenset[Place] = frozenset()

    def note(self, note: Note) -> None:
        """Print the note on standard error and add it to the buffer. A durable note is written immediately."""
        if note.what == "limit" and self._known and place_of(plain(note.fields)) in self._known:
            return
        said = plain({key: value for key, value in note.fields.items() if not isinstance(value, (dict, list))})
        self._health.say(clean_fields(note.what, {key: value for key, value in said.items() if value is not None}))
        self._lines.append(self._journal.line({"what": note.what, **note.fields}))
        if note.durable or len(self._lines) % MAX_UNWRITTEN == 0:
            self.write(note.durable)

    def write(self, durable: bool = False) -> None:
        """Write the pending notes. Call this when the loop is idle, and before an action that relies on the notes."""
        if not self._lines:
            return
        try:
            self._journal.write(self._lines, durable)
        except StateError as fault:
            self._health.fail("journal", str(fault))
        else:
            self._health.recover("journal")
            self._lines.clear()

    def previous_run(self, since: float, cursors: Mapping[str, Cursor], beat: float | None) -> PreviousRun:
        """Return the work that the previous run left unfinished, according to the journal.

        From then on, `note` ignores limits that the journal already contains.
        """
        last = previous_run(self._journal.read(), since, cursors, beat)
        self._known = last.recorded
        return last

    def origin_of(self, abort: Aborted) -> Aborted | TakenOver:
        """Return `TakenOver` if the abort belongs to a move that another program has claimed and had not finished
        before; otherwise, return the abort.
        """
        self.write()
        claims: set[object] = set()
        for entry in self._journal.read(abort.time - CLAIMED_BEFORE):
            others = entry.get("what") == "claim" and "by" in entry
            if others and abort.session in (entry.get("session"), entry.get("moved")):
                claims.add(entry.get("claim"))
            elif entry.get("what") in ENDS and time_of(entry) < abort.time - LOG_CLOCK:
                claims.discard(entry.get("claim"))
        return TakenOver(abort.session) if claims else abort
