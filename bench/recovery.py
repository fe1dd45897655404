"""How long a limit costs: from the provider's 429 to the target's request, in a TUI without a port, by version.

    python bench/recovery.py [--rounds 10] [VERSION ...]

A real OpenCode in tmux, the daemon and the companion plugin, against a fake provider on loopback. Each round clears the
register, types a prompt, is refused with Retry-After 3600 and moved through the door. Times are the provider's own.
"First" is the first prompt of a TUI that has only just started, which OpenCode itself is still busy with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.daemon import Daemon, ocwatch
from tests.support.opencode import Home
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited
from tests.support.tui import Tui

VERSIONS = ("1.18.33", "1.3.2", "1.2.27", "1.1.65", "1.0.185")
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"


def rounds(version: str, number: int) -> list[float]:
    """Seconds from the 429 to the target's request, once per round."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        home = Home(Path(scratch), provider.url)
        provider.script(PRIMARY, limited(3600))
        ocwatch(home, "plugin", "install").check_returncode()
        with Daemon(home, movesPerHour=1000) as daemon, Tui(version, home) as tui:
            return [_round(at, provider, daemon, tui) for at in range(number)]


def _round(at: int, provider: Provider, daemon: Daemon, tui: Tui) -> float:
    daemon.ocwatch("clear", "--all").check_returncode()
    tui.say(f"Prompt number {at}")
    provider.wait_requests(PRIMARY, at + 1, timeout=60)
    provider.wait_requests(FALLBACK, at + 1, timeout=60)
    daemon.wait_journal("moved", at + 1)
    wait_until(lambda: tui.screen().count("answer of mock2/fallback"), 20)
    return provider.requests(FALLBACK)[at].monotonic - provider.requests(PRIMARY)[at].monotonic


def main() -> None:
    """Print one line per version."""
    parser = argparse.ArgumentParser(description="Seconds from a 429 to the target's request, through the door.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    wanted = parser.parse_args()
    print(f"{'OpenCode':10} {'median s':>9} {'worst s':>9} {'first s':>9}   of {wanted.rounds}")
    for version in wanted.versions:
        with contextlib.redirect_stdout(io.StringIO()):  # the test support prints what the daemon said
            first, *took = rounds(version, wanted.rounds + 1)
        print(f"{version:10} {statistics.median(took):9.2f} {max(took):9.2f} {first:9.2f}", flush=True)


if __name__ == "__main__":
    main()
