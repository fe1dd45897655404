"""Measure how many stalled answers of a real OpenCode are rescued, and after how long.

    python bench/stalls.py [--rounds 4] [--after 60] [--without-plugin] [VERSION ...]

In each round, every shape of a stall (`tests/support/shapes.py`) has a session of its own, and all of them run at the
same time. The model stalls twice: the first time the daemon runs the prompt again on the same model, the second time on
the fallback, which answers. Each of the two counts as rescued if the next request for the prompt reaches the provider
within twice `--after` seconds of the stalled one, and if the session has its answer in the end. The fake provider on
loopback records the times. The companion plugin is installed, as `ocwatch up` does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.daemon import Daemon, ocwatch
from tests.support.homes import DEFAULT_PROVIDERS, ProviderSpec
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Provider, Shape, Stall, ok

FALLBACK = "mock2/fallback"
MODELS = {shape: f"stalls/{shape.name.lower().replace('_', '-')}" for shape in Shape}
"""A model of its own for each shape, so that a cooldown does not affect the others."""
STALLS = 2
"""Number of answers to each prompt that stall."""


def main() -> None:
    """Print a table for each version."""
    parser = argparse.ArgumentParser(description="How many stalled answers are rescued, and after how long.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--after", type=float, default=60.0, help="seconds after which an answer has stalled")
    parser.add_argument("--without-plugin", action="store_true")
    parser.add_argument("versions", nargs="*", default=[NEWEST], metavar="VERSION")
    wanted = parser.parse_args()
    for version in wanted.versions:
        taken: dict[Shape, list[float]] = {shape: [] for shape in Shape}
        for number, round_ in enumerate(rounds(version, wanted.rounds, wanted.after, not wanted.without_plugin), 1):
            for shape, seconds in round_.items():
                taken[shape] += seconds
            print(f"round {number} of {wanted.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        show(version, taken, 2 * wanted.after)


def show(version: str, taken: dict[Shape, list[float]], limit: float) -> None:
    """Print one row per shape, and the total."""
    print(f"{version:52} {'rescued':>10} {'median s':>9} {'worst s':>8}   within {limit:g} s")
    for shape, seconds in (*taken.items(), ("all", [one for each in taken.values() for one in each])):
        within = sum(one <= limit for one in seconds)
        figures = f"{statistics.median(seconds):9.2f} {max(seconds):8.2f}" if seconds else ""
        print(f"{shape:52} {within:4} of {len(seconds):3} {figures}", flush=True)


def rounds(version: str, number: int, after: float, plugin: bool) -> Iterator[dict[Shape, list[float]]]:
    """Yield for each round the seconds from each stalled request to the next one; infinite if there was none."""
    names = [model.partition("/")[2] for model in MODELS.values()]
    settings = {"stall": {"after": after * 1000}, "maxMovesPerHour": 1000}
    with contextlib.ExitStack() as held:
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="ow-")))
        provider = held.enter_context(Provider())
        home = Home(root, provider.url, {**DEFAULT_PROVIDERS, "stalls": ProviderSpec(names)})
        if plugin:
            assert ocwatch(home, "plugin", "install").returncode == 0
        held.enter_context(contextlib.redirect_stdout(io.StringIO()))
        daemon = held.enter_context(Daemon(home, {"*": FALLBACK}, **settings))
        serve = held.enter_context(Serve(version, home))
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        warm = serve.create_session()
        serve.prompt_async(warm, "The first request of a process is slow", model=FALLBACK)
        serve.wait_answer(warm, FALLBACK)
        for each in range(number):
            yield one_round(each, after, provider, daemon, serve)


def one_round(number: int, after: float, provider: Provider, daemon: Daemon, serve: Serve) -> dict[Shape, list[float]]:
    """Run all shapes at once."""
    daemon.ocwatch("clear", "--all")
    sessions: dict[Shape, str] = {}
    for shape, model in MODELS.items():
        provider.script(model, *[Stall(shape)] * STALLS, ok("too many requests"))
        sessions[shape] = serve.create_session()
        serve.prompt_async(sessions[shape], prompt_of(number, shape), model=model)
    deadline = time.monotonic() + STALLS * 4 * after + 30
    waiting = set(Shape)
    while waiting and time.monotonic() < deadline:
        time.sleep(0.5)
        waiting = {shape for shape in waiting if not answered(provider, number, shape)}
    time.sleep(1)  # OpenCode stores the last answers
    found = {}
    for shape, session in sessions.items():
        times = [request.wall for request in provider.requests() if request.count(prompt_of(number, shape))]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        right = len(times) == STALLS + 1 and f"answer of {FALLBACK}" in serve.answer(session)
        found[shape] = [*gaps, *[float("inf")] * (STALLS - len(gaps))] if right else [float("inf")] * STALLS
        if shape in waiting:
            serve.abort(session)
    return found


def prompt_of(number: int, shape: Shape) -> str:
    """Return the prompt of a session."""
    return f"Round {number}: {shape}."


def answered(provider: Provider, number: int, shape: Shape) -> bool:
    """Return whether the fallback has answered the prompt."""
    asked = provider.requests(FALLBACK)
    return any(request.count(prompt_of(number, shape)) and request.finished for request in asked)


if __name__ == "__main__":
    main()
