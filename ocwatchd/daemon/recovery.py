"""What the journal says of the life before this one: what it left unfinished, and what it has told already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.clock import from_rfc3339
from ocwatchd.core.cursor import Cursor
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.moves import Claim, MoveResult
from ocwatchd.core.views import SessionState

Entry = Mapping[str, object]
Place = tuple[str, int, str]
"""Where a refusal stands: file, offset, and its own time, because another file may come to have that name."""
_ENDS = frozenset(MoveResult)
_GOES_ON = frozenset((MoveResult.FAILED, MoveResult.TARGET_LIMITED, MoveResult.REFUSED))
"""Ends of a move after which the session is still stuck, and something else is tried."""
SETTLING = 10.0
"""Seconds of life within which what was to follow such an end has begun. Lives that are killed one after the other, ten
within this time where it was seen, do nothing about it."""


@dataclass(frozen=True, slots=True)
class LastLife:
    """`unfinished`: sessions whose move was claimed and never ended, with the claims; without any those whose move has
    just failed and left them stopped. `refused`: sessions, with the model that refused them last. `unweighed`: those of
    them whose refusal was read as it happened, or whose move has just come to nothing, and nothing was done about it.
    `told`: places in logs, from the cursors on, whose refusals are in the journal. `cleared`: models, with the time at
    which a person cleared them last. `missed`: those of the unweighed of whom it is said that no door showed them.
    """

    unfinished: Mapping[str, tuple[Claim, ...]]
    refused: Mapping[str, ModelRef]
    unweighed: tuple[str, ...]
    told: frozenset[Place]
    cleared: Mapping[ModelRef, float]
    missed: frozenset[str]


def last_life(
    entries: Iterable[Entry], since: float, cursors: Mapping[str, Cursor], beat: float | None = None
) -> LastLife:
    """Of these entries (oldest first) what happened since then (epoch seconds). Told and cleared counts at any age.

    `beat` is when the last life was last seen to live (epoch seconds).
    """
    claims: dict[str, tuple[str, Claim]] = {}
    refused: dict[str, ModelRef] = {}
    open_ones: dict[str, None] = {}
    ended: dict[str, tuple[float, bool]] = {}
    lived = _Lived()
    told: set[Place] = set()
    cleared: dict[ModelRef, float] = {}
    missed: set[str] = set()
    for entry in entries:
        what, session = str(entry.get("what")), str(entry.get("session"))
        if what == "limit" and "by" not in entry:
            place = place_of(entry)
            if place is not None and _behind(place, cursors):
                told.add(place)
        time = _time(entry.get("time"))
        if what == "cleared" and (model := _model(entry)) is not None:
            cleared[model] = time
        if time < since:
            continue
        lived.until(time, begins=what == "started")
        ended.pop(session, None)
        if what in _GOES_ON:
            ended[session] = lived.seconds, what == MoveResult.FAILED and not _waits(entry.get("shown"))
        if what == "claim":
            claim = _claim(entry)
            if claim is not None:
                claims[claim.name] = str(entry.get("moved") or entry.get("session")), claim
        elif what in _ENDS:
            claims.pop(str(entry.get("claim")), None)
        if what == "unanswered":  # a look that showed nothing decides nothing
            missed.add(session)
            continue
        missed.discard(session)
        if what != "limit":
            open_ones.pop(session, None)
            continue
        model = _model(entry)
        if model is None or not entry.get("session"):
            continue
        refused.pop(session, None)
        refused[session] = model
        if not (entry.get("history") or entry.get("small")):
            open_ones[session] = None
    unfinished: dict[str, tuple[Claim, ...]] = {}
    for session, open_claim in claims.values():
        unfinished[session] = (*unfinished.get(session, ()), open_claim)
    lived.until(beat)
    for session, (at, stopped) in ended.items():
        if lived.seconds - at > SETTLING:
            continue
        if stopped:
            unfinished.setdefault(session, ())
        else:
            open_ones[session] = None
    return LastLife(unfinished, refused, tuple(open_ones), frozenset(told), cleared, frozenset(missed))


class _Lived:
    """Seconds that daemons have lived: what lies between two lives does not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def until(self, time: float | None, *, begins: bool = False) -> None:
        """One lives at this time (epoch seconds), or begins to."""
        if time is None:
            return
        if self._last is not None and not begins:
            self.seconds += max(time - self._last, 0.0)
        self._last = time


def _waits(shown: object) -> bool:
    """Whether the session was seen to retry, or to have failed: a look finds it stuck, whatever we stopped before."""
    return isinstance(shown, Mapping) and shown.get("state") in (SessionState.RETRY, SessionState.ERROR)


def place_of(entry: Entry) -> Place | None:
    """Where the refusal stands that this entry (as it is written down) tells of; None if no log told it."""
    file, offset, evidence = entry.get("file"), entry.get("offset"), entry.get("evidence")
    at = evidence.get("at") if isinstance(evidence, Mapping) else None
    return (file, offset, at) if isinstance(file, str) and isinstance(offset, int) and isinstance(at, str) else None


def _behind(place: Place, cursors: Mapping[str, Cursor]) -> bool:
    """Whether it may be read again: it lies behind the cursor, or there is none."""
    cursor = cursors.get(place[0])
    return cursor is None or place[1] >= cursor.offset


def _claim(entry: Entry) -> Claim | None:
    target, origin = _target(entry, "target"), entry.get("origin")
    first = _target(origin, "model") if isinstance(origin, Mapping) else None
    return Claim(str(entry.get("claim")), target, first) if target else None


def _target(entry: Entry, name: str) -> Target | None:
    model, agent = _model(entry, name), entry.get("agent")
    return Target(model, agent if isinstance(agent, str) else None) if model else None


def _model(entry: Entry, name: str = "model") -> ModelRef | None:
    try:
        return ModelRef.parse(str(entry.get(name)))
    except ValueError:
        return None


def _time(value: object) -> float:
    try:
        return from_rfc3339(str(value))
    except ValueError:
        return 0.0
