"""A log of 1 GB that is there when the daemon starts: how long until its end is known, and at what cost.

    python bench/gigabyte.py [MEGABYTES]

First without a cursor (the last MiB is read), then after a life that ended with everything still unread (at most
256 MiB are read).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.edges.logtext import other, refusal  # noqa: E402  (found only now)
from tests.support.daemon import Daemon  # noqa: E402
from tests.support.homes import Home  # noqa: E402
from tests.support.processes import wait_until  # noqa: E402


def measure(title: str, daemon: Daemon, number: int) -> None:
    """Start, wait for the last refusal of the log, and say what that took."""
    begun = time.monotonic()
    daemon.start()
    wait_until(lambda: any(e["session"] == f"ses_{number}" for e in daemon.journal("limit")), 300, why="its end")
    took, process = time.monotonic() - begun, psutil.Process(daemon.pid)
    cpu, high = sum(process.cpu_times()[:2]), Path(f"/proc/{daemon.pid}/status").read_text()
    peak = int(high.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"{title}: {took:.2f} s, {cpu:.2f} CPU s, peak {peak:.0f} MiB, {process.num_fds()} descriptors")
    daemon.stop()


def main() -> None:
    """Both ways to meet the log."""
    megabytes = int(sys.argv[1]) if sys.argv[1:] else 1000
    with tempfile.TemporaryDirectory(prefix="gigabyte-") as name:
        home = Home(Path(name), "http://127.0.0.1:9")
        home.log_dir.mkdir(parents=True)
        daemon, log = Daemon(home), home.log_dir / "opencode.log"
        log.write_bytes(refusal(1, time.time()))
        measure("an empty log", daemon, 1)
        block = other(1, time.time()) * (1_000_000 // len(other(1)))
        with log.open("ab") as file:
            for _ in range(megabytes):
                file.write(block)
            file.write(refusal(2, time.time()))
        cursors = daemon.state / "cursors.json"
        saved = cursors.read_bytes()
        cursors.unlink()
        measure(f"{megabytes} MB, no cursor", daemon, 2)
        with log.open("ab") as file:
            file.write(refusal(3, time.time()))
        cursors.write_bytes(saved)
        behind = log.stat().st_size - next(iter(json.loads(saved)["files"].values()))["offset"]
        measure(f"a cursor {behind / 1e6:.0f} MB behind", daemon, 3)


if __name__ == "__main__":
    main()
