"""Tests of what earlier runs have counted and reported: these lines give no second strike."""

from __future__ import annotations

import pytest

from ocwatchd.clock import rfc3339
from ocwatchd.core.domain.moves import Claim
from ocwatchd.core.domain.types import Certainty, LimitEvent, LimitKind, ModelRef, Scope, Target, Verdict
from ocwatchd.core.engine.messages import Shown
from ocwatchd.core.engine.session import LimitedTurn, ParkedTurn
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.daemon.recovery import SETTLING, place_of, previous_run
from ocwatchd.state.blacklist.counted import KEPT, MOST, Counted

NOW = 1_795_341_600.123
LOG = (65024, 7)
MODEL = ModelRef("mock", "primary")


def event(offset: int, time: float = NOW, known_at: int | None = None) -> LimitEvent:
    verdict = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL)
    return LimitEvent(time, "mock", "primary", "ses_1", None, False, 429, verdict, None, "", "a.log", offset, known_at)


def after(*events: LimitEvent) -> Counted:
    """Return the state of the next run after one that has counted these."""
    counted = Counted()
    assert not any(counted.again(LOG, one, NOW) for one in events)
    return Counted(counted.as_json(), NOW)


def test_what_was_counted_is_known_again_and_what_came_later_is_not() -> None:
    counted = after(event(0), event(100))
    assert [counted.again(LOG, one, NOW) for one in (event(0), event(100), event(200))] == [True, True, False]


def test_once_a_file_tells_something_new_all_of_it_is_new() -> None:
    counted = after(event(100))
    assert not counted.again(LOG, event(200), NOW)
    assert not counted.again(LOG, event(50), NOW)


@pytest.mark.parametrize(("log", "time"), [((65024, 8), NOW), ((1, 7), NOW), (LOG, NOW + 0.01), (None, NOW)])
def test_another_file_and_another_content_of_it_are_new(log: tuple[int, int] | None, time: float) -> None:
    assert not after(event(100)).again(log, event(50, time), NOW)


def test_a_refusal_that_a_later_record_explained_counts_where_that_one_stands() -> None:
    """Its own offset is before the position to which another session's limit has moved the mark."""
    counted = after(event(50))
    assert not counted.again(LOG, event(10, known_at=80), NOW)


def test_what_doors_have_shown_is_kept_too() -> None:
    counted = Counted()
    shown = Shown("ses_1", MODEL, "msg_1", 2, NOW)
    counted.show(shown, NOW)
    (back,) = Counted(counted.as_json(), NOW).shown()
    assert (back.session, back.model, back.message, back.attempt) == ("ses_1", MODEL, "msg_1", 2)
    assert rfc3339(back.time) == rfc3339(shown.time)


def test_marks_are_few() -> None:
    counted = Counted()
    for number in range(3 * MOST):
        counted.again((1, number), event(1), NOW)
        counted.show(Shown(f"ses_{number}", MODEL, None, 1, NOW), NOW)
    assert len(counted.as_json()["logs"]) == MOST
    assert len(counted.shown()) == MOST
    counted.again(LOG, event(1), NOW + KEPT + 1)
    assert len(counted.as_json()["logs"]) == 1


@pytest.mark.parametrize(
    "value",
    [None, [], "x", {"logs": []}, {"logs": {"1:2": 7}}, {"logs": {"1:2": {"offset": True, "time": "now"}}},
     {"logs": {"1:2": {"offset": 1, "time": None}}, "doors": {"s": {"model": "x", "attempt": 1}}},
     {"doors": {"s": {"model": "a/b", "attempt": "1", "time": "2026-11-22T10:00:00Z"}}}],
)  # fmt: skip
def test_whatever_stands_in_the_register_is_no_fault(value: object) -> None:
    counted = Counted(value, NOW)
    assert not counted.again((1, 2), event(0), NOW)
    assert counted.shown() == []


def entry(what: str, session: str = "ses_1", ago: float = 10, **fields: object) -> dict[str, object]:
    return {"what": what, "session": session, "model": "mock/primary", "time": rfc3339(NOW - ago), **fields}


def limit(session: str, offset: int | None = 0, **fields: object) -> dict[str, object]:
    file = None if offset is None else "a.log"
    return entry("limit", session, file=file, offset=offset, evidence={"at": rfc3339(NOW)}, **fields)


def test_what_a_life_left_unfinished() -> None:
    last = previous_run(
        [
            limit("ses_1"), entry("claim", claim="c1"), entry("moved", claim="c1"),
            limit("ses_2"),
            entry("claim", "ses_2", claim="c2", moved="ses_parent", answer="msg_2",
                  target="mock2/fallback", agent="helper",
                  origin={"model": "mock/primary", "agent": None}),
            limit("ses_3"), entry("unanswered", "ses_3"),
            limit("ses_8"), entry("unanswered", "ses_8"), limit("ses_8"),
            limit("ses_4", history=True),
            limit("ses_5", small=True),
            entry("limit", "ses_6", ago=9999),
            {"what": "limit", "session": "ses_7", "model": "no model", "time": rfc3339(NOW)},
        ],
        NOW - 3600,
        {},
    )  # fmt: skip
    assert last.unfinished == {
        "ses_parent": (
            Claim("c2", Target(ModelRef("mock2", "fallback"), "helper"), Target(ModelRef("mock", "primary")), "msg_2"),
        )
    }
    assert last.unhandled == ("ses_3", "ses_8")
    assert last.missed == {"ses_3"}, "and ses_8 was refused again since"
    assert set(last.refused) == {"ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_8"}


def test_what_an_earlier_run_parked_waits_until_something_is_known_of_it() -> None:
    """A plan's limit lasts for days, so it counts at any age."""
    week = 7 * 86400.0
    until = rfc3339(NOW + week)

    def parked(session: str, **more: object) -> dict[str, object]:
        return entry("parked", session, ago=week, answer="msg_2", pid=7, until=until, **more)

    origin = {"model": "mock/primary", "agent": "build"}
    lines = [
        *(parked(f"ses_{what}") for what in ("unparked", "moved", "user_took_over", "stopped", "answered")),
        *(entry(what, f"ses_{what}") for what in ("unparked", "moved", "user_took_over", "stopped", "answered")),
        parked("ses_waits", origin=origin), parked("ses_billing") | {"until": None}, parked("ses_bad") | {"answer": 3},
        parked("ses_failed", resumes_at=rfc3339(NOW - week), waits_for="mock/primary"), entry("failed", "ses_failed"),
    ]  # fmt: skip
    found = previous_run(lines, NOW - 3600, {}).parked
    model = ModelRef("mock", "primary")
    turn = LimitedTurn(model, "msg_2", 7)
    began, end = (pytest.approx(NOW + at, abs=0.01) for at in (-week, week))
    assert found == {
        "ses_waits": ParkedTurn(LimitedTurn(model, "msg_2", 7, Target(model, "build")), end, began),
        "ses_billing": ParkedTurn(turn, None, began),
        "ses_failed": ParkedTurn(turn, end, began, began, model),
    }


def test_how_often_a_parked_prompt_was_run_again_is_kept_for_the_next_run() -> None:
    def resumes(*lines: dict[str, object]) -> dict[str, tuple[str | None, int]]:
        return dict(previous_run(lines, NOW - 3600, {}).resumes)

    first = entry("parked", answer="msg_2", message="msg_1", resumes=0)
    again = entry("claim", claim="c1", message="msg_1", resumes=1)
    assert resumes(first) == {"ses_1": ("msg_1", 0)}
    assert resumes(first, again) == {"ses_1": ("msg_1", 1)}
    assert resumes(first, again, entry("refused", claim="c1")) == {"ses_1": ("msg_1", 0)}, "nothing was changed"
    assert resumes(first, again, entry("claim", claim="c2"), entry("refused", claim="c2")) == {"ses_1": ("msg_1", 1)}
    assert resumes(entry("limit"), entry("claim", claim="c1")) == {}, "an ordinary move"


@pytest.mark.parametrize("end", ["failed", "target_limited", "refused", "moved", "already", "user_took_over"])
def test_a_move_that_has_just_come_to_nothing_is_looked_at_again(end: str) -> None:
    """After a kill between the end of one move and the claim of the next, the session stayed stuck for good."""
    goes_on = end in ("failed", "target_limited", "refused")

    def after(*later: dict[str, object], **shown: object) -> tuple[dict[str, tuple[Claim, ...]], tuple[str, ...]]:
        seen = {"state": "retry"} | shown
        entries = [limit("ses_1"), entry("claim", claim="c1"), entry(end, claim="c1", shown=seen), *later]
        last = previous_run(entries, NOW - 3600, {})
        return dict(last.unfinished), last.unhandled

    assert after() == ({}, ("ses_1",) if goes_on else ())
    assert after(entry("stopped")) == ({}, ())
    assert after(entry("free", "", ago=-SETTLING)) == ({}, ())
    assert after(state="error") == after()
    for stopped in (after(state="idle"), after(state="error", aborted=True)):
        assert stopped == (({"ses_1": ()}, ()) if end == "failed" else after())


def test_how_long_daemons_have_lived_since_tells_whether_something_may_still_have_followed() -> None:
    """Ten runs in a row were killed before an endpoint had answered; the session then stayed stuck for good."""

    def looked_at(*later: dict[str, object], beat: float | None = None) -> bool:
        entries = [entry("failed", claim="c1", shown={"state": "retry"}, ago=100.0), *later]
        return previous_run(entries, NOW - 3600, {}, beat).unhandled == ("ses_1",)

    short = [entry("started", "", ago=90.0 - number) for number in range(80)]
    assert looked_at(*short), "eighty lives, of which none is known to have lived for long"
    assert looked_at(*short, beat=NOW - 2.0)
    assert not looked_at(*short, beat=NOW + 2.0)
    assert not looked_at(entry("started", "", ago=30.0), entry("ended", "", ago=10.0))
    assert not looked_at(entry("limit", "ses_9", ago=89.0))


def test_an_entry_of_any_shape_is_no_fault() -> None:
    """The first of these lines ended the daemon at its start; found by fuzzing."""
    for what in ({}, [], None, 7, "limit", "claim", "moved"):
        for value in ({}, [], None, 1e308, "x"):
            entries = [dict.fromkeys(("time", "session", "model", "claim", "file", "offset", "evidence"), value)]
            previous_run([{"what": what, **entries[0]}], 0.0, {})


def test_only_what_may_be_read_again_is_remembered_as_told() -> None:
    cursors = {"a.log": Cursor(1, 2, "", 0, "", 0, 100)}
    entries = [limit("ses_1", 99), limit("ses_2", 100), limit("ses_3", None), limit("ses_4", 300, by="oc-smart")]
    assert previous_run(entries, NOW, cursors).recorded == {place_of(entries[1])}
    assert previous_run(entries, NOW, {}).recorded == {place_of(entries[0]), place_of(entries[1])}


def test_a_move_has_ended_although_the_clock_was_set_back_after_its_claim() -> None:
    claim = {"what": "claim", "session": "ses_1", "claim": "c1", "target": "p/b", "time": rfc3339(NOW)}
    end = {"what": "moved", "session": "ses_1", "claim": "c1", "time": rfc3339(NOW - 7200)}
    assert dict(previous_run([claim, end], NOW - 3600, {}).unfinished) == {}
    assert list(previous_run([claim], NOW - 3600, {}).unfinished) == ["ses_1"]
