"""Measure the delay that a limit causes on a real OpenCode: the time from the provider's 429 to the fallback's request.

    python bench/recovery.py [--rounds 10] [--ways door,tcp,native,service,model,hook] [VERSION ...]
    python bench/recovery.py [--rounds 10] --beside omo-slim,omo [--ways serve,tui] [--load 0,5] [VERSION ...]
    python bench/recovery.py [--rounds 4] --steps [--ways door,tcp] [VERSION ...]

The ways:

    door     a TUI in tmux that listens on no port, with the companion plugin
    tcp      `opencode serve` without the plugin
    native   OpenCode alone, refused with Retry-After 20
    service  the preview of OpenCode 2, whose turn is interrupted and begun again
    model    the same without Retry-After: only the model is changed
    hook     the retry hook of OpenCode 2 in a STAND-IN for its releases, which cannot be run here: the real plugin
             under Bun and the real daemon, but no OpenCode

`--beside` runs ocwatchd and other fallback plugins alternately; `--load` sets the numbers of busy processes beside them
(peers.py). `--steps` prints each request and effect of a move with its CPU time (traced.py).

A fake provider on loopback refuses with Retry-After 3600 and records the times. The times of the steps in between come
from OpenCode's own records (1.17 and later, to the millisecond) and our journal. Each round clears the blacklist and
sends a new prompt. "First" is the first prompt of an OpenCode that has just started.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
import traced
from process import cpu_seconds

from tests.support.daemon import Daemon, epoch, ocwatch
from tests.support.host2 import Host2, script, session
from tests.support.host2 import prompt as prompt_in_host
from tests.support.opencode import Home, Serve
from tests.support.opencode2 import Home2, Service2
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited
from tests.support.tui import Tui

VERSIONS = ("1.18.33", "1.3.2", "1.2.27", "1.1.65", "1.0.185")
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
NATIVE_WAIT = 20
OWN_WAYS = frozenset(("door", "tcp"))
OF_2 = frozenset(("service", "model"))
"""Ways that use OpenCode 2, for which no version is given."""
STEPS = ("OpenCode's record", "on disk", "decided", "stopped", "run again", "target's request")
"""The steps after a 429, in order. `on disk` may follow `decided`, because the daemon also receives the limit as an
event.
"""

Round = dict[str, float]


class Disk:
    """A context manager that records when lines of refused attempts appear in the log file, to 2 ms."""

    def __init__(self, home: Home) -> None:
        self._directory, self._stop, self.times = home.log_dir, threading.Event(), list[float]()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        read: dict[Path, int] = {}
        while not self._stop.wait(0.002):
            for path in self._directory.glob("*.log"):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    file.seek(read.get(path, 0))
                    new = file.read()
                    read[path] = file.tell()
                    self.times += [time.time()] * new.count(b'message="stream error" providerID=mock ')


def records(home: Home, mark: str) -> list[float]:
    """Return the times of OpenCode's own records (1.17 and later) that contain this text."""
    path = home.log_dir / "opencode.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    stamps = [line.partition("timestamp=")[2].partition(" ")[0] for line in lines if mark in line]
    return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps if stamp]


def after(times: list[float], begin: float) -> float | None:
    """Return the seconds from `begin` to the first time after it; records are cut to the millisecond."""
    return next((moment - begin for moment in times if moment >= begin - 0.001), None)


def steps(home: Home, daemon: Daemon | None, disk: Disk, provider: Provider, at: int) -> Round:
    """Return the seconds from the 429 of this round to each step that can be observed."""
    refused = provider.requests(PRIMARY)[at].wall
    found = {
        "OpenCode's record": after(records(home, 'message="stream error" providerID=mock '), refused),
        "on disk": after(disk.times, refused),
        "decided": after([epoch(entry["time"]) for entry in daemon.journal("claim")] if daemon else [], refused),
        "stopped": after(records(home, "message=cancel "), refused),
        "run again": after(records(home, "message=stream providerID=mock2 "), refused),
        "target's request": provider.requests(FALLBACK)[at].wall - refused,
    }
    return {name: seconds for name, seconds in found.items() if seconds is not None}


@contextlib.contextmanager
def opencode(way: str, version: str, home: Home) -> Iterator[Tui | Serve]:
    """Start a TUI for the way `door`, otherwise a server."""
    with Tui(version, home) if way == "door" else Serve(version, home) as running:
        yield running


def prompt(running: Tui | Serve, at: int) -> None:
    """Send a new prompt; on a server, in a new session."""
    if isinstance(running, Tui):
        running.say(f"Prompt number {at}")
    else:
        running.prompt_async(running.create_session(), f"Prompt number {at}", model=PRIMARY)


def moved(way: str, version: str, rounds: int) -> list[Round]:
    """Return the rounds of one way."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        home = Home(Path(scratch), provider.url)
        provider.script(PRIMARY, limited(3600))
        if way == "door":
            ocwatch(home, "plugin", "install").check_returncode()
        with Daemon(home, maxMovesPerHour=1000) as daemon, opencode(way, version, home) as running, Disk(home) as disk:
            found = []
            for at in range(rounds):
                daemon.ocwatch("clear", "--all").check_returncode()
                prompt(running, at)
                provider.wait_requests(FALLBACK, at + 1, timeout=60)
                daemon.wait_journal("moved", at + 1)
                if isinstance(running, Tui):
                    running.wait_screen("answer of mock2/fallback", 20)
                time.sleep(1.0)  # 1.17 and later write their records up to a second late
                found.append(steps(home, daemon, disk, provider, at))
            return found


def switched(way: str, rounds: int) -> list[Round]:
    """Return the rounds of OpenCode 2. Each prompt is sent in a new session."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        home = Home2(Path(scratch), provider.url)
        provider.script(PRIMARY, limited(3600 if way == "service" else None))
        settings = {"maxMovesPerHour": 1000, "retry": {"enabled": way == "service"}}
        with Service2(home) as service, Daemon(home, **settings) as daemon:
            wait_until(lambda: daemon.heartbeat().get("endpoints"), 60, why="the daemon to find the service")
            found = []
            for at in range(rounds):
                daemon.ocwatch("clear", "--all").check_returncode()
                service.prompt(service.create_session(), f"Prompt number {at}")
                provider.wait_requests(FALLBACK, at + 1, timeout=60)
                daemon.wait_journal("moved", at + 1)
                refused = provider.requests(PRIMARY)[at].wall
                decided = after([epoch(entry["time"]) for entry in daemon.journal("claim")], refused)
                asked = provider.requests(FALLBACK)[at].wall - refused
                found.append({"decided": decided or 0.0, "target's request": asked})
            return found


def native(version: str) -> float:
    """Return the seconds until OpenCode alone sends its next request after a Retry-After of 20 s."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        provider.script(PRIMARY, limited(NATIVE_WAIT))
        with Serve(version, Home(Path(scratch), provider.url)) as serve:
            prompt(serve, 0)
            first, second, *_ = provider.wait_requests(PRIMARY, 2, timeout=90)
            return second.monotonic - first.monotonic


def hooked(rounds: int) -> list[float]:
    """Return the seconds from the refused request to the fallback's, in the stand-in for the releases of OpenCode 2."""
    took = []
    refusal = {"error": {"type": "provider.rate-limit", "message": "Rate limit reached", "status": 429}}
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        host = Host2(Path(scratch))
        home = Home(host.home, "http://127.0.0.1:9")
        with Daemon(home, maxMovesPerHour=1000) as daemon:
            for at in range(rounds):
                daemon.ocwatch("clear", "--all").check_returncode()
                steps = session(PRIMARY, f"ses_{at}"), script(PRIMARY, {**refusal, "retryAfter": 3_600_000})
                *_, reported = host.play(*steps, prompt_in_host(f"ses_{at}"), {"act": "times"}, clock="real")
                refused, target = reported["requests"]
                assert target["model"] == FALLBACK, target
                took.append(target["at"] - refused["at"])
    return took


def step_table(way: str, version: str, rounds: int) -> Iterator[str]:
    """Yield the daemon's steps from the 429 to the end of the move, for the round with the median time."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        home, trace = Home(Path(scratch), provider.url), Path(scratch) / "trace"
        provider.script(PRIMARY, limited(3600))
        if way == "door":
            ocwatch(home, "plugin", "install").check_returncode()
        daemon, found = Daemon(home, maxMovesPerHour=1000), list[tuple[float, float, float]]()
        daemon.command = traced.command(trace)
        with daemon, Serve(version, home) as running:
            for at in range(rounds):
                daemon.ocwatch("clear", "--all").check_returncode()
                used = cpu_seconds(running.pid)
                prompt(running, at)
                provider.wait_requests(FALLBACK, at + 1, timeout=60)
                daemon.wait_journal("moved", at + 1)
                refused, asked = provider.requests(PRIMARY)[at].wall, provider.requests(FALLBACK)[at].wall
                found.append((asked - refused, refused, cpu_seconds(running.pid) - used))
            spans = traced.spans(trace)
    took, begin, theirs = sorted(found[1:])[(rounds - 1) // 2]
    shown = [span for span in spans if begin <= span.begun <= begin + took and not span.what.startswith("message Tick")]
    requests = [span for span in shown if span.what.startswith(("GET ", "POST "))]
    ours = sum(span.cpu for span in shown if not span.what.startswith("message "))
    yield f"{version} {way}: {took * 1000:.0f} ms, {len(requests)} requests, CPU {ours * 1000:.0f} ms of ours,"
    yield f"    {theirs * 1000:.0f} ms of OpenCode's for the whole prompt"
    for span in sorted(shown, key=lambda span: span.begun):
        times = [(moment - begin) * 1000 for moment in (span.begun, span.ended)]
        yield f"    {times[0]:7.1f} {times[1]:7.1f} ms  CPU {span.cpu * 1000:5.1f}  {span.what}"


def show(version: str, way: str, took: list[Round]) -> None:
    """Print the totals, and the medians of the steps that were observed in more than half of the rounds."""
    first, *others = took
    totals = [each[STEPS[-1]] for each in others]
    label = f"{version} {way}"
    print(f"{label:16} {statistics.median(totals):9.2f} {max(totals):9.2f} {first[STEPS[-1]]:9.2f}")
    for step in STEPS:
        seen = [each[step] for each in others if step in each]
        if len(seen) * 2 > len(others):
            print(f"    {step:20} {statistics.median(seen) * 1000:7.0f} ms")
    sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Seconds from a 429 to the target's request, and where they go.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ways", default="door,tcp,native,service,model,hook")
    parser.add_argument("--beside", help="plugins to compare with: omo-slim, omo (from npm), or a plugin file's path")
    parser.add_argument("--load", default="0", help="numbers of busy processes beside them, measured one by one")
    parser.add_argument("--steps", action="store_true", help="print each request and effect of a move")
    parser.add_argument("versions", nargs="*")
    wanted = parser.parse_args()
    if wanted.beside is not None:
        compare(wanted)
        return
    wanted.versions = wanted.versions or VERSIONS
    if wanted.steps:
        for version, way in itertools.product(wanted.versions, OWN_WAYS & set(wanted.ways.split(","))):
            with contextlib.redirect_stdout(io.StringIO()):
                lines = list(step_table(way, version, wanted.rounds + 1))
            print("\n".join(lines), flush=True)
        return
    print(f"{'OpenCode':16} {'median s':>9} {'worst s':>9} {'first s':>9}   of {wanted.rounds}")
    ways = wanted.ways.split(",")
    if "hook" in ways:
        with contextlib.redirect_stdout(io.StringIO()):
            first, *others = hooked(wanted.rounds + 1)
        print(f"{'2.x hook*':16} {statistics.median(others):9.3f} {max(others):9.3f} {first:9.3f}   *in a stand-in")
    for way in [way for way in ways if way in OF_2]:
        with contextlib.redirect_stdout(io.StringIO()):
            took = switched(way, wanted.rounds + 1)
        show("2 preview", way, took)
    for version in wanted.versions if set(ways) - OF_2 - {"hook"} else ():
        for way in [way for way in ways if way not in OF_2 | {"hook"}]:
            with contextlib.redirect_stdout(io.StringIO()):  # the test support prints the daemon's output
                alone = native(version) if way == "native" else 0.0
                took = [] if way == "native" else moved(way, version, wanted.rounds + 1)
            if took:
                show(version, way, took)
            else:
                print(f"{version + ' native':16} {alone:9.2f}   (Retry-After {NATIVE_WAIT})", flush=True)


def compare(wanted: argparse.Namespace) -> None:
    """Print a table for each version, way and load."""
    names = [peers.OURS, *(name for name in wanted.beside.split(",") if name)]
    ways = [way for way in wanted.ways.split(",") if way in ("serve", "tui")] or ["serve"]
    for version, way, busy in itertools.product(wanted.versions or VERSIONS[:1], ways, wanted.load.split(",")):
        with contextlib.redirect_stdout(io.StringIO()):
            found = peers.by_turns(names, way, version, wanted.rounds, int(busy))
        print(f"{version} {way}, {busy} busy processes, {wanted.rounds} rounds by turns")
        print("\n".join(peers.table(found)), flush=True)


if __name__ == "__main__":
    main()
