"""Measure the time from an append to a log to its effect, in milliseconds: median, p99 and worst of 1,000 limits.

    python bench/latency.py [--events 1000]

"detected" ends when the daemon's watcher and tails, run in this process, have turned the line into a LimitEvent.
"durable" ends when the real daemon's blacklist on disk contains the limit. The same run measures tools that only find
the line: watchdog with one read of the file, and `tail -F | grep`. The log is quiet, grows by 10,000 other lines a
second, or is rotated before every limit (rename and create, copy and truncate, remove and create). A separate process
appends the lines and writes the monotonic clock into each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocwatchd.config.active_rules import builtin
from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.daemon.loop import POLL_INTERVAL
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.logs.watcher import Waker
from tests.support.daemon import Daemon
from tests.support.opencode import Home


def main() -> None:
    """Print the table; with `--append`, which this script passes to itself, write the log instead."""
    parser = argparse.ArgumentParser(description="Milliseconds from an append to its effect.")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--append", nargs=4, metavar=("LOG", "PAUSE", "RATE", "ROTATE"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.append:
        path, pause, rate, rotate = wanted.append
        append(Path(path), wanted.events, float(pause), int(rate), rotate)
        return
    print(f"{'ms':32} {'p50':>8} {'p99':>8} {'worst':>8} {'lost':>6}   of {wanted.events}")
    for label, rate in (("quiet", 0), ("at 10,000 lines/s", 10_000)):
        show(f"watchdog alone, {label}", by_watchdog(wanted.events, rate), wanted.events)
        show(f"tail -F | grep, {label}", by_grep(wanted.events, rate), wanted.events)
    few = max(wanted.events // 10, 1)
    for label, events, rate, rotate in (
        ("quiet", wanted.events, 0, ""),
        ("at 10,000 lines/s", wanted.events, 10_000, ""),
        ("rename and create", few, 0, "rename"),
        ("copy and truncate", few, 0, "copy"),
        ("remove and create", few, 0, "remove"),
    ):
        show(f"detected, {label}", detected(events, rate, rotate), events)
    for label, rate in (("quiet", 0), ("at 10,000 lines/s", 10_000)):
        show(f"durable, {label}", durable(wanted.events, rate), wanted.events)


def show(label: str, taken: list[float], events: int) -> None:
    """Print one row."""
    p99 = statistics.quantiles(taken, n=100, method="inclusive")[98] if len(taken) > 1 else float("nan")
    print(
        f"{label:32} {statistics.median(taken):8.2f} {p99:8.2f} {max(taken):8.2f} {events - len(taken):6}", flush=True
    )


# ---- the writer


def append(path: Path, events: int, pause: float, rate: int, rotate: str) -> None:
    """Append a refused attempt every `pause` seconds, and `rate` other lines a second between them."""
    other = b"timestamp=2026-11-22T10:00:00.000Z level=INFO run=0a1b2c3d message=loading path=/home/dev/429.json\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, other)  # OpenCode writes such lines long before its first refused attempt
    time.sleep(0.5)
    for number in range(events):
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            if rate:
                os.write(fd, other * (rate // 1000))
            time.sleep(min(0.001, left) if rate else left)
        if rotate:
            fd = rotated(path, fd, rotate)
        os.write(fd, refusal(number))


def rotated(path: Path, fd: int, how: str) -> int:
    """Rotate the log and return the descriptor to continue with."""
    if how == "copy":
        shutil.copyfile(path, path.with_suffix(".1"))
        os.truncate(path, 0)
        return fd
    os.close(fd)
    if how == "rename":
        path.replace(path.with_suffix(".1"))
    else:
        path.unlink()
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def refusal(number: int) -> bytes:
    """Return a 429 whose session name is the time. Each has a later reset time, so each changes the blacklist."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        f'timestamp={now} level=ERROR run=0a1b2c3d message="stream error" providerID=mock modelID=m{number % 8}'
        f" session.id=ses_{time.monotonic_ns()} small=false agent=build mode=primary"
        f' error.error="AI_APICallError: Rate limit reached. Please try again in {1000 + 10 * number}s"\n'
    ).encode()


@contextlib.contextmanager
def writing(log: Path, events: int, pause: float, rate: int, rotate: str):
    """Run the writer in a separate process."""
    arguments = ["--events", str(events), "--append", str(log), str(pause), str(rate), rotate]
    with subprocess.Popen([sys.executable, __file__, *arguments]) as process:
        yield process


# ---- the peers: they find the line but do not parse it


def by_watchdog(events: int, rate: int) -> list[float]:
    """Return the milliseconds until a handler of watchdog has read each line."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch, contextlib.ExitStack() as held:
        log = Path(scratch) / "opencode.log"
        log.touch()
        file = held.enter_context(log.open("rb", buffering=0))
        taken: list[float] = []

        def read(_: FileSystemEvent) -> None:
            while chunk := file.read(1 << 20):
                taken.extend(_since(chunk))

        handler, observer = FileSystemEventHandler(), Observer()
        handler.on_modified = read
        observer.schedule(handler, scratch)
        observer.start()
        with writing(log, events, 0.02, rate, "") as writer:
            writer.wait()
            time.sleep(1.0)
        observer.stop()
        observer.join()
        return taken


def by_grep(events: int, rate: int) -> list[float]:
    """Return the milliseconds until each line has come through the pipe."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        log = Path(scratch) / "opencode.log"
        log.touch()
        follow = subprocess.Popen(
            ["tail", "-n", "0", "-F", str(log)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        words = ["grep", "--line-buffered", 'message="stream error"']
        grep = subprocess.Popen(words, stdin=follow.stdout, stdout=subprocess.PIPE)
        assert grep.stdout is not None
        taken: list[float] = []
        with writing(log, events, 0.02, rate, "") as writer:
            reader = threading.Thread(
                target=lambda: taken.extend(each for line in grep.stdout for each in _since(line))
            )
            reader.start()
            writer.wait()
            time.sleep(1.5)
        follow.terminate()
        follow.wait()
        grep.wait()
        reader.join()
        return taken


def _since(data: bytes) -> list[float]:
    now = time.monotonic_ns()
    return [(now - int(name)) / 1e6 for name in re.findall(rb" session\.id=ses_(\d+) ", data)]


# ---- the watchers


def detected(events: int, rate: int, rotate: str) -> list[float]:
    """Return the milliseconds until each refused attempt is a LimitEvent."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        log = Path(scratch) / "opencode.log"
        log.touch()
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        waker = Waker([log.parent], lambda: bell.put(None), print)
        follower = LogDirectories([log.parent], builtin())
        waker.start()
        follower.poll(time.time())
        follower.prepare()
        taken: list[float] = []
        with writing(log, events, 0.02 if not rotate else 0.1, rate, rotate) as writer:
            _follow(follower, waker, bell, taken, lambda: len(taken) >= events or writer.poll() is not None)
            _follow(follower, waker, bell, taken, _for(1.5))
        waker.stop()
        follower.close()
        return taken


def _follow(
    follower: LogDirectories,
    waker: Waker,
    bell: queue.SimpleQueue[None],
    taken: list[float],
    done: Callable[[], bool],
) -> None:
    while not done():
        with contextlib.suppress(queue.Empty):
            bell.get(timeout=POLL_INTERVAL)
            while True:
                bell.get_nowait()
        events = [sighting.seen for sighting in follower.poll(time.time(), waker.hints())]
        now = time.monotonic_ns()
        names = [event.session or "" for event in events if isinstance(event, LimitEvent)]
        taken.extend((now - int(name[4:])) / 1e6 for name in names)


def _for(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def durable(events: int, rate: int) -> list[float]:
    """Return the milliseconds until each limit is in the daemon's blacklist on disk; it idles between two limits."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        home = Home(Path(scratch), "http://127.0.0.1:9")
        log = home.root / ".local/share/opencode/log/opencode.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        taken: list[float] = []
        with contextlib.redirect_stdout(io.StringIO()), Daemon(home, chain={}) as daemon:
            blacklist = daemon.state / "blacklist.json"
            seen = known = 0
            with writing(log, events, 0.12, rate, "") as writer:
                while len(taken) < events and writer.poll() is None:
                    with contextlib.suppress(OSError):
                        mark = blacklist.stat().st_mtime_ns
                        if mark != seen:
                            seen, now = mark, time.monotonic_ns()
                            newest = _newest(blacklist)
                            if newest != known:  # otherwise only the fallbacks were written, after the limit itself
                                known = newest
                                taken.append((now - newest) / 1e6)
                    time.sleep(0.0002)
        return taken


def _newest(blacklist: Path) -> int:
    """Return when the latest limit in the blacklist was appended (monotonic ns, from its session's name)."""
    models = json.loads(blacklist.read_bytes())["models"].values()
    return max(int(entry["session"][4:]) for entry in models)


if __name__ == "__main__":
    main()
