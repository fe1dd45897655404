"""Tests of choosing a fallback: a chain, cooldowns and tried models give this target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain import chains
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope
from ocwatchd.core.fallback.choice import Chosen, Exhausted, choose, onwards
from ocwatchd.core.fallback.selection import Situation, select
from ocwatchd.core.policy import Policy
from ocwatchd.state.blacklist.format import Entry
from ocwatchd.state.blacklist.query import CooldownTable


def ref(text: str) -> ModelRef:
    return ModelRef.parse(text)


def policy(chain: dict[str, list[str]], **names: dict[str, str]) -> Policy:
    return Policy(chains={key: tuple(value) for key, value in chain.items()}, **names)


@pytest.mark.parametrize(
    ("chain", "cooling", "tried", "wanted"),
    [
        ({"p/a": ["q/b"]}, "", "", "q/b"),
        ({"p/a": ["q/b", "r/c"]}, "q/b", "", "r/c"),
        ({"p/a": ["q/b", "r/c"]}, "", "q/b", "r/c"),
        ({"p/a": ["q/b"], "q/b": ["r/c"]}, "q/b", "", "r/c"),  # followed through
        ({"p/a": ["q/b", "r/c"], "q/b": ["s/d"]}, "q/b", "", "r/c"),  # the model's own list comes first
        ({"p/a": ["q/b", "r/c"], "q/b": ["s/d"]}, "q/b r/c", "", "s/d"),
        ({"p/a": ["q/b"], "q/b": ["p/a", "r/c"]}, "q/b", "", "r/c"),  # a circular chain is cut
        ({"p/a": ["q/b"], "q/b": ["p/a"]}, "q/b", "", None),
        ({"p/a": ["p/a"]}, "", "", None),  # never the limited model itself
        ({"*": ["q/b"]}, "", "", "q/b"),
        ({"*": ["p/a", "q/b"]}, "", "", "q/b"),
        ({"p/*": ["q/b"], "*": ["r/c"]}, "", "", "q/b"),
        ({"p/a": ["q/b"], "*": ["r/c"]}, "q/b", "", "r/c"),  # the default follows at the end of a chain
        ({"p/a": [], "*": ["r/c"]}, "", "", None),  # an empty chain means no fallback for this model
        ({"x/y": ["q/b"]}, "", "", None),
        ({}, "", "", None),
        ({"p/a": ["nonsense", "q/*", "r/c"]}, "", "", "r/c"),  # an entry that is not a model is skipped
    ],
)
def test_choice(chain: dict[str, list[str]], cooling: str, tried: str, wanted: str | None) -> None:
    resting = {ref(name) for name in cooling.split()}
    choice = choose(
        ref("p/a"), "build", policy(chain), lambda model: model in resting, {ref(name) for name in tried.split()}
    )
    assert (str(choice.target.model) if isinstance(choice, Chosen) else None) == wanted


def test_aliases_name_models_on_both_sides() -> None:
    names = {"big": "p/a", "small": "tiny", "tiny": "q/b", "loop": "loop"}
    choice = choose(ref("p/a"), None, policy({"big": ["loop", "small"]}, aliases=names), lambda _: False)
    assert isinstance(choice, Chosen)
    assert choice.target.model == ref("q/b")


@pytest.mark.parametrize(
    ("agents", "wanted"),
    [
        ({}, "plan"),  # the session keeps its own agent
        ({"q/b": "helper"}, "helper"),
        ({"second": "helper"}, "helper"),
        ({"r/c": "other"}, "plan"),
    ],
)
def test_agent(agents: dict[str, str], wanted: str) -> None:
    given_ = policy({"p/a": ["q/b"]}, aliases={"second": "q/b"}, agents=agents)
    choice = choose(ref("p/a"), "plan", given_, lambda _: False)
    assert isinstance(choice, Chosen)
    assert choice.target.agent == wanted


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("p/a", (None, "p/a")),
        ("*", (None, "*")),
        ("agent:plan", ("plan", None)),
        ("agent:team/plan@p/a", ("team/plan", "p/a")),
        ("agent:plan@v/claude@2025", ("plan", "v/claude@2025")),
    ],
)
def test_the_key_of_a_chain_names_agent_and_model(key: str, parts: tuple[str | None, str | None]) -> None:
    assert chains.split_key(key) == parts
    assert parts[0] is None or chains.key_of(*parts) == key


def test_a_carried_session_keeps_the_chain_of_its_own_agent() -> None:
    """A move gave the session the fallback's agent; the agent that the user chose still decides."""
    given_ = policy({"p/a": ["q/b"], "q/b": ["s/d"], "agent:plan": ["q/b", "r/c"]}, agents={"q/b": "helper"})
    cooldowns = Cooldowns(
        Cooldown(ref(name), LimitKind.QUOTA, Scope.MODEL, 0, None, 1, ResetSource.TEXT) for name in ("p/a", "q/b")
    )
    for asker, wanted in (("plan", "r/c"), (None, "s/d")):
        choice = onwards(given_, cooldowns, ref("q/b"), "helper", ref("p/a"), (), 1.0, asker=asker)
        assert isinstance(choice, Chosen)
        assert (str(choice.target.model), choice.target.agent) == (wanted, "helper")


def test_whole_provider_and_free_tier_rest() -> None:
    entries = [
        Cooldown(ref("q/*"), LimitKind.QUOTA, Scope.PROVIDER, 0, None, 1, ResetSource.TEXT),
        Cooldown(ref("r/x:free"), LimitKind.QUOTA, Scope.FREE_TIER, 0, None, 1, ResetSource.TEXT),
    ]
    chain = policy({"p/a": ["q/b", "r/c:free", "r/c"]})
    choice = choose(ref("p/a"), None, chain, lambda model: any(entry.covers(model) for entry in entries))
    assert isinstance(choice, Chosen)
    assert choice.target.model == ref("r/c")
    assert choice.passed == (ref("q/b"), ref("r/c:free"))


def test_exhausted_names_the_soonest_return() -> None:
    ends = {ref("p/a"): 900.0, ref("q/b"): 300.0, ref("r/c"): None}
    choice = choose(ref("p/a"), None, policy({"p/a": ["r/c", "q/b"]}), lambda _: True, (), ends.get)
    assert choice == Exhausted((ref("p/a"), ref("r/c"), ref("q/b")), (ref("q/b"), 300.0))
    assert choice.chained
    assert not choose(ref("p/a"), None, policy({}), lambda _: True).chained


@pytest.mark.parametrize(
    ("chain", "wanted"),
    [
        ({"a": ["b"], "b": ["c"]}, []),
        ({"a": ["a"]}, [("a", "a")]),
        ({"a": ["b"], "b": ["a"]}, [("a", "b", "a")]),
        ({"a": ["x", "b"], "b": ["c"], "c": ["a"]}, [("a", "b", "c", "a")]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, [("a", "b", "a"), ("c", "d", "c")]),
        ({"*": ["a"], "a": ["b"]}, []),
    ],
)
def test_cycles(chain: dict[str, list[str]], wanted: list[tuple[str, ...]]) -> None:
    assert chains.find_cycles(chain) == wanted


names = st.sampled_from([f"p{n}/m" for n in range(8)] + ["*"])


@given(st.dictionaries(names, st.lists(names, max_size=6), max_size=9), names)
def test_candidates_end_and_repeat_nothing(chain: dict[str, list[str]], start: str) -> None:
    found = list(chains.candidates(start, chain))
    assert len(found) == len(set(found))
    assert start not in found


def test_a_long_chain_and_a_dense_one_cost_little() -> None:
    dense = {f"p/{n}": [f"p/{m}" for m in range(200)] for n in range(200)}
    assert len(list(chains.candidates("p/0", dense))) == chains.LONGEST
    ring = {f"p/{n}": [f"p/{(n + 1) % 500}"] for n in range(500)}
    assert [len(cycle) for cycle in chains.find_cycles(ring)] == [501]


@pytest.mark.parametrize(
    ("targets", "blocked", "wanted"),
    [
        ({"a": "b"}, "", "b"),
        ({"a": "b", "b": "c"}, "b", "c"),  # a listed target is followed
        ({"a": "b", "b": "c"}, "b c", None),
        ({"a": "b", "b": "a"}, "b", None),  # never in a circle
        ({}, "", None),
    ],
)
def test_following_targets(targets: dict[str, str], blocked: str, wanted: str | None) -> None:
    def is_blocked(name: str) -> bool:
        return name == "a" or name in blocked.split()

    situation = Situation(
        {}, {}, is_blocked, is_blocked, listed=lambda name: [(targets[name], None, None)] if name in targets else []
    )
    assert select("a", situation).model == wanted


models = st.sampled_from(["p/a", "p/b", "p/a:free", "p/b:free", "p/c-free", "q/a", "q/b:free", "pp/a"])


@given(st.sampled_from(["p/a", "p/*", "p/a:free", "p/c-free", "q/*"]), st.sampled_from(Scope), models)
def test_quick_commands_and_ledger_agree_on_what_an_entry_covers(key: str, scope: Scope, model: str) -> None:
    entry = Cooldown(ref(key), LimitKind.QUOTA, scope, 0, None, 1, ResetSource.TEXT)
    listed = Entry(key, {"until": None, "scope": scope.value})
    assert CooldownTable({key: listed}).blocked(model) == entry.covers(ref(model))
    assert (Cooldowns([entry]).avoided(ref(model), 1.0) is not None) == entry.covers(ref(model))


def test_what_fails_the_session_is_passed_over_though_it_does_not_cool():
    """Its origin is still cooling down, and its chain contains the model that has just failed."""
    cooldowns = Cooldowns([Cooldown(ref("p/a"), LimitKind.RATE_LIMIT, Scope.MODEL, 0.0, 2000.0, 1, ResetSource.TEXT)])
    found = onwards(policy({"p/a": ["p/b", "p/c"]}), cooldowns, ref("p/b"), None, ref("p/a"), (), 1000.0)
    assert isinstance(found, Chosen)
    assert found.target.model == ref("p/c")
