"""Tests that keys, prompts and headers in any dialect and in providers' words are in none of our files and output."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress
from ocwatchd.core.engine.messages import Notify
from ocwatchd.daemon.notifier import Notifier
from tests.support.daemon import Daemon
from tests.support.fakeopencode import FakeOpenCode
from tests.support.homes import Home
from tests.support.processes import free_port, wait_until

KEYS = (
    "sk-ant-api03-SECRETsecretSECRETsecretSECRET-AA",
    "sk-proj-SECRETsecretSECRETsecret1234567890",
    "AIzaSySECRETsecretSECRETsecretSECRET12345",
    "ghp_SECRETsecretSECRETsecretSECRETsecret12",
    "xoxb-1234567890-SECRETsecretSECRETsecret",
    "gsk_SECRETsecretSECRETsecretSECRETsecret1234",
    "AKIASECRETSECRET1234",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJTRUNSRVQifQ.SECRETsecretSECRETsecret",
)
PASSWORD = "SECRETpassword-7"
PROMPT = "SECRETPROMPT: the merger is on Tuesday"
WORDS = (
    "Rate limit reached for key {0}",
    "Rate limit reached (Authorization: Bearer {0})",
    "Rate limit reached, api_key={0}, try again in 20s",
    'Rate limit reached {{"x-api-key": "{0}"}}',
    "Rate limit reached at https://user:{0}@api.example.com/v1?key={0}",
)


def old_line(words: str, key: str, session: str, when: float) -> str:
    """Return a refused attempt of 1.3.2 with all data of a request."""
    error = {
        "name": "AI_APICallError",
        "url": f"https://api.example.com/v1/chat?key={key}",
        "requestBodyValues": {"model": "primary", "messages": [{"role": "user", "content": f"{PROMPT} {key}"}]},
        "statusCode": 429,
        "responseHeaders": {"set-cookie": key, "authorization": f"Bearer {key}", "retry-after": "60"},
        "responseBody": json.dumps({"error": {"message": words}}),
        "isRetryable": True,
    }
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
    tags = f"providerID=mock modelID=primary sessionID={session} small=false agent=build"
    return (
        f"INFO  {stamp} +1ms service=llm {tags} stream\n"
        f"ERROR {stamp} +1ms service=llm {tags} error={json.dumps({'error': error})} stream error\n"
        f"ERROR {stamp} +1ms service=session.processor error={words} stack={json.dumps(words)} process\n"
    )


def new_line(words: str, session: str, when: float) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))
    tags = f"providerID=mock modelID=second session.id={session} small=false agent=build mode=primary"
    text = json.dumps(f"AI_APICallError: {words}")
    return f'timestamp={stamp} level=ERROR run=0a1b2c3d message="stream error" {tags} error.error={text}\n'


@pytest.fixture
def notices(tmp_path: Path) -> Path:
    """Return the file into which our own `notify-send` writes its input."""
    told = tmp_path / "notices.txt"
    program = tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n')
    program.chmod(0o755)
    return told


def test_no_secret_is_found_in_anything_of_ours(tmp_path: Path, notices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{notices.parent / 'bin'}:/usr/bin:/bin")
    with FakeOpenCode(str(tmp_path)) as opencode:
        secrets = {"OCWATCHD_LOG": "debug", "OPENCODE_SERVER_PASSWORD": PASSWORD, "ANTHROPIC_API_KEY": KEYS[0]}
        home = Home(tmp_path / "home", opencode.url, environment=secrets)
        home.log_dir.mkdir(parents=True)
        daemon = Daemon(
            home,
            chain={"mock/primary": "mock2/fallback"},
            endpoints=[opencode.url, f"http://127.0.0.1:{free_port()}"],
            notifications={"command": ["/bin/false", "--token", KEYS[1], f"https://{KEYS[2]}@ntfy.example/{KEYS[3]}"]},
            errorPatterns=[f"quota of key {KEYS[4]} used"],
            apiKey=KEYS[5],
        )
        with daemon:
            planted = [(words.format(key), key) for words in WORDS for key in KEYS]
            old = (home.log_dir / "2026-11-22T120000.log").open("a", buffering=1)
            new = (home.log_dir / "opencode.log").open("a", buffering=1)
            old.write(f'INFO  2026-11-22T12:00:00 +1ms service=default version=1.3.2 args=["{PROMPT}"] opencode\n')
            for number, (words, key) in enumerate(planted):
                opencode.limited(f"ses_old{number}")
                old.write(old_line(words, key, f"ses_old{number}", time.time()))
                new.write(new_line(words, f"ses_new{number}", time.time()))
            wait_until(lambda: all(s.answered for s in opencode.sessions.values()), 120, why="all are moved")
            wait_until(lambda: len(daemon.journal("limit")) >= 2 * len(planted), 60, why="all are told")
            wait_until(notices.exists, 60, why="a notice")
            printed = [daemon.ocwatch(*command.split()) for command in ("status", "cooldowns --json", "status --json")]
        everything = {"commands": "".join(run.stdout + run.stderr for run in printed)}
        everything |= {"toasts": "".join(opencode.toasts), "notices": notices.read_text(), "stderr": daemon.said()}
        files = [path for path in daemon.state.rglob("*") if path.is_file()]
        everything |= {path.name: path.read_text(errors="replace") for path in files}
        assert "debug daemon.effects: effect: Move" in daemon.said(), "it says what it does"
        assert " debug " in "".join(run.stderr for run in printed)
        assert {"blacklist.json", "journal.jsonl", "cursors.json"} <= set(everything)
        leaks = {
            (where, secret)
            for where, text in everything.items()
            for secret in (*KEYS, PASSWORD, PROMPT)
            if secret in text
        }
        parts = {where for where, text in everything.items() if "SECRET" in text}
        assert (leaks, parts) == (set(), set())
        print(f"{len(planted) * 2} refusals with secrets, {len(everything)} outputs, none found")


def test_a_configuration_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "http://127.0.0.1:1")
    daemon = Daemon(home, endpoints=[f"http://opencode:{PASSWORD}@127.0.0.1:4096"])
    done = subprocess.run(daemon.command, env=home.env(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "rateLimit.endpoints[0]" in done.stderr and PASSWORD not in done.stderr


def test_a_notice_is_one_harmless_line(notices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{notices.parent / 'bin'}:/usr/bin:/bin")
    hostile = "--help\x1b]0;owned\x07\u202e$(touch x)`id`\n\x9b31m"
    with FakeOpenCode(str(notices.parent)) as opencode:
        port = int(opencode.url.rpartition(":")[2])
        Notifier().notify(
            Notify("matter", hostile, f"{hostile} {KEYS[0]}", endpoint=Endpoint(TcpAddress("127.0.0.1", port)))
        )
        (toast,) = opencode.toasts
    shown = [*json.loads(toast).values(), *notices.read_text().splitlines()]
    assert all(line.isprintable() and "SECRET" not in line for line in shown)
    assert any("$(touch x)`id`" in line for line in shown), "shown as it is, not run"
    assert notices.read_text().splitlines()[:2] == ["--app-name=ocwatchd", "--"]
