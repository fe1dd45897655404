"""Move a session of OpenCode 2 by changing its model, so that the waiting turn continues in the same session.

A waiting step looks up its model at each attempt, so changing the model is enough if the wait is short. A long wait is
interrupted, and the turn is started again in one of these ways (measured on 0.0.0-next-16350; the times are from the
429 to the new request):

* if the turn contains only limits, the prompt is reverted and sent again with the same id (0.5 s);
* if the turn contains finished tool calls, a synthetic message continues the turn; after a revert, the tools would run
  twice (0.1 s);
* if other prompts are waiting, waking the session runs them, which continues the turn; a revert would lose them (0.25
  s).

A turn of `opencode run` is never interrupted, because its client would exit without an answer and with code 0. A
subagent's turn is not interrupted either, because its parent would receive a cancellation. A move blocks for seconds,
so it must run on a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from ocwatchd.clock import Clock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order, ReturnResult
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import Target
from ocwatchd.core.engine.guards import Ruling, failure, forbidden
from ocwatchd.movers.preflight import MoveTime, OneAtATime, repeated, unknown_target
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v2.messages import again
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.snapshot import Turn, turn_of
from ocwatchd.opencode.sessions.messages import Json, mapping

NEAR = 2.6
"""Maximum remaining wait, in seconds, that is not interrupted. OpenCode waits 2 s before its first retry."""
FREE_SLACK = 5.0
"""Tolerance, in seconds, for a wait that must not be interrupted. If the session's own model is available again no
later than this time after OpenCode's next attempt, the session keeps its model.
"""
RESPONSE_TIMEOUT = 10.0
"""Timeout, in seconds, for the target to answer or to refuse the request. It starts when the target's step begins."""
APPEAR_TIMEOUT = 30.0
"""Timeout, in seconds, for the target's step to begin. A step begins with the first byte of the answer, so the timeout
includes the model's thinking time.
"""
VERIFY_POLL, SLOWER = 0.03, 0.1
"""Minimum interval between checks of a move: in seconds, and as a fraction of the time waited so far."""
PAUSES = (0.3, 1.0)
"""Delay, in seconds, before each repetition of a failed call. Giving up in the middle of a move would leave the turn
stopped.
"""
CONTINUE = "Continue."
"""Text of the synthetic message that continues a turn."""
CONTINUE_SHOWN = "ocwatchd: the model was limited; {} continues"
STALLED_SHOWN = "ocwatchd: the model had stopped sending; {} continues"

T = TypeVar("T")


class SwitchModel:
    """Mover for sessions of OpenCode 2."""

    name = "switch"

    def __init__(
        self,
        connect: Callable[[Endpoint], Routes] = Routes,
        sleep: Callable[[float], None] = time.sleep,
        elapsed: Callable[[], float] = time.monotonic,
        clock: Clock | None = None,
        silence: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """Store the arguments. `connect` opens an endpoint. `silence` returns the number of seconds for which a busy
        session has been silent, or None if the session is not known to be busy. The other parameters replace the clock
        in tests.
        """
        self._connect, self._time, self._moving = connect, MoveTime.of(clock, elapsed, sleep), OneAtATime()
        self._silence = silence
        self._late: set[str] = set()
        """Sessions that `return_session` has tried to switch back. The switch may take effect after its timeout."""

    def move(self, order: Order) -> MoveOutcome:
        """Move the session. A second simultaneous move of the same session is refused."""
        return self._moving.move(
            order, lambda: _Attempt(self._connect(order.snapshot.endpoint), order, self._time, self._silence).run()
        )

    def return_session(self, endpoint: Endpoint, session: str, origin: Target, target: Target) -> ReturnResult:
        """Switch a moved session back to `origin` if the session is idle and still on `target`."""
        with self._moving.alone(session) as free:
            if not free:
                return ReturnResult.LATER
            api = self._connect(endpoint)
            try:
                info = api.session(session)
                if info.model != target.model and not (info.model == origin.model and session in self._late):
                    self._late.discard(session)
                    return ReturnResult.CHOSEN
                if session in api.active():
                    return ReturnResult.LATER
                if info.model != origin.model:
                    self._late.add(session)
                    api.switch_model(session, origin.model)
                if target.agent and origin.agent and info.agent == target.agent != origin.agent:
                    api.switch_agent(session, origin.agent)
            except EndpointError as fault:
                return ReturnResult.UNKNOWN if fault.status == 404 else ReturnResult.LATER
            self._late.discard(session)
            return ReturnResult.DONE


class _Ended(Exception):
    """Raised to end a move. Contains the outcome of the move."""

    def __init__(self, outcome: MoveOutcome) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome


class _Attempt:
    """One move, from the first snapshot to the outcome."""

    def __init__(self, api: Routes, order: Order, passing: MoveTime, silence: Callable[[str], float | None]) -> None:
        self._api, self._order, self._time, self._silence = api, order, passing, silence
        self._session, self._target = order.snapshot.session, order.target.model
        self._began = passing.elapsed()
        self._stopped = order.own_abort
        self._posts = 0
        self._interrupted = False

    def run(self) -> MoveOutcome:
        try:
            return replace(self._steps(), posts=self._posts)
        except _Ended as end:
            return replace(end.outcome, posts=self._posts)
        except EndpointError as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, self._posts, self._stopped)

    def _steps(self) -> MoveOutcome:
        self._check_target()
        turn = self._probe()
        self._check(turn)
        snapshot = turn.snapshot
        if snapshot.state is SessionState.RETRY:
            left = (snapshot.next_at or self._time.clock.now()) - self._time.clock.now()
            destroyed = destroyed_by_interrupt(turn) or self._working_child(turn)
            # After an interrupt of our own that may still take effect, the turn is interrupted again and waited for.
            if (left <= NEAR and not self._order.own_abort) or destroyed is not None:
                return self._at_next_attempt(turn, left, destroyed)
            self._stopped = True
            self._interrupt()
            turn = replace(turn, queued=self._api.queued(self._session))
        elif snapshot.state is SessionState.BUSY and self._order.stalled:
            turn = self._stop_silent(turn)
        elif snapshot.parent is not None:
            self._end(MoveResult.REFUSED, "its parent has already received the failure", snapshot)
        elif snapshot.belongs_to_run:
            self._end(MoveResult.REFUSED, "its `opencode run` has ended", snapshot)
        return self._begin_again(turn)

    # ---- before anything is changed

    def _check_target(self) -> None:
        target, decided = self._order.target, self._order.snapshot
        agent = target.agent if target.agent != decided.agent else None  # the session's current agent is known to exist
        ruling = unknown_target(self._api, Target(target.model, agent), decided.directory)
        if ruling is not None:
            self._end(ruling.result, ruling.why, decided)

    def _check(self, turn: Turn) -> None:
        snapshot, decided = turn.snapshot, self._order.snapshot
        if snapshot.prompt_model not in (decided.prompt_model, self._target) and not self._order.own_abort:
            self._end(MoveResult.USER_TOOK_OVER, f"{snapshot.prompt_model} was selected in the meantime", snapshot)
        ruling = forbidden(self._order, snapshot)
        if ruling is not None:
            self._end(ruling.result, ruling.why, snapshot)

    # ---- the move

    def _at_next_attempt(self, turn: Turn, left: float, why: str | None) -> MoveOutcome:
        """Change the model without interrupting the wait. `why` is the reason for not interrupting a long wait."""
        next_at, until = turn.snapshot.next_at, self._order.until
        if left > NEAR and until is not None and next_at is not None and until <= next_at + FREE_SLACK:
            self._end(MoveResult.REFUSED, f"it is waiting until its own model is available again: {why}", turn.snapshot)
        self._switch(turn)
        if left > NEAR:
            why = f"{self._target} takes over at OpenCode's next attempt: {why}"
            return MoveOutcome(MoveResult.SWITCHED, why, turn.snapshot)
        return self._verify(turn, frozenset(), left)

    def _stop_silent(self, turn: Turn) -> Turn:
        """Interrupt a turn whose answer has stalled, and return the turn to begin again. An interrupt also ends the
        session's subagents.
        """
        snapshot, order = turn.snapshot, self._order
        if snapshot.belongs_to_run or snapshot.parent is not None:
            self._end(MoveResult.REFUSED, destroyed_by_interrupt(turn) or "", snapshot)
        busy = self._working_child(turn)
        if busy is not None:
            self._end(MoveResult.REFUSED, busy, snapshot)
        silence, before = self._silence(order.session), order.silence
        if silence is not None and before is not None and silence < before:
            self._end(MoveResult.ALREADY, f"{snapshot.model} has continued its answer", snapshot)
        self._stopped = True
        self._interrupt()
        after = self._probe()
        finished = after.snapshot.answer_completed and not after.snapshot.aborted and after.snapshot.last_error is None
        if finished and not after.queued:
            self._stopped = False
            self._end(MoveResult.ALREADY, f"{snapshot.model} has just finished its answer", after.snapshot)
        if after.snapshot.user_message != snapshot.user_message:  # the interrupt has stopped a prompt that came next
            turn = after
        if turn.tools_ended:
            self._drop_partial(after)
        return replace(turn, queued=after.queued)

    def _drop_partial(self, after: Turn) -> None:
        """Remove the incomplete answer of a turn that is continued, unless it contains a tool call that has ended."""
        last = after.steps[-1] if after.steps else None
        if last is None or last.message.user or last.tools_ended or not after.snapshot.aborted or after.queued:
            return
        with suppress(EndpointError):  # an answer that is not removed is sent to the target, before a new message
            self._api.stage_revert(self._session, last.message.id)
            try:
                self._patiently(lambda: self._api.commit_revert(self._session))
            except EndpointError:  # while a revert is staged, a synthetic message starts no turn
                self._clear_revert()
                self._api.wait_idle(self._session)  # clearing wakes the session, for a moment if no prompt is waiting

    def _working_child(self, turn: Turn) -> str | None:
        """Return the reason why a busy subagent forbids an interrupt, or None if no subagent is busy. A stalled
        subagent, because of which its parent is moved, does not forbid it.

        The list of subagents is fetched only if another session is active.
        """
        others = turn.active - {self._session, self._order.child}
        if others and not others.isdisjoint(child.id for child in self._api.children(self._session)):
            return "one of its subagents is working"
        return None

    def _check_idle(self, turn: Turn) -> None:
        """Check that the session is still idle. Otherwise, the user has started new work, which must not be changed,
        or the interrupted turn has not ended yet.
        """
        if self._session not in self._api.active():
            return
        snapshot = self._probe().snapshot
        if self._interrupted and snapshot.user_message == turn.snapshot.user_message:
            # Without a snapshot, because this does not count against the target.
            raise _Ended(MoveOutcome(MoveResult.FAILED, "the interrupted turn has not ended yet", None, stranded=True))
        self._end(MoveResult.USER_TOOK_OVER, "the session is already working on something else", snapshot)

    def _begin_again(self, turn: Turn) -> MoveOutcome:
        """Continue an idle turn on the target."""
        known = frozenset(step.message.id for step in turn.steps)
        prompt = turn.prompt
        self._stopped = True
        if turn.queued:
            self._check_idle(turn)
            self._switch(turn)
            self._post(lambda: self._api.clear_revert(self._session))
        elif turn.tools_ended or not turn.only_answers_prompt or prompt is None:
            self._check_idle(turn)
            self._switch(turn)
            shown = (STALLED_SHOWN if self._order.stalled else CONTINUE_SHOWN).format(self._target)
            self._post(lambda: self._api.synthetic(self._session, CONTINUE, shown))
        else:
            body = again(prompt)
            try:
                self._patiently(lambda: self._api.stage_revert(self._session, str(prompt["id"])))
            except EndpointError as fault:
                if fault.status == 409:  # OpenCode does not revert a session that is working
                    self._check_idle(turn)
                raise
            try:
                self._switch(turn)
                self._post(lambda: self._api.prompt(self._session, body))
            except EndpointError:
                with suppress(EndpointError):
                    self._clear_revert()
                raise
        return self._verify(turn, known, 0.0)

    def _clear_revert(self) -> None:
        repeated(lambda: self._api.clear_revert(self._session), PAUSES, self._time.sleep, twice=False)

    def _switch(self, turn: Turn) -> None:
        agent = self._order.target.agent
        same = self._order.stalled and (turn.info.model or turn.snapshot.model) == self._target
        if not same:  # a switch to the model that is used anyway would be shown to the user
            self._patiently(lambda: self._api.switch_model(self._session, self._target))
        if agent and agent != turn.snapshot.agent:
            self._patiently(lambda: self._api.switch_agent(self._session, agent))

    def _post(self, call: Callable[[], None]) -> None:
        """Make a call that begins the turn. If there is no response, the call is not repeated, because it may take
        effect later. `_verify` then shows whether it has.
        """
        self._posts += 1
        try:
            repeated(call, PAUSES, self._time.sleep, twice=False)
        except EndpointError as fault:
            if fault.unsent or fault.trouble not in (Trouble.UNREACHABLE, Trouble.TIMEOUT):
                raise

    # ---- verification

    def _verify(self, turn: Turn, known: frozenset[str], left: float) -> MoveOutcome:
        """Wait until the target's step has begun and the target has answered, was limited, or has failed.

        `known` contains the ids of the messages before the move; `left` is the time, in seconds, until the step can
        begin.
        """
        began, seen = self._time.elapsed(), None
        begun = worked = False
        while True:
            snapshot = self._patiently(lambda: self._probe_turn(turn)).snapshot
            waited, works = self._time.elapsed() - began, snapshot.state in (SessionState.BUSY, SessionState.RETRY)
            if (
                seen is None
                and snapshot.answer is not None
                and snapshot.answer not in known
                and snapshot.model == self._target
            ):
                seen = self._time.elapsed()
            ruling = self._ruling(snapshot, known, seen, waited - left)
            unanswered = begun and not works and snapshot.answer in (None, *known)
            if unanswered and (worked or ruling is not None) and self._stopped_by_user():
                ruling = Ruling(MoveResult.USER_TOOK_OVER, "the turn was stopped")
            begun, worked = begun or works, works
            if ruling is not None:
                spoke = self._time.elapsed() - began if ruling.result is MoveResult.MOVED else None
                took = None if seen is None else seen - self._began
                stranded = ruling.result is MoveResult.FAILED and snapshot.state is SessionState.IDLE
                return MoveOutcome(
                    ruling.result, ruling.why, snapshot, stranded=stranded, seconds=took, first_token=spoke
                )
            self._time.sleep(max(VERIFY_POLL, SLOWER * min(waited, 5.0)))

    def _stopped_by_user(self) -> bool:
        """Return whether the session's last turn was interrupted. OpenCode lists no answer for a turn that was
        interrupted before its first byte, so only the session's log shows why the turn has ended.
        """
        last: Json = {}
        with suppress(EndpointError):
            for event in self._api.log(self._session, 0):
                if str(event.get("type")).startswith("session.execution."):
                    last = event
        return last.get("type") == "session.execution.interrupted" and mapping(last.get("data")).get("reason") == "user"

    def _ruling(
        self, snapshot: SessionSnapshot, known: frozenset[str], seen: float | None, waited: float
    ) -> Ruling | None:
        """Return the result of the move if this snapshot determines it; otherwise, return None."""
        if seen is None:
            fresh = snapshot.answer is not None and snapshot.answer not in known
            if snapshot.aborted and (fresh or not known):
                return Ruling(MoveResult.USER_TOOK_OVER, "the turn was stopped")
            if fresh and known and snapshot.model not in (None, self._target):
                return Ruling(MoveResult.MOVED, f"{snapshot.model} answers, not {self._target}")
            if waited > self._at_most(APPEAR_TIMEOUT):
                if snapshot.state is SessionState.BUSY:
                    return Ruling(MoveResult.MOVED, f"{self._target} is working and has not answered yet")
                return Ruling(MoveResult.FAILED, "the new step was accepted, but never began")
            return None
        if snapshot.model != self._target:
            return Ruling(MoveResult.MOVED, f"{snapshot.model} is working on it")
        if (failed := failure(snapshot, "the new step")) is not None:
            return failed
        if snapshot.answer_began or snapshot.answer_completed:
            return Ruling(MoveResult.MOVED, f"{snapshot.model} answers")
        if self._time.elapsed() - seen > self._at_most(RESPONSE_TIMEOUT):
            return Ruling(MoveResult.MOVED, f"{snapshot.model} is working and has not answered yet")
        return None

    def _at_most(self, limit: float) -> float:
        """Return the timeout `limit`. If the session is moved because it was silent, the timeout is at most half of
        that silence.
        """
        silence = self._order.snapshot.silence
        return min(limit, silence / 2) if self._order.stalled and silence is not None else limit

    # ---- probes

    def _probe(self) -> Turn:
        return turn_of(self._api, self._session, self._time.clock, thorough=True)

    def _probe_turn(self, before: Turn) -> Turn:
        """Return the turn without its open questions. This needs half as many requests as `_probe`."""
        return turn_of(self._api, self._session, self._time.clock, known=replace(before.info, model=self._target))

    def _end(self, result: MoveResult, why: str, snapshot: SessionSnapshot) -> None:
        stranded = self._stopped and result is MoveResult.FAILED
        raise _Ended(MoveOutcome(result, why, snapshot, stranded=stranded))

    def _interrupt(self) -> None:
        """Interrupt the session's turn and wait for its end. An interrupt without a response is not repeated, because
        the second one may arrive only after the turn has begun again, and would stop it.
        """
        self._interrupted = True
        repeated(lambda: self._api.interrupt(self._session), PAUSES, self._time.sleep, twice=False)
        self._patiently(lambda: self._api.wait_idle(self._session))

    def _patiently(self, call: Callable[[], T]) -> T:
        return repeated(call, PAUSES, self._time.sleep)


def destroyed_by_interrupt(turn: Turn) -> str | None:
    """Return a phrase that names what an interrupt would destroy, or None if the interrupt would only end the wait."""
    if turn.snapshot.belongs_to_run:
        return "`opencode run` would end without an answer"
    if turn.snapshot.parent is not None:
        return "its parent would receive a cancellation"
    if turn.snapshot.asking or any(step.message.running for step in turn.steps):
        return "a tool is running or a question is open"
    return None
