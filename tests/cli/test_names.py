"""Tests of names of models and sessions: unknown ones are refused with the nearest name, parts are completed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from ocwatchd.cli.sessions import matching
from ocwatchd.opencode.sessions.names import SessionName
from tests.cli.conftest import Cli, at, resting, store
from tests.support.pty import Pty

PROVIDERS = {
    "mock2": {"models": {"fallback": {}, "spare": {}}},
    "gateway": {"models": {"large-3": {}, "small-3": {}}},
}
CATALOGUE = {
    "anthropic": {"models": {"claude-sonnet-4-5": {}, "claude-haiku-4-5": {}}},
    "openai": {"models": {"gpt-5": {}, "gpt-5-mini": {}}},
}


def catalogue(cli: Cli, content: Mapping[str, Any] = CATALOGUE) -> None:
    path = cli.paths.cache_dir.parent / "opencode" / "models.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("mock2/falback", "mock2/fallback"),
        ("mokc2/spare", "mock2/spare"),
        ("anthropic/claude-sonet-4-5", "anthropic/claude-sonnet-4-5"),
        ("openai/gtp-5", "openai/gpt-5"),
        ("gateway/large-4", "gateway/large-3"),
    ],
)
def test_an_unknown_model_is_refused_and_the_nearest_is_named(cli: Cli, wrong: str, meant: str) -> None:
    cli.opencode(provider=PROVIDERS)
    catalogue(cli)
    for command in (("block", wrong, "--for", "1h"), ("pick", wrong)):
        done = cli(*command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert meant in done.stderr
        assert "--force" in done.stderr
    assert cli("pick", wrong, "--force").stdout == f"{wrong}\n"
    assert cli("block", wrong, "--force").returncode == 0
    assert list(cli.registered()) == [wrong]
    assert cli("block", meant).returncode == 0


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-haiku-4-5",  # from the cached list
        "gateway/small-3",  # from opencode.json
        "groq/anything",  # from a well-known provider whose models are in no list
        "gateway/*",
        "brought/by-a-plugin",  # OpenCode's own default model
        "chained/only",
        "seen/limited",
    ],
)
def test_a_model_that_may_exist_is_accepted(cli: Cli, model: str) -> None:
    cli.opencode(model="brought/by-a-plugin", provider=PROVIDERS)
    cli.configure(fallbackChain={"chained/only": "mock2/spare"})
    cli.register(**{"seen/limited": resting()})
    catalogue(cli)
    assert cli("block", model, "--for", "1h").returncode == 0


def test_clear_names_the_model_that_was_meant(cli: Cli) -> None:
    cli.opencode(provider=PROVIDERS)
    catalogue(cli)
    cli.register(**{"mock2/fallback": resting(), "own/model-large": resting()})
    done = cli("clear", "mock2/falback")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean mock2/fallback" in done.stderr
    assert len(cli.registered()) == 2
    assert cli("clear", "mock2/falback", "--force").stdout == "mock2/falback was not cooling down.\n"
    done = cli("clear", "mock2/spare")
    assert (done.returncode, done.stdout) == (0, "mock2/spare was not cooling down.\n")
    assert cli("clear", "mock2/fallback").stdout == "mock2/fallback is cleared.\n"
    done = cli("clear", "own/model-larg", "--force")
    assert done.returncode == 0
    assert "did you mean own/model-large, which is cooling down?" in done.stderr


def test_a_name_is_not_judged_where_nothing_lists_models(cli: Cli) -> None:
    assert cli("block", "any/thing").returncode == 0
    assert cli("pick", "any/other").returncode == 0


def test_config_check_names_the_line_and_the_nearest_model(cli: Cli) -> None:
    cli.opencode(provider=PROVIDERS)
    cli.paths.config_file.write_text(
        '{"rateLimit": {\n "fallbackChain": {\n  "gateway/large-3": ["mock2/falback", "mock2/spare"]\n }\n}}'
    )
    document = cli.json("config", "check", code=4)
    (finding,) = document["findings"]
    assert (finding["severity"], finding["line"], finding["key"]) == ("error", 3, "fallbackChain.gateway/large-3")
    assert "Did you mean mock2/fallback?" in finding["message"]
    assert "Did you mean mock2/fallback?" in cli("config", "check").stdout


def test_a_misspelt_session_is_a_usage_error_and_no_outage(cli: Cli) -> None:
    store(
        cli, ("ses_aaaa1111ffeOne", "Fix the login form", "/srv/shop"), ("ses_bbbb2222ffeTwo", "Port to arm64", "/srv")
    )
    for command in ("redirect", "restart"):
        done = cli(command, "Fix the lgoin form")
        assert (done.returncode, done.stdout) == (2, ""), command
        assert "ses_aaaa1111ffeOne  “Fix the login form” in /srv/shop" in done.stderr
        assert cli(command, "ses_cccc").returncode == 2


def test_a_part_that_several_sessions_contain_lists_them(cli: Cli) -> None:
    store(
        cli, ("ses_aaaa1111ffeOne", "Fix the login form", "/srv/shop"), ("ses_bbbb2222ffeTwo", "Fix the tests", "/srv")
    )
    for command in (("redirect", "fix the"), ("restart", "fix the"), ("history", "--session", "fix the")):
        done = cli(*command)
        assert done.returncode == 2, command
        assert "ses_aaaa1111ffeOne" in done.stderr
        assert "\n  ses_bbbb2222ffeTwo  “Fix the tests” in /srv" in done.stderr
        assert r"\n" not in done.stderr


def test_history_and_explain_take_a_part_of_the_title(cli: Cli) -> None:
    one, two = "ses_aaaa1111ffeOne", "ses_bbbb2222ffeTwo"
    store(cli, (one, "Fix the login form", "/srv/shop"), (two, "Port to arm64", "/srv"))
    cli.paths.state_dir.mkdir(parents=True)
    lines = [
        {"version": 1, "id": f"1ab-{n}", "time": at(-60 + n), "what": "limit", "session": session, "model": "p/a"}
        for n, session in enumerate((one, two))
    ]
    cli.paths.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for part in ("arm64", "PORT", "2222", two):
        assert [event["session"] for event in cli.json("history", "--session", part)["events"]] == [two]
        assert cli.json("explain", part)["session"] == two


def test_the_session_of_this_terminal_is_marked(cli: Cli) -> None:
    """A shell that OpenCode started has OpenCode's terminal; another terminal in the same directory does not."""
    project, other = cli.paths.home / "project", cli.paths.home / "other"
    for directory in (project, other, cli.paths.state_dir, cli.paths.state_dir / "doors"):
        directory.mkdir(parents=True, exist_ok=True)
    store(cli, ("ses_1", "Fix the tests", str(project)), ("ses_2", "Write the page", str(other)))
    cli.heartbeat(sessions=[{"session": ident, "phrase": "waits"} for ident in ("ses_1", "ses_2")])
    status = shlex.join(cli.command("status"))
    line = f'touch "$DOORS/$$.sock"; {status}; true'  # this shell is the process in the directory
    env = {**cli.env, "DOORS": str(cli.paths.state_dir / "doors"), "TERM": "xterm", "NO_COLOR": "1"}
    with Pty(["sh", "-c", line], env, project, size=(200, 40)) as terminal:
        terminal.end()
        shown = terminal.shown.decode()
    marked = [one for one in shown.splitlines() if "this terminal" in one]
    assert len(marked) == 1, shown
    assert "Fix the tests" in marked[0]
    assert "this terminal" not in cli("status", cwd=project, COLUMNS="200").stdout


@pytest.mark.parametrize("part", ["ses_dd0e314a6ffe", "ses_dd0e", "dd0e31", "Vq8", "the login", "ses_dd0e314a6ffeVq8"])
def test_any_part_of_an_id_or_title_names_a_session(part: str) -> None:
    named = SessionName("ses_dd0e314a6ffeVq8", "Fix the login form")
    assert matching(part, [named, SessionName("ses_aa11", "Another one")]) == [named]


@pytest.mark.parametrize("part", ["ses_", "ses_d", "dd", "ses_ffff"])
def test_too_short_or_wrong_a_part_names_no_session(part: str) -> None:
    assert matching(part, [SessionName("ses_dd0e314a6ffeVq8", "Fix the login form")]) == []
