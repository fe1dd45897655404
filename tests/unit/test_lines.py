"""Tests of splitting bytes into lines: any chunks, any bytes, and as fast as copying them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.parsing.lines import HEAD_KEPT, LINE_CAP, SPAN_CAP, TAIL_KEPT, Line, LineCutter, Span


def cut(chunks: list[bytes], *wanted: bytes) -> list[Line]:
    cutter = LineCutter()
    return [line for chunk in chunks for line in cutter.feed(chunk, wanted)] + cutter.finish(wanted)


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_lines_know_their_offsets() -> None:
    assert cut([b"one\ntwo\n", b"thr", b"ee\nfour"]) == [
        Line(0, b"one"),
        Line(4, b"two"),
        Line(8, b"three"),
        Line(14, b"four"),
    ]


def test_only_wanted_lines_are_cut_out() -> None:
    assert cut([b"a wanted\nb\nc\nalso wan", b"ted\nd\n"], b"wanted") == [
        Line(0, b"a wanted"),
        Line(13, b"also wanted"),
    ]


def test_two_literals_in_one_line_are_one_line_and_order_is_kept() -> None:
    assert [line.data for line in cut([b"2 b\n1 a\n3 a b\n"], b"a", b"b")] == [b"2 b", b"1 a", b"3 a b"]


def test_the_last_chunk_can_be_searched_again_from_a_place_on() -> None:
    cutter = LineCutter()
    assert [line.offset for line in cutter.feed(b"start 1\nerror\nstart 2\nstart", [b"error"])] == [8]
    assert cutter.later(14, [b"start"]) == [Line(14, b"start 2")]
    assert cutter.later(99, [b"start"]) == []
    assert [line.offset for line in cutter.feed(b" 3\nerror\nstart 4\n", [b"error"])] == [30]
    assert cutter.later(31, [b"start"]) == [Line(36, b"start 4")]


def test_carriage_returns_and_nul_bytes_are_taken_off() -> None:
    assert cut([b"one\r\n\0\0\0two\n"]) == [Line(0, b"one"), Line(8, b"two")]


def test_a_hole_of_nul_bytes_costs_no_memory() -> None:
    cutter = LineCutter()
    for _ in range(64):
        assert cutter.feed(bytes(1 << 20)) == []
    assert cutter.feed(b"after\n") == [Line(64 << 20, b"after")]


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_bytes_in_any_chunks_give_the_same_lines(data: bytes, sizes: list[int]) -> None:
    chunks, at, turn = [], 0, 0
    while at < len(data):
        chunks.append(data[at : at + sizes[turn % len(sizes)]])
        at += len(chunks[-1])
        turn += 1
    assert cut(chunks) == cut([data])


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\0", b"0")), st.integers(1, 50))
def test_position_is_where_the_unfinished_line_begins(data: bytes, size: int) -> None:
    cutter, fed = LineCutter(), b""
    for chunk in chunked(data, size):
        cutter.feed(chunk)
        fed += chunk
        assert cutter.position == fed.rfind(b"\n") + 1


def test_resuming_at_the_position_loses_and_doubles_nothing() -> None:
    data = b"".join(b"line %d\n" % number for number in range(100))
    first = LineCutter()
    lines = first.feed(data[:333])
    second = LineCutter(first.position)
    assert [line.data for line in lines + second.feed(data[first.position :])] == data.split(b"\n")[:-1]


def test_a_line_beyond_the_cap_keeps_head_and_tail() -> None:
    head, tail = b"H" * HEAD_KEPT, b"T" * TAIL_KEPT
    (line, after) = cut(chunked(head + b"x" * (3 * LINE_CAP) + tail + b"\nnext\n", 128 << 10))
    assert line == Line(0, head + b"\n" + tail, truncated=True)
    assert after == Line(len(head) + 3 * LINE_CAP + len(tail) + 1, b"next")


def test_a_50_mb_line_costs_milliseconds() -> None:
    chunk = b"x" * (128 << 10)
    cutter = LineCutter()
    begun = time.process_time()
    for _ in range(400):
        cutter.feed(chunk, [b" stream error"])
    lines = cutter.feed(b"} stream error\n", [b" stream error"])
    assert time.process_time() - begun < 1.0  # 13 s if the carried bytes are searched again and again
    assert [line.truncated for line in lines] == [True]


# ---- records of several lines


def until_end(data: bytes, start: int, stop: int, limit: int) -> Span | None:
    """A toy format: a record begins at a line that starts with `<` and lasts until a line that ends with `>`."""
    if not data.startswith(b"<", start) or data[stop - 1 : stop] == b">":
        return None
    at = data.find(b">\n", stop, limit)
    return Span(at + 1 if at >= 0 else None)


SPANNED = b"a x\n<x begins\ninner x\nends>\nb x\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_record_of_several_lines_is_one_and_its_lines_are_no_records(size: int) -> None:
    cutter = LineCutter(0, until_end)
    lines = [line for chunk in chunked(SPANNED, size) for line in cutter.feed(chunk, [b"x"])]
    assert [line.data for line in lines] == [b"a x", b"<x begins\ninner x\nends>", b"b x"]


def test_a_record_whose_end_does_not_come_holds_nothing_back_for_ever() -> None:
    cutter = LineCutter(0, until_end)
    assert cutter.feed(b"<x begins\ninner x\n", [b"x"]) == []
    assert cutter.waiting
    assert cutter.position == 0
    assert [line.data for line in cutter.release([b"x"])] == [b"<x begins", b"inner x"]
    assert not cutter.waiting


def test_a_record_whose_end_is_too_far_ends_with_its_line() -> None:
    cutter = LineCutter(0, until_end)
    lines = cutter.feed(b"<x begins\n" + b"y\n" * SPAN_CAP + b"x>\n", [b"x"])
    assert [line.data for line in lines] == [b"<x begins", b"x>"]
