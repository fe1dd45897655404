"""Tests of `ocwatch doctor` as a command: its findings in a home, its output, its exit code, and the archive."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.cli.commands.doctor import text_of
from ocwatchd.doctor.checks import examine
from ocwatchd.doctor.values import Facts, Plugin, Running
from tests.cli.conftest import Cli, resting

PROVIDERS = {
    "mock": {"models": {"primary": {}}, "options": {"apiKey": "sk-verysecret123456"}},
    "mock2": {"models": {"fallback": {}}},
}


@pytest.fixture
def home(cli: Cli) -> Cli:
    """A sound setup, except that no daemon is running."""
    cli.opencode(model="mock/primary", provider=PROVIDERS)
    cli.configure(fallbackChain={"mock/primary": "mock2/fallback"})
    program = cli.paths.home / "bin" / "opencode"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 1.18.33\n")
    program.chmod(0o755)
    cli.env["PATH"] = f"{program.parent}:/usr/bin:/bin"
    return cli


def found(cli: Cli, code: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return the findings by code; those with the same code in order."""
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in cli.json("doctor", code=code)["checks"]:
        assert set(check) == {"code", "severity", "seen", "remedy"}
        checks.setdefault(check["code"], []).append(check)
    return checks


def test_a_sound_setup_has_no_error_and_is_not_changed(home: Cli) -> None:
    before = sorted(home.paths.home.rglob("*"))
    checks = found(home)
    assert checks["opencode-program"][0]["seen"].endswith("/bin/opencode, version 1.18.33")
    assert {check["severity"] for many in checks.values() for check in many} <= {"ok", "info", "warning"}
    assert checks["chain-model"][0]["severity"] == checks["no-fallback"][0]["severity"] == "ok"
    assert sorted(home.paths.home.rglob("*")) == before


def test_unknown_models_and_circles_are_errors_that_name_the_models(home: Cli) -> None:
    home.configure(
        models={"alias": "mock2/gone"},
        fallbackChain={"mock/primary": ["alias", "nope/none"], "mock2/fallback": "mock/primary",
                       "mock2/gone": "mock2/fallback"},
    )  # fmt: skip
    checks = found(home, code=1)
    seen = " ".join(check["seen"] for check in checks["chain-model"] if check["severity"] == "error")
    assert "mock2/gone" in seen
    remedies = [check["remedy"] for check in checks["chain-model"] if check["severity"] == "error"]
    assert remedies
    assert all(remedy.endswith("run: ocwatch config check") for remedy in remedies)
    assert "nope/none" in seen
    (circle,) = checks["chain-circle"]
    assert (circle["severity"], "mock/primary" in circle["seen"], "mock2/fallback" in circle["seen"]) == (
        "error",
        True,
        True,
    )
    assert "config-key" not in checks  # reported once


def test_a_misspelt_alias_that_no_chain_uses_is_an_error_too(home: Cli) -> None:
    home.configure(models={"alias": "mock2/gone"}, fallbackChain={"mock/primary": ["mock2/fallback"]})
    assert home("config", "check").returncode == 4
    seen = [check["seen"] for check in found(home, code=1)["chain-model"] if check["severity"] == "error"]
    assert len(seen) == 1
    assert "mock2/gone" in seen[0]


def test_a_project_s_own_providers_and_the_cached_list_count(home: Cli) -> None:
    project = home.paths.home / "project"
    project.mkdir()
    (project / "opencode.json").write_text(json.dumps({"provider": {"own": {"models": {"m": {}}}}}))
    cache = home.paths.home / ".cache/opencode/models.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({"zai": {"id": "zai", "models": {"glm-5": {}}}}))
    home.configure(fallbackChain={"mock/primary": ["own/m", "zai/glm-5", "anthropic/claude-x"]})
    done = home("doctor", "--json", cwd=project)
    checks = [check for check in json.loads(done.stdout)["checks"] if check["code"] == "chain-model"]
    assert (done.returncode, [check["severity"] for check in checks]) == (0, ["info"])
    assert "anthropic/claude-x" in checks[0]["seen"]


def test_a_configuration_that_cannot_be_used(home: Cli) -> None:
    home.paths.config_file.write_text('{"rateLimit": {"mode": "sometimes"}}')
    (fault,) = found(home, code=1)["config-file"]
    assert (fault["severity"], "rateLimit.mode" in fault["seen"]) == ("error", True)


def test_a_broken_opencode_and_rivals_and_open_files(home: Cli) -> None:
    (home.paths.home / "bin" / "opencode").write_text("#!/bin/sh\necho no libc >&2; exit 1\n")
    home.opencode(
        model="mock/primary", provider=PROVIDERS, plugin=[["@smart-coders/opencode-model-fallback@1", {}], "x"]
    )
    plugins = home.paths.opencode_config / "plugins"
    plugins.mkdir()
    (plugins / "oh-my-opencode-slim.ts").write_text("")
    home.register(**{"mock/primary": resting()})
    home.paths.state_dir.chmod(0o755)
    checks = found(home, code=1)
    assert "no libc" in checks["opencode-program"][0]["seen"]
    assert ["smart-coders" in c["seen"] or "oh-my" in c["seen"] for c in checks["rival-plugin"]] == [True, True]
    assert str(home.paths.state_dir) in checks["file-mode"][0]["seen"]


def test_the_service_s_file_and_a_program_that_is_gone(home: Cli) -> None:
    unit = home.paths.home / ".config/systemd/user/ocwatchd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/nowhere/ocwatchd --flag\n")
    (fault,) = found(home, code=1)["service"]
    assert "/nowhere/ocwatchd" in fault["seen"]
    unit.write_text("[Service]\nExecStart=/bin/sh\n")
    assert found(home)["service"][0]["severity"] == "warning"


def test_a_daemon_that_does_not_read_is_deaf_for_both_commands(home: Cli) -> None:
    home.heartbeat(following=[f"{home.paths.log_dir} (1 files)"])
    home.paths.log_dir.mkdir(parents=True)
    log = home.paths.log_dir / "opencode.log"
    log.write_text("level=INFO message=one\n")
    cursors = home.paths.cursors
    cursors.write_text(json.dumps({"version": 1, "files": {str(log): {"offset": 0}}}))
    os.utime(cursors, (cursors.stat().st_atime, cursors.stat().st_mtime - 60))
    (fault,) = found(home, code=1)["log-lines"]
    assert str(log) in fault["seen"]
    status = home("status")
    assert status.returncode == 3
    lines = status.stdout.splitlines()
    assert "is stalled" in lines[0]
    assert "is not reading OpenCode's logs" in lines[0]
    assert f"# OpenCode is writing to {log}, but the daemon has not read any of it" in " ".join(status.stdout.split())
    assert lines[-1] == "next: ocwatch doctor (see what to do)"
    assert home.json("status", code=3)["state"] == "deaf"
    cursors.write_text(json.dumps({"version": 1, "files": {str(log): {"offset": log.stat().st_size}}}))
    assert home("status").returncode == 0
    assert "log-lines" not in found(home)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_fits_and_hides_nothing(home: Cli, width: int) -> None:
    home.configure(fallbackChain={"mock/primary": ["nope/\u202enone"]})
    done = home("doctor", COLUMNS=str(width))
    assert done.returncode == 1
    assert r"nope/\u202enone" in done.stdout
    assert "✗ config-file:" in done.stdout
    assert "1 error and " in done.stdout
    home_words = [word for word in done.stdout.split() if len(word) > width - 8]  # paths are not wrapped
    assert all(len(line) <= width or any(word in line for word in home_words) for line in done.stdout.splitlines())


def test_the_archive_tells_what_helps_and_nothing_else(home: Cli, tmp_path: Path) -> None:
    rate = {"fallbackChain": {"mock/primary": "mock2/fallback"}, "// remark": "my private remark"}
    home.configure(**rate, apiKey="hunter2")
    home.register(**{"mock/primary": resting(reason="key sk-abcdef1234567890 is limited")})
    secret = {"version": 1, "id": "1", "what": "claim", "directory": f"{home.paths.home}/x", "prompt": "write a poem"}
    home.paths.journal.write_text(json.dumps(secret) + '\n{"torn')
    target = tmp_path / "report.tar.gz"
    done = home("doctor", "--bundle", str(target))
    assert done.returncode == 0
    assert f"Wrote {target}" in done.stdout
    assert target.stat().st_mode & 0o777 == 0o600
    texts = unpacked(target)
    assert {m for m in texts if m.endswith(".json")} >= {"versions.json", "doctor.json", "rate-limit-config.json"}
    whole = "\n".join(texts.values())
    for hidden in ("hunter2", "sk-", "private remark", "write a poem", str(home.paths.home)):
        assert hidden not in whole
    assert json.loads(texts["journal.jsonl"])["directory"] == "~/x"
    assert json.loads(texts["blacklist.json"])["models"]["mock/primary"]["reason"] == "key [removed] is limited"
    assert json.loads(texts["rate-limit-config.json"])["fallbackChain"] == rate["fallbackChain"]
    assert json.loads(texts["doctor.json"])["checks"]


def unpacked(target: Path) -> dict[str, str]:
    """Return the texts of an archive by name."""
    with tarfile.open(target) as archive:
        members = {m.name: archive.extractfile(m) for m in archive.getmembers()}
        return {name.rpartition("/")[2]: file.read().decode() for name, file in members.items() if file}


def test_nothing_private_is_in_the_archive_wherever_it_stood(home: Cli, tmp_path: Path) -> None:
    key, idea = "9f86d081884c7d659a2feaa0c55ad015", "swordfish"
    rate = {
        "fallbackChain": {"mock/primary": "mock2/fallback"}, "maxDelay": 30000, "budget": idea,
        "errorPatterns": ["slow down", f"key {key}"], "unknown": {"deep": idea},
        "notifications": {
            "quietHours": "22:00-07:30", "ntfy": f"https://me:{idea}@ntfy.sh/{idea}",
            "command": [
                "/home/swordfish/curl", "-H", f"X-Gotify-Key: {idea}", "--user", f"me:{idea}", f"https://ntfy.sh/{idea}",
            ],
        },
        "launcher": {"opencode": f"/home/{idea}/bin/opencode"},
    }  # fmt: skip
    home.configure(**rate)
    home.opencode(
        model="mock/primary", provider=PROVIDERS, plugin=[f"git+https://x:{idea}@git.example/opencode-fallback"]
    )
    home.register(**{"mock/primary": resting(reason=f"the password is {idea}", note=idea, target=None)})
    session = {"session": "ses_1", "phrase": f"limited: --token {idea}", "prompt": idea}
    home.heartbeat(sessions=[session], health=[f"https://{idea}@host/"], extra=idea)
    line = {
        "version": 1, "id": "001a2047fb086d99533b7", "what": "moved", "session": "ses_1", "seconds": 1.5,
        "shown": {"words": f"mail {idea}@example.com", "door": f"http://me:{idea}@127.0.0.1:1", "unknown": idea},
        "why": f"Bearer {key}", "directory": f"/home/{idea}/work", "note": idea, "first_token_seconds": 0.4,
        "considered": [{"why": f"pwd={idea}"}],
    }  # fmt: skip
    home.paths.journal.write_text(json.dumps(line) + "\n")
    block = ["-----BEGIN RSA PRIVATE KEY-----", "MIIswordfish", "-----END RSA PRIVATE KEY-----"]
    (home.paths.state_dir / "plugin-errors.log").write_text(
        "\n".join(["toast: no such route", *block, f"{key} failed"])
    )
    target = tmp_path / "report.tar.gz"
    assert home("doctor", "--bundle", str(target)).returncode == 1
    texts = unpacked(target)
    assert {name: text for name, text in texts.items() if idea in text or key in text} == {}
    config = json.loads(texts["rate-limit-config.json"])
    assert (config["maxDelay"], config["errorPatterns"][0]) == (30000, "slow down")
    assert config["notifications"] == {
        "quietHours": "22:00-07:30", "ntfy": "[removed]", "command": ["curl", *["[removed]"] * 5]
    }  # fmt: skip
    told = json.loads(texts["journal.jsonl"])
    assert (told["id"], told["what"], told["session"]) == (line["id"], "moved", "ses_1")
    assert (told["seconds"], told["first_token_seconds"]) == (1.5, 0.4)
    assert texts["plugin-errors.log"].splitlines()[0] == "toast: no such route"


def test_an_archive_that_cannot_be_written_is_said(home: Cli) -> None:
    done = home("doctor", "--bundle", "/proc/report.tar.gz")
    assert done.returncode == 1
    assert "/proc/report.tar.gz cannot be written" in done.stderr


def test_a_command_in_a_remedy_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    again = "cd /home/somebody/projects/shop && opencode --log-level DEBUG -s ses_1"
    process = Running(7, "/p", why="was started before", remedy=f"quit it, then type: {again}", again=again)
    facts = Facts(0.0, running=(process,), plugin=Plugin("current", "/plugin.js", "1", "1"))
    (found,) = (check for check in examine(facts) if check.code == "doors")
    assert text_of(found).splitlines()[-2:] == ["    -> it was started before: quit it, then type:", f"      {again}"]
    assert found.remedy == f"it was started before: quit it, then type: {again}"
    assert text_of(replace(found, remedy="see the finding")).endswith("-> see the finding")


@pytest.mark.parametrize("state", ["absent", "foreign", "outdated"])
def test_a_remedy_names_the_installation_of_the_plugin_once(state: str) -> None:
    again = "cd /p && opencode"
    process = Running(7, "/p", why="runs without it", remedy=f"quit it, then type: {again}", again=again)
    if state != "outdated":
        process = replace(process, remedy=f"run `ocwatch plugin install`, {process.remedy}")
    facts = Facts(0.0, running=(process,), plugin=Plugin(state, "/plugin.js", None, "1"))
    (found,) = (check for check in examine(facts) if check.code == "doors")
    assert found.remedy
    assert found.remedy.count("ocwatch plugin install") == 1
    assert found.remedy.endswith(f"quit it, then type: {again}")
