"""Carry out the engine's effects in the launcher: print notes on standard error, and leave the blacklist to a running
daemon.

If a daemon is running, it writes the blacklist, so that each refused attempt is counted once. The launcher writes only
the cooldowns that are still missing after a while, because the daemon may follow other logs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ocwatchd.clock import Clock
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.types import ModelRef, ResetSource
from ocwatchd.core.engine.messages import Answer, BlacklistChanged, Note, Notify, Remember, SaveBlacklist, Shown
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.effects import Handlers, at_endpoints
from ocwatchd.daemon.opencode_work import OpenCodeWork
from ocwatchd.launcher.transform import until_words
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.sync import SharedBlacklist
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal

GRACE = 2.5
"""Time, in seconds, that a running daemon is given to write a cooldown. OpenCode's log reaches the disk up to a second
late.
"""


class YieldingWriter:
    """Writes the blacklist if no daemon is running; otherwise, writes only what the daemon has not written within
    `GRACE`.
    """

    def __init__(self, writer: BlacklistWriter, shared: SharedBlacklist, paths: Paths, clock: Clock) -> None:
        """Store the arguments. `writer` writes to `shared`."""
        self._writer, self._shared, self._paths, self._clock = writer, shared, paths, clock
        self._since: float | None = None

    def add(self, effect: SaveBlacklist) -> None:
        """Queue these changes for the next `save`."""
        self._writer.add(effect)

    def news(self) -> BlacklistChanged | None:
        """Return the blacklist if another program has changed it since the last write or check; otherwise, return
        None.
        """
        return self._writer.news()

    def save(self, at_once: bool = False) -> None:
        """Write the unsaved changes, unless a running daemon may still write them."""
        if not self._writer.unsaved:
            return
        now = self._clock.now()
        if heartbeat.read(self._paths.heartbeat).state(now) != heartbeat.State.UP:
            self._since = None
            self._writer.save(at_once)
            return
        self._leave_to_others(now)
        self._since = now if self._since is None else self._since
        if at_once or now - self._since >= GRACE:
            self._fill_gaps(now)
            self._since = None

    def _leave_to_others(self, now: float) -> None:
        """Discard the changes to models whose entries another program has written in the meantime; the daemon handles
        these models.

        If such an entry disappears later, a user has cleared it.
        """
        entries = blacklist.read(self._paths.blacklist).cooldowns
        unsaved = self._writer.unsaved
        if any(_knows_more(e, entries.get(m), now) for m, e in unsaved.items()):
            self._update(self._with_known_ends, now)
        self._writer.drop(m for m in unsaved if not self._shared.untouched(m, entries, now))

    def _with_known_ends(self, entries: dict[ModelRef, Cooldown], now: float) -> dict[ModelRef, Cooldown]:
        unsaved = self._writer.unsaved
        known = {m: (e, entries[m]) for m, e in unsaved.items() if _knows_more(e, entries.get(m), now)}
        ends = {
            m: replace(theirs, until=ours.until, reset_source=ours.reset_source)
            for m, (ours, theirs) in known.items()
            if ours is not None
        }
        return entries | ends

    def _update(self, merge: Callable[[dict[ModelRef, Cooldown], float], dict[ModelRef, Cooldown]], now: float) -> None:
        with suppress(StateError):  # the daemon reports this fault
            blacklist.update(self._paths.blacklist, lambda entries: merge(entries, now), now)

    def _fill_gaps(self, now: float) -> None:
        """Write the cooldowns that the daemon has not written."""

        def merge(entries: dict[ModelRef, Cooldown], now: float) -> dict[ModelRef, Cooldown]:
            unsaved = self._writer.unsaved
            untouched = {m: e for m, e in unsaved.items() if self._shared.untouched(m, entries, now)}
            cooling = {model for model, entry in entries.items() if entry.active(now)}
            return entries | {m: e for m, e in untouched.items() if e is not None and m not in cooling}

        self._update(merge, now)
        self._writer.drop(self._writer.unsaved)
        self._shared.forget()


class RunNotes:
    """Prints the notes of a supervised run for the user, and writes them to the journal."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        """Store the arguments. `tell` prints a line to standard error."""
        self._journal, self._tell = journal, tell
        self._last_line: str | None = None

    def note(self, note: Note) -> None:
        """Print one note, and write it to the journal."""
        line = _story(note)
        if line and line != self._last_line:  # a guard that blocks a move adds the same note at every attempt
            self._tell(line)
        self._last_line = line or self._last_line
        with suppress(StateError):
            self._journal.append({"what": note.what, **note.fields, "by": "oc-smart"}, note.durable)


def launcher_handlers(
    writer: YieldingWriter, story: RunNotes, opencode: OpenCodeWork, remember: Callable[[Remember], None]
) -> Handlers:
    """Return the launcher's handlers. Desktop notices are ignored, because the user reads standard error."""

    def save(effect: SaveBlacklist) -> None:
        writer.add(effect)
        writer.save()

    def ignore(_: Shown | Answer | Notify) -> None:
        """Ignore the effect: no plugin queries the launcher, and the launcher does not record counted limits."""

    return {
        **at_endpoints(opencode),
        SaveBlacklist: save,
        Note: story.note,
        Remember: remember,
        Shown: ignore,
        Answer: ignore,
        Notify: ignore,
    }


def _knows_more(ours: Cooldown | None, theirs: Cooldown | None, now: float) -> bool:
    """Return whether our entry has a reported reset time, and this time is later than the estimated reset time of the
    other entry.

    The daemon may have only an estimate: the launcher probes its own process and then moves the run immediately, so a
    daemon that probes later gets no response.
    """
    if ours is None or theirs is None or not theirs.active(now) or theirs.reset_source is not ResetSource.ESTIMATE:
        return False
    told = ours.reset_source in (ResetSource.RETRY_AFTER, ResetSource.STATUS, ResetSource.TEXT)
    return told and ours.until is not None and theirs.until is not None and ours.until > theirs.until


def _story(note: Note) -> str | None:
    """Return the line to print for the user, or None if the note is only written to the journal."""
    about = note.fields
    until = about.get("until")
    match note.what:
        case "limit":
            end = until_words(until) if isinstance(until, float) else "until you clear it"
            return f"{about['model']} is limited {end}: {about.get('reason') or 'no reason given'}"
        case "stalled":
            return str(about["why"])
        case "claim":
            return f"moving to {about['target']}"
        case "moved":
            return f"{about['target']} continues"
        case "wait":
            return f"left to OpenCode's own retry: {about['why']}"
        case "left":
            return f"not moved: {about['why']}"
        case "failed":
            return f"the session could not be moved to {about['target']}: {about['why']}"
        case _:
            return None
