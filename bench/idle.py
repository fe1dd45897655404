"""Measure the cost of an idle daemon: CPU seconds, wake-ups, memory and threads, by the number of log files.

    python bench/idle.py [--seconds 60] [--files 1,100,1000]

Each daemon has a private HOME with that many old logs. After some time to settle, it is observed only through /proc
(Linux). CPU seconds are user + system of all threads, because wall time would depend on the load of the machine. If
mtail is installed, it follows the same number of logs afterwards, for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.process import Thread, status, threads
from tests.support.daemon import Daemon
from tests.support.opencode import Home

SETTLE = 25.0
"""Time, in seconds, to wait after the first heartbeat: reading all files for the first time is not idling, and threads
end after 20 s without work.
"""
RECORD = b"timestamp=2026-11-22T10:08:53.256Z level=INFO run=abc message=stream service=llm session.id=ses_1\n"


def measure(pid: int, seconds: float) -> str:
    """Return one row of the table for an idle process."""
    before = threads(pid)
    time.sleep(seconds)
    scale = 60 / seconds
    # By thread, because a thread that has ended in the meantime must not reduce the sum. Its CPU time is lost.
    spent = [(after, before.get(name, Thread())) for name, after in threads(pid).items()]
    cpu = sum(after.cpu - begun.cpu for after, begun in spent)
    switches = sum(after.sleeps - begun.sleeps for after, begun in spent)
    rows = status(pid)
    peak, now = (int(rows[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    return f"{cpu * scale:12.3f} {switches * scale:12.0f} {now:8.1f} {peak:8.1f} {rows['Threads']:>8}"


@contextlib.contextmanager
def home_with(files: int) -> Iterator[Home]:
    """Yield a HOME with this number of old logs. The newest log has just been written."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        home = Home(Path(scratch), "http://127.0.0.1:9")
        logs = home.root / ".local/share/opencode/log"
        logs.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            path = logs / f"2026-11-{number // 86400 + 1:02}T{number:06}.log"
            path.write_bytes(RECORD * 20)
            age = 86400.0 * (files - number - 1)
            os.utime(path, (time.time() - age,) * 2)
        yield home


def daemon_row(files: int, seconds: float) -> str:
    """Return the row of the daemon."""
    with home_with(files) as home, contextlib.redirect_stdout(io.StringIO()), Daemon(home) as daemon:
        time.sleep(SETTLE)
        return measure(daemon.pid, seconds)


def mtail_row(files: int, seconds: float) -> str | None:
    """Return the row of google/mtail with a program of one rule, or None if it is not installed."""
    program = shutil.which("mtail")
    if program is None:
        return None
    with home_with(files) as home:
        programs = home.root / "progs"
        programs.mkdir()
        (programs / "limits.mtail").write_text('counter limits\n/message="stream error"/ {\n  limits++\n}\n')
        command = [program, "--progs", str(programs), "--logs", str(home.root / ".local/share/opencode/log/*.log")]
        command += ["--address", "127.0.0.1", "--port", "0", "--logtostderr"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            time.sleep(SETTLE)
            row = measure(process.pid, seconds)
            process.terminate()
            return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="CPU seconds a minute of an idle daemon, by number of log files.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--files", default="1,100,1000")
    wanted = parser.parse_args()
    print(f"{'':10} {'files':>6} {'CPU s/min':>12} {'wake-ups/min':>12} {'RSS MiB':>8} {'peak':>8} {'threads':>8}")
    for files in map(int, wanted.files.split(",")):
        print(f"{'ocwatchd':10} {files:6} {daemon_row(files, wanted.seconds)}", flush=True)
        row = mtail_row(files, wanted.seconds)
        if row is not None:
            print(f"{'mtail':10} {files:6} {row}", flush=True)


if __name__ == "__main__":
    main()
