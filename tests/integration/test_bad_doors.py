"""Tests of endpoints that misbehave beside a good one, with the daemon as a real process.

Sessions at the good endpoint are moved in time, memory stays bounded, results about the other endpoints are true, and
no prompt is run twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.conftest import Count
from tests.integration.logtext import refusal
from tests.support.daemon import Daemon
from tests.support.fakeopencode import FakeOpenCode, FakeSession
from tests.support.homes import Home
from tests.support.hung import hung
from tests.support.misbehaviour import ALL, Misbehaviour, dawdle, hang
from tests.support.processes import free_port, wait_until

CHAIN = {"mock/primary": "mock2/fallback"}
IN_TIME = 40.0
"""Seconds within which a session at a good endpoint is moved, whatever the others do; 1.6 on an idle machine."""


class Machine:
    """A home with a log and fake OpenCodes, which the daemon follows."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.home = Home(root, f"http://127.0.0.1:{free_port()}")
        self.home.log_dir.mkdir(parents=True)
        self.log = self.home.log_dir / "opencode.log"
        self.log.touch()
        self.stack, self.places = stack, 0
        self.daemon = Daemon(self.home, chain=CHAIN)
        self.urls: list[str] = []

    def opencode(self, name: str, unix: bool = False) -> FakeOpenCode:
        """Start an OpenCode in its own project: with `unix` at the companion plugin's socket, otherwise at a port."""
        project = self.home.root / name.replace(" ", "-")
        project.mkdir()
        socket = None
        if unix:
            endpoints = self.daemon.state / "doors"
            endpoints.mkdir(mode=0o700, parents=True, exist_ok=True)
            socket = endpoints / f"{self.stack.enter_context(process_named('opencode', project, self.home)).pid}.sock"
        fake = self.stack.enter_context(FakeOpenCode(str(project), unix=socket))
        if fake.url:
            self.urls.append(fake.url)
        return fake

    def start(self) -> Daemon:
        self.daemon = Daemon(self.home, chain=CHAIN, endpoints=self.urls)
        self.stack.enter_context(self.daemon)
        return self.daemon

    def limited(self, opencode: FakeOpenCode, number: int, project: str | None = None) -> FakeSession:
        """Refuse a session now: OpenCode stores it and writes it to its log.

        `project`: a directory other than the process's.
        """
        session = opencode.limited(f"ses_{number}")
        place = self.home.data_dir / "storage" / "session" / "project" / f"{session.id}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        directory = str(self.home.root / project) if project else opencode.directory
        info = {"id": session.id, "directory": directory, "version": "1.18.33"}
        place.write_text(json.dumps(info | {"time": {"updated": int(time.time() * 1000)}}))
        line = refusal(number, time.time()).replace(b"Too Many Requests", b"Too Many Requests, try again in 9000s")
        with self.log.open("ab") as file:
            file.write(line)
        return session


@contextmanager
def process_named(name: str, cwd: Path, home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that the process table shows under this name."""
    (cwd / name).symlink_to(Path(sys.executable).resolve())
    running = subprocess.Popen([str(cwd / name), "-c", "import time; time.sleep(600)"], cwd=cwd, env=home.env(cwd))
    try:
        yield running
    finally:
        running.kill()
        running.wait(10)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with ExitStack() as stack:
        # pytest's own directory with -n is too long for a socket, whose path has at most 107 characters.
        root = stack.enter_context(TemporaryDirectory(prefix="ow-"))
        yield Machine(Path(root), stack)


def test_doors_that_misbehave_at_every_step_of_a_move(machine: Machine, counted: Count) -> None:
    """Seven misbehaviours at once, for single sessions and for all, over ports and over the plugin's sockets."""
    good = machine.opencode("good")
    plans: list[tuple[FakeOpenCode, str, str, Misbehaviour]] = []
    for index, (name, misbehave) in enumerate(ALL.items()):
        in_sessions = machine.opencode(f"{name} in a session", unix=index % 2 == 0)
        everywhere = machine.opencode(f"{name} everywhere", unix=index % 2 == 1)
        plans += [(in_sessions, step, name, misbehave) for step in ("look", "abort", "prompt")]
        plans += [(everywhere, "everywhere", name, misbehave)]
    daemon = machine.start()
    process = psutil.Process(daemon.pid)
    memory, fds = process.memory_info().rss, process.num_fds()
    bad: dict[str, FakeSession] = {}
    for number, (opencode, step, name, misbehave) in enumerate(plans, 100):
        session = bad[f"{name}: {step}"] = machine.limited(opencode, number)
        if step == "everywhere":
            opencode.bad = dict.fromkeys(("list", "models", "events"), misbehave)
        else:
            session.bad = {step: misbehave}
    time.sleep(1.0)  # time for a request to every endpoint
    began = time.monotonic()
    fine = [machine.limited(good, number) for number in range(4)]
    wait_until(
        lambda: all(session.answered for session in fine), IN_TIME, why="those behind the good endpoint are moved"
    )
    print(f"moved beside {len(bad)} sessions in trouble after {time.monotonic() - began:.1f} s")
    soon = [name for name in bad if name.startswith(("fails", "raves", "breaks off"))]
    wait_until(lambda: all(outcomes(daemon, bad[name]) for name in soon), why="what became of them is told")
    told_truly(daemon, [*fine, *bad.values()])
    assert process.memory_info().rss - memory < 200 << 20
    for opencode, *_ in plans:
        opencode.bad = {}
        opencode.closing.set()  # end all requests that hang
    for session in bad.values():
        session.bad = {}
    wait_until(lambda: all(session.answered for session in bad.values()), 150, why="all are moved in the end")
    wait_until(lambda: len(daemon.journal("moved")) == len(bad) + len(fine), why="and told")
    told_truly(daemon, [*fine, *bad.values()])
    counted("faults survived", len(bad))
    assert [(session.runs, session.spoilt) for session in bad.values()] == [(1, 0)] * len(bad)
    assert process.num_fds() - fds < 40
    assert daemon.stop() == 0


def test_fifty_opencodes_that_hang_delay_no_move_of_another(machine: Machine, counted: Count) -> None:
    """Any of them may have the session.

    Asked one after the other they took more than 120 s; at the same time, 0.5 s.
    """
    good = machine.opencode("good")
    with hung(machine.home, machine.daemon, 50, answers=True) as beside:
        daemon = machine.start()
        beside.stop_when_asked()
        sessions = [machine.limited(good, number, "elsewhere") for number in range(4)]
        wait_until(lambda: all(session.answered for session in sessions), IN_TIME, why="they are moved all the same")
        assert [(session.runs, session.spoilt) for session in sessions] == [(1, 0)] * 4
        wait_until(lambda: len(daemon.journal("moved")) == 4, why="and told")
        counted("faults survived", 50)
        assert daemon.stop() == 0


def test_an_opencode_that_is_killed_at_every_step_of_a_move(machine: Machine, counted: Count) -> None:
    """Each fake ends at another request of its move, before or after it carries the request out, without an answer."""
    untouched = machine.opencode("untouched")
    mortal: list[tuple[int | str, bool]] = [(request, False) for request in range(1, REQUESTS)]
    mortal += [(deed, done) for deed in DEEDS for done in (False, True)]
    mortal += [("models", False)]  # sent beside the other requests, so its number varies
    died: set[tuple[str, bool]] = set()
    doomed = [machine.opencode(f"dies-{step}-{done}", unix=index % 2 == 0) for index, (step, done) in enumerate(mortal)]
    daemon = machine.start()
    for number, (opencode, (step, done)) in enumerate(zip(doomed, mortal, strict=True), 100):
        dies_at(opencode, step, done, died)
        machine.limited(opencode, number)
    fine = machine.limited(untouched, 1)
    wait_until(lambda: fine.answered, IN_TIME, why="the one that lives is moved")
    victims = [session for opencode in doomed for session in opencode.sessions.values()]
    wait_until(lambda: all(outcomes(daemon, victim) for victim in victims), 120, why="what became of them is told")
    told_truly(daemon, [fine, *victims])
    counted("faults survived", len(victims))
    assert {(step, False) for step in ("list", "look", "models")} <= died
    assert {(step, done) for step in ("abort", "prompt") for done in (False, True)} <= died
    assert fine.runs == 1
    assert max(victim.runs for victim in victims) == 1
    assert min(victim.runs for victim in victims) == 0, "some died before their prompt was run"
    assert "moved" not in [end for victim in victims if not victim.runs for end in outcomes(daemon, victim)]


def test_a_move_under_way_is_made_before_the_daemon_ends(machine: Machine) -> None:
    """Otherwise the turn would stay stopped until the next start; and the daemon must end within five seconds."""
    opencode, hung = machine.opencode("slow"), machine.opencode("hung")
    aborted = threading.Event()
    opencode.seen = lambda step, session: aborted.set() if step == "abort" else None
    opencode.bad = {"abort": dawdle}
    hung.bad = {"list": hang}
    daemon = machine.start()
    machine.limited(hung, 2)
    session = machine.limited(opencode, 1)
    assert aborted.wait(IN_TIME)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 8
    assert (session.runs, session.spoilt) == (1, 0)
    daemon.start()
    (moved,) = daemon.wait_journal("moved")
    assert (moved["session"], len(daemon.journal("claim"))) == (session.id, 1)


REQUESTS = 24
"""Number of requests in a move: the abort is about the twelfth, and the move ends at the last or soon after."""
DEEDS = {"abort": "abort", "prompt": "prompt_async"}


def dies_at(opencode: FakeOpenCode, when: int | str, done: bool, died: set[tuple[str, bool]]) -> None:
    """End the fake at the nth request, or at the first of this step, before or after it carries the request out."""
    requests = count(1)

    def seen(what: str, session: FakeSession | None) -> None:
        if what in ("probe", "events") or opencode.dead or when not in (what, next(requests)):
            return
        if done and session is not None:
            opencode.post(f"/session/{session.id}/{DEEDS[what]}", BODY)
        died.add((what, done))
        opencode.die()

    opencode.seen = seen


BODY = {"model": {"providerID": "mock2", "modelID": "fallback"}}


ENDS = {"moved", "already", "failed", "unreachable"}


def outcomes(daemon: Daemon, session: FakeSession) -> list[str]:
    """Return the result of the move by the journal."""
    return [entry["what"] for entry in daemon.journal() if entry.get("session") == session.id and entry["what"] in ENDS]


def told_truly(daemon: Daemon, sessions: list[FakeSession]) -> None:
    """A session is reported as moved if, and only if, its prompt was run; the printed text is harmless."""
    for session in sessions:
        if "moved" in outcomes(daemon, session):
            assert session.runs == 1, session
    shown = daemon.ocwatch("status")
    assert shown.returncode == 0
    assert all(char.isprintable() or char == "\n" for char in shown.stdout)
