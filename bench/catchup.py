"""What it costs to read a long log from its beginning: CPU seconds per gigabyte and peak memory, beside other tools.

    python bench/catchup.py [--mb 200] [--rounds 3] [--per-gb 580]

`ocwatch classify --json` names every limit; the peers only count lines (grep, ripgrep, mtail, fail2ban-regex), each
where it is installed. All read the same file, from the page cache, in turn; a quiet log without failures shows what
looking costs, one with 580 a gigabyte what telling costs. The last rows are 20 user patterns, and one.
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
MTAIL = "counter limits\n/stream error|rate_limit_error|overloaded_error|Too Many Requests/ {\n  limits++\n}\n"


def peers(log: Path, scratch: Path) -> dict[str, list[str]]:
    """The other tools that are installed, and how they are called."""
    (scratch / "progs").mkdir(exist_ok=True)
    (scratch / "progs/limits.mtail").write_text(MTAIL)
    calls = {
        "grep -cE": ["grep", "-cE", EXPRESSION, str(log)],
        "ripgrep": ["rg", "--no-mmap", "-c", EXPRESSION, str(log)],
        "mtail": ["mtail", "--one_shot", "--progs", str(scratch / "progs"), "--logs", str(log)],
        "fail2ban-regex": [
            "fail2ban-regex",
            "--print-no-missed",
            "--print-no-ignored",
            str(log),
            "<HOST>.*stream error",
        ],
    }
    return {name: call for name, call in calls.items() if shutil.which(call[0])}


def spent(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one run."""
    with tempfile.TemporaryFile() as output:  # grep that writes to /dev/null stops at its first hit
        child = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.DEVNULL)
        _, _, used = os.wait4(child.pid, 0)
    child.returncode = 0
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return used.ru_utime + used.ru_stime, peak


def home(root: Path, patterns: int) -> dict[str, str]:
    """An environment whose configuration has so many `errorPatterns`."""
    directory = root / f"home{patterns}" / ".config/opencode"
    directory.mkdir(parents=True)
    words = [f"(?:acme|corp) gateway {number:02} (?:is|was) (?:busy|full)" for number in range(patterns)]
    config = {"rateLimit": {"errorPatterns": words}}
    (directory / "rate-limit-config.json").write_text(json.dumps(config))
    return {"HOME": str(directory.parents[1]), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def table(kind: str, log: Path, failures: int, rounds: int, scratch: Path, slow: bool) -> None:
    """Measure every tool on one log, and print its rows."""
    size = log.stat().st_size
    with log.open("rb") as file:
        while file.read(1 << 20):
            pass
    ours = [OCWATCH, "classify", "--json", str(log)]
    calls = {"ocwatch classify": (ours, home(scratch / f"{kind}{failures}", 0))}
    if failures:
        for number in (1, 20):
            label = f"  {number} pattern{'s' if number > 1 else ''}"
            calls[label] = (ours, home(scratch / f"{kind}{failures}", number))
    others = peers(log, scratch)
    calls |= {
        name: (call, dict(os.environ)) for name, call in others.items() if slow or name in ("grep -cE", "ripgrep")
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (command, environ) in calls.items():
            taken[name].append(spent(command, environ))
    medians = {name: statistics.median(cpu for cpu, _ in runs) for name, runs in taken.items()}
    grep = medians.get("grep -cE", 0.0)
    print(f"\n{kind} log, {size / 1e6:.0f} MB, {failures} failures")
    print(f"{'':20} {'CPU s':>8} {'s/GB':>8} {'x grep':>8} {'MiB':>6}")
    for name, runs in taken.items():
        cpu, peak = medians[name], max(peak for _, peak in runs)
        ratio = f"{cpu / grep:.2f}" if grep else ""
        print(f"{name:20} {cpu:8.2f} {cpu / size * 1e9:8.2f} {ratio:>8} {peak:6.1f}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="CPU seconds per gigabyte of log, beside grep, mtail and others.")
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-gb", type=int, default=580)
    parser.add_argument("--slow", action="store_true", help="also mtail and fail2ban-regex, 70 - 1,500 CPU s/GB")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        for kind in sample.KINDS:
            for density in (0, wanted.per_gb):
                log = Path(scratch) / f"{kind}-{density}.log"
                failures = sample.write(log, kind, wanted.mb, density)
                table(kind, log, failures, wanted.rounds, Path(scratch), wanted.slow and density > 0)
                log.unlink()


if __name__ == "__main__":
    main()
