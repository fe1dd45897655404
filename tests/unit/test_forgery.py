"""Hostile text in every free field of every dialect, written as OpenCode writes it: nothing is blocked by it.

What a user, a model, a tool, a file name or a provider can put into a log: line feeds, quotes, escapes, forged pairs,
whole forged lines, bidi marks, NUL, a megabyte. Only a provider's refusal blocks, and only the model it was asked of.
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

from ocwatchd.core.dialects import parse
from ocwatchd.core.hints import find_hint
from ocwatchd.core.limits import Certainty, ErrorFacts, LimitEvent, LimitKind
from ocwatchd.core.lines import Line
from ocwatchd.core.reading import Reading
from ocwatchd.core.rules import RuleSet
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
"""In the names of a session that does not exist: one who can name a living one is not kept out (see SECURITY.md)."""
UNTAGGED = f"ERROR {OLD_TIME} +1ms service=session.prompt error={PAYLOAD} stream error"
"""Nothing tells it from a real one in a log of 1.0.0 to 1.0.152 itself; in all others it must not pass."""
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
    """As 1.17 and later quote a value."""
    return value if value and not re.search(r'[\s"=\\]', value) else json.dumps(value, ensure_ascii=False)


# ---- the records of each dialect, with a free field

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
    """A log of one process that began with this session, then the record, then something harmless."""
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
    """The events that would block a model."""
    reading = Reading(rules or builtin(), turns=True)
    seen = [*reading.feed(data), *reading.release(), *reading.rest()]
    events = [event for event in seen if isinstance(event, LimitEvent)]
    return [event for event in events if event.verdict.certainty is Certainty.SURE and event.ref is not None]


def cases() -> list[object]:
    return list(_cases())


def _cases() -> Iterator[object]:
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
    """In the names of a living session each of them would be believed: it is not for their form that they are not."""
    here = [line.replace(VICTIM, OWN_TAGS).replace(FORGED, OWN) for line in (*FORGED_LINES, UNTAGGED)]
    llm, prompt, session, new, untagged = here
    own = llm.replace("https://api.anthropic.com", "https://api.mock.example").replace("claude-opus-4-1", "primary")
    assert sure(new_log(new))
    for kind, line in (("llm", own), ("prompt", prompt), ("session", session), ("prompt", untagged)):
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
    """A refusal with these words of the provider, as each dialect writes it."""
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
    facts = ErrorFacts(message=f"try again in {words} resets at {words}", headers=headers, body=words)
    hint = find_hint(facts, NOW, LimitKind.RATE_LIMIT)
    assert hint is None or NOW - 86400 <= hint.until <= NOW + 32 * 86400


# ---- time

CRAFTED = 'level=ERROR message="stream error" ' + "a" * 46_000 + 'level=ERROR message="stream error"' + " ab" * 15_000
"""92 kB on which `level=ERROR .*message="stream error".*(x|y)` takes 2 s."""


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
