"""Read from the journal what the daemon's previous run left unfinished and what it had recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ocwatchd.clock import from_rfc3339
from ocwatchd.core.domain.moves import Claim, MoveResult
from ocwatchd.core.domain.snapshot import SessionState
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.session import LimitedTurn, ParkedTurn
from ocwatchd.core.parsing.cursor import Cursor

Entry = Mapping[str, object]
Place = tuple[str, int, str]
"""The position of a refused attempt in a log: file, offset and time. The time is needed because a later file can have
the same name.
"""
ENDS = frozenset(MoveResult)
"""Journal entries that contain the result of a claimed move."""
_GOES_ON = frozenset((MoveResult.FAILED, MoveResult.TARGET_LIMITED, MoveResult.REFUSED))
"""Results of a move that leave the session stuck, so that the engine tries another model."""
_UNPARKS = frozenset(
    ("unparked", "moved", "already", "user_took_over", "target_limited", "answered", "went_on", "stopped")
)
"""Journal entries after which a parked turn is no longer waiting."""
SETTLING = 10.0
"""Maximum running time, in seconds, that a daemon needs to react to a result in `_GOES_ON`. An older result is assumed
to have been handled.

The time between two runs does not count, because a daemon that is killed soon after its start does not react. Ten such
daemons in a row were observed.
"""


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """The previous run, according to the journal.

    * `unfinished` contains the claims of unfinished moves, by session. A session with an empty tuple was stopped by a
      move that has just failed.
    * `refused` contains the model of each session's last refused attempt.
    * `unhandled` contains the sessions with a refused attempt or a failed move to which the daemon had not reacted yet.
    * `parked` contains the parked turn of each session that waits because all its models are cooling down.
    * `recorded` contains the log positions, beyond the saved cursors, of refused attempts that the journal already
      contains.
    * `cleared` contains the time, in epoch seconds, at which a user last cleared each model's cooldown.
    * `missed` contains the sessions that no endpoint showed in their last probe.
    """

    unfinished: Mapping[str, tuple[Claim, ...]]
    refused: Mapping[str, ModelRef]
    unhandled: tuple[str, ...]
    recorded: frozenset[Place]
    cleared: Mapping[ModelRef, float]
    missed: frozenset[str]
    origins: Mapping[str, Claim] = field(default_factory=dict)
    """The last claim of each session, regardless of the result of the move."""
    parked: Mapping[str, ParkedTurn] = field(default_factory=dict)
    resumes: Mapping[str, tuple[str | None, int]] = field(default_factory=dict)
    """The id of the prompt that was run again after it was parked, and the number of its reruns, by session."""


NOTHING_BEFORE = PreviousRun({}, {}, (), frozenset(), {}, frozenset())
"""The result if the journal of the previous run cannot be read."""


def previous_run(
    entries: Iterable[Entry], since: float, cursors: Mapping[str, Cursor], beat: float | None = None
) -> PreviousRun:
    """Return the state of the previous run from these journal entries (oldest first), as far back as `since` (epoch
    seconds).

    Recorded limits, cleared cooldowns and parked turns are included at any age, because a plan's limit can last for
    days. `beat` is the last heartbeat of the previous run, in epoch seconds.
    """
    claims: dict[str, tuple[str, Claim]] = {}
    refused: dict[str, ModelRef] = {}
    open_ones: dict[str, None] = {}
    ended: dict[str, tuple[float, bool]] = {}
    running_time = _RunningTime()
    recorded: set[Place] = set()
    cleared: dict[ModelRef, float] = {}
    missed: set[str] = set()
    origins: dict[str, Claim] = {}
    parked: dict[str, ParkedTurn] = {}
    resumed = _Resumed()
    for entry in entries:
        what, session = str(entry.get("what")), str(entry.get("session"))
        if what == "limit" and "by" not in entry:
            place = place_of(entry)
            if place is not None and _behind(place, cursors):
                recorded.add(place)
        time = _time(entry.get("time"))
        if what == "cleared" and (model := _model(entry)) is not None:
            cleared[model] = time
        if what in _UNPARKS:
            parked.pop(session, None)
            parked.pop(str(entry.get("moved")), None)
        elif what == "parked" and (turn := _turn(entry)) is not None:
            until, at = (_time(entry[name]) if entry.get(name) else None for name in ("until", "resumes_at"))
            parked[session] = ParkedTurn(turn, until, time, at, _model(entry, "waits_for"))
        resumed.take(entry, session)
        if what in ENDS:  # for entries of any age, because the clock may have been set back after the claim
            claims.pop(str(entry.get("claim")), None)
        if time < since:
            continue
        running_time.until(time, begins=what == "started")
        ended.pop(session, None)
        if what in _GOES_ON:
            ended[session] = running_time.seconds, what == MoveResult.FAILED and not _waits(entry.get("shown"))
        if what == "claim":
            claim = _claim(entry)
            if claim is not None:
                origins[str(entry.get("moved") or entry.get("session"))] = claim
                claims[claim.name] = str(entry.get("moved") or entry.get("session")), claim
        if what == "unanswered":  # a probe that found no session does not affect the values below
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
    running_time.until(beat)
    for session, (at, stopped) in ended.items():
        if running_time.seconds - at > SETTLING:
            continue
        if stopped:
            unfinished.setdefault(session, ())
        else:
            open_ones[session] = None
    return PreviousRun(
        unfinished,
        refused,
        tuple(open_ones),
        frozenset(recorded),
        cleared,
        frozenset(missed),
        origins,
        parked,
        resumed.counts,
    )


class _Resumed:
    """Counts the reruns of each parked turn's prompt."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[str | None, int]] = {}
        """The id of a prompt and the number of its reruns, by session."""
        self._claims: set[str] = set()

    def take(self, entry: Entry, session: str) -> None:
        """Update the count for this entry. A rerun that was refused, or was no longer needed, is not counted."""
        what, count, claim = entry.get("what"), entry.get("resumes"), str(entry.get("claim"))
        if what in ("parked", "claim") and isinstance(count, int):
            prompt = entry.get("message")
            self.counts[session] = prompt if isinstance(prompt, str) else None, count
            self._claims.add(claim)
        elif what in (MoveResult.REFUSED, MoveResult.ALREADY) and claim in self._claims and session in self.counts:
            prompt, count = self.counts[session]
            self.counts[session] = prompt, max(count - 1, 0)


class _RunningTime:
    """Counts the seconds during which a daemon was running, without the time between two runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def until(self, time: float | None, *, begins: bool = False) -> None:
        """Record that a daemon was running, or began to run, at this time (epoch seconds)."""
        if time is None:
            return
        if self._last is not None and not begins:
            self.seconds += max(time - self._last, 0.0)
        self._last = time


def _waits(shown: object) -> bool:
    """Return whether the session was last seen in a retry or a failure. In that case, a probe reports the session as
    stuck.

    A turn that our move has aborted looks like a turn that the user has stopped. The daemon must therefore resume it as
    an unfinished move.
    """
    if not isinstance(shown, Mapping) or shown.get("aborted") is True:
        return False
    return shown.get("state") in (SessionState.RETRY, SessionState.ERROR)


def place_of(entry: Entry) -> Place | None:
    """Return the log position of the refused attempt in this journal entry. Return None if the entry was not read from
    a log.
    """
    file, offset, evidence = entry.get("file"), entry.get("offset"), entry.get("evidence")
    at = evidence.get("at") if isinstance(evidence, Mapping) else None
    return (file, offset, at) if isinstance(file, str) and isinstance(offset, int) and isinstance(at, str) else None


def _behind(place: Place, cursors: Mapping[str, Cursor]) -> bool:
    """Return whether the log may be read again at this position, that is, the position is beyond the cursor or there is
    no cursor.
    """
    cursor = cursors.get(place[0])
    return cursor is None or place[1] >= cursor.offset


def _turn(entry: Entry) -> LimitedTurn | None:
    model, answer, pid = _model(entry), entry.get("answer"), entry.get("pid")
    if model is None or not isinstance(answer, str):
        return None
    return LimitedTurn(model, answer, pid if isinstance(pid, int) else None, _origin(entry))


def _claim(entry: Entry) -> Claim | None:
    target, answer = _target(entry, "target"), entry.get("answer")
    stopped = answer if isinstance(answer, str) else None
    return Claim(str(entry.get("claim")), target, _origin(entry), stopped) if target else None


def _origin(entry: Entry) -> Target | None:
    origin = entry.get("origin")
    return _target(origin, "model") if isinstance(origin, Mapping) else None


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
