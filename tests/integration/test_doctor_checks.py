"""Tests of every check of the doctor: these facts give these findings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.config.loading import examine as examine_document
from ocwatchd.config.offered_models import Answer, Offered, judge
from ocwatchd.config.reader import read_document
from ocwatchd.doctor.checks import CODES, examine
from ocwatchd.doctor.values import (
    Agents,
    Check,
    Configured,
    Daemon,
    Facts,
    LogDirectory,
    Mode,
    Plugin,
    Running,
    Service,
)

NOW = 1_800_000_000.0
OFFERED = Offered(
    configured={"mock": frozenset({"primary", "second"}), "mock2": frozenset({"fallback"})},
    catalogue={"zai": frozenset({"glm-5"})},
    catalogue_age=3600.0,
)
SOUND = Facts(
    now=NOW,
    program="/bin/opencode",
    version="1.18.33",
    running=(Running(7, "/p", "1.18.33", "1", endpoint=True),),
    endpoints=1,
    logs=(LogDirectory("/logs", 2, NOW - 5),),
    daemon=Daemon("up", 9, 1.0),
    config=Configured("/c.json", True, None, (), {"mock/primary": ("mock2/fallback",)}, {"mock2/fallback": "helper"}),
    used=("mock/primary", "mock2/fallback"),
    offered=OFFERED,
    agents=Agents(frozenset({"build", "helper"}), complete=True),
    plugin=Plugin("current", "/plugin.js", "1", "1"),
    service=Service("/unit", "/bin/ocwatchd"),
    inotify=(65536, 128),
    newest_time=NOW - 2,
    journal_bytes=5000,
    state_free=1 << 30,
)


V2 = {"pid": 12, "address": "127.0.0.1:49374", "generation": 2, "plugin": False, "trouble": "too new"}


def facts(**changes: Any) -> Facts:
    return dataclasses.replace(SOUND, **changes)


def chains(**written: Any) -> Facts:
    return facts(
        config=Configured("/c.json", True, chains={k: tuple(v) for k, v in written.pop("of").items()}, **written)
    )


def run(**changes: Any) -> Facts:
    return facts(running=(dataclasses.replace(SOUND.running[0], **changes),))


# facts, code, severity, a part of what is seen, a part of the remedy (None: no remedy)
CASES: list[tuple[Facts, str, str, str, str | None]] = [
    (SOUND, "opencode-program", "ok", "/bin/opencode, version 1.18.33", None),
    (facts(program=None), "opencode-program", "warning", "not on PATH", "install OpenCode"),
    (facts(version=None, program_fault="exited with code 1"), "opencode-program", "error", "code 1", "reinstall"),
    (facts(version="0.15.2"), "opencode-program", "warning", "older than 1.0", "upgrade"),
    (facts(version="0.0.0-dev-202609212252"), "opencode-program", "ok", "0.0.0-dev", None),
    (facts(version="2.3.2", generation=2), "opencode-program", "ok", "OpenCode 2, version 2.3.2", None),
    (facts(endpoint_statuses=(V2,)), "opencode-generation", "error", "OpenCode 12: too new", "correct the problem"),
    (facts(migrated="/db"), "opencode-database", "error", "process 7 finds no session", "OpenCode 2"),
    (facts(migrated="/db", running=()), "opencode-database", "warning", "has migrated /db", "backup"),
    (run(generation=2, listens=True), "plugin", "info", "has not called the hooks", "nothing to do"),
    (run(generation=2, listens=True, plugin=None), "plugin", "info", "has not loaded the companion plugin", "nothing"),
    (SOUND, "opencode-running", "ok", "1 running OpenCode process uses this home directory (version 1.18.33)", None),
    (facts(running=()), "opencode-running", "info", "no running OpenCode process uses this home directory", None),
    (run(opencode="1.3.2"), "opencode-running", "info", "version 1.3.2", "version 1.18.33 is installed"),
    (SOUND, "daemon", "ok", "running, pid 9", None),
    (facts(daemon=Daemon()), "daemon", "warning", "not running", "ocwatch up"),
    (facts(daemon=Daemon("deaf", 9, 65.0)), "daemon", "error", "last heartbeat was 1m 5s ago", "kill 9"),
    (
        facts(daemon=Daemon("up", 9, 1.0, ("cannot watch /x",))),
        "daemon-health",
        "warning",
        "cannot watch /x",
        "keeps running",
    ),
    (
        facts(daemon=Daemon("up", 9, 1.0, waiting=(("ses_1", "frozen", "redirect ses_1"),))),
        "session",
        "warning",
        "ses_1: frozen",
        "ocwatch redirect ses_1",
    ),
    (
        facts(daemon=Daemon("up", 9, 1.0, (), "OpenCode writes to /l")),
        "log-lines",
        "error",
        "writes to /l",
        "ocwatch up",
    ),
    (SOUND, "log-directory", "ok", "/logs: 2 logs, last line 5s ago", None),
    (facts(logs=(LogDirectory("/l", None),)), "log-directory", "warning", "does not exist yet", "first start"),
    (facts(running=(), logs=(LogDirectory("/l", None),)), "log-directory", "info", "does not exist yet", "first start"),
    (
        facts(logs=(LogDirectory("/l", None, None, "no permission"),)),
        "log-directory",
        "warning",
        "no permission",
        "owner",
    ),
    (SOUND, "doors", "ok", "1 endpoint; every running OpenCode process can be reached", None),
    (run(endpoint=False), "doors", "warning", "OpenCode 7 in /p cannot be reached", "no endpoint"),
    (run(endpoint=False, plugin=None), "doors", "warning", "cannot be moved in place", "restart it"),
    (
        run(endpoint=False, plugin=None, why="runs with --pure, which loads no plugins", remedy="quit it"),
        "doors",
        "warning",
        "cannot be moved in place",
        "it runs with --pure, which loads no plugins: quit it",
    ),
    (facts(endpoint_troubles=("wants a password",)), "doors", "warning", "wants a password", "correct the problem"),
    (SOUND, "plugin", "ok", "/plugin.js, version 1", None),
    (facts(plugin=Plugin("absent", "/p", None, "1")), "plugin", "warning", "not installed", "ocwatch plugin install"),
    (facts(plugin=Plugin("outdated", "/p", "0", "1")), "plugin", "warning", "version 0", "ocwatch plugin install"),
    (
        facts(plugin=Plugin("outdated", "/p", "1", "1")),
        "plugin",
        "warning",
        "/p was changed or is",
        "restore it: ocwatch",
    ),
    (
        facts(plugin=Plugin("foreign", "/p", None, "1")),
        "plugin",
        "warning",
        "ocwatchd did not write /p",
        "move it away",
    ),
    (facts(plugin=Plugin(trouble="/p cannot be read")), "plugin", "warning", "cannot be read", "owner"),
    (run(plugin="0"), "plugin", "info", "loaded in OpenCode (pid 7)", "restart OpenCode"),
    (
        facts(plugin=Plugin("current", "/p", "1", "1", None, "door: no fetch")),
        "plugin-errors",
        "warning",
        "no fetch",
        "--bundle",
    ),
    (run(standing_back="active: oh-my-opencode"), "rival-plugin", "warning", "oh-my-opencode", "one of the two"),
    (facts(rivals=("x-fallback in opencode.json",)), "rival-plugin", "warning", "x-fallback in", "one of the two"),
    (SOUND, "service", "ok", "/unit", None),
    (facts(service=Service()), "service", "info", "no service is installed", "ocwatch service install"),
    (facts(service=Service(unserved="no manager")), "service", "info", "after it exits; no manager", None),
    (facts(service=Service("/unit", "/gone", False)), "service", "error", "/gone, which does not exist", "install"),
    (facts(daemon=Daemon()), "service", "warning", "is not running", "ocwatch service start"),
    (SOUND, "config-file", "ok", "/c.json is valid", None),
    (facts(config=Configured("/c.json")), "config-file", "warning", "/c.json does not exist", "ocwatch up"),
    (facts(config=Configured("/c.json", True, "line 3: wrong")), "config-file", "error", "line 3", "correct /c.json"),
    (facts(opencode_config_fault="opencode.json, line 2"), "opencode-config", "error", "line 2", "correct"),
    (
        chains(of={"mock/primary": ["mock2/fallback"]}, warnings=("unknown key 'x'",)),
        "config-key",
        "warning",
        "'x'",
        "//",
    ),
    (facts(config=Configured("/c.json", True, plan_command=True)), "plan-command", "ok", "no problem", None),
    (
        facts(config=Configured("/c.json", True, plan_command=True), plan_command_problem="/q exited with code 3"),
        "plan-command",
        "warning",
        "/q exited with code 3",
        "docs/forecast.md",
    ),
    (chains(of={}), "chain-none", "error", "no session can be moved", "fallbackChain"),
    (facts(config=Configured("/c.json"), used=()), "chain-none", "warning", "no session", "config init --write"),
    (chains(of={}, no_fallback_needed="no session is moved"), "chain-none", "ok", "none is needed: no session", None),
    (SOUND, "chain-model", "ok", "all configured models (2)", None),
    (
        chains(of={"mock/primary": ["mock2/gone"]}),
        "chain-model",
        "error",
        "mock2/gone: mock2 offers no model",
        "/c.json",
    ),
    (chains(of={"nope/x": ["mock2/fallback"]}), "chain-model", "error", "nope/x: there is no provider nope", "/c.json"),
    (chains(of={"mock/primary": ["openai/gpt-5"]}), "chain-model", "info", "openai/gpt-5", "opencode models"),
    (
        chains(of={"mock/*": ["mock2/fallback"], "*": ["mock2/fallback"]}),
        "chain-model",
        "ok",
        "all configured models (1)",
        None,
    ),
    (
        chains(of={"mock/primary": ["mock2/fallback"], "mock2/fallback": ["mock/primary"]}),
        "chain-circle",
        "error",
        "mock/primary -> mock2/fallback -> mock/primary",
        "remove one",
    ),
    (SOUND, "chain-agent", "ok", "helper", None),
    (
        facts(agents=Agents(frozenset({"build"}), complete=True)),
        "chain-agent",
        "error",
        "helper in a running OpenCode process, but ocwatchd's configuration names it for mock2/fallback",
        "/c.json",
    ),
    (facts(agents=Agents(frozenset({"build"}))), "chain-agent", "warning", "helper", "opencode agent list"),
    (SOUND, "no-fallback", "ok", "mock/primary", None),
    (facts(used=("mock/second",)), "no-fallback", "error", "no fallback is configured for mock/second", '"*"'),
    (SOUND, "file-mode", "ok", "only you", None),
    (facts(open_modes=(Mode("/s", 0o755),)), "file-mode", "warning", "/s has mode 0755", "chmod go= /s"),
    (facts(open_modes=(Mode("/s", 0o700, own=False),)), "file-mode", "error", "another user", "chown"),
    (facts(open_modes=(Mode("/a b;x", 0o755),)), "file-mode", "warning", "/a b;x has mode", "chmod go= '/a b;x'"),
    (facts(open_modes=(Mode("/$(x)", 0, own=False),)), "file-mode", "error", "another user", "chown $USER '/$(x)'"),
    (facts(blacklist_problems=("damaged",)), "register", "warning", "damaged", "renames"),
    (SOUND, "journal", "ok", "4 KiB", None),
    (facts(journal_bytes=70 << 20), "journal", "warning", "70 MiB", "remove it"),
    (facts(state_free=1 << 20), "disk", "warning", "1 MiB", "free some space"),
    (SOUND, "inotify", "ok", "65536 watches", None),
    (facts(inotify=(128, 128)), "inotify", "warning", "128 watches", "max_user_watches"),
    (SOUND, "clock", "ok", "not been set back", None),
    (facts(newest_time=NOW + 3600), "clock", "warning", "that is 1h in the future", "correct the system clock"),
]


@pytest.mark.parametrize(("given", "code", "severity", "seen", "remedy"), CASES)
def test_a_finding(given: Facts, code: str, severity: str, seen: str, remedy: str | None) -> None:
    found = [check for check in examine(given) if check.code == code]
    fitting = [check for check in found if check.severity == severity and seen in check.seen]
    assert fitting, found
    assert fitting[0].remedy is None if remedy is None else remedy in (fitting[0].remedy or "")


@pytest.mark.parametrize("proposed", [(), ("mock2/fallback", "mock/second")])
def test_the_proposed_chain_is_a_whole_document_that_can_be_used(tmp_path: Path, proposed: tuple[str, ...]) -> None:
    found = {check.code: check for check in examine(dataclasses.replace(chains(of={}), proposed=proposed))}
    remedy, file = found["chain-none"].remedy or "", tmp_path / "c.json"
    assert remedy.endswith(found["chain-none"].command)
    file.write_text(found["chain-none"].command)
    examined = examine_document(read_document(file))
    assert not examined.errors
    assert not examined.slips
    fallbacks = proposed or ("provider/fallback",)
    assert examined.names.chains == {"mock/primary": fallbacks, "*": ("mock/primary", *fallbacks)}


def test_nothing_needs_a_fallback_if_no_session_is_moved() -> None:
    config = dataclasses.replace(SOUND.config, no_fallback_needed="no session is moved")
    codes = {check.code for check in examine(facts(used=("mock/second",), config=config))}
    assert "no-fallback" not in codes


@pytest.mark.parametrize(("state", "avoided"), [("current", True), ("outdated", True), ("absent", False)])
def test_without_a_daemon_and_without_the_plugin_no_prompt_avoids_a_model(state: str, avoided: bool) -> None:
    given = facts(daemon=Daemon(), plugin=Plugin(state, "/p", "1", "1"))
    seen = next(check.seen for check in examine(given) if check.code == "daemon")
    assert ("new prompts still avoid" in seen) == avoided


def test_a_sound_machine_has_nothing_to_complain_of() -> None:
    assert [check for check in examine(SOUND) if check.severity != "ok"] == []


def test_an_empty_machine_is_no_error() -> None:
    assert [check for check in examine(Facts(NOW)) if check.severity == "error"] == []


@pytest.mark.parametrize("given", [case[0] for case in CASES])
def test_whatever_is_wrong_has_a_remedy_and_a_known_code(given: Facts) -> None:
    for check in examine(given):
        assert isinstance(check, Check)
        assert check.code in CODES
        assert check.seen
        assert check.remedy or check.severity in ("ok", "info")


def test_every_code_is_shown_here_and_documented() -> None:
    assert {case[1] for case in CASES} == set(CODES)
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert [code for code in CODES if f"| `{code}` |" not in page] == []
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(CODES)


DOORS = {"mock": frozenset({"primary"})}


@pytest.mark.parametrize(
    ("model", "offered", "answer"),
    [
        ("mock/primary", OFFERED, Answer.YES),
        ("zai/glm-5", OFFERED, Answer.YES),
        ("zai/glm-4", OFFERED, Answer.NO),
        ("zai/glm-4", dataclasses.replace(OFFERED, catalogue_age=30 * 86400), Answer.UNSURE),
        ("nope/x", OFFERED, Answer.NO),
        ("nope/x", Offered(), Answer.UNSURE),  # nothing is known at all
        ("mine/x", Offered(configured={"mine": frozenset()}), Answer.UNSURE),  # a plugin may define its models
        ("mine/x", Offered(configured={"mine": frozenset({"y"})}), Answer.NO),
        ("anthropic/claude-opus-5", OFFERED, Answer.UNSURE),  # in no list here, but OpenCode certainly knows it
        ("anthropic/x", Offered(configured={"anthropic": frozenset({"own"})}), Answer.UNSURE),  # adds to the catalogue
        ("new/x", dataclasses.replace(OFFERED, signed_in=frozenset({"new"})), Answer.UNSURE),
        ("mock/second", dataclasses.replace(OFFERED, by_endpoints=DOORS), Answer.YES),  # in another project
        ("mock/third", dataclasses.replace(OFFERED, by_endpoints=DOORS), Answer.NO),
        ("zai/glm-5", dataclasses.replace(OFFERED, enabled=frozenset({"mock"})), Answer.NO),
        ("mock/primary", dataclasses.replace(OFFERED, disabled=frozenset({"mock"})), Answer.NO),
        ("openrouter/z-ai/glm-5:free", Offered(catalogue={"openrouter": frozenset({"z-ai/glm-5:free"})}), Answer.YES),
    ],
)
def test_what_is_known_of_a_model(model: str, offered: Offered, answer: Answer) -> None:
    judgement = judge(model, offered)
    assert judgement.answer is answer
    assert bool(judgement.why) == (answer is not Answer.YES)
