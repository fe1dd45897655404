"""Tests of carrying out effects, and of their order: saved before a probe, claimed before a move."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.engine.messages import (
    Effect,
    Failure,
    Message,
    Move,
    MoveEnded,
    Note,
    Probe,
    Probed,
    SaveBlacklist,
)
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.decisions import Decisions
from ocwatchd.daemon.effects import EffectExecutor, Handlers, daemon_handlers, remember_in
from ocwatchd.daemon.faults import Faults, FileHealth
from ocwatchd.daemon.journal_buffer import JournalBuffer
from ocwatchd.daemon.lanes import WorkerLanes
from ocwatchd.daemon.notifier import Notifier
from ocwatchd.daemon.opencode_work import OpenCodeWork
from ocwatchd.launcher.effects import RunNotes, YieldingWriter, launcher_handlers
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.event_stream import EventListener
from ocwatchd.opencode.discovery.endpoints import EndpointFinder, OpenCodeProcess
from ocwatchd.opencode.discovery.probes import Findings, Report
from ocwatchd.paths import Paths
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.sync import SharedBlacklist
from ocwatchd.state.journal import Journal
from tests.support.processes import wait_until

A, B = ModelRef("p", "a"), ModelRef("q", "b")
ENTRY = Cooldown(A, LimitKind.RATE_LIMIT, Scope.MODEL, 1e9, 4e9, 1, ResetSource.STATUS)
SNAPSHOT = SessionSnapshot("ses_1", "/p", Endpoint(TcpAddress("127.0.0.1", 1), 1), SessionState.RETRY, 1e9, model=A)
MOVE = Move("claim1", Order(SNAPSHOT, Target(B)))
CLAIM = Note("claim", {"claim": "claim1", "target": "q/b"}, durable=True)


@dataclass
class Played:
    """A fake of OpenCode and the movers that reads our files when it is called. `spoilt` makes it fail."""

    paths: Paths
    spoilt: bool = False
    saw: list[str] = field(default_factory=list)
    name: str = "played"

    def session(self, _: str) -> Findings:
        self._note(str(A in blacklist.read(self.paths.blacklist).cooldowns))
        return Findings((SNAPSHOT,), 1)

    def stuck(self, _: Report | None = None) -> Findings:
        return Findings((), 0)

    def move(self, order: Order) -> MoveOutcome:
        self._note(",".join(str(entry["what"]) for entry in Journal(self.paths.journal).read()))
        return MoveOutcome(MoveResult.MOVED, "it answers", order.snapshot)

    def _note(self, what: str) -> None:
        self.saw.append(what)
        if self.spoilt:
            raise ZeroDivisionError("played")


@dataclass
class Parts:
    """The parts of a daemon or a launcher without its loop."""

    paths: Paths
    posted: list[Message | Failure] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    processes: list[OpenCodeProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.played, clock = Played(self.paths), SystemClock()
        self.faults, health = Faults(self.said.append, clock.now), FileHealth(self.said.append)
        self.lanes = WorkerLanes(self.posted.append, self.faults)
        finder = EndpointFinder(self.paths.opencode_data, environ={}, processes=lambda: self.processes)
        self.opencode = opencode = OpenCodeWork(
            self.paths,
            clock,
            self.lanes,
            self.posted.append,
            health,
            finder,
            self.played,
            EventListener(self.posted.append, lambda: True),
            self.played,
            SwitchModel(),
        )
        shared, journal = SharedBlacklist(self.paths.blacklist), Journal(self.paths.journal, clock)
        remember, buffer = remember_in(self.paths.moved, clock, health), JournalBuffer(journal, health)
        writer = BlacklistWriter(shared, clock, health, before=buffer.write)
        decisions, notifier = Decisions(self.paths.decisions, self.posted.append, clock), Notifier()
        self.of_daemon = daemon_handlers(writer, buffer, opencode, self.lanes, notifier, decisions, remember)
        yielding, story = YieldingWriter(writer, shared, self.paths, clock), RunNotes(journal, self.said.append)
        self.of_launcher = launcher_handlers(yielding, story, opencode, remember)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    (tmp_path / "state").mkdir(mode=0o700)
    made = Parts(Paths(tmp_path, tmp_path, tmp_path, tmp_path / "state", tmp_path))
    yield made
    made.lanes.close()


KINDS: dict[str, Callable[[Parts], Handlers]] = {
    "daemon": lambda parts: parts.of_daemon,
    "launcher": lambda parts: parts.of_launcher,
}


@pytest.fixture(params=KINDS)
def handlers(request: pytest.FixtureRequest, parts: Parts) -> Handlers:
    return KINDS[request.param](parts)


def test_every_effect_has_a_handler(handlers: Handlers) -> None:
    assert set(handlers) == set(get_args(Effect))


def test_a_cooldown_is_saved_before_an_endpoint_is_asked(parts: Parts, handlers: Handlers) -> None:
    EffectExecutor(handlers, parts.faults).do([SaveBlacklist(changed=(ENTRY,)), Probe("ses_1", A)])
    wait_until(lambda: parts.posted, 20, why="the answer")
    assert parts.played.saw == ["True"]
    assert parts.posted == [Probed("ses_1", A, (SNAPSHOT,), 1)]


def test_a_claim_is_on_disk_before_its_move(parts: Parts, handlers: Handlers) -> None:
    EffectExecutor(handlers, parts.faults).do([CLAIM, MOVE])
    wait_until(lambda: parts.posted, 20, why="the end of the move")
    assert parts.played.saw == ["claim"]
    (end,) = parts.posted
    assert isinstance(end, MoveEnded) and end.outcome.result is MoveResult.MOVED


def test_work_that_fails_is_counted_and_answered_all_the_same(parts: Parts, handlers: Handlers) -> None:
    """Without an answer the engine would wait for it endlessly, and never move the session."""
    parts.played.spoilt = True
    EffectExecutor(handlers, parts.faults).do([MOVE, Probe("ses_1", A)])
    wait_until(lambda: len(parts.posted) == 2, 20, why="both answers")
    assert Probed("ses_1", A, (), 0) in parts.posted
    assert [end.outcome.result for end in parts.posted if isinstance(end, MoveEnded)] == [MoveResult.FAILED]
    assert {line.partition(" (")[0] for line in parts.said} == {"internal fault in Move", "internal fault in Probe"}


def test_an_effect_that_fails_leaves_those_behind_it_alone(parts: Parts) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError("played")

    EffectExecutor({**parts.of_daemon, Note: fails}, parts.faults).do([CLAIM, MOVE])
    wait_until(lambda: parts.posted, 20, why="the end of the move")
    assert parts.faults.count == 1


def test_the_search_for_endpoints_lists_processes_without_the_companion_plugin(parts: Parts) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=parts.paths.home) as process:
        try:
            began, directory = time.time(), str(parts.paths.home)
            found = OpenCodeProcess(process.pid, began, directory, parts.paths.opencode_data, None, serves_many=False)
            parts.processes = [found]
            parts.opencode.listen()
            wait_until(lambda: parts.opencode.earlier, 20, why="the search")
            (earlier,) = parts.opencode.earlier
            assert (earlier["pid"], earlier["directory"]) == (process.pid, directory)
            assert earlier["restart"] == f"cd {directory} && opencode"
            parts.paths.endpoints.mkdir()
            (parts.paths.endpoints / f"{process.pid}.json").write_text("{}")
            parts.opencode.listen()
            wait_until(lambda: not parts.opencode.earlier, 20, why="another search")
        finally:
            process.kill()
