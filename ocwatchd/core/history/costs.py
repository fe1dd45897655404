"""What moved turns cost, and what they would have cost with the model that refused them. Pure.

What an answer cost is OpenCode's own figure, kept with it. What it would have cost elsewhere is an estimate: the same
tokens at the other model's prices, although another model would have used others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.core.entries import Entry
from ocwatchd.core.money import Price, Tokens
from ocwatchd.core.story import Move, episodes


@dataclass(frozen=True, slots=True)
class Paid:
    """One answer: the prompt that it answers, the model, what it used and what it cost (US dollars)."""

    prompt: str | None
    model: str
    tokens: Tokens
    dollars: float


@dataclass(frozen=True, slots=True)
class Moved:
    """The turns that went on with `target`. `instead` is the estimate for those whose first model's price is known, and
    `compared` what these cost there; `unpriced` turns have no such price.
    """

    target: str
    turns: int
    dollars: float
    compared: float
    instead: float
    unpriced: int

    @property
    def saved(self) -> float | None:
        """The estimate less what was paid, negative if the move cost more; None if nothing can be compared."""
        return self.instead - self.compared if self.turns > self.unpriced else None


@dataclass(frozen=True, slots=True)
class Spending:
    """In US dollars: all that was spent in the window, and what became of the moved turns, dearest first."""

    total: float = 0.0
    moved: tuple[Moved, ...] = ()

    @property
    def dollars(self) -> float:
        """What moved turns cost."""
        return sum(one.dollars for one in self.moved)

    @property
    def instead(self) -> float:
        """What those that can be compared would have cost: an estimate."""
        return sum(one.instead for one in self.moved)

    @property
    def saved(self) -> float | None:
        """Over all targets; None if nothing can be compared."""
        known = [one.saved for one in self.moved if one.saved is not None]
        return sum(known) if known else None


def spending(
    entries: Iterable[Entry], answers: Iterable[Paid], prices: Mapping[str, Price], since: float, now: float
) -> Spending:
    """What was spent from `since` to `now`; `answers` are those of that time."""
    moves = {move.claim.text("message"): move for move in _moves(entries, since, now)}
    total, turns = 0.0, defaultdict[str, dict[str, tuple[float, float | None]]](dict)
    for answer in answers:
        total += answer.dollars
        move = moves.get(answer.prompt)
        if move is None or answer.prompt is None or answer.model != move.target:
            continue
        paid, instead = turns[move.target].get(answer.prompt, (0.0, 0.0))
        price = prices.get(move.claim.model or "")
        estimate = None if price is None or instead is None else instead + price.of(answer.tokens)
        turns[move.target][answer.prompt] = paid + answer.dollars, estimate
    found = (_moved(target, list(own.values())) for target, own in turns.items())
    return Spending(total, tuple(sorted(found, key=lambda one: (-one.dollars, one.target))))


def _moves(entries: Iterable[Entry], since: float, now: float) -> list[Move]:
    told = [move for episode in episodes(entries) for move in episode.moves]
    return [move for move in told if move.result == "moved" and since <= move.claim.time <= now]


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
