"""Fuzzing targets: all parsers of foreign data, as functions of bytes that raise if an invariant is broken.

`python -m scripts.fuzz` runs them guided by coverage. A test runs them with random input, and with every input that has
ever failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from ocwatchd.core.classify.error_details import details_from_body, details_from_text
from ocwatchd.core.classify.reset_times import find_hint
from ocwatchd.core.domain.types import ErrorDetails, LimitEvent, LimitKind
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.core.parsing.dialects import parse, payload_of, read_payload
from ocwatchd.core.parsing.lines import Line
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.core.text.redact import REASON_CAP, reason_of
from ocwatchd.daemon.recovery import previous_run
from ocwatchd.opencode.client.v1.responses import capacity_of, session_of, status_of, version_of
from ocwatchd.opencode.sessions.messages import error_of, mapping, message_of
from ocwatchd.state.blacklist.counted import Counted
from ocwatchd.state.blacklist.format import check_entry
from ocwatchd.state.journal import plain
from ocwatchd.state.plugin_reports import fact
from tests.support.rules import builtin

NOW = 1_795_348_800.0
YEAR = 366 * 86_400.0
_NEW = (
    b'timestamp=2026-11-22T12:00:00.000Z level=ERROR run=0a1b2c3d message="stream error" '
    b"providerID=mock modelID=primary "
)
_OLD = b"ERROR 2026-11-22T12:00:00 +1ms service=llm providerID=mock modelID=primary sessionID=ses_1 error="
_RULES = builtin()


def lines(data: bytes) -> None:
    """Check that no input makes a parser raise, whatever precedes it and wherever the line was cut."""
    for head in (b"", _NEW, _OLD):
        for truncated in (False, True):
            parse(Line(0, head + data, truncated))


def chunks(data: bytes) -> None:
    """Check that a log gives the same events whether it is read at once or byte by byte."""
    text = _NEW + data + b"\n" + _NEW + b"\n"
    whole, pieces = Reading(_RULES, file="f", turns=True), Reading(_RULES, file="f", turns=True)
    at_once = [*whole.feed(text), *whole.finish()]
    one_by_one = [seen for at in range(len(text)) for seen in pieces.feed(text[at : at + 1])]
    assert at_once == [*one_by_one, *pieces.finish()]
    for event in at_once:
        if isinstance(event, LimitEvent):
            _printable(event.reason)
            _in_time(event.time, event.hint.until if event.hint else None)


def words(data: bytes) -> None:
    """Check a provider's message: it gives facts, a printable reason, and a reset time that is missing or in the near
    future.
    """
    text = data.decode(errors="replace")
    for facts in (
        details_from_text(text),
        details_from_body(text, 429),
        details_from_body(text, None, {"retry-after": text}),
    ):
        _judged(facts)
    _judged(
        ErrorDetails(message=text, headers={"retry-after": text, "x-ratelimit-reset": text, "date": text}, body=text)
    )


def payloads(data: bytes) -> None:
    """Check an error object of an old log, cut off at any position."""
    made = json.dumps({"error": _value(list(data[1:400]), 5)}).encode()
    cut = made[: len(made) * (data[0] if data else 0) // 255]
    for truncated in (False, True):
        for text in (data, made, cut, b'{"error":{"name":"AI_APICallError","responseBody":' + data):
            payload = read_payload(text, truncated=truncated)
            if payload is not None:
                _judged(payload.facts)


def answers(data: bytes) -> None:
    """Check the readers of endpoint answers, plugin files and our own files with any JSON."""
    fact(data)
    value = _value(list(data[:400]), 4)
    fact(json.dumps(value).encode())
    said = mapping(value)
    message_of(said, said.get("parts"))
    for read in (session_of, status_of, capacity_of, error_of, payload_of):
        read(said)
    version_of(str(said.get("version")))
    plain(said)
    Counted(value, NOW).as_json()
    Cursor.from_json(value)
    previous_run([said], 0.0, {})
    with suppress(ValueError):
        check_entry("mock/primary", said)


_NAMES = (
    "id", "role", "user", "assistant", "time", "created", "completed", "error", "name", "data", "message",
    "parts", "type", "tool", "state", "status", "retry", "next", "attempt", "model", "providerID", "modelID",
    "mock/primary", "limit", "evidence", "at", "file", "offset", "session", "what", "claim", "until", "since",
    "kind", "scope", "strikes", "reset_source", "target", "logs", "doors", "2026-11-22T12:00:00.000Z",
    "9999-12-31T23:59:59Z", "responseBody", "responseHeaders", "statusCode", "version", "1.18.33", "directory",
    "parentID", "retry_after", "small", "headers", "tokens", "mime",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2**31, 2**63, 1e308, float("nan"), float("inf"), -1e18, 0.5)


def _value(data: list[int], depth: int) -> object:
    """Return a JSON value made from opcodes, so that libFuzzer and hypothesis can change it by changing bytes."""
    code = data.pop() if data else 0
    many = range(code >> 4)
    match code % 8:
        case 0 | 1 | 2 if depth:
            return {str(_name(data)): _value(data, depth - 1) for _ in many}
        case 3 if depth:
            return [_value(data, depth - 1) for _ in many]
        case 4:
            return _NUMBERS[(code >> 4) % len(_NUMBERS)]
        case 5:
            return (None, True, False, "")[(code >> 4) % 4]
        case 6:
            return "".join(chr(data.pop()) for _ in many if data)
        case _:
            return _name(data)


def _name(data: list[int]) -> str:
    return _NAMES[(data.pop() if data else 0) % len(_NAMES)]


def _judged(facts: ErrorDetails) -> None:
    _RULES.classify(facts)
    _printable(reason_of(facts.message))
    for kind in (None, LimitKind.QUOTA, LimitKind.RATE_LIMIT):
        hint = find_hint(facts, NOW, kind)
        _in_time(NOW, hint.until if hint else None)


def _printable(reason: str) -> None:
    assert len(reason) <= REASON_CAP
    assert reason.isprintable(), repr(reason)


def _in_time(now: float, until: float | None) -> None:
    assert until is None or now - YEAR < until < now + YEAR, until


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (lines, chunks, words, payloads, answers)
}
