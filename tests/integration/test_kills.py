"""Tests of SIGKILL at random moments of a busy daemon.

Every file can always be read, no acknowledged data is lost, no move is made twice, no refused attempt is counted or
reported twice. `KILLS=1000 python -m pytest tests/integration/test_kills.py -s` is the full run; a suite makes fewer.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.cooldowns import SAME_TIME
from ocwatchd.state import cursors
from ocwatchd.state import moved_sessions as moved
from tests.conftest import Count
from tests.integration.logtext import refusal
from tests.support.daemon import Daemon, epoch
from tests.support.fakeopencode import FakeOpenCode
from tests.support.homes import Home
from tests.support.processes import start, wait_until

KILLS = int(os.environ.get("KILLS", "20"))
LIFE = 0.8
"""Maximum seconds until the kill: in two of five runs from the start of the process, in the others from its first
heartbeat, which follows its first read of logs and endpoints."""
STUCK_MOST = 30
"""Maximum number of sessions that wait for a move at one moment."""


class Watcher:
    """Reads the blacklist continuously, as a status bar does: it must be valid, and every entry must stay."""

    def __init__(self, state: Path) -> None:
        self.path = state / "blacklist.json"
        self.acknowledged: dict[str, float] = {}
        self.reads = 0
        self.fault: BaseException | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _watch(self) -> None:
        try:
            while not self._end.wait(0.003):
                self.look()
        except BaseException as fault:
            self.fault = fault

    def look(self) -> None:
        try:
            models = json.loads(self.path.read_bytes())["models"]
        except FileNotFoundError:
            assert not self.acknowledged
            return
        self.reads += 1
        for model, until in self.acknowledged.items():
            # Two clocks differ by up to this much, and the more exact one may come later.
            assert epoch(models[model]["until"]) >= until - SAME_TIME, f"{model} was shortened or lost"
        self.acknowledged = {model: epoch(entry["until"]) for model, entry in models.items()}

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        if self.fault is not None:
            raise self.fault


def whole(state: Path) -> None:
    """Check that a reader finds valid files after a kill."""
    journal = state / "journal.jsonl"
    if journal.exists():
        *lines, last = journal.read_bytes().split(b"\n")
        torn = [line for line in lines if line and not _object(line)]
        assert len(torn) <= 1 or all(not _object(line) for line in torn), torn
        assert last == b"" or not _object(last) or last.endswith(b"}")
    _, trouble = cursors.load(state / "cursors.json")
    assert trouble is None


def _object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Told:
    """Collects the journal as it grows, because a long run of kills rotates it more than once."""

    def __init__(self, state: Path) -> None:
        self._path = state / "journal.jsonl"
        self._inode = self._at = 0
        self._entries: list[dict[str, Any]] = []

    def entries(self, what: str) -> list[dict[str, Any]]:
        """Return the lines of one kind, oldest first."""
        for path in (self._path.with_name("journal.jsonl.1"), self._path):
            self._read(path)
        return [entry for entry in self._entries if entry["what"] == what]

    def _read(self, path: Path) -> None:
        if not path.exists() or (path != self._path and path.stat().st_ino != self._inode):
            return
        with path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(self._at if inode == self._inode else 0)
            data, _, rest = file.read().rpartition(b"\n")
            self._inode, self._at = inode, file.tell() - len(rest)
        self._entries += [json.loads(line) for line in data.split(b"\n") if _object(line)]


@pytest.mark.timeout(300 + 10 * KILLS)
def test_killed_at_any_moment(tmp_path: Path, counted: Count) -> None:
    draw = random.Random(os.environ.get("SEED", "20261122"))
    numbers, lines = count(1), Counter[str]()
    with FakeOpenCode(str(tmp_path)) as opencode:
        home = Home(tmp_path, opencode.url)
        daemon = Daemon(home, chain={"mock/primary": "mock2/fallback"}, endpoints=[opencode.url])
        home.log_dir.mkdir(parents=True)
        log = home.log_dir / "opencode.log"
        watcher, told = Watcher(daemon.state), Told(daemon.state)
        watcher.start()
        for _ in range(KILLS):
            daemon.process = start(daemon.command, home, home.root, daemon.output)
            if draw.random() < 0.6:
                wait_until(lambda: daemon.heartbeat().get("pid") == daemon.pid, 60, pause=0.01, why="a beat")
            end = time.monotonic() + draw.uniform(0.0, LIFE)
            while (left := end - time.monotonic()) > 0:
                lines += limit(log, next(numbers), opencode, draw)
                time.sleep(min(left, draw.uniform(0.0, 0.2)))
            daemon.kill()
            whole(daemon.state)
            told.entries("")
            counted("kills", 1)
        for name in ("cursors.json", "daemon.json", "forecasts.json", "blacklist.json"):
            (daemon.state / f".{name}.1234.tmp").write_bytes(b"{")  # as a killed writer leaves it
        with daemon:
            try:
                wait_until(lambda: not unanswered(opencode, told), 120 + KILLS, why="all are moved")
            finally:
                report(opencode, daemon)
            wait_until(lambda: strikes(daemon).total() >= lines.total(), why="all is counted")
            wait_until(lambda: daemon.state.joinpath("cursors.json").exists(), why="cursors")
        watcher.stop()
        watcher.look()
        assert len(watcher.acknowledged) > min(KILLS / 2, 150)
        assert len(opencode.sessions) > STUCK_MOST or KILLS < 100, "moves were made between the kills"
        kept = json.loads((daemon.state / "moved.json").read_bytes())["sessions"]
        landed = {entry["session"] for entry in told.entries("moved")}
        assert set(kept) <= landed, "only what was moved is given back later"
        assert len(kept) == min(len(landed), moved.MOST), "all of it, or as many as are remembered"
        print(f"{KILLS} kills: {watcher.reads} reads of the blacklist, {len(watcher.acknowledged)} cooldowns kept")
        assert list(daemon.state.glob(".*.tmp")) == []
        assert strikes(daemon) == lines, "each refusal is one strike"
        assert [place for place, times in Counter(places(told)).items() if times > 1] == []
        assert [s.id for s in opencode.sessions.values() if s.runs > 1] == []
        assert [s.id for s in opencode.sessions.values() if s.spoilt] == []


def unanswered(opencode: FakeOpenCode, told: Told) -> list[str]:
    """Return the sessions that should have been moved; limits that were old when they were read cause no move."""
    fresh = {entry["session"] for entry in told.entries("limit") if not entry["history"]}
    return [session.id for session in opencode.sessions.values() if not session.answered and session.id in fresh]


def strikes(daemon: Daemon) -> Counter[str]:
    """Return the cooldowns by model, from the blacklist."""
    models = json.loads((daemon.state / "blacklist.json").read_bytes())["models"]
    return Counter({name: entry["strikes"] for name, entry in models.items()})


def places(told: Told) -> list[tuple[str, int]]:
    """Return the places of the refused attempts in the journal."""
    return [(entry["file"], entry["offset"]) for entry in told.entries("limit") if entry["file"]]


def limit(log: Path, number: int, opencode: FakeOpenCode, draw: random.Random) -> Counter[str]:
    """Limit a session on the primary, and another model that no other session uses; return the limited models."""
    lines = refusal(number, time.time()).replace(b"Too Many Requests", b"Too Many Requests, try again in 9000s")
    if sum(not session.answered for session in opencode.sessions.values()) < STUCK_MOST:
        opencode.limited(f"ses_{number}")
    lonely = refusal(10**6 + number, time.time()).replace(
        b"Too Many Requests", b"Too Many Requests, try again in 8000s"
    )
    name = f"m{number % 200}"
    lines += lonely.replace(b"modelID=primary", b"modelID=" + name.encode())
    with log.open("ab", buffering=0) as file:
        if draw.random() < 0.3:
            cut = draw.randrange(len(lines))
            file.write(lines[:cut])
            time.sleep(0.01)
            lines = lines[cut:]
        file.write(lines)
    return Counter(("mock/primary", f"mock/{name}"))


def report(opencode: FakeOpenCode, daemon: Daemon) -> None:
    sessions = list(opencode.sessions.values())
    runs = [s.runs for s in sessions]
    posts = sum(s.posts for s in sessions)
    open_ones = [s.id for s in sessions if not s.answered]
    print(f"{len(sessions)} sessions, {sum(runs)} runs, {posts} posts, most {max(runs)}, unanswered {open_ones}")
