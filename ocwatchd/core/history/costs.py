"""Compute the cost of moved turns, and the estimated cost of the same turns on the limited model. Pure functions and
classes.

The cost of an answer is OpenCode's own figure, stored with the answer. The cost with another model is an estimate: the
same tokens at that model's prices, although that model would have used a different number of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.core.domain.budget import Price, Tokens
from ocwatchd.core.history.decisions import Move, episodes
from ocwatchd.core.history.journal_entries import Entry


@dataclass(frozen=True, slots=True)
class Paid:
    """One answer: the prompt that it answers, the model, the tokens, the cost in US dollars, the session and the local
    day (`2026-11-30`; empty if the time is not known).
    """

    prompt: str | None
    model: str
    tokens: Tokens
    dollars: float
    session: str = ""
    day: str = ""


@dataclass(slots=True)
class Used:
    """The total usage of several answers: token counts by type, and the cost in US dollars at OpenCode's own prices."""

    answers: int = 0
    input: int = 0
    output: int = 0
    """Output tokens, including reasoning tokens."""
    cached: int = 0
    """Tokens read from or written to the provider's cache."""
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """The total number of tokens of all types."""
        return self.input + self.output + self.cached

    def add(self, answer: Paid) -> None:
        """Add the usage of one more answer."""
        tokens = answer.tokens
        self.answers += 1
        self.input += tokens.input
        self.output += tokens.output + tokens.reasoning
        self.cached += tokens.cache_read + tokens.cache_write
        self.dollars += answer.dollars


@dataclass(frozen=True, slots=True)
class SessionUse:
    """The usage of one session. `title` and `directory` are empty if unknown."""

    session: str
    title: str
    directory: str
    used: Used


@dataclass(frozen=True, slots=True)
class Moved:
    """The turns that continued on `target`.

    `instead` is the estimated cost, on the primary, of the turns whose primary has a known price; `compared` is the
    cost of the same turns on the target. `unpriced` counts the other turns.
    """

    target: str
    turns: int
    dollars: float
    compared: float
    instead: float
    unpriced: int

    @property
    def saved(self) -> float | None:
        """The estimated cost minus the actual cost, in US dollars; None if no cost can be compared. It is negative if
        the moves cost more.
        """
        return self.instead - self.compared if self.turns > self.unpriced else None


@dataclass(frozen=True, slots=True)
class Spending:
    """Spending in US dollars: the total in the window, and the moved turns by target, most expensive first.

    `days` contains the usage by local day and model, newest day first. `sessions` contains the usage by session, sorted
    by cost and then by number of tokens, highest first.
    """

    total: float = 0.0
    moved: tuple[Moved, ...] = ()
    days: tuple[tuple[str, str, Used], ...] = ()
    sessions: tuple[SessionUse, ...] = ()

    @property
    def dollars(self) -> float:
        """The cost of all moved turns, in US dollars."""
        return sum(one.dollars for one in self.moved)

    @property
    def instead(self) -> float:
        """The estimated cost, in US dollars, of the comparable turns on their primaries."""
        return sum(one.instead for one in self.moved)

    @property
    def saved(self) -> float | None:
        """The savings of all targets together, in US dollars; None if no cost can be compared."""
        known = [one.saved for one in self.moved if one.saved is not None]
        return sum(known) if known else None


def spending(
    entries: Iterable[Entry],
    answers: Iterable[Paid],
    prices: Mapping[str, Price],
    since: float,
    now: float,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> Spending:
    """Return the spending from `since` to `now` (epoch seconds). `answers` must be the answers from that period.
    `names` maps session ids to the title and directory of the session.
    """
    moves = {move.claim.text("message"): move for move in _moves(entries, since, now)}
    total, turns = 0.0, defaultdict[str, dict[str, tuple[float, float | None]]](dict)
    days, sessions = defaultdict[tuple[str, str], Used](Used), defaultdict[str, Used](Used)
    for answer in answers:
        total += answer.dollars
        days[answer.day, answer.model].add(answer)
        sessions[answer.session].add(answer)
        move = moves.get(answer.prompt)
        if move is None or answer.prompt is None or answer.model != move.target:
            continue
        paid, instead = turns[move.target].get(answer.prompt, (0.0, 0.0))
        price = prices.get(move.claim.model or "")
        estimate = None if price is None or instead is None else instead + price.of(answer.tokens)
        turns[move.target][answer.prompt] = paid + answer.dollars, estimate
    found = (_moved(target, list(own.values())) for target, own in turns.items())
    by_day = sorted(days, key=lambda key: (key[0], days[key].dollars, days[key].tokens, key[1]), reverse=True)
    by_session = sorted(sessions, key=lambda ident: (-sessions[ident].dollars, -sessions[ident].tokens, ident))
    return Spending(
        total,
        tuple(sorted(found, key=lambda one: (-one.dollars, one.target))),
        tuple((day, model, days[day, model]) for day, model in by_day),
        tuple(SessionUse(ident, *(names or {}).get(ident, ("", "")), sessions[ident]) for ident in by_session if ident),
    )


def _moves(entries: Iterable[Entry], since: float, now: float) -> list[Move]:
    made = [move for episode in episodes(entries) for move in episode.moves]
    return [move for move in made if move.result == "moved" and not move.again and since <= move.claim.time <= now]


def _moved(target: str, turns: list[tuple[float, float | None]]) -> Moved:
    compared = [(paid, instead) for paid, instead in turns if instead is not None]
    return Moved(
        target=target,
        turns=len(turns),
        dollars=sum(paid for paid, _ in turns),
        compared=sum(paid for paid, _ in compared),
        instead=sum(instead for _, instead in compared),
        unpriced=len(turns) - len(compared),
    )
