"""Moves a session that is stuck on a limited model: one way behind one protocol, tried in order by whoever decides.

The way here re-runs the last user message by its id on another model: context, finished tool calls and queued prompts
stay, no prompt is added. It blocks for seconds and belongs on a worker thread; it raises nothing that is foreseeable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.guards import Ruling, forbidden, outcome
from ocwatchd.core.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.api import Api, Rerun, connect
from ocwatchd.opencode.http import DoorError, Trouble
from ocwatchd.opencode.look import last_answer, last_prompt, look, turn, view_of
from ocwatchd.opencode.records import Message

CLEANUP_LIMIT = 8.0
"""Seconds after an abort within which the old loop must have closed its message; usually 10 - 50 ms."""

CLEANUP_POLL = 0.02
SETTLE = 0.2
"""Seconds between the closed message and the new attempt. Without this wait the old loop's clean-up cancelled the new
prompt in 2 of 6 moves on 1.1.65 and 1 of 6 on 1.0.185."""

POSTS = 3
"""Attempts to start the new run: the first is lost now and then to the same clean-up."""

APPEAR_LIMIT = 4.0
"""Seconds within which an accepted run must show its message; 0.05 - 0.3 s on an idle machine."""

BUSY_LIMIT = 30.0
"""The same, while the session says that it works: a slow disk, a plugin that thinks."""

CLEANUP_REACH = 1.5
"""Seconds after a post within which a stopped answer is put down to the old loop's clean-up, once. Later, or again, it
is the user's doing."""

SPEAK_LIMIT = 10.0
"""Seconds the target gets to answer or to refuse. A refusal comes within a second or so; a model that thinks for longer
works, and a refusal after that is a new limit, which the log tells."""

VERIFY_POLL, SLOWER = 0.05, 0.1
"""Seconds between looks at a move, and share of the time waited so far: fifty moves at once, looked at twenty times a
second each, kept OpenCode from doing them."""
PAUSES = (0.5, 1.0)
"""Seconds before a call is repeated that found no door: once the turn is stopped, giving up at once would strand it."""

T = TypeVar("T")


class Mover(Protocol):
    """One way to move a session. `name` stands in the journal."""

    name: str

    def move(self, order: Order) -> MoveOutcome:
        """Move the session, or say why not; safe to call twice, blocks for seconds. Guards see a fresh look."""
        ...


@dataclass(frozen=True, slots=True)
class _Time:
    clock: Clock
    elapsed: Callable[[], float]
    sleep: Callable[[float], None]


class RerunOverApi:
    """Stops the retry and runs the last user message again on the target, through the session's own door."""

    name = "rerun"

    def __init__(
        self,
        connect: Callable[[Door], Api] = connect,
        sleep: Callable[[float], None] = time.sleep,
        elapsed: Callable[[], float] = time.monotonic,
        clock: Clock | None = None,
    ) -> None:
        """`connect` opens a door; the others are the seams for time."""
        self._connect, self._time = connect, _Time(clock or SystemClock(), elapsed, sleep)
        self._moving: set[str] = set()
        self._lock = threading.Lock()

    def move(self, order: Order) -> MoveOutcome:
        """Move it; a second call for a session that is being moved is refused."""
        with self._alone(order.view.session) as free:
            if not free:
                return MoveOutcome(MoveResult.REFUSED, "a move of this session is under way", order.view)
            return _Attempt(self._connect(order.view.door), order, self._time).run()

    @contextmanager
    def _alone(self, session: str) -> Iterator[bool]:
        with self._lock:
            free = session not in self._moving
            self._moving.add(session)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._moving.discard(session)


class _Ended(Exception):
    """Ends a move with its outcome."""

    def __init__(self, ruling: Ruling, view: SessionView, stranded: bool = False) -> None:
        super().__init__(ruling.why)
        self.outcome = MoveOutcome(ruling.result, ruling.why, view, stranded=stranded)


class _Attempt:
    """One move from look to verdict. Keeps what was done, so that a failure at any point is reported as it is."""

    def __init__(self, api: Api, order: Order, passing: _Time) -> None:
        view = order.view
        self._api, self._order, self._time = api, order, passing
        self._session = Session(view.session, view.directory, view.parent, view.version)
        self._began = passing.elapsed()
        self._touched = order.own_abort
        self._posts = self._stops = 0

    def run(self) -> MoveOutcome:
        try:
            return replace(self._steps(), posts=self._posts)
        except _Ended as end:
            return replace(end.outcome, posts=self._posts)
        except DoorError as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, self._posts, self._touched)

    def _steps(self) -> MoveOutcome:
        self._check_target()
        statuses = self._api.status(self._session.directory)
        view = look(self._api, self._session, self._time.clock, statuses)
        self._check(forbidden(self._order, view, _in_state(statuses, "retry"), _in_state(statuses, "busy")), view)
        if view.state in (SessionState.RETRY, SessionState.BUSY):
            if not self._order.looping:
                self._check_again(view)
            self._stop()
            self._time.sleep(SETTLE)
        return self._run_target()

    # ---- before anything is touched

    def _check_target(self) -> None:
        """An unknown model or agent would be accepted with 204 and then never run."""
        target, directory = self._order.target, self._session.directory
        if not self._api.knows(target.model, directory):
            raise _Ended(Ruling(MoveResult.FAILED, f"OpenCode knows no model {target.model}"), self._order.view)
        if target.agent and target.agent not in self._api.agents(directory):
            raise _Ended(Ruling(MoveResult.FAILED, f"OpenCode knows no agent {target.agent}"), self._order.view)

    def _check(self, ruling: Ruling | None, view: SessionView) -> None:
        if ruling is not None:
            raise _Ended(ruling, view)

    def _check_again(self, view: SessionView) -> None:
        """The look took several calls; OpenCode's own next attempt may have begun meanwhile."""
        status = self._status()
        if status is None or status.type != view.state.value or status.attempt not in (None, view.attempt):
            raise _Ended(Ruling(MoveResult.ALREADY, "OpenCode has just gone on by itself"), view)

    def _status(self) -> RetryStatus | None:
        return self._api.status(self._session.directory).get(self._session.id)

    # ---- the move

    def _stop(self) -> None:
        """Abort, and wait until the old loop has closed its message."""
        self._touched = True
        self._patiently(lambda: self._api.abort(self._session.id, self._session.directory))
        deadline = self._time.elapsed() + CLEANUP_LIMIT
        while self._time.elapsed() < deadline:
            answer = last_answer(self._turn())
            if answer is None or answer.completed is not None:
                return
            self._time.sleep(CLEANUP_POLL)

    def _run_target(self) -> MoveOutcome:
        for _ in range(POSTS):
            before = self._turn()
            prompt = self._prompt_to_run(before)
            lost = self._post(prompt) if prompt is not None else None
            posted = self._time.elapsed()
            seen = self._new_answer(before)
            ended = self._verdict(seen, posted) if seen is not None else None
            if ended is not None:
                return ended
            if lost is not None:
                raise lost
        why = "the new run was accepted and never began"
        raise _Ended(Ruling(MoveResult.FAILED, why), self._order.view, stranded=True)

    def _prompt_to_run(self, messages: list[Message]) -> Message | None:
        """The last prompt; None if our run of it is under way. What the user has begun meanwhile goes first."""
        prompt = last_prompt(messages)
        status = self._patiently(self._status)
        if status is None or status.type == "idle":
            if prompt is None:
                raise _Ended(Ruling(MoveResult.FAILED, "the prompt is gone"), self._order.view)
            return prompt
        if self._posts:
            return None
        view = view_of(self._api.door, self._session, status, messages, False, self._time.clock.now())
        raise _Ended(Ruling(MoveResult.USER_TOOK_OVER, "the session works again, and not for us"), view)

    def _post(self, prompt: Message) -> DoorError | None:
        """Safe to repeat: OpenCode makes one run of two posts, and none of one for an answered prompt.

        Returns what went wrong: the run may have begun all the same, and only the word of it have got lost.
        """
        target = self._order.target
        rerun = Rerun(prompt.id, target.model, target.agent or prompt.agent, prompt.copied)
        self._posts += 1
        try:
            self._patiently(lambda: self._api.rerun(self._session.id, self._session.directory, rerun))
        except DoorError as fault:
            if fault.trouble is Trouble.STATUS and (fault.status or 0) < 500:
                raise  # refused
            return fault
        return None

    def _new_answer(self, before: list[Message]) -> Message | None:
        """The answer that was not there before, once there is one."""
        old = {message.id for message in before}
        began = self._time.elapsed()
        while (waited := self._time.elapsed() - began) < BUSY_LIMIT:
            answer = last_answer(self._turn())
            if answer is not None and answer.id not in old:
                return answer
            if waited > APPEAR_LIMIT and self._patiently(self._status) is None:
                return None
            self._time.sleep(max(VERIFY_POLL, SLOWER * waited))
        return None

    def _verdict(self, seen: Message, posted: float) -> MoveOutcome | None:
        """Wait until the target speaks, waits, or ends; None if the old loop's clean-up has stopped the new run."""
        began = self._time.elapsed()
        took = began - self._began
        while True:
            view = self._patiently(lambda: look(self._api, self._session, self._time.clock, questions=False))
            ruling = outcome(view, self._order.target.model, seen.id)
            waited = self._time.elapsed() - began
            if ruling is None and waited >= SPEAK_LIMIT:
                ruling = Ruling(MoveResult.MOVED, f"{view.model} works and has not spoken yet")
            if ruling is not None and view.aborted and self._by_cleanup(posted):
                return None
            if ruling is not None and not (_silent(view, seen) and waited < SPEAK_LIMIT):
                spoke = self._time.elapsed() - posted if ruling.result is MoveResult.MOVED else None
                return MoveOutcome(ruling.result, ruling.why, view, seconds=took, first_token=spoke)
            self._time.sleep(max(VERIFY_POLL, SLOWER * waited))

    def _by_cleanup(self, posted: float) -> bool:
        self._stops += 1
        return self._stops == 1 and self._time.elapsed() - posted < CLEANUP_REACH

    def _turn(self) -> list[Message]:
        return self._patiently(lambda: turn(self._api, self._session))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Repeat what found no door, or a server in trouble; what OpenCode refuses counts at once."""
        for pause in PAUSES:
            try:
                return call()
            except DoorError as fault:
                if fault.trouble not in (Trouble.UNREACHABLE, Trouble.TIMEOUT) and (fault.status or 0) < 500:
                    raise
            self._time.sleep(pause)
        return call()


def _silent(view: SessionView, seen: Message) -> bool:
    """The stream of this answer has begun, and nothing has come of it yet: it may still turn out to be a refusal."""
    return view.state is SessionState.BUSY and view.answer == seen.id and not (view.answer_spoke or view.answer_ended)


def _in_state(statuses: Mapping[str, RetryStatus], state: str) -> frozenset[str]:
    return frozenset(session for session, status in statuses.items() if status.type == state)
