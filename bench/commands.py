"""Measure the cost of each command from start to end: median CPU ms (user + system), compared with a bare Python.

    python bench/commands.py [--rounds 30]

The commands run in a private HOME with a blacklist of three models, a heartbeat and a configuration. They take turns,
and every round includes a bare `python -c pass`, so that the machine's load affects all of them equally.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocwatchd.clock import rfc3339

BIN = Path(sys.executable).parent
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "python -c 'import json'": ([sys.executable, "-c", "import json"], None),
    "ocwatch --version": ([str(BIN / "ocwatch"), "--version"], 25),
    "ocwatch pick p/a": ([str(BIN / "ocwatch"), "pick", "p/a"], 25),
    "ocwatch statusline": ([str(BIN / "ocwatch"), "statusline"], 25),
    "ocwatch status": ([str(BIN / "ocwatch"), "status"], 60),
    "ocwatch cooldowns": ([str(BIN / "ocwatch"), "cooldowns"], 60),
    "oc-smart --version": ([str(BIN / "oc-smart"), "--version"], 50),
    "ocwatch history": ([str(BIN / "ocwatch"), "history"], None),
    "ocwatch block p/a": ([str(BIN / "ocwatch"), "block", "p/a", "--for", "1h"], 100),
    "ocwatch clear q/z": ([str(BIN / "ocwatch"), "clear", "q/z"], 100),
    "ocwatch config check": ([str(BIN / "ocwatch"), "config", "check"], 100),
    "ocwatch forecast": ([str(BIN / "ocwatch"), "forecast"], 100),
    "ocwatch --help": ([str(BIN / "ocwatch"), "--help"], 100),
}
"""The command lines by name, each with its goal in CPU ms, or None."""


def home(root: Path) -> dict[str, str]:
    """Fill a HOME and return the environment that uses it. Its `opencode` is a program that ends immediately."""
    state = root / ".local/state/ocwatchd"
    config = root / ".config/opencode"
    for directory in (state, config, root / "bin"):
        directory.mkdir(parents=True)
    now, end = (rfc3339(time.time() + more) for more in (0, 3600))
    entry = {
        "kind": "rate_limit",
        "scope": "model",
        "since": now,
        "until": end,
        "strikes": 1,
        "reset_source": "retry-after",
    }
    blacklist = {"version": 1, "updated": now, "models": {f"p/{name}": entry for name in "abc"}}
    (state / "blacklist.json").write_text(json.dumps(blacklist))
    beat = {
        "version": 1,
        "pid": os.getpid(),
        "started": now,
        "beat": now,
        "following": [],
        "sessions": [],
        "health": [],
    }
    (state / "daemon.json").write_text(json.dumps(beat))
    chain = {"fallbackChain": {"p/a": ["p/b", "q/d"]}}
    (config / "rate-limit-config.json").write_text(json.dumps({"rateLimit": chain}))
    program = root / "bin/opencode"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    return {"HOME": str(root), "PATH": f"{root / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8"}


def cpu(command: list[str], environ: dict[str, str]) -> float:
    """Return the CPU time (user + system) of one run and its children, in milliseconds."""
    child = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(child.pid, 0)
    child.returncode = 0
    return (used.ru_utime + used.ru_stime) * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="CPU ms of each command, beside a bare Python.")
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        environ = home(Path(scratch))
        for number in range(rounds + 1):
            for name, (command, _) in COMMANDS.items():
                spent = cpu(command, environ)
                if number:  # Python compiles modules in the first round
                    taken[name].append(spent)
    bare = statistics.median(taken["python -c pass"])
    print(f"{'':26} {'CPU ms':>7} {'best':>7} {'x bare':>7} {'to reach':>9}   median of {rounds}")
    for name, spent in taken.items():
        limit = COMMANDS[name][1]
        median = statistics.median(spent)
        print(f"{name:26} {median:7.1f} {min(spent):7.1f} {median / bare:7.2f} {f'{limit:.0f}' if limit else '':>9}")


if __name__ == "__main__":
    main()
