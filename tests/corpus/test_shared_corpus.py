"""The whole detection on every recorded log, beside what the provider really answered: all found, none invented."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from ocwatchd.core.detect import Reading, Seen
from ocwatchd.core.limits import LimitEvent
from tests.corpus.truth import Comparison, compare, corpora, log_bytes, logs_of, rows_of
from tests.support.rules import builtin

CORPORA = corpora()
NAMES = [f"{path.parent.name}/{path.name}" for path in CORPORA]

UNNAMED_MOST = 0.05
"""Share of refusals whose model may stay open: answers that broke off while several of a kind were under way."""


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
    # Wrong names would not have been joined to any row, so what is left to look at is how many names are open.
    assert result.unnamed["model"] <= max(3, UNNAMED_MOST * len(result.found), _sole_failures(directory))


def _sole_failures(directory: Path) -> int:
    """0.5 retries in silence and tells of no streams: its answers that broke off can rarely be named."""
    return sum(1 for row in rows_of(directory) if row.get("midstream")) if directory.name.startswith("0.") else 0


@pytest.mark.parametrize("directory", CORPORA, ids=NAMES)
def test_nothing_that_is_no_limit_is_doubted(directory: Path, compared: dict[Path, Comparison]) -> None:
    """A healthy model is not even looked at, but for texts that no rule can know and that quote a limit."""
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
    """Printed, whatever pytest's options: per recording and scenario, what was found and what the log does not hold."""
    results = [compared.get(path) or compare(path) for path in CORPORA]
    with capsys.disabled():
        print()
        for result in results:
            print(table(result))
    assert sum(len(result.found) for result in results) > 500


def table(result: Comparison) -> str:
    found = Counter(row["scenario"] for row, _ in result.found)
    missed = Counter(row["scenario"] for row in result.missed)
    unlogged = Counter(row["scenario"] for row in result.unlogged)
    head = f"{result.directory.parent.name}/{result.directory.name}"
    total = f"{head:44} {len(result.found):6} {len(result.missed):6} {len(result.unlogged):10} {len(result.invented):8}"
    rows = [f"{'':44} {'found':>6} {'missed':>6} {'not logged':>10} {'invented':>8}", total]
    for name in sorted(found.keys() | missed.keys() | unlogged.keys()):
        rows.append(f"  {name:42} {found[name]:6} {missed[name]:6} {unlogged[name]:10}")
    return "\n".join(rows)


# ---- torn feeding


def told(data: bytes, sizes: list[int], *, turns: bool) -> list[Seen]:
    reading = Reading(builtin(), turns=turns)
    seen: list[Seen] = []
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        seen += reading.feed(data[at : at + size])
        at += size
    return seen + reading.rest()


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
        for item in [*reading.feed(data), *reading.rest()]:
            if isinstance(item, LimitEvent):
                assert item.offset is not None
                assert data.startswith((b"ERROR ", b"timestamp="), item.offset)
                assert item.offset == 0 or data[item.offset - 1 : item.offset] == b"\n"
