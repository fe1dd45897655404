"""Group the journal's lines into episodes. Each episode is about one limited turn, up to its end. Pure functions and
classes.

An episode covers one session from its first limit until its turn continues. A line that concerns no turn (a user's
block, a title request) is a separate episode. Journals of earlier releases, which contain fewer details of each
decision, are supported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocwatchd.core.history.journal_entries import Entry

GOES_ON = frozenset(("moved", "already", "answered", "went_on"))
"""Events after which the turn continues."""
GIVEN_UP = frozenset(("stopped", "user_took_over", "freed"))
"""Events after which the user no longer waits for the turn."""
CLOSING = GOES_ON | GIVEN_UP
OUT_OF_SIGHT = frozenset(("unparked", "unreachable"))
"""Events after which it is unknown whether the turn is still waiting. The session's OpenCode process has ended or is
unreachable.
"""
RESULTS = frozenset(("moved", "already", "target_limited", "refused", "user_took_over", "failed"))
"""The possible results of a claimed move."""
ANOTHER = 600.0
"""Maximum time, in seconds, between an episode and a limit that still belongs to it. The time is counted from the
episode's last line or, if that is later, from the latest known end of a wait.
"""
AFTERWARDS = 60.0
"""Time, in seconds, after the end of an episode during which further lines are still added to it."""


@dataclass(frozen=True, slots=True)
class Move:
    """One attempt to move the turn. Times are epoch seconds.

    `rejected`: whether the move worked at first, but the target then failed in the session.
    """

    claim: Entry
    end: Entry | None
    rejected: bool = False

    @property
    def target(self) -> str:
        """The model to which the turn was to be moved."""
        return self.claim.text("target") or "?"

    @property
    def again(self) -> bool:
        """Whether the move ran the turn again on its own model, which had become available again."""
        return is_again(self.claim)

    @property
    def result(self) -> str:
        """The result of the move: one of `RESULTS`, or `unfinished` if the journal contains no result."""
        return self.end.what if self.end else "unfinished"

    @property
    def seconds(self) -> float | None:
        """Time, in seconds, from the claim to the target's message; None if the move failed."""
        if self.end is None or self.end.what != "moved":
            return None
        found = self.end.number("seconds")
        return found if found is not None and found >= 0 else max(self.end.time - self.claim.time, 0.0)

    @property
    def first_token(self) -> float | None:
        """Time, in seconds, from the start of the run on the target to the beginning of the answer; None if unknown."""
        found = self.end.number("first_token_seconds") if self.end else None
        return found if found is not None and found >= 0 else None

    @property
    def landed(self) -> float | None:
        """When the target's message began, in epoch seconds; None if unknown."""
        seconds = self.seconds
        return None if seconds is None or self.end is None else min(self.claim.time + seconds, self.end.time)


def is_again(entry: Entry) -> bool:
    """Return whether this line is about a turn that ran again on its own model."""
    return entry.what in ("claim", "moved") and entry.model is not None and entry.text("target") == entry.model


@dataclass(frozen=True, slots=True)
class Episode:
    """The lines about one session's limited turn, or one line that concerns no turn. `lines` is never empty, and the
    oldest line is first.
    """

    lines: tuple[Entry, ...]

    @property
    def id(self) -> str:
        """The short id of the episode's first line. A user names the episode with this id."""
        return self.lines[0].short

    @property
    def session(self) -> str | None:
        """The session that was limited."""
        return next((line.session for line in self.lines if line.session), None)

    @property
    def model(self) -> str | None:
        """The model that was limited first."""
        return next((line.model for line in self.lines if line.model), None)

    @property
    def limits(self) -> tuple[Entry, ...]:
        """The lines that report limits."""
        return tuple(line for line in self.lines if line.what == "limit")

    @property
    def turn(self) -> bool:
        """Whether the limit stopped a turn."""
        return any(limit.counts for limit in self.limits) or any(line.what == "claim" for line in self.lines)

    @property
    def began(self) -> float:
        """When the first limit was hit, in epoch seconds."""
        return min(line.refused_at if line.what == "limit" else line.time for line in self.lines)

    @property
    def closing(self) -> Entry | None:
        """The line that ended the episode; None while the episode is open."""
        return next((line for line in reversed(self.lines) if line.what in CLOSING), None)

    @property
    def outcome(self) -> str:
        """The name of the closing line; `open` if there is none, and `noted` if the episode concerns no turn."""
        if self.closing is not None:
            return "went_on" if is_again(self.closing) else self.closing.what
        return "open" if self.turn else "noted"

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every attempt to move the turn."""
        ends = {line.text("claim"): line for line in self.lines if line.what in RESULTS}
        last = {line.text("target"): line for line in self.lines if line.what == "claim"}
        failed = {line.model: line.time for line in self.lines if line.what == "rejected"}

        def rejected(claim: Entry) -> bool:
            target = claim.text("target")
            return last[target] is claim and failed.get(target, 0.0) > claim.time

        claims = (line for line in self.lines if line.what == "claim")
        return tuple(Move(claim, ends.get(claim.text("claim")), rejected(claim)) for claim in claims)

    @property
    def out_of_sight(self) -> bool:
        """Whether the last line shows that the session's OpenCode process has ended or is unreachable."""
        last = self.lines[-1]
        run_ended = last.what == "left" and (last.text("why") or "").startswith("its `opencode run` has ended")
        return run_ended or last.what in OUT_OF_SIGHT

    @property
    def known_end(self) -> float:
        """The latest end of a wait in any line, or the last line's time if that is later, in epoch seconds.

        If the session's OpenCode process has ended or is unreachable, the value is the last line's time.
        """
        if self.out_of_sight:
            return self.lines[-1].time
        return max([self.lines[-1].time, *(end for line in self.lines for end in _ends(line))])

    def recovered(self, now: float) -> float:
        """Return when the turn continued or was given up, in epoch seconds. For an open turn, return `now`, or the
        latest known end of its wait if that is earlier.
        """
        closing = self.closing
        if closing is None:
            return max(min(now, self.known_end), self.began)
        landed = next((move.landed for move in reversed(self.moves) if move.landed is not None), None)
        if closing.what == "moved" and landed is not None:
            return max(landed, self.began)
        asked = closing.moment("began")
        return asked if asked is not None and self.began < asked <= closing.time else max(closing.time, self.began)

    def waited_until(self) -> float | None:
        """Return the end of the wait that a move avoided, in epoch seconds: the later of OpenCode's next attempt and
        the reported reset time.

        Return None if the turn was not moved, or if the only known end is ocwatchd's own estimate.
        """
        moved = [move.claim for move in self.moves if move.result == "moved"]
        if not moved:
            return None
        claim = moved[0]
        found = [claim.moment("shown", "next"), _cooldown_until(claim), *(_reported_ends(self.lines, claim))]
        return max((at for at in found if at is not None), default=None)


def episodes(entries: Iterable[Entry]) -> tuple[Episode, ...]:
    """Return all episodes, in the order in which they began."""
    found: list[_OpenEpisode] = []
    latest: dict[str, _OpenEpisode] = {}
    for entry in entries:
        session = entry.session if entry.what != "limit" or entry.counts else None
        current = latest.get(session) if session else None
        if current is None or not current.takes(entry):
            current = _OpenEpisode()
            found.append(current)
            if session:
                latest[session] = current
        current.add(entry)
    return tuple(Episode(tuple(current.lines)) for current in found)


class _OpenEpisode:
    """An episode whose lines are still being read. It caches the values that are needed for every new line."""

    def __init__(self) -> None:
        self.lines: list[Entry] = []
        self.closed: float | None = None
        self.end = 0.0

    def add(self, entry: Entry) -> None:
        self.lines.append(entry)
        self.end = max([self.end, entry.time, *_ends(entry)])
        if entry.what in CLOSING:
            self.closed = entry.time

    def takes(self, entry: Entry) -> bool:
        if self.closed is not None:
            return entry.what != "limit" and entry.time - self.closed <= AFTERWARDS
        return entry.what != "limit" or entry.time <= self.end + ANOTHER


def _ends(line: Entry) -> list[float]:
    return [at for at in (line.moment("until"), line.moment("shown", "next")) if at is not None]


def _cooldown_until(claim: Entry) -> float | None:
    return None if claim.text("rests", "reset_source") in (None, "estimate") else claim.moment("rests", "until")


def _reported_ends(lines: Sequence[Entry], claim: Entry) -> list[float]:
    """Return the reset times, in epoch seconds, that earlier lines contain for the claim's model. They are needed
    because claims in the journals of earlier releases contain no reset times.
    """
    before = [line for line in lines if line.what in ("limit", "told") and line.time <= claim.time]
    return [end for line in before if line.model == claim.model and (end := line.reported_until) is not None]
