"""Measure the time that prevention adds to every prompt: the companion plugin's hook under OpenCode's own Bun.

    python bench/prevention.py [--rounds 5000] [VERSION ...]

The blacklist contains fifty models that are cooling down, including the prompt's, so that the hook must search it and
move the prompt. The binaries are those of the end-to-end tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.bun import A, B, Bun, message, rests
from tests.support.opencode import NEWEST, OLDEST


def hook(version: str, rounds: int) -> dict[str, float]:
    """Return the median and the 99th percentile of one call, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        bun = Bun(version, Path(scratch) / "home")
        bun.register(**{A: rests(B)}, **{f"mock{number}/m{number}": rests(B) for number in range(49)})
        chosen = message(A)["output"]["message"]
        (spent,) = bun.play({"act": "time", "rounds": rounds, "message": chosen})
        return dict(spent)


def main() -> None:
    """Print one line per version."""
    parser = argparse.ArgumentParser(description="Milliseconds that prevention adds to a prompt.")
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("versions", nargs="*", default=(NEWEST, OLDEST))
    wanted = parser.parse_args()
    print(f"{'OpenCode':10} {'median ms':>10} {'p99 ms':>8}   of {wanted.rounds}")
    for version in wanted.versions:
        spent = hook(version, wanted.rounds)
        print(f"{version:10} {spent['median']:10.4f} {spent['p99']:8.4f}", flush=True)


if __name__ == "__main__":
    main()
