"""When a session last showed a sign of its answer, by the lines of an event stream; only tests move the time."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.snapshot import Endpoint, RunningTool, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.streams import MAX_PATIENCE, StreamGaps
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.messages import FellSilent, GapsLearned, Move, Probe, Probed, Tick
from ocwatchd.opencode.client.activity import MAX_STREAMS, StreamActivity
from ocwatchd.opencode.client.v2.events import see_progress
from ocwatchd.state import cursors
from tests.unit.brain import POLICY, engine

HERE, THERE = Endpoint(TcpAddress("127.0.0.1", 9), 7), Endpoint(TcpAddress("127.0.0.1", 10), 8)


class Stream:
    """The events of one session, as OpenCode 1.18.33 sends them, or (`old`) 1.3.2."""

    def __init__(self, session: str = "ses_1", model: str = "p/a", old: bool = False) -> None:
        self.session, self.model, self.old, self.number = session, model, old, 0

    def line(self, kind: str, **properties: Any) -> bytes:
        payload = {"id": "evt_1", "type": kind, "properties": properties}
        whole = {"directory": "/p", "payload": payload}
        return b"data: " + json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()

    def status(self, kind: str) -> bytes:
        return self.line("session.status", sessionID=self.session, status={"type": kind})

    def answer(self, finish: str | None = None, **more: Any) -> bytes:
        self.number += finish is None and not more
        provider, _, model = self.model.partition("/")
        time = {"created": 1, **({"completed": 2} if finish or more else {})}
        info = {"id": f"msg_{self.number}", "sessionID": self.session, "role": "assistant", "time": time}
        info |= {"providerID": provider, "modelID": model, **({"finish": finish} if finish else {}), **more}
        return self.line("message.updated", sessionID=self.session, info=info)

    def prompt(self) -> bytes:
        info = {"id": "msg_0", "sessionID": self.session, "role": "user", "time": {"created": 1}}
        return self.line("message.updated", sessionID=self.session, info=info)

    def text(self, said: str = "word") -> bytes:
        part = {"id": "prt_1", "sessionID": self.session, "messageID": f"msg_{self.number}", "type": "text"}
        if self.old:
            return self.line("message.part.updated", part={**part, "text": said}, delta=said)
        about = {"messageID": part["messageID"], "partID": "prt_1", "field": "text", "delta": said}
        return self.line("message.part.delta", sessionID=self.session, **about)

    def tool(self, status: str) -> bytes:
        part = {"id": "prt_2", "sessionID": self.session, "messageID": f"msg_{self.number}", "type": "tool"}
        return self.line("message.part.updated", part={**part, "tool": "bash", "state": {"status": status}})


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def activity(clock: Clock) -> StreamActivity:
    return StreamActivity(elapsed=clock)


def feed(activity: StreamActivity, *lines: bytes, endpoint: Endpoint = HERE) -> None:
    for line in lines:
        activity.see(endpoint, line)


@pytest.mark.parametrize("old", [False, True])
def test_every_sign_of_the_answer_ends_the_silence(old: bool, clock: Clock, activity: StreamActivity) -> None:
    stream = Stream(old=old)
    feed(activity, stream.status("busy"), stream.answer())
    for sign in (stream.text(), stream.text('"sessionID":"ses_2"'), stream.tool("pending"), stream.tool("running")):
        clock.time += 7
        assert activity.silence("ses_1") == 7
        feed(activity, sign)
        assert activity.silence("ses_1") == 0
    assert activity.silence("ses_2") is None, "a text names no session"


def test_what_is_no_sign_does_not_end_it(clock: Clock, activity: StreamActivity) -> None:
    stream, other = Stream(), Stream("ses_2")
    feed(activity, stream.status("busy"), stream.answer(), stream.text())
    clock.time += 7
    heartbeat = stream.line("server.heartbeat")
    title = stream.line("session.updated", info={"id": "ses_1", "title": "a title"}, sessionID="ses_1")
    garbage = (b"", b": comment", b"data: no json", b'data: {"type":"message.updated"', b'data: ["session.status"]')
    feed(activity, heartbeat, title, stream.prompt(), stream.status("busy"), other.status("busy"), *garbage)
    assert activity.silence("ses_1") == 7


@pytest.mark.parametrize("kind", ["idle", "retry"])
def test_a_session_that_does_not_work_is_not_silent(kind: str, clock: Clock, activity: StreamActivity) -> None:
    stream = Stream()
    feed(activity, stream.status("busy"), stream.answer(), stream.text(), stream.status(kind))
    clock.time += 7000
    assert activity.silence("ses_1") is None
    assert activity.silent(lambda _: 10.0) == []


def test_nothing_is_known_of_a_stream_that_has_ended_or_of_the_time_before_it(
    clock: Clock, activity: StreamActivity
) -> None:
    activity.connected(HERE, ["ses_1"])
    feed(activity, Stream("ses_2").status("busy"), endpoint=THERE)
    clock.time += 7
    assert (activity.silence("ses_1"), activity.silence("ses_2")) == (7, 7)
    activity.lost(HERE)
    assert (activity.silence("ses_1"), activity.silence("ses_2")) == (None, 7)


def test_a_silence_is_told_when_it_is_too_long_for_its_model_and_again_after_half_of_it(
    clock: Clock, activity: StreamActivity
) -> None:
    slow, quick = Stream("ses_1", "p/slow"), Stream("ses_2", "p/quick")
    feed(activity, *(line for one in (slow, quick) for line in (one.status("busy"), one.answer(), one.text())))
    patience = {"p/slow": 50.0, "p/quick": 20.0}
    told = []
    for _ in range(12):
        clock.time += 5
        told.append(activity.silent(lambda model: patience.get(model or "")))
    assert [len(found) for found in told] == [0, 0, 0, 1, 0, 1, 0, 1, 0, 2, 0, 1]
    assert activity.silent(lambda _: None) == []


def test_the_longest_gap_of_a_good_answer_is_learnt(clock: Clock, activity: StreamActivity, tmp_path: Path) -> None:
    stream = Stream()
    feed(activity, stream.status("busy"), stream.answer())
    for gap in (3, 8, 5):
        clock.time += gap
        feed(activity, stream.text())
    feed(activity, stream.tool("pending"))
    clock.time += 100  # the call is written, then the tool runs: neither is the model's gap
    feed(activity, stream.tool("running"))
    clock.time += 1000
    feed(activity, stream.tool("completed"), stream.answer("tool-calls"))
    assert (activity.gaps_learned(), activity.gaps().longest()) == (1, {"p/a": 8.0})
    cursors.save_gaps(tmp_path / "gaps.json", activity.gaps(), 0.0)
    assert cursors.load_gaps(tmp_path / "gaps.json").longest() == {"p/a": 8.0}


def test_nothing_is_learnt_from_an_answer_that_failed(clock: Clock, activity: StreamActivity) -> None:
    for ending in ({"error": {"name": "APIError"}}, {"finish": "unknown"}, {"summary": True, "finish": "stop"}):
        stream = Stream()
        feed(activity, stream.status("busy"), stream.answer())
        clock.time += 40
        feed(activity, stream.text(), stream.answer(**ending))
    assert activity.gaps().longest() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"version": 2, "gaps": {"p/a": [1]}}', b'{"version": 1, "gaps": {"p/a": ["x"]}}',
     b'{"version": 1, "gaps": {"p/a": [-1]}}', b'{"version": 1, "gaps": {"p/a": 5}}', b'{"version": 1, "gaps": [1]}'],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "gaps.json").write_bytes(content)
    assert cursors.load_gaps(tmp_path / "gaps.json").longest() == {}


class KeepAlives:
    """A provider that sends a keep-alive every 15 s, until `end`."""

    def __init__(self, clock: Clock, end: float) -> None:
        self.clock, self.end, self.asked = clock, end, 0

    def __call__(self, session: str) -> float:
        self.asked += 1
        return max(self.clock.time - self.end, self.clock.time % 15.0)


@pytest.mark.parametrize(("ends", "wanted"), [(0.0, 120.0), (300.0, 420.0), (5000.0, MAX_PATIENCE)])
def test_keep_alives_end_the_silence_but_not_for_ever(ends: float, wanted: float, clock: Clock) -> None:
    stream, begin = Stream(), clock.time
    provider = KeepAlives(clock, begin + ends)
    activity = StreamActivity(elapsed=clock, keep_alive=provider)
    feed(activity, stream.status("busy"), stream.answer(), stream.text())
    while not activity.silent(lambda _: 120.0):
        assert clock.time < begin + 1000
        clock.time += 0.25
    assert clock.time - begin == pytest.approx(wanted, abs=0.5)
    assert provider.asked < 20, "only when the silence could be too long"
    assert activity.silence("ses_1") == pytest.approx(wanted if ends > 900 else 120.0, abs=0.5)
    feed(activity, stream.text())
    assert activity.silence("ses_1") == 0


def test_keep_alives_do_not_shorten_what_is_learnt(clock: Clock) -> None:
    stream, activity = Stream(), StreamActivity(elapsed=clock, keep_alive=lambda _: 5.0)
    feed(activity, stream.status("busy"), stream.answer(), stream.text())
    clock.time += 200
    assert activity.silence("ses_1") == 5
    feed(activity, stream.text(), stream.answer("stop"))
    assert activity.gaps().longest() == {"p/a": 200.0}


def test_memory_is_bounded(activity: StreamActivity) -> None:
    for number in range(MAX_STREAMS + 9):
        feed(activity, Stream(f"ses_{number}").status("busy"))
    known = [activity.silence(f"ses_{number}") is not None for number in range(MAX_STREAMS + 9)]
    assert known == [False] * 9 + [True] * MAX_STREAMS


# ---- slow but living streams

MODELS = {"p/a": 6.0, "p/b": 45.0, "p/c": 220.0}
"""The longest gap, in seconds, that an answer of each model has."""


class Living:
    """A session whose model sends slowly, whose tools take long, and whose user takes time to answer."""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.session, self.draw = f"ses_{number}", draw
        self.model = draw.choice(list(MODELS))
        self.stream = Stream(self.session, self.model, old=number % 2 == 0)
        self.steps = draw.randint(1, 3)
        self.shown = SessionSnapshot(
            self.session, "/p", HERE, SessionState.BUSY, model=ModelRef.parse(self.model), user_message="msg_0"
        )

    def events(self) -> list[tuple[float, bytes, dict[str, Any]]]:
        """Seconds to wait, the line that comes then, and what a probe shows from then on."""
        found: list[tuple[float, bytes, dict[str, Any]]] = [(self.draw.uniform(0, 50), self.stream.status("busy"), {})]
        for step in range(self.steps):
            found.append((0.1, self.stream.answer(), {"answer": f"msg_{step + 1}", "running": ()}))
            longest = MODELS[self.model]
            found += [(self.draw.uniform(0, longest), self.stream.text(), {}) for _ in range(self.draw.randint(10, 30))]
            if step + 1 == self.steps:
                found.append((0.1, self.stream.answer("stop"), {}))
                break
            writes = (RunningTool("write", pending=True),)
            runs, asks = {"running": (RunningTool("bash"),)}, {"asking": True}
            found.append((0.1, self.stream.tool("pending"), {"running": writes}))
            # OpenCode shows nothing of a call's text
            found.append(
                (self.draw.uniform(0, 280), self.stream.tool("running"), self.draw.choice((runs, runs | asks)))
            )
            found.append((self.draw.uniform(0, 7200), self.stream.tool("completed"), {"running": (), "asking": False}))
            found.append((0.1, self.stream.answer("tool-calls"), {}))
        return [*found, (0.1, self.stream.status("idle"), {"state": SessionState.IDLE, "answer_completed": True})]


def test_a_thousand_slow_but_living_streams_raise_no_alarm(clock: Clock) -> None:
    draw, activity, brain = random.Random(7), StreamActivity(elapsed=clock), engine(POLICY)
    sessions = [Living(number, draw) for number in range(1000)]
    due: list[tuple[float, int, int, bytes, dict[str, Any]]] = []
    for number, living in enumerate(sessions):
        at = clock.time + number * 20.0  # about fifty at a time
        for order, (wait, line, shown) in enumerate(living.events()):
            at += wait
            due.append((at, number, order, line, shown))
    due.sort(key=lambda entry: entry[:3])
    alarms: list[object] = []
    gaps_learned = asked = 0

    def tell(message: object) -> None:
        nonlocal asked
        for effect in brain.handle(message, clock.time):
            if isinstance(effect, Move):
                alarms.append(effect)
            elif isinstance(effect, Probe) and effect.session:
                asked += 1
                shown = sessions[int(effect.session[4:])].shown
                seen = replace(shown, seen=clock.time, silence=activity.silence(effect.session))
                tell(Probed(effect.session, None, (seen,), 1))

    def look() -> None:
        nonlocal gaps_learned
        for session in activity.silent(brain.context.stall_after):
            tell(FellSilent(session))
        if activity.gaps_learned() != gaps_learned:
            gaps_learned = activity.gaps_learned()
            tell(GapsLearned(activity.gaps().longest()))
        tell(Tick())

    for at, number, _, line, shown in due:
        while at - clock.time > 5.0:
            clock.time += 5.0
            look()
        clock.time = at
        sessions[number].shown = replace(sessions[number].shown, **shown)
        activity.see(HERE, line)
    look()
    assert len(alarms) == 0
    assert asked > 1000, "long silences of tools and users were looked into"
    assert gaps_learned == sum(living.steps for living in sessions)
    assert set(brain.context.gaps) == set(MODELS)
    assert StreamGaps(activity.gaps().all()).longest() == brain.context.gaps


class Stream2:
    """The events of one session, as OpenCode 2 sends them (0.0.0-next-16350)."""

    def __init__(self, session: str = "ses_1") -> None:
        self.session = session

    def __call__(self, kind: str, created: int = 1_796_133_240_000, **data: Any) -> bytes:
        event = {"id": "evt_1", "created": created, "type": f"session.{kind}", "data": {"sessionID": self.session}}
        event["data"] |= data
        return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()

    def begins(self, number: int = 1) -> bytes:
        model = {"id": "a", "providerID": "p"}
        return self("step.started", assistantMessageID=f"msg_{number}", agent="build", model=model)


def feed2(activity: StreamActivity, *lines: bytes) -> None:
    for line in lines:
        see_progress(activity, HERE, line)


def test_every_sign_of_an_answer_of_opencode_2_ends_the_silence(clock: Clock, activity: StreamActivity) -> None:
    event = Stream2()
    feed2(activity, event("execution.started"), event("input.promoted"))
    signs = (
        event.begins(), event("reasoning.delta", delta="hm"), event("text.delta", delta='"sessionID":"ses_2"'),
        event("tool.input.delta", delta="{"), event("tool.called"), event("tool.progress"), event("tool.success"),
        event("step.ended", finish="tool-calls"),
    )  # fmt: skip
    for sign in signs:
        clock.time += 7
        assert activity.silence("ses_1") == 7
        feed2(activity, sign)
        assert activity.silence("ses_1") == 0
    assert activity.silence("ses_2") is None, "a text names no session"
    clock.time += 7
    others = [event(kind) for kind in ("usage.updated", "renamed", "model.selected", "input.admitted")]
    feed2(activity, *others, b"", b": comment", b"data: no json", b'data: {"type":"server.heartbeat"}')
    assert activity.silence("ses_1") == 7, "nothing of this comes from the answer"


@pytest.mark.parametrize("kind", ["execution.succeeded", "execution.failed", "execution.interrupted"])
def test_an_idle_session_of_opencode_2_is_not_silent(kind: str, clock: Clock, activity: StreamActivity) -> None:
    event = Stream2()
    feed2(activity, event("execution.started"), event.begins(), event(kind))
    assert activity.silence("ses_1") is None


@pytest.mark.parametrize("kind", ["synthetic", "skill.activated", "instructions.updated"])
def test_what_is_added_to_a_session_of_opencode_2_does_not_make_it_work(
    kind: str, clock: Clock, activity: StreamActivity
) -> None:
    event = Stream2()
    feed2(activity, event(kind))
    assert activity.silence("ses_1") is None
    feed2(activity, event("execution.started"))
    clock.time += 7
    feed2(activity, event(kind))
    assert activity.silence("ses_1") == 0


def test_a_summary_of_opencode_2_is_not_silent(activity: StreamActivity) -> None:
    event = Stream2()
    feed2(activity, event("execution.started"), event("compaction.started"), event("compaction.delta"))
    assert activity.silence("ses_1") is None
    feed2(activity, event("compaction.ended"))
    assert activity.silence("ses_1") == 0


def test_the_silence_of_opencode_2_s_own_attempt_begins_with_that_attempt(
    clock: Clock, activity: StreamActivity
) -> None:
    event = Stream2()
    feed2(activity, event("execution.started"), event("retry.scheduled", created=1_000_000, at=1_020_000))
    clock.time += 15
    assert activity.silence("ses_1") == 0
    assert activity.silent(lambda _: 10.0) == []
    clock.time += 15
    assert activity.silence("ses_1") == 10
    assert activity.silent(lambda _: 10.0) == ["ses_1"]


def test_the_longest_gap_of_a_good_answer_of_opencode_2_is_learnt(clock: Clock, activity: StreamActivity) -> None:
    """The first answer thinks for 20 s before its first byte and runs a tool for 60 s; the second one fails."""
    event = Stream2()
    feed2(activity, event("execution.started"), event("input.promoted"))
    clock.time += 20
    feed2(activity, event.begins(), event("text.delta", delta="a"))
    clock.time += 5
    feed2(activity, event("text.delta", delta="b"), event("tool.called"))
    clock.time += 60
    feed2(activity, event("tool.success"), event("step.ended", finish="tool-calls"))
    assert activity.gaps().longest() == {"p/a": 20.0}
    clock.time += 40
    feed2(activity, event.begins(2), event("step.failed"))
    assert activity.gaps().all() == {"p/a": [20.0]}
