"""Tests of which fallbacks can take a session over, and which comes first by the results of moves."""

from __future__ import annotations

import pytest

from ocwatchd.core.domain.capability import Capacity, Needs, unfit
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.pools import FIRST_HEALTHY, Pool
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.choice import Chosen, Exhausted, choose
from ocwatchd.core.fallback.considered import considered
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.fallback.ranking import Experience, best_first
from ocwatchd.core.policy import Order, Policy

SEES = frozenset(("image",))


@pytest.mark.parametrize(
    ("needs", "capacity", "why"),
    [
        (Needs(7000), Capacity(8000, 900), None),
        (
            Needs(7200),
            Capacity(8000, 900),
            "too small: the session has 7,200 tokens, but the context window has 8,000, of which 900",
        ),
        (Needs(7000), Capacity(8000, 8000), None),  # a local model whose longest answer is its whole window
        (Needs(8000), Capacity(8000, 0), None),
        (Needs(8001), Capacity(8000, 0), "the context window has 8,000"),
        (Needs(10**9), Capacity(0, 0), None),  # unknown window
        (Needs(10**9), None, None),
        (Needs(5, SEES), Capacity(8000), "does not support attachments of the kind image"),
        (Needs(5, SEES), Capacity(8000, 0, frozenset(("image", "pdf"))), None),
    ],
)
def test_floor(needs: Needs, capacity: Capacity | None, why: str | None) -> None:
    found = unfit(needs, capacity)
    assert (found is None) == (why is None) and (why or "") in (found or "")


A, SMALL, BIG = (ModelRef.parse(name) for name in ("p/a", "q/small", "r/big"))
CHAIN = Policy(chains={"p/a": ("q/small", "r/big")})
OUTLOOK = Outlook("ses_1", {}, Needs(9000), {"q/small": Capacity(8000), "r/big": Capacity(200_000)})


def test_what_would_overflow_is_passed_over_and_said() -> None:
    choice = choose(A, None, CHAIN, lambda _: False, outlook=OUTLOOK)
    assert isinstance(choice, Chosen)
    assert (choice.target.model, choice.passed) == (BIG, (SMALL,))
    rows = considered(choice, Cooldowns(), A, (), 0.0, OUTLOOK)
    assert [row["model"] for row in rows] == ["q/small", "r/big"]
    assert str(rows[0]["why"]).startswith("too small: the session has 9,000 tokens")
    stuck = choose(A, None, CHAIN, lambda model: model == BIG, outlook=OUTLOOK)
    assert isinstance(stuck, Exhausted)
    assert [model for model, _ in stuck.unfit] == [SMALL]


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, ["a", "b", "c"]),
        ({"a": Experience(1, 0, None)}, ["b", "c", "a"]),
        ({"a": Experience(20, 20, 4.0), "b": Experience(20, 20, 0.5)}, ["b", "c", "a"]),
        ({"a": Experience(20, 19, 0.6), "b": Experience(20, 10, 0.4)}, ["c", "a", "b"]),
        ({"a": Experience(20, 20, 1.01), "b": Experience(20, 20, 0.99)}, ["a", "b", "c"]),  # too small a difference
    ],
)
def test_experience_orders(known: dict[str, Experience], wanted: list[str]) -> None:
    assert list(best_first(["a", "b", "c"], known)) == wanted


def test_only_who_asks_for_it_gets_the_learnt_order_in_chains_and_first_healthy_pools() -> None:
    known = {"q/small": Experience(9, 1, 2.0)}
    pools = {"pool": Pool("pool", ("q/small", "r/big"), FIRST_HEALTHY)}
    for chains in ({"p/a": ("q/small", "r/big")}, {"p/a": ("pool",)}):
        for order, wanted in ((Order.CONFIGURED, SMALL), (Order.LEARNT, BIG)):
            policy = Policy(chains=chains, pools=pools if "pool" in chains["p/a"] else {}, order=order)
            choice = choose(A, None, policy, lambda _: False, outlook=Outlook(known=known))
            assert isinstance(choice, Chosen)
            assert choice.target.model == wanted
