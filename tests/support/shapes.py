"""Ways in which an answer of the fake provider stalls."""

from __future__ import annotations

from enum import StrEnum


class Shape(StrEnum):
    """The part of an answer that is sent before it stalls. The connection stays open, but nothing follows."""

    NO_HEADERS = "no headers"
    HALF_HEADERS = "half the headers"
    NO_BODY = "headers and no body"
    FIRST_CHUNK = "the first chunk, which holds no text"
    THOUGHT = "a thought"
    TEXT = "some text"
    HALF_EVENT = "some text and half an event"
    ALL_BUT_END = "the whole text without its end"
    NO_CLOSE = "a finish reason without the end of the stream"
    CALL = "half a tool call"
    KEEP_ALIVE = "keep-alive comments for ever"
    TRICKLE = "an event of which a byte comes now and then"
    EMPTY_EVENTS = "events without content for ever"
