"""Measure the cost of reading a long log from its beginning, compared with other tools: CPU seconds per GB, peak
memory.

    python bench/catchup.py [--kinds new,old] [--mb 100,1000] [--rounds 3] [--per-gb 580] [--slow-mb 4] [--patterns]

`ocwatch classify --json` reports every limit; the peers that are installed (grep, ripgrep, mtail, fail2ban-regex) only
count lines. All read the same file from the page cache, in turn. A log without failures shows the cost of searching,
and one with 580 failures per gigabyte the cost of reporting. The slow peers (mtail, fail2ban-regex) read only the first
megabytes, and only once: the whole file would take them minutes to hours. With more than one size, the last row of a
kind is the cost of a further gigabyte, without the start. If it is not above the other rows, the cost is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import sample

OCWATCH = str(Path(sys.executable).parent / "ocwatch")
EXPRESSION = "stream error|rate_limit_error|overloaded_error|Too Many Requests"
FAIL2BAN = {
    "new": r'^.* message="stream error" .* session\.id=<F-ID>\S+</F-ID> ',
    "old": r"^.* service=llm .* sessionID=<F-ID>\S+</F-ID> .* stream error$",
}
EARLY = r"^.* service=<F-ID>session\S*</F-ID> .*error=.* stream(?:Text)? error$"
SLOW = ("mtail", "fail2ban-regex")
MTAIL = "counter limits\n/stream error|rate_limit_error|overloaded_error|Too Many Requests/ {\n  limits++\n}\n"


def peers(kind: str, log: Path, head: Path, scratch: Path) -> dict[str, list[str]]:
    """Return the commands of the installed tools: the fast ones read the whole log, the slow ones its first part."""
    (scratch / "progs").mkdir(exist_ok=True)
    (scratch / "progs/limits.mtail").write_text(MTAIL)
    calls = {
        "grep -cE": ["grep", "-cE", EXPRESSION, str(log)],
        "ripgrep --no-mmap": ["rg", "--no-mmap", "-c", EXPRESSION, str(log)],
        "mtail": ["mtail", "--one_shot", "--progs", str(scratch / "progs"), "--logs", str(head)],
        "fail2ban-regex": ["fail2ban-regex", "-d", "%Y-%m-%dT%H:%M:%S", str(head), FAIL2BAN.get(kind, EARLY)],
    }
    return {name: call for name, call in calls.items() if shutil.which(call[0])}


def spent(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Return the CPU seconds and the peak MiB of one run."""
    with tempfile.TemporaryFile() as output:  # grep stops at its first hit when it writes to /dev/null
        child = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.DEVNULL)
        _, _, used = os.wait4(child.pid, 0)
    child.returncode = 0
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return used.ru_utime + used.ru_stime, peak


def home(root: Path, patterns: int) -> dict[str, str]:
    """Return an environment whose configuration has this number of `errorPatterns`."""
    directory = root / f"home{patterns}" / ".config/opencode"
    directory.mkdir(parents=True, exist_ok=True)
    words = [f"(?:acme|corp) gateway {number:02} (?:is|was) (?:busy|full)" for number in range(patterns)]
    config = {"rateLimit": {"errorPatterns": words}}
    (directory / "rate-limit-config.json").write_text(json.dumps(config))
    return {"HOME": str(directory.parents[1]), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def table(kind: str, log: Path, failures: int, wanted: argparse.Namespace, scratch: Path) -> float:
    """Measure every tool on one log, print the rows, and return our CPU seconds."""
    size = log.stat().st_size
    head = scratch / "head.log"
    with log.open("rb") as file:
        head.write_bytes(file.read(min(size, wanted.slow_mb * 10**6)))
        while file.read(1 << 20):  # into the page cache
            pass
    ours = [OCWATCH, "classify", "--json", str(log)]
    calls = {"ocwatch classify": (ours, home(scratch, 0))}
    if failures and wanted.patterns:
        for number in (1, 20):
            calls[f"  {number} pattern{'s' if number > 1 else ''}"] = (ours, home(scratch, number))
    calls |= {name: (call, dict(os.environ)) for name, call in peers(kind, log, head, scratch).items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(wanted.rounds):
        for name, (command, environ) in calls.items():
            if name not in SLOW or (failures and not number):
                taken[name].append(spent(command, environ))
    medians = {name: statistics.median(cpu for cpu, _ in runs) for name, runs in taken.items() if runs}
    grep = medians.get("grep -cE", 0.0) / size
    print(f"\n{kind} log, {size / 1e6:.0f} MB, {failures} failures")
    print(f"{'':20} {'MB read':>8} {'CPU s':>8} {'s/GB':>8} {'x grep':>8} {'MiB':>6}")
    for name, cpu in medians.items():
        read = head.stat().st_size if name in SLOW else size
        ratio = f"{cpu / read / grep:.2f}" if grep else ""
        peak = max(peak for _, peak in taken[name])
        print(f"{name:20} {read / 1e6:8.0f} {cpu:8.2f} {cpu / read * 1e9:8.2f} {ratio:>8} {peak:6.1f}", flush=True)
    return medians["ocwatch classify"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="CPU seconds per gigabyte of log, beside grep, mtail and others.")
    kinds = ", ".join((*sample.KINDS, *sample.EARLY))
    parser.add_argument("--kinds", default=",".join(sample.KINDS), help=f"logs to read, of: {kinds}")
    parser.add_argument("--mb", default="100,1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-gb", type=int, default=580)
    parser.add_argument("--slow-mb", type=int, default=4, help="megabytes that mtail and fail2ban-regex read")
    parser.add_argument("--patterns", action="store_true", help="also measure with 1 and with 20 errorPatterns")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        for kind in wanted.kinds.split(","):
            for density in (0, wanted.per_gb):
                cost: dict[int, float] = {}
                for megabytes in map(int, wanted.mb.split(",")):
                    log = Path(scratch) / f"{kind}-{density}.log"
                    failures = sample.write(log, kind, megabytes, density)
                    cost[megabytes] = table(kind, log, failures, wanted, Path(scratch))
                    log.unlink()
                if len(cost) > 1:
                    slope = (cost[max(cost)] - cost[min(cost)]) / (max(cost) - min(cost)) * 1000
                    print(f"{'a further gigabyte':20} {'':8} {'':8} {slope:8.2f}")


if __name__ == "__main__":
    main()
