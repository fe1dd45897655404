"""Tests of histories of one log: these lines give these refused attempts, each once, with the right names or none."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ocwatchd.core.domain.types import Certainty, LimitEvent, LimitKind
from ocwatchd.core.parsing.detect import Cancelled, Seen, SessionCreated, StreamStarted, TurnEnded
from ocwatchd.core.parsing.reader import Reading
from tests.support.rules import builtin
from tests.unit.oldlog import (
    ANTHROPIC,
    BASE,
    CHAT,
    OTHER,
    cancel,
    created,
    error,
    exits,
    failed,
    info,
    logfmt,
    loop,
    new_failed,
    new_stream,
    payload,
    stream,
    tags,
    told_again,
)

BROKE_OFF = '{"error":{"type":"overloaded_error","message":"Overloaded"}}'


def told(lines: Iterable[bytes], *, turns: bool = True, whole: bool = True) -> list[Seen]:
    reading = Reading(builtin(), turns=turns)
    lines = list(lines)
    old = whole and not lines[0].startswith(b"timestamp=")
    opening = [info(0, 'service=default version=1.3.2 args=["serve"] opencode')] if old else []
    return [item for line in [*opening, *lines] for item in reading.feed(line)] + reading.finish()


def events(*lines: bytes, turns: bool = True, whole: bool = True) -> list[LimitEvent]:
    return [item for item in told(lines, turns=turns, whole=whole) if isinstance(item, LimitEvent)]


def names(*lines: bytes) -> list[tuple[str | None, str | None, str | None]]:
    return [(event.provider, event.model, event.session) for event in events(*lines)]


# ---- one event per refused attempt


def test_a_failure_told_twice_is_one_event_and_each_retry_is_one_more() -> None:
    lines = []
    for second in (0, 2, 6):
        lines += [
            stream(second, "ses_a"),
            failed(second, tags("ses_a")),
            told_again(second, "Rate limit reached for requests"),
        ]
    assert [event.time - BASE for event in events(*lines)] == [0, 2, 6]


def test_the_last_failure_told_again_in_the_new_format_is_one_event() -> None:
    end = 'message=process session.id=ses_a messageID=msg_1 error="Payment Required" stack="AI_APICallError: …"'
    assert len(events(new_stream(0, "ses_a"), new_failed(1, "ses_a", "Payment Required"), logfmt(1, "ERROR", end))) == 1


def test_a_failure_that_only_the_processor_tells_is_one_event() -> None:
    end = 'message=process session.id=ses_a messageID=msg_1 error="Too Many Requests" stack="…"'
    (event,) = events(new_stream(0, "ses_t", small=True), new_stream(0, "ses_a"), logfmt(1, "ERROR", end))
    assert (event.provider, event.model, event.session, event.agent) == ("corpgw", "coder", "ses_a", "build")


# ---- the right names


def test_the_title_requests_tags_on_the_main_models_refusal() -> None:
    lines = [
        stream(0, "ses_a", "claude", "anthropic"),
        stream(0, "ses_a", "titles", "smallco", small=True, agent="title"),
        failed(0, tags("ses_a", "titles", "smallco", small=True, agent="title"), payload("claude", ANTHROPIC)),
    ]
    (event,) = events(*lines)
    assert (event.provider, event.model, event.session) == ("anthropic", "claude", "ses_a")
    assert (event.small, event.agent) == (False, "build")


def test_another_sessions_tags_on_a_refusal() -> None:
    lines = [
        stream(0, "ses_a", "one"),
        stream(0, "ses_b", "two"),
        failed(0, tags("ses_b", "two"), payload("one")),
    ]
    assert names(*lines) == [("corpgw", "one", "ses_a")]


def test_of_two_sessions_that_ask_the_same_model_nobody_can_say_which() -> None:
    lines = [stream(0, "ses_a"), stream(0, "ses_b"), failed(0, tags("ses_b"))]
    assert names(*lines) == [("corpgw", "coder", None)]


def test_the_cache_key_says_which() -> None:
    lines = [
        stream(0, "ses_a"),
        stream(0, "ses_b"),
        failed(0, tags("ses_b"), payload(request={"prompt_cache_key": "ses_a"})),
        failed(0, tags("ses_b")),
    ]
    assert names(*lines) == [("corpgw", "coder", "ses_a"), ("corpgw", "coder", "ses_b")]


@pytest.mark.parametrize("ended", [loop(1, "ses_a", 1), exits(1, "ses_a"), cancel(1, "ses_a")])
def test_what_has_ended_is_not_suspected(ended: bytes) -> None:
    lines = [stream(0, "ses_a"), stream(0, "ses_b"), ended, failed(2, tags("ses_b"))]
    assert names(*lines) == [("corpgw", "coder", "ses_b")]


def test_when_as_many_have_failed_as_can_have_all_have() -> None:
    lines = [
        *(stream(0, "ses_a"), stream(0, "ses_b"), failed(0, tags("ses_b")), failed(0, tags("ses_b"))),
        *(stream(2, "ses_a"), failed(2, tags("ses_a"))),
    ]
    assert [name[2] for name in names(*lines)] == [None, None, "ses_a"]


def test_one_name_for_two_models_of_two_providers_is_told_by_the_address() -> None:
    lines = [
        *(stream(0, "ses_a"), failed(0, tags("ses_a"))),  # shows the address of corpgw
        *(stream(3, "ses_a"), stream(3, "ses_b", "coder", "mirror")),
        failed(3, tags("ses_b", "coder", "mirror"), payload(url=CHAT)),
        failed(3, tags("ses_b", "coder", "mirror"), payload(url=OTHER)),
    ]
    assert names(*lines)[1:] == [("corpgw", "coder", "ses_a"), ("mirror", "coder", "ses_b")]


def test_without_the_address_known_a_shared_name_has_no_provider() -> None:
    lines = [stream(0, "ses_a"), stream(0, "ses_b", "coder", "mirror"), failed(0, tags("ses_b", "coder", "mirror"))]
    assert names(*lines) == [(None, "coder", None)]


def test_a_model_with_another_name_for_the_provider_keeps_opencodes() -> None:
    asked = payload("eu.anthropic.claude-sonnet-4-5-v1:0", "https://bedrock-runtime.eu-west-1.amazonaws.com/x")
    shown = ("ses_a", "claude-sonnet-4-5", "amazon-bedrock")
    lines = [stream(0, *shown), failed(0, tags(*shown), asked)]
    assert names(*lines) == [("amazon-bedrock", "claude-sonnet-4-5", "ses_a")]


def test_a_log_read_from_its_middle_knows_the_public_addresses() -> None:
    line = failed(0, tags("ses_x", "other", "elsewhere"), payload("claude-x", "https://api.anthropic.com/v1/messages"))
    (event,) = events(line, whole=False)
    assert (event.provider, event.model, event.session) == ("anthropic", "claude-x", None)


# ---- broken answers, which only have the tags


def test_an_answer_that_broke_off_is_the_only_one_under_way() -> None:
    lines = [
        *(stream(0, "ses_a", "claude", "anthropic"), stream(0, "ses_b"), exits(1, "ses_b")),
        failed(2, tags("ses_b"), BROKE_OFF),
    ]
    assert names(*lines) == [("anthropic", "claude", "ses_a")]


def test_the_shape_of_the_error_rules_out_other_sdks() -> None:
    lines = [
        info(0, "service=provider providerID=anthropic pkg=@ai-sdk/anthropic using bundled provider"),
        info(0, "service=provider providerID=corpgw pkg=@ai-sdk/openai-compatible using bundled provider"),
        *(stream(0, "ses_a", "claude", "anthropic"), stream(0, "ses_b")),
        failed(2, tags("ses_b"), BROKE_OFF),
    ]
    assert names(*lines) == [("anthropic", "claude", "ses_a")]


def test_a_message_that_names_the_model_is_believed() -> None:
    said = '{"error":{"message":"Rate limit reached for gpt-5-nano in organization org-A"}}'
    lines = [stream(0, "ses_a", "gpt-5-nano"), stream(0, "ses_b", "gpt-5"), failed(2, tags("ses_b", "gpt-5"), said)]
    assert names(*lines) == [("corpgw", "gpt-5-nano", "ses_a")]


def test_a_title_is_suspected_last() -> None:
    lines = [
        stream(0, "ses_a"),
        stream(0, "ses_a", "titles", "smallco", small=True, agent="title"),
        failed(2, tags("ses_a", "titles", "smallco", small=True, agent="title"), BROKE_OFF),
    ]
    assert names(*lines) == [("corpgw", "coder", "ses_a")]


def test_of_several_that_can_have_broken_off_nobody_can_say_which() -> None:
    lines = [stream(0, "ses_a", "one"), stream(0, "ses_b", "two"), failed(2, tags("ses_b", "two"), BROKE_OFF)]
    assert names(*lines) == [(None, None, None)]


# ---- before the start of streams was logged


def bare(second: float, what: str) -> bytes:
    return error(second, f"service=session.prompt error={what} stream error")


MODEL = info(0, "service=provider providerID=corpgw modelID=coder getModel")
TITLES = info(0, "service=provider providerID=smallco modelID=titles getModel")


def test_the_one_session_at_work_is_the_one() -> None:
    lines = [created(0, "ses_a"), loop(0, "ses_a"), MODEL, TITLES, bare(1, payload()), bare(3, BROKE_OFF)]
    assert names(*lines) == [("corpgw", "coder", "ses_a"), ("corpgw", "coder", "ses_a")]


def test_a_parent_waits_for_its_subagent() -> None:
    lines = [loop(0, "ses_p"), MODEL, created(1, "ses_c", parent="ses_p"), loop(1, "ses_c"), bare(2, payload())]
    assert names(*lines) == [("corpgw", "coder", "ses_c")]


def test_two_sessions_at_work_and_no_tags() -> None:
    lines = [loop(0, "ses_a"), MODEL, loop(0, "ses_b"), bare(1, payload())]
    assert names(*lines) == [("corpgw", "coder", None)]


def test_two_processes_that_write_over_each_other_in_one_file() -> None:
    lines = [loop(0, "ses_a"), MODEL, bare(1, payload("another"))]
    assert names(*lines) == [(None, "another", None)]


# ---- forged records


@pytest.mark.parametrize("whole", [True, False], ids=["from the beginning", "from the middle"])
def test_a_record_of_a_stream_that_never_began_is_forged(whole: bool) -> None:
    lines = [stream(0, "ses_a"), failed(0, tags("ses_forged")), failed(0, tags("ses_a"))]
    assert len(events(*lines, whole=whole)) == 1


def test_a_record_before_any_stream_is_forged_unless_the_log_is_an_excerpt() -> None:
    assert events(failed(0, tags("ses_a"))) == []
    assert len(events(failed(0, tags("ses_a")), whole=False)) == 1


def test_a_session_never_seen_is_forged_in_the_first_dialects_too() -> None:
    forged = error(0, f"service=session session=ses_x error={payload()} streamText error")
    known = error(0, f"service=session session=ses_a error={payload()} streamText error")
    begins = info(0, "service=session session=ses_a chatting")
    assert len(events(begins, forged, known)) == 1


# ---- processes that share a file


def test_processes_are_told_apart_by_their_run() -> None:
    end = 'message=process session.id=ses_a messageID=msg_1 error="Too Many Requests" stack="…"'
    lines = [new_stream(0, "ses_a", run="aaaaaaaa"), logfmt(1, "ERROR", end, run="bbbbbbbb")]
    assert events(*lines) == []


# ---- forms of records


def retries(*failures: tuple[float, float], text: str = "Computer says no") -> list[bytes]:
    """Return (start, failure) of each attempt."""
    lines = []
    for begun, broke in failures:
        lines += [new_stream(begun, "ses_a"), new_failed(broke, "ses_a", text)]
    return lines


def test_unknown_words_with_opencodes_own_backoff_stay_unknown() -> None:
    found = events(*retries((0, 0.1), (2.4, 2.5), (6.9, 7.0), (15.2, 15.3)))
    assert [event.verdict.certainty for event in found] == [Certainty.UNKNOWN] * 4


def test_unknown_words_with_a_longer_wait_are_a_limit_and_were_one_before() -> None:
    found = events(*retries((0, 0.1), (20.1, 20.2)))
    assert [event.verdict.certainty for event in found] == [Certainty.UNKNOWN, Certainty.SURE, Certainty.SURE]
    assert [event.time - BASE for event in found[1:]] == pytest.approx([0.1, 20.2])
    assert found[1].offset == found[0].offset
    assert {event.verdict.kind for event in found[1:]} == {LimitKind.RATE_LIMIT}


def test_a_slow_answer_is_no_long_wait() -> None:
    found = events(*retries((0, 0.1), (2.3, 60.0), (64.9, 120.0)))
    assert {event.verdict.certainty for event in found} == {Certainty.UNKNOWN}


def test_no_text_twice_is_overload() -> None:
    found = events(*retries((0, 0.1), (2.4, 2.5), text=""))
    assert [event.verdict.certainty for event in found] == [Certainty.UNKNOWN, Certainty.SURE, Certainty.SURE]
    assert found[2].verdict.kind is LimitKind.OVERLOADED


@pytest.mark.parametrize("turns", [True, False], ids=["live", "catching up"])
@pytest.mark.parametrize("text", ["Internal Server Error", "Cannot connect to API: Unable to connect."])
def test_what_is_known_to_be_no_limit_becomes_none_by_its_shape(text: str, turns: bool) -> None:
    assert events(*retries((0, 0.1), (20.1, 20.2), (60.0, 60.1), text=text), turns=turns) == []


def test_a_new_turn_begins_a_new_count() -> None:
    again = [logfmt(30, "INFO", "message=loop session.id=ses_a step=0")]
    found = events(*retries((0, 0.1), text=""), *again, *retries((30.1, 30.2), text=""))
    assert {event.verdict.certainty for event in found} == {Certainty.UNKNOWN}


def test_the_shape_is_seen_while_catching_up_too() -> None:
    found = events(*retries((0, 0.1), (20.1, 20.2)), turns=False)
    assert [event.verdict.certainty for event in found] == [Certainty.UNKNOWN, Certainty.SURE, Certainty.SURE]


def test_a_broken_connection_in_an_old_log_is_no_refusal() -> None:
    silent = payload(status=None)
    lines = [line for n in (0, 2, 6) for line in (stream(n, "ses_a"), failed(n, tags("ses_a"), silent))]
    assert events(*lines) == []


# ---- sessions that begin and end


def test_what_a_live_follower_is_told() -> None:
    lines = [
        logfmt(0, "INFO", "message=created id=ses_c slug=x parentID=ses_p title=t"),
        new_stream(1, "ses_c"),
        logfmt(2, "INFO", "message=cancel session.id=ses_c"),
        logfmt(3, "INFO", 'message="exiting loop" session.id=ses_p'),
    ]
    assert told(lines) == [
        SessionCreated("ses_c", "ses_p", BASE),
        StreamStarted("ses_c", "corpgw", "coder", "build", False, BASE + 1),
        Cancelled("ses_c", BASE + 2),
        TurnEnded("ses_p", BASE + 3),
    ]
    assert told(lines, turns=False) == []


def ends(*lines: bytes) -> list[Seen]:
    return [item for item in told(lines) if isinstance(item, Cancelled | TurnEnded)]


def test_the_cancel_at_every_end_of_older_versions_is_nobodys_will() -> None:
    assert ends(stream(0, "ses_a"), exits(3, "ses_a"), cancel(3, "ses_a")) == [TurnEnded("ses_a", BASE + 3)]


def test_the_cancel_after_a_failure_that_is_not_retried_is_nobodys_will() -> None:
    final = payload(status=402).replace('"isRetryable":true', '"isRetryable":false')
    lines = [stream(0, "ses_a"), failed(1, tags("ses_a"), final), cancel(1, "ses_a")]
    assert ends(*lines) == [TurnEnded("ses_a", BASE + 1)]


def test_an_abort_in_the_middle_of_a_retry_is_an_abort() -> None:
    lines = [stream(0, "ses_a"), failed(1, tags("ses_a")), cancel(2, "ses_a")]
    assert ends(*lines) == [Cancelled("ses_a", BASE + 2)]


def test_a_hint_counts_from_the_lines_own_time() -> None:
    (event,) = events(stream(0, "ses_a"), failed(5, tags("ses_a"), payload(headers={"retry-after": "3600"})))
    assert event.hint is not None
    assert (event.hint.until, event.hint.after) == (BASE + 3605, 3600)
    assert event.status == 429


def test_what_is_stored_is_one_capped_line() -> None:
    ugly = {"error": {"message": "Too many requests!\x1b[31m\nline two \u202e" + "x" * 9999}}
    (event,) = events(stream(0, "ses_a"), failed(0, tags("ses_a"), payload(body=ugly)))
    assert len(event.reason) <= 300
    assert event.reason.isprintable()
