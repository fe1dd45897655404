"""Tests of OpenCode 2's recorded events, compared with the provider's answers: all limits are found, none invented."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.types import Certainty, LimitEvent
from ocwatchd.core.engine.assess import refusal_of
from ocwatchd.core.engine.messages import Failure
from ocwatchd.opencode.client.v2.events import EventReader
from tests.support.rules import builtin

PLACE = Path(__file__).parent / "events" / "2.0-preview-serve"
KINDS = {"rate_limit": {"rate_limit"}, "overloaded": {"overloaded"}}
PLAN = {"quota", "billing"}
"""Kinds that are accepted for a plan's limit, because an account without credit may be called either."""
HIDDEN = {"200_error_json"}
"""Not in any event: an error in the body of an HTTP 200 looks like a stream that ended too soon."""


def rows() -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in (PLACE / "labels.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[row["sessionID"]].append(row)
    return dict(found)


def events(name: str) -> Iterator[dict[str, Any]]:
    with lzma.open(PLACE / name, "rt") as lines:
        yield from (json.loads(line)["event"] for line in lines)


def judged(name: str) -> dict[str, list[LimitEvent]]:
    reader, rules, found = EventReader(), builtin(), defaultdict(list)
    for event in events(name):
        news = reader.feed(event, live=True)
        if isinstance(news, Failure):
            found[news.session].append(refusal_of(news, rules))
    return dict(found)


@pytest.mark.parametrize("source", ["events.jsonl.xz", "session_log.jsonl.xz"])
def test_all_limits_are_found_and_none_is_invented(source: str) -> None:
    found, wrong = judged(source), []
    recorded = {event["data"]["sessionID"] for event in events(source) if "data" in event}
    for session, asked in rows().items():
        if session not in recorded:  # the log of the only subagent was not requested
            continue
        sure = [event for event in found.get(session, []) if event.verdict.certainty is Certainty.SURE]
        limits = [row for row in asked if row["is_limit"] and row["scenario"] not in HIDDEN]
        least = sum(not row["ambiguous"] for row in limits)
        most = least + sum(bool(row["ambiguous"]) for row in asked)
        if not least <= len(sure) <= most:
            wrong.append((asked[0]["scenario"], least, most, [event.verdict for event in sure]))
        for event, row in zip(sure, limits, strict=False):
            assert (event.provider, event.model) == (row["providerID"], row["modelID"]), row["scenario"]
            assert event.verdict.kind is not None
            assert event.verdict.kind.value in KINDS.get(row["kind"], PLAN), row["scenario"]
    assert wrong == []


def test_both_sources_say_the_same_and_number_it() -> None:
    live, later = judged("events.jsonl.xz"), judged("session_log.jsonl.xz")
    assert {session: [(e.time, e.offset) for e in found] for session, found in live.items() if session in later} == {
        session: [(e.time, e.offset) for e in found] for session, found in later.items() if session in live
    }
    assert all(event.offset is not None for found in live.values() for event in found)


def test_a_named_time_is_known_and_opencode_s_own_backoff_is_not_taken_for_one() -> None:
    found, exact = judged("events.jsonl.xz"), 0
    for session, asked in rows().items():
        refused = [row for row in asked if row["is_limit"]]
        for event, row in zip(found.get(session, []), refused, strict=False):
            told = event.hint is not None and event.hint.reset_source == "status"
            after = row["retry_after_s"]
            if told:
                assert event.hint is not None
                fixed = row["scenario"] == "429_ra_date"  # a moment that was fixed before the request
                assert after is not None and (fixed or abs(event.hint.until - row["t"] - after) < 2), row["scenario"]
                exact += 1
            elif after is not None and event.verdict.certainty is Certainty.SURE and "final" not in row["scenario"]:
                assert after <= 16 or row["midstream"] or len(asked) > 1 or event.hint is not None, row["scenario"]
    assert exact >= 5


def test_unknown_events_and_broken_ones_are_passed_over() -> None:
    reader = EventReader()
    broken: list[Any] = [
        {}, {"type": "session.retry.scheduled"}, {"type": "session.retry.scheduled", "created": 1, "data": {}},
        {"type": "session.step.failed", "created": "x", "data": {"sessionID": "ses_1", "error": {"type": "a"}}},
        {"type": "session.step.failed", "created": 1000, "data": {"sessionID": "ses_1", "error": []}},
        {"type": "session.future.event", "created": 1000, "data": {"sessionID": "ses_1", "error": {"type": "x"}}},
        {"type": "session.retry.scheduled", "created": 1000, "data": {"sessionID": "ses_1", "attempt": True}},
        {"type": ["session"], "created": 1000, "data": {"sessionID": 5}},
    ]  # fmt: skip
    assert [reader.feed(event, live=True) for event in broken] == [None] * len(broken)
