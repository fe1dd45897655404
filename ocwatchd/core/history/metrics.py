"""Figures from the journal: limits, minutes lost and saved, how each fallback fared, the cooldowns. Pure.

How they are counted stands with each value, because a figure nobody can check is worth nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocwatchd.core.entries import Entry
from ocwatchd.core.middle import median
from ocwatchd.core.spans import Rest, Span, clipped, length, rests, without
from ocwatchd.core.story import Episode, Move, episodes

HOUR = 3600.0
TRIED = frozenset(("moved", "target_limited", "failed"))
"""Results that say something of the target; a move that a guard or a person prevented does not."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Session-seconds of waiting: what two sessions wait at once counts twice, one session's waits never overlap.

    `lost`: from a turn's first refusal until it went on, was given up, or the window's end. `saved`: from the moment at
    which a moved turn went on until the end of the wait that was told (OpenCode's next attempt or the provider's word,
    the later one), or until its model was seen to answer or was cleared, if that came first; never beyond the window's
    end. `to_come`: what of those waits lies beyond it. `uncounted`: moved turns whose wait had no end that was told.
    """

    lost: float
    saved: float
    to_come: float
    uncounted: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """How one target fared. `recovery` holds the seconds from the turn's first refusal until it went on there, `moves`
    the seconds of the move alone, `first_tokens` those until its answer began, all sorted; of successful moves only.
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
        """Successes of those tried, 0 to 1."""
        return self.moved / self.tried if self.tried else None

    @property
    def median(self) -> float | None:
        """Seconds to recovery of the middle one."""
        return median(self.recovery) if self.recovery else None

    @property
    def median_first_token(self) -> float | None:
        """Seconds to the beginning of the answer, of the middle one."""
        return median(self.first_tokens) if self.first_tokens else None

    @property
    def worst(self) -> float | None:
        """Seconds to recovery of the slowest one."""
        return self.recovery[-1] if self.recovery else None


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model (or `provider/*`) that was limited. `cooling` is in seconds, within the window."""

    model: str
    limits: int
    kinds: tuple[tuple[str, int], ...]
    cooling: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything from `since` to `now`, epoch seconds.

    `begins` is the time of the journal's first line, if that is later than `since`. `outcomes` counts the turns by how
    they ended, `hours` the limits by (hour's beginning, model).
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
    rests: tuple[Rest, ...]


def figures(entries: Sequence[Entry], since: float, now: float) -> Figures:
    """Count what happened from `since` to `now`. Entries from before are needed for what had begun by then."""
    entries = [entry for entry in entries if entry.time <= now]
    told = [episode for episode in episodes(entries) if episode.turn and _touches(episode, since, now)]
    all_rests = rests(entries)
    cooling = tuple(rest for rest in all_rests if rest.end(now) > since or max(rest.limits, default=0.0) >= since)
    limits = [entry for entry in entries if entry.what == "limit" and entry.key and since <= entry.refused_at <= now]
    return Figures(
        since=since,
        now=now,
        begins=entries[0].time if entries and entries[0].time > since else None,
        limits=len(limits),
        turns=len(told),
        outcomes=tuple(Counter(episode.outcome for episode in told).most_common()),
        cost=cost(told, all_rests, since, now),
        models=_models(limits, told, cooling, since, now),
        fallbacks=_fallbacks(told, since, now),
        hours=_hours(limits),
        rests=cooling,
    )


def cost(told: Iterable[Episode], cooldowns: Iterable[Rest], since: float, now: float) -> Cost:
    """What the limits cost and what the moves spared, from `since` to `now`."""
    lifted: dict[str, list[float]] = {}
    for rest in cooldowns:
        if rest.ended is not None:
            lifted.setdefault(rest.model, []).append(rest.ended)
    waits: dict[str, list[Span]] = {}
    spared: dict[str, list[Span]] = {}
    uncounted = 0
    for episode in told:
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
    """The wait would have been over as soon as the model was seen to work again."""
    return min([end, *(at for at in lifted if at > went_on)])


def _touches(episode: Episode, since: float, now: float) -> bool:
    return episode.began <= now and (episode.recovered(now) >= since or (episode.waited_until() or 0.0) > since)


def _models(
    limits: Sequence[Entry], told: Sequence[Episode], cooling: Sequence[Rest], since: float, now: float
) -> tuple[ModelFigures, ...]:
    kinds: dict[str, Counter[str]] = {}
    for entry in limits:
        kinds.setdefault(entry.key or "", Counter())[entry.text("kind") or "rate_limit"] += 1
    names = {*kinds, *(rest.model for rest in cooling), *(episode.model for episode in told if episode.model)}
    found = [_model(name, kinds.get(name, Counter()), told, cooling, since, now) for name in names]
    return tuple(sorted(found, key=lambda one: (-one.limits, -one.cooling, one.model)))


def _model(
    name: str, kinds: Counter[str], told: Sequence[Episode], cooling: Sequence[Rest], since: float, now: float
) -> ModelFigures:
    own = [rest for rest in cooling if rest.model == name]
    return ModelFigures(
        model=name,
        limits=kinds.total(),
        kinds=tuple(kinds.most_common()),
        cooling=length(clipped(((rest.since, rest.end(now)) for rest in own), since, now)),
        cost=cost([episode for episode in told if episode.model == name], own, since, now),
    )


def _fallbacks(told: Iterable[Episode], since: float, now: float) -> tuple[Fallback, ...]:
    by_target: dict[str, list[tuple[Move, Episode]]] = {}
    for episode in told:
        for move in episode.moves:
            if since <= move.claim.time <= now and move.result in TRIED:
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
