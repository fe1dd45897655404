"""Tests that pools, loads and cooldowns give each session its member."""

from __future__ import annotations

from collections import Counter

import pytest

from ocwatchd.core.domain import chains
from ocwatchd.core.domain.pools import FIRST_HEALTHY, LEAST_USED, ROUND_ROBIN, Fill, Pool, order, relative
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.choice import Chosen, Exhausted, agent_for, choose
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.policy import Policy

A, B, C = "p/a", "q/a", "r/a"
EQUAL = Pool("pool", (A, B, C), ROUND_ROBIN)
SESSIONS = [f"ses_{number:x}ffeTfiQl84ukTurXs" for number in range(3000)]


def first(pool: Pool, session: str, **loads: float) -> str:
    return order(pool, session, {name.replace("__", "/"): load for name, load in loads.items()})[0]


def test_a_session_gets_the_same_order_every_time_and_sessions_differ() -> None:
    assert order(EQUAL, "ses_1", {}) == order(EQUAL, "ses_1", {})
    assert {order(EQUAL, session, {}) for session in SESSIONS} >= {(A, B, C), (C, B, A)}


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [({}, (1000, 1000, 1000)), ({A: 4.0}, (2000, 500, 500)), ({A: 0.5, B: 0.5}, (750, 750, 1500))],
)
def test_sessions_that_know_nothing_of_each_other_are_drawn_by_weight(
    weights: dict[str, float], wanted: tuple[int, ...]
) -> None:
    drawn = Counter(first(Pool("pool", (A, B, C), LEAST_USED, weights), session) for session in SESSIONS)
    assert all(abs(drawn[member] - number) < 150 for member, number in zip((A, B, C), wanted, strict=True)), drawn


@pytest.mark.parametrize(("number", "weights", "wanted"), [(9, {}, (3, 3, 3)), (10, {A: 3.0}, (6, 2, 2))])
def test_a_burst_that_is_counted_spreads_to_the_session(
    number: int, weights: dict[str, float], wanted: tuple[int, ...]
) -> None:
    pool, fill = Pool("pool", (A, B, C), ROUND_ROBIN, weights), Fill()
    for session in SESSIONS[:number]:
        fill.give(order(pool, session, fill.loads(100.0))[0], 100.0)
    assert tuple(fill.loads(100.0)[member] for member in (A, B, C)) == wanted


def test_the_least_used_comes_first_and_the_first_healthy_needs_no_draw() -> None:
    assert {first(Pool("pool", (A, B)), session, p__a=2.0, q__a=0.5) for session in SESSIONS[:200]} == {B}
    assert {first(Pool("pool", (A, B), FIRST_HEALTHY), session, p__a=9.0) for session in SESSIONS[:200]} == {A}


def test_what_was_measured_replaces_what_was_given_before() -> None:
    fill = Fill()
    fill.give(A, 100.0)
    fill.give(A, 200.0)
    fill.measure({A: 5.0}, (A, B), 150.0)
    assert fill.loads(201.0) == {A: 6.0}
    assert fill.loads(200.0 + 3600.0) == {A: 5.0}


def test_use_counts_in_sessions() -> None:
    assert relative({A: 300.0, B: 100.0}, 4) == {A: 3.0, B: 1.0}
    assert relative({}, 4) == relative({A: 0.0}, 0) == {}


POLICY = Policy(
    chains={"pool": ("s/d",), "x/y": ("alias", "t/e"), "*": ("t/e",)},
    aliases={"alias": "pool"},
    agents={"pool": "carrier", A: "own"},
    pools={"pool": EQUAL},
)


def candidates(model: str, session: str = "ses_1", **loads: float) -> list[str]:
    arranged = {"pool": order(EQUAL, session, {name.replace("__", "/"): load for name, load in loads.items()})}
    return list(chains.candidates(model, chains.normalise(POLICY.chains, POLICY.aliases), arranged))


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("x/y", [C, B, A, "t/e", "s/d"]),  # an alias of a pool, without a chain
        (A, [C, B, "s/d", "t/e"]),  # the other members, then the pool's chain
        ("pool", [C, B, A, "s/d", "t/e"]),
        ("z/z", ["t/e"]),
    ],
)
def test_a_pool_stands_for_its_members_in_their_order(asked: str, wanted: list[str]) -> None:
    assert candidates(asked, p__a=9.0, q__a=4.0) == wanted


def test_the_choice_for_nobody_in_particular_names_the_pool() -> None:
    model = ModelRef.parse("x/y")
    choice = choose(model, None, POLICY, lambda _: False, outlook=Outlook("ses_1", {A: 9.0, C: 9.0}))
    assert isinstance(choice, Chosen)
    assert (str(choice.target.model), choice.target.pool, choice.target.agent) == (B, "pool", "carrier")
    resting = choose(model, None, POLICY, lambda ref: str(ref) in (A, B, C))
    assert isinstance(resting, Chosen)
    assert (str(resting.target.model), resting.target.pool) == ("t/e", None)
    assert isinstance(choose(model, None, POLICY, lambda _: True), Exhausted)


def test_a_member_is_carried_by_its_own_agent_before_the_pools() -> None:
    assert [agent_for(ModelRef.parse(name), POLICY) for name in (A, B, "s/d")] == ["own", "carrier", None]


def test_circles_show_through_a_pool_and_equals_are_none() -> None:
    members = {"pool": (A, B)}
    assert chains.find_cycles(chains.opened({"pool": ("s/d",)}, members)) == []
    assert chains.find_cycles(chains.opened({"s/d": ("pool",), A: ("s/d",)}, members)) == [("s/d", A, "s/d")]


def test_a_session_draws_the_same_member_in_every_release_and_in_the_plugin() -> None:
    """Otherwise all sessions would change their model with an upgrade, and the prompt cache would be lost."""
    drawn = [order(EQUAL, session, {})[0] for session in ("ses_1", "ses_2", "ses_3", "ses_4", "ß", "")]
    assert drawn == [B, B, C, C, A, B]


def test_a_member_of_a_pool_in_its_own_chain_has_all_other_members_as_fallbacks() -> None:
    found = chains.opened({"fast": ("fast", "x/z")}, {"fast": ("p/b", "p/a", "p/c")})
    assert found["p/b"] == ("p/a", "p/c", "x/z")
    assert found["p/a"] == ("p/b", "p/c", "x/z")


def test_an_agent_that_is_named_by_the_model_goes_before_one_that_is_named_by_an_alias() -> None:
    agents = {"quick": "by-alias", "p/a": "by-model"}
    assert chains.carriers(agents, {"quick": "p/a"}, {}) == {"p/a": "by-model"}
