"""Read a running process's use of CPU, memory and other resources from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
"""Clock ticks per second, the unit of the times in /proc/PID/stat."""


@dataclass(frozen=True)
class Thread:
    """CPU seconds of a thread so far (user + system, to the nanosecond), and the number of times it went to sleep
    voluntarily.
    """

    cpu: float = 0.0
    sleeps: int = 0


def threads(pid: int) -> dict[str, Thread]:
    """Return the current threads of a process by their id."""
    found: dict[str, Thread] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            cpu = int((task / "schedstat").read_text().split()[0]) / 1e9
            lines = (task / "status").read_text().splitlines()
            sleeps = sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
            found[task.name] = Thread(cpu, sleeps)
    return found


def status(pid: int) -> dict[str, str]:
    """Return the rows of /proc/PID/status by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds so far (user + system) of all threads, including those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
