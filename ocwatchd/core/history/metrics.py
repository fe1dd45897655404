"""Compute figures from the journal: limits, time lost and saved, the results of each fallback, and cooldowns. Pure
functions and classes.

The description of each value explains how it is counted, so that it can be checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocwatchd.core.domain.statistics import median
from ocwatchd.core.history.decisions import Episode, Move, episodes
from ocwatchd.core.history.intervals import CooldownSpan, Span, clipped, cooldown_spans, length, without
from ocwatchd.core.history.journal_entries import Entry

HOUR = 3600.0
TRIED = frozenset(("moved", "target_limited", "failed"))
"""Results of a move that depend on its target. Other results say nothing about the target, for example if a
precondition or the user prevented the move.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Waiting times, in seconds, summed over all sessions. If two sessions wait simultaneously, both waits are counted.
    The waits of one session never overlap.

    `lost`: from a turn's first limit until the turn continued or was given up, or until the end of the window.

    `saved`: from the time at which a moved turn continued until the reported end of the wait, which is the later of
    OpenCode's next attempt and the provider's reset time. The time ends earlier if the model answered or its cooldown
    was cleared, and it never extends beyond the end of the window.

    `to_come`: the part of the saved waits that is beyond the end of the window. `uncounted`: the number of moved turns
    whose wait had no reported end.
    """

    lost: float
    saved: float
    to_come: float
    uncounted: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """The results of all moves to one target.

    All times are in seconds. `recovery` contains the times from the turn's first limit until the turn continued on the
    target, `moves` contains the durations of the moves alone, and `first_tokens` contains the times until the target's
    answer began. All are sorted and contain only successful moves.
    """

    model: str
    tried: int
    moved: int
    limited: int
    failed: int
    recovery: tuple[float, ...]
    moves: tuple[float, ...]
    first_tokens: tuple[float, ...] = ()

    @property
    def rate(self) -> float | None:
        """The number of successes divided by the number of tries, from 0 to 1; None if there are no tries."""
        return self.moved / self.tried if self.tried else None

    @property
    def median(self) -> float | None:
        """The median time to recovery, in seconds; None if there are no times."""
        return median(self.recovery) if self.recovery else None

    @property
    def median_first_token(self) -> float | None:
        """The median time to the beginning of the answer, in seconds; None if there are no times."""
        return median(self.first_tokens) if self.first_tokens else None

    @property
    def worst(self) -> float | None:
        """The longest time to recovery, in seconds; None if there are no times."""
        return self.recovery[-1] if self.recovery else None


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """The figures of one model (or `provider/*`) that was limited. `cooling` is the time, in seconds, that it was
    cooling down in the window.
    """

    model: str
    limits: int
    kinds: tuple[tuple[str, int], ...]
    cooling: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures from `since` to `now` (epoch seconds).

    `begins` is the time of the journal's first line, if that is later than `since`. `outcomes` counts the turns by
    outcome. `hours` counts the limits by model and by hour, which is identified by its beginning.
    """

    since: float
    now: float
    begins: float | None
    limits: int
    turns: int
    outcomes: tuple[tuple[str, int], ...]
    cost: Cost
    models: tuple[ModelFigures, ...]
    fallbacks: tuple[Fallback, ...]
    hours: tuple[tuple[float, str, int], ...]
    cooldown_spans: tuple[CooldownSpan, ...]


def figures(entries: Sequence[Entry], since: float, now: float) -> Figures:
    """Return the figures from `since` to `now`. Earlier entries are needed for the turns and cooldowns that began
    before `since`.
    """
    entries = [entry for entry in entries if entry.time <= now]
    turns = [episode for episode in episodes(entries) if episode.turn and _touches(episode, since, now)]
    all_cooldowns = cooldown_spans(entries)
    cooling = tuple(
        cooldown
        for cooldown in all_cooldowns
        if cooldown.end(now) > since or max(cooldown.limits, default=0.0) >= since
    )
    limits = [entry for entry in entries if entry.what == "limit" and entry.key and since <= entry.refused_at <= now]
    return Figures(
        since=since,
        now=now,
        begins=entries[0].time if entries and entries[0].time > since else None,
        limits=len(limits),
        turns=len(turns),
        outcomes=tuple(Counter(episode.outcome for episode in turns).most_common()),
        cost=cost(turns, all_cooldowns, since, now),
        models=_models(limits, turns, cooling, since, now),
        fallbacks=_fallbacks(turns, since, now),
        hours=_hours(limits),
        cooldown_spans=cooling,
    )


def cost(turns: Iterable[Episode], cooldowns: Iterable[CooldownSpan], since: float, now: float) -> Cost:
    """Return the time lost because of limits and the time saved by moves, from `since` to `now` (epoch seconds)."""
    lifted: dict[str, list[float]] = {}
    for cooldown in cooldowns:
        if cooldown.ended is not None:
            lifted.setdefault(cooldown.model, []).append(cooldown.ended)
    waits: dict[str, list[Span]] = {}
    spared: dict[str, list[Span]] = {}
    uncounted = 0
    for episode in turns:
        session, went_on = episode.session or episode.id, episode.recovered(now)
        waits.setdefault(session, []).append((episode.began, went_on))
        if episode.outcome == "moved":
            end = episode.waited_until()
            uncounted += end is None
            end = None if end is None else _no_later(end, went_on, lifted.get(episode.model or "", ()))
            spared.setdefault(session, []).append((went_on, went_on if end is None else end))
    lost = saved = to_come = 0.0
    for session, spans in waits.items():
        lost += length(clipped(spans, since, now))
        free = without(spared.get(session, ()), spans)
        saved += length(clipped(free, since, now))
        to_come += length(clipped(free, now, float("inf")))
    return Cost(lost, saved, to_come, uncounted)


def _no_later(end: float, went_on: float, lifted: Iterable[float]) -> float:
    """Return `end`, or the time at which the model worked again if that was earlier, in epoch seconds."""
    return min([end, *(at for at in lifted if at > went_on)])


def _touches(episode: Episode, since: float, now: float) -> bool:
    return episode.began <= now and (episode.recovered(now) >= since or (episode.waited_until() or 0.0) > since)


def _models(
    limits: Sequence[Entry], turns: Sequence[Episode], cooling: Sequence[CooldownSpan], since: float, now: float
) -> tuple[ModelFigures, ...]:
    kinds: dict[str, Counter[str]] = {}
    for entry in limits:
        kinds.setdefault(entry.key or "", Counter())[entry.text("kind") or "rate_limit"] += 1
    cooldowns_of: dict[str, list[CooldownSpan]] = {}
    for cooldown in cooling:
        cooldowns_of.setdefault(cooldown.model, []).append(cooldown)
    turns_of: dict[str, list[Episode]] = {}
    for episode in turns:
        turns_of.setdefault(episode.model or "", []).append(episode)
    names = {*kinds, *cooldowns_of, *(name for name in turns_of if name)}
    found = [
        _model(name, kinds.get(name, Counter()), turns_of.get(name, ()), cooldowns_of.get(name, ()), since, now)
        for name in names
    ]
    return tuple(sorted(found, key=lambda one: (-one.limits, -one.cooling, one.model)))


def _model(
    name: str, kinds: Counter[str], turns: Sequence[Episode], own: Sequence[CooldownSpan], since: float, now: float
) -> ModelFigures:
    """Return the figures of one model. `turns` and `own` are its episodes and its cooldowns."""
    return ModelFigures(
        model=name,
        limits=kinds.total(),
        kinds=tuple(kinds.most_common()),
        cooling=length(clipped(((cooldown.since, cooldown.end(now)) for cooldown in own), since, now)),
        cost=cost(turns, own, since, now),
    )


def _fallbacks(turns: Iterable[Episode], since: float, now: float) -> tuple[Fallback, ...]:
    by_target: dict[str, list[tuple[Move, Episode]]] = {}
    for episode in turns:
        for move in episode.moves:
            if since <= move.claim.time <= now and move.result in TRIED and not move.again:
                by_target.setdefault(move.target, []).append((move, episode))
    found = [_fallback(target, moves) for target, moves in by_target.items()]
    return tuple(sorted(found, key=lambda one: (-one.tried, one.model)))


def _fallback(target: str, moves: Sequence[tuple[Move, Episode]]) -> Fallback:
    results = Counter("failed" if move.rejected else move.result for move, _ in moves)
    landed = [(move.landed, move, episode) for move, episode in moves if not move.rejected]
    return Fallback(
        model=target,
        tried=len(moves),
        moved=results["moved"],
        limited=results["target_limited"],
        failed=results["failed"],
        recovery=tuple(sorted(max(at - episode.began, 0.0) for at, _, episode in landed if at is not None)),
        moves=tuple(sorted(move.seconds for _, move, _ in landed if move.seconds is not None)),
        first_tokens=tuple(sorted(move.first_token for _, move, _ in landed if move.first_token is not None)),
    )


def _hours(limits: Iterable[Entry]) -> tuple[tuple[float, str, int], ...]:
    count = Counter((entry.refused_at // HOUR * HOUR, entry.key or "") for entry in limits)
    return tuple((hour, model, number) for (hour, model), number in sorted(count.items()))
