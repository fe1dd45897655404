"""Record the faults that do not stop the daemon: internal errors, and our own files that cannot be written.

Each fault is reported once on standard error, and shown by `ocwatch status`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from ocwatchd.core.text.redact import reason_of

MAX_KINDS = 32
"""Maximum number of kinds of faults to distinguish; further kinds are only counted."""

MAX_PLACES = 100
"""Maximum number of context managers kept for reuse, one per part of the daemon."""

SHOWN = 3600.0
"""Time, in seconds, for which a fault is shown after its last occurrence."""

_TEXT_CAP = 200
"""Maximum length of a fault's message, which may quote the data that caused it."""


@dataclass(slots=True)
class _Kind:
    words: str
    times: int = 0
    last: float = 0.0


class _SurvivedFault:
    """The context manager returned by `Faults.survived`. It has no state, so it is reused in each round of the loop.

    A generator-based context manager would need six more calls each time, and an idle daemon enters 16 of these
    contexts per second.
    """

    __slots__ = ("_note", "_where")

    def __init__(self, note: Callable[[str, BaseException], None], where: str) -> None:
        self._note, self._where = note, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(fault, Exception):
            return False
        self._note(self._where, fault)
        return True


class Faults:
    """Collects the internal faults of the daemon, grouped by the place where they occurred. Thread-safe."""

    def __init__(self, say: Callable[[str], None], now: Callable[[], float]) -> None:
        """`say` is called with one line when a kind of fault occurs for the first time. `now` returns epoch seconds."""
        self._say, self._now = say, now
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._survivals: dict[str, _SurvivedFault] = {}
        self._lock = threading.Lock()
        self.count = 0
        """Number of faults so far, of all kinds."""

    def note(self, where: str, fault: BaseException) -> None:
        """Count a fault in the part `where` of the daemon, and report it if its kind is new."""
        place = _place(fault)
        key = (where, type(fault).__name__, place)
        with self._lock:
            self.count += 1
            new = key not in self._kinds and len(self._kinds) < MAX_KINDS
            if new:
                words = reason_of(f"{type(fault).__name__}: {fault}", _TEXT_CAP)
                self._kinds[key] = _Kind(f"internal fault in {where} ({place}): {words}")
            kind = self._kinds.get(key)
            if kind is not None:
                kind.times, kind.last = kind.times + 1, self._now()
        if new and kind is not None:
            self._say(f"{kind.words}; ocwatchd keeps running")

    def survived(self, where: str) -> _SurvivedFault:
        """Return a context manager that records an exception in its block and suppresses it."""
        known = self._survivals.get(where)
        if known is None:
            known = _SurvivedFault(self.note, where)
            if len(self._survivals) < MAX_PLACES:
                self._survivals[where] = known
        return known

    def health(self) -> list[str]:
        """Return a message for each kind of fault that occurred within the last `SHOWN` seconds."""
        now = self._now()
        with self._lock:
            late = [kind for kind in self._kinds.values() if abs(now - kind.last) < SHOWN]
            return [kind.words if kind.times == 1 else f"{kind.words}, {kind.times} times" for kind in late]


class FileHealth:
    """Tracks which of our own files cannot be written or read. Not thread-safe: only the main thread uses it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` prints one line to standard error."""
        self.say = say
        self._faults: dict[str, str] = {}

    def fail(self, matter: str, why: str) -> None:
        """Report that a file cannot be written, unless this has already been reported. The content is kept in
        memory.
        """
        if self.note(matter, why):
            self.say(f"{why}; ocwatchd keeps the data in memory and tries again")

    def note(self, matter: str, why: str) -> bool:
        """Record a fault of a file, so that `ocwatch status` shows it. Return whether the fault is new."""
        new = self._faults.get(matter) != why
        self._faults[matter] = why
        return new

    def recover(self, matter: str) -> None:
        """Report that the file can be written again, if a fault was recorded for it."""
        if self.clear(matter):
            self.say(f"the {matter} can be written again")

    def clear(self, matter: str) -> bool:
        """Delete the recorded fault of this file. Return whether there was one."""
        return self._faults.pop(matter, None) is not None

    def problems(self) -> list[str]:
        """Return a message for each file that has a fault."""
        return list(self._faults.values())


def _place(fault: BaseException) -> str:
    """Return `module:line` of the innermost frame of our own code."""
    at, found = fault.__traceback__, "?"
    while at is not None:
        module = str(at.tb_frame.f_globals.get("__name__", "?"))
        if module.startswith("ocwatchd.") or found == "?":
            found = f"{module}:{at.tb_lineno}"
        at = at.tb_next
    return found
