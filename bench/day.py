"""Check that the daemon's memory, descriptors and threads do not grow over a day of logs, played back in a minute or
two.

    python bench/day.py [--hours 24] [--refusals 120] [--lines 5000]

The real daemon follows its log directory. Every "hour" adds refused attempts of new sessions (20 models; a third of the
messages match no rule), the start and end of their turns, other lines, a new log file of the old format, and a rotation
of the shared log: renamed, copied and truncated, or removed, in turn. Old files of the old format are deleted. An hour
ends when its last refused attempt is in the journal. Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.process import cpu_seconds, status
from tests.integration.logtext import other, stamp
from tests.support.daemon import Daemon
from tests.support.opencode import Home
from tests.support.processes import wait_until

WORDS = ("Rate limit reached. Please try again in 600s", "Overloaded", "The flux has been depleted {}")


def turn(number: int) -> bytes:
    """Return the records of one session that is created, is refused and ends. Its model is one of twenty."""
    now, session = stamp(time.time()), f"ses_{number}"
    tags = f"providerID=mock modelID=m{number % 20} session.id={session} small=false agent=build mode=primary"
    records = (
        f"level=INFO run=0a1b2c3d message=created id={session} title=Untitled",
        f"level=INFO run=0a1b2c3d message=stream {tags}",
        f'level=ERROR run=0a1b2c3d message="stream error" {tags}'
        f' error.error="AI_APICallError: {WORDS[number % 3].format(number)}"',
        f'level=INFO run=0a1b2c3d message="exiting loop" session.id={session}',
    )
    return "".join(f"timestamp={now} {record}\n" for record in records).encode()


def rotate(log: Path, hour: int) -> None:
    """Rotate the log in one of three ways, by the hour; the file of the previous rotation is lost."""
    old = log.with_suffix(".log.1")
    match hour % 3:
        case 0:
            log.replace(old)
            log.touch()
        case 1:
            shutil.copyfile(log, old)
            os.truncate(log, 0)
        case _:
            log.unlink()
            log.touch()


def play(log: Path, daemon: Daemon, hour: int, wanted: argparse.Namespace) -> None:
    """Write one hour of logs and wait until the daemon has read them."""
    first = hour * wanted.refusals
    with log.open("ab") as file:
        for number in range(first, first + wanted.refusals):
            file.write(other(number) * (wanted.lines // wanted.refusals) + turn(number))
            file.flush()
            time.sleep(0.002)
    last = next(f"ses_{n}" for n in range(first + wanted.refusals - 1, first, -1) if n % 3 == 0)
    wait_until(lambda: any(entry["session"] == last for entry in daemon.journal("limit")), 60, why=f"{last}'s refusal")
    old = log.with_name(f"2026-11-22T{hour:06}.log")
    old.write_bytes(b"INFO  2026-11-22T10:00:00 +1ms service=default version=1.2.27 args=[] opencode\n" * 2000)
    log.with_name(f"2026-11-22T{hour - 10:06}.log").unlink(missing_ok=True)
    rotate(log, hour)


def main() -> None:
    """Print one row for hours 0, 1 and 2, and then for every fourth hour."""
    parser = argparse.ArgumentParser(description="A day of logs: memory, descriptors and threads of the daemon.")
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--refusals", type=int, default=120)
    parser.add_argument("--lines", type=int, default=5000)
    wanted = parser.parse_args()
    print(f"{'hour':>5} {'RSS MiB':>8} {'peak':>8} {'fds':>5} {'threads':>8} {'CPU s':>7} {'state kB':>9}")
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        home = Home(Path(scratch), "http://127.0.0.1:9")
        home.log_dir.mkdir(parents=True)
        log = home.log_dir / "opencode.log"
        log.touch()
        with contextlib.redirect_stdout(io.StringIO()) as said, Daemon(home, chain={}) as daemon:
            for hour in range(wanted.hours + 1):
                if hour:
                    play(log, daemon, hour, wanted)
                rows = status(daemon.pid)
                rss, peak = (int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
                descriptors = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
                kept = sum(path.stat().st_size for path in daemon.state.rglob("*") if path.is_file()) / 1000
                row = f"{hour:5} {rss:8.1f} {peak:8.1f} {descriptors:5} {rows['Threads']:>8}"
                if hour in (0, 1, 2) or hour % 4 == 0:
                    print(f"{row} {cpu_seconds(daemon.pid):7.2f} {kept:9.0f}", file=sys.__stdout__, flush=True)
        assert "Traceback" not in said.getvalue(), said.getvalue()


if __name__ == "__main__":
    main()
