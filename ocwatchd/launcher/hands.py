"""The launcher's arms: as the daemon's, but notices become the story on standard error, and one of the two writes.

With the daemon up the register is its to write: it counts each refusal once. What it has not entered after a while (its
eyes may be elsewhere) is entered here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.messages import Effect, Note, Tell
from ocwatchd.hands import Hands
from ocwatchd.launcher.transform import until_words
from ocwatchd.state import blacklist, heartbeat
from ocwatchd.state.files import StateError

GRACE = 2.5
"""Seconds that the daemon gets to enter a refusal; OpenCode's log reaches the disk up to a second late."""


class LaunchHands(Hands):
    """`tell` takes lines of the story."""

    tell: Callable[[str], None] = staticmethod(print)
    _since: float | None = None
    _told: str | None = None

    def do(self, effects: Sequence[Effect]) -> None:
        """All but the notices: this session's person reads standard error."""
        super().do([effect for effect in effects if not isinstance(effect, Tell)])

    def save(self, at_once: bool = False) -> None:
        """Write what is not yet in the register, unless the daemon is about to."""
        if not self._unsaved:
            return
        now = self._clock.now()
        if heartbeat.read(self._paths.heartbeat).state(now) != heartbeat.State.UP:
            self._since = None
            super().save(at_once)
            return
        self._leave_to_others(now)
        self._since = now if self._since is None else self._since
        if at_once or now - self._since >= GRACE:
            self._fill_gaps(now)
            self._since = None

    @property
    def save_due(self) -> float | None:
        """When what is unsaved may be written, epoch seconds."""
        if self._unsaved and self._since is not None:
            return self._since + GRACE
        return super().save_due

    def _leave_to_others(self, now: float) -> None:
        """What somebody has written of meanwhile is known to the daemon: if it is gone later, a person cleared it."""
        entries = blacklist.read(self._paths.blacklist).cooldowns
        self._unsaved = {m: e for m, e in self._unsaved.items() if self.register.untouched(m, entries, now)}

    def _fill_gaps(self, now: float) -> None:
        """Enter what the daemon does not know."""

        def merge(entries: dict[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
            untouched = {m: e for m, e in self._unsaved.items() if self.register.untouched(m, entries, now)}
            resting = {model for model, entry in entries.items() if entry.active(now)}
            return entries | {m: e for m, e in untouched.items() if e is not None and m not in resting}

        with suppress(StateError):  # said by the daemon, whose file it is
            blacklist.update(self._paths.blacklist, merge, now)
        self._unsaved.clear()
        self.register.forget()

    def _note(self, note: Note) -> None:
        line = _story(note)
        if line and line != self._told:  # a guard that holds is asked again and again
            self.tell(line)
        self._told = line or self._told
        with suppress(StateError):
            self._journal.append({"what": note.what, **note.fields, "by": "oc-smart"}, note.durable)


def _story(note: Note) -> str | None:
    """A line for the person; None for what only the journal wants."""
    about = note.fields
    until = about.get("until")
    match note.what:
        case "limit":
            end = until_words(until) if isinstance(until, float) else "until a person clears it"
            return f"{about['model']} is limited {end}: {about.get('reason') or 'no reason given'}"
        case "claim":
            return f"moving to {about['target']}"
        case "moved":
            return f"{about['target']} goes on"
        case "wait":
            return f"left to OpenCode's own retry: {about['why']}"
        case "left":
            return f"left as it is: {about['why']}"
        case "failed":
            return f"could not be moved to {about['target']}: {about['why']}"
        case _:
            return None
