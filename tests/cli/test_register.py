"""Tests of `ocwatch block` and `ocwatch clear` while the daemon is down."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from ocwatchd.cli.times import moment_of, seconds_of
from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.errors import UsageError
from ocwatchd.state import prices
from tests.cli.conftest import Cli, resting


def epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_block_for_a_while(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": ["q/b", "r/c"]}, agents={"r/c": "helper"})
    cli.register(**{"q/b": resting()})
    before = time.time()
    done = cli("block", "p/a", "--for", "1h")
    assert done.returncode == 0
    assert done.stdout.startswith("p/a is blocked until ")
    assert done.stdout.endswith("the fallback is r/c.\n")
    entry = cli.registered()["p/a"]
    assert entry["reset_source"] == "manual"
    assert entry["target"] == {"model": "r/c", "agent": "helper"}
    assert before + 3599 < epoch(entry["until"]) < time.time() + 3601
    assert "q/b" in cli.registered()
    assert cli("pick", "p/a").stdout == "r/c\n"


def test_what_would_cost_too_much_today_does_not_stand_in_for_what_is_blocked(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": ["q/b", "r/c"]}, budget=1)
    cli.register()
    prices.remember(cli.paths.prices, {"q/b": Price(1)}, time.time())
    prices.write_budget(cli.paths.budget, DayBudget(1.0, 2.0, {"q/b": Price(1)}), time.time() + 3600, time.time())
    assert cli("block", "p/a").stdout.endswith("the fallback is r/c.\n")
    prices.write_budget(cli.paths.budget, DayBudget(1.0, 0.5, {"q/b": Price(1)}), time.time() + 3600, time.time())
    assert cli("block", "p/a").stdout.endswith("the fallback is q/b.\n")


def test_a_name_that_looks_like_a_slip_is_blocked_and_remarked_on(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/large": ["q/small"]})
    slip = cli("block", "p/lagre", "--for", "1h")
    assert slip.returncode == 0
    assert "Did you mean p/large?" in slip.stderr
    assert "p/lagre" in cli.registered()
    for name in ("p/large", "q/small", "z/other"):
        assert cli("block", name).stderr == ""


def test_a_time_without_its_option_is_refused_with_the_command_that_works(cli: Cli) -> None:
    for end, option in (("1h", "--for"), ("14:20", "--until")):
        done = cli("block", "p/a", end)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(f"To set a time, use: ocwatch block p/a {option} {end}\n")
    more = cli("block", "p/a", "q/b", "r/c").stderr
    assert "unexpected argument: q/b r/c." in more
    assert "Usage: ocwatch block [OPTIONS] MODEL. For help" in more
    assert cli("block", "--help").stdout.startswith("Usage: ocwatch block [OPTIONS] MODEL\n")
    assert not cli.paths.blacklist.exists()


def test_block_until_a_time_until_cleared_and_a_whole_provider(cli: Cli) -> None:
    document = cli.json("block", "p/a", "--until", "2035-01-02T03:04:05+01:00")
    assert document["blocked"]["until"] == "2035-01-02T02:04:05.000Z"
    assert cli.json("block", "q/b")["blocked"]["until"] is None
    assert cli.json("block", "r/*", "--for", "2d")["blocked"]["scope"] == "provider"
    assert cli("pick", "r/anything").returncode == 75


def test_blocking_again_replaces_what_was_known(cli: Cli) -> None:
    cli.register(**{"p/a": resting(9000, reset_source="retry-after", note="theirs")})
    cli("block", "p/a", "--for", "60s")
    assert epoch(cli.registered()["p/a"]["until"]) < time.time() + 61


def test_an_alias_names_the_model(cli: Cli) -> None:
    cli.configure(models={"big": "p/a"})
    assert cli("block", "big").returncode == 0
    assert list(cli.registered()) == ["p/a"]
    assert cli("clear", "big").stdout == "p/a is cleared.\n"


def test_a_slip_in_an_alias_names_the_one_that_was_meant(cli: Cli) -> None:
    cli.configure(models={"claude-primary": "p/a"})
    for command in ("block", "clear", "pick"):
        done = cli(command, "claude-primry")
        assert (done.returncode, done.stdout) == (2, "")
        assert "did you mean 'claude-primary'?" in done.stderr


def test_a_broken_configuration_does_not_keep_anyone_from_blocking(cli: Cli) -> None:
    cli.paths.config_file.write_text("{")
    done = cli("block", "p/a")
    assert done.returncode == 0
    assert "without a fallback" in done.stderr
    assert cli("block", "big").returncode == 4  # an alias cannot be resolved


def test_clear(cli: Cli) -> None:
    cli.register(**{"p/a": resting(), "q/b": resting(), "p/*": resting(scope="provider")})
    assert cli("clear", "q/b").stdout == "q/b is cleared.\n"
    done = cli("clear", "q/b")
    assert (done.returncode, done.stdout) == (0, "q/b was not cooling down.\n")
    assert cli("clear", "p/a").stdout == "p/a is cleared. It is still blocked by p/*.\n"
    assert cli.json("clear", "p/a") | {"time": ""} == {
        "version": 1, "time": "", "cleared": [], "still_blocked_by": ["p/*"],
    }  # fmt: skip
    cli.register(**{"p/a": resting(), "q/b": resting()})
    assert cli.json("clear", "--all")["cleared"] == ["p/a", "q/b"]
    assert cli("clear", "--all").stdout == "No model was cooling down.\n"
    assert cli.registered() == {}


def test_clear_of_a_provider_names_its_models_that_are_still_cooling_down(cli: Cli) -> None:
    models = {f"p/m{number:02}": resting() for number in range(12)}
    cli.register(**{"p/a'b": resting(), "q/b": resting(), "p/*": resting(scope="provider")})
    assert cli("clear", "p/*").stdout == (
        "p/* is cleared.\nModels of p are still cooling down. To clear them:\n  ocwatch clear 'p/a'\"'\"'b'\n"
    )
    cli.register(**models)
    done = cli("clear", "p/*", "--force")
    assert (done.returncode, done.stdout.count("  ocwatch clear p/m")) == (0, 10)
    assert done.stdout.startswith("p/* was not cooling down.\n")
    assert done.stdout.endswith("  # 2 more. To list them: ocwatch cooldowns\n")
    assert len(cli.registered()) == 12


def test_clear_of_a_model_and_of_everything_at_once_is_refused(cli: Cli) -> None:
    done = cli("clear", "p/a", "--all")
    assert (done.returncode, done.stderr) == (2, "ocwatch: use either MODEL or --all, not both\n")
    assert cli("clear").stderr == "ocwatch: name a MODEL to clear, or use --all\n"


def test_clear_all_removes_whatever_is_there(cli: Cli) -> None:
    cli.register(**{"p/a": resting(), "q/\x1b[2J": resting(), "r/" + "x" * 4096: resting(), "s/d": {"until": 5}})
    assert cli("clear", "p/a").returncode == 0
    assert len(cli.registered()) == 3
    done = cli("clear", "--all")
    assert "q/\\x1b[2J is cleared." in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert cli.registered() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("block",),
        ("block", "nothing"),
        ("block", "p/a", "--for", "1h", "--until", "12:00"),
        ("block", "p/a", "--for", "soon"),
        ("block", "p/a", "--until", "2001-01-01"),
        ("block", "p/a", "--nonsense"),
        ("clear",),
        ("clear", "p/a", "--all"),
    ],
)
def test_usage_errors_are_2_and_change_nothing(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert not cli.paths.blacklist.exists()


def test_a_damaged_register_is_kept_aside(cli: Cli) -> None:
    cli.register()
    cli.paths.blacklist.write_text("[")
    done = cli("block", "p/a")
    assert (done.returncode, list(cli.registered())) == (0, ["p/a"])
    assert "kept as blacklist.json.corrupt-" in done.stderr


def test_a_newer_register_is_not_touched(cli: Cli) -> None:
    cli.register()
    cli.paths.blacklist.write_text('{"version": 2}')
    done = cli("block", "p/a")
    assert (done.returncode, cli.paths.blacklist.read_text()) == (1, '{"version": 2}')
    assert "newer" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1h 30m", 5400), ("2 days", 172800), ("1.5h", 5400), ("1w", 604800)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1y", "-1h", "1h!", "0s", "99999d", "1h and more"])
def test_no_lengths_of_time(text: str) -> None:
    with pytest.raises(UsageError):
        seconds_of(text)


NOON = datetime(2026, 11, 22, 12, 0).timestamp()  # in local time, as on a user's clock


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12:01", datetime(2026, 11, 22, 12, 1)),
        ("12:00", datetime(2026, 11, 23, 12, 0)),
        ("9:30", datetime(2026, 11, 23, 9, 30)),
        ("2026-11-24", datetime(2026, 11, 24)),
        ("2026-11-22 14:20", datetime(2026, 11, 22, 14, 20)),
        ("2026-12-01T00:00:00Z", datetime.fromisoformat("2026-12-01T00:00:00Z")),
    ],
)
def test_moments(text: str, wanted: datetime) -> None:
    assert moment_of(text, NOON) == wanted.timestamp()


@pytest.mark.parametrize("text", ["", "25:00", "noon", "2026-11-22 11:59", "2026-11-22", "9999-01-01", "1795341600"])
def test_no_moments(text: str) -> None:
    with pytest.raises(UsageError):
        moment_of(text, NOON)
