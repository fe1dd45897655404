"""Every check of the doctor: given these facts, then these findings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.doctor.checks import CODES, examine
from ocwatchd.doctor.models import Answer, judge
from ocwatchd.doctor.values import (
    Agents,
    Check,
    Configured,
    Daemon,
    Facts,
    LogDirectory,
    Mode,
    Offered,
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
    running=(Running(7, "/p", "1.18.33", "1", door=True),),
    doors=1,
    logs=(LogDirectory("/logs", 2, NOW - 5),),
    daemon=Daemon("up", 9, 1.0),
    config=Configured("/c.json", True, None, (), {"mock/primary": ("mock2/fallback",)}, {"mock2/fallback": "helper"}),
    used=("mock/primary", "mock2/fallback"),
    offered=OFFERED,
    agents=Agents(frozenset({"build", "helper"}), complete=True),
    plugin=Plugin("current", "/plugin.js", "1", "1"),
    service=Service("/unit", "/bin/ocwatchd"),
    inotify=(65536, 128),
    newest_of_ours=NOW - 2,
    journal_bytes=5000,
    state_free=1 << 30,
)


def facts(**changes: Any) -> Facts:
    return dataclasses.replace(SOUND, **changes)


def chains(**written: Any) -> Facts:
    return facts(
        config=Configured("/c.json", True, chains={k: tuple(v) for k, v in written.pop("of").items()}, **written)
    )


def run(**changes: Any) -> Facts:
    return facts(running=(dataclasses.replace(SOUND.running[0], **changes),))


# facts, code, severity, a part of what is seen, a part of the remedy (None: there is none)
CASES: list[tuple[Facts, str, str, str, str | None]] = [
    (SOUND, "opencode-program", "ok", "/bin/opencode, version 1.18.33", None),
    (facts(program=None), "opencode-program", "warning", "not on PATH", "install OpenCode"),
    (facts(version=None, program_fault="ended with code 1"), "opencode-program", "error", "code 1", "reinstall"),
    (facts(version="0.15.2"), "opencode-program", "warning", "older than 1.0", "upgrade"),
    (SOUND, "opencode-running", "ok", "1 OpenCode runs in this home, version 1.18.33", None),
    (facts(running=()), "opencode-running", "info", "no OpenCode runs", None),
    (run(opencode="1.3.2"), "opencode-running", "info", "version 1.3.2", "installed 1.18.33"),
    (SOUND, "daemon", "ok", "up, pid 9", None),
    (facts(daemon=Daemon()), "daemon", "warning", "not running", "ocwatch up"),
    (facts(daemon=Daemon("deaf", 9, 65.0)), "daemon", "error", "last beat was 65 s ago", "kill 9"),
    (
        facts(daemon=Daemon("up", 9, 1.0, ("cannot watch /x",))),
        "daemon-health",
        "warning",
        "cannot watch /x",
        "complaint",
    ),
    (
        facts(daemon=Daemon("up", 9, 1.0, (), "OpenCode writes to /l")),
        "log-lines",
        "error",
        "writes to /l",
        "ocwatch up",
    ),
    (SOUND, "log-directory", "ok", "/logs: 2 logs, last line 5 s ago", None),
    (facts(logs=(LogDirectory("/l", None),)), "log-directory", "warning", "not there", "first start"),
    (facts(running=(), logs=(LogDirectory("/l", None),)), "log-directory", "info", "not there", "first start"),
    (
        facts(logs=(LogDirectory("/l", None, None, "no permission"),)),
        "log-directory",
        "warning",
        "no permission",
        "owns",
    ),
    (SOUND, "doors", "ok", "1 door open", None),
    (run(door=False), "doors", "warning", "no door into OpenCode 7 in /p", "no way in"),
    (run(door=False, plugin=None), "doors", "warning", "cannot be moved in place", "start it again"),
    (facts(door_troubles=("wants a password",)), "doors", "warning", "wants a password", "as it says"),
    (SOUND, "plugin", "ok", "/plugin.js, version 1", None),
    (facts(plugin=Plugin("absent", "/p", None, "1")), "plugin", "warning", "not installed", "ocwatch plugin install"),
    (facts(plugin=Plugin("outdated", "/p", "0", "1")), "plugin", "warning", "version 0", "ocwatch plugin install"),
    (facts(plugin=Plugin("foreign", "/p", None, "1")), "plugin", "warning", "not ocwatchd's", "move it away"),
    (facts(plugin=Plugin(trouble="/p cannot be read")), "plugin", "warning", "cannot be read", "owns"),
    (run(plugin="0"), "plugin", "info", "loaded in OpenCode 7", "start these again"),
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
    (facts(service=Service()), "service", "info", "no user service", "ocwatch service install"),
    (facts(service=Service(unserved="no manager")), "service", "info", "its terminal; no manager", None),
    (facts(service=Service("/unit", "/gone", False)), "service", "error", "/gone, which is not there", "install"),
    (facts(daemon=Daemon()), "service", "warning", "does not run", "ocwatch service start"),
    (SOUND, "config-file", "ok", "/c.json can be used", None),
    (facts(config=Configured("/c.json")), "config-file", "warning", "no /c.json", "ocwatch up"),
    (facts(config=Configured("/c.json", True, "line 3: wrong")), "config-file", "error", "line 3", "correct /c.json"),
    (facts(opencode_config_fault="opencode.json, line 2"), "opencode-config", "error", "line 2", "correct"),
    (
        chains(of={"mock/primary": ["mock2/fallback"]}, warnings=("unknown key 'x'",)),
        "config-key",
        "warning",
        "'x'",
        "//",
    ),
    (chains(of={}), "chain-none", "warning", "nothing can be moved", "fallbackChain"),
    (SOUND, "chain-model", "ok", "2 models", None),
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
        "1 model in chains",
        None,
    ),
    (
        chains(of={"mock/primary": ["mock2/fallback"], "mock2/fallback": ["mock/primary"]}),
        "chain-circle",
        "error",
        "mock/primary -> mock2/fallback -> mock/primary",
        "take one",
    ),
    (SOUND, "chain-agent", "ok", "helper", None),
    (
        facts(agents=Agents(frozenset({"build"}), complete=True)),
        "chain-agent",
        "error",
        "helper, which is to carry mock2/fallback",
        "/c.json",
    ),
    (facts(agents=Agents(frozenset({"build"}))), "chain-agent", "warning", "helper", "opencode agent list"),
    (SOUND, "no-fallback", "ok", "mock/primary", None),
    (facts(used=("mock/second",)), "no-fallback", "warning", "nothing stands in for mock/second", '"*"'),
    (SOUND, "file-mode", "ok", "yours alone", None),
    (facts(open_modes=(Mode("/s", 0o755),)), "file-mode", "warning", "/s has mode 0755", "chmod go= /s"),
    (facts(open_modes=(Mode("/s", 0o700, own=False),)), "file-mode", "error", "another user", "chown"),
    (facts(register_problems=("damaged",)), "register", "warning", "damaged", "aside"),
    (SOUND, "journal", "ok", "4 KiB", None),
    (facts(journal_bytes=70 << 20), "journal", "warning", "70 MiB", "remove it"),
    (facts(state_free=1 << 20), "disk", "warning", "1 MiB", "make room"),
    (SOUND, "inotify", "ok", "65536 watches", None),
    (facts(inotify=(128, 128)), "inotify", "warning", "128 watches", "max_user_watches"),
    (SOUND, "clock", "ok", "forward", None),
    (facts(newest_of_ours=NOW + 3600), "clock", "warning", "3600 s ahead", "set it right"),
]


@pytest.mark.parametrize(("given", "code", "severity", "seen", "remedy"), CASES)
def test_a_finding(given: Facts, code: str, severity: str, seen: str, remedy: str | None) -> None:
    found = [check for check in examine(given) if check.code == code]
    fitting = [check for check in found if check.severity == severity and seen in check.seen]
    assert fitting, found
    assert fitting[0].remedy is None if remedy is None else remedy in (fitting[0].remedy or "")


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
        ("mine/x", Offered(configured={"mine": frozenset()}), Answer.UNSURE),  # a plugin may bring its models
        ("mine/x", Offered(configured={"mine": frozenset({"y"})}), Answer.NO),
        ("anthropic/claude-opus-5", OFFERED, Answer.UNSURE),  # in no list here, but surely OpenCode knows it
        ("anthropic/x", Offered(configured={"anthropic": frozenset({"own"})}), Answer.UNSURE),  # adds to the catalogue
        ("new/x", dataclasses.replace(OFFERED, signed_in=frozenset({"new"})), Answer.UNSURE),
        ("mock/second", dataclasses.replace(OFFERED, by_doors=DOORS), Answer.YES),  # of another project
        ("mock/third", dataclasses.replace(OFFERED, by_doors=DOORS), Answer.NO),
        ("zai/glm-5", dataclasses.replace(OFFERED, enabled=frozenset({"mock"})), Answer.NO),
        ("mock/primary", dataclasses.replace(OFFERED, disabled=frozenset({"mock"})), Answer.NO),
        ("openrouter/z-ai/glm-5:free", Offered(catalogue={"openrouter": frozenset({"z-ai/glm-5:free"})}), Answer.YES),
    ],
)
def test_what_is_known_of_a_model(model: str, offered: Offered, answer: Answer) -> None:
    judgement = judge(model, offered)
    assert judgement.answer is answer
    assert bool(judgement.why) == (answer is not Answer.YES)
