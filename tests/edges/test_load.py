"""Storms and long lives: nothing lost, and memory, descriptors and journal stay as they are.

`STORM=100000 python -m pytest tests/edges/test_load.py -s` is the full storm; a suite makes a smaller one.
"""

from __future__ import annotations

import os
import resource
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from ocwatchd.core.engine import Engine
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitEvent, ModelRef
from ocwatchd.core.messages import LookUp, Note, Refused, SaveRegister, Surveyed, Tick
from ocwatchd.core.policy import Policy
from ocwatchd.core.reading import Reading
from ocwatchd.state import blacklist
from ocwatchd.state.journal import Journal
from tests.conftest import Count
from tests.edges.logtext import NOW, refusal
from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.processes import free_port, wait_until
from tests.support.rules import builtin

STORM = int(os.environ.get("STORM", "20000"))
SESSIONS = 200


@pytest.mark.timeout(300 + STORM / 100)
def test_a_storm_of_limits(tmp_path: Path, counted: Count) -> None:
    """Every line is counted, in one go; the register holds what the last one said."""
    home = Home(tmp_path, f"http://127.0.0.1:{free_port()}")
    home.log_dir.mkdir(parents=True)
    log = home.log_dir / "opencode.log"
    with Daemon(home) as daemon:
        process = psutil.Process(daemon.pid)
        log.write_bytes(refusal(1, time.time()))
        daemon.wait_cooldown("mock/primary")
        fds, memory = process.num_fds(), process.memory_info().rss
        cpu = sum(process.cpu_times()[:2])
        line = refusal(0, time.time()).replace(b"modelID=primary", b"modelID=stormy")
        line = line.replace(b"Too Many Requests", b"Too Many Requests, try again in 9000s")
        lines = [line.replace(b"ses_0", b"ses_%d" % (number % SESSIONS)) for number in range(STORM)]
        begun = time.monotonic()
        with log.open("ab") as file:
            file.write(b"".join(lines))
        writes: set[object] = set()

        def all_counted() -> bool:
            writes.add(blacklist.signature(daemon.state / "blacklist.json"))
            return _strikes(daemon) == STORM

        wait_until(all_counted, 60 + STORM / 200, pause=0.005, why="every line is counted")
        took, cpu = time.monotonic() - begun, sum(process.cpu_times()[:2]) - cpu
        counted("bad inputs", STORM)
        assert len(writes) <= 20 * took + 2
        grown = (process.memory_info().rss - memory) / 1e6
        print(
            f"{STORM} limits in {took:.1f} s, {cpu:.1f} CPU s, {len(writes) / took:.1f} writes/s, "
            f"{grown:.1f} MB more, {process.num_fds() - fds} descriptors more"
        )
        assert grown < 60
        assert process.num_fds() - fds < 24
        journal = sum(path.stat().st_size for path in daemon.state.glob("journal.jsonl*"))
        assert journal < 9 << 20
        assert daemon.ocwatch("status").returncode == 0


def _strikes(daemon: Daemon) -> int:
    entry = daemon.cooldown("mock/stormy")
    return int(entry["strikes"]) if entry else 0


class SetClock:
    """A clock that stands until it is set."""

    time = NOW

    def now(self) -> float:
        return self.time


DAY, PACE = 86_400, 60


def test_a_day_of_limits(tmp_path: Path) -> None:
    """Twenty-four hours, a limit each minute, thousands of sessions: engine, ledger, register and journal."""
    clock = SetClock()
    engine = Engine(Policy(), builtin(), Ledger(), lambda: "claim")
    journal = Journal(tmp_path / "journal.jsonl", clock, max_bytes=1 << 18)
    register = tmp_path / "blacklist.json"
    reading = Reading(builtin(), turns=True)
    sizes, fds = [], len(list(Path("/proc/self/fd").iterdir()))
    tracemalloc.start()
    events = 0
    for number in range(DAY // PACE):
        clock.time = NOW + number * PACE
        line = refusal(number, clock.time).replace(b"modelID=primary", b"modelID=m%d" % (number % 40))
        for seen in reading.feed(line):
            assert isinstance(seen, LimitEvent)
            events += 1
            live(engine, Refused(seen, True), clock, journal, register, number)
        live(engine, Tick(), clock, journal, register, number)
        if number % (3600 // PACE) == 0:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert events == DAY // PACE
    first, last = sizes[12], sizes[-1]
    print(f"{events} limits in a day: {first / 1e6:.1f} MB at noon, {last / 1e6:.1f} MB at its end")
    assert last < first * 1.2 + 200_000
    assert len(engine.cases.all()) <= 1000
    assert len(engine.ledger.entries()) <= 40
    assert sum(path.stat().st_size for path in tmp_path.glob("journal.jsonl*")) <= 2 << 18
    assert register.stat().st_size < 40_000
    assert len(list(Path("/proc/self/fd").iterdir())) == fds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 500_000


def live(
    engine: Engine, message: Refused | Tick | Surveyed, clock: SetClock, journal: Journal, path: Path, number: int
) -> None:
    """Do what is listed, as the daemon's hands do; no door ever answers. Files every tenth time: they are slow."""
    for effect in engine.handle(message, clock.now()):
        match effect:
            case LookUp(session, model):
                live(engine, Surveyed(session, model, (), 0), clock, journal, path, number)
            case Note(what, fields):
                journal.append({"what": what, **fields})
            case SaveRegister(changed, removed) if number % 10 == 0:
                save(path, changed, removed, clock.now())


def save(path: Path, changed: Sequence[Cooldown], removed: Sequence[ModelRef], now: float) -> None:
    news = {entry.model: entry for entry in changed}
    blacklist.update(path, lambda old: {m: entry for m, entry in (old | news).items() if m not in removed}, now)
