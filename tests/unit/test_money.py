"""Tests of the budget (which fallbacks prices and spending allow) and of the cost of moved turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.budget import DayBudget, Price, Tokens
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Configured, Note, Notify, SaveBlacklist, Spent
from ocwatchd.core.fallback.choice import Choice, Chosen, Exhausted, choose
from ocwatchd.core.fallback.considered import considered
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.history.costs import Paid, spending
from ocwatchd.core.history.journal_entries import Entry
from ocwatchd.core.policy import Policy
from tests.support.rules import builtin

NOW = 1_800_000_000.0
A, DEAR, FREE = (ModelRef.parse(name) for name in ("p/a", "q/dear", "r/free"))
PRICES = {"p/a": Price(3, 15, 0.3, 3.75), "q/dear": Price(1, 2), "r/free": Price()}
POLICY = Policy(chains={"p/a": ("q/dear", "r/free")}, budget=5.0)


def test_a_price_counts_every_kind_of_token() -> None:
    tokens = Tokens(input=1_000_000, output=100_000, reasoning=100_000, cache_read=2_000_000, cache_write=1_000_000)
    assert PRICES["p/a"].of(tokens) == pytest.approx(3 + 3 + 0.6 + 3.75)
    assert [price.paid for price in PRICES.values()] == [True, True, False]


@pytest.mark.parametrize(
    ("budget", "spent", "over_budget"),
    [(None, 10**6, []), (5.0, 4.99, []), (5.0, 5.0, ["p/a", "q/dear"]), (0.0, 0.0, ["p/a", "q/dear"])],
)
def test_above_the_budget_nothing_paid_is_chosen(budget: float | None, spent: float, over_budget: list[str]) -> None:
    day_budget = DayBudget(budget, spent, PRICES)
    assert day_budget.over_budget == over_budget
    assert day_budget.is_over_budget("x/unknown") is None
    # What an endpoint reports now takes precedence over older data.
    assert (day_budget.is_over_budget("x/unknown", Price(1)) is not None) == bool(over_budget)


def chosen(day_budget: DayBudget, cooling: tuple[ModelRef, ...] = ()) -> Choice:
    return choose(A, None, POLICY, lambda ref: ref in cooling, outlook=Outlook(day_budget=day_budget))


def test_a_stand_in_that_costs_is_passed_over_and_it_is_said_why() -> None:
    day_budget = DayBudget(5.0, 5.03, PRICES)
    choice = chosen(day_budget)
    assert isinstance(choice, Chosen) and choice.target.model == FREE
    rows = considered(choice, Cooldowns(()), A, (), NOW, Outlook(day_budget=day_budget))
    assert rows[0]["why"] == "paid, and today's budget is spent ($5.03 of $5.00)"
    none = chosen(day_budget, (FREE,))
    assert isinstance(none, Exhausted) and "budget" in none.unfit[0][1]
    assert isinstance(chosen(DayBudget(5.0, 4.0, PRICES)), Chosen)
    offers = {"q/dear": Capacity(price=Price(1))}
    fresh = choose(A, None, POLICY, lambda ref: False, outlook=Outlook(offers=offers, day_budget=DayBudget(5.0, 6.0)))
    assert isinstance(fresh, Chosen) and fresh.target.model == FREE


def test_when_the_budget_is_spent_new_prompts_get_another_stand_in_and_a_new_day_gives_it_back() -> None:
    rest = Cooldown(
        A, LimitKind.RATE_LIMIT, Scope.MODEL, NOW, NOW + 3600, 1, ResetSource.STATUS, target=Target(DEAR)
    )  # fmt: skip
    engine = Engine(POLICY, builtin(), Cooldowns((rest,)), lambda: "claim")
    assert engine.handle(Spent(4.0, PRICES), NOW) == []
    note, tell, save = engine.handle(Spent(5.5, PRICES), NOW + 1)
    assert isinstance(note, Note) and (note.fields["spent"], note.fields["over"]) == (5.5, True)
    assert isinstance(tell, Notify) and "paid fallbacks are no longer used" in tell.text
    assert isinstance(save, SaveBlacklist) and save.changed[0].target == Target(FREE)
    assert engine.handle(Spent(5.6, PRICES), NOW + 2) == []
    note, save = engine.handle(Spent(0.0, PRICES), NOW + 3)
    assert isinstance(save, SaveBlacklist) and save.changed[0].target == Target(DEAR)


def test_it_is_told_once_a_day_whatever_lives_and_edits_of_the_configuration_come_between() -> None:
    told = Spent(5.5, PRICES)
    engine = Engine(POLICY, builtin(), Cooldowns(()), lambda: "claim")
    engine.context.spent, engine.context.prices, engine.context.over_notified = told.dollars, PRICES, True
    assert engine.handle(told, NOW) == []
    engine.handle(Configured(replace(POLICY, budget=9.0), builtin()), NOW)
    note, *_ = engine.handle(told, NOW)
    assert isinstance(note, Note) and note.fields["over"] is False
    engine.handle(Configured(POLICY, builtin()), NOW)
    assert [type(effect) for effect in engine.handle(told, NOW)] == [Note, Notify]


def lines(*prompts: str, model: str = "p/a", target: str = "q/dear") -> list[Entry]:
    found = []
    for index, prompt in enumerate(prompts):
        claim = {"claim": prompt, "message": prompt, "target": target}
        found.append(Entry(f"{index:021}a", NOW + 1000 * index, "claim", f"ses_{index}", model, claim))
        found.append(Entry(f"{index:021}b", NOW + 1000 * index + 1, "moved", f"ses_{index}", model, claim))
    return found


def answer(prompt: str | None, model: str = "q/dear", dollars: float = 0.5) -> Paid:
    return Paid(prompt, model, Tokens(input=100_000, output=10_000), dollars)


def test_what_moved_turns_cost_and_would_have_cost() -> None:
    answers = [answer("m1"), answer("m1"), answer("m2"), answer("m3"), answer(None), answer("m1", "p/a", 7.0)]
    found = spending(lines("m1", "m2"), answers, PRICES, NOW - 1, NOW + 10**4)
    assert found.total == pytest.approx(9.5)
    (one,) = found.moved
    assert (one.target, one.turns, one.dollars, one.unpriced) == ("q/dear", 2, 1.5, 0)
    assert one.instead == pytest.approx(3 * 0.45)
    assert found.saved == pytest.approx(3 * 0.45 - 1.5)


def test_use_by_day_and_model_and_by_session() -> None:
    tokens = Tokens(input=100, output=10, reasoning=5, cache_read=7, cache_write=3)
    paid = [Paid(None, model, tokens, cost, session, day) for model, cost, session, day in (
        ("p/a", 0.5, "ses_1", "2026-11-29"), ("p/a", 0.25, "ses_2", "2026-11-30"), ("q/b", 2.0, "ses_2", "2026-11-30"),
        ("p/a", 0.25, "ses_1", "2026-11-30"),
    )]  # fmt: skip
    found = spending([], paid, PRICES, NOW, NOW + 1, {"ses_1": ("Fix the tests", "/src")})
    assert [(day, model, used.answers, used.dollars) for day, model, used in found.days] == [
        ("2026-11-30", "q/b", 1, 2.0), ("2026-11-30", "p/a", 2, 0.5), ("2026-11-29", "p/a", 1, 0.5),
    ]  # fmt: skip
    assert [(one.session, one.title, one.directory, one.used.answers, one.used.dollars) for one in found.sessions] == [
        ("ses_2", "", "", 2, 2.25), ("ses_1", "Fix the tests", "/src", 2, 0.75),
    ]  # fmt: skip
    used = found.days[1][2]
    assert (used.input, used.output, used.cached, used.tokens) == (200, 30, 20, 250)


def test_without_a_price_nothing_is_compared_and_other_days_do_not_count() -> None:
    found = spending(lines("m1", model="x/unknown"), [answer("m1")], PRICES, NOW - 1, NOW + 10**4)
    assert (found.moved[0].unpriced, found.moved[0].saved, found.saved) == (1, None, None)
    assert spending(lines("m1"), [answer("m1")], PRICES, NOW + 5, NOW + 10**4).moved == ()
    assert replace(found, moved=()).dollars == 0


def test_every_kind_of_token_counts_once_and_what_the_cache_gave_is_not_spent():
    tokens = Tokens(1, 2, 4, 8, 16)
    assert (tokens.spent, tokens.context) == (23, 31)
