"""Given these messages of real providers (and what only looks like them), then limit or no limit, and until when.

`data/messages.jsonl` is the project's own collection. A larger one beside the checkout is tried too where it exists.
"""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from ocwatchd.core.facts import facts_from_body, facts_from_text
from ocwatchd.core.hints import find_hint
from ocwatchd.core.limits import Certainty
from ocwatchd.core.rules import RuleSet

ROOT = Path(__file__).parents[2]
RULES = RuleSet.load((ROOT / "ocwatchd" / "rules" / "builtin.json").read_bytes())
EXTRA = ROOT.parent / "shared" / "corpus"
FILES = [
    path for path in (Path(__file__).parent / "data" / "messages.jsonl", EXTRA / "messages.jsonl") if path.is_file()
]

# The text names the free models; the collection beside the checkout files it under the whole provider.
NARROWER_SCOPE = {"Daily free model limit reached. Try again in 23h 15m."}


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def epoch(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def told(row):
    """Seconds until the end that the row says, or None."""
    if "until" in row:
        return epoch(row["until"]) - epoch(row["time"])
    return row.get("after_s")


def faults(row):
    """What is wrong with the verdict and the hint of a row, in words."""
    facts = facts_from_text(row["text"], row.get("status"))
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
    """One line per class: how many texts, how many right."""
    lines = [f"{name:10} {total[name] - found[name]:4} of {total[name]:4} right" for name in sorted(total)]
    return "\n".join(["", *lines])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parts[-2])
def test_every_message_is_told_right(path):
    total, wrong, says = Counter(), Counter(), []
    for row in rows(path):
        total[row["class"]] += 1
        found = list(faults(row))
        wrong[row["class"]] += bool(found)
        says += [f"{row['text'][:120]!r} ({row.get('status')}): {fault}" for fault in found]
    print(table(wrong, total))
    assert not says, "\n" + "\n".join(says)


def test_the_collection_is_worth_the_name():
    total = Counter(row["class"] for row in rows(FILES[0]))
    assert total["LIMIT"] > 400
    assert total["OVERLOAD"] > 100
    assert sum(total[name] for name in ("NET", "AUTH", "OVERFLOW", "ABORT", "OTHER", "PROSE")) > 400
    assert sum(told(row) is not None for row in rows(FILES[0])) > 100


KINDS = {"rate_limit": "rate_limit", "overloaded": "overloaded", "quota": "quota", "usage_limit": "quota", "none": None}
ANSWERS = sorted(EXTRA.glob("*/labels.jsonl"))


def answers():
    """Each recorded answer of a provider once: scenario, status, headers, body, and what it is."""
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
        facts = facts_from_body(row["body"] or "", row["status"], headers)
        verdict = RULES.classify(facts)
        kind = verdict.kind if verdict.certainty is Certainty.SURE else None
        wanted = KINDS[row["kind"]]
        same = kind == wanted or {kind, wanted} == {"billing", "quota"} or row.get("ambiguous")
        if not same:
            says.append(f"{row['scenario']}: {verdict}, wanted {wanted}")
        hint = find_hint(facts, row["t"], verdict.kind)
        after = row.get("retry_after_s")
        if wanted and after and 0 < after < 2_000_000 and (hint is None or abs(hint.after - after) > 2):
            says.append(f"{row['scenario']}: {hint}, wanted {after} s")
    assert not says, "\n" + "\n".join(says)
