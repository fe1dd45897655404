"""Breaks the log tail, one fault at a time, and shows that its model test sees each: `python -m scripts.mutate_tail`.

Each mutant is a copy of the package with one line changed. One that survives, or whose line is no longer there, fails
the run; so does the unbroken tail if the test does not pass on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAIL, OPENLOG, LINES = "logs/tail.py", "logs/openlog.py", "core/lines.py"
EXAMPLES = "600"
PATIENCE = 300.0
"""Seconds that a test may take; the unbroken tail needs 25. A mutant that hangs is seen."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old`, which stands exactly once in the module, becomes `new`."""

    name: str
    module: str
    old: str
    new: str


MUTANTS = (
    Mutant("no inode check: a replaced file is not noticed", TAIL, "or here == log.identity:", "or True:"),
    Mutant(
        "no shrink check: a truncated file is not noticed",
        OPENLOG,
        "        if self.size < self._at:\n            return False\n",
        "        if self.size < self._at:\n            return True\n",
    ),
    Mutant(
        "no head check: truncated and refilled larger",
        OPENLOG,
        "        if os.pread(self._fd, len(self._head), 0) != self._head:\n            return False\n"
        "        return os.pread(self._fd, len(self._before), self._at - len(self._before)) == self._before\n",
        "        return True\n",
    ),
    Mutant("cursor behind the torn line", OPENLOG, "offset = self.reading.position\n", "offset = self._at\n"),
    Mutant("off by one: a byte is read twice", OPENLOG, "self._at += len(chunk)\n", "self._at += len(chunk) - 1\n"),
    Mutant("off by one: a byte is skipped", OPENLOG, "self._at += len(chunk)\n", "self._at += len(chunk) + 1\n"),
    Mutant("replaced file let go at once", TAIL, "REPLACED_KEPT = 8", "REPLACED_KEPT = 0"),
    Mutant("replaced file told after the new one", TAIL, "        self._drain_replaced(now, sightings)\n        if log", "        if log"),
    Mutant("file moved back is begun anew", TAIL, "self._taken_back(here) or self._begun(now)", "self._begun(now)"),
    Mutant("cursor believed without its digests", OPENLOG, "if _digest(head) != cursor.head or _digest(before) != cursor.before:", "if False:"),
    Mutant("cursor believed of any file", OPENLOG, "if (cursor.device, cursor.inode) != self.identity or cursor.offset > self.size:", "if cursor.offset > self.size:"),
    Mutant("cursor dropped while the file is away", TAIL, "self._window, self._catching_up = None, False", "self._window, self._catching_up, self._cursor = None, False, None"),
    Mutant("file renamed while it was closed is forgotten", TAIL, "            self._follow_renamed(cursor)\n", "            pass\n"),
    Mutant("parked file renamed is forgotten", TAIL, "            self._follow_renamed(place, before)\n", "            pass\n"),
    Mutant("parked file begun anew", TAIL, "if log.resume(place, RESUME_CAP):\n            log.adopt(before)", "if True:\n            pass"),
    Mutant("unfinished line told", LINES, 'end = data.rfind(b"\\n", begin) + 1 or begin', "end = len(data)"),
    Mutant("unfinished line forgotten", LINES, "        self._carry = data[done:]\n", '        self._carry = b""\n'),
    Mutant("deaf while the path is forbidden or a link in a circle", TAIL, "            self._trouble(error)\n            return\n        if here", "            self._current = None\n            return\n        if here"),
)  # fmt: skip


def survives(mutant: Mutant | None) -> str | None:
    """Why the run is to fail; None if the test saw the mutant (or passed, unbroken)."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        for part in ("ocwatchd", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "recorded"))
        if mutant is not None:
            module = copy / "ocwatchd" / mutant.module
            text = module.read_text()
            if text.count(mutant.old) != 1:
                return f"its line stands {text.count(mutant.old)} times in {mutant.module}: adapt the mutant"
            module.write_text(text.replace(mutant.old, mutant.new))
        passed = _test_passes(copy)
        if mutant is None:
            return None if passed else "the test fails on the unbroken tail"
        return "the test does not see it" if passed else None


def _test_passes(copy: Path) -> bool:
    environ = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "CI": "1",
        "TAIL_MODEL_EXAMPLES": EXAMPLES,
        "TAIL_MODEL_QUICK": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/edges/test_tail_model.py"]
    try:
        run = subprocess.run(
            command, cwd=copy, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if run.returncode not in (0, 1):
        raise RuntimeError(run.stdout + run.stderr)
    return run.returncode == 0


def main() -> None:
    """Every mutant, by name; the exit code says whether all were seen."""
    bad = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, why in zip((None, *MUTANTS), pool.map(survives, (None, *MUTANTS)), strict=True):
            bad += why is not None
            print(
                f"{'FAILED' if why else 'ok':6}  {mutant.name if mutant else 'unbroken'}{f': {why}' if why else ''}",
                flush=True,
            )
    print(f"{len(MUTANTS)} mutants, {bad} not as they should be")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
