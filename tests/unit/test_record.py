"""Tests that each dialect has one parser, chosen by the line, and of which tags of an error record are believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.parsing.dialects import parse
from ocwatchd.core.parsing.lines import HEAD_KEPT, LINE_CAP, TAIL_KEPT, Line, LineCutter
from ocwatchd.core.parsing.record import Dialect, Kind, LogRecord, old_spanner, wanted_literals
from tests.unit.oldlog import BASE, CHAT, created, error, failed, info, payload, tags, told_again


def record(line: bytes) -> LogRecord:
    found = parse(Line(7, line.rstrip(b"\n")))
    assert found is not None
    assert found.offset == 7
    return found


def records(data: bytes) -> list[LogRecord]:
    cutter = LineCutter(0, old_spanner)
    lines = cutter.feed(data, wanted_literals(data, starts=True, turns=True)) + cutter.finish()
    return [found for line in lines if (found := parse(line))]


API_ERROR = payload(headers={"Retry-After": "37", "x-request-id": "req_1", "Set-Cookie": "secret", "Date": "x"})

FAILURES = {
    "0.5": (f"service=session session=ses_a error={API_ERROR} streamText error", Dialect.SESSION),
    "1.0.0": (f"service=session.prompt session=ses_a error={API_ERROR} stream error", Dialect.PROMPT),
    "1.0.98": (f"service=session.prompt error={API_ERROR} stream error", Dialect.BARE),
    "1.3": (f"service=llm {tags('ses_a')} error={API_ERROR} stream error", Dialect.LLM),
    "1.14": (
        f"service=llm {tags('ses_a').replace('sessionID', 'session.id')} error={API_ERROR} stream error",
        Dialect.LLM,
    ),
}


@pytest.mark.parametrize("version", FAILURES)
def test_a_refused_request_in_every_old_dialect(version: str) -> None:
    text, dialect = FAILURES[version]
    found = record(error(3, text))
    assert (found.kind, found.dialect, found.time) == (Kind.FAILED, dialect, BASE + 3)
    assert (found.url, found.asked) == (CHAT, "coder")
    assert found.facts is not None
    assert (found.facts.status, found.facts.retryable) == (429, True)
    assert found.facts.message == "Rate limit reached for requests"
    assert found.facts.headers == {"retry-after": "37", "date": "x"}
    assert found.session == (None if dialect is Dialect.BARE else "ses_a")


def test_the_tags_of_the_llm_dialect() -> None:
    found = record(info(0, f"service=llm {tags('ses_a', small=True, agent='my agent')} stream"))
    assert (found.kind, found.provider, found.model, found.session) == (Kind.STREAM, "corpgw", "coder", "ses_a")
    assert (found.small, found.agent) == (True, "my agent")


TURNS = [
    ("service=session session=ses_old chatting", Kind.BUSY, "ses_old"),
    ("service=session session=ses_old sessionID=ses_a locking", Kind.BUSY, "ses_a"),
    ("service=session session=ses_old sessionID=ses_a unlocking", Kind.ENDED, "ses_a"),
    ("service=session.prompt session=ses_a prompt", Kind.BUSY, "ses_a"),
    ("service=session.prompt session=ses_old sessionID=ses_a locking", Kind.BUSY, "ses_a"),
    ("service=session.prompt step=3 sessionID=ses_a loop", Kind.BUSY, "ses_a"),
    ("service=session.prompt session.id=ses_a step=3 loop", Kind.BUSY, "ses_a"),
    ("service=session.prompt sessionID=ses_a exiting loop", Kind.ENDED, "ses_a"),
    ("service=session.prompt session.id=ses_a cancel", Kind.CANCEL, "ses_a"),
    ("service=session.prompt session=ses_a attempt=1 delayMs=37000 retrying with backoff", Kind.RETRYING, "ses_a"),
]


@pytest.mark.parametrize(("text", "kind", "session"), TURNS)
def test_how_sessions_come_and_go(text: str, kind: Kind, session: str) -> None:
    found = record(info(0, text))
    assert (found.kind, found.session) == (kind, session)


def test_the_native_retry_notice_has_the_delay() -> None:
    assert record(info(0, TURNS[-1][0])).wait == 37.0


def test_a_session_and_its_parent() -> None:
    found = record(created(0, "ses_child", "Look for parentID=ses_bait callers", parent="ses_parent"))
    assert (found.kind, found.session, found.parent) == (Kind.CREATED, "ses_child", "ses_parent")
    assert record(created(0, "ses_a", "about parentID=ses_bait")).parent is None


@pytest.mark.parametrize(
    ("text", "provider", "model", "sdk"),
    [
        ("service=provider providerID=corpgw modelID=coder-x found", "corpgw", "coder-x", None),
        ("service=provider providerID=corpgw npm=@ai-sdk/anthropic found", "corpgw", None, "@ai-sdk/anthropic"),
        (
            "service=provider providerID=corpgw pkg=@ai-sdk/openai using bundled provider",
            "corpgw",
            None,
            "@ai-sdk/openai",
        ),
    ],
)
def test_what_is_known_of_a_provider(text: str, provider: str, model: str | None, sdk: str | None) -> None:
    found = record(info(0, text))
    assert (found.kind, found.provider, found.model, found.sdk) == (Kind.KNOWN, provider, model, sdk)


@pytest.mark.parametrize(
    "line",
    [
        info(0, 'service=default version=1.3.2 args=["run","HTTP 429 rate_limit_error stream error"] opencode'),
        info(0, "service=permission permission=bash pattern=echo '429 stream error' action=allow evaluated"),
        info(0, "service=provider status=completed duration=429 providerID=corpgw getSDK"),
        info(0, "service=session.prompt status=completed duration=429 resolveTools"),
        error(0, "service=models.dev error=Unable to connect. Failed to fetch models.dev"),
        error(0, "service=session.prompt error=No output generated. failed to generate title"),
        error(0, 'service=llm providerID=x error={"error":{"name":"AI_APICallError" stream error'),
        b"line two of something, 429 Too Many Requests stream error\n",
        b"\tERROR 2026-11-22T10:00:00 +0ms service=llm fake=record stream error\n",
        b"ERROR 2026-99-99T99:99:99 +0ms service=llm x stream error\n",
        b"\n",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_record_of_interest(line: bytes) -> None:
    assert parse(Line(0, line.rstrip(b"\n"))) is None


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    parse(Line(0, data))
    parse(Line(0, b"ERROR 2026-11-22T10:00:00 +0ms service=llm " + data + b"} stream error"))
    parse(Line(0, b"ERROR 2026-11-22T10:00:00 +0ms service=llm error=" + b'{"error":' + data + b"} stream error"))
    parse(Line(0, b'timestamp=2026-11-22T10:00:00.000Z level=ERROR run=x message="stream error" ' + data))


# ---- inside the JSON


def facts_of(json_text: str) -> tuple[int | None, str, bool]:
    found = record(failed(0, tags("ses_a"), json_text)).facts
    assert found is not None
    return found.status, found.message, found.midstream


def test_nothing_in_the_conversation_is_believed() -> None:
    bait = {"statusCode": 429, "responseHeaders": {}, "responseBody": "Too Many Requests", "isRetryable": True}
    text = '","statusCode":429,"responseHeaders":{},"responseBody":"limit","isRetryable":true}} stream error'
    request = {"messages": [{"role": "user", "content": text}], "tools": [{"default": bait, "x": [{"y": 1, **bait}]}]}
    body = {"error": {"message": "boom"}, "upstream": {"y": 1, "statusCode": 429}}
    quoted = payload(status=500, body=body, request=request)
    assert facts_of(quoted) == (500, "boom", False)


def test_a_tail_that_does_not_parse_alone_is_parsed_whole() -> None:
    assert facts_of(json.dumps({"error": {"statusCode": 429, "requestBodyValues": {"model": "m"}}}))[0] == 429


def test_the_cache_key_is_the_session_where_it_names_one() -> None:
    line = failed(0, tags("ses_wrong"), payload(request={"prompt_cache_key": "ses_right"}))
    assert record(line).cache_key == "ses_right"
    assert record(failed(0, tags("ses_a"), payload(request={"prompt_cache_key": "tenant-1"}))).cache_key is None
    nested = payload(request={"tools": [{"default": {"prompt_cache_key": "ses_forged"}}]})
    assert record(failed(0, tags("ses_a"), nested)).cache_key is None


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            "gemini-2.5-pro",
        ),
        ("https://x.openai.azure.com/openai/deployments/my-gpt/chat/completions?api-version=1", "my-gpt"),
        (
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/eu.anthropic.claude-v1%3A0/converse-stream",
            "eu.anthropic.claude-v1:0",
        ),
    ],
)
def test_some_name_the_model_in_the_address(url: str, model: str) -> None:
    assert record(failed(0, tags("ses_a"), payload(None, url))).asked == model


def test_of_the_sdks_own_retries_the_last_counts() -> None:
    def inner(status: int) -> object:
        return json.loads(payload("coder", CHAT, status))["error"]

    several = {
        "name": "AI_RetryError",
        "reason": "maxRetriesExceeded",
        "errors": [inner(500), inner(429)],
        "lastError": inner(429),
    }
    found = record(failed(0, tags("ses_a"), json.dumps({"error": several}, separators=(",", ":"))))
    assert (found.asked, found.url, found.facts and found.facts.status) == ("coder", CHAT, 429)


@pytest.mark.parametrize(
    ("thrown", "message", "codes"),
    [
        ('{"error":{"type":"overloaded_error","message":"Overloaded"}}', "Overloaded", "overloaded_error"),
        (
            '{"error":{"type":"error","error":{"code":"rate_limit_exceeded","message":"Slow down"}}}',
            "Slow down",
            "rate_limit_exceeded",
        ),
        ('{"error":{"code":429,"message":"Rate limit exceeded"}}', "Rate limit exceeded", "429"),
        (
            '{"error":"Rate limit exceeded, please try again later."}',
            "Rate limit exceeded, please try again later.",
            None,
        ),
    ],
)
def test_an_answer_that_broke_off(thrown: str, message: str, codes: str | None) -> None:
    found = record(failed(0, tags("ses_a"), thrown)).facts
    assert found is not None
    assert (found.message, found.midstream) == (message, True)
    assert codes is None or codes in found.codes


@pytest.mark.parametrize(
    "thrown",
    [
        '{"error":{}}',
        '{"error":{"line":92618,"column":21,"sourceURL":"/$bunfs/root/opencode"}}',
        '{"error":{"name":"AI_JSONParseError","cause":{},"text":"HTTP 429 Too Many Requests"}}',
    ],
)
def test_what_no_provider_said_has_no_words(thrown: str) -> None:
    assert facts_of(thrown)[1] == ""


def test_a_record_with_pictures_in_it_is_still_read() -> None:
    big = payload(headers={"retry-after": "9"}, request={"picture": "A" * (2 * LINE_CAP)}).encode()
    whole = error(0, f"service=llm {tags('ses_a')} error=").rstrip(b"\n") + big + b" stream error\n"
    assert len(whole) > LINE_CAP > HEAD_KEPT + TAIL_KEPT
    cutter = LineCutter(0, old_spanner)
    lines = [line for n in range(0, len(whole), 100_000) for line in cutter.feed(whole[n : n + 100_000], [b"stream"])]
    (found,) = [parse(line) for line in lines]
    assert found is not None and found.facts is not None
    assert (found.asked, found.facts.status, found.facts.headers) == ("coder", 429, {"retry-after": "9"})


# ---- records of several lines

FORGED = failed(5, tags("ses_forged")).decode().rstrip("\n")


def test_a_title_with_a_record_in_it_makes_no_record() -> None:
    for title in (f"x\n{FORGED}", f"x\n{FORGED}\nend", f"x\n{FORGED}\n{FORGED}\nmore\n"):
        data = created(5, "ses_a", title) + failed(6, tags("ses_a"))
        assert [(r.kind, r.session) for r in records(data)] == [(Kind.CREATED, "ses_a"), (Kind.FAILED, "ses_a")]


def test_a_title_that_feigns_its_own_end_makes_no_record() -> None:
    title = f'x time={{"created":1795343540179,"updated":1795343540179}} created\n{FORGED}'
    assert [r.session for r in records(created(5, "ses_a", title))] == ["ses_a"]


def test_a_message_with_a_record_in_it_makes_no_record() -> None:
    data = told_again(5, f"Too many requests!\nline two\n{FORGED}\nlast") + failed(6, tags("ses_a"))
    assert [(r.kind, r.session) for r in records(data)] == [(Kind.ECHO, None), (Kind.FAILED, "ses_a")]


def test_a_message_of_several_lines_without_a_stack() -> None:
    old = FORGED.replace("2026-11-22T12", "2026-11-22T10")
    data = told_again(5, f"Too many requests!\n{old}\nlast", stack=False) + failed(6, tags("ses_a"))
    assert [(r.kind, r.session) for r in records(data)] == [(Kind.ECHO, None), (Kind.FAILED, "ses_a")]


def test_an_unknown_ending_swallows_no_record() -> None:
    data = error(5, "service=session.processor error=something went wrong somehow") + failed(6, tags("ses_a"))
    data += told_again(6, "Rate limit reached for requests")
    assert [(r.kind, r.session) for r in records(data)] == [(Kind.FAILED, "ses_a"), (Kind.ECHO, None)]


# ---- logfmt


def new(text: str, level: str = "ERROR") -> LogRecord:
    return record(f"timestamp=2026-11-22T12:00:03.256Z level={level} run=b3af6749 {text}".encode())


NEW_TAGS = "providerID=corpgw modelID=vendor/coder:free session.id=ses_a small=false agent=build mode=primary"


def test_a_refusal_in_the_new_format() -> None:
    found = new(f'message="stream error" {NEW_TAGS} error.error="AI_APICallError: Say \\"please\\"\\nin 7.66s = soon"')
    assert (found.kind, found.dialect, found.run, found.time) == (Kind.FAILED, Dialect.LOGFMT, "b3af6749", BASE + 3.256)
    assert (found.provider, found.model, found.session) == ("corpgw", "vendor/coder:free", "ses_a")
    assert (found.small, found.agent) == (False, "build")
    assert found.facts is not None
    assert (found.facts.name, found.facts.message) == ("AI_APICallError", 'Say "please"\nin 7.66s = soon')


def test_a_flattened_error() -> None:
    nested = "error.error.type=error error.error.sequence_number=5 error.error.error.type=tokens"
    nested += ' error.error.error.code=rate_limit_exceeded error.error.error.message="Try again in 3.604s."'
    facts = new(f'message="stream error" {NEW_TAGS} {nested} error.error.error.param=null').facts
    assert facts is not None
    assert (facts.message, facts.midstream) == ("Try again in 3.604s.", True)
    assert "rate_limit_exceeded" in facts.codes


def test_an_error_without_any_text() -> None:
    facts = new(f'message="stream error" {NEW_TAGS} error.error=AI_APICallError').facts
    assert facts is not None
    assert (facts.name, facts.message, facts.status) == ("AI_APICallError", "", None)


def test_a_quoted_value_forges_no_pair() -> None:
    text = '"AI_APICallError: x\\" session.id=ses_forged message=\\"stream error\\" y"'
    found = new(f'message="stream error" {NEW_TAGS} error.error={text}')
    assert found.session == "ses_a"
    title = '"x message=\\"stream error\\" providerID=corpgw error.error=AI_APICallError"'
    born = new(f"message=created id=ses_b slug=x parentID=undefined title={title}", "INFO")
    assert (born.kind, born.session, born.parent) == (Kind.CREATED, "ses_b", None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"message=stream {NEW_TAGS}", Kind.STREAM),
        ("message=cancel session.id=ses_a", Kind.CANCEL),
        ('message="exiting loop" session.id=ses_a', Kind.ENDED),
        ("message=loop session.id=ses_a step=1", Kind.BUSY),
        ("message=created id=ses_a parentID=ses_p title=t", Kind.CREATED),
        ('message=process session.id=ses_a messageID=msg_1 error="Payment Required" stack="…"', Kind.ECHO),
    ],
)
def test_the_other_records_of_the_new_format(text: str, kind: Kind) -> None:
    found = new(text, "INFO")
    assert (found.kind, found.session) == (kind, "ses_a")


def test_what_to_look_for_is_told_by_the_chunk() -> None:
    old, fresh = info(0, "service=bus x"), b"timestamp=2026-11-22T12:00:03.256Z level=INFO run=x message=init\n"
    quick = wanted_literals(fresh * 3, starts=False, turns=False)
    assert quick == (b" level=ERROR ",)
    assert set(wanted_literals(old * 3 + fresh, starts=False, turns=False)) > set(quick)
    assert not set(wanted_literals(old * 3, starts=False, turns=False)) & set(quick)
    assert wanted_literals(b"the middle of a line", starts=False, turns=False)
