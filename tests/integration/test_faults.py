"""Tests of every fault of a log, a disk, a clock or another process, with the daemon as a real process.

Long because one daemon lives through all faults.

Logs are written as by OpenCode 1.18. The daemon's journal has to contain each refused attempt once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests.conftest import Count
from tests.integration.logtext import other, refusal
from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.homes import Home
from tests.support.processes import free_port, wait_until

NUMBERS = count(1000)
MORTAL = (sys.executable, "-m", "tests.support.privileges")
ROOT = Path(__file__).resolve().parents[2]
MODEL = "mock/primary"


class Scene:
    """A private home with a log directory and the daemon that follows it, to which file modes apply."""

    def __init__(self, root: Path, *limits: str, **settings: object) -> None:
        self.home = Home(root, f"http://127.0.0.1:{free_port()}", environment={"PYTHONPATH": str(ROOT)})
        self.logs = self.home.log_dir
        self.daemon = Daemon(self.home, **settings)
        self.daemon.command = (*MORTAL, *limits, "--", *self.daemon.command)

    def write(self, path: Path, *numbers: int) -> list[int]:
        """Append one refused attempt for each number, and return the numbers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"".join(refusal(number, time.time()) for number in numbers))
        return list(numbers)

    def told(self) -> list[int]:
        """Return the refused attempts in the journal, in order."""
        sessions = [str(entry["session"]) for entry in self.daemon.journal("limit")]
        return [int(session.removeprefix("ses_")) for session in sessions]

    def expect(self, *numbers: int, timeout: float = 60.0) -> None:
        """Check that each of these is reported once and in this order, now or soon."""

        def mine() -> list[int]:
            return [number for number in self.told() if number in set(numbers)]

        wait_until(lambda: set(mine()) >= set(numbers), timeout, why=f"{numbers} in the journal, has {mine()}")
        assert mine() == list(numbers)

    def memory(self) -> int:
        """Return the daemon's largest size so far in kB (Linux)."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    def health(self) -> list[str]:
        return [str(line) for line in self.daemon.heartbeat().get("health", [])]


def fresh(number: int = 1) -> list[int]:
    return [next(NUMBERS) for _ in range(number)]


@pytest.fixture(autouse=True)
def _one_more(counted: Count) -> None:
    """Count each test of this module as a fault."""
    counted("faults survived", 1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One daemon for all faults of a single log."""
    scene = Scene(tmp_path_factory.mktemp("faults"))
    scene.logs.mkdir(parents=True)
    with scene.daemon:
        yield scene


@pytest.fixture
def log(shared: Scene) -> Path:
    """Return a new log that the daemon knows."""
    path = shared.logs / f"log-{next(NUMBERS)}.log"
    shared.expect(*shared.write(path, *fresh()))
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# ---- the file


def test_line_written_just_before_the_rename(shared: Scene, log: Path) -> None:
    last, first = fresh(2)
    with log.open("ab", buffering=0) as writer:
        writer.write(refusal(last, time.time()))
        log.rename(log.with_suffix(".log.1"))
    shared.write(log, first)
    shared.expect(last, first)


def test_late_write_to_the_renamed_file(shared: Scene, log: Path) -> None:
    first, late, later = fresh(3)
    with log.open("ab", buffering=0) as writer:
        log.rename(log.with_suffix(".log.1"))
        shared.expect(*shared.write(log, first))
        writer.write(refusal(late, time.time()))
        shared.expect(late)
        shared.write(log, later)
    shared.expect(first, late, later)


def test_truncated_and_refilled_larger(shared: Scene, log: Path) -> None:
    """If it happens between two polls, other tools see only 39 of 60 lines."""
    before, after = fresh(39), fresh(60)
    shared.write(log, *before)
    shared.expect(*before)
    os.kill(shared.daemon.pid, signal.SIGSTOP)
    os.truncate(log, 0)
    shared.write(log, *after)
    os.kill(shared.daemon.pid, signal.SIGCONT)
    shared.expect(*after)


def test_copytruncate(shared: Scene, log: Path) -> None:
    before, after = fresh(3), fresh(2)
    shared.write(log, *before)
    shared.expect(*before)
    log.with_suffix(".copy").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    shared.write(log, *after)
    shared.expect(*before, *after)


def test_torn_line_split_character_and_nul(shared: Scene, log: Path) -> None:
    (number,) = fresh()
    line = refusal(number, time.time()).replace(b"Requests", "Requests Ω\x00".encode())
    cut = line.index("Ω".encode()) + 1
    with log.open("ab", buffering=0) as writer:
        for part in (b"\x00\x00", line[:30], line[30:cut], line[cut:-1], b"\n"):
            settle(0.05)
            assert number not in shared.told()
            writer.write(part)
    shared.expect(number)


def test_invalid_utf8_then_crlf(shared: Scene, log: Path) -> None:
    first, second = fresh(2)
    with log.open("ab", buffering=0) as writer:
        writer.write(
            b"\xff\xfe\x80 level=ERROR \xc3\n" + refusal(first, time.time()).replace(b"Requests", b"Requests \xff\xfe")
        )
        writer.write(refusal(second, time.time())[:-1] + b"\r\n")
    shared.expect(first, second)


def test_a_50_mb_line_then_an_event(shared: Scene, log: Path) -> None:
    (number,) = fresh()
    before = shared.memory()
    with log.open("ab") as writer:
        for _ in range(50):
            writer.write(b"level=ERROR " * (1 << 16) + b"x" * (1 << 18))
        writer.write(b"\n" + refusal(number, time.time()))
    shared.expect(number)
    grown = shared.memory() - before
    print(f"50 MB line: {grown} kB more")
    assert grown < 30_000


def test_deleted_and_made_again_with_the_same_inode(shared: Scene, log: Path) -> None:
    after = fresh(3)
    log.unlink()
    shared.write(log, *after)
    shared.expect(*after)


@pytest.mark.parametrize("what", ["symlink", "directory", "pipe"])
def test_replaced_by_something_else(shared: Scene, log: Path, what: str, tmp_path: Path) -> None:
    during, after = fresh(2)
    log.unlink()
    if what == "symlink":
        target = tmp_path / "elsewhere.log"
        target.touch()
        log.symlink_to(target)
        shared.expect(*shared.write(target, during))
    else:
        log.mkdir() if what == "directory" else os.mkfifo(log)
        settle(1.2)  # it is checked, and neither opened nor waited for
    log.rmdir() if log.is_dir() else log.unlink()
    shared.write(log, after)
    shared.expect(after)


def test_permission_lost_and_regained(shared: Scene) -> None:
    log = shared.logs / f"log-{next(NUMBERS)}.log"
    first, second = fresh(2)
    aside = log.with_suffix(".new")
    with aside.open("ab", buffering=0) as writer:
        aside.chmod(0)
        aside.rename(log)
        writer.write(refusal(first, time.time()))
        wait_until(lambda: any(log.name in line for line in shared.health()), why="the trouble in the heartbeat")
        status = shared.daemon.ocwatch("status")
        assert "Permission denied" in status.stdout
        log.chmod(0o600)
        shared.expect(first)
        writer.write(refusal(second, time.time()))
    shared.expect(first, second)
    wait_until(lambda: not shared.health(), why="no trouble left")


# ---- the directory


def test_directory_missing_at_the_start_then_removed_and_made_again(scene: Scene) -> None:
    first, second, third = fresh(3)
    with scene.daemon:
        scene.write(scene.logs / "opencode.log", first)
        scene.expect(first)
        for number in (second, third):
            subprocess.run(["rm", "-rf", str(scene.logs)], check=True)
            settle(0.3)
            scene.write(scene.logs / "opencode.log", number)
            scene.expect(number)
        scene.expect(first, second, third)


def test_five_thousand_files_at_the_start(scene: Scene) -> None:
    scene.logs.mkdir(parents=True)
    old = time.time() - 7 * 86400
    names = [scene.logs / f"2026-01-01T{number:06d}.log" for number in range(5000)]
    for name in names:
        name.write_bytes(other(1))
        os.utime(name, (old, old))
    with scene.daemon:
        numbers = fresh(3)
        for name, number in zip((names[0], names[2500], names[-1]), numbers, strict=True):
            scene.expect(*scene.write(name, number))
        assert psutil.Process(scene.daemon.pid).num_fds() < 200
        assert scene.memory() < 90_000
        assert scene.told() == numbers
        print(f"5,000 files: {scene.memory()} kB")


@pytest.mark.parametrize(
    ("limit", "words"), [("--no-inotify", "no file-system events"), ("--few-watches", "max_user_watches")]
)
def test_the_inotify_limit_is_reached(tmp_path: Path, limit: str, words: str) -> None:
    scene = Scene(tmp_path, limit)
    scene.logs.mkdir(parents=True)
    with scene.daemon:
        numbers = fresh(3)
        for number in numbers:
            scene.expect(*scene.write(scene.logs / "opencode.log", number))
        wait_until(lambda: any(words in line for line in scene.health()), why="it is said")
        assert words in scene.daemon.ocwatch("status").stdout.replace("\n", " ")


def test_stopped_while_the_event_queue_overflows(scene: Scene) -> None:
    """The kernel keeps 16,384 events; while the process is stopped, far more happen."""
    scene.logs.mkdir(parents=True)
    log = scene.logs / "opencode.log"
    with scene.daemon:
        scene.expect(*scene.write(log, *fresh()))
        os.kill(scene.daemon.pid, signal.SIGSTOP)
        for number in range(9000):
            with (scene.logs / f"junk-{number % 50}").open("ab") as junk:
                junk.write(b"x")
        numbers = scene.write(log, *fresh(20))
        os.kill(scene.daemon.pid, signal.SIGCONT)
        scene.expect(*numbers)
        scene.expect(*scene.write(log, *fresh()))
        assert scene.daemon.ocwatch("status").returncode == 0


# ---- our own files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 192 kB at the daemon's state directory, where file systems may be mounted."""
    place = tmp_path / ".local" / "state" / "ocwatchd"
    place.mkdir(parents=True, mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k,mode=0700", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield place
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_state_directory_is_full_for_a_while(scene: Scene, small_disk: Path) -> None:
    scene.logs.mkdir(parents=True)
    first, second = fresh(2)
    ballast = small_disk / "ballast"
    with scene.daemon:
        fill(ballast, scene.daemon.pid)
        scene.write(scene.logs / "opencode.log", first)
        wait_until(lambda: "cannot be written" in scene.daemon.said() or not small_disk.is_mount(), why="it is said")
        assert scene.daemon.cooldown(MODEL) is None
        assert scene.daemon.process is not None and scene.daemon.process.poll() is None
        free(ballast, scene.daemon.pid)
        assert scene.daemon.wait_cooldown(MODEL)["session"] == f"ses_{first}"
        scene.expect(*scene.write(scene.logs / "opencode.log", second))
        wait_until(lambda: scene.daemon.heartbeat() and not scene.health(), why="all well again")
        assert scene.daemon.ocwatch("status").returncode == 0


def fill(ballast: Path, pid: int) -> None:
    """Make all writes fail: the disk is full, or (where none can be mounted) files may have no bytes."""
    if not ballast.parent.is_mount():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            return


def free(ballast: Path, pid: int) -> None:
    if ballast.parent.is_mount():
        ballast.unlink()
    else:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_the_state_directory_is_read_only_for_a_while(scene: Scene) -> None:
    scene.logs.mkdir(parents=True)
    first, second = fresh(2)
    with scene.daemon:
        scene.daemon.state.chmod(0o500)
        scene.write(scene.logs / "opencode.log", first)
        wait_until(lambda: "cannot be written" in scene.daemon.said(), why="it is said")
        assert scene.daemon.said().count("blacklist.json cannot be written") <= 2, "once, not at every attempt"
        scene.daemon.state.chmod(0o700)
        scene.daemon.wait_cooldown(MODEL)
        scene.expect(*scene.write(scene.logs / "opencode.log", second))
        wait_until(lambda: (scene.daemon.cooldown(MODEL) or {}).get("strikes") == 2, why="the second strike")


SOUND = {
    "version": 1,
    "models": {"old/model": {"kind": "quota", "until": "2099-01-01T00:00:00Z", "future_field": [1]}},
}


def corrupt(path: Path) -> None:
    path.write_text('{"version": 1, "models": {"a/b": {"until"')


def truncated(path: Path) -> None:
    path.write_text(json.dumps(SOUND)[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def symlink(path: Path) -> None:
    target = path.with_name("precious.json")
    target.write_text(json.dumps(SOUND))
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def newer(path: Path) -> None:
    path.write_text(json.dumps(SOUND | {"version": 9}))


def foreign(path: Path) -> None:
    """Make another user's file (or, without root, one of ours that may not be opened)."""
    path.write_text(json.dumps(SOUND))
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


@pytest.mark.parametrize("damage", [corrupt, truncated, empty, symlink, newer, foreign])
def test_a_damaged_register(scene: Scene, damage: Callable[[Path], None]) -> None:
    """The file is moved aside or left as it is, never silently lost, and the daemon continues from memory."""
    scene.logs.mkdir(parents=True)
    path = scene.daemon.state / "blacklist.json"
    path.parent.mkdir(parents=True, mode=0o700)
    damage(path)
    before = path.read_bytes() if not path.is_symlink() else (path.parent / "precious.json").read_bytes()
    with scene.daemon:
        (number,) = scene.write(scene.logs / "opencode.log", *fresh())
        scene.expect(number)
        if damage in (newer, foreign):
            wait_until(lambda: scene.health(), why="it is said")
            assert path.read_bytes() == before
            return
        scene.daemon.wait_cooldown(MODEL)
        assert not path.is_symlink()
        (aside,) = path.parent.glob("blacklist.json.corrupt-*")
        kept = aside.read_bytes()
        assert kept == before
        wait_until(lambda: aside.name in scene.daemon.said(), why="where it was kept to be said")


def test_two_daemons(scene: Scene) -> None:
    with scene.daemon:
        command = [sys.executable, "-m", "ocwatchd"]
        second = subprocess.run(command, env=scene.home.env(), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert second.stderr == f"ocwatchd: ocwatchd is already running (pid {scene.daemon.pid}); see: ocwatch status\n"
        assert scene.daemon.heartbeat()["pid"] == scene.daemon.pid


# ---- time


@pytest.fixture
def stepped(scene: Scene) -> Iterator[Callable[[float], None]]:
    """Sets the clock of the scene's daemon."""
    yield from stepping(scene)


def stepping(scene: Scene, written: Callable[[float], str] | None = None) -> Iterator[Callable[[float], None]]:
    """Start the daemon with a clock that follows a file; return the function that sets it.

    `written`: for libfaketime.
    """
    offset = scene.home.root / "offset"
    if written is None:
        scene.daemon.command = (sys.executable, "-m", "tests.support.stepped", str(offset))
        scene.home.environment = {"PYTHONPATH": str(ROOT), "TZ": "Europe/Berlin"}

    def step(seconds: float) -> None:
        temporary = offset.with_suffix(".new")
        temporary.write_text((written or str)(seconds))
        temporary.rename(offset)

    step(0)
    scene.logs.mkdir(parents=True)
    with scene.daemon:
        yield step


HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, DAY, -DAY], ids=["+1h", "-1h", "+1d", "-1d"])
def test_the_clock_is_set(scene: Scene, stepped: Callable[[float], None], seconds: float) -> None:
    """The loop continues at once, and a cooldown ends at its time of day, whichever way the clock was set."""
    log = scene.logs / "opencode.log"
    scene.expect(*scene.write(log, *fresh()))
    until = epoch(scene.daemon.wait_cooldown(MODEL)["until"])
    beat = scene.daemon.heartbeat()["beat"]
    stepped(seconds)
    wait_until(lambda: scene.daemon.heartbeat().get("beat") != beat, 20, why="a beat by the new clock")
    (number,) = fresh()
    begun = time.monotonic()
    with log.open("ab") as file:
        file.write(refusal(number, time.time() + seconds))
    scene.expect(number)
    assert time.monotonic() - begun < 10
    entry = scene.daemon.wait_cooldown(MODEL)
    now = time.time() + seconds
    if seconds > 0:
        # The journal is written before the blacklist.
        wait_until(lambda: epoch(scene.daemon.wait_cooldown(MODEL)["until"]) > now, 20, why="a limit by the new clock")
        assert epoch(scene.daemon.wait_cooldown(MODEL)["until"]) < now + 3 * HOUR
    else:
        assert epoch(entry["until"]) >= until, "never shortened"
    assert scene.daemon.process is not None and scene.daemon.process.poll() is None


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture(params=["injected", "faketime"])
def wrong(request: pytest.FixtureRequest, scene: Scene) -> Iterator[Callable[[float], None]]:
    """Sets the clock of the scene's daemon; with libfaketime, if installed, below Python."""
    if request.param == "injected" or FAKETIME is None:
        yield from stepping(scene)
        return
    offset = scene.home.root / "offset"
    scene.home.environment = {
        "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    yield from stepping(scene, lambda seconds: f"{seconds:+.0f}")


@pytest.mark.parametrize("seconds", [3650 * DAY, -3650 * DAY, DAY], ids=["+10y", "-10y", "+1d"])
def test_the_clock_is_wrong_for_a_moment(scene: Scene, wrong: Callable[[float], None], seconds: float) -> None:
    """A running cooldown continues, and one that began at that moment does not last until the wrong year."""
    log = scene.logs / "opencode.log"
    before, during = fresh(2)
    log.write_bytes(
        refusal(before, time.time()).replace(b"Too Many Requests", b"Rate limit reached. Please try again in 7200s")
    )
    runs = scene.daemon.wait_cooldown(MODEL)
    wrong(seconds)
    wait_until(lambda: abs(epoch(scene.daemon.heartbeat()["beat"]) - time.time() - seconds) < 60, why="the wrong time")
    with log.open("ab") as file:
        file.write(refusal(during, time.time() + seconds).replace(b"modelID=primary", b"modelID=brief"))
    noted = scene.daemon.wait_cooldown("mock/brief")
    assert abs(epoch(noted["since"]) - time.time() - seconds) < 60
    wrong(0)

    def corrected() -> dict[str, object] | None:
        entry = scene.daemon.wait_cooldown("mock/brief")
        return entry if abs(epoch(entry["since"]) - time.time()) < 60 else None

    entry = wait_until(corrected, 30, why="the entry's right time")
    assert epoch(entry["until"]) - epoch(entry["since"]) == pytest.approx(60, abs=0.01)
    assert scene.daemon.wait_cooldown(MODEL) | {"target": None} == runs | {"target": None}
    listed = json.loads(scene.daemon.ocwatch("cooldowns", "--json").stdout)["cooldowns"]
    assert {MODEL, "mock/brief"} == {row["model"] for row in listed}
    assert all(row["remaining_seconds"] < 7200 for row in listed)


@pytest.mark.parametrize("change", [1806195600.0, 1824944400.0], ids=["begins", "ends"])
def test_summer_time(scene: Scene, stepped: Callable[[float], None], change: float) -> None:
    """Across changes of the local time (2027, in Berlin) a cooldown lasts as long as at any other hour."""
    change -= 30
    stepped(change - time.time())
    wait_until(lambda: abs(epoch(scene.daemon.heartbeat()["beat"]) - change) < 30, 20, why="the new time")
    (number,) = fresh()
    moment = change + 10
    with (scene.logs / "opencode.log").open("ab") as file:
        file.write(refusal(number, moment))
    scene.expect(number)
    entry = scene.daemon.wait_cooldown(MODEL)
    assert epoch(entry["until"]) - epoch(entry["since"]) == pytest.approx(60, abs=0.01)


def test_stopped_and_continued(scene: Scene) -> None:
    scene.logs.mkdir(parents=True)
    log = scene.logs / "opencode.log"
    with scene.daemon:
        scene.expect(*scene.write(log, *fresh()))
        os.kill(scene.daemon.pid, signal.SIGSTOP)
        wait_until(lambda: ocwatch(scene.home, "status").returncode == 3, 30, pause=1, why="its deafness shows")
        numbers = scene.write(log, *fresh(5))
        os.kill(scene.daemon.pid, signal.SIGCONT)
        scene.expect(*numbers)
        wait_until(lambda: ocwatch(scene.home, "status").returncode == 0, 30, why="it hears again")


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [
        ("Rate limit reached. Try again at 2020-01-01T00:00:00Z", 0.0, 6 * HOUR),
        ("Rate limit reached. Try again at 9999-12-31T23:59:59Z", 0.0, 31 * DAY),
        ("Rate limit reached. Please try again in 99999999999999s", 0.0, 31 * DAY),
        ("Rate limit reached. Please try again in -5s", 0.0, 6 * HOUR),
    ],
    ids=["past", "year 9999", "for ever", "negative"],
)
def test_a_reset_that_cannot_be_meant(shared: Scene, log: Path, words: str, least: float, most: float) -> None:
    (number,) = fresh()
    model = f"absurd{number}"
    line = refusal(number, time.time()).replace(b"Too Many Requests", words.encode())
    with log.open("ab") as file:
        file.write(line.replace(b"modelID=primary", f"modelID={model}".encode()))
    entry = shared.daemon.wait_cooldown(f"mock/{model}")
    rest = epoch(entry["until"]) - epoch(entry["since"])
    assert least < rest <= most + 1


def test_what_a_person_cleared_while_nobody_watched_stays_cleared(scene: Scene) -> None:
    log, (first, missed, later) = scene.logs / "opencode.log", fresh(3)
    with scene.daemon:
        scene.expect(*scene.write(log, first))
    scene.write(log, missed)
    assert scene.daemon.ocwatch("clear", MODEL).returncode == 0
    with scene.daemon:
        scene.write(log.with_name("other.log"), later)
        assert scene.daemon.wait_cooldown(MODEL)["session"] == f"ses_{later}"
        scene.expect(later)
        assert scene.told() == [first, later]
