"""Tests of shared cooldowns: the record on the wire, the laws of its merge, and the effects on a machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.types import (
    LimitKind,
    ModelRef,
    ResetSource,
    Scope,
)
from ocwatchd.core.sharing.knowledge import BELIEVED, Knowledge, ServerTime, believed_until
from ocwatchd.core.sharing.merge import Records, is_stale, merged
from ocwatchd.core.sharing.record import (
    KINDS,
    MAX_AHEAD,
    MAX_BYTES,
    MAX_SKEW,
    SCOPES,
    SOURCES,
    Incident,
    Record,
    Unusable,
    incident_bytes,
    newest,
    parse,
)

NOW = 1_750_000_000.0
NOW_MS = round(NOW * 1000)
OPUS, SONNET = ModelRef("anthropic", "claude-opus-4"), ModelRef("anthropic", "claude-sonnet-4")
HERE = ServerTime()


def test_a_record_comes_back_from_its_line() -> None:
    record = Record(
        "team-max-1", "claude-opus-4", 3, NOW_MS + 5000, (Incident(12, "laptop-7f"), Incident(11, "ws-2c")),
        LimitKind.QUOTA, Scope.MODEL, ResetSource.TEXT, NOW_MS,
    )  # fmt: skip
    assert parse(record.line()) == record
    assert record.line().count("\t") == 9


incidents = st.builds(Incident, st.integers(1, 40), st.sampled_from(["a", "b-1", "laptop-7f", "zzzzzzzzzzzz"]))
accounts = st.sampled_from(["a", "team-max-1", "x" * 40])
models = st.sampled_from(["m", "claude-opus-4", "qwen/qwen3-coder:free", "*", "模型-五", "n" * 150])


@st.composite
def records(draw: st.DrawFn, account: str | None = None, model: str | None = None) -> Record:
    account, model = account or draw(accounts), model or draw(models)
    until = st.one_of(st.none(), st.just(0), st.integers(NOW_MS, NOW_MS + 9), st.integers(1, NOW_MS + 86_400_000))
    return Record(
        account, model, draw(st.integers(0, 3)), draw(until),
        newest(draw(st.sets(incidents, max_size=24)), incident_bytes(account, model)),
        draw(st.sampled_from(KINDS)), draw(st.sampled_from(SCOPES)), draw(st.sampled_from(SOURCES)),
        draw(st.one_of(st.integers(NOW_MS - 9, NOW_MS), st.integers(0, NOW_MS))),
    )  # fmt: skip


@st.composite
def of_one_model(draw: st.DrawFn, count: int) -> list[Record]:
    account, model = draw(accounts), draw(models)
    return [draw(records(account, model)) for _ in range(count)]


@given(records())
def test_every_record_fits_and_can_be_read(record: Record) -> None:
    assert len(record.line().encode()) <= MAX_BYTES
    assert parse(record.line().encode(), NOW_MS) == record


@given(of_one_model(3))
def test_merge_is_commutative_associative_and_idempotent(three: list[Record]) -> None:
    one, two, third = three
    assert merged(one, two) == merged(two, one)
    assert merged(merged(one, two), third) == merged(one, merged(two, third))
    assert merged(one, one) == one
    assert merged(merged(one, two), two) == merged(one, two)


@given(of_one_model(2))
def test_the_higher_epoch_wins_and_within_it_the_later_end(two: list[Record]) -> None:
    one, other = two
    both = merged(one, other)
    if one.epoch != other.epoch:
        assert both == max(one, other, key=lambda record: record.epoch)
        return
    ends = [float("inf") if record.until is None else record.until for record in (one, other, both)]
    assert ends[2] == max(ends[:2])
    every = {*one.incidents, *other.incidents}
    assert set(both.incidents) <= every
    assert both.incidents == newest(every, incident_bytes(*one.key))


@given(st.lists(records("a", "m"), max_size=5), st.data())
def test_lost_doubled_and_reordered_news_end_in_one_state(news: list[Record], data: st.DataObject) -> None:
    one, other = Records(news), Records()
    for record in data.draw(st.permutations(news + news)):
        other.merge(record)
    assert list(one) == list(other)


def test_records_of_different_models_do_not_merge() -> None:
    one = Record("a", "m", 0, 0, (), LimitKind.QUOTA, Scope.MODEL, ResetSource.TEXT, 0)
    with pytest.raises(ValueError, match="different models"):
        merged(one, replace(one, model="n"))


GOOD = f"1\tteam-max-1\tclaude-opus-4\t3\t{NOW_MS}\tlaptop-7f.12\tquota\tmodel\ttext\t{NOW_MS}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (GOOD.replace("1\tteam", "2\tteam", 1), "version"),
        (GOOD + "x" * 300, "oversized"),
        (GOOD + "\tmore", "malformed"),
        ("", "malformed"),
        ('{"account": "team-max-1"}', "malformed"),
        (GOOD.encode().replace(b"opus", b"\xff\xfe"), "malformed"),
        (GOOD.replace("quota", "party"), "malformed"),
        (GOOD.replace("\t3\t", "\t-3\t"), "malformed"),
        (GOOD.replace("\t3\t", "\t1e3\t"), "malformed"),
        (GOOD.replace("\t3\t", "\t٣\t"), "malformed"),
        (GOOD.replace("\t3\t", "\t1000000000\t"), "malformed"),
        (GOOD.replace("laptop-7f.12", "laptop-7f.012"), "malformed"),
        (GOOD.replace("laptop-7f.12", "Laptop.12"), "malformed"),
        (GOOD.replace("laptop-7f.12", "a.1,b.2"), "malformed"),
        (GOOD.replace("laptop-7f.12", ",".join(f"a.{n}" for n in range(17, 0, -1))), "malformed"),
        (GOOD.replace("claude-opus-4", "claude\x1b[31m"), "malformed"),
        (GOOD.replace("claude-opus-4", " claude"), "malformed"),
        (GOOD.replace("claude-opus-4", "n" * 199), "malformed"),
        (GOOD.replace("team-max-1", "team max"), "malformed"),
        (GOOD.replace(f"text\t{NOW_MS}", f"text\t{NOW_MS + MAX_SKEW + 1}"), "future"),
        (GOOD.replace(f"3\t{NOW_MS}", f"3\t{NOW_MS + MAX_AHEAD + 1}"), "future"),
    ],
)
def test_what_is_no_record_is_refused_with_the_word_it_is_counted_under(line: str | bytes, why: str) -> None:
    assert parse(GOOD, NOW_MS)
    with pytest.raises(Unusable) as fault:
        parse(line, NOW_MS)
    assert fault.value.why == why


@given(st.one_of(st.text(), st.binary()))
def test_no_input_raises_anything_else(line: str | bytes) -> None:
    with pytest.raises(Unusable):
        parse(line, NOW_MS)


def test_what_was_cleared_is_remembered_longer_than_any_end_that_is_believed() -> None:
    freed = Record("a", "m", 4, 0, (), LimitKind.QUOTA, Scope.MODEL, ResetSource.MANUAL, NOW_MS)
    assert not is_stale(freed, NOW_MS + MAX_AHEAD)
    assert is_stale(freed, NOW_MS + MAX_AHEAD + 2 * 86_400_000)


# ---- the effects on a machine


def limit(model: ModelRef = OPUS, lasting: float | None = 7200.0, **more: Any) -> Cooldown:
    fields: dict[str, Any] = {
        "kind": LimitKind.QUOTA, "scope": Scope.MODEL, "since": NOW, "strikes": 1,
        "until": None if lasting is None else NOW + lasting, "reset_source": ResetSource.TEXT,
        "reason": "weekly limit of anna@example.org in ses_1 of /home/anna", "session": "ses_1",
    }  # fmt: skip
    return Cooldown(model=model, **{**fields, **more})


class Machine:
    """One machine with its blacklist; `tell` passes its news on to other machines."""

    def __init__(self, node: str, **accounts: str) -> None:
        self.knowledge = Knowledge(node, accounts or {"anthropic": "team-max-1"})
        self.blacklist: dict[ModelRef, Cooldown] = {}
        self.news: list[Record] = []

    def step(self, now: float = NOW, clock: ServerTime = HERE, cleared: tuple[tuple[str, float], ...] = ()) -> None:
        self.news += self.knowledge.clear(cleared, now, clock)
        self.news += self.knowledge.observe(self.blacklist, now, clock)
        self.blacklist = self.knowledge.plan(self.blacklist, now, clock).applied(self.blacklist)
        self.knowledge.remember(self.blacklist)

    def tell(self, *others: Machine, now: float = NOW) -> None:
        for other in others:
            for record in self.news:
                other.knowledge.records.merge(parse(record.line(), round(now * 1000)))
            other.step(now)
        self.news.clear()


def test_a_limit_prevents_on_the_other_machine_and_says_who_reported_it() -> None:
    a, b = Machine("laptop-7f"), Machine("ws-2c")
    a.blacklist[OPUS] = limit()
    a.step()
    a.tell(b)
    entry = b.blacklist[OPUS]
    assert (entry.reset_source, entry.until, entry.kind) == (ResetSource.SHARED, NOW + 7200, LimitKind.QUOTA)
    assert entry.extra["node"] == "laptop-7f"
    assert entry.strikes == 0
    assert b.news == []


def test_nothing_private_is_in_a_record() -> None:
    a = Machine("laptop-7f")
    a.blacklist[OPUS] = limit()
    a.step()
    (record,) = a.news
    assert (
        record.line()
        == f"1\tteam-max-1\tclaude-opus-4\t0\t{NOW_MS + 7200_000}\tlaptop-7f.1\tquota\tmodel\ttext\t{NOW_MS}"
    )


@pytest.mark.parametrize("source", [ResetSource.MANUAL, ResetSource.FORECAST, ResetSource.SHARED])
def test_a_block_a_forecast_and_hearsay_stay_at_home(source: ResetSource) -> None:
    a = Machine("laptop-7f")
    a.blacklist[OPUS] = limit(reset_source=source)
    a.step()
    assert a.news == []


def test_providers_without_an_account_are_not_shared_and_another_account_is_not_limited() -> None:
    a, b = Machine("laptop-7f", anthropic="team-max-1"), Machine("ws-2c", anthropic="plus-2", other="team-max-1")
    a.blacklist |= {OPUS: limit(), ModelRef("openai", "gpt-5"): limit(ModelRef("openai", "gpt-5"))}
    a.step()
    a.tell(b)
    assert set(b.blacklist) == {ModelRef("other", "claude-opus-4")}


@pytest.mark.parametrize(("lasting", "source"), [(None, ResetSource.ESTIMATE), (9e5, ResetSource.ESTIMATE)])
def test_without_a_time_from_the_provider_a_limit_is_believed_for_an_hour(
    lasting: float | None, source: ResetSource
) -> None:
    a, b = Machine("laptop-7f"), Machine("ws-2c")
    a.blacklist[OPUS] = limit(lasting=lasting, reset_source=source, kind=LimitKind.BILLING)
    a.step()
    a.tell(b)
    assert b.blacklist[OPUS].until == NOW + BELIEVED / 1000
    (record,) = b.knowledge.records
    assert believed_until(replace(record, reset_source=ResetSource.TEXT, until=NOW_MS * 2)) == NOW_MS * 2


def test_a_users_clear_wins_everywhere_also_over_what_was_met_there() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    a.blacklist[OPUS] = limit()
    a.step()
    a.tell(b, c)
    del b.blacklist[OPUS]
    b.step(NOW + 60, cleared=((str(OPUS), NOW + 60),))
    late = list(b.news)
    b.tell(a, c, now=NOW + 61)
    assert OPUS not in a.blacklist
    assert OPUS not in c.blacklist
    assert OPUS not in b.blacklist
    assert [record.epoch for record in late] == [1]


def test_an_answer_ends_hearsay_but_not_what_another_machine_has_met_itself() -> None:
    a, b, c = Machine("a"), Machine("b"), Machine("c")
    a.blacklist[OPUS] = limit()
    a.step()
    a.tell(b, c)
    del b.blacklist[OPUS]  # the daemon does this when the model has answered
    b.step(NOW + 60)
    b.tell(a, c, now=NOW + 61)
    assert OPUS not in c.blacklist
    assert a.blacklist[OPUS].reset_source is ResetSource.TEXT


def test_a_limit_newer_than_an_answer_elsewhere_is_reported_again() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit()
    a.step()
    a.tell(b)
    del b.blacklist[OPUS]
    b.step(NOW + 60)
    a.blacklist[OPUS] = limit(since=NOW + 90)
    a.step(NOW + 90)
    a.news.clear()  # lost
    b.tell(a, now=NOW + 91)
    a.tell(b, now=NOW + 91)
    assert b.blacklist[OPUS].reset_source is ResetSource.SHARED


def test_an_old_report_does_not_revive_what_was_cleared() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit()
    a.step()
    old = a.news[0]
    a.tell(b)
    del b.blacklist[OPUS]
    b.step(NOW + 60, cleared=((str(OPUS), NOW + 60),))
    assert not b.knowledge.records.merge(old)
    b.step(NOW + 61)
    assert OPUS not in b.blacklist


def test_what_was_met_here_stays_and_the_later_end_of_another_holds_after_it() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit(lasting=7200.0)
    b.blacklist[OPUS] = limit(lasting=60.0, reset_source=ResetSource.ESTIMATE)
    a.step()
    b.step()
    a.tell(b)
    assert b.blacklist[OPUS].reset_source is ResetSource.ESTIMATE
    assert b.knowledge.next_change(b.blacklist, NOW) == NOW + 60
    b.step(NOW + 60)
    assert (b.blacklist[OPUS].reset_source, b.blacklist[OPUS].until) == (ResetSource.SHARED, NOW + 7200)
    assert b.blacklist[OPUS].strikes == 1


def test_a_block_by_hand_is_not_touched() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit()
    b.blacklist[OPUS] = block = limit(lasting=30.0, reset_source=ResetSource.MANUAL)
    a.step()
    a.tell(b)
    assert b.blacklist[OPUS] == block


def test_a_guess_that_the_provider_corrects_to_an_earlier_time_is_corrected_everywhere() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit(lasting=3600.0, reset_source=ResetSource.ESTIMATE)
    a.step()
    a.tell(b)
    a.blacklist[OPUS] = limit(lasting=20.0, reset_source=ResetSource.RETRY_AFTER)
    a.step(NOW + 0.2)
    a.tell(b, now=NOW + 0.2)
    assert b.blacklist[OPUS].until == NOW + 20


def test_the_clock_of_the_server_counts() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit(lasting=600.0)
    a.step(clock=ServerTime(120.0))
    for record in a.news:
        b.knowledge.records.merge(record)
    b.step(NOW + 120, ServerTime(0.0))
    assert b.blacklist[OPUS].until == NOW + 120 + 600


def test_a_clock_five_minutes_off_is_not_obeyed() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit()
    a.step()
    for record in a.news:
        b.knowledge.records.merge(record)
    b.step(NOW - 601, ServerTime(601.0))
    assert b.blacklist == {}
    b.step(NOW)
    assert OPUS in b.blacklist


def test_all_orders_of_news_end_in_one_blacklist() -> None:
    a, b = Machine("a"), Machine("b")
    a.blacklist[OPUS] = limit()
    a.step()
    b.blacklist[OPUS] = limit(lasting=60.0)
    b.step()
    told = a.news + b.news
    a.tell(b)
    told.append(replace(told[0], epoch=1, until=0, incidents=(), reset_source=ResetSource.STATUS, since=NOW_MS + 9))
    ends = set()
    for order in permutations(told * 2, 4):
        if {record.line() for record in order} == {record.line() for record in told}:
            c = Machine("c")
            for record in order:
                c.knowledge.records.merge(record)
                c.step(NOW + 1)
            ends.add(tuple(record.line() for record in c.knowledge.records))
            assert OPUS not in c.blacklist
    assert len(ends) == 1
