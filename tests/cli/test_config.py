"""Tests of `ocwatch config`: init, check, show, schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.config.schema import FILE
from tests.cli.conftest import Cli

USER: dict[str, Any] = {
    "model": "p/a",
    "provider": {"q": {"options": {"apiKey": "sk-SECRET"}, "models": {"b": {}}}, "ollama": {"models": {"c": {}}}},
    "agent": {"claude-fallback": {"model": "r/c"}},
}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"

BAD = """{
  // "mode": "a comment", "fallbackChain": {"p/a": 3}
  "rateLimit": {
    "perModel": {"p/a": {"maxRetries": 2}}, /* "maxRetries":
    "maxRetries": */
    "agents": {"mode": "x"},
    "mode": "fast",
    "fallbackChain": {
      "p/a": ["q/b",
              "glm"],
      "r/c": "s/d",
      "s/d": "r/c",
    },
    "models": {"glm4": "zhipuai/glm-4.5", "one": "two", "two": "one"},
    "mxDelay": 4, "baseDelay": 5, "baseDelay": 6,
    "errorPatterns": ["(a+)+b", 3],
    "maxRetries": 2.5
  }
}
"""
FINDINGS = [
    (6, "agents.mode", "error", "glm4"),
    (7, "mode", "error", '"auto", "ask", "notify", "off"'),
    (10, "fallbackChain.p/a[1]", "error", "did you mean 'glm4'?"),
    (11, "fallbackChain.r/c", "error", "r/c -> s/d -> r/c"),
    (14, "models.one", "error", "circular alias"),
    (14, "models.two", "error", "circular alias"),
    (15, "mxDelay", "warning", "'maxDelay'"),
    (15, "baseDelay", "warning", "twice"),
    (16, "errorPatterns[1]", "error", "3 is not a quoted string"),
    (17, "maxRetries", "error", "whole number"),
]


def test_check_names_everything_that_is_wrong_with_line_key_and_what_is_right(cli: Cli) -> None:
    cli.paths.config_file.write_text(BAD)
    document = cli.json("config", "check", code=4)
    found = [
        (f["line"], f["key"].removeprefix("rateLimit."), f["severity"], f["message"]) for f in document["findings"]
    ]
    assert [item[:3] for item in found] == [item[:3] for item in FINDINGS]
    assert [(said, words) for (*_, said), (*_, words) in zip(found, FINDINGS, strict=True) if words not in said] == []
    assert (document["ok"], document["exists"], document["file"]) == (False, True, str(cli.paths.config_file))
    done = cli("config", "check")
    assert done.returncode == 4
    *lines, verdict = done.stdout.splitlines()
    assert [int(re.findall(r", line (\d+): ", line)[0]) for line in lines] == [item[0] for item in FINDINGS]
    assert verdict.endswith(": 8 errors, 2 warnings.")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('{"rateLimit": {"maxRetrys": 3, "errorPatterns": ["^(a+)+b$"]}}', 0, ["maxRetries", "literal", "2 warnings"]),
        ('// fine\n{"rateLimit": {}}', 0, ["has no errors"]),
        ('{\n "rateLimit": {\n  // one\n  "mode" "ask"}}', 4, ["line 4", "not JSON", "1 error"]),
        ('{"rateLimit": {"fallbackChain": {"p/a": "claude-fallbak"}, "models": {"claude-fallback": "q/b"}}}', 4,
         ["'claude-fallbak'", "did you mean 'claude-fallback'?"]),
        ('{"rateLimit": {"mode": "\x1b[31m\u202e"}}', 4, [r"\x1b"]),
    ],
)  # fmt: skip
def test_check_of_a_named_file(cli: Cli, tmp_path: Path, text: str, code: int, words: list[str]) -> None:
    file = tmp_path / "some.json"
    file.write_text(text)
    done = cli("config", "check", str(file))
    assert done.returncode == code
    assert [word for word in words if word not in done.stdout] == []
    assert "\x1b" not in done.stdout
    assert cli("config", "check", str(tmp_path / "none.json")).returncode == 2


def test_a_chain_of_an_agent_that_opencode_does_not_know_is_a_warning_with_its_line(cli: Cli) -> None:
    cli.opencode(**{**USER, "agent": {"reviewer": {"prompt": "Review."}}})
    chains = {"*": "q/b", "agent:plan": "q/b", "agent:reviewer@p/a": "q/b", "agent:reviewr": "q/b", "agent:x@p/a": []}
    cli.paths.config_file.write_text(json.dumps({"rateLimit": {"fallbackChain": chains}}, indent=1))
    found = cli.json("config", "check")["findings"]
    assert [(one["severity"], one["line"], one["key"]) for one in found] == [
        ("warning", 7, "fallbackChain.agent:reviewr"),
        ("warning", 8, "fallbackChain.agent:x@p/a"),
    ]
    assert "Did you mean reviewer?" in found[0]["message"]
    assert "opencode agent list" in found[1]["message"]


@pytest.mark.parametrize("key", ["agent:", "agent:@p/a", "agent: plan", "agent:plan @p/a", "agent:plan@", "agent:x@no"])
def test_a_chain_of_an_agent_has_to_name_agent_and_model(cli: Cli, key: str) -> None:
    cli.paths.config_file.write_text(json.dumps({"rateLimit": {"fallbackChain": {key: "q/b"}}}))
    (found,) = cli.json("config", "check", code=4)["findings"]
    assert (found["severity"], found["key"]) == ("error", f"rateLimit.fallbackChain.{key}")


def test_a_command_that_needs_the_configuration_says_where_all_its_errors_are_listed(cli: Cli) -> None:
    cli.configure(mode="fast")
    done = cli("config", "show")
    assert done.returncode == 4
    assert "'fast'" in done.stderr
    assert done.stderr.endswith("\n  To list all errors: ocwatch config check\n")
    assert json.loads(cli("config", "show", "--json").stderr)["error"]["message"].count("config check") == 0
    cli.configure()
    (cli.paths.opencode_config / "opencode.json").write_text("{")
    assert "config check" not in cli("pick").stderr, "the fault is in OpenCode's configuration"


def test_without_a_file_the_defaults_hold(cli: Cli) -> None:
    assert cli.json("config", "check")["exists"] is False
    shown = cli.json("config", "show")
    assert {setting["whence"] for setting in shown["settings"]} == {"default"}
    assert all(setting["value"] == setting["default"] for setting in shown["settings"])


@pytest.mark.parametrize(
    "heading", ["Wait for the reset instead of switching", "Only be notified"], ids=["wait", "notify"]
)
def test_a_recipe_that_moves_nothing_is_no_error_without_a_fallback(cli: Cli, heading: str) -> None:
    page = (DOCUMENTATION.parent / "recipes.md").read_text()
    recipe = page.partition(f"## {heading}\n")[2].partition("```json\n")[2].partition("```")[0]
    cli.opencode(model="acme/big", provider={"acme": {"models": {"big": {}}}})
    assert "acme/big has no fallback" in cli.json("config", "check", code=4)["findings"][0]["message"]
    cli.paths.config_file.write_text(recipe)
    assert cli.json("config", "check")["findings"] == []
    checks = {check["code"]: check for check in cli.json("doctor")["checks"]}
    assert (checks["chain-none"]["severity"], checks["chain-none"]["remedy"]) == ("ok", None)
    assert "no-fallback" not in checks


def test_init_shows_writes_and_never_overwrites_unasked(cli: Cli) -> None:
    cli.opencode(**USER)
    shown = cli.json("config", "init")
    assert not cli.paths.config_file.exists()
    assert (shown["exists"], shown["written"], shown["targets"]) == (False, False, ["r/c", "q/b", "ollama/c"])
    assert "Nothing has been written" in cli("config", "init").stdout
    assert cli("config", "init", "--force").returncode == 2

    done = cli("config", "init", "--write")
    assert done.returncode == 0
    text = cli.paths.config_file.read_text()
    assert text in done.stdout
    assert json.loads(text) == shown["configuration"]
    assert json.loads(text)["$schema"] == cli.paths.schema.as_uri()
    assert cli.paths.schema.read_bytes() == FILE.read_bytes(), "the copy outlives the virtual environment"
    assert "SECRET" not in text
    assert cli("config", "check").returncode == 0

    cli.paths.config_file.write_text("// mine\n")
    refused = cli("config", "init", "--write")
    assert (refused.returncode, cli.paths.config_file.read_text()) == (1, "// mine\n")
    assert "--force" in refused.stderr
    replaced = cli.json("config", "init", "--write", "--force")
    assert cli.paths.config_file.read_text() == text
    assert Path(replaced["kept"]).read_text() == "// mine\n"


def test_show_says_what_holds_and_whence(cli: Cli, tmp_path: Path) -> None:
    text = """{"rateLimit": {
      "models": {"big": "p/a"},
      "maxRetries": 3, // the default, but written
      "fallbackChain": {"big": ["q/b", "r/c"]},
      "perModel": {"big": {"maxDelay": 5}}}}"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rate-limit-config.json").write_text(text)
    done = cli("config", "show", "--json", OPENCODE_CONFIG_DIR=str(elsewhere), XDG_STATE_HOME="relative")
    shown = json.loads(done.stdout)
    found = {s["key"]: (s["value"], s["whence"], s["line"]) for s in shown["settings"]}
    assert found["maxRetries"] == (3, "file", 3)
    assert found["fallbackChain.big"] == (["q/b", "r/c"], "file", 4)
    assert found["perModel.big.maxDelay"] == (5, "file", 5)
    assert found["perModel.big.maxRetries"] == (3, "default", None)
    assert found["cooldown.quota"] == (3600000, "default", None)
    places = {place["name"]: place["whence"] for place in shown["places"]}
    assert places["configuration"] == "environment: OPENCODE_CONFIG_DIR"
    assert set(places.values()) == {"environment: OPENCODE_CONFIG_DIR", "default"}
    lines = cli("config", "show", OPENCODE_CONFIG_DIR=str(elsewhere)).stdout.splitlines()
    assert [line.split() for line in lines if "fallbackChain" in line or '"r/c"' in line] == [
        ["fallbackChain.big", "line", "4", '"q/b"'],
        ['"r/c"'],
    ]
    assert max(map(len, lines[1:30])) <= 80
    (elsewhere / "rate-limit-config.json").write_text("{")
    assert cli("config", "show", OPENCODE_CONFIG_DIR=str(elsewhere)).returncode == 4


def test_schema_prints_the_shipped_file(cli: Cli) -> None:
    assert cli("config", "schema").stdout == FILE.read_text()


def test_the_examples_of_the_documentation_are_well(cli: Cli) -> None:
    examples = re.findall(r"```jsonc\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        cli.paths.config_file.write_text(example)
        assert cli.json("config", "check")["findings"] == []
    cli.paths.config_file.write_text(examples[1])
    (opencode,) = re.findall(r"```json\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    cli.opencode(**json.loads(opencode))
    cli("block", "claude-primary", "--for", "1m")
    assert cli("pick", "claude-primary").stdout == "zhipuai/glm-4.5\n"
    cli("block", "claude-fallback")
    assert cli("pick", "claude-primary").stdout == "ollama/qwen3-coder:30b\n"
    cli("block", "local")
    assert cli("pick", "github-copilot/claude-sonnet-4").stdout == "ollama/gpt-oss:20b\n"
    assert cli.registered()["github-copilot/claude-sonnet-4"]["target"]["model"] == "zhipuai/glm-4.5"
    assert cli.registered()["zhipuai/glm-4.5"]["target"] == {"model": "ollama/qwen3-coder:30b", "agent": "local"}
