"""Tests that the same bytes give the same verdicts in any split, whatever a provider writes into its message."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.reader import Reading
from tests.conftest import Count
from tests.support.rules import builtin
from tests.unit.test_forgery import (
    FORGED_LINES,
    LIVING_LINES,
    NEW_TIME,
    OLD_TIME,
    OWN,
    OWN_PAYLOAD,
    OWN_TAGS,
    UNTAGGED,
    refused_with_message,
    sure,
)

RULES = builtin()
PIECES = (
    "Rate limit reached", "Too Many Requests", "\n", "\r\n", " process", " process\n", " stream error",
    ' stack="AI_APICallError: Rate limit reached\\n    at x" process', ' time={"created":1795348800123} created',
    f"ERROR {OLD_TIME} +1ms service=session.processor error=", f"INFO  {OLD_TIME} +1ms service=session id=ses_x title=",
    f"INFO  {OLD_TIME} +0ms service=bus type=session.error publishing", UNTAGGED, *FORGED_LINES,
    *(f" process\n{line}\n" for line in LIVING_LINES.values()), *(f"\n{line}\n" for line in LIVING_LINES.values()),
)  # fmt: skip


def refused(dialect: str, words: str) -> bytes:
    """Return one refused attempt with these words of the provider in a dialect, and then another record."""
    stack = json.dumps(f"AI_APICallError: {words}", ensure_ascii=False)[1:-1]
    old = {
        "processor": f'service=session.processor error={words} stack="{stack}\\n    at x" process',
        "prompt": f"service=session.prompt session={OWN} error={words} process",
        "llm": f"service=llm {OWN_TAGS} error={OWN_PAYLOAD} stream error",
        "title": f'service=session id={OWN} title={words} time={{"created":1795348800123}} created',
    }
    if dialect == "logfmt":
        quoted = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        tags = OWN_TAGS.replace("sessionID", "session.id")
        told = f'message="stream error" {tags} error.error="{quoted}"'
        return f"timestamp={NEW_TIME} level=ERROR run=5e3e506c {told}\n".encode()
    level = "INFO " if dialect == "title" else "ERROR"
    start = f"INFO  {OLD_TIME} +1ms service=llm {OWN_TAGS} stream\n"
    after = f"INFO  {OLD_TIME} +1ms service=session.prompt step=1 sessionID={OWN} loop\n"
    return f"{start}{level} {OLD_TIME} +2ms {old[dialect]}\n{after}".encode()


def verdicts(data: bytes, cuts: list[int], turns: bool) -> list[object]:
    """Return the events of a reader that gets the file in these pieces."""
    reading = Reading(RULES, file="a.log", turns=turns)
    bounds = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    seen = [one for begin, end in pairwise(bounds) for one in reading.feed(data[begin:end])]
    return [*seen, *reading.release(), *reading.finish()]


def telling_cuts(data: bytes) -> list[int]:
    """Return the positions around the ends of lines, and every ninth of the others."""
    ends = [at + near for at, byte in enumerate(data) if byte == 10 for near in range(-9, 4)]
    return sorted({cut for cut in (*ends, *range(0, len(data), 9)) if 0 <= cut <= len(data)})


def limits(seen: list[object]) -> list[LimitEvent]:
    return [one for one in seen if isinstance(one, LimitEvent)]


@pytest.mark.parametrize("turns", [False, True])
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(("processor", "prompt", "llm", "title")),
            st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
        ),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.integers(0, 20_000), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_where_a_chunk_ends_changes_no_verdict_of_an_old_log(
    counted: Count, turns: bool, parts: list[tuple[str, str]], cuts: list[int]
) -> None:
    data = b"".join(refused(dialect, words) for dialect, words in parts)
    counted("splits", 1)
    assert verdicts(data, cuts, turns) == verdicts(data, [], turns)


@pytest.mark.parametrize("turns", [False, True])
@given(
    words=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20_000), min_size=1, max_size=6),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_nor_of_a_new_one(counted: Count, turns: bool, words: list[str], cuts: list[int]) -> None:
    data = b"".join(refused("logfmt", each) for each in words)
    counted("splits", 1)
    assert verdicts(data, cuts, turns) == verdicts(data, [], turns)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("line", [*FORGED_LINES, UNTAGGED])
def test_a_message_that_imitates_a_record_is_one_wherever_a_chunk_ends(counted: Count, turns: bool, line: str) -> None:
    data = refused("processor", f"Rate limit reached\n{line}\nmore")
    whole = verdicts(data, [], turns)
    assert [cut for cut in range(len(data)) if verdicts(data, [cut], turns) != whole] == []
    counted("splits", len(data))


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("kind", LIVING_LINES)
@pytest.mark.parametrize("end", [" process", " created", " loop", "} created"])
def test_a_title_that_imitates_the_end_of_a_record_and_then_a_refusal_is_a_title(
    counted: Count, turns: bool, kind: str, end: str
) -> None:
    """Only a record with an error ends in ` process`."""
    title = f'x time={{"created":1795348800123}} {end}' if end.startswith("}") else f"x{end}"
    data = refused("llm", "") + refused("title", f"{title}\n{LIVING_LINES[kind]}\n")
    counted("splits", len(telling_cuts(data)))
    assert [cut for cut in telling_cuts(data) if len(limits(verdicts(data, [cut], turns))) != 1] == []


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("kind", LIVING_LINES)
@pytest.mark.parametrize("begin", ["no more process\n", "x\n", "\n\n"])
def test_a_message_with_a_false_end_and_a_refusal_is_one_wherever_a_chunk_ends(
    counted: Count, turns: bool, kind: str, begin: str
) -> None:
    data = refused_with_message(kind, f"{begin}{LIVING_LINES[kind]}\nthe rest")
    assert len(sure(data)) == 1
    whole = verdicts(data, [], turns)
    assert [cut for cut in telling_cuts(data) if verdicts(data, [cut], turns) != whole] == []
    counted("splits", len(telling_cuts(data)))


@pytest.mark.parametrize("begin", ["x\n", "\n\n", "process\n"])
def test_a_first_line_as_short_as_a_word_ends_no_record(begin: str) -> None:
    """Also if nothing before it quotes the line: the stack shows that the forged line is part of the message."""
    data = refused("llm", "") + refused("processor", f"{begin}{LIVING_LINES['llm']}\n")
    assert [cut for cut in telling_cuts(data) if len(limits(verdicts(data, [cut], False))) != 1] == []
