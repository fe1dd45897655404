"""Tests of the detection on every recorded log, compared with the provider's answers: all found, none invented."""

from __future__ import annotations

import random
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.detect import Seen
from ocwatchd.core.parsing.reader import Reading
from tests.corpus.truth import Comparison, compare, corpora, log_bytes, logs_of, rows_of
from tests.support.rules import builtin

CORPORA = corpora()
NAMES = [f"{path.parent.name}/{path.name}" for path in CORPORA]

UNNAMED_MOST = 0.05
"""Share of refused attempts whose model may stay unknown: answers that broke off while several were under way."""


@pytest.fixture(scope="module")
def compared() -> dict[Path, Comparison]:
    return {}


@pytest.mark.parametrize("directory", CORPORA, ids=NAMES)
def test_all_found_none_invented(directory: Path, compared: dict[Path, Comparison]) -> None:
    result = compared[directory] = compare(directory)
    assert result.missed == []
    assert result.invented == []
    assert result.wrong == []
    assert result.found, "a recording without a limit tests nothing"
    # A wrong name matches no row, so only the number of unknown names remains to be checked.
    assert result.unnamed["model"] <= max(3, UNNAMED_MOST * len(result.found), _sole_failures(directory))


def _sole_failures(directory: Path) -> int:
    """0.5 retries silently and logs no streams, so broken answers can rarely be named."""
    return sum(1 for row in rows_of(directory) if row.get("midstream")) if directory.name.startswith("0.") else 0


@pytest.mark.parametrize("directory", CORPORA, ids=NAMES)
def test_nothing_that_is_no_limit_is_doubted(directory: Path, compared: dict[Path, Comparison]) -> None:
    """A healthy model is not even probed, except for texts that quote a limit and match no rule."""
    result = compared.get(directory) or compare(directory)
    limits = {
        (row["providerID"], row["modelID"]) for row in rows_of(directory) if row["is_limit"] or row.get("ambiguous")
    }
    loud = [
        e
        for e in result.doubtful
        if (e.provider, e.model) not in limits and "429" not in e.reason and "rate" not in e.reason
    ]
    assert loud == []


def test_the_table(compared: dict[Path, Comparison], capsys: pytest.CaptureFixture[str]) -> None:
    """Print with any options of pytest, by recording and scenario: the found limits, and those not in the log."""
    results = [compared.get(path) or compare(path) for path in CORPORA]
    with capsys.disabled():
        print(f"\n{HEAD}")
        for result in results:
            print(table(result))
    assert sum(len(result.found) for result in results) > 500


HEAD = f"{'recording':42} {'found':>6} {'missed':>6} {'invented':>8} {'not in the log':>14}  open: model, session"


def table(result: Comparison) -> str:
    name = f"{result.directory.parent.name}/{result.directory.name}"
    counts = f"{len(result.found):6} {len(result.missed):6} {len(result.invented):8} {len(result.unlogged):14}"
    lines = [f"{name:42} {counts}  {result.unnamed['model']}, {result.unnamed['session']}"]
    rows = {"found": [row for row, _ in result.found], "missed": result.missed, "not in the log": result.unlogged}
    for title, some in rows.items():
        scenarios = Counter(str(row["scenario"]) for row in some)
        text = f"{title}: " + ", ".join(f"{scenario} {number}" for scenario, number in sorted(scenarios.items()))
        if some:
            lines += textwrap.wrap(text, 118, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)


# ---- bytes in small pieces


def told(data: bytes, sizes: list[int], *, turns: bool) -> list[Seen]:
    reading = Reading(builtin(), turns=turns)
    seen: list[Seen] = []
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        seen += reading.feed(data[at : at + size])
        at += size
    return seen + reading.finish()


@pytest.mark.parametrize("turns", [True, False], ids=["live", "catching up"])
@pytest.mark.parametrize("directory", CORPORA[:: max(1, len(CORPORA) // 8)], ids=NAMES[:: max(1, len(NAMES) // 8)])
def test_the_same_bytes_in_any_chunks_tell_the_same(directory: Path, turns: bool) -> None:
    data = log_bytes(logs_of(directory)[0])[: 3 << 20]
    draw = random.Random(7)
    whole = told(data, [len(data)], turns=turns)
    assert whole or len(data) < 50_000
    for sizes in ([128 << 10], [4099], [draw.randrange(1, 60_000) for _ in range(997)]):
        assert told(data, sizes, turns=turns) == whole


@pytest.mark.parametrize("directory", CORPORA, ids=NAMES)
def test_the_offset_is_that_of_the_records_first_byte(directory: Path) -> None:
    for path in logs_of(directory):
        data = log_bytes(path)
        reading = Reading(builtin())
        for item in [*reading.feed(data), *reading.finish()]:
            if isinstance(item, LimitEvent):
                assert item.offset is not None
                assert data.startswith((b"ERROR ", b"timestamp="), item.offset)
                assert item.offset == 0 or data[item.offset - 1 : item.offset] == b"\n"
