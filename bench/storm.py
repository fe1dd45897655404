"""Measure a storm of limits: the number classified per second, and the number of writes of the blacklist.

    python bench/storm.py [--events 100000]

"judged" measures only the classification of a message; "classified" measures the whole path from bytes to LimitEvents.
Both are in CPU time. "daemon" is the real one: the refused attempts of 40 sessions and 5 models are appended in one
burst, and the measurement ends when the daemon's cursor is at the end of the log.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.process import cpu_seconds
from ocwatchd.config.active_rules import builtin
from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.core.parsing.reader import Reading
from tests.support.daemon import Daemon
from tests.support.opencode import Home

CHUNK = 128 << 10


def storm(events: int) -> bytes:
    """Return the log lines of this number of refused attempts, all within the last second."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return b"".join(
        f'timestamp={now} level=ERROR run=0a1b2c3d message="stream error" providerID=mock modelID=m{number % 5}'
        f" session.id=ses_{number % 40} small=false agent=build mode=primary"
        ' error.error="AI_APICallError: Rate limit reached. Please try again in 600s"\n'.encode()
        for number in range(events)
    )


def judged(data: bytes, events: int) -> float:
    """Return the CPU seconds for classifying this number of messages alone."""
    line = data[data.rfind(b"\n", 0, -1) + 1 :].decode()
    text, rules = line.partition("AI_APICallError: ")[2].rstrip('"\n'), builtin()
    rules.classify(details_from_text(text))
    began = time.process_time()
    for number in range(events):
        rules.classify(details_from_text(f"{text}{number % 100}"))
    return time.process_time() - began


def classified(data: bytes) -> tuple[int, float]:
    """Read the log; return the number of events and the CPU seconds."""
    reading = Reading(builtin(), turns=True)
    reading.feed(data[:CHUNK])  # this compiles the expressions, which are compiled at their first use
    began, count = time.process_time(), 0
    for at in range(CHUNK, len(data), CHUNK):
        count += sum(isinstance(seen, LimitEvent) for seen in reading.feed(data[at : at + CHUNK]))
    return count, time.process_time() - began


def daemon(data: bytes) -> tuple[float, float, float, int]:
    """Return wall and CPU seconds until all is read, ms until the first limit is on disk, and the number of writes."""
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        home = Home(Path(scratch), "http://127.0.0.1:9")
        log = home.root / ".local/share/opencode/log/opencode.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        with contextlib.redirect_stdout(io.StringIO()), Daemon(home, chain={}) as running:
            blacklist, cursors = running.state / "blacklist.json", running.state / "cursors.json"
            began, cpu, first, writes, seen = time.monotonic(), cpu_seconds(running.pid), 0.0, 0, 0
            log.write_bytes(data)
            while _offset(cursors) < len(data):
                with contextlib.suppress(OSError):
                    mark = blacklist.stat().st_mtime_ns
                    if mark != seen:
                        seen, writes, first = mark, writes + 1, first or time.monotonic() - began
                time.sleep(0.001)
            return time.monotonic() - began, cpu_seconds(running.pid) - cpu, first * 1000, writes


def _offset(cursors: Path) -> int:
    """Return the daemon's position in the log, which it writes every two seconds."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
        places = json.loads(cursors.read_bytes())
        return max((int(place["offset"]) for place in _places(places)), default=0)
    return 0


def _places(value: object) -> list[dict[str, int]]:
    """Return every object with an offset, at any depth."""
    if not isinstance(value, dict):
        return []
    found = [value] if "offset" in value else []
    return found + [place for inner in value.values() for place in _places(inner)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Limits per second, and writes of the blacklist, in a limit storm.")
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    data = storm(events)
    cpu = judged(data, events)
    print(f"judged      {events} messages in {cpu:.2f} CPU s: {events / cpu:,.0f} a CPU second")
    count, cpu = classified(data)
    print(f"classified  {count} refusals in {cpu:.2f} CPU s: {count / cpu:,.0f} a CPU second")
    # a new storm, because limits older than ten seconds are handled as old ones
    wall, cpu, first, writes = daemon(storm(events))
    print(f"daemon      {wall:.1f} s until its cursor was at the end of the log, {cpu:.2f} CPU s")
    rate = writes / wall
    print(f"            first on disk after {first:.0f} ms; {writes} writes of the blacklist, {rate:.1f} a second")


if __name__ == "__main__":
    main()
