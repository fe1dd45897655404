"""Does what the engine listed. Our own files are written at once, in order; what may block runs on worker threads.

The order is the promise: a model's first cooldown is saved before a door is asked, a claim is on disk before its move
begins. A file that cannot be written is said once and served from memory until it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ocwatchd.clock import Clock
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.messages import (
    Aborted,
    Effect,
    Free,
    LookUp,
    Message,
    Move,
    MoveEnded,
    Note,
    RegisterChanged,
    Remember,
    SaveRegister,
    Surveyed,
    TakenOver,
    Tell,
)
from ocwatchd.core.moves import MoveOutcome, MoveResult
from ocwatchd.notify import Notifier
from ocwatchd.opencode.api import connect
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.ears import Ears
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.offers import offers_for
from ocwatchd.opencode.sockets import clear_stale
from ocwatchd.opencode.survey import Look
from ocwatchd.paths import Paths
from ocwatchd.redirect import Mover
from ocwatchd.state import blacklist, moved
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal, plain

WORKERS = 8
"""Moves and looks under way at once: each waits for OpenCode far more than it computes."""
CLAIMED_BEFORE = 5.0
"""Seconds between the claim of a move and its abort; below 1 s here, and old logs have a clock of whole seconds."""
SAVE_PAUSE = 0.05
"""Seconds between writes of the register: each costs an fsync, 10 ms at worst where it was measured. A negative
Retry-After made OpenCode 1.1.65 send 371 requests in 1.5 s."""


class Hands:
    """Executes effects; answers of blocking work go to `answer`, called from worker threads."""

    def __init__(
        self,
        paths: Paths,
        clock: Clock,
        finder: DoorFinder,
        surveyor: Look,
        mover: Mover,
        say: Callable[[str], None],
        answer: Callable[[Message], None],
    ) -> None:
        """`say` takes one line for standard error."""
        self._paths, self._clock, self._surveyor, self._mover = paths, clock, surveyor, mover
        self._say, self._answer, self._finder = say, answer, finder
        self._ears = Ears(answer, (paths.log_dir / "opencode.log").exists, clock=clock)
        self._journal = Journal(paths.journal, clock)
        self.notifier = Notifier(say=say)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="ocwatchd")
        self._unsaved: dict[ModelRef, Cooldown | None] = {}
        self._pools: Mapping[str, object] | None = None
        self._saved = 0.0
        self.register_mark: tuple[int, int, int] | None = None
        self.health: dict[str, str] = {}
        """What is wrong with our own files, by matter; empty is well."""

    def do(self, effects: Sequence[Effect]) -> None:
        """All of them, in order."""
        for effect in effects:
            match effect:
                case SaveRegister(changed, removed):
                    self._unsaved |= {entry.model: entry for entry in changed} | dict.fromkeys(removed)
                    self.save()
                case Note():
                    self._note(effect)
                case LookUp():
                    self._workers.submit(self._guarded, self._look_up, effect)
                case Move():
                    self._workers.submit(self._guarded, self._move, effect)
                case Remember():
                    self._remember(effect)
                case Free():
                    self._workers.submit(self._guarded, self._free, effect)
                case Tell():
                    self._workers.submit(self._guarded, self.notifier.tell, effect)

    def save(self, at_once: bool = False) -> None:
        """Write what is not yet in the register; what others wrote there meanwhile stays.

        The first change is written at once; of a storm's, only so many as the disk bears: call again at `save_due`.
        """
        idle = not self._unsaved and self._pools is None
        if idle or (not at_once and 0 <= self._clock.now() - self._saved < SAVE_PAUSE):
            return
        try:
            self._save()
        finally:  # counted from the end: a large register on a slow disk must not be written for every refusal
            self._saved = self._clock.now()

    def _save(self) -> None:
        foreign = False

        def merge(entries: dict[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
            nonlocal foreign  # looked at under the register's lock: nobody writes between this and our own write
            foreign = blacklist.signature(self._paths.blacklist) != self.register_mark
            kept = {model: entry for model, entry in entries.items() if model not in self._unsaved}
            return kept | {model: entry for model, entry in self._unsaved.items() if entry is not None}

        try:
            snapshot = blacklist.update(self._paths.blacklist, merge, self._clock.now(), self._pools)
        except StateError as fault:
            self._ill("register", str(fault))
            return
        self._well("register")
        for problem in snapshot.problems:
            self._say(problem)
        self._unsaved.clear()
        self._pools = None
        # What others wrote since our last look is still to be read: an unknown mark brings it with the next look.
        self.register_mark = None if foreign else snapshot.signature

    def publish(self, pools: Mapping[str, object]) -> None:
        """Write this into the register's field `pools`."""
        self._pools = pools
        self.save()

    def measure(self, work: Callable[[], Message]) -> None:
        """Do this on a worker thread, and answer with its message."""
        self._workers.submit(self._guarded, lambda _: self._answer(work()), None)

    @property
    def save_due(self) -> float | None:
        """When what is unsaved may be written, epoch seconds; None if all is."""
        return self._saved + SAVE_PAUSE if self._unsaved or self._pools is not None else None

    def register_news(self) -> RegisterChanged | None:
        """What somebody else wrote into the register since we last wrote or looked; None if nobody did."""
        mark = blacklist.signature(self._paths.blacklist)
        if mark == self.register_mark or self._unsaved or self._pools is not None:
            return None
        snapshot = blacklist.read(self._paths.blacklist)
        self.register_mark = snapshot.signature
        for problem in snapshot.problems:
            self._say(problem)
        return RegisterChanged(snapshot.entries())

    def unfinished_moves(self, since: float) -> list[str]:
        """Sessions whose move was claimed and never ended, in the journal since then (epoch seconds)."""
        open_claims: dict[object, str] = {}
        for entry in self._journal.read(since):
            if entry.get("what") == "claim":
                open_claims[entry.get("claim")] = str(entry.get("moved") or entry.get("session"))
            elif entry.get("what") in set(MoveResult):
                open_claims.pop(entry.get("claim"), None)
        return list(dict.fromkeys(open_claims.values()))

    def whose(self, abort: Aborted) -> Aborted | TakenOver:
        """An abort as part of somebody else's move is no word of the user's: such a move was claimed just before."""
        for entry in self._journal.read(abort.time - CLAIMED_BEFORE):
            others = entry.get("what") == "claim" and "by" in entry
            if others and abort.session in (entry.get("session"), entry.get("moved")):
                return TakenOver(abort.session)
        return abort

    def unweighed(self, since: float) -> list[str]:
        """Sessions with a refusal in the journal since then that was read as it happened, and not acted on."""
        open_ones: dict[object, None] = {}
        for entry in self._journal.read(since):
            if entry.get("what") != "limit":
                open_ones.pop(entry.get("session"), None)
            elif entry.get("session") and not (entry.get("history") or entry.get("small")):
                open_ones[entry["session"]] = None
        return [str(session) for session in open_ones]

    def listen(self) -> None:
        """Look for doors that were opened lately, and listen at them too."""
        self._workers.submit(self._guarded, self._find_doors, None)

    def close(self) -> None:
        """Begin nothing new; what is under way may finish on its own."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _note(self, note: Note) -> None:
        said = {key: value for key, value in plain(note.fields).items() if not isinstance(value, (dict, list))}
        self._say(f"{note.what}: " + " ".join(f"{key}={value}" for key, value in said.items() if value is not None))
        try:
            self._journal.append({"what": note.what, **note.fields}, note.durable)
        except StateError as fault:
            self._ill("journal", str(fault))
        else:
            self._well("journal")

    def _remember(self, effect: Remember) -> None:
        try:
            moved.remember(self._paths.moved, effect, self._clock.now())
        except StateError as fault:
            self._ill("moved sessions", str(fault))
        else:
            self._well("moved sessions")

    def _ill(self, matter: str, why: str) -> None:
        if self.health.get(matter) != why:
            self.health[matter] = why
            self._say(f"{why}: going on from memory, trying again")

    def _well(self, matter: str) -> None:
        if self.health.pop(matter, None) is not None:
            self._say(f"the {matter} can be written again")

    def _guarded(self, work: Callable[[Any], None], effect: Effect | None) -> None:
        """A worker's bug must not pass unseen, nor end anything but its own work."""
        try:
            work(effect)
        except Exception as fault:
            self._say(f"internal fault in {type(effect).__name__}: {fault!r}")
            self._answer_anyway(effect, fault)

    def _answer_anyway(self, effect: object, fault: Exception) -> None:
        """The engine waits for an answer to these; without one the session would be left alone for good."""
        if isinstance(effect, LookUp):
            self._answer(Surveyed(effect.session, effect.model, (), 0))
        elif isinstance(effect, Move):
            self._answer(MoveEnded(effect.claim, effect.order, MoveOutcome(MoveResult.FAILED, repr(fault))))

    def _find_doors(self, _: Effect | None) -> None:
        clear_stale(self._paths.doors)
        self._ears.listen(self._finder.find().open)

    def _look_up(self, effect: LookUp) -> None:
        found = self._surveyor.stuck() if effect.session is None else self._surveyor.session(effect.session)
        self._ears.listen(self._finder.find().open)
        waiting = {view.parent for view in found.views if view.parent and view.stuck}
        parents = tuple(view for parent in waiting for view in self._surveyor.session(parent).views)
        offers = offers_for((view for view in found.views if view.stuck), self._clock.now())
        self._answer(Surveyed(effect.session, effect.model, found.views, found.doors, parents, offers))

    def _free(self, effect: Free) -> None:
        try:
            connect(effect.view.door).abort(effect.view.session, effect.view.directory)
        except DoorError as fault:
            self._say(f"{effect.view.session} could not be stopped: {fault}")

    def _move(self, effect: Move) -> None:
        self._answer(MoveEnded(effect.claim, effect.order, self._mover.move(effect.order)))
