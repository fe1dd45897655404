"""Recorded logs compared with the provider's answers: which refused attempts were found, and which were invented.

The labels are the provider's own record (`labels.jsonl`), not the log. Events and rows are joined by time, model and
session. An independent reader of the raw lines determines which answers are not in the log.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ocwatchd.core.domain.types import Certainty, LimitEvent
from ocwatchd.logs.scan import limits_in
from tests.support.rules import builtin

Row = dict[str, Any]

OWN = Path(__file__).parent / "recorded"
SHARED = Path(__file__).parents[3] / "shared" / "corpus"

BEFORE, AFTER = 1.2, 3.0
"""Seconds by which a record's time may be before (whole seconds in old logs) or after (batches) the answer's end."""

KINDS = {
    "rate_limit": {"rate_limit", "overloaded"},  # capacity and concurrency may be either
    "overloaded": {"overloaded", "rate_limit"},
    "quota": {"quota", "billing", "rate_limit"},  # "per day" may be either, and so may credit
    "usage_limit": {"quota", "rate_limit"},  # a plan's allowance; the new format may keep only "Rate limit exceeded"
}
REASON_PHRASES = {"Too Many Requests", "Payment Required", "AI_APICallError", "Forbidden", "Unauthorized", ""}
"""The only words that the new format keeps of a body with an unknown format: they do not determine the kind."""


def corpora() -> list[Path]:
    """Return every recording of logs: the project's own, and a larger collection beside the checkout if it exists.

    OpenCode 2 logs no refused attempt; its recordings contain events (`test_event_corpus.py`).
    """
    found = sorted(p.parent for root in (OWN, SHARED) for p in root.glob("*/labels.jsonl"))
    return [directory for directory in found if not directory.name.startswith("2.")]


def rows_of(directory: Path) -> list[Row]:
    with (directory / "labels.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def log_bytes(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def logs_of(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.name.endswith((".log", ".log.xz")))


# ---- an independent reader of the raw log


@dataclass(frozen=True, slots=True)
class Raw:
    """A line about a failed request."""

    time: float
    text: str


_TIME = re.compile(rb"^(?:ERROR (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) |timestamp=(\S+) level=ERROR )")
_FAILURE = re.compile(rb'stream(?:Text)? error$|message="stream error"')


def raw_failures(directory: Path) -> list[Raw]:
    found = []
    for path in logs_of(directory):
        for line in log_bytes(path).split(b"\n"):
            match = _TIME.match(line)
            if match and _FAILURE.search(line):
                moment = datetime.fromisoformat((match[1] or match[2]).decode())
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
                found.append(Raw(moment.timestamp(), line.decode(errors="replace")))
    return found


def may_tell_of(raw: Raw, row: Row) -> bool:
    """Return whether the line can be about the row's answer: its time and its model or error match."""
    end = row.get("t_end") or row["t"]
    if not (end - BEFORE <= raw.time <= end + AFTER):
        return False
    model = row["modelID"]
    if "level=ERROR" in raw.text:
        return f"modelID={model} " in raw.text
    if f'"model":"{model}"' in raw.text or f"/models/{model}:" in raw.text:
        return True
    return '"url":"' not in raw.text and any(part in raw.text for part in _said(row))


def _said(row: Row) -> list[str]:
    return re.findall(r'"(?:message|code|type)": ?"([^"\\]{6,60})', str(row.get("body", "")))


# ---- joining


@dataclass(slots=True)
class Comparison:
    """The result of joining the rows and events of one recording."""

    directory: Path
    found: list[tuple[Row, LimitEvent]] = field(default_factory=list)
    missed: list[Row] = field(default_factory=list)
    unlogged: list[Row] = field(default_factory=list)
    invented: list[LimitEvent] = field(default_factory=list)
    doubtful: list[LimitEvent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unnamed: Counter[str] = field(default_factory=Counter)


def compare(directory: Path) -> Comparison:
    result = Comparison(directory)
    rows = [row for row in rows_of(directory) if row.get("t") is not None]
    events = [event for path in logs_of(directory) for event in limits_in(path, builtin(), file=path.name)]
    sure = sorted({_key(e): e for e in events if e.verdict.certainty is Certainty.SURE}.values(), key=lambda e: e.time)
    limits = [row for row in rows if row["is_limit"] or row.get("ambiguous")]
    open_rows = {id(row): row for row in limits}
    for event in sorted(sure, key=_unnamed):
        row = _nearest(event, list(open_rows.values()))
        if row is None:
            result.invented.append(event)
            continue
        del open_rows[id(row)]
        result.found.append((row, event))
        _check(row, event, result)
    _account(directory, [row for row in open_rows.values() if not row.get("ambiguous")], result)
    named = {_key(event) for event in sure}
    result.doubtful = [e for e in events if e.verdict.certainty is not Certainty.SURE and _key(e) not in named]
    return result


def _key(event: LimitEvent) -> tuple[str | None, int | None]:
    return (event.file, event.offset)


def _unnamed(event: LimitEvent) -> tuple[int, float]:
    """The events with the most information are joined first."""
    return (sum(name is None for name in (event.provider, event.model, event.session)), event.time)


def _nearest(event: LimitEvent, rows: list[Row]) -> Row | None:
    def distance(row: Row) -> float:
        return abs((row.get("t_end") or row["t"]) - event.time)

    fitting = [row for row in rows if _fits(event, row)]
    return min(fitting, key=distance, default=None)


def _fits(event: LimitEvent, row: Row) -> bool:
    end = row.get("t_end") or row["t"]
    if not (end - BEFORE <= event.time <= end + AFTER):
        return False
    pairs = ((event.model, "modelID"), (event.provider, "providerID"))
    if any(ours is not None and ours != row[name] for ours, name in pairs):
        return False
    if event.model is None and event.reason[:60] not in str(row.get("body", "")):
        return False
    return event.session is None or row["sessionID"] is None or event.session == row["sessionID"]


def _check(row: Row, event: LimitEvent, result: Comparison) -> None:
    for name, ours in (("provider", event.provider), ("model", event.model), ("session", event.session)):
        result.unnamed[name] += ours is None
    kind = str(event.verdict.kind)
    accepted = KINDS[row["kind"]] | set(row.get("kinds_ok") or ()) if row["kind"] in KINDS else {kind}
    if kind not in accepted and event.reason not in REASON_PHRASES and not row.get("ambiguous"):
        result.wrong.append(f"kind {kind}, not {row['kind']}: {event.reason[:80]}")
    hint, told = event.hint, row.get("retry_after_s")
    if hint is None or hint.tamed or hint.estimated or not isinstance(told, int | float):
        return
    if 0 < told < 31 * 86400 and abs(hint.after - told) > 2:
        result.wrong.append(f"ends after {hint.after:.0f} s, not {told:.0f} ({hint.source}): {event.reason[:60]}")


def _account(directory: Path, rows: list[Row], result: Comparison) -> None:
    """Sort unfound answers into missed ones and those not in the log, whose possible lines are about other answers."""
    if not rows:
        return
    raws = raw_failures(directory)
    for row in rows:
        lines = [raw for raw in raws if may_tell_of(raw, row)]
        others = [r for r, _ in result.found if any(may_tell_of(raw, r) for raw in lines)]
        (result.unlogged if len(lines) <= len(others) else result.missed).append(row)
