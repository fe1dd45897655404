"""Move a session of OpenCode 1 by running its last prompt again on another model.

The last user message is run again by its id, so context, finished tool calls and queued prompts are kept, and no prompt
is added. A move blocks for seconds, so it must run on a worker thread. Expected faults are returned instead of raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from ocwatchd.clock import Clock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import Target
from ocwatchd.core.engine.guards import CUT_STEPS, Ruling, forbidden, outcome
from ocwatchd.movers.preflight import MoveTime, OneAtATime, repeated, unknown_target
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.session_events import SessionEvents
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api, Rerun, connect
from ocwatchd.opencode.sessions.messages import Message
from ocwatchd.opencode.sessions.snapshots import (
    last_answer,
    last_prompt,
    snapshot_of,
    take_detailed_snapshot,
    take_snapshot,
    turn,
)

CLEANUP_LIMIT = 8.0
"""Timeout, in seconds, for the old run's message to be marked as completed after an abort. This usually takes 10 to 50
ms.
"""

CLEANUP_POLL = 0.02
"""Interval, in seconds, between checks of whether the old run's message is marked as completed, if there is no event
stream.
"""
EVENT_POLL = 0.002
"""Interval, in seconds, between checks for received events. These checks send no request."""
EVENTS_LATE = 0.3
"""Time, in seconds, to wait for events after an abort before requesting messages, if an event stream is open."""
SETTLE = 0.2
"""Delay, in seconds, between the completion of the old run's last message and the new run, if no event can confirm that
the old run has ended. Without this delay, the old run's cleanup canceled the new run in 2 of 6 moves on 1.1.65 and in 1
of 6 on 1.0.185.
"""

END_LIMIT = 3.0
"""Timeout, in seconds, for the event that confirms the end of the old run. It begins when the old run's message is
marked as completed.
"""

RECENT = 1.0
"""Maximum age, in seconds, of a snapshot that shows a retry. If the snapshot is older, ocwatchd checks again for open
questions.
"""

START_QUIET = 0.3
"""Time, in seconds, after a post during which no request is sent, unless the event stream shows that the new run has
begun.
"""
BEGIN_QUIET = 0.15
"""Time, in seconds, during which no request is sent after the event stream has shown that the new run has begun.
OpenCode takes 50 ms to send the request to the model, plus 30 ms if it must respond to one of our requests at the same
time (1.18.33).
"""

POSTS = 3
"""Maximum number of times that the prompt is posted. If the new run has not started, the prompt is posted again,
because the previous post may have been lost.
"""

APPEAR_TIMEOUT = 4.0
"""Timeout, in seconds, for the message of an accepted run to appear; this takes 0.05 - 0.3 s on an idle machine."""

STOP_LIMIT = 1.0
"""Time, in seconds, after which a stopped run is treated as over if its message has not appeared. On a busy machine,
such a run still began up to 0.1 s after the stop (1.18.33).
"""

BUSY_LIMIT = 30.0
"""Timeout, in seconds, for the message of an accepted run to appear while the session reports that it is busy. A slow
disk or plugin can delay the message.
"""

RESPONSE_TIMEOUT = 10.0
"""Timeout, in seconds, for the target to answer or refuse the request. A limit is usually reported within a second, so
a slower model is assumed to work. If it hits a limit later, the log contains this new limit.
"""

VERIFY_POLL, SLOWER = 0.05, 0.1
"""Minimum interval between checks of a move: in seconds, and as a fraction of the time waited so far. Fifty
simultaneous moves with twenty checks per second each left OpenCode no time to carry them out.
"""
LISTENING_POLL = 0.25
"""Minimum interval, in seconds, between requests while the event stream is open and delivers no event for this session.
Events report all changes except the first text of an answer. At a load of 17, requests every VERIFY_POLL seconds
delayed the new run itself.
"""
MAX_PIECES = 60
"""Maximum number of recent messages that are searched for cut-off answers to delete."""
PAUSES = (0.5, 1.0)
"""Delay, in seconds, before each repetition of a failed call. Giving up immediately would leave the turn stopped."""

T = TypeVar("T")


class RerunOverApi:
    """Mover that aborts the retry and runs the last user message again on the target, at the session's own endpoint."""

    name = "rerun"

    def __init__(
        self,
        connect: Callable[[Endpoint], Api] = connect,
        sleep: Callable[[float], None] = time.sleep,
        elapsed: Callable[[], float] = time.monotonic,
        clock: Clock | None = None,
        silence: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """Store the arguments. `connect` opens an endpoint.

        `silence` returns the number of seconds for which a busy session has been silent, or None if the session is not
        known to be busy. The other parameters replace the clock in tests.
        """
        self._connect, self._time, self._moving = connect, MoveTime.of(clock, elapsed, sleep), OneAtATime()
        self._silence = silence

    def move(self, order: Order) -> MoveOutcome:
        """Move the session. A second simultaneous move of the same session is refused."""
        return self._moving.move(
            order, lambda: _Attempt(self._connect(order.snapshot.endpoint), order, self._time, self._silence).run()
        )


class _Ended(Exception):
    """Raised to end a move. Contains the outcome of the move."""

    def __init__(self, ruling: Ruling, snapshot: SessionSnapshot | None, stranded: bool = False) -> None:
        super().__init__(ruling.why)
        self.outcome = MoveOutcome(ruling.result, ruling.why, snapshot, stranded=stranded)


class _Attempt:
    """One move, from the first snapshot to the outcome.

    Records which steps were taken, so that a failure is reported correctly.
    """

    def __init__(
        self, api: Api, order: Order, passing: MoveTime, silence: Callable[[str], float | None] = lambda _: None
    ) -> None:
        snapshot = order.snapshot
        self._api, self._order, self._time, self._silence = api, order, passing, silence
        self._session = Session(snapshot.session, snapshot.directory, snapshot.parent, snapshot.version)
        self._began = passing.elapsed()
        self._touched = order.own_abort
        self._posts = 0
        self._aborting = False
        self._running: float | None = None
        """The time at which the event stream showed that the new run had begun, as returned by `MoveTime.elapsed`."""
        self._events = SessionEvents(api, self._session)
        self._trace = self._events.trace

    def run(self) -> MoveOutcome:
        try:
            with self._events:
                return replace(self._steps(), posts=self._posts)
        except _Ended as end:
            return replace(end.outcome, posts=self._posts)
        except EndpointError as fault:
            return MoveOutcome(MoveResult.FAILED, str(fault), None, self._posts, self._touched)

    def _steps(self) -> MoveOutcome:
        self._check_target()
        self._events.wait_open()
        found = take_detailed_snapshot(self._api, self._session, self._time.clock, questions=not self._known_silent())
        snapshot, statuses = found.snapshot, found.statuses
        self._check(
            forbidden(self._order, snapshot, _in_state(statuses, "retry"), _in_state(statuses, "busy")), snapshot
        )
        if snapshot.state in (SessionState.RETRY, SessionState.BUSY):
            if not self._order.looping and (not self._events.live or self._trace.changed or self._trace.ended):
                self._check_again(snapshot)
            self._check_silence(snapshot)
            self._stop(snapshot)
            self._drop_pieces(found.messages, snapshot)
        elif self._order.own_abort:  # the abort of an earlier attempt may have taken effect only just now
            self._time.sleep(SETTLE)
            self._drop_pieces(found.messages, snapshot)
        return self._run_target(found.messages)

    def _known_silent(self) -> bool:
        """Return whether a recent snapshot shows that the session is waiting for a retry. No question can be open
        during this wait.
        """
        seen = self._order.snapshot
        lately = 0.0 <= self._time.clock.now() - seen.seen < RECENT
        return lately and seen.state is SessionState.RETRY and not seen.asking and self._order.child is None

    # ---- before anything is changed

    def _check_target(self) -> None:
        target, decided = self._order.target, self._order.snapshot
        agent = target.agent if target.agent != decided.agent else None  # the session's own agent is known to exist
        ruling = unknown_target(self._api, Target(target.model, agent), self._session.directory)
        self._check(ruling, decided)

    def _check(self, ruling: Ruling | None, snapshot: SessionSnapshot) -> None:
        if ruling is not None:
            raise _Ended(ruling, snapshot)

    def _check_again(self, snapshot: SessionSnapshot) -> None:
        """Check that OpenCode's own next attempt did not begin while the snapshot was being taken."""
        status = self._status()
        gone_on = (
            status is None or status.type != snapshot.state.value or status.attempt not in (None, snapshot.attempt)
        )
        if gone_on or self._trace.ended:
            raise _Ended(Ruling(MoveResult.ALREADY, "OpenCode has just continued on its own"), snapshot)

    def _check_silence(self, snapshot: SessionSnapshot) -> None:
        """Check that a stalled answer is still silent. The answer may have continued if the OpenCode process was
        suspended and then resumed.
        """
        now, before = self._silence(self._order.session), self._order.silence
        if self._order.stalled and not self._cut and now is not None and before is not None and now < before:
            raise _Ended(Ruling(MoveResult.ALREADY, f"{snapshot.model} has continued its answer"), snapshot)

    def _status(self) -> RetryStatus | None:
        return self._api.status(self._session.directory).get(self._session.id)

    # ---- the move

    def _stop(self, snapshot: SessionSnapshot) -> None:
        """Abort the old run and wait for it to end. If no event can confirm the end, wait until SETTLE seconds after
        the old run's message was marked as completed.
        """
        self._touched = True
        self._aborting = True
        self._trace.abort(snapshot.answer or "")
        self._abort()
        began, closed = self._time.elapsed(), None
        while (waited := self._time.elapsed() - began) < CLEANUP_LIMIT and not self._trace.over:
            asking = not self._events.live or waited >= EVENTS_LATE
            if closed is None and (self._trace.closed or (asking and self._closed())):
                closed = self._time.elapsed()
            settle = END_LIMIT if self._events.live and self._trace.end_to_come else SETTLE
            if closed is not None and self._time.elapsed() - closed >= settle:
                return
            self._time.sleep(EVENT_POLL if self._events.live else CLEANUP_POLL)

    def _abort(self) -> None:
        """Abort the session's run. An abort without a response is not repeated, because the second abort may arrive
        only after the new run has begun. It would stop that run, and would look like a stop by the user.
        """
        repeated(
            lambda: self._api.abort(self._session.id, self._session.directory),
            PAUSES,
            self._time.sleep,
            twice=False,
        )

    @property
    def _cut(self) -> bool:
        """Whether at least the last CUT_STEPS answers of the turn were cut off."""
        return self._order.snapshot.cut_steps >= CUT_STEPS

    def _drop_pieces(self, messages: Sequence[Message], snapshot: SessionSnapshot) -> None:
        """Delete the stalled, incomplete answer and the cut-off answers before it. Keep answers that contain a complete
        tool call.

        If the incomplete answers were kept, the target would have to continue them, which several providers refuse.
        """
        if not self._order.stalled or self._order.child is not None:
            return
        with suppress(EndpointError):  # an answer that is not deleted is sent to the target as part of the conversation
            if self._cut:
                messages = self._api.messages(self._session.id, self._session.directory, MAX_PIECES)
            for piece in reversed(messages):
                stopped = piece.completed is None or piece.stopped
                if piece.user or piece.executed or not (piece.cut or stopped):
                    return
                if self._cut or piece.id == snapshot.answer:
                    self._api.forget(self._session, piece.id)

    def _closed(self) -> bool:
        answer = last_answer(self._turn())
        return answer is None or answer.completed is not None

    def _run_target(self, known: Sequence[Message]) -> MoveOutcome:
        """Run the last prompt on the target. `known` contains the session's last messages from before the abort."""
        for _ in range(POSTS):
            # If the events show that the old run has ended and that nothing has been added since, no request is needed.
            unchanged = self._trace.over and not self._trace.changed and not self._posts
            before = known if unchanged else self._turn()
            prompt = last_prompt(known) if unchanged else self._prompt_to_run(before)
            if self._trace.over and self._trace.ended:  # the user has also stopped the turn
                raise _Ended(Ruling(MoveResult.USER_TOOK_OVER, "the turn was stopped"), self._order.snapshot)
            self._trace.post()
            lost = self._post(prompt) if prompt is not None else None
            posted = self._time.elapsed()
            seen = self._new_answer(before)
            if seen is not None:
                return self._verdict(seen, posted)
            if lost is not None:
                raise lost
        self._api.forget_names()
        why = "the new run was accepted, but never began"
        raise _Ended(Ruling(MoveResult.FAILED, why), self._order.snapshot, stranded=True)

    def _prompt_to_run(self, messages: Sequence[Message]) -> Message | None:
        """Return the last prompt, or None if an earlier post has already started a run of this prompt.

        Raises:
            _Ended: The user has started something else, which takes priority, or there is no prompt.
        """
        prompt = last_prompt(messages)
        status = self._patiently(self._status)
        if status is None or status.type == "idle":
            if prompt is None:
                raise _Ended(Ruling(MoveResult.FAILED, "the prompt no longer exists"), self._order.snapshot)
            return prompt
        if self._posts:
            return None
        snapshot = snapshot_of(self._api.endpoint, self._session, status, messages, False, self._time.clock.now())
        if self._aborting and prompt is not None and prompt.id == self._order.snapshot.user_message:
            # Without a snapshot, because this does not count against the target.
            raise _Ended(Ruling(MoveResult.FAILED, "the old run has not ended yet"), None, stranded=True)
        raise _Ended(Ruling(MoveResult.USER_TOOK_OVER, "the session is already working on something else"), snapshot)

    def _post(self, prompt: Message) -> EndpointError | None:
        """Post the prompt. If OpenCode does not confirm the prompt, return the error instead of raising it, because the
        run may have begun anyway.

        It is safe to repeat the post. OpenCode starts only one run for two posts, and no run if the prompt has already
        been answered.
        """
        target = self._order.target
        rerun = Rerun(prompt.id, target.model, target.agent or prompt.agent, prompt.copied)
        self._posts += 1
        try:
            self._patiently(lambda: self._api.rerun(self._session.id, self._session.directory, rerun))
        except EndpointError as fault:
            if fault.trouble is Trouble.STATUS and (fault.status or 0) < 500:
                raise  # OpenCode has refused the request, so it is not repeated
            return fault
        return None

    def _new_answer(self, before: Sequence[Message]) -> Message | None:
        """Wait for the first answer that is not in `before`, and return it. Return None if the run has not begun.

        A later answer must not be returned, because the first answer proves that the target works even if a later step
        fails.
        """
        old = {message.id for message in before}
        began = self._time.elapsed()
        stopped: float | None = None  # how long, in seconds, the move had waited when the new run was stopped
        while self._events.live and not self._trace.running and self._time.elapsed() - began < START_QUIET:
            self._time.sleep(EVENT_POLL)  # a request now would only delay the run
        if self._trace.running:
            self._running = self._time.elapsed()
            self._quiet(BEGIN_QUIET)
        while (waited := self._time.elapsed() - began) < BUSY_LIMIT:
            self._respect_a_stop()
            stopped = (waited if stopped is None else stopped) if self._trace.ended else None
            new = (message for message in self._turn() if not message.user and message.id not in old)
            answer = next(new, None)
            if answer is not None:
                return answer
            if stopped is not None and waited - stopped > STOP_LIMIT:
                raise _Ended(Ruling(MoveResult.USER_TOOK_OVER, "the new run was stopped"), self._order.snapshot)
            if waited > APPEAR_TIMEOUT and self._patiently(self._status) is None:
                return None
            self._pause(waited)
        return None

    def _quiet(self, seconds: float) -> None:
        """Wait for `seconds` without sending a request, or until the new run is stopped."""
        end = self._time.elapsed() + seconds
        while self._events.live and self._time.elapsed() < end and not (self._trace.ended or self._trace.overruled):
            self._time.sleep(EVENT_POLL)

    def _pause(self, waited: float) -> None:
        """Wait before the next request. Stop waiting early if an event for the session arrives."""
        pause = max(VERIFY_POLL, SLOWER * waited)
        if not self._events.live:
            self._time.sleep(pause)
            return
        end, seen = self._time.elapsed() + max(pause, LISTENING_POLL), self._trace.seen
        while self._time.elapsed() < end and self._trace.seen == seen and self._events.live:
            self._time.sleep(VERIFY_POLL / 2)

    def _respect_a_stop(self) -> None:
        """Abort the new run if the user stopped it just as it began, because OpenCode ignores a stop at that moment."""
        if self._trace.overruled:
            self._abort()
            raise _Ended(Ruling(MoveResult.USER_TOOK_OVER, "the new run was stopped"), self._order.snapshot)

    def _verdict(self, seen: Message, posted: float) -> MoveOutcome:
        """Wait until the target answers, hits a limit, or fails. Return the outcome."""
        began, limit = self._time.elapsed(), self._speak_limit()
        took = (began if self._running is None else self._running) - self._began
        while True:
            self._respect_a_stop()
            snapshot = self._patiently(
                lambda: take_snapshot(self._api, self._session, self._time.clock, questions=False)
            )
            ruling = outcome(snapshot, self._order.target.model, seen.id)
            waited = self._time.elapsed() - began
            if ruling is None and waited >= limit:
                ruling = Ruling(MoveResult.MOVED, f"{snapshot.model} is working and has not answered yet")
            if ruling is not None and not (_silent(snapshot, seen) and waited < limit):
                spoke = self._time.elapsed() - posted if ruling.result is MoveResult.MOVED else None
                return MoveOutcome(ruling.result, ruling.why, snapshot, seconds=took, first_token=spoke)
            self._pause(waited)

    def _speak_limit(self) -> float:
        """Return the timeout, in seconds, for the target's answer. If the session is moved because it was silent, the
        timeout is at most half of the time for which it was silent.
        """
        silence = self._order.snapshot.silence
        judged = self._order.stalled and not self._cut and silence is not None
        return min(RESPONSE_TIMEOUT, (silence or 0.0) / 2) if judged else RESPONSE_TIMEOUT

    def _turn(self) -> list[Message]:
        return self._patiently(lambda: turn(self._api, self._session))

    def _patiently(self, call: Callable[[], T]) -> T:
        return repeated(call, PAUSES, self._time.sleep)


def _silent(snapshot: SessionSnapshot, seen: Message) -> bool:
    """Return whether this answer is still empty although its stream has begun. A limit may then still follow."""
    return (
        snapshot.state is SessionState.BUSY
        and snapshot.answer == seen.id
        and not (snapshot.answer_spoke or snapshot.answer_ended)
    )


def _in_state(statuses: Mapping[str, RetryStatus], state: str) -> frozenset[str]:
    return frozenset(session for session, status in statuses.items() if status.type == state)
