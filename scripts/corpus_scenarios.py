"""Read `corpus_scenarios.jsonl`, which the recorder plays to OpenCode: limits of every kind, other errors, and bait.

Texts and headers are those of the named providers, as reported by users. In any text, `@EPOCH+60@`, `@EPOCHMS+60@`,
`@HTTPDATE+60@`, `@ISO+60@`, `@LOGTIME+0@` and `@BEIJING+60@` mean a time that many seconds after the answer, `@TAG@`
the session's mark, and `@HOME@` the home directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from tests.support.answers import Answer, Drop, Error, Hang, MidStream, Ok, Tool

TABLE = Path(__file__).with_suffix(".jsonl")
SCOUT = "anthropic/claude-scout"
SMALL = "smallco/titles"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One session with one prompt. `kind` applies to every refusal among `answers`, `sub` and `titles`.

    `answers` contains the main model's answers in order; the last one is repeated. `sub` contains those of the
    subagent's model, and `titles` those of the title's model (an ordinary title if empty). After `attempts` requests,
    the session is aborted if OpenCode still retries; with `leave`, the user aborts during the first answer. `after` is
    the time, in seconds, until the limit ends, if any part of the answer reports it. Scenarios with `run` are also
    recorded with `opencode run`.
    """

    name: str
    model: str
    answers: tuple[Answer, ...]
    kind: str = "none"
    after: float | None = None
    ambiguous: bool = False
    kinds_ok: tuple[str, ...] = ()
    note: str = ""
    attempts: int = 2
    prompt: str = "Please fix the parser test."
    title: str | None = None
    directory: str = "webapp"
    agent: str | None = None
    sub: tuple[Answer, ...] = ()
    titles: tuple[Answer, ...] = ()
    leave: bool = False
    run: bool = False


def load(table: Path = TABLE) -> tuple[Scenario, ...]:
    """Return all scenarios, in order."""
    return tuple(_scenario(json.loads(line)) for line in table.read_text().splitlines() if line)


def _scenario(raw: dict[str, Any]) -> Scenario:
    for name in ("answers", "sub", "titles"):
        raw[name] = tuple(_answer(a) for a in raw.get(name, ()))
    return Scenario(**{**raw, "kinds_ok": tuple(raw.get("kinds_ok", ()))})


def _answer(raw: dict[str, Any]) -> Answer:
    match raw:
        case {"status": int(status)}:
            return Error(status, raw["body"], raw.get("headers", {}), raw.get("reason"))
        case {"midstream": payload}:
            return MidStream(payload)
        case {"ok": text}:
            return Ok(text, raw.get("seconds", 0.0), raw.get("pieces", 1))
        case {"tool": str(name), "arguments": dict(arguments)}:
            return Tool(name, arguments)
        case {"drop": text}:
            return Drop(text)
        case {"hang": seconds}:
            return Hang(seconds)
    raise ValueError(f"not an answer: {raw}")


def is_refusal(answer: Answer) -> bool:
    """Return whether the scenario's kind applies to this answer. A successful answer is never a limit."""
    return isinstance(answer, Error | MidStream)


# ---------------------------------------------------------------- replacement of times and names

_MARK = re.compile(r"@(EPOCHMS|EPOCH|HTTPDATE|ISO|LOGTIME|BEIJING)\+(\d+)@")


def _moment(kind: str, at: datetime) -> str:
    match kind:
        case "EPOCH":
            return str(int(at.timestamp()))
        case "EPOCHMS":
            return str(int(at.timestamp() * 1000))
        case "HTTPDATE":
            return format_datetime(at, usegmt=True)
        case "ISO":
            return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case "LOGTIME":
            return at.strftime("%Y-%m-%dT%H:%M:%S")
    return at.astimezone(timezone(timedelta(hours=8))).strftime("%Y-%m-%d %H:%M:%S")


def fill(value: Any, names: dict[str, str]) -> Any:
    """Return `value` (text, or lists and dicts of text) with its marks replaced; times count from now."""
    if isinstance(value, dict):
        return {key: fill(inner, names) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [fill(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    now = datetime.now(UTC)
    text = _MARK.sub(lambda m: _moment(m[1], now + timedelta(seconds=int(m[2]))), value)
    for name, meaning in names.items():
        text = text.replace(f"@{name}@", meaning)
    return text


def filled(answer: Answer, names: dict[str, str]) -> Answer:
    """Return an answer with its marks replaced."""
    match answer:
        case Error(status, body, headers, reason):
            return Error(status, fill(body, names), fill(dict(headers), names), reason)
        case MidStream(payload):
            return MidStream(fill(payload, names))
        case Tool(name, arguments):
            return Tool(name, fill(arguments, names))
    return answer
