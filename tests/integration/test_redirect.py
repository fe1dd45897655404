"""Tests of moves with faults that a real OpenCode shows rarely, and a minimal fake shows on demand.

Long because all faults of a move use the same fake OpenCode.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import ABORTED, Endpoint, RunningTool, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import Cause, ErrorDetails, ModelRef, Target
from ocwatchd.launcher import session_host
from ocwatchd.launcher.child import Child
from ocwatchd.movers.rerun import APPEAR_TIMEOUT, RESPONSE_TIMEOUT, RerunOverApi
from ocwatchd.opencode.client.request import EndpointError, StreamHandle, Trouble
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api, Rerun, Shown
from ocwatchd.opencode.sessions.messages import Json, Message, message_of
from ocwatchd.opencode.sessions.snapshots import take_snapshot
from tests.support.fakeopencode import FakeOpenCode, FakeSession

DOOR = Endpoint(TcpAddress("127.0.0.1", 4096), 7, "/p")
PRIMARY, FALLBACK = ModelRef("mock", "primary"), ModelRef("mock2", "fallback")
TARGET = Target(FALLBACK, "claude-fallback")
RETRY = RetryStatus("retry", 1, 1e9, "slow down")
BUSY = RetryStatus("busy")
STOPPED = ErrorDetails(name=ABORTED)


class FakeTime:
    """A clock that advances only when a caller sleeps, and runs scheduled events on the way."""

    def __init__(self) -> None:
        self.at = 100.0
        self._calendar: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        due = [entry for entry in self._calendar if entry[0] <= self.at]
        self._calendar = [entry for entry in self._calendar if entry[0] > self.at]
        for _, happens in due:
            happens()

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        self._calendar.append((self.at + seconds, happens))


@dataclass
class OpenCode:
    """One session that is stuck on the primary. `react` is called after an accepted re-run."""

    time: FakeTime
    react: Callable[[OpenCode], None] = lambda self: self.speak()
    closing: Callable[[OpenCode], None] = lambda self: self.stop()
    """Called after an accepted abort."""
    status: RetryStatus | None = RETRY
    asking: bool = False
    others: dict[str, RetryStatus] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    faults: dict[str, list[Trouble]] = field(default_factory=dict)
    """The next faults of a call, by its name."""
    status_of_faults: int = 500
    lost: bool = False
    """Whether an unreachable OpenCode has received the request before the connection broke."""
    reruns: list[Rerun] = field(default_factory=list)
    streams: bool = False
    """Whether it has an event stream."""
    told: queue.Queue[Json | None] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        prompt = Message("msg_1", "user", model=PRIMARY, agent="build", copied={"system": "S"})
        self.messages = [prompt, Message("msg_2", "assistant", parent="msg_1", model=PRIMARY)]

    def edit(self, number: int, **changes: object) -> None:
        self.messages[number] = replace(self.messages[number], **changes)

    def tell(self, kind: str, **properties: object) -> None:
        """Send an event; the reader has read it when this returns."""
        if self.streams:
            self.told.put({"type": kind, "properties": properties})
            self.told.join()

    def tell_status(self, status: str) -> None:
        self.tell("session.status", sessionID="ses_1", status={"type": status})

    def tell_closed(self) -> None:
        last = self.messages[-1]
        info = {"id": last.id, "sessionID": "ses_1", "role": "assistant", "time": {"completed": 1}}
        self.tell("message.updated", info=info)

    def tell_prompt(self) -> None:
        self.tell("message.updated", info={"id": "msg_1", "sessionID": "ses_1", "role": "user", "time": {}})

    def stop(self) -> None:
        """End the turn as an abort does, whoever made it, in the way of 1.1.65."""
        self.status = None
        self.tell_status("idle")
        self.tell_status("idle")
        self.edit(-1, completed=self.time.at, error=STOPPED)
        self.tell_closed()
        self.tell_status("idle")

    def begin(self) -> None:
        self.status = BUSY
        self.tell_prompt()
        self.tell_status("busy")
        ident = f"msg_{len(self.messages) + 1}"
        prompt = next(message for message in reversed(self.messages) if message.user)
        self.messages.append(Message(ident, "assistant", parent=prompt.id, model=self.reruns[-1].model))

    def hold(self, *parts: Json) -> None:
        """Set the parts of the last message."""
        read = message_of({"role": "assistant"}, parts, self.messages[-1].id)
        assert read is not None
        self.edit(-1, began=read.began, spoke=read.spoke, running=read.running)

    def speak(self) -> None:
        self.begin()
        self.edit(-1, began=True)

    def snapshot(self) -> SessionSnapshot:
        """Return the snapshot on which the decision is based."""
        states = {"busy": SessionState.BUSY, "retry": SessionState.RETRY}
        state = states[self.status.type] if self.status else SessionState.ERROR
        return SessionSnapshot("ses_1", "/p", DOOR, state, model=PRIMARY, user_message="msg_1", version="1.18.33")


class FakeApi(Api):
    """The calls of a move, answered by the fake OpenCode."""

    def __init__(self, opencode: OpenCode) -> None:
        super().__init__(DOOR)
        self.opencode = opencode

    def _call(self, name: str) -> None:
        self.opencode.log.append(name)
        if self.opencode.faults.get(name):
            status = self.opencode.status_of_faults
            trouble = self.opencode.faults[name].pop(0)
            cause = ConnectionRefusedError() if trouble is Trouble.UNREACHABLE and not self.opencode.lost else None
            raise EndpointError(DOOR, name, trouble, "as scripted", status) from cause

    def events(
        self, directory: str | None, idle: float = 0.0, only: Sequence[bytes] = (), handle: StreamHandle | None = None
    ) -> Iterator[Json]:
        if not self.opencode.streams:
            raise EndpointError(DOOR, "GET /event", Trouble.UNREACHABLE, "there is none")
        yield {"type": "server.connected"}
        while (event := self.opencode.told.get()) is not None:
            yield event
            self.opencode.told.task_done()

    def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
        self._call("status")
        own = {"ses_1": self.opencode.status} if self.opencode.status else {}
        return own | self.opencode.others

    def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
        self._call("messages")
        return self.opencode.messages[-limit:]

    def message(self, session: str, message: str, directory: str | None) -> Message:
        return next(found for found in self.opencode.messages if found.id == message)

    def at_once(
        self, session: Session, limit: int, now: Callable[[], float], *, status: bool = True, questions: bool = True
    ) -> Shown:
        statuses = self.status(session.directory) if status else {}
        messages = self.messages(session.id, session.directory, limit)
        return Shown(now(), statuses, messages, questions and self.asking(session))

    def asking(self, session: Session) -> bool:
        return self.opencode.asking

    def children(self, session: str, directory: str | None) -> list[str]:
        return self.opencode.children

    def knows(self, model: ModelRef, directory: str | None) -> bool:
        return model in (PRIMARY, FALLBACK)

    def agents(self, directory: str | None) -> frozenset[str]:
        return frozenset({"build", "claude-fallback"})

    def abort(self, session: str, directory: str | None) -> None:
        self._call("abort")
        self.opencode.time.after(0.03, lambda: self.opencode.closing(self.opencode))

    def rerun(self, session: str, directory: str | None, rerun: Rerun) -> None:
        self._call("rerun")
        self.opencode.reruns.append(rerun)
        self.opencode.time.after(0.1, lambda: self.opencode.react(self.opencode))


class Timed(list[str]):
    """A log of calls that reports each."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self._report = report

    def append(self, call: str) -> None:
        self._report(call)


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def opencode(clock: FakeTime) -> OpenCode:
    return OpenCode(clock)


@pytest.fixture
def telling(clock: FakeTime) -> Iterator[OpenCode]:
    """Yield a fake with an event stream."""
    made = OpenCode(clock, streams=True)
    yield made
    made.told.put(None)


def mover(opencode: OpenCode) -> RerunOverApi:
    passing = opencode.time
    return RerunOverApi(lambda _endpoint: FakeApi(opencode), passing.sleep, passing.now, passing)


def move(
    opencode: OpenCode, snapshot: SessionSnapshot | None = None, child: str | None = None, own: bool = False
) -> MoveOutcome:
    return mover(opencode).move(Order(snapshot or opencode.snapshot(), TARGET, child, own))


def test_stop_wait_run_prove(opencode: OpenCode) -> None:
    outcome = move(opencode)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.MOVED, 1, False)
    assert opencode.reruns == [Rerun("msg_1", FALLBACK, "claude-fallback", {"system": "S"})]
    assert outcome.snapshot is not None
    assert (outcome.snapshot.model, outcome.snapshot.answer) == (FALLBACK, "msg_3")
    assert 0.3 < outcome.seconds < 0.5


def test_the_new_run_is_not_posted_before_the_old_one_has_closed_its_message(opencode: OpenCode) -> None:
    closed: list[float] = []
    begun: list[float] = []

    def close(self: OpenCode) -> None:
        closed.append(self.time.at)
        self.stop()

    def react(self: OpenCode) -> None:
        begun.append(self.time.at)
        self.speak()

    opencode.closing = lambda self: self.time.after(2.0, lambda: close(self))
    opencode.react = react
    assert move(opencode).result is MoveResult.MOVED
    assert begun[0] - 0.1 - closed[0] >= 0.2  # 0.1 s from the post to its run


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("later", [0.0, 0.1, 0.5, 1.4, 3.0])
def test_a_new_run_that_is_stopped_is_the_users_affair(clock: FakeTime, streams: bool, later: float) -> None:
    opencode = OpenCode(clock, streams=streams)

    def react(self: OpenCode) -> None:
        self.begin()
        self.time.after(later, self.stop)

    opencode.react = react
    outcome = move(opencode)
    opencode.told.put(None)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.USER_TOOK_OVER, 1, False)
    assert len(opencode.reruns) == 1


def test_a_clean_up_that_would_cancel_the_new_run_is_waited_for_however_long_it_takes(telling: OpenCode) -> None:
    """1.1.65 does this: at its end the old run cancels the run that the session has by then."""

    def close(self: OpenCode) -> None:
        self.status = None
        self.tell_status("idle")
        self.tell_status("idle")
        self.edit(-1, completed=self.time.at, error=STOPPED)
        self.tell_closed()
        self.time.after(1.5, lambda: self.stop() if self.reruns else self.tell_status("idle"))

    telling.closing = close
    outcome = move(telling)
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)


def test_no_time_is_lost_once_the_old_run_is_known_to_be_over(telling: OpenCode) -> None:
    outcome = move(telling)
    assert outcome.result is MoveResult.MOVED
    assert outcome.seconds < 0.3  # 0.03 s to its end, 0.1 s to the new run, and the time between two checks


def test_what_the_events_have_shown_is_not_asked_again(telling: OpenCode) -> None:
    assert move(telling).result is MoveResult.MOVED
    assert telling.log[: telling.log.index("rerun") + 1] == ["status", "messages", "abort", "rerun"]


def test_no_request_delays_the_new_run_between_its_beginning_and_its_own_request(telling: OpenCode) -> None:
    asked = list[tuple[float, str]]()

    def react(self: OpenCode) -> None:
        self.speak()
        began = self.time.at
        self.log = Timed(lambda call: asked.append((self.time.at - began, call)))

    telling.react = react
    outcome = move(telling)
    assert outcome.result is MoveResult.MOVED
    assert min(asked)[0] >= 0.1
    assert outcome.seconds is not None
    assert outcome.seconds < 0.2, "the new run counts from its beginning, not from the first request about it"


def test_a_stop_while_no_request_is_made_is_respected_at_once(telling: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.begin()
        self.stop()

    telling.react = react
    outcome = move(telling)
    assert (outcome.result, outcome.posts) == (MoveResult.USER_TOOK_OVER, 1)


def test_a_prompt_that_comes_while_the_old_run_ends_is_run_as_well(telling: OpenCode) -> None:
    def close(self: OpenCode) -> None:
        self.messages.append(Message("msg_9", "user", model=PRIMARY, agent="build"))
        self.tell_prompt()
        self.messages.append(self.messages.pop(1))  # the answer that was ended is last here
        self.stop()

    telling.closing = close
    assert move(telling).result is MoveResult.MOVED
    assert [rerun.message for rerun in telling.reruns] == ["msg_9"]


def test_a_stop_before_the_new_run_is_posted_sends_nothing(telling: OpenCode) -> None:
    def close(self: OpenCode) -> None:
        self.stop()
        self.tell_status("idle")  # an abort of an idle session

    telling.closing = close
    outcome = move(telling)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.USER_TOOK_OVER, 0, False)
    assert telling.reruns == []


def test_a_stop_before_the_new_run_has_a_message_is_not_posted_again(telling: OpenCode) -> None:
    """1.18.33 does this: the run disappears without a trace in the session."""

    def react(self: OpenCode) -> None:
        self.tell_prompt()
        self.tell_status("idle")

    telling.react = react
    outcome = move(telling)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.USER_TOOK_OVER, 1, False)


def test_a_stop_that_opencode_loses_while_the_new_run_begins_is_carried_out(telling: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.tell_prompt()
        self.tell_status("idle")
        self.begin()

    telling.react = react
    outcome = move(telling)
    assert (outcome.result, outcome.posts) == (MoveResult.USER_TOOK_OVER, 1)
    assert telling.log.count("abort") == 2


def test_the_late_news_of_a_turn_that_had_failed_is_no_stop(telling: OpenCode) -> None:
    telling.status = None
    telling.edit(-1, completed=99.0, error=ErrorDetails("no credit", "APIError", status=402))

    def react(self: OpenCode) -> None:
        self.tell_status("idle")  # the event of the failed run
        self.speak()

    telling.react = react
    outcome = move(telling)
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)
    assert "abort" not in telling.log


def test_a_run_that_never_begins_is_posted_three_times_and_reported_as_stranded(opencode: OpenCode) -> None:
    opencode.react = lambda self: None
    outcome = move(opencode)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.FAILED, 3, True)
    assert {rerun.message for rerun in opencode.reruns} == {"msg_1"}


def test_a_run_that_is_slow_to_show_its_message_is_waited_for(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.status = BUSY
        self.time.after(12.0, self.speak)

    opencode.react = react
    outcome = move(opencode)
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)


def test_a_target_that_thinks_is_a_target_that_works(opencode: OpenCode) -> None:
    opencode.react = lambda self: self.begin()
    began = opencode.time.at
    outcome = move(opencode)
    assert outcome.result is MoveResult.MOVED
    assert RESPONSE_TIMEOUT <= opencode.time.at - began < RESPONSE_TIMEOUT + 2


@pytest.mark.parametrize(
    "part", [{"type": "text", "text": ""}, {"type": "reasoning", "text": ""}, {"type": "tool", "tool": "bash"}]
)
def test_a_part_that_the_target_has_begun_shows_that_it_answers(opencode: OpenCode, part: Json) -> None:
    """While text streams, its part exists but is empty until all of it has arrived (1.3.2 - 1.18.33)."""

    def react(self: OpenCode) -> None:
        self.begin()
        self.time.after(1.0, lambda: self.hold({"type": "step-start"}))
        self.time.after(2.0, lambda: self.hold({"type": "step-start"}, part))

    opencode.react = react
    began = opencode.time.at
    outcome = move(opencode)
    assert (outcome.result, outcome.why) == (MoveResult.MOVED, "mock2/fallback answers")
    assert 2.0 <= opencode.time.at - began < 4.0
    assert outcome.first_token is not None
    assert 2.0 <= outcome.first_token < 3.0


def test_a_target_that_is_limited_after_a_second_is_told(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.begin()

        def limited() -> None:
            self.status = RetryStatus("retry", 1, 2e9, "fallback is limited")

        self.time.after(1.0, limited)

    opencode.react = react
    outcome = move(opencode)
    assert (outcome.result, outcome.why) == (MoveResult.TARGET_LIMITED, "fallback is limited")
    assert outcome.snapshot is not None
    assert (outcome.snapshot.model, outcome.snapshot.next_at, outcome.stranded) == (FALLBACK, 2e9, False)


def test_a_target_whose_second_step_fails_before_we_look_has_answered(opencode: OpenCode) -> None:
    """Its first step succeeded; the failure is handled as that of a session on the fallback."""

    def react(self: OpenCode) -> None:
        self.speak()
        self.edit(-1, completed=self.time.at)
        self.begin()
        self.edit(-1, completed=self.time.at, error=ErrorDetails(name="APIError", message="Invalid content"))
        self.status = None

    opencode.react = react
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded) == (MoveResult.MOVED, False)


def test_a_plugin_that_chooses_another_model_is_told_as_it_is(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.speak()
        self.edit(-1, model=ModelRef("mock3", "third"))

    opencode.react = react
    outcome = move(opencode)
    assert outcome.result is MoveResult.MOVED
    assert "mock3/third answers, not mock2/fallback" in outcome.why


# ---- guards


def busy(self: OpenCode) -> None:
    self.status = BUSY


def answered(self: OpenCode) -> None:
    self.status = None
    self.edit(-1, completed=99.0, finish="stop", began=True)


def user_stopped(self: OpenCode) -> None:
    self.stop()


def user_stopped_without_a_word(self: OpenCode) -> None:
    """End the retry as 1.18.33 does after an abort."""
    self.status = None
    self.edit(-1, completed=99.0)


def prompt_replaced(self: OpenCode) -> None:
    self.messages.append(Message("msg_8", "user", model=PRIMARY))
    self.messages.append(Message("msg_9", "assistant", parent="msg_8", model=PRIMARY))


def question_open(self: OpenCode) -> None:
    self.asking = True


def tool_runs(self: OpenCode) -> None:
    self.edit(-1, running=(RunningTool("bash"),))


def others_moved_it(self: OpenCode) -> None:
    self.edit(-1, model=FALLBACK)


def nothing_runs(self: OpenCode) -> None:
    self.status = None


@pytest.mark.parametrize(
    ("happens", "result"),
    [
        (busy, MoveResult.ALREADY),
        (answered, MoveResult.ALREADY),
        (others_moved_it, MoveResult.ALREADY),
        (user_stopped, MoveResult.USER_TOOK_OVER),
        (user_stopped_without_a_word, MoveResult.USER_TOOK_OVER),
        (prompt_replaced, MoveResult.USER_TOOK_OVER),
        (question_open, MoveResult.REFUSED),
        (tool_runs, MoveResult.REFUSED),
        (nothing_runs, MoveResult.REFUSED),
    ],
)
def test_what_has_changed_since_the_decision_holds_the_move_back(
    opencode: OpenCode, happens: Callable[[OpenCode], None], result: MoveResult
) -> None:
    snapshot = opencode.snapshot()
    happens(opencode)
    outcome = move(opencode, snapshot)
    assert (outcome.result, outcome.stranded) == (result, False)
    assert not {"abort", "rerun"} & set(opencode.log)


def test_an_attempt_that_begins_while_we_look_is_left_alone(opencode: OpenCode) -> None:
    class GoesOn(FakeApi):
        def asking(self, session: Session) -> bool:
            self.opencode.status = BUSY
            return False

    snapshot = opencode.snapshot()
    outcome = RerunOverApi(lambda _endpoint: GoesOn(opencode), opencode.time.sleep, opencode.time.now).move(
        Order(snapshot, TARGET)
    )
    assert outcome.result is MoveResult.ALREADY
    assert "abort" not in opencode.log


def test_an_abort_of_our_own_is_gone_on_from(opencode: OpenCode) -> None:
    opencode.stop()
    outcome = move(opencode, own=True)
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)
    assert "abort" not in opencode.log


def test_a_failed_turn_is_run_again_without_an_abort(opencode: OpenCode) -> None:
    opencode.status = None
    opencode.edit(-1, completed=99.0, error=ErrorDetails("no credit", "APIError", status=402))
    assert move(opencode).result is MoveResult.MOVED
    assert "abort" not in opencode.log


def test_the_last_of_many_queued_prompts_is_run_on_its_own_words(opencode: OpenCode) -> None:
    snapshot = opencode.snapshot()
    for number in range(3, 12):
        opencode.messages.append(Message(f"msg_{number:02}", "user", model=PRIMARY, copied={"system": str(number)}))

    def close(self: OpenCode) -> None:
        self.status = None
        self.edit(1, completed=1.0, error=STOPPED)

    opencode.closing = close
    outcome = move(opencode, snapshot)
    assert outcome.result is MoveResult.MOVED
    assert [(rerun.message, rerun.copied) for rerun in opencode.reruns] == [("msg_11", {"system": "11"})]


def test_a_prompt_that_the_user_begins_after_our_abort_goes_first(opencode: OpenCode) -> None:
    def close(self: OpenCode) -> None:
        self.status = BUSY
        self.edit(-1, completed=1.0, error=STOPPED)
        self.messages.append(Message("msg_3", "user", model=ModelRef("mock3", "third")))

    opencode.closing = close
    outcome = move(opencode)
    assert (outcome.result, outcome.posts) == (MoveResult.USER_TOOK_OVER, 0)


# ---- subagents


def parent(clock: FakeTime, *running: RunningTool) -> OpenCode:
    opencode = OpenCode(clock, status=BUSY, others={"ses_c": RETRY})
    opencode.edit(-1, running=running, began=True)
    return opencode


def test_a_parent_is_moved_for_its_stuck_subagent(clock: FakeTime) -> None:
    opencode = parent(clock, RunningTool("task", "ses_c"))
    assert move(opencode, child="ses_c").result is MoveResult.MOVED


@pytest.mark.parametrize(("silence", "result"), [(25.0, MoveResult.MOVED), (2.0, MoveResult.ALREADY)])
def test_the_parent_of_a_stalled_subagent_is_not_stopped_if_the_subagent_has_continued(
    opencode: OpenCode, silence: float, result: MoveResult
) -> None:
    opencode.status, opencode.others = BUSY, {"ses_c": BUSY}
    opencode.edit(-1, began=True, running=(RunningTool("task", "ses_c"),))
    passing, asked = opencode.time, list[str]()

    def silent(session: str) -> float:
        asked.append(session)
        return silence

    moves = RerunOverApi(lambda _endpoint: FakeApi(opencode), passing.sleep, passing.now, passing, silent)
    order = Order(opencode.snapshot(), TARGET, "ses_c", cause=Cause.STALL, silence=20.0)
    assert moves.move(order).result is result
    assert ("abort" in opencode.log) is (result is MoveResult.MOVED)
    assert set(asked) == {"ses_c"}


class Unended(Child):
    """A running child that must not be ended."""

    def __init__(self) -> None:
        self.pid = 7

    def poll(self) -> int | None:
        return None

    def end(self, number: signal.Signals = signal.SIGINT, patience: float = 3.0) -> None:
        raise AssertionError("the child was ended")


def test_a_run_is_not_ended_for_a_subagent_that_has_continued(
    opencode: OpenCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencode.status, opencode.others = BUSY, {"ses_c": BUSY}
    opencode.edit(-1, began=True, running=(RunningTool("task", "ses_c"),))
    monkeypatch.setattr(session_host, "Api", lambda *_: FakeApi(opencode))
    host = cast(session_host.SessionHost, None)
    moves = session_host.RunMover(Unended(), host, SystemClock(), lambda *_: None, lambda _: 2.0)
    order = Order(opencode.snapshot(), TARGET, "ses_c", cause=Cause.STALL, silence=20.0)
    assert moves.move(order).result is MoveResult.ALREADY


@pytest.mark.parametrize(
    ("other", "child", "result"),
    [
        (RunningTool("bash"), "ses_c", MoveResult.REFUSED),
        (RunningTool("task", "ses_d"), "ses_c", MoveResult.REFUSED),
        (RunningTool("task", "ses_d"), "ses_d", MoveResult.ALREADY),
    ],
)
def test_a_parent_is_left_alone_while_anything_of_it_works(
    clock: FakeTime, other: RunningTool, child: str, result: MoveResult
) -> None:
    opencode = parent(clock, RunningTool("task", "ses_c"), other)
    assert move(opencode, child=child).result is result
    assert "abort" not in opencode.log


def test_a_subagent_is_not_moved_under_its_waiting_parent(opencode: OpenCode) -> None:
    opencode.others = {"ses_parent": BUSY}
    outcome = move(opencode, replace(opencode.snapshot(), parent="ses_parent"))
    assert outcome.result is MoveResult.REFUSED
    assert "abort" not in opencode.log

    opencode.others = {}  # its parent has ended: the user talks to the subagent
    assert move(opencode, replace(opencode.snapshot(), parent="ses_parent")).result is MoveResult.MOVED


def test_a_session_whose_subagent_works_in_the_background_is_not_aborted(opencode: OpenCode) -> None:
    opencode.others, opencode.children = {"ses_c": BUSY, "ses_stranger": BUSY}, ["ses_c", "ses_ended"]
    outcome = move(opencode)
    assert (outcome.result, outcome.why) == (MoveResult.REFUSED, "a subagent is working in the background")
    assert not {"abort", "rerun"} & set(opencode.log)

    opencode.others = {"ses_stranger": BUSY}
    assert move(opencode).result is MoveResult.MOVED


# ---- endpoints that fail


def test_a_door_that_fails_before_anything_was_touched(opencode: OpenCode) -> None:
    opencode.faults = {"messages": [Trouble.TIMEOUT]}
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded, outcome.posts) == (MoveResult.FAILED, False, 0)


@pytest.mark.parametrize(
    ("call", "trouble"),
    [
        ("abort", Trouble.UNREACHABLE),
        *(
            (call, trouble)
            for call in ("rerun", "messages", "status")
            for trouble in (Trouble.TIMEOUT, Trouble.UNREACHABLE)
        ),
    ],
)
def test_once_the_turn_is_stopped_a_door_is_given_three_chances(
    opencode: OpenCode, call: str, trouble: Trouble
) -> None:
    abort_first = FakeApi.abort

    class Fails(FakeApi):
        def abort(self, session: str, directory: str | None) -> None:
            if call != "abort":
                opencode.faults = {call: [trouble, trouble]}
            abort_first(self, session, directory)

    if call == "abort":
        opencode.faults = {"abort": [trouble, trouble]}
    passing = opencode.time
    outcome = RerunOverApi(lambda _endpoint: Fails(opencode), passing.sleep, passing.now).move(
        Order(opencode.snapshot(), TARGET)
    )
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)


@pytest.mark.parametrize("trouble", [Trouble.TIMEOUT, Trouble.UNREACHABLE])
def test_an_abort_whose_response_is_lost_is_not_sent_again(opencode: OpenCode, trouble: Trouble) -> None:
    """OpenCode may still carry it out. A second one would then stop the new run."""
    opencode.faults, opencode.lost = {"abort": [trouble]}, True
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded, outcome.posts) == (MoveResult.FAILED, True, 0)
    assert opencode.log.count("abort") == 1


def test_an_abort_that_a_busy_opencode_carries_out_late_is_sent_once(tmp_path: Path) -> None:
    """It waits longer than other calls."""
    aborts = []

    def late(step: str, session: FakeSession | None) -> None:
        if step == "abort":
            aborts.append(step)
            time.sleep(1.2)

    with FakeOpenCode(str(tmp_path)) as server:
        session = server.limited("ses_1")
        server.seen = late
        api = Api(Endpoint(TcpAddress("127.0.0.1", urlsplit(server.url).port or 0)), 0.5)
        snapshot = take_snapshot(api, Session("ses_1", str(tmp_path), None, "1.18.33"), SystemClock())
        outcome = RerunOverApi(lambda _endpoint: api).move(Order(snapshot, Target(FALLBACK)))
        assert (outcome.result, outcome.why) == (MoveResult.MOVED, "mock2/fallback answers")
        assert (aborts, session.runs) == (["abort"], 1)


@pytest.mark.parametrize("closed", [False, True])
def test_an_old_run_that_does_not_end_is_not_taken_for_new_work_of_the_user(closed: bool, opencode: OpenCode) -> None:
    def busy(self: OpenCode) -> None:
        if closed:
            self.stop()
        self.status = BUSY

    opencode.closing = busy
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded, outcome.posts) == (MoveResult.FAILED, True, 0)
    assert outcome.why == "the old run has not ended yet"


@pytest.mark.parametrize("call", ["abort", "rerun"])
def test_a_door_that_is_gone_after_the_abort_leaves_a_stranded_prompt_and_says_so(
    opencode: OpenCode, call: str
) -> None:
    opencode.faults = {call: [Trouble.UNREACHABLE] * 9}
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded) == (MoveResult.FAILED, True)
    assert "unreachable" in outcome.why


def test_an_error_of_the_server_after_the_abort_is_no_reason_to_give_up(opencode: OpenCode) -> None:
    opencode.faults = {"rerun": [Trouble.STATUS]}  # 500
    assert move(opencode).result is MoveResult.MOVED


@pytest.mark.parametrize("call", ["abort", "rerun"])
def test_what_opencode_refuses_is_final_and_asked_once(opencode: OpenCode, call: str) -> None:
    opencode.faults, opencode.status_of_faults = {call: [Trouble.STATUS]}, 400
    began = opencode.time.at
    assert move(opencode).result is MoveResult.FAILED
    assert opencode.log.count(call) == 1
    assert opencode.time.at - began < APPEAR_TIMEOUT, "no answer is waited for"


def test_our_own_run_that_begins_late_is_not_posted_again_nor_taken_for_the_users(opencode: OpenCode) -> None:
    class Late(FakeApi):
        """The run is missing in the first check, and exists when it would be posted again."""

        missed = False

        def rerun(self, session: str, directory: str | None, rerun: Rerun) -> None:
            self._call("rerun")
            opencode.reruns.append(rerun)

        def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
            self.missed = self.missed or bool(opencode.reruns)
            return super().status(directory)

        def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
            if self.missed and opencode.status is None:
                opencode.status = BUSY
                opencode.time.after(0.2, lambda: opencode.react(opencode))
            return super().messages(session, directory, limit)

    passing = opencode.time
    late = Late(opencode)
    slow = RerunOverApi(lambda _endpoint: late, passing.sleep, passing.now, passing)
    assert slow.move(Order(opencode.snapshot(), TARGET)).result is MoveResult.MOVED
    assert opencode.log.count("rerun") == 1


def test_a_run_that_began_although_the_answer_to_our_post_got_lost_is_ours(opencode: OpenCode) -> None:
    class Loses(FakeApi):
        def rerun(self, session: str, directory: str | None, rerun: Rerun) -> None:
            super().rerun(session, directory, rerun)
            opencode.status = BUSY
            raise EndpointError(DOOR, "rerun", Trouble.GARBAGE, "lost")

    passing = opencode.time
    lossy = RerunOverApi(lambda _endpoint: Loses(opencode), passing.sleep, passing.now, passing)
    assert lossy.move(Order(opencode.snapshot(), TARGET)).result is MoveResult.MOVED
    assert opencode.log.count("rerun") == 1


def test_the_sessions_own_agent_is_not_asked_for(opencode: OpenCode) -> None:
    asked = list[str]()

    class Counts(FakeApi):
        def has_agent(self, agent: str, directory: str | None) -> bool:
            asked.append(agent)
            return True

    passing = opencode.time
    mover = RerunOverApi(lambda _endpoint: Counts(opencode), passing.sleep, passing.now, passing)
    snapshot = replace(opencode.snapshot(), agent="build")
    assert mover.move(Order(snapshot, Target(FALLBACK, "build"))).result is MoveResult.MOVED
    assert asked == []


def test_names_are_forgotten_once_a_run_never_begins(opencode: OpenCode) -> None:
    forgotten = list[bool]()

    class Forgets(FakeApi):
        def forget_names(self) -> None:
            forgotten.append(True)

    opencode.react = lambda _opencode: None
    passing = opencode.time
    mover = RerunOverApi(lambda _endpoint: Forgets(opencode), passing.sleep, passing.now, passing)
    assert mover.move(Order(opencode.snapshot(), TARGET)).result is MoveResult.FAILED
    assert forgotten


def test_one_move_of_a_session_at_a_time(opencode: OpenCode) -> None:
    inside, release = threading.Event(), threading.Event()

    class Waits(FakeApi):
        def knows(self, model: ModelRef, directory: str | None) -> bool:
            inside.set()
            return release.wait(10)

    passing = opencode.time
    one = RerunOverApi(lambda _endpoint: Waits(opencode), passing.sleep, passing.now)
    first: list[MoveOutcome] = []
    worker = threading.Thread(target=lambda: first.append(one.move(Order(opencode.snapshot(), TARGET))))
    worker.start()
    assert inside.wait(10)
    assert one.move(Order(opencode.snapshot(), TARGET)).result is MoveResult.REFUSED
    release.set()
    worker.join(10)
    assert first[0].result is MoveResult.MOVED
    assert one.move(Order(opencode.snapshot(), TARGET)).result is MoveResult.ALREADY
