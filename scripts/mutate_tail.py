"""Break the log tail, one fault at a time, and report the faults that its tests miss: `python -m scripts.mutate_tail`.

Each mutant is a copy of the package with one line changed. The run fails if a mutant survives, if its line is no longer
in the module, or if the tests fail on the unchanged tail.
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
TAIL, OPENLOG, LINES = "logs/tail.py", "logs/log_file.py", "core/parsing/lines.py"
RECENT = "core/parsing/recent.py"
EXAMPLES = "600"
PATIENCE = 300.0
"""Timeout, in seconds, for the tests; the unchanged tail needs 25 s. A mutant that hangs counts as killed."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """The replacement of `old`, which occurs exactly once in the module, by `new`."""

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
        "the bytes read last are not checked: truncated and refilled larger",
        OPENLOG,
        "        if here == self._before:\n",
        "        if here:\n",
    ),
    Mutant("shortened in place: read anew, and all of it reported", OPENLOG, "            self._head = b\"\"\n            if self._found_again():", "            self._recent = Recent()\n            if False:"),
    Mutant("shortened in place: the last line read is not searched for", OPENLOG, "            if self._found_again():", "            if False:"),
    Mutant("shortened in place: continued before the last line read", OPENLOG, "return begin + at + len(last)\n", "return begin + at\n"),
    Mutant("shortened in place: parts of the last bytes are not searched for", OPENLOG, "        for size in range(len(start), MIN_FOUND - 1, -1):\n", "        for size in ():\n"),
    Mutant("shortened in place: lines read again are reported again", OPENLOG, "if not self._barrier.passes(seen):", "if False:"),
    Mutant("shortened in place: later lines are not reported", OPENLOG, "if not self._barrier.passes(seen):", "if True:"),
    Mutant("every line at the beginning of a file is taken for new", RECENT, "if time > self._until - DISORDER:", "if True:"),
    Mutant("no time of the last line that was read", OPENLOG, "            self._recent.reached(time)\n", "            pass\n"),
    Mutant("a file that replaces another inherits nothing from it", OPENLOG, "self._before, self._recent = before._before, before._recent.fork()", "pass"),
    Mutant("the copy is not read", TAIL, "        copy = self._follow_parked(log, copies_of(self.path))\n", "        copy = None\n"),
    Mutant("the copy is not read after a restart", TAIL, "self._follow_other(cursor, [*names, *copies_of(self.path)])", "self._follow_other(cursor, names)"),
    Mutant("the copy of a parked log that was deleted is not read", TAIL, "self._follow_parked(before, [*names, *copies_of(self.path)])", "self._follow_parked(before, names)"),
    Mutant("copies of the next log come before the log that was moved away", TAIL, "other.later = first is not None and begins is not None and begins > first", "other.later = False"),
    Mutant("what another file of the same log has reported is not known", RECENT, "other._reported = self._reported", "other._reported.events.extend(self._reported.events)"),
    Mutant("what another file of the same log has reported is forgotten in a storm", RECENT, "min(self._reported.since, until)", "NEVER"),
    Mutant("lifted by an event older than one that was reported", RECENT, "seen.time > self._newest", "seen.time > self._until"),
    Mutant("filtered by what was known before the files that are read first", OPENLOG, "        self._only_news = True\n", "        self._barrier = self._recent.barrier(2e9) if self._recent.known else None\n"),
    Mutant("begun anew before its copies are read to their ends", OPENLOG, "                if not ready:\n", "                if False:\n"),
    Mutant("a file is read before the one before it was read to its end", TAIL, "            if not self._more_replaced:\n", "            if True:\n"),
    Mutant("the beginning of an unfinished first line is not read", OPENLOG, "if cut >= 0 or first == 0 else start", "if cut >= 0 else start"),
    Mutant("what the run before the last one reported is forgotten", RECENT, "if self._told_until > self.until - DISORDER:", "if False:"),
    Mutant("any file beside it is a copy", OPENLOG, "return (same and here == last) or self._last_read() is not None", "return True"),
    Mutant("cursor after the unfinished line", OPENLOG, "offset = self.reading.position\n", "offset = self._at\n"),
    Mutant("cursor takes its digest from bytes that were replaced", OPENLOG, "if kept >= min(MIN_FOUND, offset):", "if False:"),
    Mutant("off by one: a byte is read twice", OPENLOG, "self._at += len(chunk)\n", "self._at += len(chunk) - 1\n"),
    Mutant("off by one: a byte is skipped", OPENLOG, "self._at += len(chunk)\n", "self._at += len(chunk) + 1\n"),
    Mutant("replaced file closed at once", TAIL, "REPLACED_KEPT = 8", "REPLACED_KEPT = 0"),
    Mutant("replaced file reported after the new one", TAIL, "        self._drain([log for log in self._replaced if not log.later], now, sightings)\n        if log", "        if log"),
    Mutant("file moved back is read anew", TAIL, "self._taken_back(here) or self._begun(now)", "self._begun(now)"),
    Mutant("cursor believed without its digest", OPENLOG, "if cursor.offset <= self.size and self._digest_before(cursor.offset, size) == cursor.before:", "if cursor.offset <= self.size:"),
    Mutant("cursor believed for any file", OPENLOG, "if (cursor.device, cursor.inode) != self.identity and size < MIN_FOUND:", "if False:"),
    Mutant("cursor dropped while the file is away", TAIL, "self._window, self._catching_up = None, False", "self._window, self._catching_up, self._cursor = None, False, None"),
    Mutant("file renamed while it was closed is forgotten", TAIL, "files_of_inode(self.path.parent, cursor.inode)\n", "[]\n"),
    Mutant("parked file renamed is forgotten", TAIL, "        names = files_of_inode(self.path.parent, before.identity[1])\n", "        names = []\n"),
    Mutant("parked file read anew", TAIL, "            log.adopt(before)  # OpenLog.read detects", "            pass  # OpenLog.read detects"),
    Mutant("unfinished line reported", LINES, 'end = data.rfind(b"\\n", begin) + 1 or begin', "end = len(data)"),
    Mutant("unfinished line forgotten", LINES, "        self._carry = data[done:]\n", '        self._carry = b""\n'),
    Mutant("file closed while the path is forbidden or a circular link", TAIL, "            self._trouble(error)\n            return\n        if here", "            self._current = None\n            return\n        if here"),
)  # fmt: skip


def survives(mutant: Mutant | None) -> str | None:
    """Return the reason why the mutant fails the run, or None if a test noticed it.

    Without a mutant, return None if the tests pass.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        for part in ("ocwatchd", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "recorded"))
        if mutant is not None:
            module = copy / "ocwatchd" / mutant.module
            text = module.read_text()
            if text.count(mutant.old) != 1:
                return f"its line occurs {text.count(mutant.old)} times in {mutant.module}: adapt the mutant"
            module.write_text(text.replace(mutant.old, mutant.new))
        passed = _test_passes(copy)
        if mutant is None:
            return None if passed else "the tests fail on the unchanged tail"
        return "no test notices it" if passed else None


def _test_passes(copy: Path) -> bool:
    environ = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "CI": "1",
        "TAIL_MODEL_EXAMPLES": EXAMPLES,
        "TAIL_MODEL_QUICK": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/integration/test_shortened.py",
        "tests/integration/test_tail_model.py",
    ]
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
    """Run every mutant and print the results. Exit with 1 if any result is not as expected."""
    bad = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, why in zip((None, *MUTANTS), pool.map(survives, (None, *MUTANTS)), strict=True):
            bad += why is not None
            print(
                f"{'FAILED' if why else 'ok':6}  {mutant.name if mutant else 'unchanged'}{f': {why}' if why else ''}",
                flush=True,
            )
    print(f"{len(MUTANTS)} mutants, {bad} not as they should be")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
