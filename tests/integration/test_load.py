"""Tests of storms, long logs and long runs: nothing is lost, and memory, descriptors and journal stay bounded.

`STORM=100000 MEGABYTES=1000 PACE=30 python -m pytest tests/integration/test_load.py -s` is the full run.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import psutil
import pytest

from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.timeline import MAX_GAP, SETTLED
from ocwatchd.core.domain.types import LimitEvent, ModelRef
from ocwatchd.core.engine.messages import Effect, Refused, SaveBlacklist, Tick
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.counted import Counted
from ocwatchd.state.journal import MAX_BYTES
from tests.conftest import Count
from tests.integration.logtext import NOW, other, refusal
from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.lives import Life
from tests.support.processes import free_port, wait_until
from tests.support.rules import builtin

STORM = int(os.environ.get("STORM", "20000"))
SESSIONS = 200


@pytest.mark.timeout(300 + STORM / 100)
def test_a_storm_of_limits(tmp_path: Path, counted: Count) -> None:
    """Every line is counted in one run, and the blacklist contains the last reset time."""
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


MEGABYTES = int(os.environ.get("MEGABYTES", "64"))


def test_a_long_log_at_the_start(tmp_path: Path, counted: Count) -> None:
    """Without a cursor the end of the log is read, with one the new lines; never the whole, never much at a time."""
    home = Home(tmp_path, f"http://127.0.0.1:{free_port()}")
    home.log_dir.mkdir(parents=True)
    log = home.log_dir / "opencode.log"
    block = other(1, time.time()) * (1_000_000 // len(other(1)))
    daemon = Daemon(home)
    for number, size in ((1, MEGABYTES), (2, MEGABYTES // 8)):
        with log.open("ab") as file:
            for _ in range(size):
                file.write(block)
            file.write(refusal(number, time.time()))
        with daemon:
            wait_until(lambda number=number: daemon.journal("limit")[-1:] and
                       daemon.journal("limit")[-1]["session"] == f"ses_{number}", 120, why="its end")  # fmt: skip
            process = psutil.Process(daemon.pid)
            read, peak = _of(daemon, "io", "rchar"), _of(daemon, "status", "VmHWM")
            cpu = sum(process.cpu_times()[:2])
            print(f"{size} MB: {read >> 20} MiB read, peak {peak >> 10} MiB, {cpu:.2f} CPU s")
            assert read < (16 << 20) + (size * 1_100_000 if number == 2 else 0)
            assert peak < 60 << 10
    counted("faults survived", 2)


def _of(daemon: Daemon, file: str, name: str) -> int:
    """Return a number from the process's status in /proc."""
    return int(Path(f"/proc/{daemon.pid}/{file}").read_text().partition(f"{name}:")[2].split()[0])


DAY, HOUR = 86_400, 3600
PACE = int(os.environ.get("PACE", "180"))
MODELS = 40


class LoggedLife(Life):
    """A day by its log, which is rotated and followed by the real reader, with a real blacklist.

    Only OpenCode and the clock are simulated: each limited session is moved, and has answered when the next is limited.
    """

    def __init__(self, root: Path) -> None:
        chains = {f"mock/m{number}": [f"mock/m{(number + 1) % MODELS}", "spare/last"] for number in range(MODELS)}
        super().__init__(root / "journal.jsonl", chains, start=NOW)
        self.register, self.log, self.changes = root / "blacklist.json", root / "log" / "opencode.log", 0
        self.log.parent.mkdir()
        self.reader = LogDirectories([self.log.parent], builtin())
        self.counted, self.events, self.ended = Counted(), 0, Counter[str]()

    def refused_in_the_log(self, number: int) -> None:
        """Limit a session on its model; the session before it was moved and answers now."""
        session, model = f"ses_{number}", ModelRef("mock", f"m{number % MODELS}")
        line = refusal(number, self.time).replace(b"modelID=primary", f"modelID={model.model}".encode())
        with self.log.open("ab") as file:
            file.write(line.replace(b"Too Many Requests", b"Too Many Requests, try again in 300s"))
        os.utime(self.log, (self.time, self.time))
        self.snapshots[session] = retrying(session, model, self.time + 300)
        self.read()
        if (before := f"ses_{number - 1}") in self.snapshots:
            self.answer(before)
            self.ended["answered"] += self.moved(before, f"mock/m{(number - 1) % MODELS}")
            del self.snapshots[before]

    def read(self) -> None:
        for sighting in self.reader.poll(self.time, [str(self.log)]):
            if isinstance(sighting.seen, LimitEvent):
                self.events += 1
                again = self.counted.again(sighting.log, sighting.seen, self.time)
                self.tell(Refused(sighting.seen, sighting.live, again))

    def rotate(self, hour: int) -> None:
        """Rotate the log: renamed, copied and truncated, or deleted, in turn."""
        match hour % 3:
            case 0:
                self.log.rename(self.log.with_name(f"opencode.{hour}.old"))
            case 1:
                os.truncate(self.log, 0)
            case _:
                self.log.unlink()
        self.read()

    def do(self, effect: Effect) -> list[Effect]:
        if isinstance(effect, SaveBlacklist):
            self.changes += 1
            if self.changes % 10 == 0:  # the daemon combines a storm's writes, each of which takes some ms
                self.save(effect)
        return super().do(effect)

    def save(self, effect: SaveBlacklist) -> None:
        news = {entry.model: entry for entry in effect.changed}

        def change(old: dict[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
            return {model: entry for model, entry in (old | news).items() if model not in effect.removed}

        blacklist.update(self.register, change, self.time, counted=self.counted.as_json())


def retrying(session: str, model: ModelRef, next_at: float) -> SessionSnapshot:
    return SessionSnapshot(
        session=session,
        directory="/home/dev/project",
        endpoint=Endpoint(TcpAddress("127.0.0.1", 4096), 4711),
        state=SessionState.RETRY,
        attempt=1,
        next_at=next_at,
        message="Too Many Requests, try again in 300s",
        model=model,
        agent="build",
        user_message="msg_1",
        prompt_model=model,
        answer="msg_2",
        version="1.18.33",
    )


def test_a_day_of_limits(tmp_path: Path, counted: Count) -> None:
    """Twenty-four hours with a limit and a move every PACE seconds, a rotation every hour, and cooldowns that end."""
    life = LoggedLife(tmp_path)
    life.read()
    sizes, descriptors = [], []
    tracemalloc.start()
    for number in range(DAY // PACE):
        life.pass_time(max(NOW + number * PACE - life.time, 0.0))
        life.refused_in_the_log(number)
        life.tell(Tick())
        if number % (HOUR // PACE) == 0:
            for _ in range(int(SETTLED // MAX_GAP) + 2):  # as often as the daemon checks the clock
                life.pass_time(MAX_GAP)
                life.tell(Tick())
            life.rotate(number // (HOUR // PACE))
            sizes.append(tracemalloc.get_traced_memory()[0])
            descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    tracemalloc.stop()
    first, last = sizes[12], sizes[-1]
    print(
        f"{life.events} limits, {life.ended['answered']} moves: "
        f"{first / 1e6:.1f} MB at noon, {last / 1e6:.1f} at the end"
    )
    counted("bad inputs", life.events)
    assert life.events == DAY // PACE
    assert life.ended["answered"] > life.events * 0.95
    assert last < first * 1.2 + 200_000
    assert max(descriptors[12:]) <= max(descriptors[:12]) + 1
    assert len(life.brain.tracked_sessions.all()) <= 1000
    assert len(life.brain.cooldowns.entries()) <= MODELS + 1
    assert sum(path.stat().st_size for path in tmp_path.glob("journal.jsonl*")) <= 2 * MAX_BYTES
    assert life.register.stat().st_size < 60_000
    life.reader.close()
