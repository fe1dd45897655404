"""How long a limit costs: from the provider's 429 to the target's request on a real OpenCode, and where the time goes.

    python bench/recovery.py [--rounds 10] [--ways door,tcp,native] [--plugin FILE.js] [VERSION ...]

`door` is a TUI in tmux that listens on no port, with the companion plugin; `tcp` is `opencode serve` without it;
`native` is OpenCode alone, refused with Retry-After 20. `plugin` is OpenCode alone with somebody else's plugin, a file
whose configuration lies beside it in `opencode/`. A fake provider on loopback refuses with Retry-After 3600 and keeps
the times; the steps between are OpenCode's own records (1.17 and later: to the millisecond) and our journal. Each round
clears the register and sends a prompt of its own. "First" is the first prompt of an OpenCode that has just started.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.daemon import Daemon, epoch, ocwatch
from tests.support.opencode import Home, Serve
from tests.support.provider import Provider, limited
from tests.support.tui import Tui

VERSIONS = ("1.18.33", "1.3.2", "1.2.27", "1.1.65", "1.0.185")
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
NATIVE_WAIT = 20
STEPS = ("OpenCode's record", "on disk", "decided", "stopped", "run again", "target's request")
"""What happens after a 429, in order; `on disk` may come after `decided`: the daemon hears of it through the door."""

Round = dict[str, float]


class Disk:
    """When lines of refusals appear in the log file: looked at every 2 ms. A context manager."""

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
    """The times of OpenCode's own records (1.17 and later) that hold this text."""
    path = home.log_dir / "opencode.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    stamps = [line.partition("timestamp=")[2].partition(" ")[0] for line in lines if mark in line]
    return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps if stamp]


def after(times: list[float], begin: float) -> float | None:
    """Seconds from `begin` to the first of these times behind it; records are cut to the millisecond."""
    return next((moment - begin for moment in times if moment >= begin - 0.001), None)


def steps(home: Home, daemon: Daemon | None, disk: Disk, provider: Provider, at: int) -> Round:
    """Seconds from the 429 of this round to each step that can be seen."""
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
    """A TUI for the door, else a server."""
    with Tui(version, home) if way == "door" else Serve(version, home) as running:
        yield running


def prompt(running: Tui | Serve, at: int) -> None:
    """A prompt of its own for each round; a server's is a session of its own, too."""
    if isinstance(running, Tui):
        running.say(f"Prompt number {at}")
    else:
        running.prompt_async(running.create_session(), f"Prompt number {at}", model=PRIMARY)


def moved(way: str, version: str, rounds: int) -> list[Round]:
    """The rounds of one way."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        home = Home(Path(scratch), provider.url)
        provider.script(PRIMARY, limited(3600))
        if way == "door":
            ocwatch(home, "plugin", "install").check_returncode()
        with Daemon(home, movesPerHour=1000) as daemon, opencode(way, version, home) as running, Disk(home) as disk:
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


def native(version: str) -> float:
    """Seconds until OpenCode alone asks again, refused with Retry-After 20."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
        provider.script(PRIMARY, limited(NATIVE_WAIT))
        with Serve(version, Home(Path(scratch), provider.url)) as serve:
            prompt(serve, 0)
            first, second, *_ = provider.wait_requests(PRIMARY, 2, timeout=90)
            return second.monotonic - first.monotonic


def foreign(version: str, plugin: Path, rounds: int) -> list[float]:
    """Seconds from the 429 to the target's request with somebody else's plugin; a HOME of its own for each round."""
    took = []
    for at in range(rounds):
        with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, Provider() as provider:
            home = Home(Path(scratch), provider.url)
            provider.script(PRIMARY, limited(3600))
            (home.config_dir / "plugin").mkdir(parents=True, exist_ok=True)
            shutil.copy(plugin, home.config_dir / "plugin")
            if (plugin.parent / "opencode").is_dir():
                shutil.copytree(plugin.parent / "opencode", home.config_dir, dirs_exist_ok=True)
            with Serve(version, home) as serve:
                prompt(serve, at)
                (target, *_) = provider.wait_requests(FALLBACK, 1, timeout=60)
                took.append(target.monotonic - provider.requests(PRIMARY)[0].monotonic)
    return took


def show(version: str, way: str, took: list[Round]) -> None:
    """Totals, and the medians of the steps where OpenCode tells them."""
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
    parser.add_argument("--ways", default="door,tcp,native")
    parser.add_argument("--plugin", type=Path, help="a plugin of somebody else's")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    wanted = parser.parse_args()
    print(f"{'OpenCode':16} {'median s':>9} {'worst s':>9} {'first s':>9}   of {wanted.rounds}")
    for version in wanted.versions:
        for way in wanted.ways.split(","):
            with contextlib.redirect_stdout(io.StringIO()):  # the test support prints what the daemon said
                alone = native(version) if way == "native" else 0.0
                took = [] if way == "native" else moved(way, version, wanted.rounds + 1)
            if took:
                show(version, way, took)
            else:
                print(f"{version + ' native':16} {alone:9.2f}   (Retry-After {NATIVE_WAIT})", flush=True)
        if wanted.plugin:
            totals = foreign(version, wanted.plugin, min(wanted.rounds, 3))
            print(f"{version + ' plugin':16} {statistics.median(totals):9.2f} {max(totals):9.2f}", flush=True)


if __name__ == "__main__":
    main()
