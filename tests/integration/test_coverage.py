"""Tests of models in use and their fallbacks, and of how a first configuration is derived."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ocwatchd.config.coverage import CHECK_INTERVAL, ConfigurationGaps, uncovered, unknown_models
from ocwatchd.config.known_models import (
    cached_catalogue,
    further_offers,
    listed_catalogue,
    logged_in_providers,
    recent_models,
)
from ocwatchd.config.names import needs_no_fallback
from ocwatchd.config.opencode_setup import Setup
from ocwatchd.config.reader import read_document
from ocwatchd.paths import Paths

SONNET = "anthropic/claude-sonnet-4-5"
CATALOGUE = {
    "anthropic": {
        "models": {"claude-sonnet-4-5": {"cost": {"output": 15}}, "claude-haiku-4-5": {"cost": {"output": 5}}}
    },
    "openai": {
        "models": {
            "gpt-5": {"cost": {"output": 10}, "release_date": "2025-08-07"},
            "gpt-5-mini": {"cost": {"output": 2}, "release_date": "2025-08-07"},
            "gpt-4": {"cost": {"output": 60}, "release_date": "2023-03-14"},
            "text-embedding-3-large": {"cost": {"output": 0}},
            "gpt-image-1": {"tool_call": False},
        }
    },
    "copilot": {"models": {"claude-sonnet-4.5": {}, "gpt-5": {}}},
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(
        tmp_path,
        tmp_path / "config",
        tmp_path / "data",
        tmp_path / "state" / "ocwatchd",
        tmp_path / "cache" / "ocwatchd",
    )
    for directory in (
        found.opencode_config,
        found.opencode_data,
        found.opencode_state,
        found.cache_dir.parent / "opencode",
    ):
        directory.mkdir(parents=True)
    return found


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("chain", "unknown"),
    [
        ({SONNET: "openai/gpt-5"}, []),
        ({SONNET: ["openai/gpt-55", "own/fast"]}, ["openai/gpt-55"]),
        ({SONNET: "nowhere/gpt-5", "own/slow": "own/fast"}, ["nowhere/gpt-5", "own/slow"]),
        ({"openai/*": SONNET, "agent:reviewer@openai/gpt-5": "used/before"}, []),
        ({7: ["neither a model nor an alias"]}, []),  # `config check` and the daemon's start report it
    ],
)
def test_a_configured_model_that_opencode_does_not_offer_is_found(
    paths: Paths, chain: dict[str, object], unknown: list[str]
) -> None:
    project = paths.home / "project"
    project.mkdir()
    write(project / "opencode.json", {"provider": {"own": {"models": {"fast": {}}}}})
    write(paths.opencode_state / "model.json", {"recent": [{"providerID": "used", "modelID": "before"}]})
    write(paths.cache_dir.parent / "opencode" / "models.json", CATALOGUE)
    write(paths.config_file, {"rateLimit": {"fallbackChain": chain}})
    assert unknown_models(paths, {}, [str(project)]) == unknown


def test_the_daemon_checks_names_at_its_start_and_after_an_edit(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []
    monkeypatch.chdir(paths.home)

    def submit(what: str, work: Callable[[], None]) -> None:
        began.append(what)
        work()

    gaps = ConfigurationGaps(paths, submit, list)
    write(paths.opencode_config / "opencode.json", {"model": SONNET})
    write(paths.cache_dir.parent / "opencode" / "models.json", CATALOGUE)
    write(paths.config_file, {"rateLimit": {"fallbackChain": {SONNET: "openai/gpt-55"}}})
    assert gaps.unknown_models(1000.0) == ["openai/gpt-55"]
    write(paths.config_file, {"rateLimit": {"fallbackChain": {SONNET: "openai/gpt-5"}}})
    assert gaps.unknown_models(1001.0) == ["openai/gpt-55"]
    gaps.check_again()
    assert gaps.unknown_models(1002.0) == []
    assert gaps.unknown_models(1002.0 + 2 * CHECK_INTERVAL) == []
    assert len(began) == 2, "nothing has changed, so nothing is read"


def test_an_agent_with_a_chain_of_its_own_needs_no_other_fallback(paths: Paths) -> None:
    write(paths.opencode_config / "opencode.json", {"agent": {"reviewer": {"model": SONNET}}})
    assert uncovered(paths, {}) == [SONNET]
    for key, missing in ((f"agent:reviewer@{SONNET}", []), ("agent:reviewer", []), ("agent:writer", [SONNET])):
        write(paths.config_file, {"rateLimit": {"fallbackChain": {key: "zai/glm-4.5"}}})
        assert uncovered(paths, {}) == missing, key


def test_a_model_in_use_without_a_fallback_is_named_until_it_has_one(paths: Paths) -> None:
    write(paths.opencode_config / "opencode.json", {"model": SONNET})
    write(paths.opencode_state / "model.json", {"recent": [{"providerID": "openai", "modelID": "gpt-5"}, {"x": 1}, 7]})
    assert uncovered(paths, {}) == [SONNET, "openai/gpt-5"]
    write(paths.config_file, {"rateLimit": {"fallbackChain": {SONNET: "openai/gpt-5"}}})
    assert uncovered(paths, {}) == [], "the end of a chain is no oversight"
    write(paths.config_file, {"rateLimit": {"fallbackChain": {"zai/glm-4.5": SONNET}}})
    assert uncovered(paths, {}) == ["openai/gpt-5"]
    write(paths.config_file, {"rateLimit": {"fallbackChain": {"*": "zai/glm-4.5"}}})
    assert uncovered(paths, {}) == []


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"mode": "notify"}, False),
        ({"mode": "off"}, False),
        ({"mode": "ask"}, True),
        ({"fallbackChain": {}, "whenExhausted": "wait"}, False),
        ({"fallbackChain": {}}, True),
        ({"whenExhausted": "wait"}, True),
        ({"fallbackChain": {}, "whenExhausted": "notify"}, True),
    ],
)
def test_a_configuration_that_moves_nothing_needs_no_fallback(
    paths: Paths, settings: dict[str, object], needed: bool
) -> None:
    write(paths.opencode_config / "opencode.json", {"model": SONNET})
    write(paths.config_file, {"rateLimit": settings})
    assert uncovered(paths, {}) == ([SONNET] if needed else [])
    assert (needs_no_fallback(read_document(paths.config_file)) is None) == needed


def test_where_nothing_is_known_nothing_is_missing(paths: Paths) -> None:
    assert uncovered(paths, {}) == []
    (paths.opencode_config / "opencode.json").write_text("{")
    assert uncovered(paths, {}) == [], "a broken configuration is reported elsewhere"


def test_of_a_login_only_the_name_of_the_provider_is_read(paths: Paths) -> None:
    write(paths.opencode_data / "auth.json", {"anthropic": {"type": "oauth", "access": "sk-SECRET"}, "odd": "x"})
    assert logged_in_providers(paths) == ("anthropic",)


def test_the_same_model_at_another_provider_comes_before_one_of_its_class(paths: Paths) -> None:
    write(paths.cache_dir.parent / "opencode" / "models.json", CATALOGUE)
    setup = Setup(SONNET, None, (), ())
    offers = [
        offer.name for offer in further_offers(setup, ("anthropic", "openai", "copilot"), (), cached_catalogue(paths))
    ]
    assert offers == ["anthropic/claude-haiku-4-5", "openai/gpt-5", "copilot/claude-sonnet-4.5"]


def test_without_a_catalogue_the_programs_list_of_names_is_enough() -> None:
    lines = [
        "opencode/big-pickle",
        "anthropic/claude-sonnet-4-5",
        "openai/gpt-5",
        "openai/gpt-5-mini",
        "openai/gpt-4o",
        "",
    ]
    offers = [o.name for o in further_offers(Setup(SONNET, None, (), ()), ("openai",), (), listed_catalogue(lines))]
    assert offers == ["openai/gpt-5"]


def test_a_dated_name_of_the_primary_and_models_that_cannot_chat_are_no_fallbacks() -> None:
    names = ["chatgpt-image-latest", "gpt-realtime-2.1", "gpt-5.6-luna", "gpt-5.4", "gpt-5.4-mini", "o3"]
    own = ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "claude-sonnet-4-6", "claude-haiku-4-5"]
    lines = [*(f"openai/{name}" for name in names), *(f"anthropic/{name}" for name in own)]
    offers = further_offers(Setup(SONNET, None, (), ()), ("openai", "anthropic"), (), listed_catalogue(lines))
    assert [offer.name for offer in offers] == ["openai/gpt-5.4", "anthropic/claude-sonnet-4-6"]


def test_models_used_lately_are_offered_whatever_lists_them(paths: Paths) -> None:
    recent = [
        {"providerID": "ollama", "modelID": "qwen3:8b"},
        {"providerID": "anthropic", "modelID": "claude-sonnet-4-5"},
    ]
    write(paths.opencode_state / "model.json", {"recent": recent})
    setup = Setup(SONNET, None, (), ())
    (offer,) = further_offers(setup, (), recent_models(paths), {})
    assert (offer.name, offer.local) == ("ollama/qwen3:8b", True)


@pytest.mark.parametrize("broken", ["", "[", "[]", "7", "[" * 100_000])
def test_files_that_cannot_be_read_offer_nothing(paths: Paths, broken: str) -> None:
    for file in (
        paths.opencode_state / "model.json",
        paths.opencode_data / "auth.json",
        paths.cache_dir.parent / "opencode" / "models.json",
    ):
        file.write_text(broken)
    assert (recent_models(paths), dict(cached_catalogue(paths))) == ((), {})
    assert logged_in_providers(paths) == ()
