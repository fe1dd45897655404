"""Tests that these texts and bodies give these messages, codes and statuses."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocwatchd.core.classify.error_details import BODY_CAP, details_from_body, details_from_text

OPENROUTER = json.dumps(
    {
        "error": {
            "message": "Provider returned error",
            "code": 429,
            "metadata": {"raw": json.dumps({"error": {"message": "Too many requests"}}), "provider_name": "Groq"},
        }
    }
)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("AI_APICallError: Overloaded", "AI_APICallError", "Overloaded"),
        ("AI_APICallError", "AI_APICallError", ""),
        ("AI_RetryError: Failed after 3 attempts. Last error: Too Many Requests", "AI_RetryError", "Too Many Requests"),
        ("Failed after 2 attempts with non-retryable error: 'Payment Required'", None, "Payment Required"),
        ("Error: Error: no", "Error", "no"),
        ('"you have reached your limit"', None, "you have reached your limit"),
        ("plain words", None, "plain words"),
        ("", None, ""),
    ],
)
def test_what_the_sdk_puts_in_front_is_taken_off(text, name, message):
    facts = details_from_text(text)
    assert (facts.name, facts.message) == (name, message)


@pytest.mark.parametrize(
    ("text", "message", "codes", "status"),
    [
        ('{"error":{"type":"overloaded_error","message":"Overloaded"}}', "Overloaded", ("overloaded_error",), None),
        ('{"error": "you have reached your limit"}', "you have reached your limit", (), None),
        ('{"error": "rate_limited"}', "rate_limited", ("rate_limited",), None),
        (OPENROUTER, "Provider returned error\nToo many requests", ("429",), 429),
        ('[{"error":{"code":503,"message":"no","status":"UNAVAILABLE"}}]', "no", ("503", "UNAVAILABLE"), 503),
        ('429 {"error":{"type":"rate_limit_error","message":"no"}}', "429 no", ("rate_limit_error",), 429),
        ("Error code: 402 - {'error': {'message': 'no', 'type': 'b2b'}}", "Error code: 402 - no", ("b2b",), 402),
        ('{"base_resp":{"status_code":1008,"status_msg":"no balance"}}', "no balance", ("1008",), None),
        ('{"status":429,"title":"Too Many Requests"}', "Too Many Requests", ("429",), 429),
        ('{"error":{"message":"cut off in the mid', "cut off in the mid", (), None),
    ],
)  # fmt: skip
def test_bodies_as_text(text, message, codes, status):
    facts = details_from_text(text)
    assert (facts.message, facts.codes, facts.status) == (message, codes, status)


def test_a_gateways_sentence_around_an_upstream_body_stays():
    text = (
        "AI_APICallError: litellm.RateLimitError: VertexAIException - "
        '{"error": {"code": 429, "message": "Resource exhausted.", "status": "RESOURCE_EXHAUSTED"}}. '
        "Received Model Group=coder"
    )
    facts = details_from_text(text)
    assert facts.message.startswith("litellm.RateLimitError: VertexAIException - Resource exhausted.")
    assert facts.message.endswith("Received Model Group=coder")
    assert (facts.codes, facts.status) == (("429", "RESOURCE_EXHAUSTED"), 429)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("429 Too Many Requests", 429),
        ("HTTP 503: no", 503),
        ("[502]: All accounts", 502),
        ("Error: 429", 429),
        ("Request failed with status code 429", 429),
        ("API Error: Request rejected (429) - no", 429),
        ("HttpError: Invalid status code 429 Too Many Requests with message: no", 429),
        ("<html><head><title>429 Too Many Requests</title></head><body><h1>429</h1></body></html>", 429),
        ("429 余额不足", 429),
        ("429 handling in the client", None),
        ("429 Too Many Requests handling", None),
        ("500 tests failed", None),
        ("add a test for 429 Too Many Requests", None),
        ("used 429 tokens", None),
    ],
)
def test_a_status_is_read_only_where_it_stands_as_one(text, status):
    assert details_from_text(text).status == status


def test_a_status_that_was_seen_beats_one_that_is_said():
    assert details_from_text("429 Too Many Requests", 400).status == 400
    assert details_from_body('{"error":{"code":429}}', 200).status == 200


@pytest.mark.parametrize(
    "text",
    [
        'Failed to parse tool arguments: {"error": {"code": 429, "message": "Too many requests"}}',
        "Unexpected token in \"{'error': 'rate_limit_error', 'code': 429}\"",
        'JSON parsing failed: Text: {"error":{"code":429}}',
        'Invalid prompt: {"type":"rate_limit_error","code":429}',
        'Type validation failed: Value: {"choices":[{"delta":{"content":"429"}}],"code":429}',
    ],
)
def test_somebody_elses_json_is_not_taken_apart(text):
    facts = details_from_text(text)
    assert (facts.codes, facts.status) == ((), None)


def test_an_error_that_came_as_a_chunk_is_taken_apart():
    facts = details_from_text(
        'Type validation failed: Value: {"error":{"code":429,"message":"Rate limit exceeded"}}.\nError message: []'
    )
    assert facts.status == 429
    assert "Rate limit exceeded" in facts.message


@pytest.mark.parametrize(("times", "read"), [(1, True), (3, True), (4, False), (8, False)])
def test_a_body_inside_a_body_is_read_a_few_times(times, read):
    text = "Rate limit exceeded"
    for _ in range(times):
        text = json.dumps({"error": {"message": text}})
    assert (details_from_text(text).message == "Rate limit exceeded") is read


@pytest.mark.parametrize(("times", "read"), [(1, True), (13, True), (14, False), (40, False)])
def test_objects_inside_objects_are_read_to_a_depth(times, read):
    value = "Rate limit exceeded"
    for _ in range(times):
        value = {"error": value}
    assert (details_from_text(json.dumps(value)).message == "Rate limit exceeded") is read


def test_a_status_that_was_read_in_the_text_is_marked():
    assert details_from_text("HTTP 429: slow down").status_read
    assert details_from_body('{"error": {"code": 429}}').status_read
    assert not details_from_text("HTTP 429: slow down", 429).status_read
    assert not details_from_body('{"error": {"code": 429}}', 503).status_read
    assert not details_from_text("slow down").status_read


def test_what_a_body_echoes_of_the_request_is_not_read():
    body = {
        "error": {"message": "bad", "param": "rate_limit", "type": "invalid_request_error"},
        "request": {"messages": [{"content": "429 Too Many Requests", "type": "rate_limit_error"}]},
        "input": "quota exceeded",
        "requestBodyValues": {"code": 429, "type": "overloaded_error"},
    }
    facts = details_from_body(json.dumps(body))
    assert (facts.message, facts.codes, facts.status) == ("bad", ("invalid_request_error",), None)


def test_headers_and_a_capped_body_are_kept():
    facts = details_from_body("x" * 100_000, 429, {"retry-after": "5"})
    assert facts.headers == {"retry-after": "5"}
    assert len(facts.body) == BODY_CAP
    assert len(facts.message) < BODY_CAP


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["error", "message", "code", "type", "status", "raw", "x"]), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_no_body_raises_and_every_code_is_short(value):
    facts = details_from_body(json.dumps(value))
    assert all(len(code) <= 80 for code in facts.codes)
    assert len(facts.codes) <= 12
