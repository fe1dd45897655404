"""Measure the start of a daemon with a long log: time until the end of the log is read, CPU time and memory.

    python bench/gigabyte.py [--mb 1000] [--per-gb 580]

Each format is measured without a cursor (the last MiB is read), and after a run that ended with nearly everything
unread (at most 256 MiB are read). `ocwatch classify --json` reads the same bytes in the same run. The first row is a
daemon that starts with a log of one line; its CPU seconds are included in all rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import catchup, sample
from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"new": "opencode.log", "old": "2026-11-22T153825.log"}
READ_MOST = 256 << 20
"""The value of `logs.tail.RESUME_CAP`, in bytes."""


def measure(title: str, daemon: Daemon, log: Path) -> None:
    """Start the daemon, wait until its cursor is at the end of the log, and print time, CPU time and memory."""
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        daemon.start()
    wait_until(lambda: offset(daemon) >= log.stat().st_size, 300, why="its end")
    took, process = time.monotonic() - begun, psutil.Process(daemon.pid)
    cpu, status = sum(process.cpu_times()[:2]), Path(f"/proc/{daemon.pid}/status").read_text()
    peak, now = (int(status.partition(name)[2].split()[0]) / 1024 for name in ("VmHWM:", "VmRSS:"))
    print(f"{title:44} {took:7.2f} {cpu:8.2f} {peak:7.1f} {now:7.1f}", flush=True)
    daemon.stop()


def offset(daemon: Daemon) -> int:
    """Return the offset at which the daemon would continue after a restart. The daemon writes it every two seconds."""
    with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
        files = json.loads((daemon.state / "cursors.json").read_bytes())["files"]
        return int(next(iter(files.values()))["offset"])
    return 0


def both_ways(kind: str, megabytes: int, per_gigabyte: int) -> None:
    """Measure one format: without a cursor, and with a cursor at the beginning."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as name:
        home = Home(Path(name), "http://127.0.0.1:9")
        home.log_dir.mkdir(parents=True)
        daemon, log = Daemon(home), home.log_dir / NAMES[kind]
        long = Path(name) / "long.log"
        sample.write(long, kind, megabytes, per_gigabyte)
        with long.open("rb") as source:
            log.write_bytes(source.readline())
        measure(f"{kind}: one line", daemon, log)
        cursors = daemon.state / "cursors.json"
        saved = cursors.read_bytes()
        cursors.unlink()
        with log.open("ab") as target, long.open("rb") as source:
            shutil.copyfileobj(source, target)
        long.unlink()
        measure(f"{kind}: {megabytes} MB, no cursor", daemon, log)
        cursors.write_bytes(saved)
        measure(f"{kind}: all unread, {min(log.stat().st_size, READ_MOST) / 1e6:.0f} MB read", daemon, log)
        tail = Path(name) / "tail.log"
        with log.open("rb") as source, tail.open("wb") as target:
            source.seek(max(log.stat().st_size - READ_MOST, 0))
            shutil.copyfileobj(source, target)
        command = [catchup.OCWATCH, "classify", "--json", str(tail)]
        cpu, peak = catchup.spent(command, catchup.home(Path(name), 0))
        print(f"{kind + ': ocwatch classify of the same':44} {'':7} {cpu:8.2f} {peak:7.1f}", flush=True)
        grep = ["grep", "-cE", catchup.EXPRESSION, str(tail)]
        cpu, peak = catchup.spent(grep, {"PATH": "/usr/bin:/bin"})
        print(f"{kind + ': grep -cE of the same':44} {'':7} {cpu:8.2f} {peak:7.1f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a long log costs a daemon that starts.")
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--per-gb", type=int, default=580)
    wanted = parser.parse_args()
    print(f"{'':44} {'s':>7} {'CPU s':>8} {'peak':>7} {'then':>7}  MiB")
    for kind in sample.KINDS:
        both_ways(kind, wanted.mb, wanted.per_gb)


if __name__ == "__main__":
    main()
