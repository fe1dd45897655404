"""Given these headers, bodies and words, at this time, then this end of the limit."""

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocwatchd.core.dates import zone_of
from ocwatchd.core.facts import facts_from_text
from ocwatchd.core.hints import LONGEST, find_hint, from_body, from_headers, from_text, tame
from ocwatchd.core.limits import ErrorFacts, Hint, LimitKind, ToldBy
from ocwatchd.core.told import Told

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()  # a Sunday


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


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
    assert from_headers({"retry-after": "4"}, NOW).told_by is ToldBy.RETRY_AFTER
    assert from_headers({"retry-after-ms": "4"}, NOW).told_by is ToldBy.RETRY_AFTER
    assert from_headers({"x-ratelimit-reset": str(int(NOW) + 60)}, NOW).told_by is ToldBy.TEXT


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
    facts = ErrorFacts(message="Please try again in 20s.", headers={"retry-after": value})
    hint = find_hint(facts, NOW)
    assert (hint.after, hint.told_by, hint.tamed) == (20, ToldBy.TEXT, tamed)
    assert find_hint(ErrorFacts(message="no", headers={"retry-after": value}), NOW) is None


def test_an_absurd_time_is_capped_at_31_days_and_says_so():
    hint = from_headers({"retry-after": "999999999"}, NOW)
    assert (hint.after, hint.until) == (LONGEST, NOW + LONGEST)
    assert hint.tamed == "retry-after: 11574 days told, capped at 31 days"


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
        (f'{{"headers":{{"X-RateLimit-Reset":"{int(NOW * 1000) + 60_000}"}}}}', 60),
        ('{"error":{"resetsAt":"2026-11-22T12:10:00.000Z"}}', 600),
        ('{"error":{"retry_after": 12.5, "message": "cut o', 12.5),
        ('{"error":{"resets_at": 5}}', None),
        ('{"error":{"retry_after": "soon"}}', None),
        ('{"error":{"retry_after": -1}}', None),
        ("", None),
        ("plain text", None),
    ],
)
def test_bodies(body, after):
    hint = from_body(body, NOW)
    assert hint is None if after is None else hint is not None and abs(hint.after - after) < 0.01


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Please try again in 7.66s. Visit https://x.y/rate-limits", 7.66),
        ("Please try again in 2m59.56s.", 179.56),
        ("Try again in 1h30m", 5400),
        ("Please try again in 4 hours 12 minutes.", 15120),
        ("retry after 1 minute and 3 seconds", 63),
        ("Please retry after 6 seconds.", 6),
        ("Please retry in 34.074824224s.", 34.07),
        ("resets in 2d 4h", 187200),
        ("Resets in 143h57m55s.", 518275),
        ("retrying in ~5 days attempt #1", 432000),
        ("Try again in 1,200 seconds", 1200),
        ("retry after 500ms", 0.5),
        ("Limit resets in 00:04:30", 270),
        ("retry after PT1H30M", 5400),
        ("try again in an hour", 3600),
        ("try again in half an hour", 1800),
        ("try again in two minutes", 120),
        ("Retry-After: 12", 12),
        ("(retry_after=17)", 17),
        ("Please wait 82645 seconds before retrying.", 82645),
        ("Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 82645 seconds.", 82645),
        ("5 hour usage limit reached. It will reset in 2 hours 5 minutes.", 7500),
        ("请在30秒后重试", 30),
        ("5小时后重置", 18000),
        ("请等待 2 小时 30 分钟", 9000),
        ("請於 10 分鐘後再試", 600),
        ("30秒後に再試行してください", 30),
        ("5時間後にリセットされます", 18000),
        ("1시간 30분 후에 다시 시도하세요", 5400),
        ("Versuchen Sie es in 30 Sekunden erneut", 30),
        ("Réessayez dans 2 heures", 7200),
        ("Inténtalo de nuevo en 5 minutos", 300),
        ("Tente novamente em 30 segundos", 30),
        ("Повторите попытку через 2 часа", 7200),
    ],
)
def test_waits_in_words(text, after):
    hint = from_text(text, NOW)
    assert hint is not None
    assert abs(hint.after - after) < 0.01
    assert not hint.estimated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Please try again later.",
        "Rate limit of 50 requests per 86400s exceeded",
        "5 hour usage limit reached",
        "The limit resets every 5 hours",
        "You may send 10 requests per 1 minute",
        "已达到 5 小时的使用上限",
        "每5小时重置",
        "used 140429 tokens",
        "timed out after 5000 things",
        "Limit 30000, Used 29500, Requested 1200.",
        "The model reached its end of life on 2020-07-27T00:00:00Z",
    ],
)
def test_windows_and_other_numbers_are_no_waits(text):
    assert from_text(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "until", "estimated"),
    [
        ("resets 3pm (Europe/Berlin)", "2026-11-22 14:00", False),
        ("resets 1pm (Europe/Berlin)", "2026-11-23 12:00", False),
        ("resets 10:30pm (europe/berlin)", "2026-11-22 21:30", False),
        ("resets 12am (America/Argentina/Buenos_Aires)", "2026-11-23 03:00", False),
        ("resets 10pm", "2026-11-22 22:00", True),
        ("Resets at 10:00 UTC.", "2026-11-23 10:00", False),
        ("resets at 8:00 AM UTC+8", "2026-11-23 00:00", False),
        ("resets at 8:00 PM PST", "2026-11-23 04:00", False),
        ("resets Nov 24, 9am (UTC)", "2026-11-24 09:00", False),
        ("resets Jan 2 at 9:30 am (UTC)", "2027-01-02 09:30", None),
        ("Try again at Nov 24th, 2026 9:13 AM.", "2026-11-24 09:13", True),
        ("until Mon, 23 Nov 2026 10:56:07 GMT", "2026-11-23 10:56:07", False),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", "2026-12-01 00:00", False),
        ("You will regain access on 2026-12-01.", "2026-12-01 00:00", True),
        ("resets at 2026-11-22T15:00:00Z (2056)", "2026-11-22 15:00", False),
        ("reset at 2026-11-22T15:00:00.123+02:00", "2026-11-22 13:00", False),
        ("It will reset at 2026-11-22 23:59:59 +0800 CST.", "2026-11-22 15:59:59", False),
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 22:14:08", "2026-11-22 14:14:08", True),
        ("您的限额将在 2026-11-22 22:41:44 重置。", "2026-11-22 14:41:44", True),
        ("将于 2026年11月23日 08:00 恢复", "2026-11-23 00:00", True),
        ("将于北京时间 2026-11-22 22:00:00 重置", "2026-11-22 14:00", True),
        ("usage limit reached|1795356000", "2026-11-22 14:00", False),
        ("usage limit reached|1795356000000", "2026-11-22 14:00", False),
        ("resets_at=1795356000", "2026-11-22 14:00", False),
        ("Quota resets at midnight UTC.", "2026-11-23 00:00", False),
        ("Quota resets at midnight Pacific Time", "2026-11-23 08:00", False),
        ("Resets daily at 00:00 UTC", "2026-11-23 00:00", False),
        ("resets Monday 9am (UTC)", "2026-11-23 09:00", False),
        ("Try again next Monday", "2026-11-23 00:00", True),
        ("Please try again tomorrow", "2026-11-23 00:00", True),
        ("resets on the first of next month", "2026-12-01 00:00", True),
        ("明天再试", "2026-11-22 16:00", True),
        ("每天0点重置", "2026-11-22 16:00", True),
        ("次月恢复", "2026-11-30 16:00", True),
    ],
)
def test_moments_in_words(text, until, estimated):
    hint = from_text(text, NOW)
    if estimated is None:  # more than 31 days ahead
        assert hint.after == LONGEST
        return
    assert hint is not None
    assert abs(hint.until - utc(until)) < 1
    assert hint.estimated is estimated


def test_times_count_from_the_records_own_time():
    later = NOW + 3600 * 3
    assert from_text("resets 3pm (Europe/Berlin)", later).until == utc("2026-11-23 14:00")
    assert from_text("try again in 10s", later).until == later + 10


def test_a_date_without_a_zone_is_read_in_the_zone_of_the_machine_if_it_is_known():
    berlin = zone_of("Europe/Berlin")
    assert from_text("resets 10pm", NOW, local=berlin).until == utc("2026-11-22 21:00")


def test_of_two_waits_a_plan_means_the_longer():
    text = "Please wait 5 seconds between requests. Your quota resets in 3 hours."
    assert from_text(text, NOW, LimitKind.RATE_LIMIT).after == 5
    assert from_text(text, NOW, LimitKind.QUOTA).after == 10800


def test_headers_beat_the_body_and_the_body_beats_the_words():
    text = "try again in 3s"
    body = '{"retry_after": 2}'
    assert find_hint(ErrorFacts(message=text, body=body, headers={"retry-after": "1"}), NOW).after == 1
    assert find_hint(ErrorFacts(message=text, body=body), NOW).after == 2
    assert find_hint(ErrorFacts(message=text), NOW).after == 3


def test_a_message_that_is_a_body_tells_its_fields():
    facts = facts_from_text('AI_APICallError: {"error":{"type":"usage_limit_reached","resets_in_seconds":9430}}')
    assert find_hint(facts, NOW).after == 9430


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("UTC", True),
        ("utc+5:30", True),
        ("(Europe/Berlin)", True),
        ("pst", True),
        ("../../etc/passwd", False),
        ("Nowhere/City", False),
        ("Europe", False),
        ("", False),
        ("x" * 5000, False),
    ],
)
def test_zones(name, known):
    assert (zone_of(name) is not None) is known


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
)
def test_a_tamed_hint_never_leaves_the_next_31_days(after, until):
    hint = tame(Told("x", after=after, until=until), NOW)
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
    "half an", "\x00",
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
