"""The dialects of OpenCode's log, one parser function each. What is no record of interest is None; nothing raises."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from ocwatchd.core.facts import facts_from_text
from ocwatchd.core.lines import Line
from ocwatchd.core.payload import Payload, payload_of, read_payload
from ocwatchd.core.record import Dialect, Kind, LogRecord, epoch, old_header
from ocwatchd.core.streams import Stream

_ENDINGS = tuple(
    f" {words}".encode()
    for words in (
        *("stream", "stream error", "streamText error", "process", "retrying with backoff", "created"),
        *("loop", "cancel", "locking", "unlocking", "chatting", "prompt", "getModel", "found", "provider"),
    )
)
"""The words in which the old records of interest end."""


def parse(line: Line) -> LogRecord | None:
    """What the line tells, if it is a record of interest in any dialect. Never raises, whatever the bytes."""
    if line.data.startswith(b"timestamp="):
        return logfmt(line)
    if not line.data.endswith(_ENDINGS) and b" error=" not in line.data[:400]:
        return None  # four of five lines that hold a wanted literal, and this is the cheapest way to tell
    header = old_header(line.data)
    return old(line, *header) if header else None


# ---- old: LEVEL time +ms k=v … message, values unquoted and unescaped

FAILURE = b' error={"error":'
"""Stands in every failure of the old dialects, and hardly anywhere else: found at 3 GB/s, where a line's level takes
twice as long."""
_TAG = re.compile(rb"(?:^| )([A-Za-z][\w.]{0,40})=")


def old(line: Line, when: float, body: int) -> LogRecord | None:
    """A record of the old formats: its service says which function reads it."""
    text = line.data[body:]
    for prefix, read in _OLD:
        if text.startswith(prefix):
            return read(line, when, text)
    return None


def _service_session(line: Line, when: float, text: bytes) -> LogRecord | None:
    """0.5: the session does everything itself. From 1.0 on, only `created` is left."""
    if text.endswith(b"} streamText error"):
        return _failed(line, when, text, Dialect.SESSION, b" streamText error")
    for ending, kind in _TURNS:
        if text.endswith(ending):
            return _turn(line, when, text, Dialect.SESSION, kind)
    if text.endswith(b" created"):
        return _created(line, when, text)
    if b" error=" in text and b" id=ses_" not in text:
        return _echo(line, when, text, Dialect.SESSION)
    return None


def _service_prompt(line: Line, when: float, text: bytes) -> LogRecord | None:
    """1.0.0 - 1.0.152: the prompt loop, with a session tag at first, then without any. Later only the loop's steps."""
    dialect = Dialect.PROMPT if text.startswith(b"service=session.prompt session=") else Dialect.BARE
    if text.endswith(b"} stream error"):
        return _failed(line, when, text, dialect, b" stream error")
    if text.endswith(b" process"):
        return _echo(line, when, text, dialect) if b" error=" in text else None
    if text.endswith(b" retrying with backoff"):
        return _retrying(line, when, text)
    for ending, kind in _TURNS:
        if text.endswith(ending):
            return _turn(line, when, text, dialect, kind)
    return None


_TURNS = (
    (b" exiting loop", Kind.ENDED),
    (b" unlocking", Kind.ENDED),
    (b" locking", Kind.BUSY),
    (b" chatting", Kind.BUSY),
    (b" prompt", Kind.BUSY),
    (b" loop", Kind.BUSY),
    (b" cancel", Kind.CANCEL),
)


def _service_processor(line: Line, when: float, text: bytes) -> LogRecord | None:
    """1.0.98 - 1.15: the processor repeats a failure; from 1.14 on with the session, and only the last one."""
    if text.endswith(b" process") and b" error=" in text:
        return _echo(line, when, text, Dialect.LLM)
    return None


def _service_llm(line: Line, when: float, text: bytes) -> LogRecord | None:
    """1.0.185 - 1.15: streams and their failures, with tags of which only the start's are right."""
    if text.endswith(b"} stream error"):
        return _failed(line, when, text, Dialect.LLM, b" stream error")
    if text.endswith(b" stream"):
        return _tagged(line, when, Dialect.LLM, Kind.STREAM, _tags(text[:-7]))
    return None


def stream_of(text: bytes) -> Stream:
    """What begins with a record of this text: tags and `stream`."""
    record = _tagged(Line(0, b""), 0.0, Dialect.LLM, Kind.STREAM, _tags(text.removesuffix(b" stream")))
    return Stream(record.session, record.provider, record.model, record.agent, record.small)


def _service_provider(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Which SDK a provider uses, and which models it has: told when a model is first used, rightly."""
    if not text.endswith((b" found", b" getModel", b" using bundled provider")):
        return None
    tags = _tags(text.rpartition(b" ")[0])
    sdk = tags.get("npm") or tags.get("pkg", "").removesuffix(" using bundled")
    return LogRecord(
        when, Dialect.BARE, Kind.KNOWN, line.offset, "", tags.get("providerID"), tags.get("modelID"), sdk=sdk or None
    )


_Reader = Callable[[Line, float, bytes], LogRecord | None]
_OLD: tuple[tuple[bytes, _Reader], ...] = (
    (b"service=llm ", _service_llm),
    (b"service=session.prompt ", _service_prompt),
    (b"service=session.processor ", _service_processor),
    (b"service=session ", _service_session),
    (b"service=provider ", _service_provider),
)


def _failed(line: Line, when: float, text: bytes, dialect: Dialect, ending: bytes) -> LogRecord | None:
    at = text.find(FAILURE)
    if at < 0:
        return None
    payload = read_payload(text[at + 7 : -len(ending)], truncated=line.truncated)
    if payload is None:
        return None
    return _tagged(line, when, dialect, Kind.FAILED, _tags(text[:at]), payload)


def _echo(line: Line, when: float, text: bytes, dialect: Dialect) -> LogRecord:
    """Its words are not read: the failure itself has told more."""
    return _tagged(line, when, dialect, Kind.ECHO, _tags(text.partition(b" error=")[0]))


def _retrying(line: Line, when: float, text: bytes) -> LogRecord:
    tags = _tags(text)
    delay = tags.get("delayMs", "").partition(" ")[0]
    wait = int(delay) / 1000 if delay.isdigit() and len(delay) < 12 else None
    return LogRecord(when, Dialect.PROMPT, Kind.RETRYING, line.offset, session=tags.get("session"), wait=wait)


def _turn(line: Line, when: float, text: bytes, dialect: Dialect, kind: Kind) -> LogRecord | None:
    """`sessionID` is the record's own; `session` is the shared logger's, which names whoever began to speak last."""
    tags = _tags(text)
    own = tags.get("sessionID") or tags.get("session.id")
    if own is None and text.endswith((b" chatting", b" prompt")):
        own = tags.get("session")
    session = (own or "").partition(" ")[0]
    return LogRecord(when, dialect, kind, line.offset, session=session) if session else None


def _created(line: Line, when: float, text: bytes) -> LogRecord | None:
    tags = _tags(text.partition(b" title=")[0])  # a title may look like tags
    session = tags.get("id")
    if not session:
        return None
    return LogRecord(when, Dialect.BARE, Kind.CREATED, line.offset, session=session, parent=tags.get("parentID"))


@lru_cache(maxsize=1024)
def _tags(text: bytes) -> Mapping[str, str]:
    """`k=v …`: a value runs to the next tag. Of two tags with one name the first counts.

    Remembered, because a session's streams are told with the same tags every time, and reading them takes 15 µs.
    """
    tags: dict[str, str] = {}
    name, begin = "", 0
    for match in _TAG.finditer(text):
        if name:
            tags.setdefault(name, text[begin : match.start()].decode(errors="replace"))
        name, begin = match[1].decode(), match.end()
    if name:
        tags.setdefault(name, text[begin:].decode(errors="replace"))
    return tags


# ---- new: logfmt, values bare or JSON strings, objects flattened with dots

# One alternative per letter would cost `re` 200 bytes for each: 20 MB for a message of 100 kB.
_PAIR = re.compile(rb' ?([^\s="]+)=("[^"\\]*(?:\\.[^"\\]*)*"|[^\s"]*)')
_MESSAGES = {
    "stream": Kind.STREAM,
    "stream error": Kind.FAILED,
    "process": Kind.ECHO,
    "cancel": Kind.CANCEL,
    "exiting loop": Kind.ENDED,
    "loop": Kind.BUSY,
    "created": Kind.CREATED,
}


def logfmt(line: Line) -> LogRecord | None:
    """1.17 and later. Its tags are right."""
    pairs = _pairs(line.data)
    when = epoch(pairs.get("timestamp", "").encode())
    kind = _MESSAGES.get(pairs.get("message", ""))
    if when is None or kind is None:
        return None
    run = pairs.get("run", "")
    if kind is Kind.CREATED:
        session, parent = pairs.get("id"), pairs.get("parentID")
        parent = parent if parent and parent.startswith("ses_") else None
        return LogRecord(when, Dialect.LOGFMT, kind, line.offset, run, session=session, parent=parent)
    payload = None
    if kind in (Kind.FAILED, Kind.ECHO):
        payload = _flat_payload(pairs)
        if payload is None:
            return None
    return _tagged(line, when, Dialect.LOGFMT, kind, pairs, payload)


def _pairs(data: bytes) -> dict[str, str]:
    """Every key once, the first counts: a forged pair can only stand inside a quoted value."""
    pairs: dict[str, str] = {}
    at = 0
    while match := _PAIR.match(data, at):
        pairs.setdefault(match[1].decode(errors="replace"), _unquoted(match[2]))
        at = match.end()
    return pairs


def _unquoted(value: bytes) -> str:
    if not value.startswith(b'"'):
        return value.decode(errors="replace")
    try:
        return str(orjson.loads(value))
    except orjson.JSONDecodeError:
        return value[1:-1].decode(errors="replace")


def _flat_payload(pairs: Mapping[str, str]) -> Payload | None:
    """The error of a record: one text, or an object flattened into `error.error.type=… error.error.message=…`."""
    for key in ("error.error", "error"):
        if key in pairs:
            text = pairs[key]
            facts = facts_from_text(text)
            if facts.name is None and key == "error.error":
                return payload_of(text)  # thrown in the middle of an answer, as a bare text
            return Payload(facts)
    nested = _nested(pairs, "error.error.") or _nested(pairs, "error.")
    return payload_of(nested) if nested else None


def _nested(pairs: Mapping[str, str], prefix: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        if key.startswith(prefix):
            *path, leaf = key[len(prefix) :].split(".")[:8]
            node = tree
            for step in path:
                inner = node.setdefault(step, {})
                node = inner if isinstance(inner, dict) else {}
            node[leaf] = _bare_value(value)
    return tree


def _bare_value(value: str) -> object:
    if value in ("true", "false", "null", "undefined"):
        return value == "true" if value in ("true", "false") else None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value


# ---- both


def _tagged(
    line: Line, when: float, dialect: Dialect, kind: Kind, tags: Mapping[str, str], payload: Payload | None = None
) -> LogRecord:
    small = tags.get("small")
    return LogRecord(
        time=when,
        dialect=dialect,
        kind=kind,
        offset=line.offset,
        run=tags.get("run", ""),
        provider=tags.get("providerID"),
        model=tags.get("modelID"),
        session=tags.get("session.id") or tags.get("sessionID") or tags.get("session"),
        agent=tags.get("agent"),
        small=None if small not in ("true", "false") else small == "true",
        message_id=tags.get("messageID"),
        url=payload.url if payload else None,
        asked=payload.asked if payload else None,
        cache_key=payload.cache_key if payload else None,
        facts=payload.facts if payload else None,
    )
