"""Tests that catching up reads a fraction of an old log, and reports the same limits as following it."""

from __future__ import annotations

import random

import pytest

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.core.parsing.reader import HELD, Reading
from tests.support.rules import builtin
from tests.unit.oldlog import CHAT, OTHER, created, error, info, payload, stream, tags, told_again

SESSIONS = [f"ses_{number}aaaaaaaa" for number in range(4)]
MODELS = [("coder", "corpgw", CHAT), ("coder", "mirror", OTHER), ("writer", "corpgw", CHAT)]
BIRTH = info(0, "service=default version=1.2.27 args=[] opencode")
NOISE = "service=bus type=message.part.updated publishing"


def limits(data: bytes, size: int, *, turns: bool) -> list[LimitEvent]:
    reading = Reading(builtin(), turns=turns)
    seen = [item for at in range(0, len(data), size) for item in reading.feed(data[at : at + size])]
    return [item for item in [*seen, *reading.finish()] if isinstance(item, LimitEvent)]


def followed_late(data: bytes, late: int, size: int) -> list[LimitEvent]:
    """Return the events of a reader that catches up to this position, and then follows."""
    reading = Reading(builtin(), turns=True)
    reading.catch_up()
    seen = [item for at in range(0, late, size) for item in reading.feed(data[at : min(at + size, late)])]
    seen += reading.follow()
    seen += [item for at in range(late, len(data), size) for item in reading.feed(data[at : at + size])]
    return [item for item in [*seen, *reading.finish()] if isinstance(item, LimitEvent)]


def history(draw: random.Random, steps: int, *, fails: bool = True) -> bytes:
    """Return a log of sessions that ask, loop, end and are refused, with other lines between.

    A failure has the tags of the last start.
    """
    lines = []
    last = ""
    under_way: list[tuple[str, str]] = []
    for second in range(steps):
        session = draw.choice(SESSIONS)
        model, provider, url = draw.choice(MODELS)
        lines += [info(second, NOISE)] * draw.randrange(6)
        match draw.randrange(14):
            case 0 | 1 | 2 | 3:
                small = draw.random() < 0.2
                agent = "title" if small else draw.choice(("build", "plan"))
                lines.append(stream(second, session, model, provider, small=small, agent=agent))
                last = tags(session, model, provider, small=small, agent=agent)
                under_way.append((model, url))
            case 4 | 5 | 6:
                lines.append(info(second, f"service=session.prompt step={second} sessionID={session} loop"))
            case 7:
                lines.append(info(second, f"service=session.prompt sessionID={session} exiting loop"))
            case 8:
                lines.append(info(second, f"service=session.prompt sessionID={session} cancel"))
            case 9:
                lines.append(info(second, f"service=provider providerID={provider} modelID={model} getModel"))
            case 10:
                title = draw.choice(("x", f"x\n{stream(second, session, model, provider).decode()}", "x\n" * 9))
                lines.append(created(second, session, title, draw.choice((None, SESSIONS[0]))))
            case 11:
                lines.append(told_again(second, draw.choice(("Limited", "Limited,\nwait\n"))))
            case _ if under_way and fails:
                model, url = under_way.pop(draw.randrange(len(under_way)))
                lines.append(error(second, f"service=llm {last} error={payload(model, url)} stream error"))
    return b"".join(lines)


@pytest.mark.parametrize("seed", range(40))
def test_a_failure_is_nobody_elses_for_being_caught_up_with(seed: int) -> None:
    draw = random.Random(seed)
    data = BIRTH + history(draw, 250)
    told = limits(data, len(data), turns=True)
    assert told
    for size in (len(data), draw.randrange(50, 3000), 97):
        assert limits(data, size, turns=False) == told
    assert followed_late(data, draw.randrange(len(data)), 3000) == told
    newer = data.replace(b" sessionID=", b" session.id=")  # 1.14 and later
    assert limits(newer, 3000, turns=False) == limits(newer, 3000, turns=True)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_may_be_looked_at_in_many_blocks(seed: int) -> None:
    """Lines, and records of several lines, that begin in one block and end in the next, are included."""
    draw = random.Random(seed)
    data = BIRTH + history(draw, 30) + history(draw, 6000, fails=False) + history(draw, 250)
    assert len(data) > 1 << 20
    told = limits(data, len(data), turns=True)
    assert len(told) > 20
    for size in (128 << 10, 512 << 10, *(draw.randrange(100_000, 600_000) for _ in range(6))):
        assert limits(data, size, turns=False) == told


# ---- logs up to 1.0.152, which do not log the start of streams

DIALECTS = ("session", "prompt", "bare")
LOOK_UPS = (
    "providerID={provider} modelID={model} getModel",
    "providerID={provider} modelID={model} found",
    "providerID={provider} npm=@ai-sdk/openai-compatible found",
    "providerID={provider} npm=@ai-sdk/anthropic found",
    "providerID={provider} pkg=@ai-sdk/openai using bundled provider",
    "status=started providerID={provider} getSDK",
)
BROKEN = '{"error":{"type":"overloaded_error","message":"Overloaded"}}'


def turn(dialect: str, draw: random.Random, session: str, logger: str) -> str:
    """Return a record about a session; `logger` is the session that used the shared logger last."""
    step = draw.randrange(3)
    return draw.choice(
        {
            "session": (
                f"service=session session={session} chatting",
                f"service=session session={logger} sessionID={session} locking",
                f"service=session session={logger} sessionID={session} unlocking",
                f"service=session session={session} type=text-delta part",
            ),
            "prompt": (
                f"service=session.prompt session={session} prompt",
                f"service=session.prompt session={logger} sessionID={session} locking",
                f"service=session.prompt session={logger} sessionID={session} unlocking",
                f"service=session.prompt session={session} attempt=1 delayMs=2000 elapsed=0 retrying with backoff",
                f"service=session.prompt session={session} type=text-delta part",
                f"service=session.prompt session={session} error=Delay was aborted process",
            ),
            "bare": (
                f"service=session.prompt step={step} sessionID={session} loop",
                f"service=session.prompt sessionID={session} exiting loop",
                f"service=session.prompt sessionID={session} cancel",
                "service=session.processor process",
                f"service=session.prompt session.id={session} loop",
            ),
        }[dialect]
    )


def oddity(second: float, text: str) -> bytes:
    """The text of a record in a place where there is no record, or in a form that OpenCode does not use."""
    line = info(second, text)
    return b"".join(
        (
            info(second, f"service=config path=/x +1ms {text}"),
            line.replace(b"INFO  2026-11-22", b"INFO  2026-02-30"),
            b"timestamp=2026-11-22T12:00:00.000Z level=INFO run=0a1b2c3d message=loop " + text.encode() + b"\n",
        )
    )


def early_history(dialect: str, draw: random.Random, steps: int) -> bytes:
    """Return a log of sessions that begin, end and are refused, with some models looked up, and forgeries between."""
    lines = [BIRTH]
    few = SESSIONS[: draw.choice((1, 1, 2, 4))]
    for second in range(steps):
        new = [f"ses_{second // 9}bbbbbbbb"] if len(few) > 2 else []
        session, logger = draw.choice([*few, *new]), draw.choice([*few, *new])
        model, provider, url = draw.choice(MODELS)
        text = turn(dialect, draw, session, logger)
        look_up = "service=provider " + draw.choice(LOOK_UPS).format(provider=provider, model=model)
        lines += [info(second, NOISE)] * draw.randrange(4)
        match draw.randrange(20):
            case 0 | 1:
                lines.append(info(second, look_up))
            case 2:
                forged = draw.choice((info(second, text), info(second, look_up))).decode()
                end = ' time={"created":1795000000000} created'
                title = draw.choice(("x", "{x}", f"x\n{forged}", f"x{end}\n{forged}", f"x loop\n{forged}", "x\n" * 9))
                lines.append(created(second, session, title, draw.choice((None, None, logger))))
            case 3:
                message = draw.choice(
                    ("Limited", f"Limited,\n{info(second, text).decode()}wait", "Limited loop\nwait\n")
                )
                line = told_again(second, message)
                if dialect == "prompt":
                    line = line.replace(b"session.processor", f"session.prompt session={session}".encode(), 1)
                lines.append(line)
            case 4:
                lines.append(draw.choice((oddity(second, text), info(second, text).replace(b"\n", b"\r\n"))))
            case 5 | 6 | 7:
                tag = {"session": f" session={session}", "prompt": f".prompt session={session}", "bare": ".prompt"}[
                    dialect
                ]
                end = "streamText error" if dialect == "session" else "stream error"
                what = draw.choice((payload(model, url), payload(model, url, body="Whatever"), BROKEN, BROKEN))
                lines.append(error(second, f"service=session{tag} error={what} {end}"))
            case _:
                lines.append(info(second, text))
    return b"".join(lines)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("seed", range(30))
def test_nor_in_a_log_that_does_not_tell_of_streams(dialect: str, seed: int) -> None:
    draw = random.Random(seed)
    data = early_history(dialect, draw, 400)
    told = limits(data, len(data), turns=True)
    assert len(told) > 10
    for size in (len(data), draw.randrange(50, 3000), 97):
        assert limits(data, size, turns=False) == told
    assert followed_late(data, draw.randrange(len(data)), 3000) == told


def test_a_model_that_is_looked_up_again_tells_what_is_asked() -> None:
    broken = error(9, f"service=session.prompt error={BROKEN} stream error")
    work = info(1, f"service=session.prompt step=0 sessionID={SESSIONS[0]} loop")
    first, second = (info(2, f"service=provider providerID=corpgw modelID={model} getModel") for model in ("a", "b"))
    other = info(8, "service=provider providerID=mirror npm=@ai-sdk/openai found")
    over = info(7, f"service=session.prompt sessionID={SESSIONS[0]} cancel")
    data = b"".join((BIRTH, work, first, second, broken, over, work, other, second, broken))
    assert [event.model for event in limits(data, 1000, turns=False)] == ["a", "b"]


def test_a_failure_far_behind_its_start_and_one_too_far() -> None:
    """Held data is bounded: beyond it no session can be named, so a failure without a known start is skipped."""
    quiet = info(1, NOISE) * (HELD // len(info(1, NOISE)) // 2)
    failure = error(2, f"service=llm {tags(SESSIONS[0])} error={payload()} stream error")
    start = stream(1, SESSIONS[0])
    (event,) = limits(BIRTH + start + quiet + failure, 64 << 10, turns=False)
    assert (event.provider, event.model, event.session) == ("corpgw", "coder", SESSIONS[0])
    data = BIRTH + start + quiet * 4 + failure + start + failure
    assert [event.session for event in limits(data, 64 << 10, turns=False)][-1:] == [SESSIONS[0]]


def test_a_failure_torn_over_many_chunks_and_the_last_line_of_all() -> None:
    failure = error(2, f"service=llm {tags(SESSIONS[0])} error={payload()} stream error")
    data = BIRTH + stream(1, SESSIONS[0]) + info(1, NOISE) * 50 + failure.rstrip()
    for size in (7, 16, 64, 200):
        assert len(limits(data, size, turns=False)) == 1


@pytest.mark.parametrize("wrong", [{"before": 5}, {"head": None}, {"offset": -1}, {"inode": "7"}])
def test_a_saved_cursor_with_a_value_of_another_type_is_none(wrong):
    saved = Cursor(1, 7, "ab", 2, "cd", 2, 9).as_json()
    assert Cursor.from_json(saved) is not None
    assert Cursor.from_json({**saved, **wrong}) is None
