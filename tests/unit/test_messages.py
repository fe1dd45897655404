"""Tests that messages of real providers, and texts that look like them, give a limit or none, and its end.

`data/messages.jsonl` is the project's own collection. `data/threads.jsonl` contains error texts of public bug reports
(long sentences are paraphrased) and texts that look like them; its classes are kinds of mistakes that were once made.
`data/paraphrases.jsonl` expresses the same in words that no provider uses. A larger collection beside the checkout is
also tested if it exists.
"""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from ocwatchd.core.classify.error_details import details_from_body, details_from_text
from ocwatchd.core.classify.reset_times import find_hint
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.types import Certainty

ROOT = Path(__file__).parents[2]
RULES = RuleSet.load((ROOT / "ocwatchd" / "rules" / "builtin.json").read_bytes())
EXTRA = ROOT.parent / "shared" / "corpus"
DATA = Path(__file__).parent / "data"
OWN = [DATA / f"{name}.jsonl" for name in ("messages", "threads", "paraphrases")]
FILES = [path for path in (*OWN, EXTRA / "messages.jsonl") if path.is_file()]

# The text names the free models; the collection beside the checkout labels it as the whole provider.
NARROWER_SCOPE = {"Daily free model limit reached. Try again in 23h 15m."}


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def epoch(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def told(row):
    """Return the seconds until the end that the row expects, or None."""
    if "until" in row:
        return epoch(row["until"]) - epoch(row["time"])
    return row.get("after_s")


def faults(row):
    """Yield the errors in the verdict and the reset time of a row, as text."""
    facts = details_from_text(row["text"], row.get("status"))
    verdict = RULES.classify(facts)
    kind = verdict.kind if verdict.certainty is Certainty.SURE else None
    accepted = set(row.get("kinds_ok") or [row["kind"]]) | ({None} if row.get("ambiguous") else set())
    if kind not in accepted:
        yield f"{verdict.certainty} {verdict.kind} by {verdict.rule}, wanted {row['kind']}"
    if kind and row.get("scope") not in (None, verdict.scope) and row["text"] not in NARROWER_SCOPE:
        yield f"scope {verdict.scope}, wanted {row['scope']}"
    if kind and told(row) is not None:
        hint = find_hint(facts, epoch(row["time"]), verdict.kind)
        if hint is None or abs(hint.after - told(row)) > 2:
            yield f"hint {hint}, wanted {told(row)} s"


def table(found, total):
    """Return one line per class: the number of texts, and how many are right."""
    lines = [f"{name:10} {total[name] - found[name]:4} of {total[name]:4} right" for name in sorted(total)]
    return "\n".join(["", *lines])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-2]}-{path.stem}")
def test_every_message_is_told_right(path):
    total, wrong, says = Counter(), Counter(), []
    for row in rows(path):
        total[row["class"]] += 1
        found = list(faults(row))
        wrong[row["class"]] += bool(found)
        says += [f"{row['text'][:120]!r} ({row.get('status')}): {fault}" for fault in found]
    print(table(wrong, total))
    assert not says, "\n" + "\n".join(says)


def test_what_was_collected_from_threads_names_limits_and_what_only_looks_like_them():
    kinds = Counter(row["kind"] for path in OWN[1:] for row in rows(path))
    assert kinds[None] > 150
    assert min(kinds[name] for name in ("rate_limit", "quota", "overloaded", "billing")) > 10
    assert sum(told(row) is not None for row in rows(OWN[1])) > 30


def test_the_collection_is_worth_the_name():
    total = Counter(row["class"] for row in rows(FILES[0]))
    assert total["LIMIT"] > 400
    assert total["OVERLOAD"] > 100
    assert sum(total[name] for name in ("NET", "AUTH", "OVERFLOW", "ABORT", "OTHER", "PROSE")) > 400
    assert sum(told(row) is not None for row in rows(FILES[0])) > 100


KINDS = {"rate_limit": "rate_limit", "overloaded": "overloaded", "quota": "quota", "usage_limit": "quota", "none": None}
ANSWERS = sorted(EXTRA.glob("*/labels.jsonl"))


MISLABELLED = {
    # The header names a fixed moment, so the remaining time differs from answer to answer.
    "429_ra_date",
    # `retry-after-ms: 0` beside `retry-after: 6`: OpenCode obeys the milliseconds, and so does ocwatchd.
    "429_ra_ms_zero_and_ra_6",
}
"""Scenarios whose label of a reset time differs from their headers."""


def answers():
    """Return each recorded answer of a provider once: scenario, status, headers, body, and label."""
    seen = {}
    for path in ANSWERS:
        for row in rows(path):
            if row.get("status") not in (None, 0, 200) and not str(row["scenario"]).startswith(("mcp", "non_model")):
                seen.setdefault((row["scenario"], row["status"]), row)
    return seen.values()


def test_recorded_answers_are_told_right_by_status_headers_and_body():
    says = []
    for row in answers():
        headers = {name.lower(): value for name, value in (row["headers"] or {}).items()}
        facts = details_from_body(row["body"] or "", row["status"], headers)
        verdict = RULES.classify(facts)
        kind = verdict.kind if verdict.certainty is Certainty.SURE else None
        wanted = KINDS[row["kind"]]
        same = kind == wanted or {kind, wanted} == {"billing", "quota"} or row.get("ambiguous")
        if not same:
            says.append(f"{row['scenario']}: {verdict}, wanted {wanted}")
        hint = find_hint(facts, row["t"], verdict.kind)
        after = row.get("retry_after_s") if row["scenario"] not in MISLABELLED else None
        if wanted and after and 0 < after < 2_000_000 and (hint is None or abs(hint.after - after) > 2):
            says.append(f"{row['scenario']}: {hint}, wanted {after} s")
    assert not says, "\n" + "\n".join(says)
