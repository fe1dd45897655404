"""Tests of `ocwatch classify`: these bytes give these objects."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

FIELDS = [
    "file", "offset", "time", "provider", "model", "session", "agent", "small", "status", "kind", "scope", "until",
    "after_seconds", "reset_source", "rule", "reason",
]  # fmt: skip
INFO = 'timestamp=2026-11-22T10:00:00.000Z level=INFO run=aaaaaaaa message=created id=ses_1 title="429 rate limit"\n'
ERROR = (
    'timestamp=2026-11-22T10:00:01.500Z level=ERROR run=aaaaaaaa message="stream error" providerID=openai '
    "modelID=gpt-5 session.id=ses_1 small=false agent=build mode=primary "
    'error.error="AI_APICallError: Rate limit reached for gpt-5. Please try again in 7.5s"\n'
)
LOG = (INFO * 3 + ERROR + INFO).encode()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_object_per_limit_with_every_field(cli: Cli) -> None:
    (cli.paths.home / "opencode.log").write_bytes(LOG)
    done = cli("classify", "opencode.log", "--json")
    assert done.returncode == 0
    (event,) = objects(done.stdout)
    assert [name for name in FIELDS if name not in event] == []
    wanted = {
        "file": "opencode.log",
        "offset": len(INFO) * 3,
        "time": "2026-11-22T10:00:01.500Z",
        "provider": "openai",
        "model": "gpt-5",
        "session": "ses_1",
        "agent": "build",
        "small": False,
        "status": None,
        "kind": "rate_limit",
        "scope": "model",
        "until": "2026-11-22T10:00:09.000Z",
        "after_seconds": 7.5,
        "reset_source": "text",
        "certainty": "sure",
    }
    assert {name: event[name] for name in wanted} == wanted
    assert event["rule"]
    assert event["reason"].endswith("Rate limit reached for gpt-5. Please try again in 7.5s")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_xz_and_standard_input_read_the_same(cli: Cli, packed: bool, piped: bool) -> None:
    data = lzma.compress(LOG) if packed else LOG
    (cli.paths.home / "a.log").write_bytes(data)
    done = cli("classify", "-" if piped else "a.log", "--json", input=data)
    (event,) = objects(done.stdout)
    assert (event["file"], event["offset"]) == ("-" if piped else "a.log", len(INFO) * 3)


def test_several_files_in_order_and_for_people(cli: Cli) -> None:
    for name in ("b.log", "a.log"):
        (cli.paths.home / name).write_bytes(LOG)
    assert [event["file"] for event in objects(cli("classify", "b.log", "a.log", "--json").stdout)] == [
        "b.log",
        "a.log",
    ]
    shown = cli("classify", "a.log").stdout.splitlines()
    at, _, rest = shown[0].partition(" rate_limit ")
    assert rest == "(scope model) openai/gpt-5 in ses_1"
    assert at.endswith("10:00:01") and "T" not in at  # local time, with a date that is not today's
    assert shown[-1] == "# a.log: 1 limit"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\x00\xff" * 1000, INFO.encode()])
def test_nothing_found_is_0_and_no_output(cli: Cli, data: bytes) -> None:
    done = cli("classify", "-", "--json", input=data)
    assert (done.returncode, done.stdout) == (0, "")


def test_messages_in_input_order(cli: Cli, tmp_path: Path) -> None:
    messages = [
        {"text": "Rate limit reached, try again in 20s", "time": "2026-11-22T10:00:00Z", "provider": "openai"},
        {"text": "This model's maximum context length is 128000 tokens"},
        {"text": "", "status": 429},
        {"text": "Overloaded"},
        {"text": "please fix the 429 handling in my code", "status": "odd"},
    ]
    file = tmp_path / "messages.jsonl"
    file.write_text("\n".join(json.dumps(message) for message in messages) + "\n\n")
    done = cli("classify", "--messages", str(file), "--json")
    found = objects(done.stdout)
    assert [event["kind"] for event in found] == ["rate_limit", None, "rate_limit", "overloaded", None]
    assert (found[0]["until"], found[0]["after_seconds"], found[0]["reset_source"], found[0]["provider"]) == (
        "2026-11-22T10:00:20.000Z", 20.0, "text", "openai",
    )  # fmt: skip
    assert found[2]["status"] == 429
    assert len(cli("classify", "--messages", str(file)).stdout.splitlines()) == 3 * len(messages)


def test_a_text_is_always_answered(cli: Cli) -> None:
    assert objects(cli("classify", "--text", "Too Many Requests", "--json").stdout)[0]["kind"] == "rate_limit"
    assert objects(cli("classify", "--text", "hello", "--json").stdout)[0]["kind"] is None
    assert cli("classify", "--text", "Too Many Requests").stdout.startswith("rate_limit (scope model)\n")


def test_a_pasted_log_line_is_read_as_one(cli: Cli) -> None:
    (event,) = objects(cli("classify", "--text", ERROR.strip(), "--json").stdout)
    assert (event["provider"], event["model"], event["kind"]) == ("openai", "gpt-5", "rate_limit")


def test_doubtful_words_are_counted_and_shown_on_request(cli: Cli) -> None:
    unknown = ERROR.replace("Rate limit reached for gpt-5. Please try again in 7.5s", "the moon is in the wrong house")
    (cli.paths.home / "a.log").write_text(unknown)
    assert cli("classify", "a.log", "--json").stdout == ""
    assert cli("classify", "a.log").stdout == "# a.log: 0 limits, 1 matched by no rule (to see these, add --doubtful)\n"
    (event,) = objects(cli("classify", "a.log", "--doubtful", "--json").stdout)
    assert (event["kind"], event["certainty"]) == (None, "unknown")


def test_own_patterns_take_part(cli: Cli) -> None:
    cli.configure(errorPatterns=["wrong house"])
    assert (
        objects(cli("classify", "--text", "the moon is in the wrong house", "--json").stdout)[0]["kind"] == "rate_limit"
    )


def test_hostile_words_reach_no_terminal(cli: Cli) -> None:
    shown = cli("classify", "--text", "Too Many Requests \x1b[2J\u202e\x9b31m").stdout
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("a.log", "--text", "x"), 2),
        (("--text", "x", "--messages", "y"), 2),
        (("missing.log",), 1),
        (("/",), 1),
        (("--messages", "missing.jsonl"), 1),
        (("--messages", "bad.jsonl"), 2),
        (("cut.xz",), 1),
    ],
)
def test_faults_are_one_message(cli: Cli, arguments: tuple[str, ...], code: int) -> None:
    (cli.paths.home / "bad.jsonl").write_text('{"text": "x", "time": "not a time"}\n')
    (cli.paths.home / "cut.xz").write_bytes(lzma.compress(LOG * 100)[:200])
    done = cli("classify", *arguments, "--json")
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stderr)["error"]["code"] == code
    assert json.loads(done.stderr)["error"]["message"]
    plain = cli("classify", *arguments)
    assert plain.returncode == code
    assert plain.stderr.startswith("ocwatch: ")
    assert plain.stderr.count("\n") == 1


def test_two_inputs_are_reported_as_too_many(cli: Cli) -> None:
    assert "use only one of log files" in cli("classify", "--text", "x", "--messages", "y").stderr
    assert "give either log files" in cli("classify", "--doubtful").stderr
