"""Moves under bad luck: what a real OpenCode does now and then only, an OpenCode of a few lines does here on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from ocwatchd.core.limits import ErrorFacts, ModelRef, Target
from ocwatchd.core.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.views import ABORTED, Door, RunningTool, SessionState, SessionView, TcpAddress
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.api import Api, Rerun
from ocwatchd.opencode.http import DoorError, Trouble
from ocwatchd.opencode.records import Message
from ocwatchd.redirect import SPEAK_LIMIT, RerunOverApi

DOOR = Door(TcpAddress("127.0.0.1", 4096), 7, "/p")
PRIMARY, FALLBACK = ModelRef("mock", "primary"), ModelRef("mock2", "fallback")
TARGET = Target(FALLBACK, "claude-fallback")
RETRY = RetryStatus("retry", 1, 1e9, "slow down")
BUSY = RetryStatus("busy")
STOPPED = ErrorFacts(name=ABORTED)


class FakeTime:
    """Time passes only when somebody sleeps; what was put on the calendar happens on its way."""

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
    """One session that is stuck on the primary. `react` is what becomes of an accepted re-run."""

    time: FakeTime
    react: Callable[[OpenCode], None] = lambda self: self.speak()
    closing: Callable[[OpenCode], None] = lambda self: self.stop()
    """What becomes of an accepted abort."""
    status: RetryStatus | None = RETRY
    asking: bool = False
    others: dict[str, RetryStatus] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    faults: dict[str, list[Trouble]] = field(default_factory=dict)
    """The next faults of a call, by its name."""
    reruns: list[Rerun] = field(default_factory=list)

    def __post_init__(self) -> None:
        prompt = Message("msg_1", "user", model=PRIMARY, agent="build", copied={"system": "S"})
        self.messages = [prompt, Message("msg_2", "assistant", parent="msg_1", model=PRIMARY)]

    def edit(self, number: int, **changes: object) -> None:
        self.messages[number] = replace(self.messages[number], **changes)

    def stop(self) -> None:
        """As an abort does, whoever made it."""
        self.status = None
        self.edit(-1, completed=self.time.at, error=STOPPED)

    def begin(self) -> None:
        self.status = BUSY
        ident = f"msg_{len(self.messages) + 1}"
        prompt = next(message for message in reversed(self.messages) if message.user)
        self.messages.append(Message(ident, "assistant", parent=prompt.id, model=self.reruns[-1].model))

    def speak(self) -> None:
        self.begin()
        self.edit(-1, began=True)

    def view(self) -> SessionView:
        """What the decision is made on."""
        states = {"busy": SessionState.BUSY, "retry": SessionState.RETRY}
        state = states[self.status.type] if self.status else SessionState.ERROR
        return SessionView("ses_1", "/p", DOOR, state, model=PRIMARY, user_message="msg_1", version="1.18.33")


class FakeApi(Api):
    """The calls of a move, answered by that OpenCode."""

    def __init__(self, opencode: OpenCode) -> None:
        super().__init__(DOOR)
        self.opencode = opencode

    def _call(self, name: str) -> None:
        self.opencode.log.append(name)
        if self.opencode.faults.get(name):
            raise DoorError(DOOR, name, self.opencode.faults[name].pop(0), "as scripted", 500)

    def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
        self._call("status")
        own = {"ses_1": self.opencode.status} if self.opencode.status else {}
        return own | self.opencode.others

    def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
        self._call("messages")
        return self.opencode.messages[-limit:]

    def message(self, session: str, message: str, directory: str | None) -> Message:
        return next(found for found in self.opencode.messages if found.id == message)

    def asking(self, session: Session) -> bool:
        return self.opencode.asking

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


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def opencode(clock: FakeTime) -> OpenCode:
    return OpenCode(clock)


def mover(opencode: OpenCode) -> RerunOverApi:
    passing = opencode.time
    return RerunOverApi(lambda _door: FakeApi(opencode), passing.sleep, passing.now, passing)


def move(
    opencode: OpenCode, view: SessionView | None = None, child: str | None = None, own: bool = False
) -> MoveOutcome:
    return mover(opencode).move(Order(view or opencode.view(), TARGET, child, own))


def test_stop_wait_run_prove(opencode: OpenCode) -> None:
    outcome = move(opencode)
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.MOVED, 1, False)
    assert opencode.reruns == [Rerun("msg_1", FALLBACK, "claude-fallback", {"system": "S"})]
    assert outcome.view is not None
    assert (outcome.view.model, outcome.view.answer) == (FALLBACK, "msg_3")
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


def test_a_run_that_the_old_clean_up_cancels_is_posted_again(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.begin()
        if len(self.reruns) == 1:
            self.stop()
        else:
            self.edit(-1, began=True)

    opencode.react = react
    outcome = move(opencode)
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 2)


def test_a_run_that_is_stopped_again_or_later_is_the_users_affair(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.begin()
        self.stop()

    opencode.react = react
    again = move(opencode)
    assert (again.result, again.posts) == (MoveResult.USER_TOOK_OVER, 2)

    later = OpenCode(FakeTime())

    def stopped_later(self: OpenCode) -> None:
        self.begin()
        self.time.after(3.0, self.stop)

    later.react = stopped_later
    outcome = move(later)
    assert (outcome.result, outcome.posts) == (MoveResult.USER_TOOK_OVER, 1)


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
    assert SPEAK_LIMIT <= opencode.time.at - began < SPEAK_LIMIT + 2


def test_a_target_that_is_limited_after_a_second_is_told(opencode: OpenCode) -> None:
    def react(self: OpenCode) -> None:
        self.begin()

        def limited() -> None:
            self.status = RetryStatus("retry", 1, 2e9, "fallback is limited")

        self.time.after(1.0, limited)

    opencode.react = react
    outcome = move(opencode)
    assert (outcome.result, outcome.why) == (MoveResult.TARGET_LIMITED, "fallback is limited")
    assert outcome.view is not None
    assert (outcome.view.model, outcome.view.next_at, outcome.stranded) == (FALLBACK, 2e9, False)


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
    """As 1.18.33 leaves a message whose retry was aborted."""
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
    view = opencode.view()
    happens(opencode)
    outcome = move(opencode, view)
    assert (outcome.result, outcome.stranded) == (result, False)
    assert not {"abort", "rerun"} & set(opencode.log)


def test_an_attempt_that_begins_while_we_look_is_left_alone(opencode: OpenCode) -> None:
    class GoesOn(FakeApi):
        def asking(self, session: Session) -> bool:
            self.opencode.status = BUSY
            return False

    view = opencode.view()
    outcome = RerunOverApi(lambda _door: GoesOn(opencode), opencode.time.sleep, opencode.time.now).move(
        Order(view, TARGET)
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
    opencode.edit(-1, completed=99.0, error=ErrorFacts("no credit", "APIError", status=402))
    assert move(opencode).result is MoveResult.MOVED
    assert "abort" not in opencode.log


def test_the_last_of_many_queued_prompts_is_run_on_its_own_words(opencode: OpenCode) -> None:
    view = opencode.view()
    for number in range(3, 12):
        opencode.messages.append(Message(f"msg_{number:02}", "user", model=PRIMARY, copied={"system": str(number)}))

    def close(self: OpenCode) -> None:
        self.status = None
        self.edit(1, completed=1.0, error=STOPPED)

    opencode.closing = close
    outcome = move(opencode, view)
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
    outcome = move(opencode, replace(opencode.view(), parent="ses_parent"))
    assert outcome.result is MoveResult.REFUSED
    assert "abort" not in opencode.log

    opencode.others = {}  # its parent has ended: the user talks to it
    assert move(opencode, replace(opencode.view(), parent="ses_parent")).result is MoveResult.MOVED


# ---- doors that fail


def test_a_door_that_fails_before_anything_was_touched(opencode: OpenCode) -> None:
    opencode.faults = {"messages": [Trouble.TIMEOUT]}
    outcome = move(opencode)
    assert (outcome.result, outcome.stranded, outcome.posts) == (MoveResult.FAILED, False, 0)


@pytest.mark.parametrize("call", ["abort", "rerun", "messages", "status"])
@pytest.mark.parametrize("trouble", [Trouble.TIMEOUT, Trouble.UNREACHABLE])
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
    outcome = RerunOverApi(lambda _door: Fails(opencode), passing.sleep, passing.now).move(
        Order(opencode.view(), TARGET)
    )
    assert (outcome.result, outcome.posts) == (MoveResult.MOVED, 1)


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


def test_one_move_of_a_session_at_a_time(opencode: OpenCode) -> None:
    inside, release = threading.Event(), threading.Event()

    class Waits(FakeApi):
        def knows(self, model: ModelRef, directory: str | None) -> bool:
            inside.set()
            return release.wait(10)

    passing = opencode.time
    one = RerunOverApi(lambda _door: Waits(opencode), passing.sleep, passing.now)
    first: list[MoveOutcome] = []
    worker = threading.Thread(target=lambda: first.append(one.move(Order(opencode.view(), TARGET))))
    worker.start()
    assert inside.wait(10)
    assert one.move(Order(opencode.view(), TARGET)).result is MoveResult.REFUSED
    release.set()
    worker.join(10)
    assert first[0].result is MoveResult.MOVED
    assert one.move(Order(opencode.view(), TARGET)).result is MoveResult.ALREADY
