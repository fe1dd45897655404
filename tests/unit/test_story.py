"""Tests of what the journal gives: episodes, cooldowns, figures, from generated histories and from arbitrary lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.types import LimitKind
from ocwatchd.core.history.decisions import Episode, episodes
from ocwatchd.core.history.intervals import clipped, cooldown_spans, length, merged, without
from ocwatchd.core.history.journal_entries import Entry, read
from ocwatchd.core.history.metrics import Figures, figures
from ocwatchd.core.history.wording import phrase, word
from ocwatchd.state.journal import Journal
from tests.support.lives import START, Life, busy_days

CHAIN = {"p/a": ["p/b", "p/c"]}


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path / "journal.jsonl", CHAIN)


def told(life: Life) -> tuple[Entry, ...]:
    return read(life.journal.read())


def the_turn(life: Life) -> Episode:
    (episode,) = [one for one in episodes(told(life)) if one.turn]
    return episode


def count(life: Life, since: float = START - 1, now: float | None = None) -> Figures:
    return figures(told(life), since, life.time if now is None else now)


# ---- one limit in full


def test_a_move_is_one_episode_with_all_it_was_decided_on(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=3600)
    life.pass_time(600)
    episode = the_turn(life)
    assert [line.what for line in episode.lines] == ["limit", "claim", "moved"]
    assert (episode.session, episode.model, episode.outcome) == ("ses_1", "p/a", "moved")
    (move,) = episode.moves
    assert (move.target, move.result) == ("p/b", "moved")
    assert episode.began == START
    assert episode.waited_until() == pytest.approx(START + 3600, abs=0.01)
    claim = move.claim
    assert claim.text("why") == "1h to wait; maxDelay is 30s"
    assert [row["model"] for row in claim.rows("considered")] == ["p/b"]


def test_saved_is_the_told_wait_less_what_the_move_took_and_never_what_lies_ahead(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=3600)
    life.pass_time(600)
    early, late = count(life), count(life, now=START + 7200)
    assert 0.2 < early.cost.lost < 5
    assert early.cost.lost + early.cost.saved == pytest.approx(early.now - START, abs=0.01)
    assert early.cost.saved + early.cost.to_come == pytest.approx(3600 - early.cost.lost, abs=0.01)
    assert (late.cost.saved, late.cost.to_come) == (pytest.approx(3600 - early.cost.lost, abs=0.01), 0)
    (fallback,) = late.fallbacks
    assert (fallback.model, fallback.tried, fallback.rate) == ("p/b", 1, 1.0)
    assert fallback.median == fallback.worst == pytest.approx(early.cost.lost, abs=0.01)


def test_nothing_is_saved_beyond_the_moment_at_which_the_model_works_again(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=3600)
    life.pass_time(600)
    life.clear("p/a")
    life.pass_time(7200)
    found = count(life)
    assert found.cost.saved == pytest.approx(600, abs=5)
    (rest,) = found.cooldown_spans
    assert rest.over(life.time) == "cleared"
    assert rest.end(life.time) - rest.since == pytest.approx(600, abs=5)


def test_a_wait_without_a_told_end_saves_nothing_and_says_so(life: Life) -> None:
    life.refuse("p/a", "ses_1", kind=LimitKind.BILLING)
    life.pass_time(5000)
    found = count(life)
    assert dict(found.outcomes) == {"moved": 1}
    # Only OpenCode's own next attempt, two seconds later, is known.
    assert found.cost.saved < 2
    assert found.models[0].kinds == (("billing", 1),)
    (rest,) = found.cooldown_spans
    assert (rest.until, rest.over(life.time), rest.end(life.time)) == (None, None, life.time)


def test_a_wait_is_lost_until_the_model_answers(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=20)
    life.pass_time(23)
    life.answer("ses_1")
    assert the_turn(life).outcome == "answered"
    found = count(life)
    assert 20 <= found.cost.lost <= 23
    assert (found.cost.saved, found.fallbacks) == (0, ())


def test_two_sessions_that_wait_at_once_both_wait(life: Life) -> None:
    for session in ("ses_1", "ses_2"):
        life.refuse("p/a", session, wait=20)
    life.pass_time(22)
    life.answer("ses_1")
    life.answer("ses_2")
    assert [one.outcome for one in episodes(told(life))] == ["answered", "went_on"]
    assert 40 <= count(life).cost.lost <= 44


def test_a_target_that_is_limited_too_counts_against_it(life: Life) -> None:
    life.outcomes["p/b"] = lambda: MoveResult.TARGET_LIMITED
    life.refuse("p/a", "ses_1", wait=3600)
    life.pass_time(60)
    episode = the_turn(life)
    assert [move.result for move in episode.moves] == ["target_limited", "moved"]
    rates = {one.model: (one.tried, one.moved, one.rate) for one in count(life).fallbacks}
    assert rates == {"p/b": (1, 0, 0.0), "p/c": (1, 1, 1.0)}


def test_a_stop_ends_the_loss(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=25)
    life.pass_time(5)
    life.abort("ses_1")
    life.pass_time(500)
    assert the_turn(life).outcome == "stopped"
    assert count(life).cost.lost == pytest.approx(5, abs=0.5)


def test_a_title_request_is_a_limit_but_nobodys_turn(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=60, small=True)
    life.pass_time(1)
    found = count(life)
    assert (found.limits, found.turns, found.cost.lost) == (1, 0, 0)


def test_a_turn_that_is_not_over_is_lost_only_as_far_as_it_is_known(tmp_path: Path) -> None:
    life = Life(tmp_path / "journal.jsonl", {})  # without a chain the session stays where it is
    life.refuse("p/a", "ses_1", wait=100)
    life.time += 50
    assert the_turn(life).outcome == "open"
    assert count(life).cost.lost == pytest.approx(50, abs=1)
    assert count(life, now=START + 9000).cost.lost == pytest.approx(100, abs=1)


def test_what_the_daemon_and_oc_smart_both_tell_is_one_refusal(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=20)
    (limit,) = [line for line in told(life) if line.what == "limit"]
    again = {**limit.raw, "id": "0" * 21, "by": "oc-smart"}
    assert len(read([*life.journal.read(), again])) == len(told(life))


def test_a_new_refusal_long_after_is_another_episode(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=20)
    life.time += 4000
    life.refuse("p/a", "ses_1", wait=20)
    assert len([one for one in episodes(told(life)) if one.turn]) == 2


def test_an_old_journal_is_read_as_far_as_it_goes() -> None:
    """Lines as ocwatchd 0.1.0 wrote them: without `evidence`, `shown` and `told`."""
    lines = [
        {"what": "limit", "time": "2026-11-22T10:00:00.000Z", "until": "2026-11-22T11:00:00.000Z",
         "reset_source": "text",
         "kind": "quota", "scope": "provider", "strikes": 1, "rule": "r", "reason": "no more", "small": False},
        {"what": "claim", "time": "2026-11-22T10:00:01.000Z", "claim": "c1", "target": "q/b", "moved": "ses_1"},
        {"what": "moved", "time": "2026-11-22T10:00:02.000Z", "claim": "c1", "target": "q/b", "seconds": 0.5},
    ]  # fmt: skip
    raw = [
        {"version": 1, "id": f"{n:021x}", "session": "ses_1", "model": "p/a", **line} for n, line in enumerate(lines)
    ]
    entries = read(raw)
    (episode,) = episodes(entries)
    assert (episode.outcome, episode.waited_until()) == ("moved", episode.began + 3600)
    found = figures(entries, episode.began - 1, episode.began + 3600)
    assert (found.cost.lost, found.cost.saved) == (1.5, 3598.5)
    assert found.cooldown_spans[0].model == "p/*"
    assert phrase(entries[0], str).startswith("p/* until")


REAL = Path(__file__).parent / "data" / "journal-1.18.33.jsonl"


def test_a_journal_of_a_real_opencode() -> None:
    """Recorded from an end-to-end run: a turn with a finished tool call, moved to the fallback."""
    entries = read(json.loads(line) for line in REAL.read_text().splitlines())
    (episode,) = [one for one in episodes(entries) if one.turn]
    assert episode.outcome == "moved"
    (move,) = episode.moves
    assert (episode.model, move.target) == ("mock/primary", "mock2/fallback")
    assert move.claim.text("shown", "state") == "retry"
    assert move.claim.text("shown", "version") == "1.18.33"
    found = figures(entries, episode.began - 1, episode.began + 60)
    assert 0 < found.cost.lost < 10
    assert found.cost.lost + found.cost.saved == pytest.approx(60, abs=0.01)


# ---- properties of every history


@pytest.fixture(scope="module", params=[1, 2, 3])
def week(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    return busy_days(tmp_path_factory.mktemp("week") / "journal.jsonl", days=4, seed=request.param)


def test_a_busy_week_adds_up(week: Life) -> None:
    entries = told(week)
    found = figures(entries, START, week.time)
    check(entries, found)
    assert found.turns > 20
    assert found.cost.saved > found.cost.lost > 0
    assert {"moved", "answered", "stopped"} <= dict(found.outcomes).keys()
    assert dict(found.outcomes).get("open", 0) <= 2  # cut off by the end of the week, or no model was free
    halves = [figures(entries, START, START + 2 * 86400), figures(entries, START + 2 * 86400 + 0.001, week.time)]
    assert sum(half.limits for half in halves) == found.limits
    assert sum(half.cost.lost for half in halves) == pytest.approx(found.cost.lost, abs=1)
    assert sum(half.cost.saved for half in halves) == pytest.approx(found.cost.saved, abs=1)


def check(entries: tuple[Entry, ...], found: Figures) -> None:
    """Check properties of any figures."""
    known = episodes(entries)
    assert sorted(line.id for one in known for line in one.lines) == sorted(line.id for line in entries)
    for one in known:
        assert [line.time for line in one.lines] == sorted(line.time for line in one.lines)
        assert one.began <= one.recovered(found.now) or one.began > found.now
    window = found.now - found.since
    sessions = {one.session or one.id for one in known}
    assert 0 <= found.cost.lost + found.cost.saved <= window * len(sessions) + 1e-6
    assert found.cost.lost >= 0 and found.cost.saved >= 0 and found.cost.to_come >= 0
    assert sum(one.limits for one in found.models) == found.limits == sum(number for _, _, number in found.hours)
    for model in found.models:
        assert 0 <= model.cooling <= window + 1e-6
        assert sum(number for _, number in model.kinds) == model.limits
    for fallback in found.fallbacks:
        assert fallback.moved + fallback.limited + fallback.failed == fallback.tried
        assert len(fallback.recovery) == fallback.moved
    assert sum(number for _, number in found.outcomes) == found.turns


WHATS = ["limit", "told", "wait", "claim", "moved", "already", "failed", "target_limited", "answered", "went_on",
         "stopped", "exhausted", "blocked", "cleared", "doubtful", "unknown_word"]  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["p/a", "estimate"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MOMENT = st.integers(0, 200_000).map(
    lambda n: f"2026-11-{20 + n // 86400:02d}T{n % 86400 // 3600:02d}:{n % 3600 // 60:02d}:{n % 60:02d}Z"
)
FIELDS: dict[str, Any] = {
    "what": st.sampled_from(WHATS) | JSON, "time": MOMENT | JSON, "until": MOMENT | JSON, "began": MOMENT | JSON,
    "session": st.sampled_from(["ses_1", "ses_2"]) | JSON, "model": st.sampled_from(["p/a", "p/b"]) | JSON,
    "claim": st.sampled_from(["c1", "c2"]) | JSON, "target": st.sampled_from(["p/b", "p/c"]) | JSON,
    "reset_source": st.sampled_from(["status", "estimate"]) | JSON,
    "kind": st.sampled_from(["quota", "billing"]) | JSON,
    "scope": st.sampled_from(["model", "provider"]) | JSON, "seconds": st.floats(0, 50) | JSON,
    "evidence": st.fixed_dictionaries({"at": MOMENT}) | JSON, "shown": st.fixed_dictionaries({"next": MOMENT}) | JSON,
    "small": st.booleans() | JSON, "considered": JSON, "rests": st.fixed_dictionaries({"until": MOMENT}) | JSON,
}  # fmt: skip
SURE = {"what": FIELDS.pop("what"), "time": FIELDS.pop("time")}
LINES = st.lists(st.fixed_dictionaries(SURE, optional=FIELDS), max_size=25)


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_whatever_stands_in_the_journal_adds_up(lines: list[dict[str, Any]]) -> None:
    entries = read([{"id": f"{number:021x}", **line} for number, line in enumerate(lines)])
    now = 1_795_400_000.0
    found = figures(entries, now - 200_000, now)
    check(tuple(entry for entry in entries if entry.time <= now), found)
    for entry in entries:
        assert isinstance(word(entry), str)
        assert isinstance(phrase(entry, str), str)


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def seconds(spans: list[tuple[int, int]]) -> set[int]:
    return {second for begin, end in spans for second in range(begin, end)}


@given(SPANS, SPANS, st.integers(0, 30), st.integers(0, 30))
def test_spans_are_sets_of_seconds(
    one: list[tuple[int, int]], other: list[tuple[int, int]], begin: int, end: int
) -> None:
    assert length(merged(one)) == len(seconds(one))
    assert length(without(one, other)) == len(seconds(one) - seconds(other))
    assert length(clipped(one, begin, end)) == len(seconds(one) & set(range(begin, end)))


@pytest.fixture
def blocked(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl", Life(tmp_path / "other", {}))


def test_a_block_by_hand_is_a_cooldown_and_no_limit(blocked: Journal) -> None:
    blocked.append({"what": "blocked", "model": "p/a", "kind": "quota", "until": START + 3600.0, "by": "hand"})
    entries = read(blocked.read())
    (rest,) = cooldown_spans(entries)
    assert (rest.reset_source, rest.limits, rest.over(START + 4000)) == ("manual", [], "time")
    found = figures(entries, START - 10, START + 7200)
    assert (found.limits, found.turns, found.models[0].cooling) == (0, 0, 3600)


def test_a_stand_in_that_fails_the_session_after_its_move_counts_as_failed(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=3600)
    life.pass_time(5)
    moved = count(life).fallbacks[0]
    assert (moved.tried, moved.moved, moved.failed, len(moved.recovery)) == (1, 1, 0, 1)
    line = {"what": "rejected", "session": "ses_1", "model": "p/b", "why": "Invalid signature"}
    life.journal.append(line)
    life.pass_time(1)
    failed = count(life).fallbacks[0]
    assert (failed.tried, failed.moved, failed.failed, failed.recovery) == (1, 0, 1, ())


def test_the_time_until_an_answer_began_is_the_middle_one(life: Life) -> None:
    claims = [
        {"what": "claim", "claim": f"c{n}", "session": f"ses_{n}", "model": "p/a", "target": "p/b"} for n in "123"
    ]
    for claim, seconds in zip(claims, (0.5, 4.0, None), strict=True):
        life.journal.append(claim)
        life.journal.append({**claim, "what": "moved", "seconds": 0.2, "first_token_seconds": seconds})
    (fallback,) = count(life, now=life.now() + 3600).fallbacks
    assert (fallback.moved, fallback.first_tokens, fallback.median_first_token) == (3, (0.5, 4.0), 2.25)


def test_a_turn_that_was_run_again_on_its_own_model_was_not_moved(life: Life) -> None:
    again = {"session": "ses_1", "claim": "c1", "model": "p/a", "target": "p/a"}
    limit = {"what": "limit", "session": "ses_1", "model": "p/a", "until": "2027-01-15T08:00:00Z"}
    parked = {"what": "parked", "session": "ses_1", "model": "p/a", "until": "2027-01-15T08:00:00Z"}
    for line in (limit, parked, {"what": "claim", **again}, {"what": "moved", **again, "seconds": 0.2}):
        life.journal.append(line)
    entries = told(life)
    (episode,) = episodes(entries)
    assert (episode.outcome, len(episode.moves)) == ("went_on", 1)
    found = count(life)
    assert (found.fallbacks, found.cost.saved) == ((), 0.0)
    waits, _, ran = entries[1:]
    assert (word(waits), word(ran), phrase(ran, lambda _: "8:00")) == ("parked", "runs again", "p/a, 0.2s")
    assert phrase(waits, lambda _: "8:00") == "the turn waits for p/a until 8:00, or until a fallback is available"


def test_what_the_journal_says_of_later_does_not_count_yet(life: Life) -> None:
    life.refuse("p/a", "ses_1", wait=3600)
    before = count(life)
    then = life.time
    life.pass_time(7200)
    life.refuse("p/b", "ses_2", wait=3600)
    assert count(life, now=then) == before


def test_what_others_leave_of_a_span_has_no_empty_or_reversed_part() -> None:
    assert without([(0.0, 1.0), (4.0, 5.0)], [(2.0, 3.0), (4.0, 6.0)]) == [(0.0, 1.0)]


@pytest.mark.parametrize(
    ("last", "lost"),
    [
        ({"what": "unparked", "why": "the OpenCode process in which it was waiting has ended"}, 60.0),
        ({"what": "unreachable", "why": "no OpenCode shows it"}, 60.0),
        ({"what": "left", "why": "its `opencode run` has ended, so no answer is needed"}, 60.0),
        ({"what": "left", "why": "limited, but a tool is running or a question has not been answered"}, 3600.0),
    ],
)
def test_time_is_lost_only_until_the_last_news_of_an_opencode_that_is_gone(
    tmp_path: Path, last: dict[str, str], lost: float
) -> None:
    at = {0: "2027-01-15T08:00:00Z", 60: "2027-01-15T08:01:00Z", 3600: "2027-01-15T09:00:00Z"}
    about = {"version": 1, "session": "ses_1", "model": "p/a"}
    rows = [
        {**about, "id": "1ab-1", "time": at[0], "what": "limit", "until": at[3600]},
        {**about, "id": "1ab-2", "time": at[60], **last},
    ]
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (episode,) = episodes(read(Journal(path).read()))
    assert episode.closing is None
    assert episode.recovered(episode.began + 86400) - episode.began == lost
