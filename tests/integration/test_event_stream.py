"""Tests of empty answers in OpenCode's event stream, which no other source reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.event_stream import EMPTY_WITHIN, EmptyAnswers, EventListener
from ocwatchd.opencode.client.session_events import SessionEvents, Signal
from ocwatchd.opencode.client.shared_events import SharedEvents
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.sessions.messages import Message, message_of
from ocwatchd.opencode.sessions.snapshots import snapshot_of
from tests.support.processes import wait_until

DOOR = Endpoint(TcpAddress("127.0.0.1", 9), 7)
SESSION = Session("ses_1", "/p", None, "1.18.33")


def updated(number: int, session: str = "ses_1", finish: str | None = "unknown", **more: Any) -> dict[str, Any]:
    info = {"id": f"msg_{number}", "sessionID": session, "role": "assistant", "finish": finish, "parentID": "msg_0"}
    info |= {"time": {"created": 1000, "completed": 1001}, "providerID": "p", "modelID": "a"} | more
    return {"type": "message.updated", "properties": {"sessionID": session, "info": info}}


def test_several_answers_without_anything_are_told_once_each_from_the_third_on() -> None:
    empty = EmptyAnswers()
    told = [empty.count(updated(number), number / 10) for number in (1, 1, 2, 2, 3, 3, 4)]
    assert told == [None, None, None, None, "ses_1", None, "ses_1"]


def test_sessions_are_counted_apart_and_what_is_long_ago_no_more() -> None:
    empty = EmptyAnswers()
    assert [empty.count(updated(number, f"ses_{number % 2}"), 0.0) for number in range(4)] == [None] * 4
    late = [empty.count(updated(number, "ses_9"), number * EMPTY_WITHIN) for number in range(4)]
    assert late == [None] * 4


@pytest.mark.parametrize(
    "event",
    [
        updated(1, finish="stop"),
        updated(1, finish=None),
        updated(1, time={"created": 1000}),
        updated(1, error={"name": "APIError"}),
        updated(1, tokens={"input": 5, "output": 3}),
        updated(1) | {"type": "message.removed"},
        {"type": "message.updated"},
        {"type": "message.updated", "properties": {"info": []}},
    ],
)
def test_an_answer_that_may_hold_something_is_not_counted(event: dict[str, Any]) -> None:
    empty = EmptyAnswers()
    for number in range(9):
        info = event.get("properties", {}).get("info") or {}
        named = {**event, "properties": {"info": {**info, "id": f"msg_{number}"}}} if info else event
        assert empty.count(named, 0.0) is None


def message(number: int, model: str = "a", finish: str | None = "unknown", parts: tuple[str, ...] = ()) -> Message:
    event = updated(number, finish=finish, modelID=model, time={"created": 1, **({"completed": 2} if finish else {})})
    kinds = ("step-start", *parts, "step-finish") if finish else ()
    read = message_of(event["properties"]["info"], [{"type": kind, "text": ""} for kind in kinds])
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("answers", "steps"),
    [
        ((), 0),
        ((message(1), message(2), message(3)), 3),
        ((message(1), message(2), message(3, finish=None)), 2),
        ((message(1), message(2, parts=("text",)), message(3)), 1),
        ((message(1), message(2), message(3, "b", finish=None)), 0),
        ((message(1), message(2, finish="tool-calls", parts=("tool",)), message(3, finish=None)), 0),
    ],
)
def test_a_snapshot_counts_the_empty_answers_at_the_end(answers: tuple[Message, ...], steps: int) -> None:
    prompt = Message("msg_0", "user")
    shown = snapshot_of(DOOR, SESSION, RetryStatus("busy"), [prompt, *answers], False, 0.0)
    assert shown.empty_steps == steps


def test_the_end_of_an_empty_answer_is_not_taken_for_the_end_of_what_we_stop() -> None:
    """Otherwise the end of the abort looks like a stop by the user, whose endless loop would continue."""
    events = SessionEvents(Api(DOOR), SESSION)
    events.trace.abort("msg_1")
    for event in (updated(1), updated(2)):
        events.see(event)
    events.trace.see(Signal.IDLE)
    assert not events.trace.over
    events.see(updated(1, finish=None, error={"name": "MessageAbortedError"}))
    assert events.trace.closed


PROMPTED = {"type": "message.updated", "properties": {"info": {"sessionID": "ses_1", "role": "user"}}}


class OneStream(Api):
    """An endpoint whose event stream of all directories contains `lines`. Counts the opened streams."""

    def __init__(self, *lines: dict[str, Any], during: Callable[[], object] = bool) -> None:
        super().__init__(DOOR)
        self.lines, self.during, self.opened = lines, during, list[str | None]()

    def events(
        self,
        directory: str | None,
        idle: float = 0.0,
        only: Sequence[bytes] | Callable[[], Sequence[bytes]] = (),
        handle: Any = None,
        see: Callable[[bytes], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        self.opened.append(directory)
        if see is not None:
            see(b"data: {}")
        self.during()
        for event in self.lines:
            if any(f'"{event["type"]}"'.encode() == part for part in (only() if callable(only) else only)):
                yield event

    def status(self, directory: str | None) -> dict[str, RetryStatus]:
        return {}


def test_a_move_follows_its_session_on_the_stream_that_is_open() -> None:
    """A stream of its own costs OpenCode CPU time at the very moment when it should carry out the move."""
    api = OneStream(PROMPTED)
    moves = [SessionEvents(api, SESSION), SessionEvents(api, Session("ses_2", "/p", None, "1.18.33"))]
    api.during = lambda: all(move.__enter__() for move in moves)
    EventListener(lambda _: None, lambda: True, connect=lambda _: api).listen([DOOR])
    wait_until(lambda: moves[0].trace.seen and not moves[0].live, why="the stream to end")
    assert api.opened == [None]
    assert [move.trace.seen for move in moves] == [1, 0]
    assert [move.trace.changed for move in moves] == [True, False]
    assert not moves[1].live


def test_without_an_open_stream_a_move_opens_its_own() -> None:
    api = OneStream({"type": "server.connected"}, PROMPTED)
    ended = SharedEvents(())
    ended.opened()
    ended.closed()
    for shared in (None, SharedEvents(()), ended):
        api.shared_events = shared
        with SessionEvents(api, SESSION) as events:
            events.wait_open()
        assert api.opened.pop() == "/p"


def test_events_are_parsed_for_a_move_only_while_it_is_in_progress() -> None:
    api = OneStream()
    api.shared_events = shared = SharedEvents((b"always",))
    shared.opened()
    with SessionEvents(api, SESSION) as events:
        assert events.live
        assert {b"always", b'"message.updated"'} <= {*shared.wanted}
    assert shared.wanted == (b"always",)
    shared.pass_on(PROMPTED)
    assert events.trace.seen == 0


def test_a_stream_is_not_joined_before_its_first_events_are_read() -> None:
    """The listener first requests the statuses, and reads no events in the meantime."""
    joined = []

    class Asking(OneStream):
        def status(self, directory: str | None) -> dict[str, RetryStatus]:
            assert self.shared_events is not None
            joined.append(self.shared_events.join(self, lambda _: None, ()))
            return {}

    api = Asking()
    EventListener(lambda _: None, lambda: True, connect=lambda _: api).listen([DOOR])
    wait_until(lambda: joined, why="the statuses to be requested")
    assert joined == [False]


def test_a_stream_that_ends_while_it_is_joined_is_not_live() -> None:
    class Ending(SharedEvents):
        def join(self, *args: Any) -> bool:
            found = super().join(*args)
            self.closed()
            return found

    api = OneStream()
    api.shared_events = Ending(())
    api.shared_events.opened()
    with SessionEvents(api, SESSION) as events:
        assert not events.live


@pytest.mark.parametrize(("given", "asked"), [(None, "/p"), ("/other", "/other")])
def test_the_sessions_that_are_already_busy_are_those_of_the_named_project(given: str | None, asked: str) -> None:
    directories = list[str | None]()

    class Asking(OneStream):
        def status(self, directory: str | None) -> dict[str, RetryStatus]:
            directories.append(directory)
            return {"ses_1": RetryStatus("busy")}

    activity, tracked = StreamActivity(), list[bool]()
    api = Asking()
    api.during = lambda: tracked.append(activity.silence("ses_1") is not None)
    listener = EventListener(lambda _: None, lambda: True, connect=lambda _: api, activity=activity, directory=given)
    listener.listen([replace(DOOR, directory="/p")])
    wait_until(lambda: tracked, why="the statuses to be requested")
    assert (directories, tracked) == ([asked], [True])
