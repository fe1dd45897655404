"""Does what the engine listed. Our own files are written at once, in order; what may block runs on worker threads.

The order is the promise: a model's first cooldown is saved before a door is asked, a claim is on disk before its move
begins. A file that cannot be written is said once and served from memory until it can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from ocwatchd.clock import Clock
from ocwatchd.core.cursor import Cursor
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
    Shown,
    Surveyed,
    TakenOver,
    Tell,
)
from ocwatchd.core.moves import MoveOutcome, MoveResult
from ocwatchd.core.pace import Pace
from ocwatchd.notify import Notifier
from ocwatchd.opencode.api import connect
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.ears import Ears
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.offers import offers_at
from ocwatchd.opencode.sockets import clear_stale
from ocwatchd.opencode.survey import Look
from ocwatchd.paths import Paths
from ocwatchd.redirect import Mover
from ocwatchd.state import moved, prices
from ocwatchd.state.counted import Counted
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal, plain
from ocwatchd.state.lastlife import LastLife, Place, last_life, place_of
from ocwatchd.state.shared import SharedRegister
from ocwatchd.workers import Workers

WORKERS, PER_DOOR, LOOKS = 40, 8, 24
"""Moves and looks under way at once: in all, moves at one door, and looks. Each waits for OpenCode far more than it
computes. With 8 in all, doors that hung held up a session behind a good one for 20 s."""
_LOOKS, _DOORS, _FILES, _NOTICES = "looks", "doors", "files", "notices"
"""Lanes of the workers; a door's is its address."""
CLAIMED_BEFORE = 5.0
"""Seconds between the claim of a move and its abort; below 1 s here, and old logs have a clock of whole seconds."""
SAVES = Pace(every=1 / 16, burst=4)
"""Writes of the register, at most 20 in a second: each costs an fsync, 10 ms at worst where it was measured. A negative
Retry-After made OpenCode 1.1.65 send 371 requests in 1.5 s. A new limit takes two: the entry, then its stand-ins."""
LAST_MOVES = 3.0
"""Seconds that moves under way get at the end, which has to come within five; one takes 0.3 - 0.7 s."""
NOTES_MOST = 256
"""Notes of a storm that are written to the journal at once: lock and open cost more than a line does."""
NOTES_KEPT = 2000  # that wait for a journal that cannot be written, some 1.2 MB; the oldest go first


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
        self._notes: deque[bytes] = deque(maxlen=NOTES_KEPT)
        self._noted: frozenset[Place] = frozenset()
        self.counted: Counted | None = None
        """What is saved beside the entries, by the one who counts the logs' refusals: the daemon."""
        self.notifier = Notifier(say=say)
        self._workers = Workers(WORKERS, {_LOOKS: LOOKS, _NOTICES: 1}, PER_DOOR)
        self.register = SharedRegister(paths.blacklist)
        self._unsaved: dict[ModelRef, Cooldown | None] = {}
        self._untold: dict[str, object] = {}
        self._pace = SAVES
        self.health: dict[str, str] = {}
        """What is wrong with our own files, by matter; empty is well."""

    def do(self, effects: Sequence[Effect]) -> None:
        """All of them, in order."""
        for effect in effects:
            match effect:
                case SaveRegister(changed, removed):
                    self._unsaved |= {entry.model: entry for entry in changed} | dict.fromkeys(removed)
                    self.save()
                case Shown():
                    if self.counted is not None:
                        self.counted.show(effect, self._clock.now())
                case Note():
                    self._note(effect)
                case LookUp():
                    self._submit(_LOOKS, self._look_up, effect)
                case Move():
                    self._submit(effect.order.view.door.address, self._move, effect)
                case Remember():
                    self._remember(effect)
                case Free():
                    self._submit(effect.view.door.address, self._free, effect)
                case Tell():
                    self._submit(_NOTICES, self.notifier.tell, effect)

    def save(self, at_once: bool = False) -> None:
        """Write what is not yet in the register; what others wrote there meanwhile stays.

        The first changes are written at once; of a storm's, only so many as the disk bears: call again at `save_due`.
        """
        if at_once:
            self.write_notes()
        idle, begun = not self._unsaved and not self._untold, self._clock.now()
        if idle or (not at_once and begun < self._pace.due(begun)):
            return
        try:
            self._save()
        finally:  # also how long it took: a large register on a slow disk must not be written for every refusal
            self._pace = self._pace.taken(begun, self._clock.now())

    def _save(self) -> None:
        self.write_notes()  # first: what the register has counted is not told again after a kill
        counted = self.counted.as_json() if self.counted is not None else None
        try:
            snapshot = self.register.write(self._unsaved, self._clock.now(), self._untold, counted)
        except StateError as fault:
            self._ill("register", str(fault))
            return
        self._well("register")
        for problem in snapshot.problems:
            self._say(problem)
        self._unsaved.clear()
        self._untold.clear()

    def publish(self, told: Mapping[str, object]) -> None:
        """Write these fields of the register besides its entries."""
        self._untold |= told
        self.save()

    def ask_offers(self) -> None:
        """Ask the open doors what their models can take, and what they cost."""
        self._submit(_LOOKS, self._ask_offers, None)

    def measure(self, work: Callable[[], Message]) -> None:
        """Do this on a worker thread, and answer with its message."""
        self._submit(_FILES, lambda _: self._answer(work()), None)

    @property
    def save_due(self) -> float | None:
        """When what is unsaved may be written, epoch seconds; None if all is."""
        return self._pace.due(self._clock.now()) if self._unsaved or self._untold else None

    def register_news(self) -> RegisterChanged | None:
        """What somebody else wrote into the register since we last wrote or looked; None if nobody did."""
        snapshot = None if self._unsaved or self._untold else self.register.news(self._clock.now())
        if snapshot is None:
            return None
        for problem in snapshot.problems:
            self._say(problem)
        return RegisterChanged(snapshot.entries(), self.register.written)

    def last_life(self, since: float, cursors: Mapping[str, Cursor], beat: float | None) -> LastLife:
        """What the journal says of the life before; what that one told will not be written down again."""
        last = last_life(self._journal.read(), since, cursors, beat)
        self._noted = last.told
        return last

    def whose(self, abort: Aborted) -> Aborted | TakenOver:
        """An abort as part of somebody else's move is no word of the user's: such a move was claimed just before."""
        self.write_notes()
        for entry in self._journal.read(abort.time - CLAIMED_BEFORE):
            others = entry.get("what") == "claim" and "by" in entry
            if others and abort.session in (entry.get("session"), entry.get("moved")):
                return TakenOver(abort.session)
        return abort

    def listen(self) -> None:
        """Look for doors that were opened lately, and listen at them too."""
        self._submit(_DOORS, self._find_doors, None)

    def close(self) -> None:
        """Begin nothing new. Moves may come to their end for a while: else a turn that is stopped stays stopped."""
        self._workers.close(LAST_MOVES, lambda lane: not isinstance(lane, str))

    def _submit(self, lane: Hashable, work: Callable[[Any], None], effect: Effect | None) -> None:
        self._workers.submit(lane, partial(self._guarded, work, effect))

    def _note(self, note: Note) -> None:
        if note.what == "limit" and self._noted and place_of(plain(note.fields)) in self._noted:
            return
        said = plain({key: value for key, value in note.fields.items() if not isinstance(value, (dict, list))})
        fields = [f"{key}={value}" for key, value in said.items() if value is not None]
        self._say(f"{note.what}: {' '.join(fields)}" if fields else note.what)
        self._notes.append(self._journal.line({"what": note.what, **note.fields}))
        if note.durable or len(self._notes) % NOTES_MOST == 0:
            self.write_notes(note.durable)

    def write_notes(self, durable: bool = False) -> None:
        """Write down what was noted. Called when the loop has done all there is to do, and before what relies on it."""
        if not self._notes:
            return
        try:
            self._journal.write(self._notes, durable)
        except StateError as fault:
            self._ill("journal", str(fault))
        else:
            self._well("journal")
            self._notes.clear()

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
        if prices.outdated(self._paths.prices, self._clock.now()):
            self.ask_offers()

    def _ask_offers(self, _: Effect | None) -> None:
        places = ((door, door.directory) for door in self._finder.find().open if door.directory)
        offers = offers_at(places, self._clock.now())
        prices.keep(self._paths.prices, offers, self._clock.now())
        self._answer(Surveyed(None, None, (), 0, offers=offers))

    def _look_up(self, effect: LookUp) -> None:
        found = self._surveyor.stuck() if effect.session is None else self._surveyor.session(effect.session)
        self._ears.listen(self._finder.find().open)
        waiting = {view.parent for view in found.views if view.parent and view.stuck}
        parents = tuple(view for parent in waiting for view in self._surveyor.session(parent).views)
        offers = offers_at(((view.door, view.directory) for view in found.views if view.stuck), self._clock.now())
        prices.keep(self._paths.prices, offers, self._clock.now())
        self._answer(Surveyed(effect.session, effect.model, found.views, found.doors, parents, offers, found.failing))

    def _free(self, effect: Free) -> None:
        try:
            connect(effect.view.door).abort(effect.view.session, effect.view.directory)
        except DoorError as fault:
            self._say(f"{effect.view.session} could not be stopped: {fault}")

    def _move(self, effect: Move) -> None:
        self._answer(MoveEnded(effect.claim, effect.order, self._mover.move(effect.order)))
