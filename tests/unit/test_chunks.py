"""The same bytes in one chunk or in any split give the same verdicts, whatever a provider writes into its message."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocwatchd.core.reading import Reading
from tests.conftest import Count
from tests.core.test_forgery import FORGED_LINES, NEW_TIME, OLD_TIME, OWN, OWN_TAGS, PAYLOAD, UNTAGGED
from tests.support.rules import builtin

RULES = builtin()
PIECES = (
    "Rate limit reached", "Too Many Requests", "\n", "\r\n", " process", " process\n", " stream error",
    ' stack="AI_APICallError: Rate limit reached\\n    at x" process', ' time={"created":1795348800123} created',
    f"ERROR {OLD_TIME} +1ms service=session.processor error=", f"INFO  {OLD_TIME} +1ms service=session id=ses_x title=",
    f"INFO  {OLD_TIME} +0ms service=bus type=session.error publishing", UNTAGGED, *FORGED_LINES,
)  # fmt: skip


def refused(dialect: str, words: str) -> bytes:
    """One refusal with these words of the provider's, as the dialect writes it; then a record of its own."""
    stack = json.dumps(f"AI_APICallError: {words}", ensure_ascii=False)[1:-1]
    old = {
        "processor": f'service=session.processor error={words} stack="{stack}\\n    at x" process',
        "prompt": f"service=session.prompt session={OWN} error={words} process",
        "llm": f"service=llm {OWN_TAGS} error={PAYLOAD} stream error",
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
    """What a reader tells of the file that gets it in these pieces."""
    reading = Reading(RULES, file="a.log", turns=turns)
    bounds = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    seen = [one for begin, end in pairwise(bounds) for one in reading.feed(data[begin:end])]
    return [*seen, *reading.release(), *reading.rest()]


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
