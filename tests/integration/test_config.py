"""Tests of our configuration, the user's OpenCode configuration, and the starter made from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocwatchd.config import Config, load
from ocwatchd.config.loading import examine
from ocwatchd.config.opencode_config import default_model, global_files, merged, project_files
from ocwatchd.config.opencode_setup import Agent, Offer, front_matter, markdown_agents, read_setup, setup_of
from ocwatchd.config.reader import blank_comments, parse, read_document
from ocwatchd.config.starter import OTHER, SAME_FAMILY, SAME_LINE, SAME_NAME, kinship, starter, starter_for
from ocwatchd.core.domain.cooldowns import CooldownPolicy
from ocwatchd.core.policy import Mode, Policy, RetryPolicy, WhenExhausted
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    config = tmp_path / ".config" / "opencode"
    config.mkdir(parents=True)
    return Paths(tmp_path, config, tmp_path / "data", tmp_path / "state", tmp_path / "cache")


def configured(paths: Paths, text: object) -> Config:
    paths.config_file.write_text(text if isinstance(text, str) else json.dumps(text))
    return load(paths)


# ---- our configuration


def test_no_file_is_the_defaults(paths: Paths) -> None:
    assert load(paths) == Config()


@pytest.mark.parametrize("text", ["", " \n", "{}", '{"rateLimit": {}}', "// nothing\n{}", '\ufeff{"$schema": "x"}'])
def test_an_empty_file_is_the_defaults(paths: Paths, text: str) -> None:
    config = configured(paths, text)
    assert (config.policy, config.warnings, config.source) == (Policy(), (), paths.config_file)


FULL = """
{
  "$schema": "x",
  // how it all behaves
  "rateLimit": {
    "maxRetries": 5, "baseDelay": 500, "maxDelay": 45000, "maxWait": 7000, "jitterRange": 0.25, /* ms */
    "fallbackChain": {
      "big": "zhipuai/glm-4.5",
      "ollamat/gpt-oss:120b": ["ollamat/qwen3-coder:480b", "small",],
      "*": "small", // the rest
    },
    "errorPatterns": ["rate_limit_error", "429"],
    "models": {"big": "github-copilot/claude-sonnet-4", "small": "ollama/qwen3:8b"},
    "agents": {"zhipuai/glm-4.5": "claude-fallback", "small": "tiny"},
    "perModel": {"small": {"maxRetries": 1}, "//": "a remark"},
    "retry": {"enabled": true, "delegate_to_plugin": false},
    "cooldown": {"rate_limit": 90000, "maximum": 7200000},
    "mode": "ask",
    "logs": {"directories": ["/var/log/oc", "~/more"], "lookBackBytes": 4096, "lookBackHours": 0.5},
    "endpoints": ["http://127.0.0.1:4096", "http://[::1]:4097/"],
    "maxMovesPerHour": 7,
    "whenExhausted": "notify",
    "maxResumes": 2,
  },
}
"""


def test_every_key(paths: Paths) -> None:
    config = configured(paths, FULL)
    retry = RetryPolicy(5, 0.5, 45.0, 0.25, 7.0)
    assert config.policy == Policy(
        retry=retry,
        per_model={"ollama/qwen3:8b": RetryPolicy(1, 0.5, 45.0, 0.25, 7.0)},
        cooldowns=CooldownPolicy(rate_limit=90.0, maximum=7200.0),
        chains={
            "big": ("zhipuai/glm-4.5",),
            "ollamat/gpt-oss:120b": ("ollamat/qwen3-coder:480b", "small"),
            "*": ("small",),
        },
        aliases={"big": "github-copilot/claude-sonnet-4", "small": "ollama/qwen3:8b"},
        agents={"zhipuai/glm-4.5": "claude-fallback", "ollama/qwen3:8b": "tiny"},
        wait=True,
        mode=Mode.ASK,
        moves_per_hour=7,
        when_exhausted=WhenExhausted.NOTIFY,
        max_resumes=2,
    )
    assert config.error_patterns == ("rate_limit_error", "429")
    assert config.logs.directories == (Path("/var/log/oc"), Path("~/more").expanduser())
    assert (config.logs.look_back_bytes, config.logs.look_back) == (4096, 1800.0)
    assert config.endpoints == ("http://127.0.0.1:4096", "http://[::1]:4097/")
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("retry", "wait"), [({}, True), ({"enabled": False}, False), ({"delegate_to_plugin": True}, False)]
)
def test_waiting(paths: Paths, retry: dict[str, bool], wait: bool) -> None:
    assert configured(paths, {"rateLimit": {"retry": retry}}).policy.wait is wait


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "rateLimit": {\n  "mode": "fast"}}', ["line 3", "rateLimit.mode", "'fast'", '"auto"', '"off"']),
        ('{"rateLimit": {"maxRetries": -1}}', ["line 1", "maxRetries", "whole number"]),
        ('{"rateLimit": {"maxRetries": 1.5}}', ["maxRetries", "whole number"]),
        ('{"rateLimit": {"baseDelay": true}}', ["baseDelay", "number"]),
        ('{"rateLimit": {"maxDelay": NaN}}', ["maxDelay", "number"]),
        ('{"rateLimit": {"maxDelay": 1' + "0" * 400 + "}}", ["maxDelay", "number"]),
        ('{"rateLimit": {"jitterRange": 2}}', ["jitterRange", "between 0 and 1"]),
        ('{"rateLimit": {"cooldown": {\n"quota": "1h"}}}', ["line 2", "rateLimit.cooldown.quota", "'1h'"]),
        ('{"rateLimit": {"retry": {"enabled": "yes"}}}', ["retry.enabled", "true nor false"]),
        ('{"rateLimit": {"fallbackChain": {"p/a": "big"},\n"models": {"large": "p/a"}}}', ["p/a", "'big'", "large"]),
        ('{"rateLimit": {"fallbackChain": {"p/a": 3}}}', ["fallbackChain.p/a", "list"]),
        ('{"rateLimit": {"fallbackChain": {"p/a": ["q/*"]}}}', ["whole provider"]),
        ('{"rateLimit": {"fallbackChain": ["p/a"]}}', ["fallbackChain", "object"]),
        ('{"rateLimit": {"models": {"big": "nothing"}}}', ["models.big", "'nothing'"]),
        ('{"rateLimit": {"models": {"big": 1}}}', ["models.big", "a quoted name"]),
        ('{"rateLimit": {"agents": {"big": "x"}}}', ["agents.big", "neither"]),
        ('{"rateLimit": {"perModel": {"p/a": 3}}}', ["perModel.p/a", "object"]),
        ('{"rateLimit": {"errorPatterns": "429"}}', ["errorPatterns", "list"]),
        ('{"rateLimit": {"logs": {"directories": ["log"]}}}', ["logs.directories", "absolute"]),
        ('{"rateLimit": {"endpoints": ["http://example.org:80"]}}', ["endpoints", "127.0.0.1"]),
        ('{"rateLimit": {"endpoints": ["http://127.0.0.1:80@example.org:80"]}}', ["endpoints", "127.0.0.1"]),
        ('{"rateLimit": {"endpoints": ["http://localhost.example.org:80"]}}', ["endpoints", "127.0.0.1"]),
        ('{"rateLimit": 3}', ["rateLimit", "object"]),
        ("[]", ["object"]),
        ('{\n"a": 1\n"b": 2}', ["line 3", "not JSON"]),
        ('// one\n/* two\n three */\n{"a": }', ["line 4", "not JSON"]),
        ("[" * 100_000, ["nested too deeply"]),
    ],
)
def test_faults_name_file_line_key_and_what_would_be_right(paths: Paths, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as fault:
        configured(paths, text)
    message = str(fault.value)
    assert str(paths.config_file) in message
    assert [word for word in words if word not in message] == []


def test_bytes_that_are_no_text_and_files_that_are_none(paths: Paths) -> None:
    paths.config_file.write_bytes(b'{\n"\xff": 1}')
    with pytest.raises(ConfigError, match="line 2: is not UTF-8"):
        load(paths)
    paths.config_file.unlink()
    paths.config_file.mkdir()
    with pytest.raises(ConfigError, match="not a plain file"):
        load(paths)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"rateLimit": {"maxRetry": 3}}, ["maxRetry", "'maxRetries'"]),
        ({"rateLimit": {"cooldown": {"overload": 1}}}, ["cooldown.overload", "'overloaded'"]),
        ({"rateLimit": {"perModel": {"p/a": {"maxRetrys": 1}}}}, ["maxRetrys", "'maxRetries'"]),
        ({"fallbackChain": {"p/a": "q/b"}}, ["fallbackChain", 'inside "rateLimit"']),
        ({"rateLimit": {"zzz": 1}}, ["zzz", "the known keys are"]),
        ({"rateLimit": {"perModel": {"p/*": {}}}}, ["perModel.p/*", "whole provider"]),
        ({"rateLimit": {"models": {"x": "p/*"}, "agents": {"x": "build"}}}, ["agents.x", "whole provider"]),
        ({"rateLimit": {"forecast": {"leaveAt": 95}}}, ["forecast.leaveAt", "no effect", '"prevent": true']),
        ({"rateLimit": {"forecast": {"leaveAt": 95, "prevent": False}}}, ["forecast.leaveAt", "no effect"]),
        ('{"rateLimit": {"mode": "ask",\n "mode": "off"}}', ["line 2", "rateLimit.mode", "twice"]),
        ({"rateLimit": {"fallbackChain": {"p/a": "q/b", "q/b": "p/a"}}}, ["circular", "p/a -> q/b -> p/a"]),
        (
            {"rateLimit": {"models": {"x": "p/a", "y": "q/b"}, "fallbackChain": {"x": "y", "q/b": ["r/c", "x"]}}},
            ["circular", "p/a -> q/b -> p/a"],
        ),
    ],
)
def test_slips_are_warnings(paths: Paths, text: object, words: list[str]) -> None:
    (warning,) = configured(paths, text).warnings
    assert [word for word in words if word not in warning] == []


def test_leaving_a_plan_with_prevention_is_no_slip(paths: Paths) -> None:
    assert configured(paths, {"rateLimit": {"forecast": {"leaveAt": 95, "prevent": True}}}).warnings == ()


def test_an_alias_that_is_an_agent_names_both(paths: Paths) -> None:
    (paths.opencode_config / "opencode.json").write_text('{"agent": {"spare": {"model": "q/b"}}}')
    (paths.opencode_config / "agent").mkdir()
    (paths.opencode_config / "agent" / "third.md").write_text("---\nmode: primary\n---\nHello")
    names = {"spare": "q/b", "third": "r/c", "other": "s/d"}
    config = configured(paths, {"rateLimit": {"models": names, "agents": {"r/c": "own"}}})
    assert config.policy.agents == {"q/b": "spare", "r/c": "own"}


def test_a_broken_opencode_configuration_does_not_stop_us(paths: Paths) -> None:
    (paths.opencode_config / "opencode.json").write_text("{")
    assert configured(paths, {"rateLimit": {"models": {"spare": "q/b"}}}).policy.aliases == {"spare": "q/b"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "// no comment", "b": "/* nor this */"} // yes', {"a": "// no comment", "b": "/* nor this */"}),
        ('{"a": [1, 2, ], }', {"a": [1, 2]}),
        (r'{"a": "\"// x", "b": "\\"} // "', {"a": '"// x', "b": "\\"}),
        ("{'a': 1, b: +2}", {"a": 1, "b": 2}),
        ('{"a": ",]"}', {"a": ",]"}),
    ],
)
def test_json_with_comments(text: str, value: object) -> None:
    assert parse(text, "file") == value


def test_blanking_keeps_every_line_and_column() -> None:
    text = '{ // one\n  "a": 1, /* two\n three */ "b": 2,\n}'
    blanked = blank_comments(text)
    assert len(blanked) == len(text)
    assert [len(line) for line in blanked.split("\n")] == [len(line) for line in text.split("\n")]


# ---- the user's OpenCode configuration


def test_files_are_merged_and_the_later_one_wins(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": "a/1", "provider": {"x": {"models": {"m": {}}}}}')
    (tmp_path / "opencode.json").write_text('{"model": "a/2", "provider": {"x": {"models": {"n": {}}}}}')
    (tmp_path / "opencode.jsonc").write_text('{"model": "a/3",} // newest')
    extra = tmp_path / "extra.json"
    extra.write_text('{"small_model": "a/4"}')
    environ = {"OPENCODE_CONFIG": str(extra), "OPENCODE_CONFIG_CONTENT": '{"agent": {"plan": {"model": "a/5"}}}'}
    config = merged(global_files([str(tmp_path)], environ), environ)
    assert (config["model"], config["small_model"]) == ("a/3", "a/4")
    assert config["provider"] == {"x": {"models": {"m": {}, "n": {}}}}
    assert default_model(config, {}) == "a/3"
    assert default_model({**config, "default_agent": "plan"}, {}) == "a/5"


def test_a_projects_files_the_nearest_last(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "opencode.json").write_text('{"model": "top/m", "small_model": "top/s"}')
    (tmp_path / "sub" / "opencode.jsonc").write_text('{"model": "sub/m"}')
    config = merged(project_files(str(tmp_path / "sub")), {})
    assert config == {"model": "sub/m", "small_model": "top/s"}
    assert not any(Path(name).parent == tmp_path.parent for name in project_files(str(tmp_path / "sub")))


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ('{"model": "{env:WANTED}"}', "p/a"),
        ('{"model": "p/{env:HALF}"}', "p/half"),
        ('{"model": "p/a", "port": {env:PORT}, "x": {file:~/secret}}', "p/a"),
        ('{"model": "p/a", "port": {env:EVIL}}', "p/a"),
        ('{"model": "p/a", "x": "{env:", }', "p/a"),
        ('{"model": "{env:UNSET}"}', None),
        ('{"model": "{file:key.txt}"}', None),
        ('{"model": 3}', None),
        ("[]", None),
    ],
)
def test_references_in_the_configuration(tmp_path: Path, text: str, model: str | None) -> None:
    (tmp_path / "opencode.json").write_text(text)
    environ = {"WANTED": "p/a", "HALF": "half", "PORT": "4096", "EVIL": '1, "model": "evil/x"'}
    assert default_model(merged(global_files([str(tmp_path)], environ), environ), environ) == model


MARKDOWN = """---
description: >-
  Takes over when the big one is tired:
  a fallback
model: "q/b" # the spare
mode: primary
tools:
  write: false
  model: nested/no
---
model: text/no
"""


def test_front_matter() -> None:
    assert front_matter(MARKDOWN) == {
        "description": "Takes over when the big one is tired: a fallback",
        "model": "q/b",
        "mode": "primary",
        "tools": "write: false model: nested/no",
    }
    assert front_matter("no matter\n---\nmodel: p/a\n---") == {}
    assert front_matter("---\nmodel: p/a\nnever closed") == {}


def test_agents_from_markdown(tmp_path: Path) -> None:
    for name, text in {
        "agent/spare.md": MARKDOWN,
        "agents/team/second.md": "---\nmode: subagent\nmodel: r/c\n---",
        "mode/off.md": "---\ndisable: true\n---",
        "agent/notes.txt": "---\nmodel: p/no\n---",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "agent" / "binary.md").write_bytes(b"\xff\xfe")
    assert markdown_agents((tmp_path, tmp_path / "missing")) == (
        Agent("spare", "q/b", "Takes over when the big one is tired: a fallback"),
        Agent("team/second", "r/c", leads=False),
    )


def test_offers_are_chat_models_of_enabled_providers() -> None:
    config = {
        "enabled_providers": ["p", "ollama", "cloud", "q"],
        "disabled_providers": ["q"],
        "provider": {
            "p": {
                "options": {"apiKey": "k"},
                "models": {"a": {}, "text-embedding-3": {}, "mute": {"tool_call": False}},
            },
            "q": {"models": {"b": {}}},
            "other": {"models": {"c": {}}},
            "ollama": {"models": {"qwen3": {}}},
            "cloud": {"options": {"baseURL": "https://localhost.example.org/v1"}, "models": {"d": None}},
            "broken": [],
        },
    }
    assert setup_of(config).offers == (Offer("p/a", False), Offer("ollama/qwen3", True), Offer("cloud/d", False))


@pytest.mark.parametrize(
    ("provider", "options", "local"),
    [
        ("x", {"baseURL": "http://127.0.0.1:8080/v1"}, True),
        ("x", {"baseURL": "http://localhost:1234/v1"}, True),
        ("x", {"baseURL": "http://[::1]:1/"}, True),
        ("x", {"baseURL": "{env:LLM}/v1"}, True),
        ("x", {"baseURL": "https://127.0.0.1.example.org/v1"}, False),
        ("x", {"baseURL": "https://api.example.org/?u=http://localhost"}, False),
        ("ollama", {}, True),
        ("lmstudio", {}, True),
        ("llama.cpp", {}, True),
        ("ollama", {"baseURL": "https://ollama.com/v1"}, False),
        ("ollamat", {}, False),
    ],
)
def test_local_is_told_by_address_else_by_name(provider: str, options: dict[str, str], local: bool) -> None:
    config = {"provider": {provider: {"options": options, "models": {"m": {}}}}}
    assert setup_of(config, (), {"LLM": "http://127.0.0.1:9"}).offers == (Offer(f"{provider}/m", local),)


# ---- the starter


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("copilot/claude-sonnet-4.5", "openrouter/anthropic/claude-sonnet-4.5:free", SAME_NAME),
        ("anthropic/claude-sonnet-4-5-20250929", "copilot/claude-sonnet-4.5", SAME_NAME),
        ("anthropic/claude-sonnet-4-5", "copilot/claude-sonnet-4", SAME_LINE),
        ("anthropic/claude-sonnet-4", "copilot/claude-opus-4.1", SAME_FAMILY),
        ("anthropic/claude-sonnet-4", "zai/glm-4.5", OTHER),
        ("openai/gpt-5", "ollamat/gpt-oss:120b", SAME_FAMILY),
        ("zai/glm-4.5", "zhipuai/glm-4.6", SAME_LINE),
    ],
)
def test_kinship(one: str, other: str, wanted: int) -> None:
    assert kinship(one, other) == kinship(other, one) == wanted


USER = {
    "model": "github-copilot/claude-sonnet-4",
    "small_model": "zai/glm-4.5-air",
    "provider": {
        "ollama": {"options": {"baseURL": "http://localhost:11434/v1"}, "models": {"claude-sonnet-4": {}}},
        "zai": {"options": {"apiKey": "sk-SECRET"}, "models": {"glm-4.5-air": {}, "glm-4.6": {}}},
        "github-copilot": {"models": {"claude-sonnet-4": {}, "gpt-5": {}}},
        "openrouter": {"models": {"anthropic/claude-opus-4": {}, "anthropic/claude-sonnet-4": {}}},
    },
    "agent": {
        "claude-fallback": {"model": "zhipuai/glm-4.5", "mode": "primary"},
        "helper": {"model": "deepseek/chat", "description": "the fall-back of the fallback", "mode": "subagent"},
        "plan": {"model": "x/y"},
    },
}


def rate_limit(text: str) -> dict[str, object]:
    inner = json.loads(text)["rateLimit"]
    assert isinstance(inner, dict)
    return inner


def test_starter_chain() -> None:
    text = starter(USER)
    wanted = [
        "zhipuai/glm-4.5",  # agents named fallback come first
        "deepseek/chat",
        "openrouter/anthropic/claude-sonnet-4",  # the same name at another provider, then the family
        "openrouter/anthropic/claude-opus-4",
        "zai/glm-4.6",  # the rest; the same provider and the title model come late
        "github-copilot/gpt-5",
        "zai/glm-4.5-air",
        "ollama/claude-sonnet-4",  # local models are last
    ]
    primary = "github-copilot/claude-sonnet-4"
    assert rate_limit(text)["fallbackChain"] == {primary: wanted, "*": [primary, *wanted]}
    assert rate_limit(text)["agents"] == {"zhipuai/glm-4.5": "claude-fallback"}
    assert "SECRET" not in text


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        ({}, "contains no model"),
        ({"model": "no-slash"}, "contains no model"),
        ({"model": "p/a"}, "only model"),
        ({"provider": {"p": {"models": {"a": {}}}}}, "contains no model"),
    ],
)
def test_without_two_models_there_is_no_chain_and_it_says_so(config: dict[str, object], remark: str) -> None:
    start = starter_for(setup_of(config))
    assert remark in start.remark
    assert remark in start.text
    assert "fallbackChain" not in rate_limit(start.text)


@pytest.mark.parametrize("config", [{}, {"model": "p/a"}, USER])
def test_our_own_starter_is_a_configuration_without_a_warning(paths: Paths, config: dict[str, object]) -> None:
    assert configured(paths, starter(config)).warnings == ()


def test_the_setup_of_a_home(paths: Paths) -> None:
    (paths.opencode_config / "opencode.jsonc").write_text('{"model": "p/a", // mine\n}')
    (paths.opencode_config / "agent").mkdir()
    (paths.opencode_config / "agent" / "spare.md").write_text(MARKDOWN)
    start = starter_for(read_setup(paths, {}))
    assert (start.primary, start.targets) == ("p/a", ("q/b",))
    assert rate_limit(start.text)["agents"] == {"q/b": "spare"}


@pytest.mark.parametrize(
    ("former", "name", "value"),
    [("comeBack", "returnToPrimary", False), ("movesPerHour", "maxMovesPerHour", 3), ("doors", "endpoints", [])],
)
def test_a_key_under_its_former_name_is_read_with_a_warning(
    tmp_path: Path, former: str, name: str, value: object
) -> None:
    file = tmp_path / "rate-limit-config.json"
    file.write_text(json.dumps({"rateLimit": {former: value}}))
    examined = examine(read_document(file))
    assert examined.values[name] == value
    (slip,) = examined.slips
    assert former in str(slip) and f"now called {name!r}" in str(slip)
