"""What happened, told from the journal: which lines belong to one limited turn, and how it ended. Pure.

An episode is one session's trouble from its first refusal until it goes on; what concerns no turn (a block by hand, a
title request) is an episode of one line. Old journals, which say less of each decision, are read as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocwatchd.core.entries import Entry

GOES_ON = frozenset(("moved", "already", "answered", "went_on"))
"""Lines after which the turn runs again."""
GIVEN_UP = frozenset(("stopped", "user_took_over", "freed"))
"""Lines after which nobody waits for it any more."""
CLOSING = GOES_ON | GIVEN_UP
RESULTS = frozenset(("moved", "already", "target_limited", "refused", "user_took_over", "failed"))
"""How a claimed move can end."""
ANOTHER = 600.0
"""Seconds without news, beyond every known end, after which a new refusal is another matter."""
AFTERWARDS = 60.0
"""Seconds within which a line still belongs to the episode that has just ended."""


@dataclass(frozen=True, slots=True)
class Move:
    """One attempt to move the turn. `seconds` is from its claim to the target's message; times in epoch seconds.

    `rejected`: it worked at first, and then the target failed the session all the same.
    """

    claim: Entry
    end: Entry | None
    rejected: bool = False

    @property
    def target(self) -> str:
        """The model that was moved to."""
        return self.claim.text("target") or "?"

    @property
    def result(self) -> str:
        """One of `RESULTS`; `unfinished` if nothing tells how it ended."""
        return self.end.what if self.end else "unfinished"

    @property
    def seconds(self) -> float | None:
        """How long it took, if it worked."""
        if self.end is None or self.end.what != "moved":
            return None
        told = self.end.number("seconds")
        return told if told is not None and told >= 0 else max(self.end.time - self.claim.time, 0.0)

    @property
    def first_token(self) -> float | None:
        """Seconds from the start of the target's run to the beginning of its answer."""
        told = self.end.number("first_token_seconds") if self.end else None
        return told if told is not None and told >= 0 else None

    @property
    def landed(self) -> float | None:
        """When the target's message was seen to begin."""
        seconds = self.seconds
        return None if seconds is None or self.end is None else min(self.claim.time + seconds, self.end.time)


@dataclass(frozen=True, slots=True)
class Episode:
    """One session's trouble, or one line that concerns no turn. `lines` is never empty, oldest first."""

    lines: tuple[Entry, ...]

    @property
    def id(self) -> str:
        """What a person types for it: its first line's short id."""
        return self.lines[0].short

    @property
    def session(self) -> str | None:
        """The session that was stuck."""
        return next((line.session for line in self.lines if line.session), None)

    @property
    def model(self) -> str | None:
        """The model that refused first."""
        return next((line.model for line in self.lines if line.model), None)

    @property
    def limits(self) -> tuple[Entry, ...]:
        """The refusals."""
        return tuple(line for line in self.lines if line.what == "limit")

    @property
    def turn(self) -> bool:
        """Whether somebody's turn was stopped by it."""
        return any(limit.counts for limit in self.limits) or any(line.what == "claim" for line in self.lines)

    @property
    def began(self) -> float:
        """When the first refusal happened, epoch seconds."""
        return min(line.refused_at if line.what == "limit" else line.time for line in self.lines)

    @property
    def closing(self) -> Entry | None:
        """The line that ended it; None while it is open."""
        return next((line for line in reversed(self.lines) if line.what in CLOSING), None)

    @property
    def outcome(self) -> str:
        """The word of its end; `open` without one, and `noted` if it concerns no turn."""
        if self.closing is not None:
            return self.closing.what
        return "open" if self.turn else "noted"

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every attempt to move it."""
        ends = {line.text("claim"): line for line in self.lines if line.what in RESULTS}
        last = {line.text("target"): line for line in self.lines if line.what == "claim"}
        failed = {line.model: line.time for line in self.lines if line.what == "rejected"}

        def rejected(claim: Entry) -> bool:
            target = claim.text("target")
            return last[target] is claim and failed.get(target, 0.0) > claim.time

        claims = (line for line in self.lines if line.what == "claim")
        return tuple(Move(claim, ends.get(claim.text("claim")), rejected(claim)) for claim in claims)

    @property
    def known_end(self) -> float:
        """The latest end of a wait that any line tells, or the last line's own time; epoch seconds."""
        return max([self.lines[-1].time, *(end for line in self.lines for end in _ends(line))])

    def recovered(self, now: float) -> float:
        """When the turn went on or was given up; of an open one, how far the time that it cost is known at `now`."""
        closing = self.closing
        if closing is None:
            return max(min(now, self.known_end), self.began)
        landed = next((move.landed for move in reversed(self.moves) if move.landed is not None), None)
        if closing.what == "moved" and landed is not None:
            return max(landed, self.began)
        asked = closing.moment("began")
        return asked if asked is not None and self.began < asked <= closing.time else max(closing.time, self.began)

    def waited_until(self) -> float | None:
        """The end of the wait that a move spared: OpenCode's next attempt or what the provider said, the later one.

        None if it was not moved, or nobody but ourselves named an end.
        """
        moved = [move.claim for move in self.moves if move.result == "moved"]
        if not moved:
            return None
        claim = moved[0]
        told = [claim.moment("shown", "next"), _rests_until(claim), *(_told(self.lines, claim))]
        return max((at for at in told if at is not None), default=None)


def episodes(entries: Iterable[Entry]) -> tuple[Episode, ...]:
    """All episodes, in the order in which they began."""
    told: list[_Telling] = []
    latest: dict[str, _Telling] = {}
    for entry in entries:
        session = entry.session if entry.what != "limit" or entry.counts else None
        telling = latest.get(session) if session else None
        if telling is None or not telling.takes(entry):
            telling = _Telling()
            told.append(telling)
            if session:
                latest[session] = telling
        telling.add(entry)
    return tuple(Episode(tuple(telling.lines)) for telling in told)


class _Telling:
    """An episode that is still being read: what is asked of it for every line is kept, not searched for."""

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


def _rests_until(claim: Entry) -> float | None:
    return None if claim.text("rests", "told_by") in (None, "backoff") else claim.moment("rests", "until")


def _told(lines: Sequence[Entry], claim: Entry) -> list[float]:
    """What the lines before this claim tell of its model: all that older journals have."""
    before = [line for line in lines if line.what in ("limit", "told") and line.time <= claim.time]
    return [end for line in before if line.model == claim.model and (end := line.told_until) is not None]
