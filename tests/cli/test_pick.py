"""Tests of `ocwatch pick`: a chain and a blacklist give this model on standard output, and no other output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Cli, at, resting


def to(model: str, seconds: float | None = 3600, **more: Any) -> dict[str, Any]:
    return resting(seconds, target={"model": model, "agent": None}, **more)


@pytest.mark.parametrize(
    ("chain", "register", "asked", "picked"),
    [
        ({}, {}, "p/a", "p/a"),
        ({"p/a": "q/b"}, {}, "p/a", "p/a"),
        ({"p/a": "q/b"}, {"p/a": resting()}, "p/a", "q/b"),
        ({"p/a": "q/b"}, {"p/a": resting(-1)}, "p/a", "p/a"),  # over
        ({"p/a": "q/b", "q/b": "r/c"}, {"p/a": resting(), "q/b": resting()}, "p/a", "r/c"),
        ({"p/a": "q/b", "q/b": "p/a"}, {"p/a": resting(), "q/b": resting()}, "p/a", None),
        ({"p/a": ["q/b", "r/c"]}, {"p/*": resting(scope="provider"), "q/*": resting(None)}, "p/a", "r/c"),
        ({"p/a:free": ["p/b:free", "p/b"]}, {"p/a:free": resting(scope="free_tier")}, "p/a:free", "p/b"),
        ({"*": "q/b"}, {"p/a": resting()}, "p/a", "q/b"),
        ({}, {"p/a": to("q/b")}, "p/a", "q/b"),  # without a chain: where the entry sends prompts
        ({}, {"p/a": to("q/b"), "q/b": to("r/c")}, "p/a", "r/c"),
        ({}, {"p/a": to("q/b"), "q/b": to("p/a")}, "p/a", None),
        ({"p/a": ["r/c", "q/b"]}, {"p/a": to("q/b")}, "p/a", "q/b"),  # like prevention, which knows no chain
        ({"p/a": ["r/c"]}, {"p/a": to("q/b"), "q/b": resting()}, "p/a", "r/c"),
        ({"big": "small"}, {"p/a": resting()}, "big", "q/b"),
        ({}, {"p/a": resting(kind="a new word")}, "p/a", None),
    ],
)
def test_pick(cli: Cli, chain: dict[str, Any], register: dict[str, Any], asked: str, picked: str | None) -> None:
    cli.configure(fallbackChain=chain, models={"big": "p/a", "small": "q/b"})
    cli.register(**register)
    done = cli("pick", asked)
    assert (done.returncode, done.stdout) == ((0, f"{picked}\n") if picked else (75, ""))
    document = cli.json("pick", asked, code=0 if picked else 75)
    assert set(document) == {"version", "time", "asked", "model", "cooling", "soonest", "passed"}
    assert (document["model"], document["cooling"]) == (picked, bool(picked != document["asked"]))


@pytest.mark.parametrize(("agent", "picked"), [("plan", "s/d"), ("build", "q/b"), (None, "q/b")])
def test_pick_for_an_agent(cli: Cli, agent: str | None, picked: str) -> None:
    cli.configure(fallbackChain={"p/a": "q/b", "agent:plan": "r/c", "agent:plan@p/a": ["r/c", "s/d"]})
    cli.register(**{"p/a": to("q/b"), "r/c": resting()})
    assert cli("pick", "p/a", *(["--agent", agent] if agent else [])).stdout == f"{picked}\n"


@pytest.mark.parametrize(
    ("register", "picked"),
    [
        ({"p/a": to("q/b", reset_source="forecast")}, "q/b"),
        ({"p/a": resting(reset_source="forecast")}, "q/b"),
        ({"p/a": to("q/b", reset_source="forecast"), "q/b": resting(), "r/c": resting()}, "p/a"),  # the only one
        ({"p/a": resting(), "q/b": resting(reset_source="forecast")}, "r/c"),
        ({"p/a": resting(), "q/b": resting(reset_source="forecast"), "r/c": resting()}, "q/b"),
        ({"p/a": to("q/b"), "q/b": resting(reset_source="forecast"), "r/c": resting()}, "q/b"),
    ],
)
def test_what_is_about_to_be_limited_is_taken_only_if_nothing_else_is_free(
    cli: Cli, register: dict[str, Any], picked: str
) -> None:
    cli.configure(fallbackChain={"p/a": ["q/b", "r/c"]})
    cli.register(**register)
    assert cli("pick", "p/a").stdout == f"{picked}\n"
    assert cli.json("pick", "p/a")["cooling"] is (register["p/a"]["reset_source"] != "forecast")


def test_a_budget_that_is_spent_keeps_paid_stand_ins_away_but_not_what_was_asked_for(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": ["q/b", "r/c"]}, budget=5)
    cli.register(**{"p/a": to("q/b")})
    left = {"version": 1, "until": at(3600), "budget": 5.0, "spent": 5.5, "over_budget": ["q/b", "x/y"]}
    cli.paths.budget.write_text(json.dumps(left))
    assert cli("pick", "p/a").stdout == "r/c\n"
    assert cli("pick", "q/b").stdout == "q/b\n"
    why = "paid, and today's budget is spent ($5.50 of $5.00)"
    assert cli.json("pick", "p/a")["passed"] == [{"model": "q/b", "why": why}]
    cli.register(**{"p/a": to("q/b"), "r/c": resting()})
    done = cli("pick", "p/a")
    assert (done.returncode, done.stdout) == (75, "")
    assert f"q/b is available, but skipped: {why}" in done.stderr
    cli.paths.budget.write_text(json.dumps({**left, "until": at(-1)}))
    assert cli("pick", "p/a").stdout == "q/b\n"


def test_exhausted_says_until_when_on_standard_error(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    cli.register(**{"p/a": resting(7200), "q/b": {**resting(), "until": "2099-01-02T03:04:05.000Z"}})
    done = cli("pick", "p/a")
    assert (done.returncode, done.stdout) == (75, "")
    assert " (in 2h)" in done.stderr.partition("p/a is available again at ")[2]
    assert cli.json("pick", "p/a", code=75)["soonest"]["model"] == "p/a"
    cli.register(**{"p/a": resting(None), "q/b": {**resting(), "until": "2099-01-02T03:04:05.000Z"}})
    assert "q/b is available again at 2099-01-02 (in " in cli("pick", "p/a").stderr
    cli.register(**{"p/a": resting(None), "q/b": resting(None)})
    assert "ocwatch clear p/a" in cli("pick", "p/a").stderr
    assert cli.json("pick", "p/a", code=75)["soonest"] is None


def test_the_default_model(cli: Cli) -> None:
    assert cli("pick").returncode == 2
    cli.opencode(model="p/a")
    assert cli("pick").stdout == "p/a\n"
    cli.configure(fallbackChain={"p/a": "q/b"})
    cli.register(**{"p/a": resting()})
    assert cli("pick").stdout == "q/b\n"
    project = cli.paths.home / "project"
    (project / "deep").mkdir(parents=True)
    (project / "opencode.jsonc").write_text('{"model": "r/c", // here\n}')
    assert cli("pick", cwd=project / "deep").stdout == "r/c\n"
    assert cli("pick", cwd=project, OPENCODE_CONFIG_CONTENT='{"model": "s/d"}').stdout == "s/d\n"


def test_a_broken_configuration_is_4(cli: Cli) -> None:
    cli.paths.config_file.write_text("{")
    done = cli("pick", "p/a")
    assert (done.returncode, done.stdout) == (4, "")
    assert str(cli.paths.config_file) in done.stderr


@pytest.mark.parametrize("name", ["nothing", "p/*", "/x", "p/"])
def test_what_is_no_model_is_a_usage_error(cli: Cli, name: str) -> None:
    assert cli("pick", name).returncode == 2


def test_with_a_session_what_could_not_take_it_is_passed_over(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": ["q/b", "r/c"]})
    cli.register(**{"p/a": resting(target={"model": "q/b", "agent": None})})
    path = cli.paths.blacklist
    takes = {"q/b": {"context": 100, "output": 0, "inputs": [], "tools": True}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "capabilities": takes}))
    message = {"role": "assistant", "tokens": {"input": 500, "output": 1}, "time": {"created": 1}}
    stored = cli.paths.opencode_data / "storage/message/ses_1/msg_1.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps(message))
    assert cli("pick", "p/a").stdout == "q/b\n"
    assert cli("pick", "p/a", "--session", "ses_1").stdout == "r/c\n"
    document = cli.json("pick", "p/a", "--session", "ses_1")
    why = "too small: the session has 501 tokens, but the context window has 100"
    assert document["passed"] == [{"model": "q/b", "why": why}]
    cli.configure(fallbackChain={"p/a": "q/b"})
    done = cli("pick", "p/a", "--session", "ses_1")
    assert (done.returncode, done.stdout, f"q/b is available, but skipped: {why}" in done.stderr) == (75, "", True)


def test_an_entry_made_by_a_clock_that_was_years_ahead_blocks_nothing(cli: Cli) -> None:
    """If the clock is ten years ahead for a moment, a limit of 60 s would last until 2036 without a daemon."""
    year = 365 * 86_400
    cli.configure(fallbackChain={"p/a": "q/b"})
    brief = resting() | {"since": at(10 * year), "until": at(10 * year + 60)}
    cli.register(**{"p/a": brief})
    assert cli("pick", "p/a").stdout == "p/a\n"
    assert cli.json("cooldowns")["cooldowns"] == []
    for entry in (brief | {"until": None}, {"until": brief["until"]}, brief | {"since": at(3600)}):
        cli.register(**{"p/a": entry})
        assert cli("pick", "p/a").stdout == "q/b\n", entry


@pytest.mark.parametrize("command", ["pick", "block", "clear"])
def test_a_name_without_a_configuration_names_no_file_that_does_not_exist(cli: Cli, command: str) -> None:
    done = cli(command, "fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no configuration yet" in done.stderr
    assert done.stderr.endswith("To create one: ocwatch up\n")
    cli.configure()
    assert done.stderr != cli(command, "fast").stderr
    assert "(there are none)" in cli(command, "fast").stderr
