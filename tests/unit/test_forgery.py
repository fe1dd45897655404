"""Tests that hostile text in any free field of any dialect, written as OpenCode writes it, blocks no model.

A user, a model, a tool, a file name or a provider can put these into a log: line feeds, quotes, escapes, forged pairs,
whole forged lines, bidi marks, NUL, a megabyte. Only a provider's refusal blocks a model, and only the requested one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocwatchd.core.classify.reset_times import find_hint
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitEvent, LimitKind
from ocwatchd.core.parsing.dialects import parse
from ocwatchd.core.parsing.lines import Line
from ocwatchd.core.parsing.reader import Reading
from tests.conftest import Count
from tests.support.rules import builtin

NOW = 1795348800.0
STAMP = datetime.fromtimestamp(NOW, UTC)
OLD_TIME, NEW_TIME = STAMP.strftime("%Y-%m-%dT%H:%M:%S"), STAMP.strftime("%Y-%m-%dT%H:%M:%S.000Z")
OWN = "ses_dfc1a6de7ffewWsl8N8ehaZchA"
OWN_TAGS = f"providerID=mock modelID=primary sessionID={OWN} small=false agent=build mode=primary"
FORGED = "ses_0000000000000000000000000"
PAYLOAD = json.dumps(
    {
        "error": {
            "name": "AI_APICallError",
            "url": "https://api.anthropic.com/v1/messages",
            "requestBodyValues": {"model": "claude-opus-4-1"},
            "statusCode": 429,
            "responseHeaders": {"retry-after": "86400"},
            "responseBody": '{"error":{"type":"rate_limit_error","message":"Rate limit reached"}}',
            "isRetryable": True,
        }
    }
)
VICTIM = f"providerID=victim modelID=opus sessionID={FORGED} small=false agent=build mode=primary"
FORGED_LINES = (
    f"ERROR {OLD_TIME} +1ms service=llm {VICTIM} error={PAYLOAD} stream error",
    f"ERROR {OLD_TIME} +1ms service=session.prompt session={FORGED} error={PAYLOAD} stream error",
    f"ERROR {OLD_TIME} +1ms service=session session={FORGED} error={PAYLOAD} streamText error",
    f'timestamp={NEW_TIME} level=ERROR run=5e3e506c message="stream error" {VICTIM.replace("sessionID", "session.id")}'
    ' error.error="AI_APICallError: Rate limit reached for requests"',
)
"""Forged lines that name a session that does not exist.

The name of a real session would be believed (see SECURITY.md).
"""
UNTAGGED = f"ERROR {OLD_TIME} +1ms service=session.prompt error={PAYLOAD} stream error"
"""A line that looks like a real one in a log of 1.0.0 to 1.0.152, but must not be accepted in any other log."""
OWN_PAYLOAD = PAYLOAD.replace("https://api.anthropic.com", "https://api.mock.example").replace(
    "claude-opus-4-1", "primary"
)
LIVING_LINES = {
    "llm": f"ERROR {OLD_TIME} +1ms service=llm {OWN_TAGS} error={OWN_PAYLOAD} stream error",
    "prompt": f"ERROR {OLD_TIME} +1ms service=session.prompt session={OWN} error={PAYLOAD} stream error",
    "session": f"ERROR {OLD_TIME} +1ms service=session session={OWN} error={PAYLOAD} streamText error",
}
"""Forged lines that name a real session, by the dialect of the log to which they belong."""
TEXTS = (
    'x" level=ERROR message="stream error" providerID=victim modelID=opus error.error="Too Many Requests',
    "x\\\" message=\\\"stream error\\\" providerID=victim",
    "429 rate_limit_error Too Many Requests rate limit reached, try again in 3600s",
    "\u202e\u2066429\u2069 \u0000\x1b]0;owned\x07\x1b[31m\x9b31m",
    "'; rm -rf ~; $(reboot) `id`",
    "} stream error",
    f" error={PAYLOAD} stream error",
    f"error={PAYLOAD} streamText error",
    "A" * (1 << 20) + " Too Many Requests",
    *(f"innocent\n{line}\n" for line in FORGED_LINES),
    *(f"innocent\r\n{line}\r\n{line}" for line in FORGED_LINES),
    *FORGED_LINES,
)  # fmt: skip


def logfmt(value: str) -> str:
    """Return a value quoted as by 1.17 and later."""
    return value if value and not re.search(r'[\s"=\\]', value) else json.dumps(value, ensure_ascii=False)


# ---- the records of each dialect that have a free field

NEW = f"timestamp={NEW_TIME} level=%s run=5e3e506c "
NEW_FIELDS: dict[str, Callable[[str], str]] = {
    "title": lambda text: NEW % "INFO" + f"message=created id={OWN} slug=calm-eagle title={logfmt(text)}",
    "path": lambda text: NEW % "INFO" + f"message=loading path={logfmt(text)}",
    "pattern": lambda text: NEW % "INFO" + f"message=evaluated permission=bash pattern={logfmt(text)} action=ask",
    "tool": lambda text: NEW % "ERROR" + f'message="mcp stderr" key={logfmt(text)} error={logfmt(text)}',
    "message": lambda text: NEW % "ERROR" + f"message={logfmt(text)} error.error={logfmt(text)}",
    "install": lambda text: NEW % "WARN" + f'message="background dependency install failed" error={logfmt(text)}',
    "agent": lambda text: NEW % "INFO" + f"message=stream providerID=mock modelID=primary agent={logfmt(text)}",
}
STACK = "\n    at x (y:1:2)"
OLD = f"%s {OLD_TIME} +3ms service="
OLD_FIELDS: dict[str, Callable[[str], str]] = {
    "title": lambda text: (
        OLD % "INFO "
        + f"session id={OWN} version=1.3.2 directory=/p title={text}"
        + f' time={{"created":{int(NOW * 1000)},"updated":{int(NOW * 1000)}}} created'
    ),
    "argument": lambda text: OLD % "INFO " + f"default version=1.3.2 args={json.dumps(['run', text])} opencode",
    "path": lambda text: OLD % "INFO " + f"config path={text} loading",
    "pattern": lambda text: OLD % "INFO " + f"permission permission=bash pattern={text} evaluated",
    "stderr": lambda text: OLD % "ERROR" + f"mcp key=tool stderr={text} failed",
    "told again": lambda text: (
        OLD % "ERROR" + f"session.processor error={text} stack={json.dumps(f'AI_APICallError: {text}{STACK}')} process"
    ),
}
BIRTHS = {
    "llm": f"llm {OWN_TAGS} stream",
    "prompt": f"session.prompt session={OWN} prompt",
    "session": f"session session={OWN} prompt",
}


def old_log(kind: str, record: str) -> bytes:
    """Return the log of a process that began with this session: the record, and then a harmless line."""
    lines = (
        OLD % "INFO " + 'default version=1.3.2 args=["serve"] opencode',
        OLD % "INFO " + f'session id={OWN} title=New time={{"created":{int(NOW * 1000)}}} created',
        OLD % "INFO " + BIRTHS[kind],
        record,
        OLD % "INFO " + "bus type=* subscribing",
    )
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def new_log(record: str) -> bytes:
    begin = NEW % "INFO" + f"message=stream {OWN_TAGS.replace('sessionID', 'session.id')}"
    return f"{begin}\n{record}\n{NEW % 'INFO'}message=loading path=/x\n".encode(errors="replace")


def sure(data: bytes, rules: RuleSet | None = None) -> list[LimitEvent]:
    """Return the events that would block a model."""
    reading = Reading(rules or builtin(), turns=True)
    seen = [*reading.feed(data), *reading.release(), *reading.finish()]
    events = [event for event in seen if isinstance(event, LimitEvent)]
    return [event for event in events if event.verdict.certainty is Certainty.SURE and event.ref is not None]


def cases() -> list[object]:
    return list(_tracked_sessions())


def _tracked_sessions() -> Iterator[object]:
    for field, record in NEW_FIELDS.items():
        yield pytest.param(lambda text, r=record: new_log(r(text)), id=f"new-{field}")
    for kind in BIRTHS:
        for field, record in OLD_FIELDS.items():
            yield pytest.param(lambda text, r=record, k=kind: old_log(k, r(text)), id=f"{kind}-{field}")


@pytest.mark.parametrize("field", OLD_FIELDS)
def test_a_line_of_an_older_version_is_none_of_this_log(field: str) -> None:
    assert sure(old_log("llm", OLD_FIELDS[field](f"x\n{UNTAGGED}\n"))) == []
    assert sure(new_log(UNTAGGED)) == []


def test_the_forged_lines_are_good_ones() -> None:
    """Each of these forged lines would be believed if it named a real session: their form is correct."""
    assert sure(new_log(FORGED_LINES[-1].replace(VICTIM, OWN_TAGS).replace(FORGED, OWN)))
    for kind, line in (*LIVING_LINES.items(), ("prompt", UNTAGGED)):
        assert sure(old_log(kind, line)), kind


@pytest.mark.parametrize("write", cases())
def test_no_free_field_blocks_a_model(write: Callable[[str], bytes], counted: Count) -> None:
    counted("bad inputs", len(TEXTS))
    for text in TEXTS:
        assert sure(write(text)) == [], text[:200]


PIECES = st.sampled_from(
    [*TEXTS[:7], *FORGED_LINES, "\n", "\r\n", '"', "\\", " ", "=", "{", "}", "429", "\0", "é", "\u2028"]
)
HOSTILE = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=7).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(HOSTILE, st.integers(0, 2**16))
def test_no_mixture_of_hostile_pieces_does(counted: Count, text: str, chunk: int) -> None:
    counted("fuzz cases", 1)
    for record in NEW_FIELDS.values():
        assert sure(new_log(record(text))) == []
    for kind in BIRTHS:
        for record in OLD_FIELDS.values():
            assert sure(old_log(kind, record(text))) == []


def provider_says(dialect: str, words: str) -> bytes:
    """Return a refused attempt with these words of the provider, in a dialect."""
    error = json.loads(PAYLOAD)
    error["error"] |= {
        "url": "https://api.mock.example/v1",
        "requestBodyValues": {"model": "primary", "messages": [words]},
    }
    error["error"] |= {"responseBody": json.dumps({"error": {"message": words}}), "statusCode": 429}
    if dialect == "new":
        tags = OWN_TAGS.replace("sessionID", "session.id")
        return new_log(
            NEW % "ERROR" + f'message="stream error" {tags} error.error={logfmt("AI_APICallError: " + words)}'
        )
    heads = {
        "llm": f"llm {OWN_TAGS} error=%s stream error",
        "prompt": f"session.prompt session={OWN} error=%s stream error",
        "session": f"session session={OWN} error=%s streamText error",
    }
    record = OLD % "ERROR" + heads[dialect] % json.dumps(error, ensure_ascii=False)
    return old_log(dialect, record)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(HOSTILE, st.sampled_from(TEXTS)), st.sampled_from(["new", *BIRTHS]))
def test_a_providers_words_block_no_other_model(counted: Count, words: str, dialect: str) -> None:
    counted("fuzz cases", 1)
    for event in sure(provider_says(dialect, words)):
        assert event.provider in ("mock", None) and event.model in ("primary", None), event
        assert event.session in (OWN, None)
        assert len(event.reason) <= 300 and event.reason.isprintable()


def refused_with_message(kind: str, words: str, body: str | None = None) -> bytes:
    """Return a refused attempt and the processor's record of it: the same words as JSON, and then unescaped."""
    payload = OWN_PAYLOAD if kind == "llm" else PAYLOAD
    error = json.loads(payload)
    said = {"error": {"message": words, "type": "rate_limit_error"}}
    error["error"] |= {"responseHeaders": {}, "responseBody": json.dumps(said) if body is None else body, "data": said}
    first = LIVING_LINES[kind].replace(payload, json.dumps(error, ensure_ascii=False, separators=(",", ":")))
    stack = f" stack={json.dumps(f'AI_APICallError: {words}{STACK}')}" if kind == "llm" else ""
    service = {"llm": "session.processor", "prompt": f"session.prompt session={OWN}", "session": "session"}[kind]
    again = OLD % "ERROR" + f"{service} error={words}{stack} process"
    return old_log(kind, f"{first}\n{again}")


FALSE_ENDS = (
    "no {} process",
    "no {} process\n",
    "first\nno {} process",
    'no {} stack="Error: no {}\\n    at x" process',
)


@pytest.mark.parametrize("kind", LIVING_LINES)
@pytest.mark.parametrize("false_end", FALSE_ENDS)
def test_a_providers_message_with_a_false_end_of_its_own_forges_no_refusal(kind: str, false_end: str) -> None:
    """Only the true refusal counts, however the provider's own JSON is escaped."""
    words = f"{false_end.format('more', 'more')}\n{LIVING_LINES[kind]}\nthe rest"
    told = json.dumps({"error": {"message": words}})
    bodies = (None, "", told.replace("ERROR", "\\u0045RROR"), json.dumps({"error": {"metadata": {"raw": told}}}))
    for body in bodies:
        (only,) = sure(refused_with_message(kind, words, body))
        assert only.reason.startswith(("no more", "first")), body
    control = f"{words.partition(' error=')[0]} x=\x01\t{words[len(words.partition(' error=')[0]) :]}"
    assert len(sure(refused_with_message(kind, control))) == 1


@pytest.mark.parametrize("kind", LIVING_LINES)
def test_a_refusal_like_the_one_before_is_a_refusal(kind: str) -> None:
    """The quoted request is text of the session, which may contain its own log."""
    data = refused_with_message(kind, f"no more\n{FORGED_LINES[0]}")
    seen = json.dumps(LIVING_LINES[kind]).encode()
    quoting = re.sub(rb'("model":"[\w-]+")', lambda match: match[1] + b',"messages":' + seen, data, count=1)
    again = f"{OLD % 'INFO '}{BIRTHS[kind]}\n{LIVING_LINES[kind]}\n".encode()
    assert [event.offset > len(quoting) for event in sure(quoting + again)] == [False, True]


# ---- parsers


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=300), HOSTILE.map(lambda text: text.encode(errors="replace"))), st.booleans())
def test_no_bytes_make_a_parser_raise(counted: Count, data: bytes, truncated: bool) -> None:
    counted("fuzz cases", 1)
    for line in (data, b"timestamp=" + data, *(head.encode() + data for head in FORGED_LINES)):
        parse(Line(0, line, truncated))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(HOSTILE, st.text()), st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset"]), st.text()))
def test_no_words_make_the_hints_raise_or_leave_time(counted: Count, words: str, headers: dict[str, str]) -> None:
    counted("fuzz cases", 1)
    facts = ErrorDetails(message=f"try again in {words} resets at {words}", headers=headers, body=words)
    hint = find_hint(facts, NOW, LimitKind.RATE_LIMIT)
    assert hint is None or NOW - 86400 <= hint.until <= NOW + 32 * 86400


# ---- time of expressions

CRAFTED = 'level=ERROR message="stream error" ' + "a" * 46_000 + 'level=ERROR message="stream error"' + " ab" * 15_000
"""On 92 kB of this text, `level=ERROR .*message="stream error".*(x|y)` takes 2 s."""


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)+$", 'level=ERROR .*message="stream error".*(x|y|z)', "(.*a){20}", "(?:a?){50}a{50}", "a" * 5000],
)
def test_no_pattern_of_a_user_stalls_the_loop(pattern: str) -> None:
    rules = builtin().with_user_patterns([pattern])
    for words in ("a" * 26 + "!", "a" * 90_000 + "!", CRAFTED):
        data = provider_says("new", words)
        begun = time.process_time()
        sure(data, rules)
        assert time.process_time() - begun < 0.5
