"""Tests of the loop's other work: any failure there is reported once and counted, and ends nothing."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from ocwatchd.config import load
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.daemon import loop
from ocwatchd.daemon.faults import MAX_KINDS, SHOWN, Faults
from ocwatchd.daemon.loop import Daemon, Loop
from ocwatchd.daemon.sd_notify import ServiceNotifier
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.paths import Paths
from ocwatchd.state import cursors
from ocwatchd.state.blacklist import store as blacklist
from tests.integration.logtext import NOW, refusal, refused
from tests.integration.test_faults import Scene, fresh
from tests.support.daemon import ocwatch
from tests.support.processes import wait_until
from tests.support.rules import builtin

ODD = os.fsdecode(b"\xff\xc3(caf\xe9)")
"""A file name that is not UTF-8, because names are bytes."""


# ---- names


def test_a_log_whose_name_is_not_utf_8_is_followed_across_restarts(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    first, second, third = fresh(3)
    odd = scene.logs / f"{ODD}.log"
    with scene.daemon:
        scene.write(scene.logs / "opencode.log", first)
        scene.expect(first)
        scene.write(odd, second)
        scene.expect(first, second)
        wait_until(lambda: str(odd) in cursors.load(scene.daemon.state / "cursors.json")[0], 10, why="its cursor")
    scene.write(odd, third)
    with scene.daemon:
        scene.expect(first, second, third)
        assert scene.health() == []


def test_a_home_whose_name_is_not_utf_8(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run the daemon and every command that shows a path; their output has to be printable."""
    home = tmp_path_factory.mktemp("h") / ODD  # a short name, because of the sockets in it
    scene = Scene(home)
    (number,) = fresh()
    with scene.daemon:
        scene.write(scene.logs / f"{ODD}.log", number)
        scene.expect(number)
        for command in (
            *("status", "status --json", "cooldowns --json", "history", "history --json", "explain", "explain --json"),
            *("doctor", "doctor --json", "config show", "config show --json", "config init", "plugin install"),
            *("plugin status", f"report --out {home}/report.html", f"report --json --out {home}/report.json"),
            f"doctor --bundle {tmp_path}/bundle.tar.gz",
        ):
            done = ocwatch(scene.home, *command.split(" "))
            assert "Traceback" not in done.stdout + done.stderr, command
            assert done.returncode in (0, 1), (command, done.stderr)
        assert scene.health() == []
    (after,) = fresh()
    with scene.daemon:
        scene.write(scene.logs / f"{ODD}.log", after)
        scene.expect(number, after)


@pytest.mark.parametrize("directory", ["/tmp/half-\ud83d", f"/tmp/{'x' * 300}", f"/tmp/{ODD}", "/dev/null", "/proc/1"])
def test_a_configured_directory_that_cannot_be_one(tmp_path: Path, directory: str) -> None:
    scene = Scene(tmp_path, logs={"directories": [directory]})
    (number,) = fresh()
    with scene.daemon:
        scene.write(scene.logs / "opencode.log", number)
        scene.expect(number)
        assert not any("internal" in line for line in scene.health())


# ---- unusual files of our own


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[" * 5000, b"9" * 5000, b'{"version": 1e400}', b"\xff\x00"),
        b'{"version": 1, "files": {"\\ud83d": 1}, "models": {"a/\\ud83d": {}}, "sessions": {"\\ud83d": {}}}',
        b'{"version": 1, "models": {}, "counted": {"logs": {"1:2": {"offset": 5, "time": "0001-01-01T00:00+23:59"}}}}',
    ],
    ids=["empty", "deep", "long number", "infinite", "no text", "half characters", "beyond the calendar"],
)
def test_what_stands_in_our_files_ends_nothing(home: Paths, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """One contains a time that can be read but not written: the blacklist was never written again."""
    for name in ("cursors", "blacklist", "heartbeat", "moved", "prices", "budget", "forecasts", "journal"):
        getattr(home, name).write_bytes(content)
    home.facts.mkdir()
    (home.facts / "1.jsonl").write_bytes(content + b"\n")
    (home.log_dir / "opencode.log").write_bytes(refusal(1, time.time()))
    live(home, lambda: wait_until(lambda: "mock/primary" in cooling(home), 20, why="the cooldown"))
    assert "internal fault" not in capsys.readouterr().err


# ---- faults inside the daemon


class Spoilt(Loop):
    """A loop in which each method of every part fails for one round, one after the other."""

    PARTS = (
        *("_live", "_engine", "_finder", "_executor", "_writer", "_journal", "_opencode", "_health", "_counted"),
        *("_usage_meter", "_logs", "_facts", "_waker", "_timeline"),
    )
    KEPT = ("_executor.do", "_logs.close", "_waker.stop", "_finder.close")
    """Methods that the end needs, or by which the test observes the rounds."""

    def start(self) -> None:
        super().start()
        rounds = self._service_notifier
        assert isinstance(rounds, Rounds)
        rounds.methods = [
            (getattr(self, part), f"{part}.{name}")
            for part in self.PARTS
            for name, method in inspect.getmembers(type(getattr(self, part)), callable)
            if not name.startswith("_") and f"{part}.{name}" not in self.KEPT
        ]


class Rounds(ServiceNotifier):
    """Count the rounds; each makes another method fail, and restores the one before."""

    def __init__(self) -> None:
        super().__init__({})
        self.methods: list[tuple[object, str]] = []
        self.spoilt: list[str] = []
        self.done = threading.Event()
        self._mend: Callable[[], None] = lambda: None

    def feed_watchdog(self, now: float) -> None:
        super().feed_watchdog(now)
        self._mend()
        self._mend = lambda: None
        if not self.methods:
            self.done.set()
            return
        owner, place = self.methods.pop(0)
        name = place.partition(".")[2]

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(place)

        setattr(owner, name, fail)
        self._mend = lambda: delattr(owner, name)
        self.spoilt.append(place)


def test_no_part_that_fails_ends_the_loop(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run all the housekeeping. A method that failed for a round works again afterwards."""
    for name in ("BLACKLIST_INTERVAL", "POLL_INTERVAL", "BEAT_INTERVAL", "FAULT_PAUSE", "SEARCH_INTERVAL"):
        monkeypatch.setattr(loop, name, 0.001)
    log = home.log_dir / "opencode.log"
    log.write_bytes(refusal(1, time.time()))
    monkeypatch.setattr(loop, "Loop", Spoilt)
    rounds = Rounds()
    daemon = Daemon(home, load(home), service_notifier=rounds)

    def check() -> None:
        wait_until(rounds.done.is_set, 60, why="the end of the walk")
        with log.open("ab") as file:
            file.write(refusal(2, time.time()))
        wait_until(lambda: b'"ses_2"' in home.journal.read_bytes(), 20, why="the refusal after all of it")
        wait_until(lambda: str(log) in cursors.load(home.cursors)[0], 20, why="its cursor")

    live(home, check, daemon)
    said = [line for line in capsys.readouterr().err.splitlines() if "internal fault" in line]
    failed = {part for part in rounds.spoilt if any(f"RuntimeError: {part};" in line for line in said)}
    assert len(failed) > 12, failed
    assert len(said) == len(set(said)), "each is said once"


def test_a_fault_is_said_once_and_counted() -> None:
    said: list[str] = []
    now = [NOW]
    faults = Faults(said.append, lambda: now[0])

    def fails(words: str) -> None:
        with faults.survived("writing cursors"):
            raise TypeError(words)

    for _ in range(3):
        fails("str is not valid UTF-8: surrogates not allowed")
    (line,) = said
    assert "internal fault in writing cursors" in line
    assert "TypeError: str is not valid UTF-8" in line
    assert faults.health() == [f"{line.removesuffix('; ocwatchd keeps running')}, 3 times"]
    assert faults.count == 3
    now[0] += SHOWN + 1
    assert faults.health() == []
    for number in range(2 * MAX_KINDS):
        with faults.survived(f"place {number}"):
            raise ValueError("x" * 5000)
    assert len(said) == MAX_KINDS
    assert max(map(len, said)) < 400


def test_what_a_fault_quotes_is_no_secret() -> None:
    said: list[str] = []
    with Faults(said.append, lambda: NOW).survived("asking"):
        raise ValueError("bad header Authorization: Bearer sk-ant-REDACTED")
    assert "sk-ant" not in said[0]


def test_a_thread_that_fails_is_counted(home: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(home, load(home))

    def check() -> None:
        wait_until(home.heartbeat.exists, 20, why="the heartbeat")
        thread = threading.Thread(target=lambda: 1 // 0, name="ears 127.0.0.1:4096")
        thread.start()
        thread.join()

    live(home, check, daemon)
    assert "internal fault in thread" in capsys.readouterr().err


def test_a_log_that_cannot_be_read_for_a_reason_of_ours_is_followed_from_its_end(tmp_path: Path) -> None:
    """Other sessions are not affected, and it fails once."""

    class Rules:
        def classify(self, details: ErrorDetails) -> object:
            if "boom" in str(details):
                raise RecursionError("too deep")
            return builtin().classify(details)

        def prepare(self) -> None:
            pass

    told: list[str] = []
    rules = cast(RuleSet, Rules())
    logs = LogDirectories([tmp_path], rules, on_fault=lambda where, fault: told.append(f"{where}: {fault}"))
    bad, good = tmp_path / "bad.log", tmp_path / "good.log"
    bad.write_bytes(refusal(1, NOW).replace(b"Too Many", b"boom Too Many"))
    good.write_bytes(refusal(2, NOW))
    assert refused(logs.poll(NOW)) == [2]
    assert told == [f"reading {bad}: too deep"]
    with bad.open("ab") as file:
        file.write(refusal(3, NOW + 5))
    assert refused(logs.poll(NOW + 5)) == [3]
    assert refused(logs.poll(NOW + 6)) == []
    assert len(told) == 1
    logs.close()


# ---- helpers


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Return the paths of a home with a configuration, a log directory and an empty state directory."""
    scene = Scene(tmp_path)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "OPENCODE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(scene.home.root))
    paths = Paths.from_env()
    paths.log_dir.mkdir(parents=True)
    paths.state_dir.mkdir(parents=True, mode=0o700)
    return paths


def cooling(home: Paths) -> list[str]:
    return [str(entry.model) for entry in blacklist.read(home.blacklist).entries()]


def live(home: Paths, check: Callable[[], object], daemon: Daemon | None = None) -> None:
    """Run a daemon in this thread until the check in another thread is done."""
    running = daemon or Daemon(home, load(home))
    failed: list[BaseException] = []

    def checked() -> None:
        try:
            check()
        except BaseException as fault:  # raised again below, so that the test sees it
            failed.append(fault)
        finally:
            running.stop()

    thread = threading.Thread(target=checked)
    thread.start()
    running.run()
    thread.join()
    if failed:
        raise failed[0]
