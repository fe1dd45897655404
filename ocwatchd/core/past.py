"""What the lines between two failures of 1.0.185 to 1.15 come to, found in their raw bytes, uncut. Pure.

Of thousands of lines only the starts of streams and the turns of sessions tell whose the next failure is, and of these
only the first and the last of each. Two searches backwards find them at 3 GB/s; to cut and to read every line that may
matter takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ocwatchd.core.lines import SPAN_CAP, places
from ocwatchd.core.record import CLOCK_SLACK, epoch, old_spanner

_SESSION = b" service=session"
_TAGS = b" providerID="
"""Together they stand in every line of interest (`record.OLD`)."""

_TURN = re.compile(rb"\.prompt (?:step=\d+ )?session(?:ID|\.id)=(ses_\w+) (?:step=\d+ )?(loop|exiting loop|cancel)\n")
_LEVELS = (b"INFO  2", b"ERROR 2", b"WARN  2", b"DEBUG 2")
_HEADER_AT_MOST = 48
_PROVIDES = (b" found", b" getModel", b" provider")
_PROVIDES_ENDS = b"dlr"
_BORN = b'{"created":'

# Single bytes tell a thousand hits apart in a tenth of the time that `startswith` takes. They are what follows
# `service=session`; what tells `.prompt step=` and `.prompt session` from the frequent `.prompt status=` and from
# `.summary`; and the end of `.processor process`.
_NEXT, _NAME, _TELLS = len(_SESSION), len(_SESSION + b"."), len(_SESSION + b".prompt st")
_END = len(_SESSION + b".processor process")
_SPACE, _LINE_FEED, _PROMPT, _OF_TURNS = ord(" "), ord("\n"), ord("p"), b"es"
_LLM, _PROVIDER = ord("m"), ord("r")
REACH = _END + 1
"""Bytes of what follows a block that are looked at from its last line."""

Turn = tuple[int, bool]
"""The offset of a line that ends what a session asked before, and whether the session goes on."""


class Past:
    """What came since the last failure, block for block.

    The first and the last turn of every session, and the offsets of the first and of the last start of every stream,
    by its text; of the last also the `time` as the log has it. `known` are records that tell of providers, by their
    text, and `others` further ones that have to be read themselves: sessions with a parent.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.first_turn: dict[bytes, Turn] = {}
        self.last_turn: dict[bytes, Turn] = {}
        self.first_start: dict[bytes, int] = {}
        self.last_start: dict[bytes, int] = {}
        self.time: dict[bytes, bytes] = {}
        self.known: dict[bytes, bytes] = {}
        self.others: list[bytes] = []

    def anew(self) -> Past:
        """Nothing yet, behind this one."""
        return Past()

    def go_on(self, later: Past) -> None:
        """Take in what came right behind."""
        self.first_turn = later.first_turn | self.first_turn
        self.last_turn |= later.last_turn
        self.first_start = later.first_start | self.first_start
        self.last_start |= later.last_start
        self.time |= later.time
        self.known |= later.known
        self.others += later.others

    def add(self, data: bytes, begin: int, stop: int, origin: int) -> bool:
        """Take in `data[begin:stop]`, which begins and ends with a line; `origin` is the offset of `data[0]`.

        What goes on behind `stop` must be in `data`, too, for `REACH` bytes at least: a short line is told by it.
        False, and nothing is taken in, if a record of several lines goes beyond it, or if something there is of a form
        that 1.0.185 to 1.15 do not have: then it has to be cut and read.
        """
        records, of_turns = _of_sessions(data, begin, stop)
        others: list[bytes] = []
        inside = _inside(data, records, stop, others)
        if inside is None or not self._add_turns(data, _outside(inside, of_turns), origin):
            return False
        self.others += others
        self._add_tagged(data, _outside(inside, places(data, _TAGS, begin, stop)), origin)
        return True

    def _add_turns(self, data: bytes, found: Sequence[int], origin: int) -> bool:
        """Read from the last to the first."""
        first: dict[bytes, re.Match[bytes]] = {}
        last: dict[bytes, Turn] = {}
        match_at = _TURN.match
        for at in found:
            match = match_at(data, at + _NEXT)
            if match is None:
                if data.startswith(b".prompt s", at + _NEXT):
                    return False
                continue
            session = match[1]
            if session in last:
                first[session] = match
            elif _line_of_record(data, at) is not None:
                first[session] = match
                last[session] = _turn(match, origin)
        self.last_turn |= last
        for session in first.keys() - self.first_turn.keys():
            self.first_turn[session] = _turn(first[session], origin)
        return True

    def _add_tagged(self, data: bytes, found: Sequence[int], origin: int) -> None:
        """The starts of streams, and what tells of providers; read from the last to the first."""
        first: dict[bytes, int] = {}
        last: dict[bytes, int] = {}
        find = data.find
        for at in found:
            before = data[at - 1]
            if before == _LLM:
                text = data[at + 1 : find(b"\n", at)]
                if text in first:
                    first[text] = at + origin
                elif text.endswith(b" stream") and data.startswith(b" service=llm", at - 12):
                    line = _line_of_record(data, at - 12)
                    if line is not None:
                        first[text] = last[text] = at + origin
                        self.time[text] = data[line + 6 : line + 25]
            elif before == _PROVIDER:
                end = find(b"\n", at)
                if data[end - 1] in _PROVIDES_ENDS:
                    text = data[at:end]
                    if text not in self.known and text.endswith(_PROVIDES):
                        self.known[text] = data[_line_start(data, at) : end]
        self.last_start |= last
        self.first_start = first | self.first_start


def _turn(match: re.Match[bytes], origin: int) -> Turn:
    return match.start() + origin, match[2] == b"loop"


def _of_sessions(data: bytes, begin: int, stop: int) -> tuple[list[int], list[int]]:
    """Where records are that may have several lines, and where turns may be, from the last to the first."""
    records: list[int] = []
    turns: list[int] = []
    rfind = data.rfind
    at = rfind(_SESSION, begin, min(stop, len(data) - REACH + _NEXT))  # what is shorter is of no interest
    while at >= 0:
        tells = data[at + _TELLS]
        if data[at + _NEXT] == _SPACE or (tells == _SPACE and data[at + _END] != _LINE_FEED):
            records.append(at)
        if tells in _OF_TURNS and data[at + _NAME] == _PROMPT:
            turns.append(at)
        at = rfind(_SESSION, begin, at)
    return records, turns


def _inside(data: bytes, records: Sequence[int], stop: int, others: list[bytes]) -> list[tuple[int, int]] | None:
    """From where to where the further lines of a record reach: what stands there is none. None if one has no end."""
    inside: list[tuple[int, int]] = []
    done = 0
    for at in reversed(records):
        if at < done:
            continue
        end = data.find(b"\n", at)
        if not _is_one_line(data, at, end) and _line_of_record(data, at) is not None:
            span = old_spanner(data, _line_start(data, at), end, min(end + SPAN_CAP, len(data)))
            if span is not None:
                if span.end is None or span.end >= stop:
                    return None
                inside.append((end, span.end))
                end = done = span.end
        if data[at + _NEXT] == _SPACE and data.find(b" parentID=", at, end) >= 0:
            others.append(data[_line_start(data, at) : end])
    return inside


def _outside(inside: Sequence[tuple[int, int]], found: list[int]) -> list[int]:
    for first, last in inside:
        found = [at for at in found if at < first or at > last]
    return found


def _line_of_record(data: bytes, at: int) -> int | None:
    """Where the line begins of a record whose text begins at this space; None if that is just a word in another's."""
    begin = data.rfind(b"\n", max(at - _HEADER_AT_MOST, 0), at) + 1
    if data.startswith(b"ms", at - 2) and data.startswith(_LEVELS, begin) and at - begin < _HEADER_AT_MOST:
        return begin
    return None


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
