"""Tests of what a command line, the user's configuration and the blacklist change for one launch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocwatchd.config.names import Names
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.transform import CONTENT, Plan, Transform, agents_of, merge_content, until_words
from ocwatchd.state.blacklist.format import Entry
from ocwatchd.state.blacklist.query import CooldownTable

CONFIG: dict[str, Any] = {
    "model": "a/main",
    "small_model": "s/small",
    "agent": {
        "build": {},
        "claude-primary": {"model": "a/main"},
        "claude-fallback": {"model": "b/second"},
        "reviewer": {"model": "a/main", "mode": "subagent"},
    },
}
CHAINS = {"a/main": ("second", "c/third"), "s/small": ("b/second",)}
ALIASES = {"second": "b/second", "claude-primary": "a/main"}
LATER = "2099-01-01T00:00:00Z"


def listed(*models: str, **targets: tuple[str, str | None]) -> CooldownTable:
    named = {name.replace("__", "/"): target for name, target in targets.items()}
    entries = {
        key: Entry(key, {"until": LATER, "target": {"model": t[0], "agent": t[1]} if (t := named.get(key)) else None})
        for key in (*models, *named)
    }
    return CooldownTable(entries)


def plan(words: str, register: CooldownTable, environ: dict[str, str] | None = None, **more: Any) -> Plan:
    names = Names(CHAINS, ALIASES, {"b/second": "claude-fallback"})
    transform = Transform(names, register, CONFIG, agents_of(CONFIG, {}, {}), environ or {})
    return transform.plan(Arguments(words.split()), **more)


@pytest.mark.parametrize(
    ("chains", "content"),
    [
        ({"p/a": "q/b"}, {"model": "q/b"}),
        ({"p/a": "q/b", "agent:plan": "r/c"}, {"model": "q/b", "agent": {"plan": {"model": "r/c"}}}),
        ({"agent:build": "r/c"}, {"agent": {"build": {"model": "r/c"}}}),
        ({"p/a": "q/b", "agent:plan": []}, {"model": "q/b", "agent": {"plan": {"model": "p/a"}}}),
        ({"p/a": "q/b", "agent:unknown": "r/c"}, {"model": "q/b"}),  # naming the agent would create it
    ],
)
def test_an_agent_on_the_default_model_goes_to_its_own_chain(chains: dict[str, Any], content: dict[str, Any]) -> None:
    plain = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in chains.items()}
    config = {"model": "p/a"}
    transform = Transform(Names(plain, {}, {}), listed("p/a"), config, agents_of(config, {}, {}), {})
    assert json.loads(transform.plan(Arguments(["run", "hi"])).environ[CONTENT]) == content


@pytest.mark.parametrize(("agent", "wanted"), [("plan", "r/c"), ("build", "q/b"), (None, "q/b")])
def test_a_named_model_goes_to_the_chain_of_the_named_agent(agent: str | None, wanted: str) -> None:
    names = Names({"p/a": ("q/b",), "agent:plan": ("r/c",)}, {}, {})
    transform = Transform(names, listed("p/a"), {}, agents_of({}, {}, {}), {})
    words = ["run", "-m", "p/a", *(["--agent", agent] if agent else []), "hi"]
    for made in (transform.plan(Arguments(words)), transform.plan_for_client(Arguments(words))):
        assert made.words[made.words.index("-m") + 1] == wanted


@pytest.mark.parametrize(
    ("words", "subcommand", "model", "agent", "own"),
    [
        ("run hello", "run", None, None, set()),
        ("run -m a/b --agent x hi", "run", "a/b", "x", set()),
        ("run --model=a/b --agent=x", "run", "a/b", "x", set()),
        ("run -ma/b", "run", "a/b", None, set()),
        ("--log-level DEBUG run hello", "run", None, None, set()),
        ("--model run", "", "run", None, set()),
        ("some/dir", "", None, None, set()),
        ("", "", None, None, set()),
        ("run --wait --no-fallback hi", "run", None, None, {"--wait", "--no-fallback"}),
        ("run -- --wait --model x", "run", None, None, set()),
        ("run --title --model hi", "run", None, None, set()),
        ("serve --port 1", "serve", None, None, set()),
    ],
)
def test_reading_a_command_line(
    words: str, subcommand: str, model: str | None, agent: str | None, own: set[str]
) -> None:
    read = Arguments(words.split())
    assert (read.subcommand, read.model, read.agent, read.own) == (subcommand, model, agent, own)
    assert read.words == [word for word in words.split() if word not in own]


@pytest.mark.parametrize("words", ["run hi", "", "run -m a/main hi", "serve"])
def test_nothing_cools_nothing_changes(words: str) -> None:
    made = plan(words, listed("x/other"))
    assert (made.words, made.environ, made.story, made.exhausted) == (words.split(), {}, [], [])


def test_everything_configured_is_replaced_through_the_environment() -> None:
    made = plan("serve", listed("a/main", "s/small"))
    assert (made.words, made.story) == (["serve"], [])
    assert json.loads(made.environ[CONTENT]) == {
        "model": "b/second",
        "small_model": "b/second",
        "agent": {"claude-primary": {"model": "b/second"}, "reviewer": {"model": "b/second"}},
    }


def test_the_users_inline_configuration_is_merged() -> None:
    inline = '{"theme": "x", /* mine */ "agent": {"reviewer": {"prompt": "p"}}, "plugin": ["mine"],}'
    made = plan("run hi", listed("a/main"), {CONTENT: inline})
    merged = json.loads(made.environ[CONTENT])
    assert merged["theme"] == "x"
    assert merged["plugin"] == ["mine"]
    assert merged["agent"]["reviewer"] == {"prompt": "p", "model": "b/second"}
    assert json.loads(merge_content(inline, {"plugin": ["ours", "mine"]}) or "")["plugin"] == ["mine", "ours"]
    assert merge_content("{broken", {"model": "b/second"}) is None


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("run -m a/main hi", "run -m b/second --agent claude-fallback hi"),
        ("run --model=a/main hi", "run --model=b/second --agent claude-fallback hi"),
        ("run -ma/main hi", "run -mb/second --agent claude-fallback hi"),
        ("run --agent claude-primary -m a/main hi", "run --agent claude-fallback -m b/second hi"),
        ("run --agent claude-fallback -m a/main hi", "run --agent claude-fallback -m b/second hi"),
        ("run -c -m a/main hi", "run -c -m b/second hi"),
        ("run -s ses_1 --agent claude-primary -m a/main hi", "run -s ses_1 --agent claude-fallback -m b/second hi"),
        ("run --model a/main --agent plan hi", "run --model b/second --agent plan hi"),
        ("run --agent claude-primary hi", "run --agent claude-fallback hi"),
        ("run --agent reviewer hi", "run --agent reviewer hi"),
        ("--model a/main", "--model b/second --agent claude-fallback"),
        ("run hi", "run --agent claude-fallback hi"),
        ("--print-logs run hi", "--print-logs run --agent claude-fallback hi"),
        ("", "--agent claude-fallback"),
        ("../project", "--agent claude-fallback ../project"),
        ("run -m a/main -- -m a/main", "run -m b/second --agent claude-fallback -- -m a/main"),
    ],
)
def test_what_the_command_line_names_is_moved_with_one_line(words: str, changed: str) -> None:
    made = plan(words, listed("a/main"))
    assert made.words == changed.split()
    assert len(made.story) == 1
    assert "a/main" in made.story[0] and "b/second" in made.story[0]


@pytest.mark.parametrize("words", ["run -c hi", "serve", "--continue", "models"])
def test_without_a_new_turn_of_the_default_agent_the_command_line_stays(words: str) -> None:
    made = plan(words, listed("a/main"))
    assert (made.words, made.story) == (words.split(), [])


def test_a_default_agent_with_fewer_permissions_stays() -> None:
    config = {**CONFIG, "default_agent": "plan"}
    names = Names(CHAINS, ALIASES, {"b/second": "claude-fallback"})
    transform = Transform(names, listed("a/main"), config, agents_of(config, {}, {}), {})
    assert transform.plan(Arguments(["run", "hi"])).words == ["run", "hi"]


def test_an_explicit_model_leaves_a_configured_default_agent_with_fewer_permissions() -> None:
    names = Names(CHAINS, ALIASES, {"b/second": "claude-fallback", "c/third": "gone"})
    config = {**CONFIG, "default_agent": "plan"}
    for used, words in (
        (config, ["run", "-m", "b/second"]),
        (CONFIG, ["run", "-m", "b/second", "--agent", "claude-fallback"]),
    ):
        transform = Transform(names, listed("a/main"), used, agents_of(used, {}, {}), {})
        assert transform.plan(Arguments(["run", "-m", "a/main"])).words == words
    unknown = Transform(names, listed("a/main", "b/second"), CONFIG, agents_of(CONFIG, {}, {}), {})
    assert unknown.plan(Arguments(["run", "-m", "a/main"])).words == ["run", "-m", "c/third"], "no such agent"


def test_an_alias_that_is_an_agent_carries_its_model() -> None:
    names = Names({"a/main": ("claude-fallback",)}, {"claude-fallback": "b/second"}, {})
    transform = Transform(names, listed("a/main"), CONFIG, agents_of(CONFIG, {}, {}), {})
    made = transform.plan(Arguments(["run", "--agent", "claude-primary", "hi"]))
    assert made.words == ["run", "--agent", "claude-fallback", "hi"]


def test_targets_are_followed_and_the_entry_goes_before_the_chain() -> None:
    assert plan("run -m a/main", listed("a/main", "b/second")).words == ["run", "-m", "c/third"]
    assert plan("run -m a/main", listed(a__main=("d/fourth", None))).words == ["run", "-m", "d/fourth"]
    followed = listed(a__main=("b/second", None), b__second=("d/fourth", None))
    assert plan("run -m a/main", followed).words == ["run", "-m", "d/fourth"]
    assert plan("run -m a/main", listed(**{"a__*": ("d/fourth", None)})).words == ["run", "-m", "d/fourth"]


def test_exhausted_names_all_that_rest() -> None:
    everything = listed("a/main", "b/second", "c/third")
    assert plan("run hi", everything).exhausted == ["a/main", "b/second", "c/third"]
    assert plan("run -m b/second hi", everything).exhausted == ["b/second"]
    assert plan("run -m x/free hi", everything).exhausted == []
    assert plan("run hi", listed("a/main"), fallback=False).exhausted == ["a/main"]


def test_what_is_only_foreseen_is_avoided_and_never_exhausted() -> None:
    def foreseen(*rest: str) -> CooldownTable:
        soon = Entry("a/main", {"until": LATER, "reset_source": "forecast"})
        return CooldownTable({"a/main": soon} | {name: Entry(name, {"until": LATER}) for name in rest})

    assert plan("run -m a/main hi", foreseen()).words == "run -m b/second --agent claude-fallback hi".split()
    alone = plan("run -m a/main hi", foreseen("b/second", "c/third"))
    assert (alone.words, alone.exhausted) == (["run", "-m", "a/main", "hi"], [])
    over_budget = CooldownTable({"a/main": Entry("a/main", {"until": LATER})}, over_budget={"b/second": "paid"})
    assert plan("run -m a/main hi", over_budget).words == ["run", "-m", "c/third", "hi"]
    assert plan("run -m b/second hi", over_budget).words == ["run", "-m", "b/second", "hi"]


def test_an_earlier_session_counts_by_its_own_model() -> None:
    everything = listed("a/main", "b/second", "c/third")
    assert plan("run -c hi", everything, earlier="x/free").exhausted == []
    assert plan("run -s ses_1 hi", everything, earlier="b/second").exhausted == ["b/second"]
    assert plan("run -s ses_1 hi", everything).exhausted == []


def test_no_fallback_moves_nothing() -> None:
    made = plan("run --no-fallback --agent claude-fallback hi", listed("a/main"), fallback=False)
    assert (made.words, made.environ, made.story) == (["run", "--agent", "claude-fallback", "hi"], {}, [])


def test_until_in_words() -> None:
    assert until_words(float("inf")) == "until you clear it"
    assert until_words(4070908800.0).startswith("until 20")
