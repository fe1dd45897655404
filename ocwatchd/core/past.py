"""What the lines between two failures of 1.0.185 to 1.15 come to, found in their raw bytes, uncut. Pure.

Of thousands of lines only the starts of streams and the turns of sessions tell whose the next failure is, and of these
only the first and the last of each. Two searches backwards find them at 3 GB/s; to cut and to read every line that may
matter takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ocwatchd.core.lines import SPAN_CAP
from ocwatchd.core.record import CLOCK_SLACK, epoch, old_spanner

_SESSION = b" service=session"
_TAGS = b" providerID="
"""Together they stand in every line of interest (`record.OLD`)."""

_TURN = re.compile(
    rb" service=session\.prompt (?:step=\d+ )?session(?:ID|\.id)=(ses_\w+) (?:step=\d+ )?(loop|exiting loop|cancel)\n"
)
_LEVELS = (b"INFO  2", b"ERROR 2", b"WARN  2", b"DEBUG 2")
_HEADER_AT_MOST = 48
_PROVIDES = (b" found", b" getModel", b" provider")
_TOLD_KEPT = 4096
_BORN = b'{"created":'

# Single bytes tell a thousand hits apart in a tenth of the time that `startswith` takes. They are what follows
# `service=session`; what tells `.prompt step=` and `.prompt session` from the frequent `.prompt status=` and from
# `.summary`; and the end of `.processor process`.
_NEXT, _NAME, _TELLS = len(_SESSION), len(_SESSION + b"."), len(_SESSION + b".prompt st")
_END = len(_SESSION + b".processor process")
_SPACE, _LINE_FEED, _PROMPT, _OF_TURNS = ord(" "), ord("\n"), ord("p"), b"es"
_LLM, _PROVIDER = ord("m"), ord("r")


class Turns(NamedTuple):
    """A session's first and last line that ends what it asked before: where it is, and whether the session goes on."""

    first: int
    first_goes_on: bool
    last: int
    last_goes_on: bool


@dataclass(frozen=True, slots=True)
class Past:
    """What stands where in `data`.

    `turns` by session; `starts` by the text of a stream's start: its first and its last one, what came last first.
    `others` are records that have to be read themselves: what providers there are, and sessions with a parent.
    """

    data: bytes
    turns: Mapping[bytes, Turns]
    starts: Mapping[bytes, Sequence[int]]
    others: Sequence[bytes]

    def time(self, at: int) -> float:
        """When the record was written whose text is at this place; epoch seconds."""
        begin = _line_start(self.data, at)
        return epoch(self.data[begin + 6 : begin + 25]) or 0.0


def past(data: bytes, begin: int, stop: int, told: set[bytes]) -> Past | None:
    """What is in `data[begin:stop]`, which begins and ends with a line; a failure's line follows.

    `told` are the texts about providers that were among `others` before; they are not told again, and new ones added.
    None if a record of several lines goes beyond it, or if something there is of a form that 1.0.185 to 1.15 do not
    have: then all has to be cut and read.
    """
    places = _places(data, _SESSION, begin, stop)
    while places and places[0] + _END >= len(data):
        del places[0]  # too short to be of interest
    records = [
        at
        for at in places
        if data[at + _NEXT] == _SPACE or (data[at + _TELLS] == _SPACE and data[at + _END] != _LINE_FEED)
    ]
    others: list[bytes] = []
    inside = _inside(data, records, stop, others)
    if inside is None:
        return None
    of_turns = [at for at in places if data[at + _NAME] == _PROMPT and data[at + _TELLS] in _OF_TURNS]
    turns = _turns(data, _outside(inside, of_turns))
    if turns is None:
        return None
    tagged = _outside(inside, _places(data, _TAGS, begin, stop))
    for at in tagged:
        if data[at - 1] == _PROVIDER:
            text = data[at : data.find(b"\n", at)]
            if text not in told and text.endswith(_PROVIDES):
                told.add(text)
                others.append(data[_line_start(data, at) : at + len(text)])
    if len(told) > _TOLD_KEPT:
        told.clear()
    return Past(data, turns, _starts(data, [at for at in tagged if data[at - 1] == _LLM]), others)


def _places(data: bytes, literal: bytes, begin: int, stop: int) -> list[int]:
    """Where the literal is, from the last to the first: `rfind` is a third faster than `find`."""
    places = []
    rfind = data.rfind
    at = rfind(literal, begin, stop)
    while at >= 0:
        places.append(at)
        at = rfind(literal, begin, at)
    return places


def _inside(data: bytes, places: Sequence[int], stop: int, others: list[bytes]) -> list[tuple[int, int]] | None:
    """From where to where the further lines of a record reach: what stands there is none. None if one has no end."""
    inside: list[tuple[int, int]] = []
    done = 0
    for at in reversed(places):
        if at < done:
            continue
        end = data.find(b"\n", at)
        if not _is_one_line(data, at, end) and _has_header(data, at):
            span = old_spanner(data, _line_start(data, at), end, min(end + SPAN_CAP, len(data)))
            if span is not None:
                if span.end is None or span.end >= stop:
                    return None
                inside.append((end, span.end))
                end = done = span.end
        if data[at + _NEXT] == _SPACE and data.find(b" parentID=", at, end) >= 0:
            others.append(data[_line_start(data, at) : end])
    return inside


def _outside(inside: Sequence[tuple[int, int]], places: list[int]) -> list[int]:
    for first, last in inside:
        places = [at for at in places if at < first or at > last]
    return places


def _turns(data: bytes, places: Sequence[int]) -> dict[bytes, Turns] | None:
    """The turns of each session, read from the last to the first."""
    first: dict[bytes, tuple[int, bool]] = {}
    last: dict[bytes, tuple[int, bool]] = {}
    for at in places:
        turn = _TURN.match(data, at)
        if turn is None:
            if data.startswith(b".prompt s", at + _NEXT):
                return None
            continue
        session, word = turn.groups()
        place = at, word == b"loop"
        if session in last:
            first[session] = place
        elif _has_header(data, at):
            first[session] = last[session] = place
    return {session: Turns(*first[session], *last[session]) for session in last}


def _starts(data: bytes, places: Sequence[int]) -> dict[bytes, list[int]]:
    """The starts of streams, read from the last to the first."""
    starts: dict[bytes, list[int]] = {}
    for at in places:
        text = data[at + 1 : data.find(b"\n", at)]
        known = starts.get(text)
        if known is not None:
            known[0] = at
        elif text.endswith(b" stream") and data.startswith(b" service=llm", at - 12) and _has_header(data, at - 12):
            starts[text] = [at, at]
    return starts


def _has_header(data: bytes, at: int) -> bool:
    """Whether a record's text begins at this space, not just a word in the middle of another's."""
    begin = data.rfind(b"\n", max(at - _HEADER_AT_MOST, 0), at) + 1
    return data.startswith(b"ms", at - 2) and data.startswith(_LEVELS, begin) and at - begin < _HEADER_AT_MOST


def _is_one_line(data: bytes, at: int, end: int) -> bool:
    """Whether the record certainly ends with its line. (A forgery needs one that does not.)"""
    if data.startswith(b"} created", end - 9):
        begin = _line_start(data, at)
        born, when = data.rfind(_BORN, at, end) + len(_BORN), epoch(data[begin + 6 : begin + 25])
        number = data[born : born + 13]
        return when is not None and number.isdigit() and abs(int(number) / 1000 - when) <= CLOCK_SLACK
    return data.startswith(b" process", end - 8)


def _line_start(data: bytes, at: int) -> int:
    return data.rfind(b"\n", 0, at) + 1
