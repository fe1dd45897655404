"""A fast JSON parser that accepts unpaired surrogates. Pure functions."""

from __future__ import annotations

import re

import orjson

_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
_HALF = len(rb"\ud83d")


def parse_json(data: bytes | str) -> object:
    """Return the parsed value; an unpaired surrogate becomes U+FFFD.

    JavaScript truncates strings by UTF-16 code units, and `JSON.stringify` writes the remaining half of an emoji as
    `\\ud83d`. Such a half can occur in a session's title and anywhere in a conversation, and orjson rejects a document
    that contains one.

    Raises:
        ValueError: The data is not JSON, or not UTF-8.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raw = data.encode(errors="replace") if isinstance(data, str) else data
        if not _SUSPECT.search(raw):
            raise
        return orjson.loads(_ESCAPE.sub(lambda match: rb"\ufffd" if _is_half(match[0]) else match[0], raw))


def _is_half(escape: bytes) -> bool:
    return len(escape) == _HALF and escape[1:3] in (b"ud", b"uD")
