"""Given a command line, the user's configuration and the register: what is changed for one launch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocwatchd.config.names import Names
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.transform import CONTENT, Plan, Transform, agents_of, merge_content, until_words
from ocwatchd.state.entries import Entry
from ocwatchd.state.register import Register

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


def listed(*models: str, **targets: tuple[str, str | None]) -> Register:
    named = {name.replace("__", "/"): target for name, target in targets.items()}
    entries = {
        key: Entry(key, {"until": LATER, "target": {"model": t[0], "agent": t[1]} if (t := named.get(key)) else None})
        for key in (*models, *named)
    }
    return Register(entries)


def plan(words: str, register: Register, environ: dict[str, str] | None = None, **more: Any) -> Plan:
    names = Names(CHAINS, ALIASES, {"b/second": "claude-fallback"})
    transform = Transform(names, register, CONFIG, agents_of(CONFIG, {}, {}), environ or {})
    return transform.plan(Arguments(words.split()), **more)


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
    made = plan("run hi", listed("a/main", "s/small"))
    assert made.words == ["run", "hi"]
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
        ("run -m a/main hi", "run -m b/second hi"),
        ("run --model=a/main hi", "run --model=b/second hi"),
        ("run -ma/main hi", "run -mb/second hi"),
        ("run --model a/main --agent plan hi", "run --model b/second --agent plan hi"),
        ("run --agent claude-primary hi", "run --agent claude-fallback hi"),
        ("run --agent reviewer hi", "run --agent reviewer hi"),
        ("--model a/main", "--model b/second"),
        ("run -m a/main -- -m a/main", "run -m b/second -- -m a/main"),
    ],
)
def test_what_the_command_line_names_is_moved_with_one_line(words: str, changed: str) -> None:
    made = plan(words, listed("a/main"))
    assert made.words == changed.split()
    assert len(made.story) == 1
    assert "a/main" in made.story[0] and "b/second" in made.story[0]


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
    def foreseen(*rest: str) -> Register:
        soon = Entry("a/main", {"until": LATER, "told_by": "forecast"})
        return Register({"a/main": soon} | {name: Entry(name, {"until": LATER}) for name in rest})

    assert plan("run -m a/main hi", foreseen()).words == ["run", "-m", "b/second", "hi"]
    alone = plan("run -m a/main hi", foreseen("b/second", "c/third"))
    assert (alone.words, alone.exhausted) == (["run", "-m", "a/main", "hi"], [])
    dear = Register({"a/main": Entry("a/main", {"until": LATER})}, dear={"b/second": "paid"})
    assert plan("run -m a/main hi", dear).words == ["run", "-m", "c/third", "hi"]
    assert plan("run -m b/second hi", dear).words == ["run", "-m", "b/second", "hi"]


def test_an_earlier_session_counts_by_its_own_model() -> None:
    everything = listed("a/main", "b/second", "c/third")
    assert plan("run -c hi", everything, earlier="x/free").exhausted == []
    assert plan("run -s ses_1 hi", everything, earlier="b/second").exhausted == ["b/second"]
    assert plan("run -s ses_1 hi", everything).exhausted == []


def test_no_fallback_moves_nothing() -> None:
    made = plan("run --no-fallback --agent claude-fallback hi", listed("a/main"), fallback=False)
    assert (made.words, made.environ, made.story) == (["run", "--agent", "claude-fallback", "hi"], {}, [])


def test_until_in_words() -> None:
    assert until_words(float("inf")) == "until a person clears it"
    assert until_words(4070908800.0).startswith("until 20")
