"""Tests that these headers, bodies and words, at this time, give this end of the limit."""

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.classify.reset_headers import ReportedTime
from ocwatchd.core.classify.reset_times import LONGEST, accepted_time, find_hint, from_body, from_headers, from_text
from ocwatchd.core.domain.types import ErrorDetails, Hint, LimitKind, ResetSource

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()  # a Sunday


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"retry-after": "4"}, 4),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:09 GMT"}, 9),
        ({"retry-after": "Sunday, 22-Nov-26 12:00:09 GMT"}, 9),
        ({"retry-after": "2026-11-22T12:01:00Z"}, 60),
        ({"retry-after": "30s"}, 30),
        ({"retry-after": str(int(NOW) + 90)}, 90),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"retry-after-ms": "7660", "retry-after": "8"}, 7.66),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-user-retry-after": "41"}, 41),
        ({"x-ratelimit-reset-requests": "7.66s", "x-ratelimit-remaining-requests": "0"}, 7.66),
        ({"x-ratelimit-reset-tokens": "2m59.56s", "x-ratelimit-remaining-tokens": "0"}, 179.56),
        (
            {
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "0",
            },
            360,
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:37Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-22T12:30:00Z",
                "anthropic-ratelimit-requests-remaining": "49",
            },
            37,
        ),
        (
            {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": str(int(NOW) + 11502),
            },
            11502,
        ),
        ({"x-codex-primary-used-percent": "100", "x-codex-primary-reset-after-seconds": "15230"}, 15230),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW * 1000) + 60_000)}, 60),
        ({"x-ratelimit-reset": str(int(NOW) + 60)}, 60),
        ({"ratelimit-reset": "17", "ratelimit-remaining": "0"}, 17),
        ({"ratelimit": "limit=100, remaining=0, reset=23"}, None),
        ({"ratelimit": '"default";r=0;t=23'}, 23),
        ({"x-ratelimit-reset-after": "1.5"}, 1.5),
        ({"x-ratelimit-timeremaining": "35"}, 35),
        ({"x-ratelimitbysize-reset-minute": "12", "x-ratelimitbysize-remaining-minute": "-4096"}, 12),
        (
            {
                "x-codex-secondary-used-percent": "100",
                "x-codex-secondary-reset-at": str(int(NOW) + 259200),
                "x-codex-primary-used-percent": "30",
                "x-codex-primary-reset-at": str(int(NOW) + 3600),
            },
            259200,
        ),
    ],
)
def test_headers(headers, after):
    hint = from_headers(headers, NOW)
    assert hint is None if after is None else hint is not None and abs(hint.after - after) < 0.01


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-reset-requests": "7.66s", "x-ratelimit-remaining-requests": "12"},
        {"x-ratelimit-reset-requests": "7.66s"},
        {"anthropic-ratelimit-requests-reset": "2026-11-22T12:30:00Z", "anthropic-ratelimit-requests-remaining": "49"},
        {"x-codex-primary-used-percent": "80", "x-codex-primary-reset-after-seconds": "15230"},
        {"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-reset": str(int(NOW) + 99)},
        {"x-ratelimit-reset": "60", "x-ratelimit-remaining": "3"},
        {"date": "Sun, 22 Nov 2026 12:00:09 GMT"},
    ],
)
def test_the_reset_of_an_allowance_that_is_not_used_up_says_nothing(headers):
    assert from_headers(headers, NOW) is None


def test_retry_after_is_told_by_the_header_and_a_reset_is_not():
    assert from_headers({"retry-after": "4"}, NOW).reset_source is ResetSource.RETRY_AFTER
    assert from_headers({"retry-after-ms": "4"}, NOW).reset_source is ResetSource.RETRY_AFTER
    assert from_headers({"x-ratelimit-reset": str(int(NOW) + 60)}, NOW).reset_source is ResetSource.TEXT


@pytest.mark.parametrize(
    ("value", "tamed"),
    [
        ("soon; <b>later</b>", "retry-after: unreadable"),
        ("", "retry-after: unreadable"),
        ("-5", "retry-after: negative"),
        ("Sun, 22 Nov 2020 12:00:09 GMT", "retry-after: past"),
        ("nan", "retry-after: unreadable"),
        ("Sun, 99 Nov 2026 12:00:09 GMT", "retry-after: unreadable"),
    ],
)
def test_nonsense_is_passed_over_and_the_next_source_asked(value, tamed):
    facts = ErrorDetails(message="Please try again in 20s.", headers={"retry-after": value})
    hint = find_hint(facts, NOW)
    assert (hint.after, hint.reset_source, hint.tamed) == (20, ResetSource.TEXT, tamed)
    assert find_hint(ErrorDetails(message="no", headers={"retry-after": value}), NOW) is None


def test_an_absurd_time_is_capped_at_31_days_and_says_so():
    hint = from_headers({"retry-after": "999999999"}, NOW)
    assert (hint.after, hint.until) == (LONGEST, NOW + LONGEST)
    assert hint.tamed == "retry-after: 11574 days reported, capped at 31 days"


def test_a_moment_just_past_means_now():
    assert from_headers({"retry-after": "Sun, 22 Nov 2026 11:59:58 GMT"}, NOW).after == 0


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ('{"error":{"resets_in_seconds":15230,"resets_at":1}}', 15230),
        (f'{{"error":{{"resets_at":{int(NOW) + 600}}}}}', 600),
        ('{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.07s"}]}', 34.07),
        ('{"metadata":{"quotaResetDelay":"160h20m10.7s","quotaResetTimeStamp":"2026-11-29T04:20:10Z"}}', 577210.7),
        ('{"metadata":{"quotaResetTimeStamp":"2026-11-22T13:00:00Z"}}', 3600),
        ('{"error":{"reset_seconds":561635,"reset_time":"156h0m35s"}}', 561635),
        ('{"error":"{\\"retry_after\\": 12.5}"}', 12.5),
        ("{'error': {'retry_after': 17}}", 17),
        ('{"retry_after_ms": 2500}', 2.5),
        (f'{{"limit":10,"remaining":0,"reset":{int(NOW * 1000) + 30_000}}}', 30),
        ('{"wait_time_seconds":30}', 30),
        ('{"retryDelay":{"seconds":41,"nanos":500000000}}', 41),
        ('{"error":"{\\"retryDelay\\":{\\"seconds\\":\\"41\\"}}"}', 41),
        ('{"error":{"seconds_until_reset":99}}', 99),
        ('{"error":{"quota_reset_date":"2026-11-22T13:00:00Z"}}', 3600),
        ('{"error":{"blocked_until":"2026-11-22T13:00:00Z"}}', 3600),
        (f'{{"headers":{{"X-RateLimit-Reset":"{int(NOW * 1000) + 60_000}"}}}}', 60),
        ('{"error":{"resetsAt":"2026-11-22T12:10:00.000Z"}}', 600),
        ('{"error":{"retry_after": 12.5, "message": "cut o', 12.5),
        ('{"error":{"resets_at": 5}}', None),
        ('{"message":"Limit","nextAvailableAt":"2026-11-22T12:10:00Z"}', 600),
        ('{"error":"slow_down","wait_ms":4500}', 4.5),
        ('{"error":{"retry_after": "soon"}}', None),
        ('{"error":{"retry_after": -1}}', None),
        ("", None),
        ("plain text", None),
    ],
)
def test_bodies(body, after):
    hint = from_body(body, NOW)
    assert hint is None if after is None else hint is not None and abs(hint.after - after) < 0.01


def test_of_two_waits_a_plan_means_the_longer():
    text = "Please wait 5 seconds between requests. Your quota resets in 3 hours."
    assert from_text(text, NOW, LimitKind.RATE_LIMIT).after == 5
    assert from_text(text, NOW, LimitKind.QUOTA).after == 10800


def test_headers_beat_the_body_and_the_body_beats_the_words():
    text = "try again in 3s"
    body = '{"retry_after": 2}'
    assert find_hint(ErrorDetails(message=text, body=body, headers={"retry-after": "1"}), NOW).after == 1
    assert find_hint(ErrorDetails(message=text, body=body), NOW).after == 2
    assert find_hint(ErrorDetails(message=text), NOW).after == 3


def test_a_message_that_is_a_body_tells_its_fields():
    facts = details_from_text('AI_APICallError: {"error":{"type":"usage_limit_reached","resets_in_seconds":9430}}')
    assert find_hint(facts, NOW).after == 9430


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
)
def test_a_tamed_hint_never_leaves_the_next_31_days(after, until):
    hint = accepted_time(ReportedTime("x", after=after, until=until), NOW)
    if isinstance(hint, Hint):
        assert 0 <= hint.after <= LONGEST
        assert NOW <= hint.until <= NOW + LONGEST
        assert math.isclose(hint.until - NOW, hint.after, abs_tol=1e-3)
    else:
        assert hint.startswith("x: ")


PIECES = [
    "try again in ", "resets at ", "resets ", "retry after ", "wait ", "9", "99999999999", "-1",
    ".5", "s", " hours", "m", "3pm", " (Europe/Berlin)", " (No/Where)", "2026-11-",
    "2026-13-45 99:99", "2026-02-30", "Feb 30", "|1795356000", "|999999999999999", "0点", "明天", "后",
    "秒", "next Monday", "midnight", " UTC+99:99", "T25:61", "1:2:3", "PT", "pt9h", "an hour",
    "half an", "\x00", "morgen um 9 Uhr ", "24 de nov. de 2026 ", "31 de fev. ", "11月24日 ", "오전 9시 ", "15h30 ",
    "99.99.2026 ", "lundi ", " (UTC+8)", "1 thang 13 ", "2569 ", "24 nov ", "a/",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.floats(-1e18, 1e18))
def test_no_text_raises_or_leaves_the_next_31_days(text, now):
    for hint in (from_text(text, now), from_body(text, now), from_headers({"retry-after": text}, now)):
        assert hint is None or 0 <= hint.after <= LONGEST


@pytest.mark.parametrize(
    "piece", [*PIECES, "1", "a", "1s ", "retry 1", "in 5 ", "1.", "resets at 3", "2026-11-22 ", "5分"]
)
def test_no_repetition_makes_it_run_long(piece):
    for text in (piece * 5000, (piece + " ") * 5000, (piece + "wait ") * 3000):
        started = time.process_time()
        from_text(text, NOW)
        from_body(text, NOW)
        assert time.process_time() - started < 1.0
