"""Measure the time from a limit to its session's probe and move while N other OpenCode processes hang.

    python bench/hung.py [--beside 0,10,50] [--limits 8] [--pause 1.5]

The hung processes are named `opencode` and belong to the same HOME. Half of them listen at a plugin socket, half at a
TCP port. Processes in the rows `never answered` have hung since their start. Those in the rows `stopped later` had
responded to ocwatchd before they were stopped (SIGSTOP). The limited sessions belong to a fake OpenCode that responds
(`tests.support.fakeopencode`); the daemon is the real one. The table shows the median and the worst time, in seconds
after the line in the log, for `--limits` limits, one every `--pause` seconds. The first limit follows directly on the
daemon's start.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.test_bad_doors import Machine
from tests.support.fakeopencode import FakeSession
from tests.support.hung import hung
from tests.support.processes import wait_until

PATIENCE = 120.0
"""Seconds after which the benchmark gives up waiting for a move."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Seconds from a limit to its move beside hung OpenCode processes.")
    parser.add_argument("--beside", default="0,10,50")
    parser.add_argument("--limits", type=int, default=8)
    parser.add_argument("--pause", type=float, default=1.5)
    wanted = parser.parse_args()
    print(f"{'hung':>5} {'':16} {'probe: median':>14} {'worst':>7} {'move: median':>14} {'worst':>7}")
    for number in map(int, wanted.beside.split(",")):
        for label in ("never answered", "stopped later", "stopped, server") if number else ("", "server"):
            probes, moves = measured(number, label, wanted.limits, wanted.pause)
            print(
                f"{number:5} {label:16} {statistics.median(probes):14.2f} {max(probes):7.2f}"
                f" {statistics.median(moves):14.2f} {max(moves):7.2f}",
                flush=True,
            )


def measured(number: int, label: str, limits: int, pause: float) -> tuple[list[float], list[float]]:
    """Return the seconds to each probe and to each move."""
    answers = label.startswith("stopped")
    with contextlib.redirect_stdout(io.StringIO()), ExitStack() as held:
        root = held.enter_context(tempfile.TemporaryDirectory(prefix="ow-"))
        machine = Machine(Path(root), held)
        good = machine.opencode("good", unix="server" not in label)
        beside = held.enter_context(hung(machine.home, machine.daemon, number, answers))
        machine.start()
        if answers:
            time.sleep(5.0)  # the daemon sends them more than one request
            beside.stop_when_asked()
        times: dict[tuple[str, str], float] = {}

        def seen(step: str, session: FakeSession | None) -> None:
            now = time.monotonic()
            if session is not None:
                times.setdefault((step, session.id), now)
            elif step == "list":
                for each_session in good.sessions:
                    times.setdefault((step, each_session), now)

        good.seen = seen
        probes, moves = [], []
        for each in range(limits):
            began = time.monotonic()
            session = machine.limited(good, each, "elsewhere" if "server" in label else None)
            wait_until(lambda: ("prompt", session.id) in times, PATIENCE, 0.005, f"the move of {session.id}")  # noqa: B023
            probes.append(times["list", session.id] - began)
            moves.append(times["prompt", session.id] - began)
            time.sleep(max(0.0, pause - (time.monotonic() - began)))
        return probes, moves


if __name__ == "__main__":
    main()
