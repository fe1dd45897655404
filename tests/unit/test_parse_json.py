"""Tests of foreign JSON: an incomplete surrogate pair, or bytes that are not text, damage only themselves."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.types import Certainty, LimitEvent
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.core.text.parse_json import parse_json
from tests.support.rules import builtin
from tests.unit.oldlog import failed, loop, payload, stream, tags


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (rb'"cut \ud83d"', "cut \ufffd"),
        (rb'"\ude00 left"', "\ufffd left"),
        (rb'"whole \uD83D\uDE00"', "whole \U0001f600"),
        (rb'"\ud83d\ud83d\ude00\ude00"', "\ufffd\U0001f600\ufffd"),
        (rb'"no escape: \\ud83d"', "no escape: \\ud83d"),
        (rb'"one: \\\ud83d\u0041"', "one: \\\ufffdA"),
        (rb'{"\ud83d": [1]}', {"\ufffd": [1]}),
    ],
)
def test_what_is_no_text_is_replaced(written: bytes | str, meant: object) -> None:
    assert parse_json(written) == meant


@pytest.mark.parametrize(
    "written", [b"", b"{", b'"\xff"', '"\ud83d"', rb'"\ud83d', rb'{"a": \ud83d}', b"\xff", "{\ud83d"]
)
def test_what_is_no_json_is_none(written: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(written)


@given(
    st.recursive(
        st.text() | st.integers(-(2**53), 2**53), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_json_is_read_as_it_is(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@given(st.text(alphabet=st.characters(categories=["Cs", "Lu", "So", "Po"])))
def test_whatever_javascript_writes_is_read(text: str) -> None:
    """OpenCode writes any sequence of UTF-16 units; the parsed text can be written as UTF-8."""
    read = parse_json(json.dumps(text).encode())
    assert isinstance(read, str)
    assert read.encode().decode() == read


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00"])
def test_a_refused_request_with_half_an_emoji_in_its_conversation_is_a_refusal(half: str) -> None:
    """The old logs contain the whole request, in which any text may have been cut."""
    what = payload(request={"prompt_cache_key": "ses_1", "title": "HALF"}).replace("HALF", half)
    data = stream(0, "ses_1") + failed(1, tags("ses_1"), what) + loop(2, "ses_1", 1)
    (event,) = [seen for seen in Reading(builtin()).feed(data) if isinstance(seen, LimitEvent)]
    assert event.verdict.certainty is Certainty.SURE
    assert event.session == "ses_1"
