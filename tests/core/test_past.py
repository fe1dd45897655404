"""What came between two failures adds up to the same in whatever blocks it is looked at."""

from __future__ import annotations

import random

import pytest

from ocwatchd.core.past import REACH, Past
from ocwatchd.core.streams import Stream, Streams
from tests.core.oldlog import created, exits, info, loop, stream, told_again
from tests.core.test_reading import SESSIONS, history


def taken_in(data: bytes, sizes: list[int]) -> Past:
    """Looked at in blocks of so many lines, again and again; what a record goes beyond is looked at with the next."""
    past, ends = Past(), [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    begin = number = 0
    while ends:
        size = sizes[number % len(sizes)]
        number += 1
        stop, ends = ends[:size][-1], ends[size:]
        here = Past()
        if here.add(data[begin : stop + REACH], 0, stop - begin, begin):
            past.go_on(here)
            begin = stop
    assert begin == len(data)
    return past


def told(past: Past) -> tuple[object, ...]:
    turns, starts = (past.first_turn, past.last_turn), (past.first_start, past.last_start, past.time)
    return (*turns, *starts, past.known.keys(), past.others)


@pytest.mark.parametrize("seed", range(30))
def test_blocks_add_up(seed: int) -> None:
    draw = random.Random(seed)
    data = history(draw, 200, fails=False)
    whole = told(taken_in(data, [len(data)]))
    assert all(whole)
    for _ in range(5):
        assert told(taken_in(data, [draw.randrange(1, 60) for _ in range(9)])) == whole


def test_the_first_and_the_last_of_each() -> None:
    lines = [loop(0, "ses_a"), stream(1, "ses_a"), loop(2, "ses_a", 1), stream(3, "ses_a"), exits(4, "ses_a")]
    at = [sum(map(len, lines[:number])) for number in range(len(lines))]
    past = taken_in(b"".join(lines), [1])
    text = next(iter(past.last_start))
    begin = lines[1].index(b" providerID=")
    assert (past.first_start[text], past.last_start[text]) == (at[1] + begin, at[3] + begin)
    assert past.time[text] == lines[3].split(b" ")[2]
    begin = lines[0].index(b".prompt")
    assert past.first_turn == {b"ses_a": (at[0] + begin, True)}
    assert past.last_turn == {b"ses_a": (at[4] + begin, False)}


@pytest.mark.parametrize("blocks", [[1], [2], [9]])
def test_what_stands_inside_another_record_is_none(blocks: list[int]) -> None:
    forged = (stream(0, SESSIONS[0]) + loop(0, SESSIONS[0])).decode()
    for record in (created(0, SESSIONS[1], f"x\n{forged}y"), told_again(0, f"Limited\n{forged}y")):
        past = taken_in(info(0, "service=bus x") + record, blocks)
        assert not past.last_start and not past.last_turn


def test_a_word_in_a_text_is_no_record_and_an_unknown_form_is_not_passed_over() -> None:
    said = b"".join(b"note: " + line for line in (stream(0, "ses_a"), loop(0, "ses_a")))
    past = taken_in(said, [1])
    assert not past.last_start and not past.last_turn
    unknown = info(0, "service=session.prompt session=ses_a prompt") + info(0, "service=bus x")
    assert not Past().add(unknown, 0, len(unknown), 0)


def test_those_who_may_have_failed_come_in_the_order_in_which_they_began() -> None:
    """Whose end is seen first decides who of the rest has failed; the order of a set would differ from run to run."""
    streams, asked = Streams(), [Stream("ses_a", "corpgw", "coder", f"agent{number}", False) for number in range(20)]
    for stream_of_agent in asked:
        streams.begin(stream_of_agent)
    streams.one_failed_of(reversed(asked))
    assert streams.suspects() == asked
