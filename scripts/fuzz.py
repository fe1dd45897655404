"""Fuzz the parsers of foreign text, guided by coverage: `pip install atheris && python -m scripts.fuzz TARGET SECONDS`.

TARGET is a name in `tests/support/targets.py`. Failing inputs are written to `tests/unit/data/fuzz/TARGET-…`, where
`tests/unit/test_fuzz.py` finds them; the other inputs are kept in a temporary directory. An input that takes longer
than 5 s counts as a failure.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

FAILED = Path(__file__).resolve().parent.parent / "tests" / "unit" / "data" / "fuzz"
WORDS = (
    "Rate limit reached", "try again in ", "resets at ", "retry-after", "quota", "429", "overloaded", "insufficient",
    "2026-11-23T00:00:00Z", "responseBody", "responseHeaders", "statusCode", "isRetryable", "requestBodyValues",
    "message=", "error.error=", "session.id=ses_1", "small=true", "stream error", "level=ERROR", "timestamp=", "error",
)  # fmt: skip


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2]
    with atheris.instrument_imports(include=["ocwatchd"]):
        from tests.support.targets import TARGETS
    FAILED.mkdir(exist_ok=True)
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as found:
        known = Path(found) / "dictionary"
        known.write_text("".join(f'"{word}"\n' for word in WORDS))
        corpus = Path(found) / "corpus"
        corpus.mkdir()
        options = (f"-max_total_time={seconds}", f"-dict={known}", f"-artifact_prefix={FAILED}/{name}-", "-timeout=5")
        atheris.Setup([sys.argv[0], *options, "-max_len=2000", str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
