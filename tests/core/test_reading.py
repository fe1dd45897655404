"""Catching up reads a fraction of an old log, and tells of every limit what a follower tells who reads all of it."""

from __future__ import annotations

import random

import pytest

from ocwatchd.core.context import HELD
from ocwatchd.core.limits import LimitEvent
from ocwatchd.core.reading import Reading
from tests.core.oldlog import CHAT, OTHER, created, error, info, payload, stream, tags, told_again
from tests.support.rules import builtin

SESSIONS = [f"ses_{number}aaaaaaaa" for number in range(4)]
MODELS = [("coder", "corpgw", CHAT), ("coder", "mirror", OTHER), ("writer", "corpgw", CHAT)]
BIRTH = info(0, "service=default version=1.2.27 args=[] opencode")
NOISE = "service=bus type=message.part.updated publishing"


def limits(data: bytes, size: int, *, turns: bool) -> list[LimitEvent]:
    reading = Reading(builtin(), turns=turns)
    seen = [item for at in range(0, len(data), size) for item in reading.feed(data[at : at + size])]
    return [item for item in [*seen, *reading.rest()] if isinstance(item, LimitEvent)]


def followed_late(data: bytes, late: int, size: int) -> list[LimitEvent]:
    """Caught up with to this place, then followed."""
    reading = Reading(builtin(), turns=True)
    reading.catch_up()
    seen = [item for at in range(0, late, size) for item in reading.feed(data[at : min(at + size, late)])]
    seen += reading.follow()
    seen += [item for at in range(late, len(data), size) for item in reading.feed(data[at : at + size])]
    return [item for item in [*seen, *reading.rest()] if isinstance(item, LimitEvent)]


def history(draw: random.Random, steps: int, *, fails: bool = True) -> bytes:
    """Sessions that ask, loop, end and are refused, with noise between; a failure has the tags of the last start."""
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
    """Lines, and records of several lines, that begin in one block and end in the next included."""
    draw = random.Random(seed)
    data = BIRTH + history(draw, 30) + history(draw, 6000, fails=False) + history(draw, 250)
    assert len(data) > 1 << 20
    told = limits(data, len(data), turns=True)
    assert len(told) > 20
    for size in (128 << 10, 512 << 10, *(draw.randrange(100_000, 600_000) for _ in range(6))):
        assert limits(data, size, turns=False) == told


def test_a_failure_far_behind_its_start_and_one_too_far() -> None:
    """What is held is bounded: beyond it nobody can be named, so a failure that names nobody's start is passed over."""
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
